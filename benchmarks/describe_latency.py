#!/usr/bin/env python3
"""How long `./adjust --describe APP` takes, in parallel and one after another.

Every way of asking is taken once in each round. What is reported of two is the median of the ratios of their
pairs, one pair per round; times are medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from pairs import OUT, drivers_of, milliseconds, ratio, shell_driver, show, stage, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from pairs import Stage

DESCRIBE = ("./adjust", "--describe", "app")

PYTHON_COUNTS = (1, 2, 4, 8, 16)
QUICK_PYTHON_COUNTS = (1, 4, 8)
SHELL_COUNT = 8
SHELL_SECONDS = 0.5

PARALLEL_LIMIT = 1.12
"""The describe of the shell drivers may take this many times as long as the slowest of them alone."""

SERIAL_LIMIT = 6.0
"""One after another must take at least this many times as long as in parallel."""

# It imports what real drivers import by way of their common library, and it has to be found by `env` as they
# have, for the start of Python is most of what a describe costs.
PYTHON_DRIVER = """\
#!/usr/bin/env python3
import argparse, json, os, signal, sys, threading, time, traceback

parser = argparse.ArgumentParser()
parser.add_argument("--info", action="store_true")
parser.add_argument("--query", action="store_true")
parser.add_argument("--version", action="store_true")
parser.add_argument("app_id", nargs="?")
args = parser.parse_args()
if args.info:
    print(json.dumps({"version": "1.0", "has_cancel": False}))
else:
    settings = {"cpu": {"type": "range", "min": 0.5, "max": 8, "step": 0.5, "value": 2, "unit": "cores"}}
    component = os.path.basename(sys.argv[0])
    print(json.dumps({"application": {"components": {component: {"settings": settings}}}}))
"""


@dataclass
class Fleet:
    """A number of equal drivers, and the seconds that each way to ask them took, by round."""

    label: str
    count: int
    parallel: Path
    serial: Path
    alone: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)
    in_parallel: list[float] = field(default_factory=list)
    in_turn: list[float] = field(default_factory=list)

    def take_round(self, here: Stage) -> None:
        """Time every way once."""
        slowest = f"adjust.d/{drivers_of(self.parallel)[-1]}"
        self.alone.append(here.seconds(self.parallel, (slowest, "--query", "app")))
        self.in_parallel.append(here.seconds(self.parallel, DESCRIBE))
        self.floor.append(here.seconds(self.parallel, here.floor(self.parallel)))
        self.in_turn.append(here.seconds(self.serial, DESCRIBE))


def make_fleet(here: Stage, kind: str, count: int) -> Fleet:
    """Make two servo directories of `count` drivers that differ in `parallel: 1` alone."""
    source = {"Python": PYTHON_DRIVER, "sh": shell_driver(SHELL_SECONDS)}[kind]
    plural = "s" if count > 1 else ""
    waits = f", {SHELL_SECONDS:g} s each" if kind == "sh" else ""
    return Fleet(
        f"{count} {kind} driver{plural}{waits}",
        count,
        here.servo(f"{kind}-{count}-parallel", source, count),
        here.servo(f"{kind}-{count}-serial", source, count, "agg: {parallel: 1}\n"),
    )


def table_of(fleets: Sequence[Fleet]) -> str:
    """Return the figures, a line per fleet."""
    heads = (
        "",
        "alone",
        "floor",
        "parallel",
        "in turn",
        "parallel/alone",
        "parallel-floor",
        "in turn/parallel",
    )
    rows = [heads, ("", "ms", "ms", "ms", "ms", "", "ms", "")]
    for fleet in fleets:
        added = [ours - bare for ours, bare in zip(fleet.in_parallel, fleet.floor)]
        rows.append(
            (
                fleet.label,
                f"{milliseconds(fleet.alone):.0f}",
                f"{milliseconds(fleet.floor):.0f}",
                f"{milliseconds(fleet.in_parallel):.0f}",
                f"{milliseconds(fleet.in_turn):.0f}",
                f"{ratio(fleet.in_parallel, fleet.alone):.2f}",
                f"{milliseconds(added):+.0f}",
                f"{ratio(fleet.in_turn, fleet.in_parallel):.2f}",
            )
        )
    return table(rows)


def verdict(fleet: Fleet) -> str:
    """Return the two figures that the project asks for."""
    parallel = ratio(fleet.in_parallel, fleet.alone)
    serial = ratio(fleet.in_turn, fleet.in_parallel)
    return (
        f"--describe of {fleet.label} / the slowest driver alone: {parallel:.3f} "
        f"(at most {PARALLEL_LIMIT}: {'met' if parallel <= PARALLEL_LIMIT else 'MISSED'})\n"
        f"one after another / in parallel: {serial:.2f} "
        f"(at least {SERIAL_LIMIT:g}: {'met' if serial >= SERIAL_LIMIT else 'MISSED'})"
    )


def spread(samples: Sequence[Sequence[float]]) -> tuple[list[float], list[list[float]]]:
    """Return the medians, and how far the fastest and slowest are from them, as error bars."""
    medians = [statistics.median(times) for times in samples]
    below = [middle - min(times) for middle, times in zip(medians, samples)]
    above = [max(times) - middle for middle, times in zip(medians, samples)]
    return medians, [below, above]


WAYS = (
    ("in_turn", "one after another", "#b2452f", "s"),
    ("in_parallel", "in parallel (default)", "#1f6f8b", "o"),
    ("floor", "all started at once, no aggregator", "#8a8a8a", "^"),
    ("alone", "slowest driver alone", "#3c3c3c", "D"),
)
"""Attribute, name, colour and marker, from slow to fast."""


def plot_growth(axes: Axes, fleets: Sequence[Fleet]) -> None:
    """Draw seconds over the number of Python drivers."""
    counts = [fleet.count for fleet in fleets]
    for attribute, name, colour, marker in WAYS:
        medians, bars = spread([getattr(fleet, attribute) for fleet in fleets])
        axes.errorbar(counts, medians, bars, label=name, color=colour, marker=marker, markersize=5, capsize=3)
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("Python drivers")
    axes.set_ylabel("seconds")
    axes.set_title(f"Drivers that only start and answer ({os.cpu_count()} processors)", fontsize=10)
    axes.legend(frameon=False, fontsize=9)


def plot_shell(axes: Axes, fleet: Fleet) -> None:
    """Draw seconds of the shell drivers, a bar for each way."""
    for place, (attribute, name, colour, _) in enumerate(reversed(WAYS)):
        (median,), bars = spread([getattr(fleet, attribute)])
        axes.barh(place, median, xerr=bars, color=colour, capsize=3)
        factor = ratio(getattr(fleet, attribute), fleet.alone)
        inside = median > fleet.count * SHELL_SECONDS / 2
        axes.annotate(
            f"{name}: {median:.2f} s" + ("" if attribute == "alone" else f" ({factor:.2f}x)"),
            (median, place),
            xytext=(-12 if inside else 12, 0),
            textcoords="offset points",
            ha="right" if inside else "left",
            va="center",
            color="white" if inside else "black",
            fontsize=9,
        )
    axes.set_yticks([])
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds")
    axes.set_title(f"{fleet.label} (in brackets: over the slowest alone)", fontsize=10)


def plot(python: Sequence[Fleet], shell: Fleet, path: Path) -> None:
    """Write both pictures into one file."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    plot_growth(left, python)
    plot_shell(right, shell)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    rounds = len(shell.alone)
    figure.suptitle(
        f"./adjust --describe: medians of {rounds} rounds, bars from fastest to slowest", fontsize=11
    )
    figure.savefig(path)


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rounds", type=int, help="how often every case is taken (11; with --quick 3)")
    parser.add_argument(
        "--out",
        type=Path,
        default=OUT,
        help="directory for the plot (%(default)s)",
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds and fewer cases")
    args = parser.parse_args()
    if args.rounds is None:
        args.rounds = 3 if args.quick else 11
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    return args


def main() -> None:
    """Measure, print the table and the figures asked for, draw the plot."""
    args = arguments()
    with stage() as here:
        counts = QUICK_PYTHON_COUNTS if args.quick else PYTHON_COUNTS
        python = [make_fleet(here, "Python", count) for count in counts]
        shell = make_fleet(here, "sh", SHELL_COUNT)
        for number in range(1, args.rounds + 1):
            for fleet in (*python, shell):
                show(f"round {number} of {args.rounds}: {fleet.label}")
                fleet.take_round(here)
        show("")
    sys.stdout.write(f"{table_of([*python, shell])}\n\n{verdict(shell)}\n")
    args.out.mkdir(parents=True, exist_ok=True)
    picture = args.out / "describe_latency.svg"
    plot(python, shell, picture)
    sys.stdout.write(f"\n{picture}\n")


if __name__ == "__main__":
    main()
