#!/usr/bin/env python3
"""What is left behind by a thousand adjusts of five drivers, each driver with a fault.

Every adjust is a run of `./adjust` in a servo directory of its own. Drawn by a fixed seed are the fault of
each driver and, for one run in four, what happens to the aggregator, and at which line of its output. Counted
are processes that survive, zombies of ours, and answers that are missing or too many. For each run the peak
of the aggregator's memory and its open descriptors are read from /proc while it says its last lines.
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
from typing import IO, TYPE_CHECKING, cast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.faults.stage import DRIVER, Init, Known, born, children
from tests.processes import MARK, DeadlineError, Marked, environment, wait_until
from tests.servo import ServoDirectory

if TYPE_CHECKING:
    from collections.abc import Sequence

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
"""Shapes of tests/faults/driver.sh; what does not end by itself is timed out."""

LEAVING = {"holder", "daemon"}

CALAMITIES = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGKILL", "closed")
"""What happens to the aggregator: a signal, or that its stdout is closed."""

IO_TIMEOUT = 1.0
GRACE = 0.3

RUN = 60.0
"""Seconds after which a run has failed and the soak is over."""

LAST_BREATH = 1.0
"""Seconds that a process which was killed has to vanish; the guardian has GUARDED."""

GUARDED = 4.0


@dataclass
class Totals:
    """What was seen of all runs so far."""

    runs: int = 0
    survivors: list[str] = field(default_factory=list)
    zombies: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    codes: Counter[int] = field(default_factory=Counter)
    memory: list[int] = field(default_factory=list)
    """Peak of the resident memory of each run, KiB."""
    descriptors: list[int] = field(default_factory=list)

    @property
    def flawless(self) -> bool:
        """Whether there is nothing to complain of."""
        return not (self.survivors or self.zombies or self.answers)


@dataclass
class Sample:
    """What /proc tells of a run that goes on."""

    memory: int = 0
    descriptors: int = 0
    ours: set[Known] = field(default_factory=set)

    def take(self, pid: int) -> None:
        """Look at it; when it has ended this instant the last look stands."""
        with contextlib.suppress(OSError, IndexError):
            descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
            status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
            # Not what wait4 tells: that has in it the memory of whoever forked.
            self.memory = int(status.partition("VmHWM:")[2].split()[0])
            self.descriptors = descriptors
            self.ours |= {Known(child, born(child)) for child in children(pid)}


def one_run(chance: random.Random, init: Init, totals: Totals) -> None:
    """Adjust once, and add what was seen."""
    faults = {name: chance.choice(FAULTS) for name in DRIVERS}
    calamity = chance.choice(CALAMITIES) if chance.random() < 0.25 else None  # noqa: PLR2004 - one in four
    line_of_calamity = chance.randrange(1, 12)
    what = f"run {totals.runs}: {' '.join(faults.values())} {calamity or ''}"
    os.environ[MARK] = f"soak-{os.getpid()}-{totals.runs}"
    marked = Marked(os.environ[MARK])
    with tempfile.TemporaryDirectory() as parent:
        servo = ServoDirectory(Path(parent))
        _fill(servo, faults)
        process = subprocess.Popen(
            ["./adjust", "app"],
            cwd=servo.path,
            env=environment(servo.env, {"OPTUNE_IO_TIMEOUT": f"{IO_TIMEOUT:g}"}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        sample = Sample()
        lines = _converse(process, servo, sample, calamity, line_of_calamity)
        code = process.wait(RUN)
        _judge(totals, what, lines, None if calamity in {"SIGKILL", "closed"} else 1)
        services = {int(path.read_text(encoding="ascii")) for path in servo.path.glob("faults/*.service")}
        _count_leftovers(totals, what, marked, init, services, code, sample)
    totals.runs += 1
    totals.codes[code] += 1
    totals.memory.append(sample.memory)
    totals.descriptors.append(sample.descriptors)


def _fill(servo: ServoDirectory, faults: dict[str, str]) -> None:
    servo.configure(f"agg: {{grace: {GRACE}}}")
    (servo.path / "faults").mkdir()
    for name, fault in faults.items():
        servo.add_script(name, DRIVER)
        if fault != "good":
            (servo.path / "faults" / f"{name}.adjust.shape").write_text(f"{fault}\n", encoding="ascii")


def _converse(
    process: subprocess.Popen[bytes], servo: ServoDirectory, sample: Sample, calamity: str | None, line: int
) -> list[bytes]:
    """Be the agent; bring the calamity about at that line."""
    stdin, stdout = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
    stdin.write(json.dumps(servo.request(*(f"{name}.cpu" for name in DRIVERS))).encode())
    stdin.close()
    lines = []
    for text in stdout:
        lines.append(text)
        sample.take(process.pid)
        if len(lines) == line and calamity == "closed":
            break
        if len(lines) == line and calamity is not None:
            process.send_signal(signal.Signals[calamity])
    stdout.close()
    return lines


def _judge(totals: Totals, what: str, lines: Sequence[bytes], wanted: int | None) -> None:
    messages = [json.loads(line) for line in lines if line.endswith(b"\n")]
    finals = [message for message in messages if "progress" not in message]
    if len(finals) > 1 or (wanted and (not finals or messages[-1] is not finals[-1])):
        totals.answers.append(f"{what}: {len(finals)} final objects")


def _count_leftovers(
    totals: Totals,
    what: str,
    marked: Marked,
    init: Init,
    services: set[int],
    code: int,
    sample: Sample,
) -> None:
    quiet = 0

    def nothing() -> bool:
        # The environment of a process looks empty for an instant while it executes another program.
        nonlocal quiet
        init.reap()
        quiet = 0 if set(marked.living()) - services else quiet + 1
        return quiet > 1

    try:
        wait_until(nothing, GRACE + GUARDED if code < 0 else LAST_BREATH, "end of all")
    except DeadlineError:
        totals.survivors.append(f"{what}: {marked.living()}")
    zombies = [known for known in sample.ours if known.there and known.pid not in services]
    totals.zombies += [f"{what}: {known}" for known in zombies]
    marked.kill()
    init.reap()


def report(totals: Totals, seconds: float) -> str:
    """Give the table."""
    codes = ", ".join(f"{count} x {code}" for code, count in sorted(totals.codes.items()))
    lines = [f"{'runs':<22}{totals.runs} in {seconds:.0f} s", f"{'exit statuses':<22}{codes}"]
    for name, found in (
        ("runs with survivors", totals.survivors),
        ("zombies", totals.zombies),
        ("runs without 1 answer", totals.answers),
    ):
        lines += [f"{name:<22}{len(found)}", *(f"    {line[:300]}" for line in found[:10])]
    for name, unit, values in (
        ("peak memory", " KiB", totals.memory),
        ("open descriptors", "", totals.descriptors),
    ):
        lines.append(
            f"{name:<22}{min(values)} .. {statistics.median(values):g} .. {max(values)}{unit}"
            f" (least, median, most); {100 * slope(values):+.2f} per 100 runs"
        )
    return "\n".join(lines)


def slope(values: Sequence[int]) -> float:
    """Give by how much the values grow from one to the next, by least squares."""
    middle = (len(values) - 1) / 2
    spread = sum((at - middle) ** 2 for at in range(len(values)))
    return sum((at - middle) * value for at, value in enumerate(values)) / spread if spread else 0.0


def main() -> int:
    """Run as the arguments say; the exit status tells whether anything was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=3600, help="begin no run after that many")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)  # noqa: S311 - no secret
    totals = Totals()
    started = time.monotonic()
    with Init() as init:
        while totals.runs < arguments.runs and time.monotonic() - started < arguments.seconds:
            one_run(chance, init, totals)
    sys.stdout.write(report(totals, time.monotonic() - started) + "\n")
    return 0 if totals.flawless else 1


if __name__ == "__main__":
    sys.exit(main())
