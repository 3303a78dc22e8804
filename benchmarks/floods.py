#!/usr/bin/env python3
"""What floods cost: peak memory, the rate of progress lines, and processor time while waiting.

The floods are those of tests/floods.py in full size; each is also checked, and a wrong result ends the
benchmark. Besides them: `rate` compares the aggregator with a bare loop, taken in turn; `waiting` lets a
silent driver be waited for. A run that takes more than two minutes ends it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.floods import ANSWER, FLOODS, MIB, PEAK_LIMIT, driver, idle, run, within
from tests.processes import environment
from tests.servo import ServoDirectory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RATE_LIMIT = 0.8
"""The ratio of the aggregator's rate to that of the bare loop that the project holds itself to."""

CPU_LIMIT = 0.01
"""The share of one processor while waiting that the project holds itself to."""

WAITING = 10.0
"""Seconds of waiting that are looked at."""

DEADLINE = 120.0
"""Seconds after which a run has failed and the benchmark is over."""

BARE = """
import json, os, sys

encode = json.JSONEncoder(separators=(",", ":")).encode
for line in sys.stdin.buffer:
    os.write(1, encode(json.loads(line)).encode() + b"\\n")
"""
"""Reads in large blocks, has its encoder made once, and writes each line by itself."""


@contextlib.contextmanager
def _directory() -> Iterator[ServoDirectory]:
    with tempfile.TemporaryDirectory() as parent:
        yield ServoDirectory(Path(parent))


def measure_memory(names: Sequence[str]) -> bool:
    """Print what each flood takes above the idle program; tell whether all kept what they are held to."""
    with _directory() as servo:
        base = idle(servo)
    print(f"the idle program takes {base / MIB:.1f} MiB\n")
    print(f"{'flood':<22}{'size':>12}{'seconds':>9}{'peak above idle, MiB':>22}{'at most':>9}")
    kept = True
    for name in names:
        flood = FLOODS[name]
        with _directory() as servo:
            told = run(servo, flood, flood.full, DEADLINE)
        flood.judge(told, flood.full)
        above = told.peak - base
        kept &= above < flood.above
        remark = "" if above < flood.above else " MISSED"
        remark += "" if flood.above == PEAK_LIMIT else " (see README.md)"
        figures = f"{told.seconds:>9.1f}{above / MIB:>22.1f}{flood.above / MIB:>9.0f}"
        print(f"{name:<22}{flood.full:>12}{figures}{remark}", flush=True)
    return kept


def _count_lines(stdout: IO[bytes]) -> int:
    count = 0
    while block := stdout.read(MIB):
        count += block.count(b"\n")
    return count


def measure_rate(lines: int, rounds: int) -> bool:
    """Print how many lines a second the aggregator relays, and the bare loop; tell whether it is enough."""
    with _directory() as servo:
        with (servo.path / "lines").open("w", encoding="ascii") as said:
            for number in range(lines):
                said.write(f'{{"progress": {100 * number // lines}, "message": "instance {number} is up"}}\n')
        driver(servo, "01talks", adjust="""cat >/dev/null; cat lines; echo '{"status":"ok"}'""")
        taken: dict[str, list[float]] = {"aggregator": [], "bare loop": []}
        for _ in range(rounds):
            taken["aggregator"].append(_relay(servo, ["./adjust", "app"], lines + 4))
            taken["bare loop"].append(_relay(servo, [sys.executable, "-c", BARE], lines + 1))
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    for name, seconds in taken.items():
        print(
            f"{name:<12}{lines / medians[name]:>9.0f} lines/s"
            f"   ({', '.join(f'{each:.1f}' for each in seconds)} s for {lines} lines)"
        )
    ratio = medians["bare loop"] / medians["aggregator"]
    print(
        f"ratio of medians: {ratio:.2f} (at least {RATE_LIMIT}: {'met' if ratio >= RATE_LIMIT else 'MISSED'})"
    )
    return ratio >= RATE_LIMIT


def _relay(servo: ServoDirectory, command: list[str], expected: int) -> float:
    """Give the seconds in which it relays all lines; the bare loop gets the driver itself as its stdin."""
    started = time.perf_counter()
    talking = None
    if command[0] != "./adjust":
        talking = subprocess.Popen(
            [servo.drivers / "01talks", "app"],
            cwd=servo.path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
    process = subprocess.Popen(
        command,
        cwd=servo.path,
        env=environment(servo.env),
        stdin=subprocess.PIPE if talking is None else talking.stdout,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with within(DEADLINE, process):
        if process.stdin is not None:
            with process.stdin as stdin:
                stdin.write(json.dumps(servo.request("01talks.cpu")).encode())
        count = _count_lines(cast("IO[bytes]", process.stdout))
        process.wait()
    seconds = time.perf_counter() - started
    if talking is not None:
        cast("IO[bytes]", talking.stdout).close()
        talking.wait()
    if count != expected:
        sys.exit(f"{command[0]}: {count} lines came, {expected} were expected")
    return seconds


def measure_waiting() -> bool:
    """Print the processor time that waiting for a silent driver takes; tell whether it is little enough."""
    with _directory() as servo:
        driver(servo, "01silent", query=f"sleep {WAITING + 5}; {ANSWER}")
        process = subprocess.Popen(
            ["./adjust", "--query", "app"],
            cwd=servo.path,
            env=environment(servo.env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        with within(DEADLINE, process):
            time.sleep(2)
            before = _processor_time(process.pid)
            time.sleep(WAITING)
            share = (_processor_time(process.pid) - before) / WAITING
            process.wait()
    print(
        f"processor while waiting {WAITING:g} s for a silent driver: {share:.2%}"
        f" (less than {CPU_LIMIT:.0%}: {'met' if share < CPU_LIMIT else 'MISSED'})"
    )
    return share < CPU_LIMIT


def _processor_time(pid: int) -> float:
    """Give the seconds, user and system, that the program and its guardian have had, drivers left out."""
    program = psutil.Process(pid)
    guardian = [child for child in program.children() if child.cmdline() == program.cmdline()]
    if len(guardian) != 1:
        sys.exit(f"one guardian expected: {guardian}")
    return sum(each.cpu_times().user + each.cpu_times().system for each in (program, *guardian))


def main() -> int:
    """Measure what the arguments say; the exit status tells whether all is as the project wants it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*FLOODS, "rate", "waiting"]
    parser.add_argument("--only", metavar="NAME", choices=names, help="one of: %(choices)s")
    parser.add_argument("--rounds", type=int, default=5, help="of the rate")
    parser.add_argument("--lines", type=int, default=1_000_000, help="of progress in each round")
    arguments = parser.parse_args()
    kept = True
    floods = [name for name in FLOODS if arguments.only in {None, name}]
    if floods:
        kept &= measure_memory(floods)
    if arguments.only in {None, "rate"}:
        kept &= measure_rate(arguments.lines, arguments.rounds)
    if arguments.only in {None, "waiting"}:
        kept &= measure_waiting()
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
