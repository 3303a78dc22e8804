#!/usr/bin/env python3
"""How time and memory of a query grow: with the number of drivers, their own time, the size of their replies.

Beside each size of ours stands the floor, a C program that starts the same drivers at once and reads them. On
the upper half of the sizes a line is laid through the logarithms: its slope is the exponent of the growth,
which must be no worse than linear. Last comes the default of `parallel`: time, and memory of all drivers
together, for a range of it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from matplotlib.figure import Figure
from pairs import OUT, PYTHON_DRIVER, QUERY, TIMEOUT, milliseconds, ratio, shell_driver, show, stage, table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes
    from pairs import Stage

EXPONENT = 1.1
"""Time and memory may grow with this power of the size: linear, and what a measure errs."""

COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
QUICK_COUNTS = (1, 4, 16, 64)

SIZES = tuple(1 << power for power in range(10, 23))
QUICK_SIZES = (1 << 10, 1 << 14, 1 << 18, 1 << 20, 1 << 22)
"""Bytes of a driver's reply; its limit is 4 MiB (SPEC 4)."""

OWN_SECONDS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)
QUICK_OWN_SECONDS = (0.0, 0.25, 1.0)
OWN_COUNT = 8

PARALLEL = (1, 2, 4, 8, 16, 32, 64, 128)
QUICK_PARALLEL = (1, 8, 32, 128)
PARALLEL_COUNT = 64

LOOK = 0.01
"""Seconds between two looks at the memory of all drivers."""

OURS, FLOOR = "#1f6f8b", "#8a8a8a"


@dataclass
class Point:
    """What was measured at one size: seconds of the rounds, ours and the floor's, and our peaks in KiB."""

    size: float
    directory: Path
    ours: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)

    def take(self, here: Stage, *, memory: bool) -> None:
        """Take one round."""
        floor = here.floor(self.directory)
        ours, least = here.pair(
            lambda: here.seconds(self.directory, QUERY), lambda: here.seconds(self.directory, floor)
        )
        self.ours.append(ours)
        self.floor.append(least)
        if memory:
            self.peaks.append(here.peak(self.directory, QUERY))


@dataclass
class Setting:
    """What was measured with one value of `parallel`: seconds, and the most memory of all drivers in KiB."""

    parallel: int
    directory: Path
    seconds: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)

    def take(self, here: Stage) -> None:
        """Take one round; time and memory not in the same run, for looking at memory takes time."""
        self.seconds.append(here.seconds(self.directory, QUERY))
        self.memory.append(memory_of_drivers(here, self.directory))


def memory_of_drivers(here: Stage, directory: Path) -> float:
    """Run a query; return the KiB that all its drivers had together at most.

    Of a page that several share each counts its part (PSS).
    """
    most = 0
    with subprocess.Popen(
        QUERY, cwd=directory, env=here.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as program:
        watched = psutil.Process(program.pid)
        until = time.monotonic() + TIMEOUT
        while program.poll() is None:
            if time.monotonic() >= until:
                program.send_signal(signal.SIGTERM)
                raise SystemExit(f"a query in {directory} does not end")
            total = 0
            with contextlib.suppress(psutil.Error):
                for child in watched.children():
                    with contextlib.suppress(psutil.Error):
                        if any(word.startswith("adjust.d/") for word in child.cmdline()):
                            total += child.memory_full_info().pss
            most = max(most, total)
            time.sleep(LOOK)
    return most / 1024


def reply_driver(size: int) -> tuple[str, str]:
    """Return a driver that answers with about so many bytes, and the text of that answer."""
    components: dict[str, object] = {}
    one = {"settings": {"cpu": {"type": "range", "min": 0.5, "max": 8, "step": 0.5, "value": 2}}}
    each = len(json.dumps({"c000000": one}))
    for number in range(max(1, (size - 64) // each)):
        components[f"c{number:06}"] = one
    return "#!/bin/sh\nexec cat reply.json\n", json.dumps({"application": {"components": components}}) + "\n"


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the slope of the line through the logarithms of the upper half, by least squares."""
    half = len(sizes) // 2
    x = [math.log(size) for size in sizes[half:]]
    y = [math.log(value) for value in values[half:]]
    middle, height = statistics.fmean(x), statistics.fmean(y)
    rise = sum((a - middle) * (b - height) for a, b in zip(x, y))
    return rise / sum((a - middle) ** 2 for a in x)


def memory(point: Point) -> float:
    """Return the median of the peaks in MiB."""
    return statistics.median(point.peaks) / 1024


def size_name(size: float) -> str:
    """Name a number of bytes."""
    return f"{size / 1024:g} KiB" if size < 1 << 20 else f"{size / (1 << 20):g} MiB"


def table_of(head: str, points: Sequence[Point], name: Callable[[float], str]) -> str:
    """Return the figures of one kind of growth, a line per size."""
    with_memory = bool(points[0].peaks)
    rows = [(head, "ours", "floor", "ours/floor", "ours-floor", *(["peak memory"] if with_memory else []))]
    rows.append(("", "ms", "ms", "", "ms", *(["MiB"] if with_memory else [])))
    for point in points:
        added = [ours - floor for ours, floor in zip(point.ours, point.floor)]
        rows.append(
            (
                name(point.size),
                f"{milliseconds(point.ours):.1f}",
                f"{milliseconds(point.floor):.1f}",
                f"{ratio(point.ours, point.floor):.2f}",
                f"{milliseconds(added):+.1f}",
                *([f"{memory(point):.1f}"] if with_memory else []),
            )
        )
    return table(rows)


def table_of_parallel(settings: Sequence[Setting]) -> str:
    """Return the figures of `parallel`, a line per value."""
    rows = [("parallel", "query", "all drivers"), ("", "ms", "MiB")]
    for setting in settings:
        most = statistics.median(setting.memory) / 1024
        rows.append((str(setting.parallel), f"{milliseconds(setting.seconds):.0f}", f"{most:.0f}"))
    return table(rows)


def verdicts(drivers: Sequence[Point], replies: Sequence[Point]) -> list[tuple[str, bool]]:
    """Return a sentence about each kind of growth, and whether it is no worse than linear."""
    found = []
    for points, of_what in ((drivers, "number of drivers"), (replies, "size of a reply")):
        sizes = [point.size for point in points]
        for what, values in (
            ("time", [statistics.median(point.ours) for point in points]),
            ("peak memory", [memory(point) for point in points]),
        ):
            slope = exponent(sizes, values)
            met = slope <= EXPONENT
            words = f"{what} grows with the {of_what} to the power of {slope:.2f}"
            found.append((f"{words} (at most {EXPONENT}: {'met' if met else 'MISSED'})", met))
    return found


def plot_lines(axes: Axes, points: Sequence[Point], title: str, xlabel: str) -> None:
    """Draw seconds over the size, ours and the floor, both axes in powers."""
    sizes = [point.size for point in points]
    for values, name, colour, marker in (
        ([statistics.median(point.ours) for point in points], "ours", OURS, "o"),
        ([statistics.median(point.floor) for point in points], "floor", FLOOR, "^"),
    ):
        axes.plot(sizes, values, label=name, color=colour, marker=marker, markersize=5)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set(title=title, xlabel=xlabel, ylabel="seconds")
    axes.legend(frameon=False)


def plot_memory(axes: Axes, points: Sequence[Point], title: str, xlabel: str, bare: float) -> None:
    """Draw the peak memory over the size; `bare` is that of the interpreter in MiB."""
    axes.plot(
        [point.size for point in points],
        [memory(point) for point in points],
        color=OURS,
        marker="o",
        markersize=5,
    )
    axes.axhline(bare, color=FLOOR, linestyle="--", label="bare interpreter")
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set(title=title, xlabel=xlabel, ylabel="MiB")
    axes.legend(frameon=False)


def plot_own_time(axes: Axes, points: Sequence[Point]) -> None:
    """Draw how many times as long as the floor we take, over the drivers' own time."""
    ratios = [ratio(point.ours, point.floor) for point in points]
    axes.plot([point.size for point in points], ratios, color=OURS, marker="o", markersize=5)
    axes.axhline(1, color=FLOOR, linestyle="--")
    axes.set_ylim(bottom=0)
    axes.set(title=f"Time of {OWN_COUNT} sh drivers, ours/floor", xlabel="seconds that each driver takes")


def plot_parallel(axes: Axes, settings: Sequence[Setting]) -> None:
    """Draw time and memory over `parallel`."""
    values = [setting.parallel for setting in settings]
    seconds = [statistics.median(setting.seconds) for setting in settings]
    mebibytes = [statistics.median(setting.memory) / 1024 for setting in settings]
    axes.plot(values, seconds, color=OURS, marker="o", markersize=5, label="seconds of a query")
    axes.set_ylim(bottom=0)
    axes.set_xscale("log", base=2)
    axes.set(title=f"{PARALLEL_COUNT} Python drivers", xlabel="parallel", ylabel="seconds")
    right = axes.twinx()
    right.plot(values, mebibytes, color="#b2452f", marker="s", markersize=5, label="MiB of all drivers")
    right.set_ylim(bottom=0)
    right.set_ylabel("MiB")
    handles = [*axes.get_lines(), *right.get_lines()]
    axes.legend(handles, [str(handle.get_label()) for handle in handles], frameon=False)


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rounds", type=int, help="how often every point is taken (7; with --quick 3)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and fewer points")
    parser.add_argument("--out", type=Path, default=OUT, help="directory for the plot (%(default)s)")
    parser.add_argument(
        "--python", type=Path, help="an interpreter with psutil and PyYAML, instead of one made for this"
    )
    args = parser.parse_args()
    if args.rounds is None:
        args.rounds = 3 if args.quick else 7
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    return args


def main() -> int:
    """Measure, print the tables, draw the plot; the exit status tells whether growth is linear at most."""
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    quick = args.quick
    with stage(args.python) as here:
        drivers = [
            Point(count, here.servo(f"drivers-{count}", shell_driver(), count))
            for count in (QUICK_COUNTS if quick else COUNTS)
        ]
        own = [
            Point(seconds, here.servo(f"own-{seconds}", shell_driver(seconds), OWN_COUNT))
            for seconds in (QUICK_OWN_SECONDS if quick else OWN_SECONDS)
        ]
        replies = []
        for size in QUICK_SIZES if quick else SIZES:
            driver, answer = reply_driver(size)
            directory = here.servo(f"reply-{size}", driver, 1)
            (directory / "reply.json").write_text(answer, encoding="utf-8")
            replies.append(Point(size, directory))
        settings = [
            Setting(
                parallel,
                here.servo(
                    f"parallel-{parallel}", PYTHON_DRIVER, PARALLEL_COUNT, f"agg: {{parallel: {parallel}}}\n"
                ),
            )
            for parallel in (QUICK_PARALLEL if quick else PARALLEL)
        ]
        bare = []
        for number in range(1, args.rounds + 1):
            for point in (*drivers, *own, *replies):
                show(f"round {number} of {args.rounds}: {point.directory.name}")
                point.take(here, memory=point not in own)
            for setting in settings:
                show(f"round {number} of {args.rounds}: {setting.directory.name}")
                setting.take(here)
            bare.append(here.peak(here.parent, here.bare) / 1024)
        show("")
    print(table_of("sh drivers", drivers, lambda count: f"{count:g}"), end="\n\n")
    print(table_of(f"own time of {OWN_COUNT} drivers", own, lambda seconds: f"{seconds:g} s"), end="\n\n")
    print(table_of("reply of 1 driver", replies, size_name), end="\n\n")
    print(f"{PARALLEL_COUNT} Python drivers:\n{table_of_parallel(settings)}", end="\n\n")
    said = verdicts(drivers, replies)
    print("\n".join(sentence for sentence, _ in said))
    figure = Figure(figsize=(13, 7.5), layout="constrained")
    axes = figure.subplots(2, 3)
    plot_lines(axes[0, 0], drivers, "Time, by number of sh drivers", "drivers")
    plot_memory(
        axes[0, 1], drivers, "Our peak memory, by number of drivers", "drivers", statistics.median(bare)
    )
    plot_own_time(axes[0, 2], own)
    plot_lines(axes[1, 0], replies, "Time, by size of one driver's reply", "bytes")
    plot_memory(axes[1, 1], replies, "Our peak memory, by size of a reply", "bytes", statistics.median(bare))
    plot_parallel(axes[1, 2], settings)
    for each in figure.axes:
        each.spines["top"].set_visible(False)
    figure.suptitle(f"A query: medians of {args.rounds} rounds, {os.cpu_count()} processors", fontsize=11)
    picture = args.out / "growth.svg"
    figure.savefig(picture)
    print(f"\n{picture}")
    return 0 if all(met for _, met in said) else 1


if __name__ == "__main__":
    sys.exit(main())
