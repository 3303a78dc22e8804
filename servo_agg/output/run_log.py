"""What each driver did in each phase of a run: records for the timings, and lines in the log file.

A log line is JSON. The last line of a run is about the run itself.

Rules (SPEC 11.15-11.21, 14.26, 14.39):
- The log and the timings show the same values: both are made from these records.
- A log line is written whole as soon as a driver's phase has ended. The thread that writes it also opens the
  log: a log that cannot be written never fails a run, and one that hangs delays its end by 1 s at most.
- A line starts on a new line, also after one that a full disk has truncated.
"""

from __future__ import annotations

import os
import time
from stat import S_ISREG

from servo_agg.config_schema import FILE
from servo_agg.output.writer import Writer
from servo_agg.protocol.messages import encode, to_json, truncate, truncate_word
from servo_agg.protocol.outcome import PhaseRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from servo_agg.protocol.messages import JsonObject
    from servo_agg.protocol.outcome import Outcome, Phase

    class Warn(Protocol):
        """Show a line on stderr."""

        def __call__(self, text: str, /) -> object: ...  # noqa: D102 - see the class


_NOT_OPEN = -1
"""Stands for a descriptor."""

_NEWLINE = ord("\n")

_APPEND_POLL_INTERVAL = 0.02
"""Seconds between two reads of the size of the log while another run may append a line: a large write becomes
visible in parts."""

_MAX_APPEND_POLLS = 10
"""How often the size is read at most."""

_DRAIN_TIMEOUT = 1.0
"""Seconds that the log has at the end of a run to take what is still unwritten."""


class _LogWriter(Writer):
    """Writes to a log file, which its thread opens first, since the file system may hang.

    refusal  why nothing can be logged, which follows the path in a sentence; "" if it can, or not known yet
    lost     whether a line could not be written
    """

    def __init__(self, path: str) -> None:
        super().__init__(_NOT_OPEN, lambda: None)
        self._path = path
        self._reader = _NOT_OPEN
        self._line_truncated = False
        self.refusal = ""
        self.lost = False

    def _run(self) -> None:
        try:
            self.refusal = self._open()
        except OSError as error:
            self.refusal = f"cannot be written: {os.strerror(error.errno or 0)}"
        except (ValueError, MemoryError):
            # UnicodeEncodeError is a ValueError.
            self.refusal = "cannot be written: its path cannot be encoded in this locale"
        if self.refusal:
            with self._lock:
                self._discard()
            self._written.notify()
        super()._run()

    def _open(self) -> str:
        """Open the log; return why it is not used, "" if it is."""
        # O_NONBLOCK: do not block on a FIFO that nobody reads.
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o644)
        if _is_in_use(descriptor):
            os.close(descriptor)
            return "is stdout or config.yaml, so nothing is logged"
        self._descriptor = descriptor
        if S_ISREG(os.fstat(descriptor).st_mode):
            self._reader = self._open_reader(descriptor)
        return ""

    def _open_reader(self, descriptor: int) -> int:
        try:
            reader = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            # The mode of the file may allow us to write but not to read.
            return _NOT_OPEN
        if os.path.sameopenfile(reader, descriptor):
            return reader
        os.close(reader)
        return _NOT_OPEN

    def _write_block(self, block: memoryview) -> memoryview:
        """Write lines, the first on a new line. Never return a rest: later the log may take bytes again."""
        if self._ends_within_line():
            block = memoryview(b"\n" + block)
        rest = super()._write_block(block)
        if rest:
            self.lost = True
            self._line_truncated = len(rest) < len(block) and block[-len(rest) - 1] != _NEWLINE
        else:
            self._line_truncated = False
        return memoryview(b"")

    def _ends_within_line(self) -> bool:
        """Return whether the last line of the log has no newline, as after a full disk."""
        if self._reader == _NOT_OPEN:
            return self._line_truncated
        try:
            before = -1
            for _ in range(_MAX_APPEND_POLLS):
                size = os.fstat(self._reader).st_size
                if size <= 0 or os.pread(self._reader, 1, size - 1) in (b"\n", b""):
                    return False
                if size == before:
                    break
                before = size
                time.sleep(_APPEND_POLL_INTERVAL)
        except OSError:
            return self._line_truncated
        return True


def _is_in_use(descriptor: int) -> bool:
    """Return whether a log is our stdout, which carries the protocol, or our configuration."""
    log = os.fstat(descriptor)
    try:
        in_use = [os.fstat(1), os.stat(FILE)]
    except OSError:
        in_use = [os.fstat(1)]
    # /dev/null may be both stdout and log.
    is_null = os.path.exists(os.devnull) and os.path.samestat(log, os.stat(os.devnull))
    return not is_null and any(os.path.samestat(log, other) for other in in_use)


_MESSAGE_SHARES = 256
"""The part of the longest message that a log line may hold, so 1 KiB."""

_MAX_SETTINGS = 256
"""Requested settings that a log line holds."""

_MAX_VALUE = 256
"""Bytes of the JSON of a requested value; of a longer one the beginning is logged, as a string."""

_MAX_NAME = 256
"""Characters of the name of a requested setting; of a longer one the beginning is logged."""


class RunLog:
    """The records of a run, in the order in which the phases ended.

    records  see PhaseRecord
    """

    def __init__(self, application: str | None, started: float) -> None:
        """Start without records. `started`: when the run began, in monotonic seconds."""
        self.records: list[PhaseRecord] = []
        self._application = application
        self._started = started
        self._started_utc = time.time() - (time.monotonic() - started)
        # The time makes it unique after the process id is used again.
        self._run = f"{self._timestamp(0.0)}-{os.getpid()}"
        self._writer: _LogWriter | None = None
        self._path = ""
        self._problem = ""

    def write_to(self, path: str) -> None:
        """Append each record that follows to the log file `path`."""
        self._path = path
        self._writer = _LogWriter(path)
        try:
            # Start now: a slow file system then opens the file while the drivers run.
            self._writer.start()
        except OSError:
            # The first record tries again.
            return

    def record(self, phase: Phase, started_at: float, outcome: Outcome) -> None:
        """Record that a driver's phase has ended, which started at `started_at`, in monotonic seconds."""
        record = PhaseRecord(phase, started_at - self._started, outcome)
        self.records.append(record)
        if self._writer is not None:
            self._writer.write(encode(self._driver_line(record)))

    def record_run(
        self, command: str, summary: JsonObject, exit_status: int, settings: JsonObject | None
    ) -> None:
        """Write the line of the whole run to the log file (SPEC 11.19, 11.20).

        `command` is the operation, `summary` has `status`, `reason` and `message` unless they are those of a
        success, `settings` is what was asked for in an adjust, as `{setting: value}`, else None.
        """
        if self._writer is None:
            return
        line = {
            **self._begin_line(0.0),
            "command": command,
            "phase": "run",
            "start": 0.0,
            "seconds": round(time.monotonic() - self._started, 3),
            "status": truncate_word(summary.get("status", "ok")),
            "reason": truncate_word(summary.get("reason", "success")),
            "message": truncate(summary.get("message", ""), _MESSAGE_SHARES),
            "exit": exit_status,
        }
        if settings is not None:
            logged = list(settings.items())[:_MAX_SETTINGS]
            line["settings"] = {_truncated_name(name): _truncated_value(value) for name, value in logged}
            if len(settings) > len(logged):
                line["settings_omitted"] = len(settings) - len(logged)
        self._writer.write(encode(line))

    def drain(self) -> str:
        """Wait up to 1 s until all lines are in the log; return why they are not, "" if they are."""
        if self._writer is not None and not self._problem:
            complete = self._writer.drain(_DRAIN_TIMEOUT)
            if self._writer.refusal:
                self._problem = f"the log {self._path} {self._writer.refusal}"
            elif self._writer.lost or not complete:
                self._problem = f"the log {self._path} cannot be written: not all lines of this run are in it"
        return self._problem

    def close(self, warn: Warn) -> None:
        """Call `warn` with the problem of the log, unless `drain` has returned it before."""
        known = self._problem
        problem = self.drain()
        if problem != known:
            warn(f"warning: {problem}")

    def _driver_line(self, record: PhaseRecord) -> JsonObject:
        return {
            **self._begin_line(record.start),
            "driver": record.driver,
            "phase": record.phase,
            "start": record.start,
            "seconds": record.seconds,
            "status": record.status,
            "reason": record.reason,
            "message": truncate(record.message, _MESSAGE_SHARES),
            "exit": record.exit,
            "signals": record.signals_sent,
        }

    def _begin_line(self, start: float) -> JsonObject:
        return {"time": self._timestamp(start), "run": self._run, "application": self._application}

    def _timestamp(self, start: float) -> str:
        moment = self._started_utc + start
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))
        return f"{seconds}.{int(moment % 1 * 1000):03d}Z"


def _truncated_name(name: str) -> str:
    return name if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME]}..."


def _truncated_value(value: object) -> object:
    text = to_json(value)
    return value if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]}..."
