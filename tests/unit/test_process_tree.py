"""SPEC 10.5-10.26: what a snapshot shows, which process a signal reaches, and what belongs to a tree."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from servo_agg.processes import snapshot
from servo_agg.processes.snapshot import Process, start_time, take_snapshot
from servo_agg.processes.start_token import START_TOKEN, new_token, processes_with_tokens
from servo_agg.processes.tree import Snapshot, Tree, discover_members, kill_trees, send_signal
from tests.support.processes import alive, wait_until
from tests.support.sources import adjust_script

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servo import ServoDirectory


TOKEN = new_token()
"""Of this process alone: several of them run these tests at a time."""


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        ["sleep", "600"], env={**os.environ, START_TOKEN: TOKEN}, start_new_session=True
    )
    # It has its own environment once it executes sleep.
    wait_until(
        lambda: [one.pid for one in processes_with_tokens({TOKEN})] == [process.pid],
        10,
        "the sleeper",
    )
    yield process
    process.kill()
    process.wait()


def test_a_snapshot_shows_parent_group_session_and_start_time(sleeper: subprocess.Popen[bytes]) -> None:
    found = take_snapshot()[sleeper.pid]
    assert (found.parent, found.group, found.session) == (os.getpid(), sleeper.pid, sleeper.pid)
    assert not found.is_zombie
    assert found.start_time == start_time(sleeper.pid)
    assert found.name() == f"sleep (pid {sleeper.pid})"


def test_psutil_shows_the_same_without_proc(sleeper: subprocess.Popen[bytes]) -> None:
    found = snapshot._snapshot_by_psutil()[sleeper.pid]  # noqa: SLF001 - on Linux no other function calls it
    assert (found.parent, found.group, found.session) == (os.getpid(), sleeper.pid, sleeper.pid)
    assert not found.is_zombie
    assert snapshot._variable_by_psutil(sleeper.pid, START_TOKEN) == TOKEN  # noqa: SLF001 - as above


def test_a_killed_process_is_a_zombie_until_it_is_reaped(sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.kill()
    wait_until(lambda: take_snapshot()[sleeper.pid].is_zombie, 10, "its death")


def test_a_signal_reaches_its_process(sleeper: subprocess.Popen[bytes]) -> None:
    send_signal([take_snapshot()[sleeper.pid]], signal.SIGTERM)
    assert sleeper.wait(10) == -signal.SIGTERM


def test_a_signal_does_not_reach_a_process_that_reuses_the_pid(sleeper: subprocess.Popen[bytes]) -> None:
    now = take_snapshot()[sleeper.pid]
    before = Process(
        now.pid,
        now.start_time - 1,
        now.parent,
        now.group,
        now.session,
        is_zombie=False,
        uninterruptible=False,
    )
    assert before != now
    send_signal([before], signal.SIGKILL)
    assert alive(sleeper.pid)


def test_a_leader_whose_pid_was_reused_has_no_tree(sleeper: subprocess.Popen[bytes]) -> None:
    tree = Tree(sleeper.pid, "another token", leader_start=start_time(sleeper.pid) - 1)
    assert not tree.discover(Snapshot())
    tree.terminate_leader()
    kill_trees([tree])
    assert alive(sleeper.pid)


def test_only_an_uninterruptible_process_is_unkillable(sleeper: subprocess.Popen[bytes]) -> None:
    # A new process may still wait for the disk.
    wait_until(lambda: not take_snapshot()[sleeper.pid].is_unkillable(), 10, "its sleep")
    stuck = Process(sleeper.pid, 0, 0, 0, 0, is_zombie=False, uninterruptible=True)
    assert stuck.is_unkillable()


SPAWN = """
    import os, sys

    def spawn():
        opens = (os.POSIX_SPAWN_OPEN, 0, sys.argv[1], os.O_RDONLY, 0)
        os.posix_spawnp("sleep", ["sleep", "600"], os.environ, file_actions=[opens])

"""
"""Waits until its child executes sleep, and the child waits until the FIFO has a writer."""


@pytest.mark.parametrize(
    "spawn", ["spawn()", "import threading; threading.Thread(target=spawn).start()"], ids=["main", "thread"]
)
def test_a_leader_in_an_uninterruptible_wait_has_time_to_stop(tmp_path: Path, spawn: str) -> None:
    """SPEC 10.10: any thread of it may be in a fork, which ends after SIGSTOP."""
    os.mkfifo(tmp_path / "fifo")
    leader = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SPAWN) + spawn, tmp_path / "fifo"], start_new_session=True
    )

    def waits() -> bool:
        states = [path.read_text().rpartition(")")[2].split()[0] for path in tasks.glob("*/stat")]
        return "D" in states

    tasks = Path(f"/proc/{leader.pid}/task")

    try:
        wait_until(waits, 20, "a leader that waits for its child")
        began_at = time.monotonic()
        discover_members([Tree(leader.pid, TOKEN)])
        assert time.monotonic() - began_at >= 0.1
    finally:
        os.killpg(leader.pid, signal.SIGKILL)
        leader.wait()


def test_a_process_that_clears_its_environment_is_found_by_its_session() -> None:
    command = [sys.executable, "-c", "import os; os.execve('/bin/sleep', ['sleep', '600'], {})"]
    with subprocess.Popen(command, start_new_session=True) as process:
        wait_until(lambda: take_snapshot()[process.pid].name().startswith("sleep"), 10, "the sleeper")
        tree = Tree(process.pid, "whatever")
        tree.discover(Snapshot())
        kill_trees([tree])
        assert process.wait(10) == -signal.SIGKILL


MAIN_THREAD_EXITS = """
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
"""Its main thread exits, which the kernel shows as a zombie; another thread goes on."""


@pytest.mark.parametrize(
    ("start", "end", "number"),
    [
        pytest.param("", "exec sleep 600", signal.SIGTERM, id="we-are-ended"),
        pytest.param("setsid ", "exec sleep 600", signal.SIGKILL, id="we-are-killed"),
        # Then only its start token identifies it.
        pytest.param("setsid ", "kill -SEGV $$", None, id="the-driver-is-killed"),
    ],
)
def test_a_process_is_alive_while_any_of_its_threads_is(
    servo: ServoDirectory, start: str, end: str, number: int | None
) -> None:
    servo.configure("agg: {grace: 0.5}")
    (servo.path / "exits.py").write_text(textwrap.dedent(MAIN_THREAD_EXITS), encoding="utf-8")
    begin = f"{start}python3 exits.py </dev/null >/dev/null 2>&1 &"
    servo.add_script("01leaves", adjust_script(f"{begin}\nuntil [ -e pid ]; do sleep 0.05; done\n{end}\n"))
    with servo.start_adjust("web.cpu") as running:
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
