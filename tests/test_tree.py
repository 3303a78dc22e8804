"""Who is a process, whom a signal hits, and what happens to survivors (SPEC 10)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from servo_agg import processes
from servo_agg.lifecycle import PATIENCE, SHORT_PATIENCE, Life, Limits
from servo_agg.processes import MARK, Process, born, look, send
from servo_agg.tree import Glance, Tree, kill
from tests.processes import alive, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        ["sleep", "600"], env={**os.environ, MARK: "0123456789abcdef"}, start_new_session=True
    )
    # Its environment is its own once it has become sleep.
    wait_until(
        lambda: (look().get(process.pid) or _nobody()).marks() == {"0123456789abcdef"}, 10, "the sleeper"
    )
    yield process
    process.kill()
    process.wait()


def _nobody() -> Process:
    return Process(0, 0, 0, 0, dead=True, waiting=False)


def test_one_look_tells_all_that_is_needed_of_a_process(sleeper: subprocess.Popen[bytes]) -> None:
    found = look()[sleeper.pid]
    assert (found.parent, found.session, found.dead) == (os.getpid(), sleeper.pid, False)
    assert found.born == born(sleeper.pid)
    assert found.name() == f"sleep (pid {sleeper.pid})"


def test_psutil_tells_the_same_where_there_is_no_proc(sleeper: subprocess.Popen[bytes]) -> None:
    found = processes._look_by_psutil()[sleeper.pid]  # noqa: SLF001 - on Linux nothing else leads there
    assert (found.parent, found.session, found.dead) == (os.getpid(), sleeper.pid, False)
    assert {processes._mark_by_psutil(sleeper.pid)} == found.marks()  # noqa: SLF001 - as above


def test_a_zombie_is_dead(sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.kill()
    wait_until(lambda: look()[sleeper.pid].dead, 10, "its death")


def test_a_signal_reaches_the_process_that_is_meant(sleeper: subprocess.Popen[bytes]) -> None:
    send([look()[sleeper.pid]], signal.SIGTERM)
    assert sleeper.wait(10) == -signal.SIGTERM


def test_no_signal_reaches_one_that_was_given_the_pid_of_another(sleeper: subprocess.Popen[bytes]) -> None:
    now = look()[sleeper.pid]
    before = Process(now.pid, now.born - 1, now.parent, now.session, dead=False, waiting=False)
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
    assert not look()[sleeper.pid].beyond_us()
    stuck = Process(sleeper.pid, 0, 0, 0, dead=False, waiting=True)
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
