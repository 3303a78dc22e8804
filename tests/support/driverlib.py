"""Drivers that use the driver library; each is a process of its own, with real pipes and signals."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, cast

from tests.support.processes import environment
from tests.support.servo import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIBRARY = REPOSITORY / "servo_agg" / "driverlib"

DEADLINE = 15.0
"""Seconds after which a test fails."""

INPUT = {"application": {"components": {"web": {"settings": {"cpu": {"value": 4}}}}}, "control": {}}

PREAMBLE = """
import json, os, signal, sys, threading, time
from pathlib import Path
from adjust import Adjust, AdjustError

def idle():
    # A signal just before a sleep is handled only after it, so the sleeps are short.
    while True:
        time.sleep(0.01)
"""

ENDING = """
if __name__ == "__main__":
    Driver("1.2", "a driver of the tests", {supports_cancel}, {progress_interval}).run()
"""


@dataclass(frozen=True)
class Done:
    """The result of a driver."""

    returncode: int
    stdout: bytes
    stderr: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def reply(self) -> dict[str, Any]:
        return self.lines[-1]


class Running:
    """A running driver. Its stderr is a file, which needs no reader."""

    def __init__(self, process: subprocess.Popen[bytes], stderr: Path) -> None:
        self.process = process
        self.stderr = stderr
        self.read = bytearray()
        self.position = 0

    @property
    def pipe(self) -> IO[bytes]:
        return cast("IO[bytes]", self.process.stdout)

    def wait_for_line(self) -> dict[str, Any]:
        """Return the next line."""
        while (end := self.read.find(b"\n", self.position)) < 0:
            assert self._read_on(), "the driver has ended"
        line, self.position = self.read[self.position : end], end + 1
        message = json.loads(line)
        assert isinstance(message, dict)
        return message

    def finish(self) -> Done:
        """Wait for the end of the driver."""
        while self._read_on():
            pass
        self.process.wait(DEADLINE)
        return Done(self.process.returncode, bytes(self.read), self.stderr.read_text(encoding="utf-8"))

    def _read_on(self) -> bool:
        ready, _, _ = select.select([self.pipe], [], [], DEADLINE)
        assert ready, "the driver prints nothing and does not end"
        data = os.read(self.pipe.fileno(), 65536)
        self.read += data
        return bool(data)


class Driver:
    """A driver in the servo directory `directory`: a subclass of Adjust with these methods."""

    def __init__(
        self,
        directory: Path,
        methods: str,
        *,
        supports_cancel: bool = True,
        progress_interval: float | None = None,
        preamble: str = PREAMBLE,
    ) -> None:
        self.directory = directory
        self.path = directory / "driver"
        ending = ENDING.format(supports_cancel=supports_cancel, progress_interval=progress_interval)
        body = textwrap.indent(textwrap.dedent(methods), "    ") or "    pass\n"
        self.path.write_text(f"{preamble}\nclass Driver(Adjust):\n{body}\n{ending}", encoding="utf-8")

    @contextlib.contextmanager
    def start(
        self, *args: str, data: Any = b"", stdout: int = subprocess.PIPE, **env: str
    ) -> Iterator[Running]:
        """Run it with `data` on its stdin; at the end of the block it is killed if it still runs."""
        source, stderr = self.directory / "input", self.directory / "stderr"
        source.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
        with source.open("rb") as data_file, stderr.open("wb") as stderr_file:
            process = subprocess.Popen(
                [sys.executable, str(self.path), *args],
                cwd=self.directory,
                env=environment({"PYTHONPATH": f"{self.directory}:{LIBRARY}", **env}),
                stdin=data_file,
                stdout=stdout,
                stderr=stderr_file,
                start_new_session=True,  # as servo-agg does, and away from the terminal of these tests
            )
        with process:
            try:
                yield Running(process, stderr)
            finally:
                process.kill()

    def run(self, *args: str, data: Any = b"", **env: Any) -> Done:
        with self.start(*args, data=data, **env) as running:
            return running.finish()

    def adjust(self, data: Any = INPUT, **env: str) -> Done:
        return self.run("app", data=data, **env)

    def stderr_text(self) -> str:
        """Return its stderr."""
        return (self.directory / "stderr").read_text(encoding="utf-8")


def pid_in(directory: Path) -> int:
    """Return the process id that a program of the test has written into the file `pid`."""
    return int((directory / "pid").read_text(encoding="utf-8"))
