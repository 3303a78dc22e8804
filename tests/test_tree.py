"""Who is a process, whom a signal hits, and what happens to survivors (SPEC 10)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from servo_agg import processes
from servo_agg.lifecycle import PATIENCE, SHORT_PATIENCE, Life, Limits
from servo_agg.processes import MARK, Process, bearing, born, look, send
from servo_agg.tree import Glance, Tree, kill
from tests.processes import alive, wait_until
from tests.sources import adjusting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servo import ServoDirectory


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        ["sleep", "600"], env={**os.environ, MARK: "0123456789abcdef"}, start_new_session=True
    )
    # Its environment is its own once it has become sleep.
    wait_until(lambda: [one.pid for one in bearing({"0123456789abcdef"})] == [process.pid], 10, "the sleeper")
    yield process
    process.kill()
    process.wait()


def test_one_look_tells_all_that_is_needed_of_a_process(sleeper: subprocess.Popen[bytes]) -> None:
    found = look()[sleeper.pid]
    assert (found.parent, found.group, found.session) == (os.getpid(), sleeper.pid, sleeper.pid)
    assert not found.dead
    assert found.born == born(sleeper.pid)
    assert found.name() == f"sleep (pid {sleeper.pid})"


def test_psutil_tells_the_same_where_there_is_no_proc(sleeper: subprocess.Popen[bytes]) -> None:
    found = processes._look_by_psutil()[sleeper.pid]  # noqa: SLF001 - on Linux nothing else leads there
    assert (found.parent, found.group, found.session) == (os.getpid(), sleeper.pid, sleeper.pid)
    assert not found.dead
    assert processes._mark_by_psutil(sleeper.pid) == "0123456789abcdef"  # noqa: SLF001 - as above


def test_a_zombie_is_dead(sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.kill()
    wait_until(lambda: look()[sleeper.pid].dead, 10, "its death")


def test_a_signal_reaches_the_process_that_is_meant(sleeper: subprocess.Popen[bytes]) -> None:
    send([look()[sleeper.pid]], signal.SIGTERM)
    assert sleeper.wait(10) == -signal.SIGTERM


def test_no_signal_reaches_one_that_was_given_the_pid_of_another(sleeper: subprocess.Popen[bytes]) -> None:
    now = look()[sleeper.pid]
    before = Process(now.pid, now.born - 1, now.parent, now.group, now.session, dead=False, waiting=False)
    assert before != now
    send([before], signal.SIGKILL)
    assert alive(sleeper.pid)


def test_a_leader_whose_pid_is_anothers_by_now_has_no_tree(sleeper: subprocess.Popen[bytes]) -> None:
    tree = Tree(sleeper.pid, "another mark", born(sleeper.pid) - 1)
    assert not tree.look(Glance())
    tree.ask_leader()
    kill([tree])
    assert alive(sleeper.pid)


def test_who_is_merely_slow_to_die_is_not_beyond_us(sleeper: subprocess.Popen[bytes]) -> None:
    # A fresh one may still wait for the disk that it is read from.
    wait_until(lambda: not look()[sleeper.pid].beyond_us(), 10, "its sleep")
    stuck = Process(sleeper.pid, 0, 0, 0, 0, dead=False, waiting=True)
    assert stuck.beyond_us()


def test_what_dies_slowly_after_a_timeout_is_borne_with_once() -> None:
    life = Life(0, Limits(grace=3, short_grace=0.5))
    life.stop(0, 0.5, SHORT_PATIENCE)
    assert life.step(0.5, leader_gone=False, any_left=True) == "kill"
    assert life.step(0.7, leader_gone=False, any_left=True) == "give-up"
    assert life.bear_with()
    assert life.step(0.8, leader_gone=False, any_left=True) == "kill"
    assert life.step(0.5 + PATIENCE, leader_gone=False, any_left=True) == "give-up"
    assert not life.bear_with()


def test_a_process_that_clears_its_environment_is_known_by_its_session() -> None:
    command = [sys.executable, "-c", "import os; os.execve('/bin/sleep', ['sleep', '600'], {})"]
    with subprocess.Popen(command, start_new_session=True) as process:
        wait_until(lambda: look()[process.pid].name().startswith("sleep"), 10, "the sleeper")
        tree = Tree(process.pid, "whatever")
        tree.look(Glance())
        kill([tree])
        assert process.wait(10) == -signal.SIGKILL


HEADLESS = """
    import ctypes, os, signal, threading, time

    def work():
        while open(f"/proc/{os.getpid()}/stat").read().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
        with open("pid.new", "w") as file:
            file.write(str(os.getpid()))
        os.rename("pid.new", "pid")
        time.sleep(600)

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=work).start()
    ctypes.CDLL(None).pthread_exit(None)
"""
"""Its main thread ends, which the system shows as a zombie, and it goes on."""


@pytest.mark.parametrize(
    ("start", "end", "number"),
    [
        pytest.param("", "exec sleep 600", signal.SIGTERM, id="we-are-ended"),
        pytest.param("setsid ", "exec sleep 600", signal.SIGKILL, id="we-are-killed"),
        # Then it is known by its mark alone.
        pytest.param("setsid ", "kill -SEGV $$", None, id="the-driver-is-killed"),
    ],
)
def test_a_process_lives_as_long_as_any_of_its_threads(
    servo: ServoDirectory, start: str, end: str, number: int | None
) -> None:
    servo.configure("agg: {grace: 0.5}")
    (servo.path / "headless.py").write_text(textwrap.dedent(HEADLESS), encoding="utf-8")
    begin = f"{start}python3 headless.py </dev/null >/dev/null 2>&1 &"
    servo.add_script("01leaves", adjusting(f"{begin}\nuntil [ -e pid ]; do sleep 0.05; done\n{end}\n"))
    with servo.agent().start_adjust("app", servo.request("web.cpu")) as running:
        wait_until((servo.path / "pid").exists, 20, "the end of its main thread")
        pid = int((servo.path / "pid").read_text(encoding="ascii"))
        if number is not None:
            running.send_signal(number)
        running.finish()
    try:
        wait_until(lambda: not alive(pid), 20 if number == signal.SIGKILL else 0, "its end")
    finally:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
