#!/usr/bin/env python3
"""How much longer everything takes through us than it must: ratios of pairs, each with its limit.

Compared is with what nobody can do without: the floor, a C program that starts the same drivers at once and
reads them; a bare start of the same interpreter; and ourselves with `parallel: 1`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pairs import PYTHON_DRIVER, QUERY, milliseconds, shell_driver, show, stage, table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pairs import Stage

ROUNDS = 21
CHECK_ROUNDS = 5

SLACK = {"ratio": 1.35, "gain": 1 / 1.35, "time": 10.0, "memory": 1.0}
"""How many times the limit a checked figure may be, by kind.

Both of a pair suffer from a loaded machine, but not quite alike. A time has no partner that suffers with it:
its slack is for ten processes that want each processor. Memory knows no load.
"""

OWN_SECONDS = 0.4
ADJUST_SECONDS = 0.1
ADJUSTED = 3

# No real driver talks every 3 ms; this one does, so that a second brings lines enough.
PROGRESS_LINES = 300
PROGRESS_DRIVER = f"""\
#!/usr/bin/env python3
import os
import sys
import time

def say(line):
    os.write(1, line.encode() + b"\\n")

if "--query" in sys.argv:
    say('{{"application":{{"components":{{"000driver":{{"settings":{{"cpu":{{"value":2}}}}}}}}}}}}')
else:
    for number in range({PROGRESS_LINES}):
        time.sleep(0.003)
        say('{{"progress":%d,"message":"%d"}}' % (number * 100 // {PROGRESS_LINES}, time.monotonic_ns()))
    say('{{"status":"ok"}}')
"""


@dataclass(frozen=True)
class Case:
    """A figure that we hold ourselves to.

    take     gives the samples of a round; of all of them the median is reported, or what `summary` says
    limit    what it may be at most or, for a `kind` of "gain", must be at least
    aim      what we would like it to be
    kind     "time" is in milliseconds, the others are ratios
    samples  how often it is taken in a round: what is quick is taken more often
    """

    name: str
    what: str
    limit: float
    aim: float
    take: Callable[[], list[float]]
    kind: Literal["ratio", "gain", "time", "memory"] = "ratio"
    samples: int = 1
    summary: Callable[[Sequence[float]], float] = statistics.median

    def allowed(self, *, checking: bool) -> float:
        """Return the limit; where it is only checked, with its slack."""
        return self.limit * SLACK[self.kind] if checking else self.limit

    def met(self, value: float, *, checking: bool) -> bool:
        """Tell whether the value is good enough."""
        allowed = self.allowed(checking=checking)
        return value >= allowed if self.kind == "gain" else value <= allowed


def last_percent(samples: Sequence[float]) -> float:
    """Return the 99th percentile."""
    return statistics.quantiles(samples, n=100, method="inclusive")[-1]


def cases(here: Stage) -> list[Case]:
    """Make the servo directories, and return what is to be measured in them."""
    one = here.servo("one", shell_driver(), 1)
    eight = here.servo("eight", shell_driver(), 8)
    slow = here.servo("slow", shell_driver(OWN_SECONDS), 8)
    thirty = here.servo("thirty", shell_driver(), 30)
    python = here.servo("python", PYTHON_DRIVER, 8)
    in_turn = here.servo("in-turn", PYTHON_DRIVER, 8, "agg: {parallel: 1}\n")

    def over(
        first: tuple[Path, Sequence[str]],
        second: tuple[Path, Sequence[str]],
        measure: Callable[[Path, Sequence[str]], float] = here.seconds,
    ) -> Callable[[], list[float]]:
        def take() -> list[float]:
            above, below = here.pair(lambda: measure(*first), lambda: measure(*second))
            return [above / below]

        return take

    def over_floor(directory: Path) -> Callable[[], list[float]]:
        return over((directory, QUERY), (directory, here.floor(directory)))

    info = ("./adjust", "--info")
    return [
        Case(
            "one",
            "--query of 1 sh driver / bare python",
            2.3,
            2.0,
            over((one, QUERY), (one, here.bare)),
            samples=4,
        ),
        Case("python", "--query of 8 Python drivers / floor", 1.20, 1.10, over_floor(python), samples=2),
        Case("slow", f"--query of 8 sh drivers of {OWN_SECONDS} s / floor", 1.08, 1.05, over_floor(slow)),
        Case("thirty", "--query of 30 sh drivers / floor", 3.4, 2.6, over_floor(thirty), samples=2),
        Case(
            "info",
            "--info of 8 sh drivers / bare python",
            2.9,
            2.2,
            over((eight, info), (eight, here.bare)),
            samples=4,
        ),
        Case(
            "in-turn",
            "8 Python drivers, one after another / in parallel",
            1.6,
            1.75,
            over((in_turn, QUERY), (python, QUERY)),
            kind="gain",
        ),
        Case(
            "progress",
            "progress, written by a driver to read from us, 99th percentile, ms",
            3,
            1,
            progress(here),
            kind="time",
            summary=last_percent,
        ),
        Case(
            "memory",
            "peak memory of a query of 8 drivers / bare python",
            1.6,
            1.4,
            over((eight, QUERY), (eight, here.bare), here.peak),
            kind="memory",
        ),
        Case(
            "adjust",
            f"adjust of {ADJUSTED} drivers beyond theirs and a query, ms each",
            10,
            3,
            adjust(here),
            kind="time",
        ),
    ]


def request(directory: Path, count: int) -> str:
    """Write the input of an adjust of so many drivers; return its path."""
    components = {f"{number:03}driver": {"settings": {"cpu": {"value": 4}}} for number in range(count)}
    path = directory / "request.json"
    path.write_text(json.dumps({"application": {"components": components}}), encoding="utf-8")
    return str(path)


def progress(here: Stage) -> Callable[[], list[float]]:
    """Return what gives the milliseconds that each line of progress needs through us."""
    directory = here.servo("progress", PROGRESS_DRIVER, 1)
    given = request(directory, 1)

    def take() -> list[float]:
        taken = []
        rest = b""
        for at, block in here.run(directory, ("./adjust", "app"), given).blocks:
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                # Of our own lines, such as `000driver: starting`, none ends in a number.
                said = json.loads(line).get("message", "").rpartition(" ")[2]
                if said.isdigit() and len(said) > len("querying"):
                    taken.append((at - int(said)) / 1e6)
        if len(taken) != PROGRESS_LINES:
            raise SystemExit(f"of {PROGRESS_LINES} lines of progress {len(taken)} arrived")
        return taken

    return take


def adjust(here: Stage) -> Callable[[], list[float]]:
    """Return what gives the milliseconds that each driver of an adjust costs beyond its own time."""
    directory = here.servo("adjust", shell_driver(adjusting=ADJUST_SECONDS), ADJUSTED)
    given = request(directory, ADJUSTED)

    def take() -> list[float]:
        drivers = [f"adjust.d/{number:03}driver" for number in range(ADJUSTED)]
        alone = sum(here.run(directory, (driver, "app"), given).seconds for driver in drivers)
        query, whole = here.pair(
            lambda: here.seconds(directory, QUERY),
            lambda: here.run(directory, ("./adjust", "app"), given).seconds,
        )
        return [(whole - query - alone) / ADJUSTED * 1000]

    return take


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument(
        "--rounds", type=int, help=f"how often every pair is taken ({ROUNDS}; with --check {CHECK_ROUNDS})"
    )
    parser.add_argument(
        "--check", action="store_true", help="few rounds; exit with 1 when a limit with its slack is missed"
    )
    parser.add_argument("--only", metavar="NAME", action="append", help="only this case; may be repeated")
    parser.add_argument(
        "--python", type=Path, help="an interpreter with psutil and PyYAML, instead of one made for this"
    )
    args = parser.parse_args()
    if args.rounds is None:
        args.rounds = CHECK_ROUNDS if args.check else ROUNDS
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    return args


def main() -> int:
    """Measure, print the table; the exit status tells, with --check, whether all is well."""
    args = arguments()
    with stage(args.python) as here:
        chosen = cases(here)
        if args.only:
            unknown = set(args.only) - {case.name for case in chosen}
            if unknown:
                names = ", ".join(case.name for case in chosen)
                raise SystemExit(f"no such case: {', '.join(sorted(unknown))}; there are {names}")
            chosen = [case for case in chosen if case.name in args.only]
        samples: dict[str, list[float]] = {case.name: [] for case in chosen}
        started = time.monotonic()
        for number in range(1, args.rounds + 1):
            for case in chosen:
                show(f"round {number} of {args.rounds}: {case.what}")
                for _ in range(case.samples):
                    samples[case.name] += case.take()
        show("")
        bare = milliseconds([here.seconds(here.parent, here.bare) for _ in range(args.rounds)])
    print(
        f"{args.rounds} rounds in {time.monotonic() - started:.0f} s; a bare start of Python: {bare:.1f} ms"
    )
    rows = [("", "name", "value", "spread", "limit", "aim", *(["with slack"] if args.check else []), "")]
    missed = False
    for case in chosen:
        value = case.summary(samples[case.name])
        low, _, high = (
            statistics.quantiles(samples[case.name], n=4) if len(samples[case.name]) > 1 else [value] * 3
        )
        met = case.met(value, checking=args.check)
        missed |= not met
        rows.append(
            (
                case.what,
                case.name,
                f"{value:.2f}",
                f"{low:.2f}..{high:.2f}",
                f"{'>=' if case.kind == 'gain' else '<='} {case.limit:g}",
                f"{case.aim:g}",
                *([f"{case.allowed(checking=True):.2f}"] if args.check else []),
                "met" if met else "MISSED",
            )
        )
    print(table(rows))
    return 1 if missed and args.check else 0


if __name__ == "__main__":
    sys.exit(main())
