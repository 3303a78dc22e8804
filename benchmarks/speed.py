#!/usr/bin/env python3
"""Measure time and memory of servo-agg. The exit status is 1 if a limit is missed.

Without an option, compare with what cannot be avoided: a bare start of Python, and the baseline, a C program
that only starts the same drivers and reads their output. All that is compared is measured in turn, in
alternating order; figures are medians of all rounds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from common import OUT, PYTHON_DRIVER, QUERY, shell_driver, show_progress, table, workspace
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from common import Workspace
    from matplotlib.axes import Axes

ROUNDS = 15
CHECK_ROUNDS = 5

RATIO_SLACK = 1.35
"""`--check` multiplies limits of ratios by this: load affects both measurements, but not equally."""

TIME_SLACK = 10.0
"""The same for a time, on which load has its full effect; enough for ten processes for each processor."""

INFO = ("./adjust", "--info")
ADJUST = ("./adjust", "app")
DESCRIBE = ("./adjust", "--describe", "app")


@dataclass(frozen=True)
class Case:
    """A figure with the limit that it must not exceed; the limit is multiplied by `slack` in a check."""

    name: str
    description: str
    measure: Callable[[], float]
    limit: float = math.inf
    slack: float = RATIO_SLACK
    samples: int = 1
    """Number of samples in each round: more for what is quick."""


def ratio(first: Callable[[], float], second: Callable[[], float]) -> Callable[[], float]:
    """Return a function that measures `first` / `second`, in alternating order."""
    first_leads = itertools.cycle((True, False))

    def measure() -> float:
        if next(first_leads):
            numerator = first()
            return numerator / second()
        denominator = second()
        return first() / denominator

    return measure


def take_samples(cases: Sequence[Case], rounds: int) -> dict[str, list[float]]:
    """Measure each case in each round; return the samples by name of the case."""
    samples: dict[str, list[float]] = defaultdict(list)
    for number in range(1, rounds + 1):
        for case in cases:
            show_progress(f"round {number} of {rounds}: {case.description}")
            samples[case.name] += [case.measure() for _ in range(case.samples)]
    show_progress("")
    return samples


# Comparison with a bare start of Python and the baseline.

SLOW_SECONDS = 0.4
ADJUST_SECONDS = 0.1
ADJUST_COUNT = 3

PROGRESS_LINES = 300
PROGRESS_DRIVER = f"""\
#!/usr/bin/env python3
import os
import sys
import time

def send(line):
    os.write(1, line.encode() + b"\\n")

if "--query" in sys.argv:
    send('{{"application":{{"components":{{"000driver":{{"settings":{{"cpu":{{"value":2}}}}}}}}}}}}')
else:
    for number in range({PROGRESS_LINES}):
        time.sleep(0.003)
        percent = number * 100 // {PROGRESS_LINES}
        send('{{"progress":%d,"message":"sent at %d"}}' % (percent, time.monotonic_ns()))
    send('{{"status":"ok"}}')
"""


def cases_with_limits(here: Workspace) -> list[Case]:
    """Make servo directories; return the cases that have limits."""
    one = here.servo("one", shell_driver(), 1)
    eight = here.servo("eight", shell_driver(), 8)
    slow = here.servo("slow", shell_driver(SLOW_SECONDS), 8)
    thirty = here.servo("thirty", shell_driver(), 30)
    python = here.servo("python", PYTHON_DRIVER, 8)

    def over_bare(directory: Path, command: Sequence[str]) -> Callable[[], float]:
        return ratio(
            lambda: here.milliseconds(directory, command),
            lambda: here.milliseconds(directory, here.bare_python),
        )

    def over_baseline(directory: Path) -> Callable[[], float]:
        return ratio(
            lambda: here.milliseconds(directory, QUERY),
            lambda: here.milliseconds(directory, here.baseline(directory)),
        )

    memory = ratio(lambda: here.peak(eight, QUERY), lambda: here.peak(eight, here.bare_python))
    return [
        Case("one", "query of 1 sh driver / bare Python", over_bare(one, QUERY), 2.3, samples=4),
        Case("python", "query of 8 Python drivers / baseline", over_baseline(python), 1.25, samples=2),
        Case("slow", f"query of 8 sh drivers of {SLOW_SECONDS} s / baseline", over_baseline(slow), 1.08),
        Case("thirty", "query of 30 sh drivers / baseline", over_baseline(thirty), 3.4, samples=2),
        Case("info", "--info of 8 sh drivers / bare Python", over_bare(eight, INFO), 2.9, samples=4),
        Case("progress", "delay of progress, 99th percentile, ms", progress_delay(here), 3, TIME_SLACK),
        Case("memory", "peak memory of a query of 8 sh drivers / bare Python", memory, 1.6, slack=1),
        Case("adjust", "overhead of each driver in an adjust, ms", adjust_overhead(here), 10, TIME_SLACK),
    ]


def write_request(directory: Path, count: int) -> Path:
    """Write the input of an adjust of `count` drivers to a file; return its path."""
    components = {f"{number:03}driver": {"settings": {"cpu": {"value": 4}}} for number in range(count)}
    path = directory / "request.json"
    path.write_text(json.dumps({"application": {"components": components}}), encoding="utf-8")
    return path


def progress_delay(here: Workspace) -> Callable[[], float]:
    """Return a function that measures the ms from a driver's write to our read, as the 99th percentile."""
    directory = here.servo("progress", PROGRESS_DRIVER, 1)
    request = write_request(directory, 1)

    def measure() -> float:
        delays = []
        for read_at, line in here.run(directory, ADJUST, request).lines:
            _, found, sent_at = json.loads(line).get("message", "").partition("sent at ")
            if found:
                delays.append((read_at - int(sent_at)) / 1e6)
        if len(delays) != PROGRESS_LINES:
            raise SystemExit(f"{len(delays)} of {PROGRESS_LINES} lines of progress arrived")
        return float(np.percentile(delays, 99))

    return measure


def adjust_overhead(here: Workspace) -> Callable[[], float]:
    """Return a function that measures the ms per driver of an adjust beyond its drivers and a query."""
    directory = here.servo("adjust", shell_driver(adjust_seconds=ADJUST_SECONDS), ADJUST_COUNT)
    request = write_request(directory, ADJUST_COUNT)

    def measure() -> float:
        drivers = [f"adjust.d/{number:03}driver" for number in range(ADJUST_COUNT)]
        alone = sum(here.milliseconds(directory, (driver, "app"), request) for driver in drivers)
        query = here.milliseconds(directory, QUERY)
        return (here.milliseconds(directory, ADJUST, request) - query - alone) / ADJUST_COUNT

    return measure


def report_limits(here: Workspace, only: Sequence[str], rounds: int, *, check: bool) -> bool:
    """Measure the cases and print their figures; return whether all limits are met, in a check with slack."""
    cases = selected(cases_with_limits(here), only)
    samples = take_samples(cases, rounds)
    bare = statistics.median(here.milliseconds(here.directory, here.bare_python) for _ in range(rounds))
    print(f"{rounds} rounds; a bare start of Python takes {bare:.1f} ms")
    rows = [("", "name", "median", "quartiles", "at most", "")]
    all_met = True
    for case in cases:
        limit = case.limit * case.slack if check else case.limit
        low, median, high = quartiles(samples[case.name])
        met = median <= limit
        all_met &= met
        figures = (f"{median:.2f}", f"{low:.2f}..{high:.2f}", f"{limit:.2f}", "met" if met else "MISSED")
        rows.append((case.description, case.name, *figures))
    print(table(rows))
    return all_met


def selected(cases: Sequence[Case], only: Sequence[str]) -> list[Case]:
    """Return the cases with these names, or all if there are none."""
    if unknown := set(only) - {case.name for case in cases}:
        raise SystemExit(f"unknown: {unknown}; there are: {', '.join(case.name for case in cases)}")
    return [case for case in cases if not only or case.name in only]


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """Return the first quartile, the median and the third quartile."""
    low, median, high = np.percentile(samples, (25, 50, 75))
    return float(low), float(median), float(high)


# Comparison with another version.


def cases_against(here: Workspace, other: Path) -> list[Case]:
    """Make servo directories; return the cases that compare this checkout with another."""

    def compare(
        name: str, description: str, driver: str, count: int, command: Sequence[str], samples: int
    ) -> Case:
        this = here.servo(f"{name}-this", driver, count)
        that = here.servo(f"{name}-that", driver, count, checkout=other)
        request = write_request(this, count)
        return Case(
            name,
            description,
            ratio(
                lambda: here.milliseconds(this, command, request),
                lambda: here.milliseconds(that, command, request),
            ),
            samples=samples,
        )

    this = here.servo("memory-this", shell_driver(), 8)
    that = here.servo("memory-that", shell_driver(), 8, checkout=other)
    return [
        compare("one", "query of 1 sh driver", shell_driver(), 1, QUERY, 4),
        compare("python", "query of 8 Python drivers", PYTHON_DRIVER, 8, QUERY, 4),
        compare("thirty", "query of 30 sh drivers", shell_driver(), 30, QUERY, 4),
        compare("info", "--info of 8 sh drivers", shell_driver(), 8, INFO, 4),
        compare("adjust", "adjust of 3 sh drivers", shell_driver(), 3, ADJUST, 4),
        Case(
            "memory",
            "peak memory of a query of 8 sh drivers",
            ratio(lambda: here.peak(this, QUERY), lambda: here.peak(that, QUERY)),
            samples=4,
        ),
    ]


def report_against(here: Workspace, only: Sequence[str], rounds: int, other: Path) -> bool:
    """Measure this checkout and another, and print the ratios; there is no limit to be missed."""
    cases = selected(cases_against(here, other), only)
    samples = take_samples(cases, rounds)
    rows = [("this checkout / other", "name", "median", "quartiles")]
    everything = [sample for case in cases for sample in samples[case.name]]
    figures = [(case.description, case.name, samples[case.name]) for case in cases]
    for description, name, values in (*figures, ("all", "", everything)):
        low, median, high = quartiles(values)
        rows.append((description, name, f"{median:.3f}", f"{low:.3f}..{high:.3f}"))
    print(table(rows))
    return True


# Curves.

GROWTH_LIMIT = 1.1
"""Time and memory must not grow with a higher power of a size than this: linear, with a margin of error."""

DRIVER_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
REPLY_SIZES = tuple(1 << power for power in range(10, 23))
"""Bytes; a driver's reply must not be longer than 4 MiB (SPEC 4.5, 4.6)."""

OURS, BASELINE, PEAK = "servo-agg, ms", "baseline, ms", "peak, MiB"


@dataclass
class Point:
    """One size of a curve: its measurements by name, and the samples of each."""

    label: str
    size: int
    measures: dict[str, Callable[[], float]]
    samples: Mapping[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def median(self, name: str) -> float:
        """Return the median of one measurement."""
        return statistics.median(self.samples[name])

    def ratio(self, first: str, second: str) -> float:
        """Return the median of the ratios of two measurements, which were taken in turn."""
        return statistics.median(a / b for a, b in zip(self.samples[first], self.samples[second]))


def take_points(points: Sequence[Point], rounds: int) -> None:
    """Measure each point in each round, and add to its samples."""
    for number in range(1, rounds + 1):
        for point in points:
            show_progress(f"round {number} of {rounds}: {point.label}")
            for name in list(point.measures)[:: -1 if number % 2 else 1]:
                point.samples[name].append(point.measures[name]())
    show_progress("")


def print_points(points: Sequence[Point], *ratios: tuple[str, str]) -> None:
    """Print the medians of each point, and the ratios of these pairs of measurements."""
    names = list(points[0].measures)
    rows = [("", *names, *(" / ".join(name.partition(",")[0] for name in pair) for pair in ratios))]
    for point in points:
        medians = (f"{point.median(name):.1f}" for name in names)
        rows.append((point.label, *medians, *(f"{point.ratio(*pair):.2f}" for pair in ratios)))
    print(f"{table(rows)}\n")


def plot_points(
    axes: Axes, points: Sequence[Point], names: Sequence[str], size: str, **scale: object
) -> None:
    """Draw the medians of these measurements over the size; error bars go from the lowest to the highest."""
    sizes = [point.size for point in points]
    for name in names:
        medians = [point.median(name) for point in points]
        below = [median - min(point.samples[name]) for median, point in zip(medians, points)]
        above = [max(point.samples[name]) - median for median, point in zip(medians, points)]
        axes.errorbar(sizes, medians, [below, above], label=name, marker="o", markersize=4, capsize=3)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set(xlabel=size, **scale)
    axes.legend(frameon=False)


def save(figure: Figure, name: str, title: str, rounds: int) -> None:
    """Write a figure to a file, and print its path."""
    OUT.mkdir(exist_ok=True)
    figure.suptitle(f"{title}: medians of {rounds} rounds, {os.cpu_count()} processors")
    figure.savefig(OUT / name)
    print(OUT / name)


def exponent(points: Sequence[Point], name: str) -> float:
    """Return the power of the size with which a measurement grows, over the upper half of the sizes."""
    upper = points[len(points) // 2 :]
    sizes = np.log([point.size for point in upper])
    slope, _ = np.polyfit(sizes, np.log([point.median(name) for point in upper]), 1)
    return float(slope)


def point_of_growth(here: Workspace, label: str, size: int, directory: Path) -> Point:
    """Return a point that compares a query with the baseline, and has its peak memory."""
    measures = {
        OURS: lambda: here.milliseconds(directory, QUERY),
        BASELINE: lambda: here.milliseconds(directory, here.baseline(directory)),
        PEAK: lambda: here.peak(directory, QUERY),
    }
    return Point(label, size, measures)


def point_of_reply(here: Workspace, size: int) -> Point:
    """Return a point of growth with one driver that replies with about `size` bytes."""
    settings = {"settings": {"cpu": {"type": "range", "min": 0.5, "max": 8, "step": 0.5, "value": 2}}}
    count = max(1, (size - 64) // len(json.dumps({"c000000": settings})))
    reply = {"application": {"components": {f"c{number:06}": settings for number in range(count)}}}
    directory = here.servo(f"reply-{size}", "#!/bin/sh\nexec cat reply.json\n", 1)
    (directory / "reply.json").write_text(json.dumps(reply) + "\n", encoding="utf-8")
    return point_of_growth(here, f"reply: {size >> 10} KiB", size, directory)


def report_growth(here: Workspace, rounds: int) -> bool:
    """Measure growth with drivers and replies, print and plot it; return whether it is linear at most."""
    drivers = [
        point_of_growth(here, f"sh drivers: {count}", count, here.servo(f"{count}", shell_driver(), count))
        for count in DRIVER_COUNTS
    ]
    replies = [point_of_reply(here, size) for size in REPLY_SIZES]
    take_points([*drivers, *replies], rounds)
    figure = Figure(figsize=(11, 8), layout="constrained")
    all_met = True
    for (left, right), points, size in zip(figure.subplots(2, 2), (drivers, replies), ("drivers", "bytes")):
        print_points(points, (OURS, BASELINE))
        plot_points(left, points, (OURS, BASELINE), size, yscale="log")
        plot_points(right, points, (PEAK,), size, ylim=(0, None))
        for name in (OURS, PEAK):
            power = exponent(points, name)
            all_met &= power <= GROWTH_LIMIT
            print(f"{name.partition(',')[0]} grows with {size} ** {power:.2f}, at most {GROWTH_LIMIT}")
        print()
    save(figure, "growth.svg", "A query", rounds)
    return all_met


PARALLEL_LIMIT = 1.12
"""`--describe` of the slow drivers must not take longer than the slowest of them multiplied by this."""

SERIAL_LIMIT = 6.0
"""With `parallel: 1` it must take at least as many times as long as in parallel."""

PYTHON_COUNTS = (1, 2, 4, 8, 16)
DESCRIBE_COUNT = 8
DESCRIBE_SECONDS = 0.5

SLOWEST, PARALLEL, ONE_BY_ONE = "slowest driver, ms", "parallel, ms", "one by one, ms"

LIBRARY_DRIVER = PYTHON_DRIVER.replace(
    "import json\n", "import argparse, json, os, signal, threading, time, traceback\n"
)
"""A driver that imports what drivers with the common library import."""


def point_of_describe(here: Workspace, label: str, driver: str, count: int) -> Point:
    """Return a point that compares ways to run drivers for `--describe`."""
    parallel = here.servo(f"{label}, parallel", driver, count)
    serial = here.servo(f"{label}, one by one", driver, count, "agg: {parallel: 1}\n")
    one = (f"adjust.d/{count - 1:03}driver", "--query", "app")
    measures = {
        SLOWEST: lambda: here.milliseconds(parallel, one),
        BASELINE: lambda: here.milliseconds(parallel, here.baseline(parallel)),
        PARALLEL: lambda: here.milliseconds(parallel, DESCRIBE),
        ONE_BY_ONE: lambda: here.milliseconds(serial, DESCRIBE),
    }
    return Point(label, count, measures)


def report_describe(here: Workspace, rounds: int) -> bool:
    """Measure the latency of `--describe`, print and plot it; return whether both limits are met."""
    python = [
        point_of_describe(here, f"Python drivers: {count}", LIBRARY_DRIVER, count) for count in PYTHON_COUNTS
    ]
    label = f"{DESCRIBE_COUNT} sh drivers of {DESCRIBE_SECONDS} s"
    slow = point_of_describe(here, label, shell_driver(DESCRIBE_SECONDS), DESCRIBE_COUNT)
    take_points([*python, slow], rounds)
    print_points([*python, slow], (PARALLEL, SLOWEST), (PARALLEL, BASELINE), (ONE_BY_ONE, PARALLEL))
    parallel, serial = slow.ratio(PARALLEL, SLOWEST), slow.ratio(ONE_BY_ONE, PARALLEL)
    print(f"{label}: parallel / slowest driver {parallel:.3f}, at most {PARALLEL_LIMIT}")
    print(f"{label}: one by one / parallel {serial:.2f}, at least {SERIAL_LIMIT}")
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    plot_points(left, python, list(slow.measures), "Python drivers", ylim=(0, None))
    bars = right.barh(list(slow.measures), [slow.median(name) for name in slow.measures])
    right.bar_label(bars, fmt="%.0f", padding=3)
    right.set(xlabel=label)
    right.margins(x=0.15)
    save(figure, "describe.svg", "--describe", rounds)
    return parallel <= PARALLEL_LIMIT and serial >= SERIAL_LIMIT


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="take few rounds, and allow slack for load")
    mode.add_argument("--against", metavar="CHECKOUT", type=Path, help="compare with another version")
    mode.add_argument("--growth", action="store_true", help="plot over number of drivers and size of reply")
    mode.add_argument("--describe", action="store_true", help="plot the latency of --describe")
    parser.add_argument("--only", metavar="NAME", action="append", default=[], help="measure only this case")
    parser.add_argument("--rounds", type=int, help=f"default: {ROUNDS}, for --check {CHECK_ROUNDS}")
    arguments = parser.parse_args()
    if arguments.rounds is None:
        arguments.rounds = CHECK_ROUNDS if arguments.check else ROUNDS
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    if arguments.only and (arguments.growth or arguments.describe):
        parser.error("--growth and --describe have no cases for --only")
    return arguments


def main() -> int:
    """Measure what the arguments ask for; return the exit status."""
    arguments = parse_arguments()
    started = time.monotonic()
    with workspace() as here:
        if arguments.growth:
            all_met = report_growth(here, arguments.rounds)
        elif arguments.describe:
            all_met = report_describe(here, arguments.rounds)
        elif arguments.against:
            all_met = report_against(here, arguments.only, arguments.rounds, arguments.against.resolve())
        else:
            all_met = report_limits(here, arguments.only, arguments.rounds, check=arguments.check)
    print(f"finished in {time.monotonic() - started:.0f} s")
    return 0 if all_met else 1


if __name__ == "__main__":
    sys.exit(main())
