#!/usr/bin/env python3
"""Run many adjusts of five faulty drivers, and report what they leave behind.

Each adjust runs in its own servo directory. A seeded random generator chooses the fault of each driver and,
in one run of four, what interrupts servo-agg after a certain line of its output. The report counts runs with
surviving processes, zombies, and runs that did not end with exactly one final object. It also shows how peak
memory and open descriptors of servo-agg change over the runs. The exit status is 1 if anything was found.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.faults.stage import DRIVER, Init
from tests.support.processes import MARK, DeadlineError, Marked, environment, twice_in_a_row, wait_until
from tests.support.servo import ServoDirectory

DRIVERS = ("01a", "02b", "03c", "04d", "05e")

FAULTS = (
    "good",
    "exit3",
    "malformed",
    "noisy",
    "silent",
    "stubborn",
    "stopped",
    "forking",
    "session",
    "orphan",
    "holder",
    "closer",
    "group",
    "daemon",
)
"""Shapes of tests/faults/driver.sh. A driver that does not end by itself is stopped by its timeout."""

INTERRUPTIONS = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGKILL", "closed stdout")
NO_FINAL_OBJECT = ("SIGKILL", "closed stdout")
"""Interruptions after which there may be no final object."""

INTERRUPTED_SHARE = 0.25
LAST_INTERRUPTED_LINE = 11

IO_TIMEOUT = 1.0
"""Seconds; the environment variable OPTUNE_IO_TIMEOUT of each run."""

GRACE = 0.3
"""Seconds; the setting `grace` of each run."""

RUN_TIMEOUT = 60.0
"""Seconds after its last output in which a run must exit."""

EXIT_WAIT = 1.0
"""Seconds in which killed processes must disappear after the exit of servo-agg."""

WATCHDOG_WAIT = 4.0
"""The same if servo-agg was killed by a signal, in addition to GRACE."""


@dataclass
class Totals:
    """What all runs so far have left behind."""

    runs: int = 0
    survivors: list[str] = field(default_factory=list)
    zombies: list[str] = field(default_factory=list)
    wrong_finals: list[str] = field(default_factory=list)
    exit_statuses: Counter[int] = field(default_factory=Counter)
    memory: list[int] = field(default_factory=list)
    """Peak resident memory of each run in KiB."""
    descriptors: list[int] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not (self.survivors or self.zombies or self.wrong_finals)


@dataclass
class Observation:
    """What /proc showed of servo-agg while it wrote its last line."""

    memory: int = 0
    """Peak resident memory in KiB."""
    descriptors: int = 0
    children: set[psutil.Process] = field(default_factory=set)
    """All children seen during the run."""

    def update(self, pid: int) -> None:
        """Read /proc. If the process has just exited, keep the previous values."""
        with contextlib.suppress(psutil.NoSuchProcess, OSError, IndexError):
            process = psutil.Process(pid)
            self.children.update(process.children())
            descriptors = process.num_fds()
            # Not ru_maxrss of wait4: it includes the memory of the process that forked.
            status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
            self.memory = int(status.partition("VmHWM:")[2].split()[0])
            self.descriptors = descriptors


def run_once(generator: random.Random, init: Init, totals: Totals) -> None:
    """Run one adjust, and add what was found to the totals."""
    faults = {name: generator.choice(FAULTS) for name in DRIVERS}
    interruption = generator.choice(INTERRUPTIONS) if generator.random() < INTERRUPTED_SHARE else ""
    interrupted_line = generator.randint(1, LAST_INTERRUPTED_LINE)
    run = f"run {totals.runs}: {' '.join(faults.values())} {interruption}"
    os.environ[MARK] = f"soak-{os.getpid()}-{totals.runs}"
    marked = Marked(os.environ[MARK])
    with tempfile.TemporaryDirectory() as parent:
        servo = ServoDirectory(Path(parent))
        add_drivers(servo, faults)
        process = subprocess.Popen(
            ["./adjust", "app"],
            cwd=servo.path,
            env=environment(servo.env, {"OPTUNE_IO_TIMEOUT": f"{IO_TIMEOUT:g}"}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        observation = Observation()
        lines = converse(process, servo, observation, interruption, interrupted_line)
        exit_status = process.wait(RUN_TIMEOUT)
        services = {int(path.read_text(encoding="ascii")) for path in servo.path.glob("faults/*.service")}
        messages = [json.loads(line) for line in lines if line.endswith(b"\n")]
        finals = [message for message in messages if "progress" not in message]
        complete = len(finals) == 1 and messages[-1] is finals[0]
        if not complete and (finals or interruption not in NO_FINAL_OBJECT):
            totals.wrong_finals.append(f"{run}: {len(finals)} final objects")
        deadline = GRACE + WATCHDOG_WAIT if exit_status < 0 else EXIT_WAIT
        if survivors := remaining(marked, init, services, deadline):
            totals.survivors.append(f"{run}: {survivors}")
        zombies = [
            child for child in observation.children if child.is_running() and child.pid not in services
        ]
        totals.zombies += [f"{run}: {zombie}" for zombie in zombies]
        marked.kill()
        init.reap()
    totals.runs += 1
    totals.exit_statuses[exit_status] += 1
    totals.memory.append(observation.memory)
    totals.descriptors.append(observation.descriptors)


def add_drivers(servo: ServoDirectory, faults: dict[str, str]) -> None:
    """Fill a servo directory with these drivers, each with its fault."""
    servo.configure(f"agg: {{grace: {GRACE}}}")
    (servo.path / "faults").mkdir()
    for name, fault in faults.items():
        servo.add_script(name, DRIVER)
        if fault != "good":
            (servo.path / "faults" / f"{name}.adjust.shape").write_text(f"{fault}\n", encoding="ascii")


def converse(
    process: subprocess.Popen[bytes],
    servo: ServoDirectory,
    observation: Observation,
    interruption: str,
    interrupted_line: int,
) -> list[bytes]:
    """Send the request, read all output and interrupt servo-agg after that line; return the lines."""
    stdin, stdout = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
    with stdin:
        stdin.write(json.dumps(servo.request(*(f"{name}.cpu" for name in DRIVERS))).encode())
    lines = []
    with stdout:
        for line in stdout:
            lines.append(line)
            observation.update(process.pid)
            if len(lines) == interrupted_line and interruption == "closed stdout":
                break
            if len(lines) == interrupted_line and interruption:
                process.send_signal(signal.Signals[interruption])
    return lines


def remaining(marked: Marked, init: Init, services: set[int], deadline: float) -> dict[int, str]:
    """Return pid and command line of the processes of a run, except services, that outlive the deadline."""

    def all_gone() -> bool:
        init.reap()
        return not marked.living().keys() - services

    try:
        wait_until(twice_in_a_row(all_gone), deadline, "end of all processes")
    except DeadlineError:
        return {pid: command for pid, command in marked.living().items() if pid not in services}
    return {}


def report(totals: Totals, seconds: float) -> str:
    """Return the report as lines of text."""
    statuses = ", ".join(f"{count} x {status}" for status, count in sorted(totals.exit_statuses.items()))
    lines = [f"{'runs':<24}{totals.runs} in {seconds:.0f} s", f"{'exit statuses':<24}{statuses}"]
    for name, found in (
        ("runs with survivors", totals.survivors),
        ("zombies", totals.zombies),
        ("wrong final objects", totals.wrong_finals),
    ):
        lines += [f"{name:<24}{len(found)}", *(f"    {line[:300]}" for line in found[:10])]
    for name, values in (("peak memory, KiB", totals.memory), ("open descriptors", totals.descriptors)):
        slope = np.polyfit(range(len(values)), values, 1)[0] if len(values) > 1 else 0
        lines.append(
            f"{name:<24}{min(values)}, median {statistics.median(values):g}, {max(values)};"
            f" {100 * slope:+.2f} in 100 runs"
        )
    return "\n".join(lines)


def main() -> int:
    """Run as the arguments say; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=3600, help="start no run after these seconds")
    parser.add_argument("--seed", type=int, default=1, help="of the random generator")
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)  # noqa: S311 - not used for security
    totals = Totals()
    started = time.monotonic()
    with Init() as init:
        while totals.runs < arguments.runs and time.monotonic() - started < arguments.seconds:
            run_once(generator, init, totals)
    print(report(totals, time.monotonic() - started))
    return 0 if totals.clean else 1


if __name__ == "__main__":
    sys.exit(main())
