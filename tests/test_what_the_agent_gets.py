"""What comes out of the program: one final object, exit status, streams, whatever goes wrong (SPEC 5)."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

import pytest

from tests.agent import Agent
from tests.processes import alive, children, environment, kill_session, wait_until
from tests.servo import REPOSITORY
from tests.sources import adjusting

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.agent import Running
    from tests.servo import Completed, ServoDirectory

MIB = 1 << 20

REQUEST: dict[str, Any] = {"application": {"components": {"web": {"settings": {"cpu": {"value": 4}}}}}}

INPUT = json.dumps(REQUEST).encode()


class Failure(NamedTuple):
    """A way to fail, and what the agent is to hear of it."""

    reason: str
    parts: list[str]
    """What the message names."""
    prepare: Callable[[ServoDirectory], object] = lambda _: None
    env: Mapping[str, str] = {}


def add(kind: str, **settings: object) -> Callable[[ServoDirectory], object]:
    """Return what adds a driver `other` of that kind."""
    return lambda servo: servo.add("other", kind, **settings)


IO_TIMEOUT = "OPTUNE_IO_TIMEOUT"

OF_QUERIES: dict[str, Failure] = {
    "a conflict": Failure("conflict", ["web", "cpu", "driver", "other"], add("plain", component="web")),
    "exit 3": Failure("exit-status", ["other", "with status 3", "cluster"], add("exit3", when="query")),
    "a crash": Failure("signal", ["other", "killed by SIGSEGV"], add("crash", when="query")),
    "malformed output": Failure("malformed", ["other", "Warning: the"], add("malformed", when="query")),
    "old style": Failure("exit-status", ["other", "i-0abc does not exist"], add("oldstyle", when="query")),
    "a timeout": Failure("timeout", ["other"], add("silent", when="query"), env={IO_TIMEOUT: "2"}),
    "no interpreter": Failure(
        "cannot-start", ["other", "/no/such"], lambda servo: servo.add_script("other", "#!/no/such/python\n")
    ),
}
"""What fails in a query, and so in an adjust too before any driver is adjusted."""


def check_failure(completed: Completed, failure: Failure) -> None:
    """Check what holds for every failure."""
    assert completed.returncode == 1, completed
    assert completed.stdout.endswith(b"\n")
    # ASCII, one compact object per line, the last of which is the only one that is no progress.
    lines = completed.stdout.decode("ascii").split("\n")[:-1]
    assert lines == [json.dumps(message, separators=(",", ":")) for message in completed.messages]
    reply = completed.reply
    assert (reply["status"], reply["reason"]) == ("failed", failure.reason), reply
    for part in failure.parts:
        assert part in reply["message"], reply
    for text in (completed.stdout, completed.stderr):
        assert "Traceback" not in text.decode("ascii")
    # No Python class name either (SPEC 13).
    assert not re.search(r"\w(Error|Exception)\b", reply["message"])


@pytest.fixture
def driver(servo: ServoDirectory) -> ServoDirectory:
    """Return a servo directory with a driver for web.cpu."""
    servo.add("driver", "plain", component="web")
    return servo


@pytest.mark.parametrize("failure", OF_QUERIES.values(), ids=OF_QUERIES.keys())
def test_spec_5_an_adjust_whose_query_fails_ends_in_one_final_object(
    driver: ServoDirectory, failure: Failure
) -> None:
    failure.prepare(driver)
    completed = driver.run("app", input=INPUT, env=failure.env)
    check_failure(completed, failure)
    assert completed.progress == [{"progress": 0, "message": "querying 2 drivers"}]
    assert driver.log(phase="adjust") == []


def test_spec_5_the_agent_understands_a_failure(driver: ServoDirectory) -> None:
    driver.add("driver", "exit3", component="web")
    operation = driver.agent().adjust("app", REQUEST)
    assert not operation.ok
    assert operation.protocol_error is None
    assert operation.returncode == 1
    assert operation.stderr_text == ""
    assert [line for _, line in operation.lines if b'"progress"' not in line] == [operation.lines[-1][1]]


# --- success


def test_spec_5_a_query_is_exactly_one_compact_ascii_object(servo: ServoDirectory) -> None:
    servo.add("caf\u00e9", "plain")
    operation = servo.agent().describe("app")
    assert operation.ok, operation.told()
    assert operation.returncode == 0
    assert len(operation.lines) == 1
    line = operation.lines[0][1].decode("ascii")
    assert line == json.dumps(operation.reply, separators=(",", ":")) + "\n"
    assert "progress" not in json.loads(line)
    assert operation.stderr == b""


def test_spec_5_an_adjust_is_progress_lines_and_one_final_object(servo: ServoDirectory) -> None:
    servo.add("caf\u00e9", "plain", reply='{"progress":100,"status":"ok","state":"caf\u00e9"}')
    completed = servo.run("app", input=json.dumps(servo.request("caf\u00e9.cpu")).encode())
    assert completed.returncode == 0
    assert completed.progress
    assert completed.reply["state"] == "caf\u00e9"
    lines = completed.stdout.decode("ascii").split("\n")
    assert lines == [*(json.dumps(one, separators=(",", ":")) for one in completed.messages), ""]
    assert completed.stderr == b""


def test_spec_5_describe_is_query(driver: ServoDirectory) -> None:
    driver.add("other", "plain", settings='"mem":{"value":1,"unit":"GiB"}')
    asked = [driver.run(word, "app") for word in ("--query", "--describe")]
    assert asked[0].returncode == asked[1].returncode == 0
    assert asked[0].stdout == asked[1].stdout


def test_spec_5_version_is_a_line_of_text(servo: ServoDirectory) -> None:
    for name, version in (("02", "2.1 beta"), ("01", "v1"), ("10", "0.3")):
        servo.add(name, "plain", version=version)
    completed = servo.run("--version")
    assert completed.returncode == 0
    assert completed.stdout == b"aggregator 2.0.0 (v1, 2.1 beta, 0.3)\n"
    assert completed.stderr == b""
    assert servo.run("--info").reply["version"] == "aggregator 2.0.0 (v1, 2.1 beta, 0.3)"


def test_spec_5_version_is_one_line_of_ascii_whatever_the_drivers_say(servo: ServoDirectory) -> None:
    for name, said in (
        ("01", r'{"version":"1.0\n(caf\u00e9)"}'),
        ("02", r'{"status":"failed","message":"caf\u00e9"}'),
    ):
        servo.add_script(name, f"#!/bin/sh\nprintf '%s\\n' '{said}'\n")
    completed = servo.run("--version")
    assert completed.returncode == 1
    assert completed.stdout.decode("ascii").count("\n") == 1
    assert completed.stdout.endswith(b", unknown)\n")
    assert "02: failed: caf" in completed.stderr.decode("ascii")


def test_spec_5_stderr_is_ascii_with_v_too(servo: ServoDirectory) -> None:
    warning = '{"status":"failed","message":"fa\u00e7ade"}'
    servo.add("caf\u00e9", "malformed", line=warning, when="query adjust")
    servo.add("na\u00efve", "noisy", bytes=12_000)
    agent = Agent(servo.path, ["./adjust", "-v"], env=servo.env)
    operation = agent.adjust("\u00fcber", servo.request("caf\u00e9.cpu", "na\u00efve.cpu"))
    assert operation.ok, operation.told()
    # As the agent would decode it, in pieces.
    assert "ade" in operation.stderr_text


NO_VERSION = "#!/bin/sh\necho '{}'\n"

INFO_FAILURES: dict[str, tuple[Callable[[ServoDirectory], object], str]] = {
    "exit 3": (add("exit3", when="info"), "exited with status 3"),
    "a crash": (add("crash", when="info"), "killed by SIGSEGV"),
    "malformed output": (add("malformed", when="info"), "Warning: the context was not set"),
    "old style": (add("oldstyle", when="info"), "i-0abc does not exist"),
    "no reply": (lambda servo: servo.add_script("other", "#!/bin/sh\n"), "gave no reply"),
    "no start": (lambda servo: servo.add_script("other", "#!/no/such/python\n"), "/no/such/python"),
    "no version": (lambda servo: servo.add_script("other", NO_VERSION), "version"),
}


@pytest.mark.parametrize(("prepare", "cause"), INFO_FAILURES.values(), ids=INFO_FAILURES.keys())
def test_spec_5_a_driver_that_fails_to_tell_its_version_counts_as_unknown(
    servo: ServoDirectory, prepare: Callable[[ServoDirectory], object], cause: str
) -> None:
    """--version exits 1 and says why on stderr, --info exits 0 and says why in its answer."""
    servo.add("01", "plain", version="1.1", has_cancel=True)
    servo.add("zz", "plain", version="9.9")
    prepare(servo)
    version = servo.run("--version")
    assert version.returncode == 1
    assert version.stdout == b"aggregator 2.0.0 (1.1, unknown, 9.9)\n"
    assert cause in version.stderr.decode("ascii")
    assert "other" in version.stderr.decode("ascii")
    info = servo.run("--info", "app")
    assert info.returncode == 0
    assert info.reply["version"] == "aggregator 2.0.0 (1.1, unknown, 9.9)"
    assert info.reply["has_cancel"] is True
    drivers = info.reply["drivers"]
    assert cause in drivers["other"].pop("message")
    assert drivers == {
        "01": {"version": "1.1", "has_cancel": True},
        "other": {"version": "unknown", "has_cancel": False},
        "zz": {"version": "9.9", "has_cancel": False},
    }


def test_spec_5_the_operation_that_follows_an_info_fails_with_the_cause(servo: ServoDirectory) -> None:
    """As three real drivers without their config.yaml; the agent shows nothing of a failing --info."""
    servo.add("01", "oldstyle", when="info query adjust")
    for operation in (servo.agent().describe("app"), servo.agent().adjust("app", servo.request("01.cpu"))):
        assert operation.reply is not None
        assert operation.reply["status"] == "failed"
        assert "i-0abc does not exist" in operation.reply["message"]


# --- stdin


def feed(servo: ServoDirectory, data: bytes, env: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
    """Adjust; unlike `subprocess` fail with BrokenPipeError when not all of the input is read."""
    with subprocess.Popen(
        ["./adjust", "app"],
        cwd=servo.path,
        env=environment(servo.env, env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        bufsize=0,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            view = memoryview(data)
            while view:
                view = view[process.stdin.write(view[:65536]) :]
            process.stdin.close()
            final = process.stdout.read().splitlines()[-1]
            process.wait(30)
        finally:
            if process.returncode is None:
                kill_session(process.pid)
    return process.returncode, json.loads(final)


UNREAD = {
    "no adjust.d": (Failure("no-adjust-d", [], lambda servo: shutil.rmtree(servo.drivers)), INPUT),
    "bad environment": (Failure("bad-environment", [], env={IO_TIMEOUT: "30s"}), INPUT),
    "bad configuration": (
        Failure("bad-configuration", [], lambda servo: servo.configure("agg: {parallel: -7}")),
        INPUT,
    ),
    "a failing query": (OF_QUERIES["exit 3"], INPUT),
    "unknown settings": (Failure("unknown-settings", []), INPUT.replace(b"web", b"db")),
    "no JSON": (Failure("bad-input", []), b"settings" + INPUT),
    "no UTF-8": (Failure("bad-input", []), b"\xff" + INPUT),
}


@pytest.mark.parametrize(("failure", "start"), UNREAD.values(), ids=UNREAD.keys())
def test_spec_5_stdin_is_read_to_its_end_even_when_we_fail(
    driver: ServoDirectory, failure: Failure, start: bytes
) -> None:
    failure.prepare(driver)
    status, final = feed(driver, start + b" " * (6 * MIB), failure.env)
    assert status == 1
    assert final["reason"] == failure.reason


def test_spec_5_stdin_is_read_to_its_end_even_when_it_is_too_long(driver: ServoDirectory) -> None:
    """The start of it would be no JSON either, so the size must be told from that."""
    status, final = feed(driver, INPUT + b" " * (40 * MIB), {})
    assert status == 1
    assert final["reason"] == "bad-input"
    assert "16 MiB" in final["message"]


def test_spec_7_1_an_input_of_16_mib_is_not_too_long(driver: ServoDirectory) -> None:
    status, final = feed(driver, INPUT + b" " * (16 * MIB - len(INPUT)), {})
    assert status == 0
    assert final["status"] == "ok"


# --- without what we need


def test_spec_5_adjust_parses_on_python_3_6() -> None:
    source = (REPOSITORY / "adjust").read_text(encoding="utf-8")
    assert ast.parse(source, feature_version=(3, 6))
    # What parses there but would be compiled otherwise, or not at all.
    assert "from __future__ import annotations" not in source


HIDING = """\
import os, sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in os.environ["HIDDEN"].split():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hide())
"""
"""A sitecustomize that makes modules unimportable; what it costs a driver does not matter."""


def without(servo: ServoDirectory, *modules: str) -> dict[str, str | None]:
    """Return the environment in which `modules` cannot be imported."""
    place = servo.path.parent / "hiding"
    place.mkdir(exist_ok=True)
    (place / "sitecustomize.py").write_text(HIDING, encoding="utf-8")
    return {"PYTHONPATH": str(place), "HIDDEN": " ".join(modules)}


def check_missing(completed: Completed, *parts: str) -> None:
    """Check the failure for want of something."""
    check_failure(completed, Failure("bad-environment", list(parts)))


@pytest.mark.parametrize("words", [["--info", "app"], ["--query", "app"], ["app"]], ids=" ".join)
def test_spec_5_without_the_package_the_final_object_says_how_to_install_it(
    driver: ServoDirectory, words: list[str]
) -> None:
    (driver.path / "adjust").unlink()
    shutil.copy(REPOSITORY / "adjust", driver.path)
    completed = driver.run(*words, input=INPUT, env=without(driver, "servo_agg"))
    check_missing(completed, "servo_agg", "pip install PATH-OR-URL-OF-SERVO-AGG")
    assert driver.log() == []


def test_spec_5_without_the_package_stdin_is_read_to_its_end(driver: ServoDirectory) -> None:
    env = {name: value for name, value in without(driver, "servo_agg").items() if value is not None}
    status, final = feed(driver, INPUT + b" " * (6 * MIB), env)
    assert status == 1
    assert final["reason"] == "bad-environment"


def test_spec_5_without_psutil_info_and_query_work(driver: ServoDirectory) -> None:
    agent = driver.agent(env=without(driver, "psutil", "yaml"))
    operation = agent.describe("app")
    assert operation.ok, operation.told()
    assert operation.reply is not None
    assert list(operation.reply["application"]["components"]) == ["web"]
    assert operation.stderr == b""


def test_spec_5_without_psutil_a_query_stops_a_driver_by_session(driver: ServoDirectory) -> None:
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
    completed = driver.run("--query", "app", env={**without(driver, "psutil"), "OPTUNE_IO_TIMEOUT": "4"})
    assert completed.returncode == 1
    assert completed.reply["reason"] == "timeout"
    members = [
        *driver.pids("silent", "leader", "child", "grandchild").values(),
        *driver.pids("other", "leader", "child").values(),
    ]
    assert [pid for pid in members if alive(pid)] == []


def test_spec_5_without_pyyaml_only_a_section_of_ours_is_refused(driver: ServoDirectory) -> None:
    env = without(driver, "yaml")
    driver.configure("k8s: {namespace: default}")
    assert driver.run("app", input=INPUT, env=env).returncode == 0
    driver.configure("agg: {parallel: 1}")
    for words in (["--info", "app"], ["--query", "app"], ["app"]):
        check_missing(driver.run(*words, input=INPUT, env=env), "PyYAML", "pip install")


# --- stdout


def run_redirected(servo: ServoDirectory, redirection: str, *words: str) -> tuple[int, bytes, bytes]:
    """Run `./adjust` with a redirection of the shell; return exit status, stdout and stderr."""
    with subprocess.Popen(
        ["/bin/sh", "-c", f'exec ./adjust "$@" {redirection}', "sh", *words],
        cwd=servo.path,
        env=environment(servo.env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(INPUT, 30)
        finally:
            if process.returncode is None:
                kill_session(process.pid)
    return process.returncode, stdout, stderr


WORDS = [["--info", "app"], ["--query", "app"], ["--version"], ["app"]]


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_spec_5_with_no_stdout_when_we_start_nothing_is_run(driver: ServoDirectory, words: list[str]) -> None:
    status, _, stderr = run_redirected(driver, ">&-", *words)
    assert status == 1
    assert b"Traceback" not in stderr
    assert driver.log() == []


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
@pytest.mark.parametrize("target", [">/dev/full", "1</dev/null"], ids=["full", "not for writing"])
def test_spec_5_stdout_that_cannot_take_our_bytes_means_exit_1(
    driver: ServoDirectory, words: list[str], target: str
) -> None:
    status, _, stderr = run_redirected(driver, target, *words)
    assert status == 1
    assert b"Traceback" not in stderr
    assert b"Exception" not in stderr


def test_spec_5_stdout_and_stdin_may_be_files(driver: ServoDirectory) -> None:
    (driver.path / "settings.json").write_bytes(INPUT)
    status, _, stderr = run_redirected(driver, "<settings.json >answer", "app")
    assert (status, stderr) == (0, b"")
    *_, final = (driver.path / "answer").read_text(encoding="ascii").splitlines()
    assert json.loads(final)["status"] == "ok"
    assert run_redirected(driver, "</dev/null >/dev/null", "--query", "app") == (0, b"", b"")


def test_spec_5_stdout_that_cannot_take_our_bytes_stops_the_drivers(servo: ServoDirectory) -> None:
    """The driver would take ten minutes."""
    servo.add("driver", "graceful", component="web", when="query")
    status, _, _ = run_redirected(servo, ">/dev/full", "app")
    assert status == 1
    assert servo.log(phase="adjust") == []


def test_spec_5_a_closed_stdin_is_an_empty_one(driver: ServoDirectory) -> None:
    status, stdout, _ = run_redirected(driver, "<&-", "--query", "app")
    assert status == 0
    assert b'"application"' in stdout
    status, stdout, _ = run_redirected(driver, "<&-", "app")
    assert status == 1
    assert json.loads(stdout)["reason"] == "bad-input"


def test_spec_5_a_closed_or_full_stderr_is_no_matter(driver: ServoDirectory) -> None:
    for redirection in ("2>&-", "2>/dev/full", "<&- 2>&-"):
        status, stdout, _ = run_redirected(driver, redirection, "-v", "--query", "app")
        assert status == 0
        assert b'"application"' in stdout


def leave(running: Running, what: str) -> None:
    """Close the agent's end of stdout, or of everything."""
    if what == "stdout":
        running.close_stdout()
    else:
        running.close_pipes()


def exit_status(running: Running) -> int | None:
    """Return the exit status of a program whose agent has gone, once it has exited."""
    wait_until(lambda: running.operation.returncode is not None, 20, "the program's exit")
    return running.finish().returncode


def logged(servo: ServoDirectory) -> list[tuple[str, str]]:
    """Return driver and reason of each adjust in the log."""
    lines = (servo.path / "agg.log").read_text(encoding="ascii").splitlines()
    entries = [json.loads(line) for line in lines]
    return [(entry["driver"], entry["reason"]) for entry in entries if entry["phase"] == "adjust"]


@pytest.mark.parametrize("what", ["stdout", "all pipes"])
def test_spec_5_when_the_agent_is_gone_in_a_query_the_drivers_are_stopped(
    servo: ServoDirectory, what: str
) -> None:
    """Noticed though the driver says nothing, so that there is no write that could fail."""
    servo.add("01", "graceful", when="query")
    with servo.agent().start_adjust("app", servo.request("01.cpu")) as running:
        running.wait_for_line(lambda line: "progress" in line)
        wait_until(lambda: servo.log(phase="query"), 10, "the driver's start")
        leave(running, what)
        assert exit_status(running) == 1
    # The driver would take ten minutes.
    assert servo.log(phase="adjust") == []


@pytest.mark.parametrize("what", ["stdout", "all pipes"])
def test_spec_5_when_the_agent_is_gone_a_driver_that_can_be_cancelled_is(
    servo: ServoDirectory, what: str
) -> None:
    servo.configure("agg: {grace: 0, log: agg.log}")
    servo.add("01", "cancelable", rollback=0.5)
    servo.add("02", "plain")
    with servo.agent().start_adjust("app", servo.request("01.cpu", "02.cpu")) as running:
        running.wait_for_line(lambda line: line.get("message") == "01: may be canceled")
        leave(running, what)
        assert exit_status(running) == 1
    assert [event.what for event in servo.log(phase="adjust")] == ["start", "SIGUSR1", "end"]
    assert logged(servo) == [("01", "rolled-back")]


def test_spec_5_when_the_agent_is_gone_another_driver_finishes_and_keeps_the_lock(
    servo: ServoDirectory,
) -> None:
    servo.configure("agg: {grace: 0, log: agg.log}")
    work = """echo '{"progress":1,"message":"at work"}'\nuntil [ -e go ]; do sleep 0.02; done\n"""
    servo.add_script("01", adjusting(work + """echo '{"status":"ok"}'"""))
    servo.add("02", "plain")
    with servo.agent().start_adjust("app", servo.request("web.cpu", "02.cpu")) as running:
        running.wait_for_line(lambda line: line.get("message") == "01: at work")
        running.close_pipes()
        request = json.dumps(servo.request("02.cpu")).encode()
        busy = servo.run("app", input=request, env={"OPTUNE_IO_TIMEOUT": "1"})
        assert busy.reply["reason"] == "busy"
        (servo.path / "go").touch()
        assert exit_status(running) == 1
    assert logged(servo) == [("01", "success")]


def test_spec_5_when_the_agent_is_gone_a_silent_driver_is_still_unresponsive(servo: ServoDirectory) -> None:
    servo.configure("agg: {log: agg.log}")
    servo.add("01", "silent")
    with servo.agent(env={"OPTUNE_IO_TIMEOUT": "4"}).start_adjust("app", servo.request("01.cpu")) as running:
        servo.pids("01", "leader")
        running.close_stdout()
        assert exit_status(running) == 1
    assert logged(servo) == [("01", "timeout")]


def test_spec_5_a_signal_stops_the_driver_that_the_agent_has_left(servo: ServoDirectory) -> None:
    servo.add("01", "graceful", when="adjust", rollback=0)
    with servo.agent().start_adjust("app", servo.request("01.cpu")) as running:
        running.wait_for_line(lambda line: line.get("message") == "01: may be terminated")
        running.close_stdout()
        wait_until(lambda: servo.log(phase="info"), 10, "our notice of the end of the agent")
        running.send_signal(signal.SIGTERM)
        assert exit_status(running) == 128 + signal.SIGTERM
    assert "SIGTERM" in [event.what for event in servo.log(phase="adjust")]


def test_spec_5_the_agents_end_is_noticed_while_stdout_is_blocked(servo: ServoDirectory) -> None:
    servo.configure("agg: {cancel_grace: 0, grace: 0}")
    servo.add("01", "flood", lines=100_000_000, has_cancel="true")
    with servo.agent().start_adjust("app", servo.request("01.cpu"), reader="block") as running:
        running.wait_for_line(lambda line: "line 1" in line.get("message", ""))
        running.stop_reading()
        running.close_pipes()
        assert exit_status(running) == 1


# --- the same by another name


def test_spec_5_python_m_servo_agg_is_the_same_program(driver: ServoDirectory) -> None:
    driver.add("other", "exit3", when="info adjust")
    command = [sys.executable, "-m", "servo_agg"]
    other = Agent(driver.path, command, env={**driver.env, "PYTHONPATH": str(REPOSITORY)})
    assert other.info("app") == driver.agent().info("app")
    assert other.describe("app").lines[0][1] == driver.agent().describe("app").lines[0][1]
    finals = []
    for agent in (other, driver.agent()):
        operation = agent.adjust("app", driver.request("web.cpu", "other.cpu"))
        assert operation.reply is not None
        assert operation.returncode == 1
        for told in operation.reply["drivers"].values():
            del told["seconds"]
        finals.append((operation.reply, operation.progress))
    assert finals[0] == finals[1]


def test_spec_5_python_m_servo_agg_knows_its_usage(driver: ServoDirectory) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "servo_agg", "--no-such-option"],
        cwd=driver.path,
        env=environment(driver.env, {"PYTHONPATH": str(REPOSITORY)}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        stdout, stderr = process.communicate(timeout=30)
    own = driver.run("--no-such-option")
    assert (process.returncode, stdout, stderr) == (2, own.stdout, own.stderr)


def test_a_stdin_that_does_not_block_is_waited_for(servo: ServoDirectory) -> None:
    servo.add("web", "plain")
    theirs, ours = os.pipe()
    os.set_blocking(theirs, False)
    with subprocess.Popen(
        ["./adjust", "app"],
        cwd=servo.path,
        env=environment(servo.env),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as program:
        os.close(theirs)
        # It has the guardian and so waits for stdin, which it found empty.
        wait_until(lambda: children(program.pid), 10, "its guardian")
        os.write(ours, json.dumps(servo.request("web.cpu")).encode())
        os.close(ours)
        stdout, stderr = program.communicate(timeout=20)
    assert json.loads(stdout.splitlines()[-1])["status"] == "ok", stderr


def test_a_version_is_bounded(servo: ServoDirectory) -> None:
    servo.add_script("01long", """#!/bin/sh\nprintf '{"version":"%03000000d"}' 0\n""")
    answer = servo.run("--info", "app").reply
    assert answer["drivers"]["01long"]["version"] == "0" * 997 + " ... (3000000 bytes in all)"
    assert answer["version"].endswith("bytes in all))")
