"""SPEC 5 and 10 on machines that forbid, hide, delay or lack something.

machine/sitecustomize.py simulates such machines.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import alive, children, wait_until
from tests.support.servo import REPOSITORY
from tests.support.sources import adjust_script, with_constant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.agent import Running
    from tests.support.servo import ServoDirectory

MACHINE = str(REPOSITORY / "tests" / "support" / "machine")


def machine(words: str) -> dict[str, str | None]:
    """Return the environment that simulates such a machine."""
    return {"PYTHONPATH": MACHINE, "MACHINE": words}


def start(servo: ServoDirectory, words: str, *settings: str, io_timeout: int | None = None) -> Running:
    """Start an adjust on such a machine."""
    limit = None if io_timeout is None else str(io_timeout)
    return servo.start_adjust(*settings, env={**machine(words), "OPTUNE_IO_TIMEOUT": limit})


# A driver of another user.


@pytest.fixture
def others(servo: ServoDirectory) -> Iterator[ServoDirectory]:
    """Return a servo directory of 01root, which becomes a process of another user, and 02plain."""
    work = 'echo "leader $$ 01root" >>driver.pids\nuntil [ -e go ]; do sleep 0.05; done\n'
    (servo.path / "another-users").write_text(work + """echo '{"status":"ok"}'\n""", encoding="ascii")
    servo.add_script("01root", adjust_script("exec sh ./another-users\n"))
    servo.add("02plain", "plain")
    servo.configure("agg: {grace: 0.3}")
    yield servo
    (servo.path / "go").touch()


def test_a_silent_driver_of_another_user_is_unkillable(others: ServoDirectory) -> None:
    with start(others, "forbids", "web.cpu", "02plain.cpu", io_timeout=3) as running:
        operation = running.finish(30)
    assert operation.reply["reason"] == "unkillable"
    assert "01root" in operation.reply["message"]
    assert operation.reply["drivers"]["02plain"] == {"status": "not-started"}
    assert "02plain: starting" not in [line["message"] for line in operation.progress]


def test_a_driver_of_another_user_may_finish_on_a_cancel(others: ServoDirectory) -> None:
    source = (others.drivers / "01root").read_text(encoding="ascii")
    source = source.replace('"has_cancel":false', '"has_cancel":true').replace(
        "exit ;;", ": >asked; exit ;;", 1
    )
    others.add_script("01root", source)
    with start(others, "forbids", "web.cpu", "02plain.cpu") as running:
        others.pids("01root", "leader")
        running.send_signal(signal.SIGUSR1)
        wait_until((others.path / "asked").exists, 30, "its --info")
        (others.path / "go").touch()
        operation = running.finish(30)
    assert (operation.reply["status"], operation.reply["reason"]) == ("canceled", "SIGUSR1")
    assert operation.reply["drivers"]["01root"]["status"] == "ok"


@pytest.mark.parametrize(
    "words", [["--query", "app"], ["--check", "app", "--json"]], ids=lambda words: words[0]
)
def test_an_unkillable_driver_is_named_in_a_query(others: ServoDirectory, words: list[str]) -> None:
    others.add_script("01root", "#!/bin/sh\nexec sh ./another-users\n")
    completed = others.run(*words, env={**machine("forbids"), "OPTUNE_IO_TIMEOUT": "2"})
    assert completed.returncode == 1
    assert b"could not be killed: 01root" in completed.stdout
    assert b"internal" not in completed.stdout


@pytest.mark.parametrize("words", [["--query", "app"], ["app"]], ids=["query", "adjust"])
def test_what_a_signal_could_not_stop_is_named(others: ServoDirectory, words: list[str]) -> None:
    if words[0] == "--query":
        others.add_script("01root", "#!/bin/sh\nexec sh ./another-users\n")
    command = with_constant("servo_agg.drivers.timeouts.KILL_WAIT", 0.2)
    request = others.request("web.cpu")
    with others.start(*words, command=command, input=request, env=machine("forbids")) as program:
        others.pids("01root", "leader")
        program.send_signal(signal.SIGTERM)
        completed = program.finish()
    assert completed.returncode == 128 + signal.SIGTERM
    assert (completed.reply["status"], completed.reply["reason"]) == ("terminated", "SIGTERM")
    message = completed.reply["message"]
    assert re.match(
        r"terminated by SIGTERM(; 02plain had not answered --query for \d+\.\d s)?\n"
        r"01root: failed: (on --query: )?could not be killed: ",
        message,
    )


# Processes that /proc does not show.

HIDDEN = """\
import os, signal, time

signal.signal(signal.SIGTERM, lambda *_: open("terminated", "w").close())
with open("driver.pids", "a") as pids:
    pids.write(f"child {os.getpid()} 01hides\\n")
while True:
    time.sleep(600)
"""


@pytest.fixture
def hiding(servo: ServoDirectory) -> ServoDirectory:
    """Return a servo directory of 01hides, whose child is hidden, and 02next."""
    (servo.path / "hidden").write_text(HIDDEN, encoding="ascii")
    servo.add_script(
        "01hides", adjust_script("python3 ./hidden </dev/null >/dev/null 2>&1 &\nexec sleep 600\n")
    )
    check = """grep -qs 'State:.[RSDT]' /proc/$(cat child)/status && : >overlap\necho '{"status":"ok"}'"""
    servo.add_script("02next", adjust_script(check, "db"))
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
    assert (hiding.path / "terminated").exists()
    assert not alive(child)
    assert not (hiding.path / "overlap").exists()
    assert operation.reply["drivers"]["01hides"]["reason"] == "timeout"
    assert operation.reply["drivers"]["02next"]["status"] == "ok"


@pytest.mark.parametrize("words", ["hides", "foreign"])
def test_the_watchdog_stops_a_hidden_child(hiding: ServoDirectory, words: str) -> None:
    with start(hiding, words, "web.cpu") as running:
        child = hiding.pids("01hides", "child")["child"]
        running.send_signal(signal.SIGKILL)
        wait_until(lambda: not alive(child), 30, "end of the child")


# A read of /proc that blocks.


def test_a_blocked_read_of_proc_delays_neither_signals_nor_the_answer(servo: ServoDirectory) -> None:
    """A process that hangs in exec has this effect."""
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
    assert operation.reply["drivers"]["01graceful"]["reason"] == "timeout"
    assert not operation.gave_up


# Machines without pidfds, on which psutil sends signals to members.

PSUTIL = """\
class Error(Exception): ...
class NoSuchProcess(Error): ...
class Process:
    def __init__(self, pid): raise RuntimeError("no btime in /proc/stat")
def process_iter(): raise RuntimeError("no btime in /proc/stat")
"""


@pytest.mark.parametrize("psutil", ["sends", "fails"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_without_pidfds_a_tree_is_stopped_even_if_psutil_fails(
    servo: ServoDirectory, number: signal.Signals, psutil: str
) -> None:
    servo.add("01stubborn", "stubborn")
    if psutil == "fails":
        (servo.path / "psutil.py").write_text(PSUTIL, encoding="ascii")
    servo.configure("agg: {grace: 0.3}")
    environment = {"PYTHONPATH": f"{MACHINE}:{servo.path}", "MACHINE": "no-pidfd"}
    with servo.start_adjust("01stubborn.cpu", env=environment) as running:
        pids = servo.pids("01stubborn", "leader", "child", "grandchild")
        running.send_signal(number)
        running.finish(30)
        wait_until(lambda: not any(alive(pid) for pid in pids.values()), 30, "end of the tree")


# The watchdog.


@pytest.mark.parametrize("words", ["no-null", "no-fd"])
def test_the_watchdog_works_without_dev_null_or_a_list_of_descriptors(
    servo: ServoDirectory, words: str
) -> None:
    servo.configure("agg: {grace: 0.3}")
    servo.add("01stubborn", "stubborn")
    assert servo.run("--query", "app", env=machine(words)).returncode == 0
    with start(servo, words, "01stubborn.cpu") as running:
        pids = servo.pids("01stubborn", "leader", "child", "grandchild")
        running.send_signal(signal.SIGKILL)
        wait_until(lambda: not any(alive(pid) for pid in pids.values()), 30, "end of the tree")


@pytest.mark.parametrize("closed", [0, 2])
def test_without_dev_null_a_closed_descriptor_is_an_empty_one(servo: ServoDirectory, closed: int) -> None:
    servo.add("01plain", "plain")
    completed = servo.run("-v", "--query", "app", redirect=f"{closed}<&-", env=machine("no-null"))
    assert completed.returncode == 0
    assert "application" in completed.reply


def watchdog_of(servo: ServoDirectory, running: Running) -> int:
    """Return the only child that is not a driver."""
    leader = servo.pids("01silent", "leader")["leader"]
    (found,) = (pid for pid in children(running.pid) if pid != leader)
    return found


def test_an_adjust_whose_watchdog_has_ended_is_refused(servo: ServoDirectory) -> None:
    work = 'echo "leader $$ 01silent" >>driver.pids\nuntil [ -e go ]; do sleep 0.02; done\n'
    source = adjust_script(": >adjusted\n").replace("--query) ", f"--query) {work}")
    servo.add_script("01silent", source)
    with servo.start_adjust("web.cpu") as running:
        os.kill(watchdog_of(servo, running), signal.SIGKILL)
        (servo.path / "go").touch()
        operation = running.finish(30)
    assert operation.reply["reason"] == "bad-environment"
    assert "watchdog" in operation.reply["message"]
    assert not (servo.path / "adjusted").exists()


def test_the_end_of_the_watchdog_during_an_adjust_is_a_warning(servo: ServoDirectory) -> None:
    servo.add("01silent", "silent")
    with servo.start_adjust("01silent.cpu") as running:
        os.kill(watchdog_of(servo, running), signal.SIGKILL)
        wait_until(lambda: "watchdog" in running.operation.stderr_text, 30, "a warning")
        running.send_signal(signal.SIGTERM)
        assert running.finish(30).returncode == 128 + signal.SIGTERM
