"""What a driver is given: arguments, input, environment, signals, descriptors, libraries (SPEC 3)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.agent import Agent
from tests.processes import environment, kill_session
from tests.servo import REPOSITORY
from tests.sources import made

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.servo import ServoDirectory

PHASES = ("info", "query", "adjust")

BUNDLED = REPOSITORY / "servo_agg" / "driverlib"

CHANGED = {"PYTHONPATH", "PYTHONUNBUFFERED", "OPTUNE_IO_TIMEOUT", "SERVO_AGG_START"}
"""The variables that a driver may find changed."""


def adjust(servo: ServoDirectory, *settings: str, env: Mapping[str, str | None] | None = None) -> None:
    """Run all three phases of an adjust."""
    operation = servo.agent(env=env).adjust("app", servo.request(*settings))
    assert operation.ok, operation.told()


def environment_of(servo: ServoDirectory, name: str, phase: str) -> dict[str, str]:
    """Return the environment that an `echo` driver got."""
    found: dict[str, str] = servo.echoed(name, phase)["environment"]
    return found


# --- arguments


@pytest.mark.parametrize(
    ("given", "phase", "passed_on"),
    [
        (["--info"], "info", ["--info"]),
        (["--info", "app"], "info", ["--info", "app"]),
        (["--version"], "info", ["--info"]),
        (["--version", "app"], "info", ["--info", "app"]),
        (["--query", "app"], "query", ["--query", "app"]),
        (["--describe", "app"], "query", ["--query", "app"]),
        (["app"], "query", ["--query", "app"]),
        (["app"], "adjust", ["app"]),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else words,
)
def test_spec_3_arguments(servo: ServoDirectory, given: list[str], phase: str, passed_on: list[str]) -> None:
    servo.add("echo", "echo")
    completed = servo.run(*given, input=json.dumps(servo.request("echo.cpu")).encode())
    assert completed.returncode == 0, completed
    assert servo.echoed("echo", phase)["argv"] == ["adjust.d/echo", *passed_on]


@pytest.mark.parametrize("app", ["$(touch x); 'a' \"b\" \\", "caf\u00e9", "\udcff", "*\n/"])
def test_spec_3_app_is_passed_on_unchanged(servo: ServoDirectory, app: str) -> None:
    servo.add("echo", "echo")
    operation = servo.agent().adjust(app, servo.request("echo.cpu"))
    assert operation.ok, operation.told()
    for phase, words in (("info", ["--info", app]), ("query", ["--query", app]), ("adjust", [app])):
        assert servo.echoed("echo", phase)["argv"][1:] == words


# --- standard input


@pytest.mark.parametrize("operation", ["--info", "--query", "--describe"])
def test_spec_3_stdin_is_empty_unless_it_is_an_adjust(servo: ServoDirectory, operation: str) -> None:
    """Even when ours is not: nothing of it reaches a driver."""
    servo.add("echo", "echo")
    completed = servo.run(operation, "app", input=b'{"application":{}}\n')
    assert completed.returncode == 0, completed
    assert servo.echoed("echo", "info" if operation == "--info" else "query")["stdin"] == ""


def test_spec_3_stdin_of_an_adjust_is_one_json_object(servo: ServoDirectory) -> None:
    servo.add("01", "echo")
    servo.add("02", "echo")
    adjust(servo, "01.cpu", "01.mem", "02.cpu")
    assert servo.echoed("01", "query")["stdin"] == ""
    for name, settings in (("01", ["cpu", "mem"]), ("02", ["cpu"])):
        given = json.loads(servo.echoed(name, "adjust")["stdin"])
        wanted = {"settings": {setting: {"value": 4} for setting in settings}}
        assert given == {"application": {"components": {name: wanted}}}


@pytest.mark.parametrize("closes", [False, True], ids=["never reads it", "closes it"])
@pytest.mark.parametrize("size", [10, 3_000_000])
def test_spec_3_a_driver_need_not_read_its_stdin(servo: ServoDirectory, size: int, closes: bool) -> None:
    servo.add("01deaf", "deaf", close="yes" if closes else "", seconds=0.1)
    servo.add("02plain", "plain")
    request = servo.request("01deaf.cpu", "02plain.cpu")
    request["control"] = {"userdata": "x" * size}
    operation = servo.agent().adjust("app", request)
    assert operation.ok, operation.told()
    assert {"progress": 25, "message": "01deaf: did not listen"} in operation.progress


def test_spec_3_three_megabytes_of_stdin_arrive(servo: ServoDirectory) -> None:
    servo.add("echo", "echo")
    request = servo.request("echo.cpu")
    request["control"] = {"userdata": "caf\u00e9 " + "x " * 1_500_000}
    operation = servo.agent().adjust("app", request, reader="block")
    assert operation.ok, operation.told()
    assert json.loads(servo.echoed("echo", "adjust")["stdin"]) == request


# --- environment


def test_spec_3_the_environment_is_ours_but_for_what_is_named(servo: ServoDirectory) -> None:
    odd = {"LC_ALL": "C.UTF-8", "ODD": "a=b\nc \u00e9 \udcff'", "EMPTY": "", "OPTUNE_IO_TIMEOUT": "60"}
    servo.add("echo", "echo")
    adjust(servo, "echo.cpu", env=odd)
    ours = {name: value for name, value in environment(servo.env, odd).items() if name not in CHANGED}
    for phase in PHASES:
        got = environment_of(servo, "echo", phase)
        assert {name: value for name, value in got.items() if name not in CHANGED} == ours
        assert got["PYTHONPATH"].split(":")[0] == str(servo.path)
        assert got["PYTHONUNBUFFERED"] == "1"
        assert got["OPTUNE_IO_TIMEOUT"] == "59"


def test_spec_3_a_variable_without_a_name_is_not_handed_on_and_hurts_nobody(servo: ServoDirectory) -> None:
    servo.add("plain", "plain")
    completed = subprocess.run(
        ["env", "=nameless", "./adjust", "--query", "app"],
        cwd=servo.path,
        env=environment(servo.env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        timeout=30,
        check=False,
    )
    assert completed.returncode == 0
    assert "plain" in json.loads(completed.stdout)["application"]["components"]


def variable(servo: ServoDirectory, name: str, env: Mapping[str, str | None]) -> str | None:
    """Return what a driver finds in variable `name`, None when it is not set."""
    servo.add_script("sh", f'#!/bin/sh\nprintf %s "${{{name}-unset}}" >new\nmv new "was.$1"\n')
    written = servo.path / "was.--query"
    # What becomes of the query is no matter here: with less than a second a busy machine may be too slow, now
    # and then even for the driver to come so far.
    for _ in range(5):
        servo.run("--query", "app", env=env)
        if written.exists():
            break
    text = written.read_text(encoding="utf-8")
    return None if text == "unset" else text


@pytest.mark.parametrize(
    ("before", "between"),
    [(None, []), ("", []), ("/a", ["/a"]), ("/a:rel:/b c", ["/a", "rel", "/b c"])],
    ids=["unset", "empty", "one", "several"],
)
def test_spec_3_pythonpath(servo: ServoDirectory, before: str | None, between: list[str]) -> None:
    path = variable(servo, "PYTHONPATH", {"PYTHONPATH": before})
    assert path is not None
    first, *middle, last = path.split(":")
    assert first == str(servo.path)
    assert [part for part in middle if part] == between
    assert Path(last).resolve() == BUNDLED
    assert (Path(last) / "adjust.py").is_file()
    assert (Path(last) / "util.py").is_file()


LOCALES = [
    (None, None),
    ("", ""),
    ("C", "C"),
    ("POSIX", "POSIX"),
    ("C.UTF-8", "C.UTF-8"),
]


@pytest.mark.parametrize(("before", "after"), LOCALES)
def test_spec_3_what_python_does_to_lc_ctype_stays_with_us(
    servo: ServoDirectory, before: str | None, after: str | None
) -> None:
    env = {"LC_ALL": None, "LANG": "C", "LC_CTYPE": before}
    assert variable(servo, "LC_CTYPE", env) == after


@pytest.mark.parametrize(("before", "after"), [LOCALES[0], LOCALES[-1]])
def test_spec_3_nor_does_a_driver_get_it_where_there_is_no_proc(
    servo: ServoDirectory, before: str | None, after: str | None
) -> None:
    source = """
        import builtins

        def opening(real):
            def call(path, *arguments, **more):
                if path == "/proc/self/environ":
                    raise FileNotFoundError(2, "No such file or directory", path)
                return real(path, *arguments, **more)
            return call

        builtins.open = opening(open)
    """
    env = {"LC_ALL": None, "LANG": "C", "LC_CTYPE": before, "PYTHONUTF8": None, **made(servo, source)}
    assert variable(servo, "LC_CTYPE", env) == after


@pytest.mark.parametrize(
    ("before", "after"), [(None, "1"), ("", "1"), ("1", "1"), ("yes", "yes"), ("0", "0")]
)
def test_spec_3_pythonunbuffered(servo: ServoDirectory, before: str | None, after: str) -> None:
    assert variable(servo, "PYTHONUNBUFFERED", {"PYTHONUNBUFFERED": before}) == after


def test_spec_3_progress_of_a_python_driver_that_never_flushes_comes_at_once(servo: ServoDirectory) -> None:
    """The driver does not end before its progress has been seen."""
    servo.add_script(
        "unflushed",
        """\
        #!/usr/bin/env python3
        import os, sys, time
        if sys.argv[1] == "--info":
            print('{"version": "1.0"}')
        elif sys.argv[1] == "--query":
            print('{"application": {"components": {"web": {"settings": {"cpu": {"value": 2}}}}}}')
        else:
            print('{"progress": 50, "message": "half way"}')
            while not os.path.exists("seen"):
                time.sleep(0.01)
            print('{"status": "ok"}')
        """,
    )
    with servo.agent().start_adjust("app", servo.request("web.cpu")) as running:
        running.wait_for_line(lambda line: line.get("message") == "unflushed: half way")
        (servo.path / "seen").touch()
        operation = running.finish()
    assert operation.ok, operation.told()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, None),
        ("", ""),
        ("0", "0"),
        ("1", "1"),
        ("2", "1"),
        ("3", "2"),
        ("30", "29"),
        (" 30 ", "29"),
        ("100000", "99999"),
        ("1.5", "1.5"),
        ("30.5", "30.5"),
    ],
)
def test_spec_3_optune_io_timeout_is_lowered_by_a_second_when_whole_and_above_one(
    servo: ServoDirectory, before: str | None, after: str | None
) -> None:
    assert variable(servo, "OPTUNE_IO_TIMEOUT", {"OPTUNE_IO_TIMEOUT": before}) == after


def test_spec_3_an_aggregator_inside_an_aggregator_times_out_first(servo: ServoDirectory) -> None:
    """Each level has a second less than the one above, in every phase."""
    inner = type(servo)(servo.path.parent, "inner")
    inner.add("deepest", "echo")
    servo.add_script("nested", f"#!/bin/sh\ncd '{inner.path}' && exec ./adjust \"$@\"\n")
    servo.add("other", "echo")
    adjust(servo, "deepest.cpu", "other.cpu", env={"OPTUNE_IO_TIMEOUT": "60"})
    for phase in PHASES:
        assert environment_of(servo, "other", phase)["OPTUNE_IO_TIMEOUT"] == "59"
        deepest = environment_of(inner, "deepest", phase)
        assert deepest["OPTUNE_IO_TIMEOUT"] == "58"
        assert deepest["SERVO_AGG_START"] != environment_of(servo, "other", phase)["SERVO_AGG_START"]


def test_spec_3_each_start_of_a_driver_has_a_value_of_its_own(servo: ServoDirectory) -> None:
    env = {"SERVO_AGG_START": "from outside"}
    for name in ("01", "02"):
        servo.add(name, "echo")
    adjust(servo, "01.cpu", "02.cpu", env=env)
    told = [environment_of(servo, name, phase) for name in ("01", "02") for phase in PHASES]
    servo.run("--query", "app", env=env)
    told += [environment_of(servo, name, "query") for name in ("01", "02")]
    values = ["from outside", *(one["SERVO_AGG_START"] for one in told)]
    assert all(values)
    assert len(set(values)) == len(values)


# --- session, signals, descriptors


def test_spec_3_each_driver_has_a_session_of_its_own(servo: ServoDirectory) -> None:
    servo.add("01", "echo")
    servo.add("02", "echo")
    with servo.agent().start_adjust("app", servo.request("01.cpu", "02.cpu")) as running:
        assert running.finish().ok
        program = running.pid
    told = [servo.echoed(name, phase) for name in ("01", "02") for phase in PHASES]
    assert all(one["pid"] == one["sid"] == one["pgid"] for one in told)
    assert len({program, *(one["sid"] for one in told)}) == 7


def run_with(servo: ServoDirectory, words: list[str], **how: Any) -> tuple[int, dict[str, str]]:
    """Run `./adjust`; return its exit status and what its own 0, 1 and 2 refer to."""
    with subprocess.Popen(
        ["./adjust", *words],
        cwd=servo.path,
        env=environment(servo.env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        **how,
    ) as process:
        try:
            pipes = [process.stdin, process.stdout, process.stderr]
            ours = {
                str(number): os.readlink(f"/proc/self/fd/{pipe.fileno()}")
                for number, pipe in enumerate(pipes)
                if pipe is not None
            }
            process.communicate(json.dumps(servo.request("01.cpu", "02.cpu")).encode(), 30)
        finally:
            if process.returncode is None:
                kill_session(process.pid)
    return process.returncode, ours


@pytest.mark.parametrize("words", [["--info"], ["--query", "app"], ["app"]], ids=" ".join)
def test_spec_3_a_driver_holds_three_descriptors_and_none_of_ours(
    servo: ServoDirectory, words: list[str]
) -> None:
    """Neither the agent's, nor what we were given beyond those, nor the pipes of another driver."""
    for name in ("01", "02"):
        servo.add(name, "echo")
    reading, writing = os.pipe()
    far = os.dup2(writing, 200)
    try:
        status, agents = run_with(servo, words, pass_fds=(reading, writing, far))
    finally:
        for descriptor in (reading, writing, far):
            os.close(descriptor)
    assert status == 0
    phases = {"--info": ["info"], "--query": ["query"], "app": ["query", "adjust"]}[words[0]]
    for phase in phases:
        for name in ("01", "02"):
            descriptors = servo.echoed(name, phase)["descriptors"]
            assert set(descriptors) == {"0", "1", "2"}
            assert not set(descriptors.values()) & set(agents.values())
            assert descriptors["1"] != descriptors["2"]


LAUNCHER = textwrap.dedent("""\
    import os, signal, sys
    how, numbers, command = sys.argv[1], sys.argv[2].split(","), sys.argv[3:]
    for number in map(int, numbers):
        if how == "blocked":
            signal.pthread_sigmask(signal.SIG_BLOCK, [number])
        else:
            signal.signal(number, signal.SIG_IGN)
    os.execv(command[0], command)
    """)
"""Starts a command with signals blocked or ignored; SIGPIPE is ignored by Python's doing anyway."""

SIGNALS = [1, 2, 3, 10, 12, 13, 14, 15, 17, 18, 20, 25, 28, 40, 64]
"""From SIGHUP and SIGINT by way of SIGPIPE, SIGTERM, SIGCHLD and SIGCONT to real-time signals."""


@pytest.mark.parametrize("how", ["blocked", "ignored"])
def test_spec_3_and_10_signals_that_we_were_started_without_reach_drivers(
    servo: ServoDirectory, how: str
) -> None:
    servo.add("01", "signals")
    servo.add("02", "echo")
    command = [sys.executable, "-c", LAUNCHER, how, ",".join(map(str, SIGNALS)), "./adjust"]
    agent = Agent(servo.path, command, env=servo.env)
    operation = agent.adjust("app", servo.request("01.cpu", "02.cpu"))
    assert operation.ok, operation.told()
    assert operation.reply is not None
    for state in ("blocked", "ignored"):
        mask = int(operation.reply[state], 16)
        # The C library has two or three for itself, which nobody else can set.
        assert [number for number in signal.valid_signals() if mask >> (number - 1) & 1] == []
    for phase in PHASES:
        told = servo.echoed("02", phase)
        assert told["blocked"] == []
        assert told["ignored"] == []


def test_spec_3_a_signal_that_the_agent_ignores_costs_no_exit_status(servo: ServoDirectory) -> None:
    """With SIGCHLD ignored the kernel itself would reap our drivers."""
    servo.add("01", "exit3")
    command = [sys.executable, "-c", LAUNCHER, "ignored", "17", "./adjust"]
    operation = Agent(servo.path, command, env=servo.env).adjust("app", servo.request("01.cpu"))
    assert operation.reply is not None
    assert "exited with status 3" in operation.reply["message"], operation.told()


def test_spec_3_the_umask_is_ours(servo: ServoDirectory) -> None:
    servo.add("01", "echo")
    servo.add("02", "echo")
    status, _ = run_with(servo, ["app"], preexec_fn=None, umask=0o027)
    assert status == 0
    assert servo.echoed("01", "adjust")["umask"] == 0o027


# --- libraries


def libraries(servo: ServoDirectory, env: Mapping[str, str | None]) -> set[str]:
    """Return where a driver's `import adjust` leads to, in each phase."""
    servo.add("echo", "echo")
    adjust(servo, "echo.cpu", env=env)
    return {str(Path(servo.echoed("echo", phase)["adjust_library"]).resolve()) for phase in PHASES}


def test_spec_3_a_driver_finds_the_bundled_library(servo: ServoDirectory) -> None:
    assert libraries(servo, {}) == {str(BUNDLED / "adjust.py")}


def test_spec_3_a_library_on_pythonpath_comes_before_the_bundled_one(servo: ServoDirectory) -> None:
    other = servo.path.parent / "other"
    other.mkdir()
    (other / "adjust.py").write_text("", encoding="utf-8")
    assert libraries(servo, {"PYTHONPATH": str(other)}) == {str(other / "adjust.py")}


def test_spec_3_the_servo_directorys_own_library_comes_before_all(servo: ServoDirectory) -> None:
    other = servo.path.parent / "other"
    other.mkdir()
    for directory in (other, servo.path):
        (directory / "adjust.py").write_text("", encoding="utf-8")
    assert libraries(servo, {"PYTHONPATH": str(other)}) == {str(servo.path / "adjust.py")}


def test_spec_3_a_driver_imports_from_the_servo_directory_and_from_adjust_d(servo: ServoDirectory) -> None:
    (servo.path / "encoders").mkdir()
    (servo.path / "encoders" / "base.py").write_text("VALUE = 2\n", encoding="utf-8")
    (servo.drivers / "own_module.py").write_text("SETTING = 'cpu'\n", encoding="utf-8")
    servo.add_script(
        "driver",
        """\
        #!/usr/bin/env python3
        import json, adjust, util
        from encoders.base import VALUE
        from own_module import SETTING
        print(json.dumps({"components": {"web": {"settings": {SETTING: {"value": VALUE}}}}}))
        """,
    )
    operation = servo.agent().describe("app")
    assert operation.reply == {"application": {"components": {"web": {"settings": {"cpu": {"value": 2}}}}}}


def test_spec_3_modules_of_the_servo_directory_are_the_drivers_and_not_ours(servo: ServoDirectory) -> None:
    """Nothing that we import ourselves comes from there, whatever its name."""
    for name in ("adjust", "util", "json", "config", "report", "yaml", "psutil", "process", "servo_agg"):
        (servo.path / f"{name}.py").write_text("raise SystemExit('not yours')\n", encoding="utf-8")
    servo.add("01", "plain")
    servo.configure("agg: {parallel: 1}")
    operation = servo.agent().adjust("app", servo.request("01.cpu"))
    assert operation.ok, operation.told()
    assert operation.stderr == b""
