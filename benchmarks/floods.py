#!/usr/bin/env python3
"""Measure what floods of output cost: peak memory, the rate of progress lines, processor time while idle.

A flood of tests/support/floods.py runs in full size, and its result is checked. `rate` compares servo-agg in
turn with a bare loop, which only decodes and encodes each line. `waiting` measures processor time while a
driver is silent. The exit status is 1 if a limit is missed, or a result is wrong.
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

from tests.support.floods import ANSWER, FLOODS, MIB, driver, idle, run, within
from tests.support.processes import environment
from tests.support.servo import ServoDirectory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RATE_LIMIT = 0.8
"""servo-agg must relay at least as many lines in a second as the bare loop multiplied by this."""

WAITING_LIMIT = 0.01
"""Waiting must use less than this share of one processor."""

STARTUP_SECONDS = 2.0
"""Seconds after the start that do not count as waiting."""

WAITING_SECONDS = 10.0

TIMEOUT = 120.0
"""Seconds after which a run is killed and the benchmark ends with an error."""

BARE_LOOP = """
import json, os, sys

encode = json.JSONEncoder(separators=(",", ":")).encode
for line in sys.stdin.buffer:
    os.write(1, encode(json.loads(line)).encode() + b"\\n")
"""


@contextlib.contextmanager
def servo_directory() -> Iterator[ServoDirectory]:
    """Make a temporary servo directory, and remove it in the end."""
    with tempfile.TemporaryDirectory() as parent:
        yield ServoDirectory(Path(parent))


def measure_memory(names: Sequence[str], *, quick: bool) -> bool:
    """Print the peak memory of each flood beyond an idle query; return whether all limits are met."""
    with servo_directory() as servo:
        idle_peak = idle(servo)
    print(f"a query of one sh driver takes {idle_peak / MIB:.1f} MiB\n")
    print(f"{'flood':<22}{'size':>12}{'seconds':>9}{'MiB more':>10}{'limit':>7}")
    all_met = True
    for name in names:
        flood = FLOODS[name]
        size = flood.quick if quick else flood.full
        with servo_directory() as servo:
            result = run(servo, flood, size, TIMEOUT)
        flood.check(result, size)
        excess = result.peak - idle_peak
        met = excess < flood.above
        all_met &= met
        print(
            f"{name:<22}{size:>12}{result.seconds:>9.1f}{excess / MIB:>10.1f}{flood.above / MIB:>7.0f}"
            f"{'' if met else ' MISSED'}",
            flush=True,
        )
    return all_met


def measure_rate(lines: int, rounds: int) -> bool:
    """Print the rates at which servo-agg and the bare loop relay lines; return whether the limit is met."""
    samples: dict[str, list[float]] = {"servo-agg": [], "bare loop": []}
    with servo_directory() as servo:
        with (servo.path / "lines").open("w", encoding="ascii") as file:
            for number in range(lines):
                file.write(f'{{"progress": {100 * number // lines}, "message": "instance {number} is up"}}\n')
        driver(servo, "01talks", adjust="""cat >/dev/null; cat lines; echo '{"status":"ok"}'""")
        request = servo.path / "request.json"
        request.write_text(json.dumps(servo.request("01talks.cpu")), encoding="utf-8")
        for _ in range(rounds):
            # servo-agg adds 3 lines to those of the driver: querying, starting and done.
            samples["servo-agg"].append(relay(servo, "exec ./adjust app <request.json", lines + 4))
            bare_loop = f"./adjust.d/01talks app <request.json | python3 -c '{BARE_LOOP}'"
            samples["bare loop"].append(relay(servo, bare_loop, lines + 1))
    for name, seconds in samples.items():
        print(f"{name:<12}{lines / statistics.median(seconds):>9.0f} lines/s, {len(seconds)} rounds")
    ratio = statistics.median(samples["bare loop"]) / statistics.median(samples["servo-agg"])
    print(f"servo-agg / bare loop: {ratio:.2f}, at least {RATE_LIMIT}")
    return ratio >= RATE_LIMIT


def relay(servo: ServoDirectory, command: str, expected: int) -> float:
    """Run a shell command; return the seconds until it has written the expected number of lines."""
    started = time.perf_counter()
    process = subprocess.Popen(
        ["/bin/sh", "-c", command],
        cwd=servo.path,
        env=environment(servo.env),
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with within(TIMEOUT, process):
        stdout = cast("IO[bytes]", process.stdout)
        count = sum(block.count(b"\n") for block in iter(lambda: stdout.read(MIB), b""))
        process.wait()
    if count != expected:
        raise SystemExit(f"{command}: got {count} lines, expected {expected}")
    return time.perf_counter() - started


def measure_waiting() -> bool:
    """Print the processor time used while a driver is silent; return whether the limit is met."""
    with servo_directory() as servo:
        driver(servo, "01silent", query=f"sleep {STARTUP_SECONDS + WAITING_SECONDS + 3}; {ANSWER}")
        process = subprocess.Popen(
            ["./adjust", "--query", "app"],
            cwd=servo.path,
            env=environment(servo.env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        with within(TIMEOUT, process):
            time.sleep(STARTUP_SECONDS)
            before = processor_time(process.pid)
            time.sleep(WAITING_SECONDS)
            share = (processor_time(process.pid) - before) / WAITING_SECONDS
            process.wait()
    print(f"processor while waiting {WAITING_SECONDS:g} s: {share:.2%}, less than {WAITING_LIMIT:.0%}")
    return share < WAITING_LIMIT


def processor_time(pid: int) -> float:
    """Return the seconds of processor time, user and system, of servo-agg and its watchdog."""
    program = psutil.Process(pid)
    watchdogs = [child for child in program.children() if child.cmdline() == program.cmdline()]
    if len(watchdogs) != 1:
        raise SystemExit(f"expected one watchdog: {watchdogs}")
    times = [process.cpu_times() for process in (program, *watchdogs)]
    return sum(time.user + time.system for time in times)


def main() -> int:
    """Measure what the arguments ask for; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*FLOODS, "rate", "waiting"]
    parser.add_argument("--only", metavar="NAME", choices=names, help="one of: %(choices)s")
    parser.add_argument("--quick", action="store_true", help="take the sizes of the tests for the floods")
    parser.add_argument("--rounds", type=int, default=5, help="of the rate; default: %(default)s")
    parser.add_argument("--lines", type=int, default=1_000_000, help="of each round; default: %(default)s")
    arguments = parser.parse_args()
    all_met = True
    if floods := [name for name in FLOODS if arguments.only in {None, name}]:
        all_met &= measure_memory(floods, quick=arguments.quick)
    if arguments.only in {None, "rate"}:
        all_met &= measure_rate(arguments.lines, arguments.rounds)
    if arguments.only in {None, "waiting"}:
        all_met &= measure_waiting()
    return 0 if all_met else 1


if __name__ == "__main__":
    sys.exit(main())
