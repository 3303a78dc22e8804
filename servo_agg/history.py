"""What each driver did in each phase of a run: kept for the timings, written to the log.

Rules (SPEC 11, 14):
- The log and the timings tell the same: both are made of these records.
- A log line is written whole, as soon as its phase of the driver has ended, by a thread of its own:
  a log that hangs or can't be written never fails or delays a run.
"""

from __future__ import annotations

import os
import time

from servo_agg.outlet import Outlet
from servo_agg.protocol import encode
from servo_agg.report import Record
from servo_agg.section import FILE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from servo_agg.report import Outcome

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
    return any(os.path.samestat(log, other) for other in taken) and not os.path.samestat(
        log, os.stat(os.devnull)
    )


class History:
    """The records of a run, in the order in which the phases ended."""

    def __init__(self, application: str | None, started: float) -> None:
        """Begin with none; `started` is the begin of the run, in monotonic seconds."""
        self.records: list[Record] = []
        self._application = application
        self._started = started
        self._began_at = time.time() - (time.monotonic() - started)
        self._log: Outlet | None = None
        self._path = ""

    def write_to(self, path: str, warn: Callable[[str], None]) -> None:
        """Have each record appended to the log `path`; `warn` is told in a sentence when it can't be."""
        self._path = path
        try:
            # Not to hang, should it be a pipe that nobody reads.
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK
            descriptor = os.open(path, flags, 0o644)
        except OSError as error:
            warn(f"warning: the log {path} cannot be written: {os.strerror(error.errno or 0)}")
            return
        if _is_taken(descriptor):
            warn(f"warning: the log {path} is our stdout or config.yaml: nothing is logged")
            os.close(descriptor)
            return
        self._log = Outlet(descriptor, lambda: None)

    def remember(self, phase: str, started_at: float, outcome: Outcome) -> None:
        """Take in the end of a phase of a driver that began at `started_at`, in monotonic seconds."""
        record = Record(phase, started_at - self._started, outcome)
        self.records.append(record)
        if self._log is not None:
            self._log.put(encode(self._line(record)))

    def close(self, warn: Callable[[str], None]) -> None:
        """Wait a moment for the log to take all of it; `warn` is told when it does not."""
        if self._log is not None and self.records and not self._log.drain(_PATIENCE):
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
