"""SPEC 5 and 10: the promises that have a number."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.stage import FIRST, GRACE, NAMES, STEP_TIMEOUT, Stage, allowed
from tests.support.processes import alive, wait_until

if TYPE_CHECKING:
    from tests.support.servo import ServoDirectory

KILLS = 20
"""Kills at random moments in one repetition."""

RUNS = 5
"""Ordinary runs under an agent that is pid 1, in one repetition."""

WATCHDOG_TIMEOUT = 4.0
"""Seconds after which nothing is left of a run that was killed."""

AT_ONCE = 0.5
"""Seconds in which the program must exit where it has nothing to wait for."""

pytestmark = [pytest.mark.full, pytest.mark.usefixtures("repetition")]


def _request(stage: Stage) -> dict[str, Any]:
    return stage.servo.request(*(f"{name}.cpu" for name in NAMES))


def test_a_kill_at_a_random_moment_leaves_no_process(stage: Stage, repetition: int) -> None:
    stage.grace(GRACE)
    for name in NAMES:
        for phase in ("query", "adjust"):
            stage.shape(name, phase, "brief", gate=False)
    times = []
    chance = random.Random(repetition)  # noqa: S311 - not used for security
    for number in range(KILLS):
        # Half of the kills come in the first tenth of a second, during the start.
        moment = chance.uniform(0, 0.1) if number % 2 else chance.uniform(0.1, 1.5)
        with stage.servo.start("app", input=_request(stage)) as program:
            time.sleep(moment)
            program.send_signal(signal.SIGKILL)
            killed = time.monotonic()
            program.finish(timeout=STEP_TIMEOUT)
            times.append((time.monotonic() - killed, moment))
        stage.await_no_process(WATCHDOG_TIMEOUT, f"killed after {moment:.4f} s")
    # The slowest is ignored: the machine may have stalled.
    seconds, moment = sorted(times)[-2]
    assert seconds < allowed(AT_ONCE), f"end of file late, killed after {moment:.4f} s"


# An agent that is pid 1 if a namespace can be created. Otherwise it is a subreaper, which adopts orphans.
ADOPTING_AGENT = """\
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


def test_an_ordinary_run_leaves_no_zombie_to_an_agent_that_is_pid_1(stage: Stage) -> None:
    command = [sys.executable, "-c", ADOPTING_AGENT, str(RUNS)]
    isolated = ["unshare", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*isolated, "true"], capture_output=True, check=False).returncode == 0:
        command = [*isolated, *command]
    done = stage.servo.run(command=command, input=_request(stage), timeout=STEP_TIMEOUT * RUNS)
    assert done.returncode == 0, done
    assert done.stdout.split() == [b"0", b"0"] * 3 * RUNS, done.stdout


@pytest.mark.parametrize("shape", ["wide", "deep"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_tree_of_200_is_gone_soon_after_the_grace(stage: Stage, shape: str, number: signal.Signals) -> None:
    """Within half a second when the program stops it, within a second when the watchdog does."""
    stage.grace(GRACE)
    stage.shape(FIRST, "adjust", shape)
    stage.start()
    stage.await_driver(FIRST, "adjust")
    assert len(stage.survivors()) > 200
    stage.send(number)
    if number == signal.SIGKILL:
        stage.await_no_process(GRACE + allowed(1), f"200 processes, {shape}")
        return
    result = stage.end()
    assert stage.survivors() == {}
    assert result.code == 128 + number
    assert result.seconds < GRACE + allowed(0.5)


def test_sixty_drivers_that_ignore_sigterm_end_as_fast_as_one(servo: ServoDirectory) -> None:
    """Each has three processes; one pass over /proc finds them all."""
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
    # The grace of a query, and the time to end 180 processes: a pass for each would take longer.
    assert seconds < 0.5 + allowed(1)


def test_a_signal_ends_the_program_within_half_a_second_while_stdout_is_blocked(stage: Stage) -> None:
    stage.grace(600)
    stage.shape(FIRST, "adjust", "tree")
    stage.set_mark("flood")
    stage.start()
    stage.await_driver(FIRST, "adjust")
    stage.running.stop_reading()
    stage.release()
    stage.await_blocked()
    assert not stage.exited
    stage.send(signal.SIGTERM)
    result = stage.end()
    assert result.code == 128 + signal.SIGTERM
    assert result.seconds < allowed(AT_ONCE)
    assert stage.survivors() == {}


STORM = """
import os, sys
for _ in range(2):
    if os.fork() == 0:
        break
else:
    pipe = os.open(sys.argv[2], os.O_WRONLY)
try:
    for number in range(10**9):
        os.kill(int(sys.argv[1]), 10)
        if "pipe" in globals():
            os.write(pipe, bytes(1 << 16))
        elif number == 500_000:
            os.write(1, b"+")
except OSError:
    pass
"""
"""Processes that send another one SIGUSR1 until it has ended; two of them print a + after half a million.

The third keeps the pipe full to which the handler writes: how full it gets otherwise is chance.
"""


def _non_blocking_pipes(pid: int) -> list[str]:
    """Return the non-blocking pipes to which a program writes."""
    found = []
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        # It may be closed meanwhile.
        with contextlib.suppress(FileNotFoundError):
            flags = int(info.read_text(encoding="ascii").split()[3], 8)
            path = f"/proc/{pid}/fd/{info.name}"
            if flags & os.O_WRONLY and flags & os.O_NONBLOCK and os.readlink(path).startswith("pipe:"):
                found.append(path)
    return found


@pytest.mark.parametrize("number", [None, signal.SIGTERM], ids=["it-ends", "SIGTERM"])
def test_a_million_cancels_delay_neither_the_end_nor_a_signal(stage: Stage, number: int | None) -> None:
    stage.grace(600)
    stage.shape(FIRST, "adjust", "tree")
    stage.start()
    stage.await_driver(FIRST, "adjust")
    pid = stage.running.pid
    # The driver's stdin is another one, until it is closed. The signal handler writes to the one that stays.
    wait_until(lambda: len(_non_blocking_pipes(pid)) == 1, 20, "the end of the driver's input")
    command = [sys.executable, "-c", STORM, str(pid), *_non_blocking_pipes(pid)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as storm:
        try:
            assert storm.stdout is not None
            assert storm.stdout.read(2) == b"++"
            if number is None:
                stage.release()
            else:
                stage.send(number)
            result = stage.end()
        finally:
            # It ends the storm, too.
            stage.running.kill()
    reason = ("canceled", "SIGUSR1") if number is None else ("terminated", "SIGTERM")
    assert result.status_and_reason == reason
    assert result.seconds < allowed(AT_ONCE)
    assert stage.running.operation.stderr_text == ""
