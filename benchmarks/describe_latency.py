#!/usr/bin/env python3
"""How long `./adjust --describe APP` takes, in parallel and one after another.

Servo directories are made in a temporary directory, with `adjust` symlinked to this repository's. In each
round every case is taken once, so that all see the same weather of the machine. What is reported of two cases
is the median of the ratios of their pairs, one pair per round; times are medians.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

REPOSITORY = Path(__file__).resolve().parent.parent

TIMEOUT = 120.0
"""Seconds after which a run counts as hung."""

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

SHELL_DRIVER = f"""\
    #!/bin/sh
    if [ "$1" = --info ]; then
        echo '{{"version":"1.0","has_cancel":false}}'
    else
        sleep {SHELL_SECONDS}
        echo '{{"application":{{"components":{{"'"${{0##*/}}"'":{{"settings":{{"cpu":{{"value":2}}}}}}}}}}}}'
    fi
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

    def take_round(self) -> None:
        """Time every way once."""
        drivers = [f"adjust.d/{name}" for name in sorted(os.listdir(self.parallel / "adjust.d"))]
        self.alone.append(timed(self.parallel, [[drivers[-1], "--query", "app"]]))
        self.in_parallel.append(timed(self.parallel, [["./adjust", "--describe", "app"]]))
        self.floor.append(timed(self.parallel, [[driver, "--query", "app"] for driver in drivers]))
        self.in_turn.append(timed(self.serial, [["./adjust", "--describe", "app"]]))


def environment() -> dict[str, str]:
    """Return our environment, with `python3` being the interpreter that runs this."""
    # Without cached bytecode every start would compile the program anew, which no installation does.
    left_out = ("OPTUNE_", "PYTHONDONTWRITEBYTECODE")
    made = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    made["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), made.get("PATH", os.defpath)])
    return made


def timed(directory: Path, commands: Sequence[Sequence[str]]) -> float:
    """Start all `commands` at once; return the seconds until the last has answered and exited.

    Each is in a session of its own, as the aggregator's drivers are: Linux shares processor time between
    sessions first (autogroups), so on a busy machine one session of many processes would look slow.
    """
    env = environment()
    started = time.perf_counter()
    children = [
        subprocess.Popen(
            command,
            cwd=directory,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        for command in commands
    ]
    answers = []
    try:
        answers = [child.communicate(timeout=TIMEOUT) for child in children]
    finally:
        for child in children:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
    seconds = time.perf_counter() - started
    for child, (stdout, stderr) in zip(children, answers):
        if child.returncode != 0 or b'"application"' not in stdout:
            said = (stdout + stderr).decode(errors="replace")
            raise SystemExit(f"{child.args!r} exited with status {child.returncode}: {said}")
    return seconds


def make_fleet(parent: Path, kind: str, count: int) -> Fleet:
    """Make two servo directories of `count` drivers that differ in `parallel: 1` alone."""
    source = textwrap.dedent({"Python": PYTHON_DRIVER, "sh": SHELL_DRIVER}[kind])
    parallel, serial = (parent / f"{kind}-{count}-{way}" for way in ("parallel", "serial"))
    for directory in (parallel, serial):
        drivers = directory / "adjust.d"
        drivers.mkdir(parents=True)
        (directory / "adjust").symlink_to(REPOSITORY / "adjust")
        for number in range(count):
            driver = drivers / f"{number:02}driver"
            driver.write_text(source, encoding="utf-8")
            driver.chmod(0o755)
    (serial / "config.yaml").write_text("agg: {parallel: 1}\n", encoding="utf-8")
    plural = "s" if count > 1 else ""
    waits = f", {SHELL_SECONDS:g} s each" if kind == "sh" else ""
    return Fleet(f"{count} {kind} driver{plural}{waits}", count, parallel, serial)


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Return the median of the ratios of the pairs of one round each."""
    return statistics.median(a / b for a, b in zip(over, under))


def milliseconds(seconds: Sequence[float]) -> float:
    """Return the median in milliseconds."""
    return statistics.median(seconds) * 1000


def table(fleets: Sequence[Fleet]) -> str:
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
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = (
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])
        for row in rows
    )
    return "\n".join(lines)


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
        default=REPOSITORY / "benchmarks" / "out",
        help="directory for the plot (%(default)s)",
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds and fewer cases")
    args = parser.parse_args()
    if args.rounds is None:
        args.rounds = 3 if args.quick else 11
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    return args


def show(text: str) -> None:
    """Let a person at a terminal see how far we are."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


def main() -> None:
    """Measure, print the table and the figures asked for, draw the plot."""
    args = arguments()
    with tempfile.TemporaryDirectory(prefix="describe-latency-") as temporary:
        parent = Path(temporary)
        counts = QUICK_PYTHON_COUNTS if args.quick else PYTHON_COUNTS
        python = [make_fleet(parent, "Python", count) for count in counts]
        shell = make_fleet(parent, "sh", SHELL_COUNT)
        fleets = [*python, shell]
        # The first start compiles the package to bytecode, which no later one does.
        for directory in (python[0].parallel, python[0].serial):
            timed(directory, [["./adjust", "--describe", "app"]])
        for number in range(1, args.rounds + 1):
            for fleet in fleets:
                show(f"round {number} of {args.rounds}: {fleet.label}")
                fleet.take_round()
        show("")
    sys.stdout.write(f"{table(fleets)}\n\n{verdict(shell)}\n")
    args.out.mkdir(parents=True, exist_ok=True)
    picture = args.out / "describe_latency.svg"
    plot(python, shell, picture)
    sys.stdout.write(f"\n{picture}\n")


if __name__ == "__main__":
    main()
