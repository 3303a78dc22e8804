"""Servo directories, timed runs of commands in them, and tables, for the benchmarks."""

from __future__ import annotations

import compileall
import os
import subprocess
import sys
import tempfile
import time
import venv
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.floods import within

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

REPOSITORY = Path(__file__).resolve().parent.parent

OUT = REPOSITORY / "benchmarks" / "out"
"""Directory of the plots and of the environment in which servo-agg is measured."""

TIMEOUT = 120.0
"""Seconds after which a run is killed and the benchmark ends with an error."""

NO_INPUT = Path(os.devnull)

QUERY = ("./adjust", "--query", "app")

PYTHON_DRIVER = """\
#!/usr/bin/env python3
import json
import sys

component = sys.argv[0].rpartition("/")[2]
print(json.dumps({"application": {"components": {component: {"settings": {"cpu": {"value": 2}}}}}}))
"""
"""A driver that only starts and answers a query: no driver in Python costs less."""


def shell_driver(query_seconds: float = 0.0, adjust_seconds: float = 0.0) -> str:
    """Return the source of a driver in sh that sleeps before it answers a query or an adjust."""
    return f"""\
#!/bin/sh
case $1 in
--info) echo '{{"version":"1.0","has_cancel":false}}' ;;
--query)
    {f"sleep {query_seconds}" if query_seconds else ":"}
    echo '{{"application":{{"components":{{"'"${{0##*/}}"'":{{"settings":{{"cpu":{{"value":2}}}}}}}}}}}}' ;;
*)
    {f"sleep {adjust_seconds}" if adjust_seconds else ":"}
    echo '{{"status":"ok"}}' ;;
esac
"""


@dataclass(frozen=True)
class Run:
    """A finished run of a command."""

    milliseconds: float
    lines: list[tuple[int, bytes]]
    """Lines of its stdout, each with the value of `time.monotonic_ns` at which it was read."""


class Workspace:
    """A temporary directory that holds servo directories, and the environment in which commands run there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._stderr = directory / "stderr"
        python = _isolated_python()
        self.bare_python = (str(python), "-c", "pass")
        # PYTHON*: without cached bytecode, for example, each start would compile the whole program.
        excluded = ("OPTUNE_", "SERVO_AGG_", "PYTHON")
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith(excluded)
        }
        self._environment["PATH"] = f"{python.parent}:{os.environ.get('PATH', os.defpath)}"
        self._baseline = directory / "baseline"
        source = REPOSITORY / "benchmarks" / "baseline.c"
        subprocess.run(["cc", "-O2", "-o", self._baseline, source], check=True)  # noqa: S607 - found on PATH

    def servo(
        self, name: str, driver: str, count: int, config: str = "", checkout: Path = REPOSITORY
    ) -> Path:
        """Make a servo directory with the `adjust` of a checkout and `count` equal drivers; return its path.

        `config` is the text of its config.yaml.
        """
        compileall.compile_dir(checkout / "servo_agg", quiet=1)
        directory = self.directory / name
        (directory / "adjust.d").mkdir(parents=True)
        (directory / "adjust").symlink_to(checkout / "adjust")
        for number in range(count):
            path = directory / "adjust.d" / f"{number:03}driver"
            path.write_text(driver, encoding="utf-8")
            path.chmod(0o755)
        if config:
            (directory / "config.yaml").write_text(config, encoding="utf-8")
        return directory

    def baseline(self, directory: Path) -> list[str]:
        """Return the command that only starts all drivers of a servo directory and reads their output."""
        python_path = f"{directory}:{REPOSITORY / 'servo_agg' / 'driverlib'}"
        drivers = [f"adjust.d/{name}" for name in sorted(os.listdir(directory / "adjust.d"))]
        return [str(self._baseline), "drivers", python_path, *drivers]

    def run(self, directory: Path, command: Sequence[str], stdin: Path = NO_INPUT) -> Run:
        """Run a command in a servo directory with that file as its stdin; end the benchmark if it fails.

        Each run has its own session, as each driver of servo-agg has: Linux shares processor time between
        sessions first (autogroups), so on a busy machine processes that share one would be slower.
        """
        with self._stderr.open("wb") as stderr, stdin.open("rb") as given:
            started = time.perf_counter()
            process = subprocess.Popen(
                command,
                cwd=directory,
                env=self._environment,
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=stderr,
                bufsize=1 << 16,
                start_new_session=True,
            )
            with within(TIMEOUT, process):
                lines = [(time.monotonic_ns(), line) for line in cast("IO[bytes]", process.stdout)]
                process.wait()
                seconds = time.perf_counter() - started
        if process.returncode != 0:
            output = b"".join(line for _, line in lines) + self._stderr.read_bytes()
            raise SystemExit(f"{command} exited with {process.returncode}: {output.decode(errors='replace')}")
        return Run(seconds * 1000, lines)

    def milliseconds(self, directory: Path, command: Sequence[str], stdin: Path = NO_INPUT) -> float:
        """Return how long a command takes."""
        return self.run(directory, command, stdin).milliseconds

    def peak(self, directory: Path, command: Sequence[str]) -> float:
        """Return the peak resident memory of a command in MiB.

        Its children count only where one alone has more memory than the command; drivers in sh have not.
        """
        _, last = self.run(directory, [str(self._baseline), "peak", *command]).lines[-1]
        return int(last) / 1024


@contextmanager
def workspace() -> Iterator[Workspace]:
    """Make a workspace, and remove it in the end."""
    with tempfile.TemporaryDirectory(prefix="servo-agg-benchmark-") as directory:
        yield Workspace(Path(directory))


def _isolated_python() -> Path:
    """Return the interpreter of an environment with only our run-time dependencies; make it if it is missing.

    Other packages can slow down each start of the interpreter: an editable installation may add milliseconds.
    """
    directory = OUT / f"python-{sys.version.split()[0]}"
    if not directory.exists():
        incomplete = directory.with_name(f"{directory.name}-{os.getpid()}")
        venv.create(incomplete, with_pip=True, symlinks=True)
        pip = (incomplete / "bin/python", "-m", "pip", "install", "-q", "-c", REPOSITORY / "constraints.txt")
        subprocess.run([*pip, "psutil", "PyYAML"], check=True)
        incomplete.rename(directory)
    return directory / "bin" / "python3"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as lines of text, the first column left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])
        for row in rows
    )


def show_progress(text: str) -> None:
    """Replace the last line of stderr by `text` if it is a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()
