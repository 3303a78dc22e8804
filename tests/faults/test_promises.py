"""SPEC 5 and 10: what is promised with a number, each shown by itself."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.faults.stage import FIRST, GRACE, NAMES, PATIENCE, Stage, allowed
from tests.processes import alive, environment

if TYPE_CHECKING:
    from tests.servo import ServoDirectory

KILLS = 20
"""Kills at random moments in one repetition."""

RUNS = 5
"""Ordinary runs under an agent that is pid 1, in one repetition."""

GUARDED = 4.0
"""Seconds after which nothing is left of a run that was killed."""

AT_ONCE = 0.5
"""Seconds in which what happens at once has been seen to."""

pytestmark = [pytest.mark.full, pytest.mark.usefixtures("repetition")]


def _request(stage: Stage) -> bytes:
    return json.dumps(stage.servo.request(*(f"{name}.cpu" for name in NAMES))).encode()


def test_killed_at_random_moments_we_leave_nothing(stage: Stage, repetition: int) -> None:
    stage.grace(GRACE)
    for name in NAMES:
        for phase in ("query", "adjust"):
            stage.shape(name, phase, "brief", gate=False)
    times = []
    chance = random.Random(repetition)  # noqa: S311 - no secret
    for number in range(KILLS):
        # Half of them in the first tenth of a second, when everything begins.
        moment = chance.uniform(0, 0.1) if number % 2 else chance.uniform(0.1, 1.5)
        process = subprocess.Popen(
            ["./adjust", "app"],
            cwd=stage.servo.path,
            env=environment(stage.servo.env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdin is not None
        process.stdin.write(_request(stage))
        process.stdin.close()
        process.stdin = None
        time.sleep(moment)
        process.kill()
        killed = time.monotonic()
        process.communicate(timeout=PATIENCE)
        times.append((time.monotonic() - killed, moment))
        stage.await_nothing(GUARDED, f"killed after {moment:.4f} s")
    # One of so many may meet an instant in which the machine stood still.
    seconds, moment = sorted(times)[-2]
    assert seconds < allowed(AT_ONCE), f"end of file late, killed after {moment:.4f} s"


# An agent like the real one: pid 1 if it can be, and else at least the one to whom orphans fall.
STAND_IN = """\
import ctypes, os, subprocess, sys

def zombies():
    found = 0
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            found += 1
    except ChildProcessError:
        pass
    return found

ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
request = sys.stdin.buffer.read()
for number in range(int(sys.argv[1])):
    for words, given in ((["--info", "app"], b""), (["--query", "app"], b""), (["app"], request)):
        done = subprocess.run(["./adjust", *words], input=given, stdout=subprocess.PIPE)
        print(done.returncode, zombies())
"""


def test_ordinary_runs_leave_no_zombie_to_an_agent_that_is_pid_1(stage: Stage) -> None:
    command = [sys.executable, "-c", STAND_IN, str(RUNS)]
    isolated = ["unshare", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*isolated, "true"], capture_output=True, check=False).returncode == 0:
        command = [*isolated, *command]
    done = subprocess.run(
        command,
        cwd=stage.servo.path,
        env=environment(stage.servo.env),
        input=_request(stage),
        capture_output=True,
        check=True,
        timeout=PATIENCE * RUNS,
    )
    assert done.stdout.split() == [b"0", b"0"] * 3 * RUNS, done.stdout


@pytest.mark.parametrize("shape", ["wide", "deep"])
def test_a_tree_of_200_is_gone_half_a_second_after_the_grace(stage: Stage, shape: str) -> None:
    stage.grace(GRACE)
    stage.shape(FIRST, "adjust", shape)
    stage.begin()
    stage.await_driver(FIRST, "adjust")
    assert len(stage.survivors()) > 200
    stage.send(signal.SIGTERM)
    ended = stage.end()
    assert stage.survivors() == {}
    assert ended.code == 128 + signal.SIGTERM
    assert ended.seconds < GRACE + allowed(0.5)


@pytest.mark.parametrize("shape", ["wide", "deep"])
def test_a_tree_of_200_is_gone_a_second_after_the_grace_when_we_are_killed(stage: Stage, shape: str) -> None:
    stage.grace(GRACE)
    stage.shape(FIRST, "adjust", shape)
    stage.begin()
    stage.await_driver(FIRST, "adjust")
    stage.send(signal.SIGKILL)
    stage.await_nothing(GRACE + allowed(1), f"200 processes, {shape}")


def test_sixty_drivers_that_ignore_sigterm_end_as_soon_as_one(servo: ServoDirectory) -> None:
    """Each with three processes: they are looked for together, not sixty times."""
    servo.configure("agg: {parallel: 60}")
    names = [f"{number:02}stubborn" for number in range(60)]
    for name in names:
        servo.add(name, "stubborn", when="query")
    with servo.agent().start_describe("app") as running:
        pids = [pid for name in names for pid in servo.pids(name, "leader", "child", "grandchild").values()]
        began = time.monotonic()
        running.send_signal(signal.SIGTERM)
        operation = running.finish()
        seconds = time.monotonic() - began
    assert operation.returncode == 128 + signal.SIGTERM
    assert not any(alive(pid) for pid in pids)
    # Half a second of grace, and what the machine needs to end 180 processes.
    assert seconds < 0.5 + allowed(0.5)


def test_a_signal_ends_us_within_half_a_second_while_stdout_is_blocked(stage: Stage) -> None:
    stage.grace(600)
    stage.shape(FIRST, "adjust", "tree")
    stage.note("flood")
    stage.begin()
    stage.await_driver(FIRST, "adjust")
    stage.running.stop_reading()
    stage.release()
    stage.await_blocked()
    assert not stage.exited
    stage.send(signal.SIGTERM)
    ended = stage.end()
    assert ended.code == 128 + signal.SIGTERM
    assert ended.seconds < allowed(AT_ONCE)
    assert stage.survivors() == {}
