"""What a machine may forbid, hide, hold up or lack, and what is promised there all the same (SPEC 5, 10).

machine/sitecustomize.py stands for such machines.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.processes import alive, children, environment, wait_until
from tests.sources import adjusting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.agent import Running
    from tests.servo import ServoDirectory

MACHINE = str(Path(__file__).resolve().parent / "machine")


def machine(words: str) -> dict[str, str | None]:
    """Return the environment of a run on such a machine."""
    return {"PYTHONPATH": MACHINE, "MACHINE": words}


def start(servo: ServoDirectory, words: str, *settings: str, io_timeout: int | None = None) -> Running:
    """Start an adjust there."""
    limit = None if io_timeout is None else str(io_timeout)
    agent = servo.agent(env={**machine(words), "OPTUNE_IO_TIMEOUT": limit})
    return agent.start_adjust("app", servo.request(*settings))


# A driver of another user.


@pytest.fixture
def others(servo: ServoDirectory) -> Iterator[ServoDirectory]:
    """Make a servo directory of 01root, which becomes a process of another user, and 02plain."""
    work = 'echo "leader $$ 01root" >>driver.pids\nuntil [ -e go ]; do sleep 0.05; done\n'
    (servo.path / "another-users").write_text(work + """echo '{"status":"ok"}'\n""", encoding="ascii")
    servo.add_script("01root", adjusting("exec sh ./another-users\n"))
    servo.add("02plain", "plain")
    servo.configure("agg: {grace: 0.3}")
    yield servo
    (servo.path / "go").touch()


def test_another_users_driver_that_falls_silent_is_unkillable(others: ServoDirectory) -> None:
    began = time.monotonic()
    with start(others, "forbids", "web.cpu", "02plain.cpu", io_timeout=4) as running:
        operation = running.finish(30)
    assert operation.reply is not None
    assert operation.reply["reason"] == "unkillable"
    assert "01root" in operation.reply["message"]
    assert operation.reply["drivers"]["02plain"] == {"status": "not-started"}
    assert time.monotonic() - began < 10


def test_another_users_driver_and_sigterm(others: ServoDirectory) -> None:
    with start(others, "forbids", "web.cpu", "02plain.cpu") as running:
        others.pids("01root", "leader")
        running.send_signal(signal.SIGTERM)
        operation = running.finish(30)
    assert operation.returncode == 128 + signal.SIGTERM
    assert operation.reply is not None
    assert (operation.reply["status"], operation.reply["reason"]) == ("terminated", "SIGTERM")
    assert operation.reply["drivers"]["01root"]["reason"] == "unkillable"


def test_another_users_driver_cannot_be_told_of_a_cancel_and_may_finish(others: ServoDirectory) -> None:
    source = (others.drivers / "01root").read_text(encoding="ascii")
    told = source.replace('"has_cancel":false', '"has_cancel":true').replace(
        "exit ;;", ": >asked; exit ;;", 1
    )
    others.add_script("01root", told)
    with start(others, "forbids", "web.cpu", "02plain.cpu") as running:
        others.pids("01root", "leader")
        running.send_signal(signal.SIGUSR1)
        wait_until((others.path / "asked").exists, 20, "the question whether it can be cancelled")
        (others.path / "go").touch()
        operation = running.finish(30)
    assert operation.reply is not None
    assert (operation.reply["status"], operation.reply["reason"]) == ("canceled", "SIGUSR1")
    assert operation.reply["drivers"]["01root"]["status"] == "ok"


@pytest.mark.parametrize(
    "words", [["--query", "app"], ["--check", "app", "--json"]], ids=lambda words: words[0]
)
def test_another_users_driver_in_a_query(others: ServoDirectory, words: list[str]) -> None:
    others.add_script("01root", "#!/bin/sh\nexec sh ./another-users\n")
    completed = others.run(*words, env={**machine("forbids"), "OPTUNE_IO_TIMEOUT": "2"})
    assert completed.returncode == 1
    assert b"could not be killed: 01root" in completed.stdout
    assert b"internal" not in completed.stdout


def test_what_a_signal_could_not_stop_in_a_query_is_named(others: ServoDirectory) -> None:
    others.add_script("01root", "#!/bin/sh\nexec sh ./another-users\n")
    process = subprocess.Popen(
        ["./adjust", "--query", "app"],
        cwd=others.path,
        env=environment(others.env, machine("forbids")),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    others.pids("01root", "leader")
    process.terminate()
    stdout, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    message = json.loads(stdout)["message"]
    assert "01root: failed: on --query: could not be killed" in message
    assert "all drivers were stopped" not in message


# Processes that /proc does not show.

HIDDEN = """\
import os, signal, time

signal.signal(signal.SIGTERM, lambda *_: open("asked", "w").close())
with open("driver.pids", "a") as pids:
    pids.write(f"child {os.getpid()} 01hides\\n")
while True:
    time.sleep(600)
"""


@pytest.fixture
def hiding(servo: ServoDirectory) -> ServoDirectory:
    """Make a servo directory of 01hides, whose child nobody can see, and 02plain."""
    (servo.path / "hidden").write_text(HIDDEN, encoding="ascii")
    servo.add_script("01hides", adjusting("python3 ./hidden </dev/null >/dev/null 2>&1 &\nexec sleep 600\n"))
    looks = """grep -qs 'State:.[RSDT]' /proc/$(cat child)/status && : >beside\necho '{"status":"ok"}'"""
    servo.add_script("02next", adjusting(looks, "db"))
    servo.configure("agg: {grace: 0.5}")
    return servo


@pytest.mark.parametrize("words", ["hides", "foreign"])
def test_a_hidden_child_has_its_grace_and_is_gone_before_the_next_driver(
    hiding: ServoDirectory, words: str
) -> None:
    with start(hiding, words, "web.cpu", "db.cpu", io_timeout=4) as running:
        child = hiding.pids("01hides", "child")["child"]
        (hiding.path / "child").write_text(str(child), encoding="ascii")
        operation = running.finish(30)
    assert (hiding.path / "asked").exists()
    assert not alive(child)
    assert not (hiding.path / "beside").exists()
    assert operation.reply is not None
    assert operation.reply["drivers"]["01hides"]["reason"] == "timeout"
    assert operation.reply["drivers"]["02next"]["status"] == "ok"


@pytest.mark.parametrize("words", ["hides", "foreign"])
def test_a_hidden_child_is_gone_when_we_are_killed(hiding: ServoDirectory, words: str) -> None:
    with start(hiding, words, "web.cpu") as running:
        child = hiding.pids("01hides", "child")["child"]
        running.send_signal(signal.SIGKILL)
        wait_until(lambda: not alive(child), 20, "end of the child")


# A look at /proc that blocks.


def test_a_look_that_blocks_holds_up_neither_signals_nor_the_answer(servo: ServoDirectory) -> None:
    """A process of somebody else hangs in exec: SIGTERM comes in time, and all is stopped as ever."""
    (servo.path / "hangs").write_text("until [ -e go ]; do sleep 0.05; done\n", encoding="ascii")
    servo.add("01graceful", "graceful", when="adjust", rollback=0)
    with (
        subprocess.Popen(["sh", "./hangs"], cwd=servo.path) as stuck,
        start(servo, "blocks", "01graceful.cpu", io_timeout=4) as running,
    ):
        running.wait_for_line(lambda message: message.get("message") == "01graceful: may be terminated")
        operation = running.finish(30)
        (servo.path / "go").touch()
        stuck.wait(20)
    assert [event.what for event in servo.log(phase="adjust")] == ["start", "SIGTERM", "end"]
    assert operation.reply is not None
    assert operation.reply["drivers"]["01graceful"]["reason"] == "timeout"
    # The agent has not given up before.
    assert not operation.gave_up


# psutil that stumbles.

PSUTIL = """\
class Error(Exception): ...
class NoSuchProcess(Error): ...
class Process:
    def __init__(self, pid): raise RuntimeError("no btime in /proc/stat")
def process_iter(): raise RuntimeError("no btime in /proc/stat")
"""


def test_a_psutil_that_stumbles_keeps_no_signal_from_its_process(servo: ServoDirectory) -> None:
    servo.add("01silent", "silent")
    (servo.path / "psutil.py").write_text(PSUTIL, encoding="ascii")
    agent = servo.agent(env={"PYTHONPATH": str(servo.path)})
    servo.configure("agg: {grace: 0.3}")
    with agent.start_adjust("app", servo.request("01silent.cpu")) as running:
        pids = servo.pids("01silent", "leader", "child", "grandchild")
        running.send_signal(signal.SIGTERM)
        operation = running.finish(30)
    assert not any(alive(pid) for pid in pids.values())
    assert operation.reply is not None
    assert operation.reply["reason"] == "SIGTERM"


# The guardian.


@pytest.mark.parametrize("words", ["no-null", "no-fd"])
def test_without_what_is_taken_for_granted_we_run_and_the_guardian_guards(
    servo: ServoDirectory, words: str
) -> None:
    servo.configure("agg: {grace: 0.3}")
    servo.add("01stubborn", "stubborn")
    assert servo.run("--query", "app", env=machine(words)).returncode == 0
    with start(servo, words, "01stubborn.cpu") as running:
        pids = servo.pids("01stubborn", "leader", "child", "grandchild")
        running.send_signal(signal.SIGKILL)
        wait_until(lambda: not any(alive(pid) for pid in pids.values()), 20, "end of the tree")


@pytest.mark.parametrize("closed", [0, 2])
def test_without_dev_null_a_closed_descriptor_is_an_empty_one(servo: ServoDirectory, closed: int) -> None:
    servo.add("01plain", "plain")
    done = subprocess.run(
        ["sh", "-c", f"exec ./adjust -v --query app {closed}<&-"],
        cwd=servo.path,
        env=environment(servo.env, machine("no-null")),
        stdout=subprocess.PIPE,
        check=True,
        timeout=30,
    )
    assert "application" in json.loads(done.stdout)


def guardian(servo: ServoDirectory, running: Running) -> int:
    """Return the only child that is no driver."""
    leader = servo.pids("01silent", "leader")["leader"]
    (found,) = (pid for pid in children(running.pid) if pid != leader)
    return found


def test_an_adjust_whose_guardian_has_ended_is_refused(servo: ServoDirectory) -> None:
    work = 'echo "leader $$ 01silent" >>driver.pids\nuntil [ -e go ]; do sleep 0.02; done\n'
    source = adjusting(": >adjusted\n").replace("--query) ", f"--query) {work}")
    servo.add_script("01silent", source)
    with servo.agent().start_adjust("app", servo.request("web.cpu")) as running:
        os.kill(guardian(servo, running), signal.SIGKILL)
        (servo.path / "go").touch()
        operation = running.finish(30)
    assert operation.reply is not None
    assert operation.reply["reason"] == "bad-environment"
    assert "guardian" in operation.reply["message"]
    assert not (servo.path / "adjusted").exists()


def test_a_guardian_that_ends_early_is_warned_of(servo: ServoDirectory) -> None:
    servo.add("01silent", "silent")
    with servo.agent().start_adjust("app", servo.request("01silent.cpu")) as running:
        os.kill(guardian(servo, running), signal.SIGKILL)
        wait_until(lambda: "guardian" in running.operation.stderr_text, 20, "a warning")
        running.send_signal(signal.SIGTERM)
        assert running.finish(30).returncode == 128 + signal.SIGTERM
