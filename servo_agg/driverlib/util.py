"""Functions by which a driver runs another driver: the second module of the driver library (SPEC 12).

    from util import run_and_track, run_and_track_cancel

    class Outer(Adjust):
        def adjust(self, data):
            def forward(message):
                self.progress = message["progress"]
                self.print_progress(message.get("message"))

            return run_and_track("./inner", self.app_id, data=data, progress_cb=forward)

        def handle_cancel(self, signal, frame):
            run_and_track_cancel()

The child follows the protocol of drivers: it prints JSON lines on stdout. A line with `progress` and without
`status` is a progress message. The last other line is the reply. `run_and_track` returns the reply, or a
failure if the child fails.

`g_args` has options for the whole program. If `g_args.verbose` is true, `run_and_track` logs on stderr what
it does, and copies the child's stderr there. A driver may set the attribute, pass `g_args` to its parser as
the namespace, or replace `g_args` by its own `args`.

The driver's interpreter loads this file, so it must work with Python 3.6. Annotations are quoted where
Python 3.6 would evaluate them.
"""
# ruff: noqa: INP001 - drivers find it through PYTHONPATH as `util`: its directory is not a package

import contextlib
import errno
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

TYPE_CHECKING = False  # `typing` has it too, but takes time to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from servo_agg.driverlib.driver_processes import ProcessSet, describe_exit, session_members
else:
    from driver_processes import ProcessSet, describe_exit, session_members

__all__ = ["g_args", "run_and_track", "run_and_track_cancel", "run_and_track_terminate"]

g_args: "Any" = SimpleNamespace(verbose=False)
"""Options for the whole program; only `verbose` is used here."""

GRACE = 3.0
"""Seconds from SIGTERM to SIGKILL when a child is stopped."""

_POST_EXIT_DRAIN = 0.25
"""Seconds for which output is read after a child's exit: a process that it started may hold its stdout."""

_KILL_WAIT = 5.0
"""Seconds to wait for the exit after SIGKILL; a process in an uninterruptible sleep may never exit."""

_MAX_OVERRUN = 0.5
"""Seconds by which a wait may overrun; a longer overrun means that this process was suspended."""

_MAX_WAIT = 1.0
"""Seconds. Python runs the handler of a signal that arrives just before a wait only after that wait."""

_MAX_DRAIN_READS = 16
"""Blocks to read after _POST_EXIT_DRAIN; more can only come from a process that writes without end."""

_BLOCK_SIZE = 65536
_MAX_OUTPUT = 4 * 1024 * 1024
"""Bytes that a line or a whole document may have."""

_MAX_STDERR = 16 * 1024
"""Bytes of the end of stderr that are kept for the message of a failure."""

_QUOTE_LIMIT = 80
"""Bytes of malformed output that a message quotes."""

_children: "list[_Child]" = []
"""The running children. Append and remove are atomic, so a signal handler may read the list at any time."""


class _CannotStartError(Exception):
    """The child cannot be started; `reason` goes into the result."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def run_and_track(
    path: "str | os.PathLike[str]",
    *args: str,
    data: "Any" = None,
    progress_cb: "Callable[[dict[str, Any]], Any] | None" = None,
) -> "dict[str, Any]":
    """Run the driver at `path` with `args`, wait for its exit, and return its reply or a failure (SPEC 12).

    Write `data` to its stdin as one JSON document; without `data`, stdin is empty. Call `progress_cb` with
    each progress message, in order, in the calling thread. An exception of `progress_cb` or of a signal
    handler stops the child, and is raised here.

    The environment variable OPTUNE_IO_TIMEOUT is the time in seconds, T, after which our own caller stops us
    if we print nothing; empty, unset or 0 means no limit. The child is stopped when it has printed nothing on
    stdout for T - 1 seconds (T / 2 if T is below 2), so that the child times out before we do. In the
    child's environment, T is one second less.

    A child succeeds if it exits with status 0 and its last reply has the status "ok", or neither `status` nor
    `error`; the result is that reply. Otherwise the result has a `status` other than "ok", a `reason` and a
    `message`. If the child's reply is a failure, it is the result, and missing keys are filled in. Otherwise
    `status` is "failed", and `reason` is one of "cannot-start", "timeout", "malformed" (a line was not a JSON
    object; without `data`, all lines together may be one), "exit-status", "signal", "no-reply", "terminated",
    "unkillable", "bad-environment". In each case a driver may return the result as its own.
    """
    # Without blanks, as servo-agg writes it: drivers in sh often read it with sed.
    payload = b""
    if data is not None:
        payload = json.dumps(data, allow_nan=False, separators=(",", ":")).encode("ascii")
    try:
        limit, environment = _time_limit()
        child = _Child(path, args, environment)
    except _CannotStartError as error:
        return {"status": "failed", "reason": error.reason, "message": str(error)}
    _children.append(child)
    try:
        exchange = _Exchange(child, payload, progress_cb, may_be_one_document=data is None)
        try:
            exchange.communicate(limit)
        except BaseException:
            child.stop()
            raise
        if exchange.problem is not None:
            child.stop()
    finally:
        _children.remove(child)
        child.reap()
    return exchange.result()


def run_and_track_cancel() -> bool:
    """Send SIGUSR1 to the child that `run_and_track` runs; return whether there was one (SPEC 12.19).

    `run_and_track` goes on until the child has exited. SIGUSR1 kills a child that does not handle it.
    May be called from a signal handler and from any thread.
    """
    children = list(_children)
    for child in children:
        child.send(signal.SIGUSR1)
    return bool(children)


def run_and_track_terminate(grace: float = GRACE) -> bool:
    """Stop the child that `run_and_track` runs; return whether there was one (SPEC 12.23).

    Send it SIGTERM, and wait for its exit. If it has not exited after `grace` seconds, send SIGKILL to it and
    its session; otherwise send SIGTERM to the rest of its session. `run_and_track` then returns a failure,
    with the reason "terminated" unless the child gave another. May be called from a signal handler and from
    any thread.
    """
    children = list(_children)
    for child in children:
        child.terminated = True
        child.stop(grace)
    return bool(children)


class _Child:
    """A child process in its own session, with what is needed to signal, stop and reap it."""

    def __init__(
        self, path: "str | os.PathLike[str]", args: "tuple[str, ...]", environment: "dict[str, str]"
    ) -> None:
        self.name = os.fspath(path)
        self.terminated = False
        self.returncode: int | None = None
        self.lock = threading.RLock()  # reentrant: a signal handler may interrupt the thread that holds it
        self.reaped = False
        self.unkillable = False
        self.exited, self.exited_writer = os.pipe()
        _log(" ".join(("starting", self.name, *args)) + "\n")
        try:
            # Unbuffered: a buffered stream would read data that `select` then does not report.
            self.process = subprocess.Popen(
                [self.name, *args],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            os.close(self.exited)
            os.close(self.exited_writer)
            cause = os.strerror(error.errno) if error.errno else str(error)
            if error.errno == errno.ENOENT and os.path.exists(self.name):
                cause = "the interpreter in its #! line does not exist"
            raise _CannotStartError(f"{self.name} cannot be started: {cause}", "cannot-start") from error
        self.tree = ProcessSet(session_members(self.process.pid), self.process.pid)
        self.waiter = threading.Thread(target=self.wait, name="waiter", daemon=True)
        self.waiter.start()

    def wait(self) -> None:
        """Wait for the exit without reaping the child: until it is reaped, its pid is not reused."""
        if hasattr(os, "waitid"):
            os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        else:
            self.process.wait()
            self.reaped = True
        os.close(self.exited_writer)

    def send(self, number: int) -> None:
        with self.lock:
            if not self.reaped:
                # It has exited, or sudo has changed its user: neither can be helped.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(self.process.pid, number)

    def stop(self, grace: float = GRACE) -> None:
        """Send SIGTERM. Kill the whole session if the child has not exited after `grace` seconds.

        If it has exited, only send SIGTERM to the rest of its session.
        """
        self.send(signal.SIGTERM)
        self.send(signal.SIGCONT)
        self.waiter.join(grace)
        if self.waiter.is_alive():
            self.kill()
        else:
            with self.lock:
                if not self.reaped:
                    self.tree.update()
                    self.tree.send(signal.SIGTERM)

    def kill(self) -> None:
        with self.lock:
            if not self.reaped:
                self.tree.kill()
        self.waiter.join(_KILL_WAIT)
        self.unkillable = self.waiter.is_alive()

    def reap(self) -> None:
        """Reap the child, store its exit status, and close the pipes."""
        if not self.unkillable:
            self.waiter.join(_KILL_WAIT)
        if self.waiter.is_alive() and not self.unkillable:
            # An exception has interrupted `stop`.
            self.kill()
        if not self.waiter.is_alive():
            with self.lock:
                self.reaped = True
                self.returncode = self.process.wait()
            _log(f"{self.name} {describe_exit(self.returncode)}\n")
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        os.close(self.exited)


class _Exchange:
    """The input and output of one child, and the result that follows from them."""

    def __init__(
        self,
        child: _Child,
        payload: bytes,
        progress_cb: "Callable[[dict[str, Any]], Any] | None",
        may_be_one_document: bool,
    ) -> None:
        self.child = child
        self.unsent = payload
        self.progress_cb = progress_cb
        self.may_be_one_document = may_be_one_document
        self.is_line_by_line = True
        self.line = bytearray()
        self.document = bytearray()
        self.stderr = bytearray()
        self.reply: dict[str, Any] | None = None
        self.problem: tuple[str, str] | None = None

    def communicate(self, limit: "float | None") -> None:
        """Write and read the child's pipes until it has exited and its output ends, or there is a problem."""
        process = self.child.process
        streams: Any = (
            (process.stdin, selectors.EVENT_WRITE, self._write_stdin),
            (process.stdout, selectors.EVENT_READ, self._read_stdout),
            (process.stderr, selectors.EVENT_READ, self._read_stderr),
        )
        with selectors.DefaultSelector() as selector:
            for stream, event, handler in streams:
                os.set_blocking(stream.fileno(), False)
                selector.register(stream, event, handler)
            selector.register(self.child.exited, selectors.EVENT_READ, None)
            if self._serve_until_exit(selector, limit):
                self._drain(selector)
        if self.problem is None:
            self._end_stdout()

    def _serve_until_exit(self, selector: selectors.BaseSelector, limit: "float | None") -> bool:
        """Return true when the child has exited, or false when there is a problem."""
        deadline = None if limit is None else time.monotonic() + limit
        while self.problem is None:
            left = _MAX_WAIT if deadline is None else deadline - time.monotonic()
            ready = selector.select(max(0.0, min(left, _MAX_WAIT)))
            for key, _ in ready:
                if key.data is None:
                    return True
                _service(selector, key)
                if limit is not None and key.data == self._read_stdout:
                    deadline = time.monotonic() + limit
            late = -1.0 if deadline is None else time.monotonic() - deadline
            if limit is not None and not ready and late >= 0:
                # After a large overrun we were suspended, perhaps together with the child: restart its time.
                deadline = time.monotonic() + limit
                if late < _MAX_OVERRUN:
                    self.problem = (f"was silent for {limit:g} s and was stopped", "timeout")
        return False

    def _drain(self, selector: selectors.BaseSelector) -> None:
        """Read what the child, or a process that it started, wrote before its exit or shortly after it."""
        process = self.child.process
        selector.unregister(self.child.exited)
        with contextlib.suppress(KeyError, ValueError):  # it may be closed
            selector.unregister(process.stdin)  # type: ignore[arg-type] # it is a pipe
        end = time.monotonic() + _POST_EXIT_DRAIN
        reads_after_end = 0
        while selector.get_map() and self.problem is None and reads_after_end < _MAX_DRAIN_READS:
            left = end - time.monotonic()
            reads_after_end += left <= 0
            ready = selector.select(max(0.0, left))
            if not ready and left <= 0:
                return
            for key, _ in ready:
                _service(selector, key)

    def _write_stdin(self) -> bool:
        """Write to the child's stdin; return whether there is more to write."""
        try:
            sent = os.write(_descriptor(self.child.process.stdin), self.unsent[:_BLOCK_SIZE])
        except BlockingIOError:
            return True
        except BrokenPipeError:
            return False  # a driver may ignore its input
        self.unsent = self.unsent[sent:]
        return bool(self.unsent)

    def _read_stderr(self) -> bool:
        """Read the child's stderr, so that the child does not block; return whether there may be more."""
        data = _read(self.child.process.stderr)
        if data is None:
            return True
        self.stderr += data
        del self.stderr[:-_MAX_STDERR]
        _log(data.decode("utf-8", "replace"))
        return bool(data)

    def _read_stdout(self) -> bool:
        """Read the child's stdout and handle all complete lines; return whether there may be more."""
        data = _read(self.child.process.stdout)
        if data is None:
            return True
        if self.may_be_one_document:
            self.document += data
        self.line += data
        *complete, self.line = self.line.split(b"\n")
        for line in complete:
            self._handle_line(line)
        if max(len(self.line), len(self.document)) > _MAX_OUTPUT:
            self.problem = ("printed a line or document that is longer than 4 MiB", "malformed")
        return bool(data)

    def _end_stdout(self) -> None:
        """Handle a last line without newline, or decode all lines as one document."""
        if self.line:
            self._handle_line(bytes(self.line))
        if self.is_line_by_line:
            return
        document = _decode(self.document)
        if document is None:
            self._fail_malformed("output", self.document)
        self.reply = document

    def _handle_line(self, line: "bytes | bytearray") -> None:
        if self.problem is not None or not self.is_line_by_line or not line.strip():
            return
        message = _decode(line)
        if message is None and self.may_be_one_document:
            self.is_line_by_line = False
        elif message is None:
            self._fail_malformed("a line", line)
        elif "progress" not in message or "status" in message:
            self.reply = message
        elif self.progress_cb is not None:
            self.progress_cb(message)

    def _fail_malformed(self, what: str, output: "bytes | bytearray") -> None:
        start = bytes(output[:_QUOTE_LIMIT]).decode("ascii", "backslashreplace")
        end = "..." if len(output) > _QUOTE_LIMIT else ""
        self.problem = (f"printed {what} that is not a JSON object: {start!r}{end}", "malformed")

    def result(self) -> "dict[str, Any]":
        """Return the reply, or a failure if the child has failed."""
        child, reply = self.child, self.reply
        status = None if reply is None else reply.get("status", "failed" if "error" in reply else "ok")
        what, reason = "", "unknown"
        replied_ok = "replied ok but " if reply is not None and reply.get("status") == "ok" else ""
        if child.returncode is None:
            what, reason = "could not be killed", "unkillable"
        elif self.problem is not None:
            what, reason = self.problem
        elif child.returncode < 0:
            what, reason = replied_ok + describe_exit(child.returncode), "signal"
        elif reply is not None and status != "ok":
            pass  # the reply describes the failure
        elif child.returncode > 0:
            what, reason = replied_ok + describe_exit(child.returncode), "exit-status"
        elif reply is None:
            what, reason = "gave no reply", "no-reply"
        else:
            return reply
        if child.terminated:
            what, reason = "was stopped", "terminated"

        failure = {} if reply is None or status == "ok" else dict(reply)
        message = f"{child.name} {what or f'replied with the status {status}'}"
        stderr = self.stderr.decode("utf-8", "replace").strip()
        if failure.get("message"):
            message = f"{message}: {failure['message']}" if what else failure["message"]
        elif stderr:
            message += f"; stderr: {stderr}"
        failure["status"] = status if failure and isinstance(status, str) else "failed"
        failure["reason"] = failure.get("reason") or reason
        failure["message"] = message
        return failure


def _service(selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    if not key.data():
        selector.unregister(key.fileobj)
        key.fileobj.close()  # type: ignore[union-attr] # it is a pipe


def _descriptor(stream: "Any") -> int:
    return int(stream.fileno())


def _read(stream: "Any") -> "bytes | None":
    """Return the available bytes, b"" at the end of the stream, None if there are none yet."""
    try:
        return os.read(_descriptor(stream), _BLOCK_SIZE)
    except BlockingIOError:
        return None


def _decode(line: "bytes | bytearray") -> "dict[str, Any] | None":
    """Decode a JSON object; return None for anything else."""
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_reject_constant)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _reject_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")


def _time_limit() -> "tuple[float | None, dict[str, str]]":
    """Return the seconds for which a child may print nothing (None: no limit), and its environment."""
    environment = dict(os.environ)
    if not environment.get("PYTHONUNBUFFERED"):
        environment["PYTHONUNBUFFERED"] = "1"  # with buffered progress, a driver in Python would time out
    text = environment.get("OPTUNE_IO_TIMEOUT", "").strip()
    if not text:
        return None, environment
    is_plain = text != "." and not text.replace(".", "", 1).strip("0123456789")
    seconds = float(text) if is_plain else -1.0
    if not 0 <= seconds < float("inf"):
        raise _CannotStartError(
            "the environment variable OPTUNE_IO_TIMEOUT must be a decimal number of seconds, such as 30 or"
            f" 2.5 (0 or empty: unlimited), got {text!r}",
            "bad-environment",
        )
    if text.isdigit() and seconds > 1:
        environment["OPTUNE_IO_TIMEOUT"] = str(int(text) - 1)
    return max(seconds - 1, seconds / 2) or None, environment


def _log(text: str) -> None:
    if getattr(g_args, "verbose", False):
        sys.stderr.write(text)
        sys.stderr.flush()
