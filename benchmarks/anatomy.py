#!/usr/bin/env python3
"""Where the time of a `--query` goes, from the start of the interpreter to the end that the agent sees.

The program is run through a few lines that note the time before and after some of its functions, and say all
of it when it exits. The program knows nothing of that. What each group of imports takes is told by
`-X importtime` in runs of their own, and scaled to what all imports took without it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from pairs import (
    OUT,
    PYTHON_DRIVER,
    QUERY,
    REPOSITORY,
    milliseconds,
    ratio,
    shell_driver,
    show,
    stage,
    table,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pairs import Stage

COUNTS = (1, 8, 30)
"""Numbers of sh drivers."""

PYTHON_DRIVERS = 8

SLOWEST = 12
"""How many modules are named."""

# A note is [name, begin, end] in seconds of the monotonic clock, which all processes share.
RUNNER = """\
import time
begun = time.monotonic()

import os
import sys

sys.path.append({repository!r})
from servo_agg import cli, coordinator
imported = time.monotonic()

from servo_agg import description, running
all_imported = time.monotonic()

from servo_agg import config, guardian, inbox, listener, process, supervisor

notes = []


def note(owner, function, name):
    wrapped = getattr(owner, function)

    def timed(*args, **kwargs):
        began = time.monotonic()
        try:
            return wrapped(*args, **kwargs)
        finally:
            notes.append([name, began, time.monotonic()])

    setattr(owner, function, timed)


note(config.Config, "__init__", "configuration")
note(guardian.Guardian, "__init__", "guardian")
note(guardian.Guardian, "release", "guardian")
note(guardian.Guardian, "reap", "guardian")
note(process.Child, "__init__", "spawn")
note(inbox.Inbox, "get", "waiting")
note(running.Running, "learn", "reading")
note(running.Running, "finish", "judging and reaping")
note(description, "merge", "merge")
note(coordinator, "encode", "encode")
note(listener.Listener, "flush", "write")
note(supervisor.Supervisor, "drive", "drive")
file = os.open({notes!r}, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
ours = os.getpid()
leave = os._exit


def leave_a_word(status):
    if os.getpid() == ours:
        said = repr([begun, imported, all_imported, ready, notes])
        os.write(file, f"[{{time.monotonic()}}, {{said}}]".replace("'", '"').encode())
    leave(status)


os._exit = leave_a_word
ready = time.monotonic()
cli.main()
"""

PARTS = (
    "interpreter start",
    "imports: standard library",
    "imports: our rooms",
    "imports: while drivers run",
    "configuration",
    "guardian",
    "spawn",
    "waiting for drivers",
    "reading",
    "judging and reaping",
    "merge",
    "encode",
    "write",
    "exit",
    "the rest",
)


@dataclass
class Anatomy:
    """The seconds of each part, by round, for a number of drivers; `whole` is without any note."""

    count: int
    directory: Path
    runner: Path
    parts: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in PARTS})
    whole: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)

    def take(self, here: Stage, of_library: float) -> None:
        """Take one round; `of_library` is the part of the imports that is the standard library's."""
        self.whole.append(here.seconds(self.directory, QUERY))
        self.floor.append(here.seconds(self.directory, here.floor(self.directory)))
        started = time.monotonic()
        noted = here.run(self.directory, (str(here.python), str(self.runner), "--query", "app"))
        left, (begun, imported, all_imported, ready, notes) = json.loads(
            (self.directory / "notes").read_text(encoding="utf-8")
        )
        taken = {
            "interpreter start": begun - started,
            "imports: standard library": (imported - begun) * of_library,
            "imports: our rooms": (imported - begun) * (1 - of_library),
            # Here they are taken before, since the notes need them; the drivers do not wait for them.
            "imports: while drivers run": all_imported - imported,
            "exit": started + noted.seconds - left,
        }
        flushing = next(began for name, began, _ in notes if name == "write")
        for name, began, ended in notes:
            if name == "waiting" and began < flushing:
                taken["waiting for drivers"] = taken.get("waiting for drivers", 0.0) + ended - began
            elif name in PARTS:
                taken[name] = taken.get(name, 0.0) + ended - began
        # What the runner itself took to prepare its notes is nobody's.
        taken["the rest"] = noted.seconds - (ready - all_imported) - sum(taken.values())
        for part in PARTS:
            self.parts[part].append(taken.get(part, 0.0))


def make(here: Stage, count: int) -> Anatomy:
    """Make a servo directory and the runner in it."""
    directory = here.servo(f"drivers-{count}", shell_driver(), count)
    runner = directory / "runner.py"
    runner.write_text(
        RUNNER.format(repository=str(REPOSITORY), notes=str(directory / "notes")), encoding="utf-8"
    )
    return Anatomy(count, directory, runner)


def imports(here: Stage, directory: Path, *command: str) -> Counter[str]:
    """Return the microseconds that each module takes to import, those that it imports not counted."""
    done = subprocess.run(
        [here.python, "-X", "importtime", *command],
        cwd=directory,
        env=here.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )
    found: Counter[str] = Counter()
    for line in done.stderr.decode().splitlines():
        if line.startswith("import time:") and "self [us]" not in line:
            own, _, name = line.removeprefix("import time:").split("|")
            found[name.strip()] = int(own)
    return found


def import_times(here: Stage, directory: Path, rounds: int) -> dict[str, float]:
    """Return the median microseconds of each module that a query imports and a bare start does not."""
    bare = imports(here, directory, "-c", "pass")
    taken = [imports(here, directory, *QUERY) for _ in range(rounds)]
    return {name: statistics.median(times[name] for times in taken) for name in taken[0] if name not in bare}


def table_of(anatomies: Sequence[Anatomy]) -> str:
    """Return a line per part, and the sums."""
    rows = [("ms, medians", *(f"{anatomy.count} drivers" for anatomy in anatomies))]
    rows += [(part, *(f"{milliseconds(anatomy.parts[part]):.2f}" for anatomy in anatomies)) for part in PARTS]
    sums = [sum(milliseconds(anatomy.parts[part]) for part in PARTS) for anatomy in anatomies]
    rows.append(("sum", *(f"{total:.2f}" for total in sums)))
    rows.append(("a query without notes", *(f"{milliseconds(anatomy.whole):.2f}" for anatomy in anatomies)))
    rows.append(("floor", *(f"{milliseconds(anatomy.floor):.2f}" for anatomy in anatomies)))
    return table(rows)


def steps(here: Stage, rounds: int) -> str:
    """Return a table that leads from the floor to us, for drivers that need the processors themselves."""
    directory = here.servo("python", PYTHON_DRIVER, PYTHON_DRIVERS)
    commands = {
        "floor": here.floor(directory),
        "the same in Python": here.launcher(directory, rooms=False),
        "the same, our rooms imported": here.launcher(directory, rooms=True),
        "we": QUERY,
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(1, rounds + 1):
        show(f"round {number} of {rounds}: {PYTHON_DRIVERS} Python drivers")
        for name, command in commands.items():
            taken[name].append(here.seconds(directory, command))
    show("")
    floor = taken["floor"]
    rows = [(f"{PYTHON_DRIVERS} Python drivers", "ms", "/ floor")]
    rows += [
        (name, f"{milliseconds(times):.1f}", f"{ratio(times, floor):.2f}") for name, times in taken.items()
    ]
    return table(rows)


def table_of_imports(times: dict[str, float]) -> str:
    """Return the slowest modules."""
    slowest = sorted(times.items(), key=lambda pair: pair[1], reverse=True)[:SLOWEST]
    return table([("imports, themselves", "ms"), *((name, f"{taken / 1000:.2f}") for name, taken in slowest)])


def plot(anatomies: Sequence[Anatomy], path: Path, rounds: int) -> None:
    """Draw a bar per number of drivers, made of its parts."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots()
    names = [f"{anatomy.count} sh driver{'s' if anatomy.count > 1 else ''}" for anatomy in anatomies]
    left = [0.0] * len(anatomies)
    for number, part in enumerate(PARTS):
        widths = [milliseconds(anatomy.parts[part]) for anatomy in anatomies]
        # Ten colours in one go round are too few: the second go is hatched.
        hatch = "//" if number >= 10 else None  # noqa: PLR2004 - as above
        axes.barh(names, widths, left=left, label=part, color=f"C{number % 10}", hatch=hatch)
        left = [before + width for before, width in zip(left, widths)]
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds")
    axes.set_title(f"A query, part by part: medians of {rounds} rounds", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path)


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=31, help="how often every case is taken (%(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, help="directory for the plot (%(default)s)")
    parser.add_argument(
        "--python", type=Path, help="an interpreter with psutil and PyYAML, instead of one made for this"
    )
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    return args


def main() -> None:
    """Measure, print the tables, draw the plot."""
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    with stage(args.python) as here:
        anatomies = [make(here, count) for count in COUNTS]
        times = import_times(here, anatomies[0].directory, args.rounds)
        own = sum(taken for name, taken in times.items() if name.startswith("servo_agg"))
        of_library = 1 - own / sum(times.values())
        for number in range(1, args.rounds + 1):
            for anatomy in anatomies:
                show(f"round {number} of {args.rounds}: {anatomy.count} drivers")
                anatomy.take(here, of_library)
        show("")
        bare = milliseconds([here.seconds(here.parent, here.bare) for _ in range(args.rounds)])
        from_the_floor = steps(here, args.rounds)
    print(f"{table_of(anatomies)}\n{'a bare start of Python':26}{bare:.2f}\n\n{table_of_imports(times)}")
    print(f"\n{from_the_floor}")
    picture = args.out / "anatomy.svg"
    plot(anatomies, picture, args.rounds)
    print(f"\n{picture}")


if __name__ == "__main__":
    main()
