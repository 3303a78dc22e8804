"""What each driver did in each phase of a run: kept for the timings, written to the log.

Rules (SPEC 11, 14):
- The log and the timings tell the same: both are made of these records.
- A log line is written whole, as soon as its phase of the driver has ended, by a thread of its own, which
  opens the log, too: one that cannot be written never fails a run, one that hangs delays its end by 1 s.
- A line begins on a fresh line, also behind one that a full disk has torn.
"""

from __future__ import annotations

import os
import time
from stat import S_ISREG

from servo_agg.outlet import Outlet
from servo_agg.protocol import encode
from servo_agg.report import Record
from servo_agg.section import FILE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from servo_agg.report import Outcome

_NONE = -1
"""What stands for a descriptor that there is not."""

_NEWLINE = 10

_PATIENCE = 1.0
"""Seconds that the log has at the end of a run to take what it has not yet taken."""


def _is_taken(descriptor: int) -> bool:
    """Tell whether a log would be written into the protocol, or into our own configuration."""
    log = os.fstat(descriptor)
    try:
        taken = [os.fstat(1), os.stat(FILE)]
    except OSError:
        taken = [os.fstat(1)]
    # All that is thrown away may be thrown away twice.
    thrown_away = os.path.exists(os.devnull) and os.path.samestat(log, os.stat(os.devnull))
    return not thrown_away and any(os.path.samestat(log, other) for other in taken)


class _Log(Outlet):
    """The log: opened, looked at and written by a thread of its own, since a file system may hang.

    refusal  a sentence that says why nothing can be logged, once that is known
    lost     whether a line could not be written
    """

    def __init__(self, path: str) -> None:
        super().__init__(_NONE, lambda: None)
        self._path = path
        self._reader = _NONE
        self._torn = False
        self.refusal = ""
        self.lost = False

    def _write(self) -> None:
        try:
            self.refusal = self._open()
        except OSError as error:
            self.refusal = f"cannot be written: {os.strerror(error.errno or 0)}"
        except (ValueError, MemoryError):
            # A UnicodeEncodeError is a ValueError.
            self.refusal = "cannot be written: its path does not fit the encoding of file names here"
        if self.refusal:
            self.give_up()
        super()._write()

    def _open(self) -> str:
        # O_NONBLOCK: it may be a pipe that nobody reads.
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o644)
        if _is_taken(descriptor):
            os.close(descriptor)
            return "is our stdout or config.yaml: nothing is logged"
        self._descriptor = descriptor
        if S_ISREG(os.fstat(descriptor).st_mode):
            self._reader = self._open_reader(descriptor)
        return ""

    def _open_reader(self, descriptor: int) -> int:
        try:
            reader = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            # We may write to it, and not read it.
            return _NONE
        if os.path.sameopenfile(reader, descriptor):
            return reader
        os.close(reader)
        return _NONE

    def _write_all(self, block: memoryview) -> memoryview:
        """Write lines, beginning on a fresh line; give nothing back, since the next may find room again."""
        if self._is_torn():
            block = memoryview(b"\n" + block)
        left = super()._write_all(block)
        if left:
            self.lost = True
            self._torn = len(left) < len(block) and block[-len(left) - 1] != _NEWLINE
        else:
            self._torn = False
        return memoryview(b"")

    def _is_torn(self) -> bool:
        """Tell whether what the log holds ends amid a line, as after a full disk."""
        if self._reader == _NONE:
            return self._torn
        try:
            size = os.fstat(self._reader).st_size
            return size > 0 and os.pread(self._reader, 1, size - 1) not in (b"\n", b"")
        except OSError:
            return self._torn


class History:
    """The records of a run, in the order in which the phases ended."""

    def __init__(self, application: str | None, started: float) -> None:
        """Begin with none; `started` is the begin of the run, in monotonic seconds."""
        self.records: list[Record] = []
        self._application = application
        self._started = started
        self._began_at = time.time() - (time.monotonic() - started)
        self._log: _Log | None = None
        self._path = ""

    def write_to(self, path: str) -> None:
        """Have each record appended to the log `path`."""
        self._path = path
        self._log = _Log(path)
        try:
            # Now, so that a slow file system is opened while the drivers run.
            self._log.begin()
        except OSError:
            # The first record finds out again.
            return

    def remember(self, phase: str, started_at: float, outcome: Outcome) -> None:
        """Take in the end of a phase of a driver that began at `started_at`, in monotonic seconds."""
        record = Record(phase, started_at - self._started, outcome)
        self.records.append(record)
        if self._log is not None:
            self._log.put(encode(self._line(record)))

    def close(self, warn: Callable[[str], None]) -> None:
        """Wait a moment for the log to take all of it; `warn` is told in a sentence when it does not."""
        if self._log is None or not self.records:
            return
        whole = self._log.drain(_PATIENCE)
        if self._log.refusal:
            warn(f"warning: the log {self._path} {self._log.refusal}")
        elif self._log.lost or not whole:
            warn(f"warning: the log {self._path} cannot be written: not all lines of this run are in it")

    def _line(self, record: Record) -> dict[str, Any]:
        moment = self._began_at + record.start
        whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))
        return {
            "time": f"{whole}.{int(moment % 1 * 1000):03d}Z",
            "application": self._application,
            "driver": record.driver,
            "phase": record.phase,
            "start": record.start,
            "seconds": record.seconds,
            "status": record.status,
            "reason": record.reason,
            "signals": record.signals,
        }
