"""SPEC 3: what a driver gets: arguments, input, environment, signals, descriptors, libraries."""

from __future__ import annotations

import json
import os
import signal
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.agent import Agent
from tests.support.processes import environment
from tests.support.servo import REPOSITORY
from tests.support.sources import sitecustomize

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.servo import ServoDirectory

PHASES = ("info", "query", "adjust")

BUNDLED = REPOSITORY / "servo_agg" / "driverlib"

CHANGED = {"PYTHONPATH", "PYTHONUNBUFFERED", "OPTUNE_IO_TIMEOUT", "SERVO_AGG_START"}
"""The variables that may be changed for a driver."""


def adjust(servo: ServoDirectory, *settings: str, env: Mapping[str, str | None] | None = None) -> None:
    """Run all three phases of an adjust."""
    operation = servo.agent(env=env).adjust("app", servo.request(*settings))
    assert operation.ok, operation.summary()


def environment_of(servo: ServoDirectory, name: str, phase: str) -> dict[str, str]:
    """Return the environment of an `echo` driver."""
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
        (["app"], "adjust", ["app"]),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else words,
)
def test_arguments_and_stdin_of_each_phase(
    servo: ServoDirectory, given: list[str], phase: str, passed_on: list[str]
) -> None:
    servo.add("echo", "echo")
    completed = servo.run(*given, input=servo.request("echo.cpu"))
    assert completed.returncode == 0, completed
    echo = servo.echoed("echo", phase)
    assert echo["argv"] == ["adjust.d/echo", *passed_on]
    # Only an adjust gets input, though the program has some in each call here.
    assert bool(echo["stdin"]) == (phase == "adjust")


def test_app_is_passed_on_unchanged(servo: ServoDirectory) -> None:
    app = "$(touch x); 'a' \"b\" \\ caf\u00e9 \udcff *\n/"
    servo.add("echo", "echo")
    operation = servo.agent().adjust(app, servo.request("echo.cpu"))
    assert operation.ok, operation.summary()
    for phase, words in (("info", ["--info", app]), ("query", ["--query", app]), ("adjust", [app])):
        assert servo.echoed("echo", phase)["argv"][1:] == words


# --- standard input


def test_stdin_of_an_adjust_is_one_json_object(servo: ServoDirectory) -> None:
    servo.add("01", "echo")
    servo.add("02", "echo")
    adjust(servo, "01.cpu", "01.mem", "02.cpu")
    assert servo.echoed("01", "query")["stdin"] == ""
    for name, settings in (("01", ["cpu", "mem"]), ("02", ["cpu"])):
        given = json.loads(servo.echoed(name, "adjust")["stdin"])
        wanted = {"settings": {setting: {"value": 4} for setting in settings}}
        assert given == {"application": {"components": {name: wanted}}}


@pytest.mark.parametrize("closes", [False, True], ids=["never reads it", "closes it"])
@pytest.mark.parametrize("size", [10, 100_000])
def test_a_driver_need_not_read_its_stdin(servo: ServoDirectory, size: int, closes: bool) -> None:
    servo.add("01deaf", "deaf", close="yes" if closes else "", seconds=0.1)
    servo.add("02plain", "plain")
    request = servo.request("01deaf.cpu", "02plain.cpu")
    request["control"] = {"userdata": "x" * size}
    operation = servo.agent().adjust("app", request)
    assert operation.ok, operation.summary()
    assert {"progress": 25, "message": "01deaf: did not listen"} in operation.progress


# --- environment


def test_the_environment_is_ours_except_for_these_variables(servo: ServoDirectory) -> None:
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


def test_a_variable_without_a_name_is_not_passed_on(servo: ServoDirectory) -> None:
    servo.add("plain", "plain")
    completed = servo.run("--query", "app", prefix=["env", "=nameless"])
    assert completed.returncode == 0
    assert "plain" in completed.reply["application"]["components"]


def variable(servo: ServoDirectory, name: str, env: Mapping[str, str | None]) -> str | None:
    """Return what a driver finds in variable `name`, None when it is not set."""
    servo.add_script("sh", f'#!/bin/sh\nprintf %s "${{{name}-unset}}" >new\nmv new "was.$1"\n')
    written = servo.path / "was.--query"
    servo.run("--query", "app", env=env)
    text = written.read_text(encoding="utf-8")
    return None if text == "unset" else text


LOCALES = [
    (None, None),
    ("", ""),
    ("C", "C"),
    ("POSIX", "POSIX"),
    ("C.UTF-8", "C.UTF-8"),
]


@pytest.mark.parametrize(("before", "after"), LOCALES)
def test_python_changes_lc_ctype_only_for_the_program(
    servo: ServoDirectory, before: str | None, after: str | None
) -> None:
    env = {"LC_ALL": None, "LANG": "C", "LC_CTYPE": before}
    assert variable(servo, "LC_CTYPE", env) == after


@pytest.mark.parametrize(("before", "after"), [LOCALES[0], LOCALES[-1]])
def test_python_changes_lc_ctype_only_for_the_program_without_proc_too(
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
    env = {
        "LC_ALL": None,
        "LANG": "C",
        "LC_CTYPE": before,
        "PYTHONUTF8": None,
        **sitecustomize(servo, source),
    }
    assert variable(servo, "LC_CTYPE", env) == after


def test_progress_of_a_python_driver_that_never_flushes_arrives_at_once(servo: ServoDirectory) -> None:
    """The driver ends only when its progress has arrived."""
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
    with servo.start_adjust("web.cpu") as running:
        running.wait_for_line(lambda line: line.get("message") == "unflushed: half way")
        (servo.path / "seen").touch()
        operation = running.finish()
    assert operation.ok, operation.summary()


def test_servo_agg_start_is_unique_to_each_start(servo: ServoDirectory) -> None:
    env = {"SERVO_AGG_START": "from outside"}
    for name in ("01", "02"):
        servo.add(name, "echo")
    adjust(servo, "01.cpu", "02.cpu", env=env)
    echoes = [environment_of(servo, name, phase) for name in ("01", "02") for phase in PHASES]
    servo.run("--query", "app", env=env)
    echoes += [environment_of(servo, name, "query") for name in ("01", "02")]
    values = ["from outside", *(one["SERVO_AGG_START"] for one in echoes)]
    assert all(values)
    assert len(set(values)) == len(values)


# --- session, signals, descriptors


def test_each_driver_has_a_session_of_its_own(servo: ServoDirectory) -> None:
    servo.add("01", "echo")
    servo.add("02", "echo")
    with servo.agent().start_adjust("app", servo.request("01.cpu", "02.cpu")) as running:
        assert running.finish().ok
        program = running.pid
    echoes = [servo.echoed(name, phase) for name in ("01", "02") for phase in PHASES]
    assert all(one["pid"] == one["sid"] == one["pgid"] for one in echoes)
    assert len({program, *(one["sid"] for one in echoes)}) == 7


@pytest.mark.parametrize("words", [["--info"], ["--query", "app"], ["app"]], ids=" ".join)
def test_a_driver_holds_three_descriptors_and_none_of_ours(servo: ServoDirectory, words: list[str]) -> None:
    """It has no descriptor of the agent, of the program or of another driver."""
    for name in ("01", "02"):
        servo.add(name, "echo")
    reading, writing = os.pipe()
    inherited = (reading, writing, os.dup2(writing, 200))
    with servo.start(*words, input=None, pass_fds=inherited) as program:
        for descriptor in inherited:
            os.close(descriptor)
        pipes = (program.process.stdin, program.process.stdout, program.process.stderr)
        agents = {os.readlink(f"/proc/self/fd/{pipe.fileno()}") for pipe in pipes if pipe is not None}
        request = json.dumps(servo.request("01.cpu", "02.cpu")).encode()
        assert program.finish(request).returncode == 0
    for phase in {"--info": ["info"], "--query": ["query"], "app": ["query", "adjust"]}[words[0]]:
        for name in ("01", "02"):
            descriptors = servo.echoed(name, phase)["descriptors"]
            assert set(descriptors) == {"0", "1", "2"}
            assert not set(descriptors.values()) & agents
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
"""Starts a command with signals blocked or ignored; Python itself ignores SIGPIPE."""

SIGNALS = [1, 2, 3, 10, 12, 13, 14, 15, 17, 18, 20, 25, 28, 40, 64]
"""Among them SIGHUP, SIGINT, SIGPIPE, SIGTERM, SIGCHLD, SIGCONT and real-time signals."""


@pytest.mark.parametrize("how", ["blocked", "ignored"])
def test_drivers_start_with_a_clean_mask_and_default_dispositions(servo: ServoDirectory, how: str) -> None:
    servo.add("01", "signals")
    servo.add("02", "echo")
    command = [sys.executable, "-c", LAUNCHER, how, ",".join(map(str, SIGNALS)), "./adjust"]
    agent = Agent(servo.path, command, env=servo.env)
    operation = agent.adjust("app", servo.request("01.cpu", "02.cpu"))
    assert operation.ok, operation.summary()
    for state in ("blocked", "ignored"):
        mask = int(operation.reply[state], 16)
        # The C library reserves two or three signals, which nobody else can set.
        assert [number for number in signal.valid_signals() if mask >> (number - 1) & 1] == []
    for phase in PHASES:
        echoes = servo.echoed("02", phase)
        assert echoes["blocked"] == []
        assert echoes["ignored"] == []


def test_an_ignored_sigchld_does_not_lose_the_exit_status(servo: ServoDirectory) -> None:
    """With SIGCHLD ignored the kernel itself would reap the drivers."""
    servo.add("01", "exit3")
    command = [sys.executable, "-c", LAUNCHER, "ignored", "17", "./adjust"]
    operation = Agent(servo.path, command, env=servo.env).adjust("app", servo.request("01.cpu"))
    assert "exited with status 3" in operation.reply["message"], operation.summary()


def test_the_umask_is_ours(servo: ServoDirectory) -> None:
    servo.add("01", "echo")
    assert servo.adjust("01.cpu", umask=0o027).returncode == 0
    assert servo.echoed("01", "adjust")["umask"] == 0o027


# --- libraries


@pytest.mark.parametrize("where", ["bundled", "on PYTHONPATH", "servo directory"])
def test_own_libraries_come_before_the_bundled_one(servo: ServoDirectory, where: str) -> None:
    """The servo directory's `adjust.py` comes first, then one on PYTHONPATH, then ours."""
    other = servo.path.parent / "other"
    other.mkdir()
    found = {"bundled": BUNDLED, "on PYTHONPATH": other, "servo directory": servo.path}[where]
    if where != "bundled":
        (other / "adjust.py").write_text("", encoding="utf-8")
        (found / "adjust.py").write_text("", encoding="utf-8")
    servo.add("echo", "echo")
    adjust(servo, "echo.cpu", env={"PYTHONPATH": str(other)})
    libraries = {str(Path(servo.echoed("echo", phase)["adjust_library"]).resolve()) for phase in PHASES}
    assert libraries == {str(found / "adjust.py")}


def test_a_driver_imports_from_the_servo_directory_and_from_adjust_d(servo: ServoDirectory) -> None:
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
