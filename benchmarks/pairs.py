"""What the benchmarks share: servo directories, an interpreter of its own, runs, and the ratios of pairs.

Two things are compared by taking them in turn within one round, so that both see the same weather of the
machine; what is reported is the median of the ratios of these pairs, not the ratio of two medians.
"""

from __future__ import annotations

import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

REPOSITORY = Path(__file__).resolve().parent.parent

OUT = REPOSITORY / "benchmarks" / "out"
"""Where plots go, and the environment that is made once."""

TIMEOUT = 120.0
"""Seconds without a byte after which a run counts as hung."""

QUERY = ("./adjust", "--query", "app")

PYTHON_DRIVER = """\
#!/usr/bin/env python3
import json
import sys

component = sys.argv[0].rpartition("/")[2]
print(json.dumps({"application": {"components": {component: {"settings": {"cpu": {"value": 2}}}}}}))
"""
"""It only starts and answers a query, so it costs what every driver in Python costs at least."""


def shell_driver(seconds: float = 0.0, adjusting: float = 0.0) -> str:
    """Return a driver in sh that takes so many seconds for a query, and for an adjust."""
    return f"""\
#!/bin/sh
case $1 in
--info) echo '{{"version":"1.0","has_cancel":false}}' ;;
--query)
    {f"sleep {seconds}" if seconds else ":"}
    echo '{{"application":{{"components":{{"'"${{0##*/}}"'":{{"settings":{{"cpu":{{"value":2}}}}}}}}}}}}' ;;
*)
    {f"sleep {adjusting}" if adjusting else ":"}
    echo '{{"status":"ok"}}' ;;
esac
"""


@dataclass(frozen=True)
class Ended:
    """A run that has ended: what it said, in blocks with the monotonic nanoseconds at which each was read."""

    seconds: float
    blocks: list[tuple[int, bytes]]

    @property
    def output(self) -> bytes:
        """All that it said."""
        return b"".join(block for _, block in self.blocks)


@dataclass
class Stage:
    """A temporary directory, and the interpreter and environment in which everything runs there."""

    parent: Path
    python: Path
    rounds: int = 0

    def __post_init__(self) -> None:
        # An interpreter that is told nothing: no variable of the caller's shell may slow or speed it. Without
        # cached bytecode every start would compile the program anew, which no installation does.
        left_out = ("OPTUNE_", "SERVO_AGG_", "PYTHON")
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(left_out)
        }
        self.environment["PATH"] = os.pathsep.join(
            [str(self.python.parent), os.environ.get("PATH", os.defpath)]
        )
        self.bare = (str(self.python), "-c", "pass")

    def servo(self, name: str, driver: str, count: int, config: str = "") -> Path:
        """Make a servo directory of so many equal drivers; `config` is the text of its config.yaml."""
        directory = self.parent / name
        drivers = directory / "adjust.d"
        drivers.mkdir(parents=True)
        (directory / "adjust").symlink_to(REPOSITORY / "adjust")
        for number in range(count):
            path = drivers / f"{number:03}driver"
            path.write_text(driver, encoding="utf-8")
            path.chmod(0o755)
        if config:
            (directory / "config.yaml").write_text(config, encoding="utf-8")
        return directory

    def compiled(self, name: str) -> str:
        """Compile a C program of this directory, once; return its path."""
        program = self.parent / name
        if not program.exists():
            source = REPOSITORY / "benchmarks" / f"{name}.c"
            try:
                subprocess.run(["cc", "-O2", "-o", program, source], check=True)  # noqa: S607 - found on PATH, as make does
            except FileNotFoundError:
                raise SystemExit("a C compiler, `cc`, is needed to measure what the machine needs") from None
        return str(program)

    def floor(self, directory: Path) -> list[str]:
        """Return the command that starts all drivers of a servo directory at once and does nothing more."""
        return [self.compiled("floor"), *_what_to_start(directory)]

    def launcher(self, directory: Path, *, rooms: bool) -> list[str]:
        """Return the command that does the same in Python, having imported our rooms or not."""
        script = REPOSITORY / "benchmarks" / "launcher.py"
        return [str(self.python), str(script), str(REPOSITORY) if rooms else "", *_what_to_start(directory)]

    def run(self, directory: Path, command: Sequence[str], given: str = os.devnull) -> Ended:
        """Run a command in a servo directory, with the file `given` as stdin, to the end of its output.

        Each run is in a session of its own, as the aggregator's drivers are: Linux shares processor time
        between sessions first (autogroups), so on a busy machine one session of many processes would look
        slow. It is started by posix_spawn: what `subprocess` adds would be added to both of a pair.
        """
        os.chdir(directory)
        errors = self.parent / "stderr"
        read_end, write_end = os.pipe()
        started = time.perf_counter()
        pid = os.posix_spawn(
            command[0],
            tuple(command),
            self.environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, given, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, write_end, 1),
                (os.POSIX_SPAWN_OPEN, 2, str(errors), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
            ],
            setsid=True,
        )
        os.close(write_end)
        waiting = select.poll()
        waiting.register(read_end, select.POLLIN)
        blocks = []
        while waiting.poll(TIMEOUT * 1000):
            block = os.read(read_end, 1 << 20)
            if not block:
                break
            blocks.append((time.monotonic_ns(), block))
        else:
            # It hangs. What the guardian is for, it does now.
            os.killpg(pid, signal.SIGKILL)
        os.close(read_end)
        _, status = os.waitpid(pid, 0)
        ended = Ended(time.perf_counter() - started, blocks)
        if status != 0:
            said = ended.output.decode(errors="replace") + errors.read_text(errors="replace")
            raise SystemExit(f"{' '.join(command)} ended with wait status {status}: {said}")
        return ended

    def seconds(self, directory: Path, command: Sequence[str]) -> float:
        """Return how long a command takes."""
        return self.run(directory, command).seconds

    def peak(self, directory: Path, command: Sequence[str]) -> float:
        """Return the KiB of memory that a command, without what it starts, has resident at most.

        What it starts counts where it is larger than the command itself; drivers in sh never are.
        """
        said = self.run(directory, [self.compiled("peak"), *command]).output
        return float(said.splitlines()[-1])

    def pair(self, first: Callable[[], float], second: Callable[[], float]) -> tuple[float, float]:
        """Take two measures right after one another, the other one first every other time."""
        self.rounds += 1
        if self.rounds % 2:
            return first(), second()
        later = second()
        return first(), later


@contextmanager
def stage(python: Path | None = None) -> Iterator[Stage]:
    """Give a stage with that interpreter; without one, with an environment made for it."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="servo-agg-benchmark-") as parent:
        made = Stage(Path(parent), Path(os.path.abspath(python)) if python else own_python())
        # The first start compiles the package to bytecode, which no later one does.
        made.run(made.servo("first", shell_driver(), 1, "agg: {parallel: 1}\n"), QUERY)
        try:
            yield made
        finally:
            os.chdir(here)


def own_python() -> Path:
    """Return the interpreter of an environment that holds our run time dependencies alone; make it once.

    What else is installed costs every start of Python: a single editable installation some milliseconds.
    """
    directory = OUT / f"python-{sys.version.split()[0]}"
    if not directory.exists():
        show("making an environment of our own")
        new = directory.with_name(f"{directory.name}-{os.getpid()}")
        venv.create(new, with_pip=True, symlinks=True)
        subprocess.run([new / "bin/python", "-m", "pip", "install", "-q", "psutil", "PyYAML"], check=True)
        new.rename(directory)
        show("")
    return directory / "bin" / "python3"


def _what_to_start(directory: Path) -> list[str]:
    """Return what floor.c and launcher.py want to know: the PYTHONPATH for drivers, and these."""
    path = os.pathsep.join(map(str, (directory, REPOSITORY / "servo_agg" / "driverlib")))
    return [path, *(f"adjust.d/{name}" for name in drivers_of(directory))]


def drivers_of(directory: Path) -> list[str]:
    """Return the names of a servo directory's drivers, in order."""
    return sorted(os.listdir(directory / "adjust.d"))


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Return the median of the ratios of the pairs."""
    return statistics.median(a / b for a, b in zip(over, under))


def milliseconds(seconds: Sequence[float]) -> float:
    """Return the median in milliseconds."""
    return statistics.median(seconds) * 1000


def table(rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows of cells: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])
        for row in rows
    )


def show(text: str) -> None:
    """Let a person at a terminal see how far we are."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()
