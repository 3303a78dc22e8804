"""SPEC 5: the agent gets one final object and the exit status, whatever fails; and the streams."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import sys
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

import pytest

from tests.support.agent import Agent
from tests.support.processes import alive, blocked_on_write, children, wait_until
from tests.support.servo import REPOSITORY
from tests.support.sources import adjust_script, without_modules

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.agent import Running
    from tests.support.servo import Completed, ServoDirectory


REQUEST: dict[str, Any] = {"application": {"components": {"web": {"settings": {"cpu": {"value": 4}}}}}}

INPUT = json.dumps(REQUEST).encode()


class Failure(NamedTuple):
    """A way to fail, and what the agent must get."""

    reason: str
    parts: list[str]
    """What the message contains."""
    prepare: Callable[[ServoDirectory], object] = lambda _: None
    env: Mapping[str, str] = {}


def add(kind: str, **settings: object) -> Callable[[ServoDirectory], object]:
    """Return a function that adds a driver `other` of that kind."""
    return lambda servo: servo.add("other", kind, when="query", **settings)


IO_TIMEOUT = "OPTUNE_IO_TIMEOUT"

QUERY_FAILURES: dict[str, Failure] = {
    "a conflict": Failure("conflict", ["web", "cpu", "driver", "other"], add("plain", component="web")),
    "exit 3": Failure("exit-status", ["other", "with status 3", "cluster"], add("exit3")),
    "a crash": Failure("signal", ["other", "killed by SIGSEGV"], add("crash")),
    "malformed output": Failure("malformed", ["other", "Warning: the"], add("malformed")),
    "a timeout": Failure("timeout", ["other"], add("silent"), env={IO_TIMEOUT: "2"}),
}
"""They fail an adjust too, before any driver is adjusted."""


def check_failure(completed: Completed, failure: Failure) -> None:
    """Check what holds forevery failure."""
    assert completed.returncode == 1, completed
    assert completed.stdout.endswith(b"\n")
    # ASCII, one compact object per line; only the last one is not progress.
    lines = completed.stdout.decode("ascii").split("\n")[:-1]
    assert lines == [json.dumps(message, separators=(",", ":")) for message in completed.messages]
    reply = completed.reply
    assert (reply["status"], reply["reason"]) == ("failed", failure.reason), reply
    for part in failure.parts:
        assert part in reply["message"], reply
    for text in (completed.stdout, completed.stderr):
        assert "Traceback" not in text.decode("ascii")
    # No Python class name either (SPEC 13.1).
    assert not re.search(r"\w(Error|Exception)\b", reply["message"])


@pytest.fixture
def driver(servo: ServoDirectory) -> ServoDirectory:
    """Return a servo directory with a driver for web.cpu."""
    servo.add("driver", "plain", component="web")
    return servo


@pytest.mark.parametrize("failure", QUERY_FAILURES.values(), ids=QUERY_FAILURES.keys())
def test_an_adjust_whose_query_fails_ends_in_one_final_object(
    driver: ServoDirectory, failure: Failure
) -> None:
    failure.prepare(driver)
    completed = driver.run("app", input=INPUT, env=failure.env)
    check_failure(completed, failure)
    assert completed.progress == [{"progress": 0, "message": "querying 2 drivers"}]
    assert driver.log(phase="adjust") == []


# --- success


def test_a_query_is_exactly_one_compact_ascii_object(servo: ServoDirectory) -> None:
    servo.add("caf\u00e9", "plain")
    operation = servo.agent().describe("app")
    assert operation.ok, operation.summary()
    assert operation.returncode == 0
    assert len(operation.lines) == 1
    line = operation.lines[0][1].decode("ascii")
    assert line == json.dumps(operation.reply, separators=(",", ":")) + "\n"
    assert "progress" not in json.loads(line)
    assert operation.stderr == b""


def test_an_adjust_is_progress_lines_and_one_final_object(servo: ServoDirectory) -> None:
    servo.add("caf\u00e9", "plain", reply='{"progress":100,"status":"ok","state":"caf\u00e9"}')
    completed = servo.adjust("caf\u00e9.cpu")
    assert completed.returncode == 0
    assert completed.progress
    assert completed.reply["state"] == "caf\u00e9"
    lines = completed.stdout.decode("ascii").split("\n")
    assert lines == [*(json.dumps(one, separators=(",", ":")) for one in completed.messages), ""]
    assert completed.stderr == b""


def test_describe_is_query(driver: ServoDirectory) -> None:
    driver.add("other", "plain", settings='"mem":{"value":1,"unit":"GiB"}')
    asked = [driver.run(word, "app") for word in ("--query", "--describe")]
    assert asked[0].returncode == asked[1].returncode == 0
    assert asked[0].stdout == asked[1].stdout


def test_version_is_a_line_of_text(servo: ServoDirectory) -> None:
    for name, version in (("02", "2.1 beta"), ("01", "v1"), ("10", "0.3")):
        servo.add(name, "plain", version=version)
    completed = servo.run("--version")
    assert completed.returncode == 0
    assert completed.stdout == b"aggregator 2.0.0 (v1, 2.1 beta, 0.3)\n"
    assert completed.stderr == b""
    assert servo.run("--info").reply["version"] == "aggregator 2.0.0 (v1, 2.1 beta, 0.3)"


def test_version_is_one_line_of_ascii_whatever_the_drivers_print(servo: ServoDirectory) -> None:
    for name, output in (
        ("01", r'{"version":"1.0\n(caf\u00e9)"}'),
        ("02", r'{"status":"failed","message":"caf\u00e9"}'),
    ):
        servo.add_script(name, f"#!/bin/sh\nprintf '%s\\n' '{output}'\n")
    completed = servo.run("--version")
    assert completed.returncode == 1
    assert completed.stdout.decode("ascii").count("\n") == 1
    assert completed.stdout.endswith(b", unknown)\n")
    assert "02: failed: caf" in completed.stderr.decode("ascii")


def test_a_driver_whose_info_fails_has_version_unknown(servo: ServoDirectory) -> None:
    """--version exits 1 with the cause on stderr, --info exits 0 with the cause in its answer."""
    servo.add("01", "plain", version="1.1", has_cancel=True)
    servo.add("02", "exit3", when="info")
    servo.add("03", "plain", version="9.9")
    version = servo.run("--version")
    assert version.returncode == 1
    assert version.stdout == b"aggregator 2.0.0 (1.1, unknown, 9.9)\n"
    assert b"02: failed: " in version.stderr
    info = servo.run("--info", "app")
    assert info.returncode == 0
    assert info.reply["version"] == "aggregator 2.0.0 (1.1, unknown, 9.9)"
    assert info.reply["has_cancel"] is True
    drivers = info.reply["drivers"]
    assert "exited with status 3" in drivers["02"].pop("message")
    assert drivers == {
        "01": {"version": "1.1", "has_cancel": True},
        "02": {"version": "unknown", "has_cancel": False},
        "03": {"version": "9.9", "has_cancel": False},
    }


def test_the_operation_that_follows_an_info_fails_with_the_cause(servo: ServoDirectory) -> None:
    """Three real drivers fail like this without config.yaml; the agent does not show a failed --info."""
    servo.add("01", "oldstyle", when="info query adjust")
    for operation in (servo.agent().describe("app"), servo.agent().adjust("app", servo.request("01.cpu"))):
        assert operation.reply["status"] == "failed"
        assert "i-0abc does not exist" in operation.reply["message"]


# --- stdin


def remove_package(servo: ServoDirectory) -> None:
    """Replace `adjust` by a copy, which does not find the package beside it."""
    (servo.path / "adjust").unlink()
    shutil.copy(REPOSITORY / "adjust", servo.path)


UNREAD: dict[str, tuple[Failure, bytes]] = {
    "no adjust.d": (Failure("no-adjust-d", [], lambda servo: shutil.rmtree(servo.drivers)), INPUT),
    "bad environment": (Failure("bad-environment", [], env={IO_TIMEOUT: "30s"}), INPUT),
    "bad configuration": (
        Failure("bad-configuration", [], lambda servo: servo.configure("agg: {parallel: -7}")),
        INPUT,
    ),
    "a failing query": (QUERY_FAILURES["exit 3"], INPUT),
    "unknown settings": (Failure("unknown-settings", []), INPUT.replace(b"web", b"db")),
    "not JSON": (Failure("bad-input", []), b"settings" + INPUT),
    "no package": (Failure("bad-environment", [], remove_package, {"HIDDEN": "servo_agg"}), INPUT),
    "too long": (Failure("bad-input", ["16 MiB"]), INPUT + b" " * (34 << 20)),
}


@pytest.mark.parametrize(("failure", "start"), UNREAD.values(), ids=UNREAD.keys())
def test_stdin_is_read_to_its_end_even_when_the_run_fails(
    driver: ServoDirectory, failure: Failure, start: bytes
) -> None:
    failure.prepare(driver)
    with driver.start("app", input=None, env={**without_modules(driver), **failure.env}) as program:
        # Raises BrokenPipeError where not all of it is read.
        program.write(start + b" " * (6 << 20))
        completed = program.finish()
    assert completed.returncode == 1
    assert completed.reply["reason"] == failure.reason
    for part in failure.parts:
        assert part in completed.reply["message"]


def test_an_input_of_16_mib_is_not_too_long(driver: ServoDirectory) -> None:
    completed = driver.run("app", input=INPUT + b" " * ((16 << 20) - len(INPUT)))
    assert completed.reply["status"] == "ok"


def test_a_nonblocking_stdin_is_waited_for(driver: ServoDirectory) -> None:
    theirs, ours = os.pipe()
    os.set_blocking(theirs, False)
    with driver.start("app", stdin=theirs) as program:
        os.close(theirs)
        # Once it has the watchdog it reads stdin, which is empty.
        wait_until(lambda: children(program.pid), 30, "its watchdog")
        os.write(ours, INPUT)
        os.close(ours)
        assert program.finish().reply["status"] == "ok"


# --- missing packages


def test_adjust_parses_on_python_3_6() -> None:
    source = (REPOSITORY / "adjust").read_text(encoding="utf-8")
    assert ast.parse(source, feature_version=(3, 6))
    # This parses there but does not compile.
    assert "from __future__ import annotations" not in source


@pytest.mark.parametrize("words", [["--info", "app"], ["app"]], ids=" ".join)
def test_without_the_package_the_final_object_says_how_to_install_it(
    driver: ServoDirectory, words: list[str]
) -> None:
    remove_package(driver)
    completed = driver.run(*words, input=INPUT, env=without_modules(driver, "servo_agg"))
    check_failure(
        completed, Failure("bad-environment", ["servo_agg", "pip install PATH-OR-URL-OF-SERVO-AGG"])
    )
    assert driver.log() == []


def test_without_psutil_info_and_query_work(driver: ServoDirectory) -> None:
    agent = driver.agent(env=without_modules(driver, "psutil", "yaml"))
    operation = agent.describe("app")
    assert operation.ok, operation.summary()
    assert list(operation.reply["application"]["components"]) == ["web"]
    assert operation.stderr == b""


def test_without_psutil_a_query_stops_a_driver_by_session(driver: ServoDirectory) -> None:
    driver.add("silent", "silent", when="query")
    # A process group of its own inside the session, that ignores SIGTERM.
    driver.add_script(
        "other",
        """\
        #!/bin/sh
        . ./behave.sh
        misbehave_on query
        record leader $$
        trap '' TERM
        set -m
        sleep 600 &
        record child $!
        wait
        """,
    )
    completed = driver.run(
        "--query", "app", env={**without_modules(driver, "psutil"), "OPTUNE_IO_TIMEOUT": "3"}
    )
    assert completed.returncode == 1
    assert completed.reply["reason"] == "timeout"
    members = [
        *driver.pids("silent", "leader", "child", "grandchild").values(),
        *driver.pids("other", "leader", "child").values(),
    ]
    assert [pid for pid in members if alive(pid)] == []


def test_without_pyyaml_only_a_section_agg_is_refused(driver: ServoDirectory) -> None:
    env = without_modules(driver, "yaml")
    driver.configure("k8s: {namespace: default}")
    assert driver.run("app", input=INPUT, env=env).returncode == 0
    driver.configure("agg: {parallel: 1}")
    for words in (["--info", "app"], ["--query", "app"], ["app"]):
        completed = driver.run(*words, input=INPUT, env=env)
        check_failure(completed, Failure("bad-environment", ["PyYAML", "pip install"]))


# --- stdout


def test_stdout_and_stdin_may_be_files(driver: ServoDirectory) -> None:
    (driver.path / "settings.json").write_bytes(INPUT)
    completed = driver.run("app", redirect="<settings.json >answer")
    assert (completed.returncode, completed.stderr) == (0, b"")
    *_, final = (driver.path / "answer").read_text(encoding="ascii").splitlines()
    assert json.loads(final)["status"] == "ok"


def test_a_stdout_that_cannot_be_written_stops_the_drivers(servo: ServoDirectory) -> None:
    """The driver would take ten minutes."""
    servo.add("driver", "graceful", component="web", when="query")
    assert servo.run("app", input=INPUT, redirect=">/dev/full").returncode == 1
    assert servo.log(phase="adjust") == []


# --- an agent that is gone


def disconnect(running: Running, what: str) -> None:
    """Close the agent's end of stdout, or of everything."""
    if what == "stdout":
        running.close_stdout()
    else:
        running.close_pipes()


def exit_status(running: Running) -> int | None:
    """Return the exit status of a program whose agent is gone, once it has exited."""
    wait_until(lambda: running.operation.returncode is not None, 30, "the exit of the program")
    return running.finish().returncode


def logged(servo: ServoDirectory) -> list[tuple[str, str]]:
    """Return driver and reason of each adjust in the log."""
    lines = (servo.path / "agg.log").read_text(encoding="ascii").splitlines()
    entries = [json.loads(line) for line in lines]
    return [(entry["driver"], entry["reason"]) for entry in entries if entry["phase"] == "adjust"]


@pytest.mark.parametrize("what", ["stdout", "all pipes"])
def test_when_the_agent_is_gone_in_a_query_the_drivers_are_stopped(servo: ServoDirectory, what: str) -> None:
    """The driver prints nothing, so that no write can fail."""
    servo.add("01", "graceful", when="query")
    with servo.start_adjust("01.cpu") as running:
        running.wait_for_line(lambda line: "progress" in line)
        wait_until(lambda: servo.log(phase="query"), 30, "the driver's start")
        disconnect(running, what)
        assert exit_status(running) == 1
    # The driver would take ten minutes.
    assert servo.log(phase="adjust") == []


@pytest.mark.parametrize("what", ["stdout", "all pipes"])
def test_when_the_agent_is_gone_a_cancelable_driver_is_canceled(servo: ServoDirectory, what: str) -> None:
    servo.configure("agg: {grace: 0, log: agg.log}")
    servo.add("01", "cancelable", rollback=0.5)
    servo.add("02", "plain")
    with servo.start_adjust("01.cpu", "02.cpu") as running:
        running.wait_for_line(lambda line: line.get("message") == "01: may be canceled")
        disconnect(running, what)
        assert exit_status(running) == 1
    assert [event.what for event in servo.log(phase="adjust")] == ["start", "SIGUSR1", "end"]
    assert logged(servo) == [("01", "rolled-back")]


def test_when_the_agent_is_gone_another_driver_finishes_and_keeps_the_lock(
    servo: ServoDirectory,
) -> None:
    servo.configure("agg: {grace: 0, log: agg.log}")
    work = """echo '{"progress":1,"message":"at work"}'\nuntil [ -e go ]; do sleep 0.02; done\n"""
    servo.add_script("01", adjust_script(work + """echo '{"status":"ok"}'"""))
    servo.add("02", "plain")
    with servo.start_adjust("web.cpu", "02.cpu") as running:
        running.wait_for_line(lambda line: line.get("message") == "01: at work")
        running.close_pipes()
        request = json.dumps(servo.request("02.cpu")).encode()
        busy = servo.run("app", input=request, env={"OPTUNE_IO_TIMEOUT": "1"})
        assert busy.reply["reason"] == "busy"
        (servo.path / "go").touch()
        assert exit_status(running) == 1
    assert logged(servo) == [("01", "success")]


def test_when_the_agent_is_gone_a_silent_driver_is_still_unresponsive(servo: ServoDirectory) -> None:
    servo.configure("agg: {log: agg.log}")
    servo.add("01", "silent")
    with servo.start_adjust("01.cpu", env={"OPTUNE_IO_TIMEOUT": "3"}) as running:
        servo.pids("01", "leader")
        running.close_stdout()
        assert exit_status(running) == 1
    assert logged(servo) == [("01", "timeout")]


def test_when_the_agent_is_gone_a_signal_stops_the_driver(servo: ServoDirectory) -> None:
    servo.add("01", "graceful", when="adjust", rollback=0)
    with servo.start_adjust("01.cpu") as running:
        running.wait_for_line(lambda line: line.get("message") == "01: may be terminated")
        running.close_stdout()
        wait_until(lambda: servo.log(phase="info"), 30, "the check of has_cancel")
        running.send_signal(signal.SIGTERM)
        assert exit_status(running) == 128 + signal.SIGTERM
    assert "SIGTERM" in [event.what for event in servo.log(phase="adjust")]


def test_a_lost_agent_is_noticed_while_stdout_is_blocked(servo: ServoDirectory) -> None:
    servo.configure("agg: {cancel_grace: 0, grace: 0}")
    servo.add("01", "flood", lines=100_000_000, has_cancel="true")
    with servo.start_adjust("01.cpu", reader="block") as running:
        running.wait_for_line(lambda line: "line 1" in line.get("message", ""))
        running.stop_reading()
        running.close_pipes()
        assert exit_status(running) == 1


# --- python -m servo_agg


def test_python_m_servo_agg_is_the_same_program(driver: ServoDirectory) -> None:
    driver.add("other", "exit3", when="info adjust")
    command = [sys.executable, "-m", "servo_agg"]
    other = Agent(driver.path, command, env={**driver.env, "PYTHONPATH": str(REPOSITORY)})
    assert other.info("app") == driver.agent().info("app")
    assert other.describe("app").lines[0][1] == driver.agent().describe("app").lines[0][1]
    finals = []
    for agent in (other, driver.agent()):
        operation = agent.adjust("app", driver.request("web.cpu", "other.cpu"))
        assert operation.returncode == 1
        for entry in operation.reply["drivers"].values():
            del entry["seconds"]
        finals.append((operation.reply, operation.progress))
    assert finals[0] == finals[1]


def test_python_m_servo_agg_has_the_same_usage(driver: ServoDirectory) -> None:
    env = {"PYTHONPATH": str(REPOSITORY)}
    module = driver.run("--no-such-option", command=[sys.executable, "-m", "servo_agg"], env=env)
    program = driver.run("--no-such-option")
    assert (module.returncode, module.stdout, module.stderr) == (2, program.stdout, program.stderr)


def test_a_version_is_bounded(servo: ServoDirectory) -> None:
    servo.add_script("01long", """#!/bin/sh\nprintf '{"version":"%03000000d"}' 0\n""")
    answer = servo.run("--info", "app").reply
    assert answer["drivers"]["01long"]["version"] == "0" * 997 + " ... (3000000 bytes in all)"
    assert answer["version"].endswith("bytes in all))")


def test_lines_are_whole_where_stdout_and_stderr_are_one_pipe(servo: ServoDirectory) -> None:
    """SPEC 5.2. The pipe is full before the first of them is read."""
    servo.add_script(
        "01talks",
        adjust_script("""\
        text=$(head -c 5000 /dev/zero | tr '\\0' x)
        for i in $(seq 100); do echo "$text" >&2; echo "{\\"progress\\":$i,\\"message\\":\\"$text\\"}"; done
        echo '{"status":"ok"}'
        """),
    )
    os.mkfifo(servo.path / "pipe")
    read_end = os.open(servo.path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    request = servo.request("web.cpu")
    with (
        servo.start("-v", "app", input=request, redirect=">pipe 2>&1") as program,
        open(read_end, encoding="ascii") as pipe,
    ):
        wait_until(lambda: blocked_on_write(program.pid), 20, "a full pipe")
        os.set_blocking(read_end, True)
        lines = pipe.read().splitlines()
        program.finish()
    assert {line[:1] for line in lines} == {"[", "{", "0"}
    assert {line for line in lines if line[0] == "0"} == {f"01talks: {'x' * 5000}"}
    assert [json.loads(line) for line in lines if line[0] == "{"][-1]["status"] == "ok"
