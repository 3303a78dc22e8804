"""Running another driver from within a driver: the second half of the driver library (SPEC 12).

    from util import run_and_track, run_and_track_cancel

    class Outer(Adjust):
        def adjust(self, data):
            def forward(message):
                self.progress = message["progress"]
                self.print_progress(message.get("message"))

            return run_and_track("./inner", self.app_id, data=data, progress_cb=forward)

        def handle_cancel(self, signal, frame):
            run_and_track_cancel()

The child speaks the protocol of drivers: JSON lines on stdout, of which those with `progress` and without
`status` are progress messages; the last of the others is its reply. `run_and_track` returns the reply; of a
child that fails, one that says so.

`g_args` holds options of the whole program. With `g_args.verbose` true, `run_and_track` tells on stderr what
it does, and passes on the child's stderr as it comes. A driver may set it, give it to its parser as
namespace, or put its own `args` in its place.

The driver's interpreter loads this file: any Python from 3.6 on. So annotations are quoted where that one
would evaluate them.
"""
# ruff: noqa: INP001 - it is found through PYTHONPATH, as `util`: its directory is no package

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

TYPE_CHECKING = False  # `typing` has it too, for the price of importing it
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from servo_agg.driverlib.driver_processes import ProcessSet, session_of
else:
    from driver_processes import ProcessSet, session_of

__all__ = ["g_args", "run_and_track", "run_and_track_cancel", "run_and_track_terminate"]

g_args: "Any" = SimpleNamespace(verbose=False)
"""Options of the whole program; `verbose` is the only one that is looked at here."""

GRACE = 3.0
"""Seconds from SIGTERM to SIGKILL when a child is terminated."""

_AFTERMATH = 0.25
"""Seconds after a child's exit in which output still counts: what it has started may hold its stdout."""

_UNKILLABLE = 5.0
"""Seconds in which SIGKILL must have worked; the kernel may hold a process back for ever."""

_LATE = 0.5
"""Seconds by which we may wake late from a wait; when it is more, we have been stopped."""

_LONGEST_WAIT = 1.0
"""Seconds. Python heeds a signal that comes just before a wait only after it; no cancel may be lost so."""

_LAST_LOOKS = 16
"""Blocks read after the aftermath. More can be written only by one that goes on writing for ever."""

_BLOCK = 65536
_MOST_OUTPUT = 4 * 1024 * 1024
"""Bytes of a line, and of a whole document, beyond which a child's output makes no sense."""

_MOST_STDERR = 16 * 1024

_children: "list[_Child]" = []
"""Those that run now. Appending and removing are atomic, so a signal handler may look at any time."""


class _CannotStartError(Exception):
    """The child cannot be started; `reason` is that of the reply."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def run_and_track(
    path: "str | os.PathLike[str]",
    *args: str,
    data: "Any" = None,
    progress_cb: "Callable[[dict[str, Any]], Any] | None" = None,
) -> "dict[str, Any]":
    """Run the driver at `path` with `args` to its end, and return its reply or its failure (SPEC 12).

    `data` goes to its stdin as one JSON document; without it stdin is empty. `progress_cb` is called with
    every progress message, in order, in the calling thread; what it raises stops the child and is raised
    here, and so is anything that a signal handler raises meanwhile.

    The environment variable OPTUNE_IO_TIMEOUT is the time in seconds, T, for which our own caller bears our
    silence; empty, unset or 0 is unlimited. The child is stopped when nothing has come on its stdout for
    T - 1 seconds (T / 2 below 2), so that it is the one to time out, and it is given a T of one second less.

    A child has succeeded when it exits with status 0 and its last reply has the status "ok", or neither
    `status` nor `error`: that reply is returned. Otherwise the result has a `status` other than "ok", a
    `reason` and a `message`. It is the child's reply if that says that it failed; what is missing there is
    filled in. Else `status` is "failed", and `reason` one of "cannot-start", "timeout", "malformed" (it
    printed what is no JSON object; without `data` all lines together may be one), "exit-status", "signal",
    "no-reply", "terminated", "unkillable", "bad-environment". So a driver may return the result as its own.
    """
    payload = b"" if data is None else json.dumps(data, allow_nan=False).encode("ascii")
    try:
        limit, environment = _time_limit()
        child = _Child(path, args, environment)
    except _CannotStartError as error:
        return {"status": "failed", "reason": error.reason, "message": str(error)}
    _children.append(child)
    try:
        talk = _Talk(child, payload, progress_cb, may_be_one_document=data is None)
        try:
            talk.hold(limit)
        except BaseException:
            child.stop()
            raise
        if talk.problem is not None:
            child.stop()
    finally:
        _children.remove(child)
        child.reap()
    return talk.verdict()


def run_and_track_cancel() -> bool:
    """Send SIGUSR1 to the child that `run_and_track` runs; return whether there was one (SPEC 12).

    What becomes of it is the child's affair: `run_and_track` goes on until it has ended. A child that handles
    no SIGUSR1 is killed by it. May be called from a signal handler and from any thread.
    """
    children = list(_children)
    for child in children:
        child.send(signal.SIGUSR1)
    return bool(children)


def run_and_track_terminate(grace: float = GRACE) -> bool:
    """End the child that `run_and_track` runs, and return when it has; tells whether there was one (SPEC 12).

    It gets SIGTERM, and SIGKILL after `grace` seconds, with all of its session that is left then.
    `run_and_track` then returns a failure, with reason "terminated" unless the child gave another. May be
    called from a signal handler and from any thread.
    """
    children = list(_children)
    for child in children:
        child.terminated = True
        child.stop(grace)
    return bool(children)


class _Child:
    """One child process, in a session of its own: its signals, its end."""

    def __init__(
        self, path: "str | os.PathLike[str]", args: "tuple[str, ...]", environment: "dict[str, str]"
    ) -> None:
        self.name = os.fspath(path)
        self.terminated = False
        self.returncode: int | None = None
        self.lock = threading.RLock()  # a signal handler may come back into the thread that holds it
        self.reaped = False
        self.unkillable = False
        self.exited, self.exited_writer = os.pipe()
        _tell("starting", self.name, *args)
        try:
            # Unbuffered, because a wrapped stream would read ahead of what `select` knows of.
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
                cause = "the interpreter that its first line names does not exist"
            raise _CannotStartError(f"{self.name} cannot be started: {cause}", "cannot-start") from error
        self.tree = ProcessSet(session_of(self.process.pid), self.process.pid)
        self.waiter = threading.Thread(target=self.wait, name="waiter", daemon=True)
        self.waiter.start()

    def wait(self) -> None:
        """Wait for the exit, and leave the child to be reaped: until then its pid is no other process's."""
        if hasattr(os, "waitid"):
            os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        else:
            self.process.wait()
            self.reaped = True
        os.close(self.exited_writer)

    def send(self, number: int) -> None:
        self._signal(os.kill, number)

    def stop(self, grace: float = GRACE) -> None:
        """End it: SIGTERM, then SIGKILL after `grace` seconds. What is left of its session goes with it."""
        self.send(signal.SIGTERM)
        self.send(signal.SIGCONT)
        self.waiter.join(grace)
        if self.waiter.is_alive():
            self.kill()
        else:
            with self.lock:
                if not self.reaped:
                    self.tree.look()
                    self.tree.send(signal.SIGTERM)

    def kill(self) -> None:
        with self.lock:
            if not self.reaped:
                self.tree.kill()
        self.waiter.join(_UNKILLABLE)
        self.unkillable = self.waiter.is_alive()

    def reap(self) -> None:
        """Take note of the exit status and let go of everything."""
        if not self.unkillable:
            self.waiter.join(_UNKILLABLE)
        if self.waiter.is_alive() and not self.unkillable:
            # Only when an exception has broken off `stop`.
            self.kill()
        if not self.waiter.is_alive():
            with self.lock:
                self.reaped = True
                self.returncode = self.process.wait()
            _tell(self.name, _ended(self.returncode))
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        os.close(self.exited)

    def _signal(self, send: "Callable[[int, int], None]", number: int) -> None:
        with self.lock:
            if not self.reaped:
                # Gone, or another user's by way of sudo: there is nothing that could be done about it.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    send(self.process.pid, number)


class _Talk:
    """What is said between a child and us, from its start to its end."""

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
        self.is_in_lines = True
        self.line = bytearray()
        self.document = bytearray()
        self.stderr = bytearray()
        self.reply: dict[str, Any] | None = None
        self.problem: tuple[str, str] | None = None

    def hold(self, limit: "float | None") -> None:
        """Feed the child and read it, until it has exited and said its last or there is a problem."""
        process = self.child.process
        streams: Any = (
            (process.stdin, selectors.EVENT_WRITE, self.feed),
            (process.stdout, selectors.EVENT_READ, self.hear),
            (process.stderr, selectors.EVENT_READ, self.overhear),
        )
        with selectors.DefaultSelector() as selector:
            for stream, event, attend in streams:
                os.set_blocking(stream.fileno(), False)
                selector.register(stream, event, attend)
            selector.register(self.child.exited, selectors.EVENT_READ, None)
            exited = self.attend_until_exit(selector, limit)
            if exited:
                self.attend_aftermath(selector)
        if self.problem is None:
            self.hear_end()

    def attend_until_exit(self, selector: selectors.BaseSelector, limit: "float | None") -> bool:
        """Return whether the child has exited; otherwise there is a problem."""
        deadline = None if limit is None else time.monotonic() + limit
        while self.problem is None:
            left = _LONGEST_WAIT if deadline is None else deadline - time.monotonic()
            ready = selector.select(max(0.0, min(left, _LONGEST_WAIT)))
            for key, _ in ready:
                if key.data is None:
                    return True
                _attend(selector, key)
                if limit is not None and key.data == self.hear:
                    deadline = time.monotonic() + limit
            late = -1.0 if deadline is None else time.monotonic() - deadline
            if limit is not None and not ready and late >= 0:
                # Who wakes late was stopped, and perhaps so was the child: its time begins anew.
                deadline = time.monotonic() + limit
                if late < _LATE:
                    self.problem = (f"said nothing for {limit:g} s", "timeout")
        return False

    def attend_aftermath(self, selector: selectors.BaseSelector) -> None:
        """Read what was written before the exit or shortly after it, by whomever."""
        process = self.child.process
        selector.unregister(self.child.exited)
        with contextlib.suppress(KeyError, ValueError):  # it may have been closed
            selector.unregister(process.stdin)  # type: ignore[arg-type] # it is a pipe
        end = time.monotonic() + _AFTERMATH
        looks_after_end = 0
        while selector.get_map() and self.problem is None and looks_after_end < _LAST_LOOKS:
            left = end - time.monotonic()
            looks_after_end += left <= 0
            ready = selector.select(max(0.0, left))
            if not ready and left <= 0:
                return
            for key, _ in ready:
                _attend(selector, key)

    def feed(self) -> bool:
        """Write to the child's stdin; return whether there is more to write."""
        try:
            sent = os.write(_descriptor(self.child.process.stdin), self.unsent[:_BLOCK])
        except BlockingIOError:
            return True
        except BrokenPipeError:
            return False  # a driver that does not read its input is no error
        self.unsent = self.unsent[sent:]
        return bool(self.unsent)

    def overhear(self) -> bool:
        """Read the child's stderr, so that it does not block; return whether there may be more."""
        data = _read(self.child.process.stderr)
        if data is None:
            return True
        self.stderr += data
        del self.stderr[:-_MOST_STDERR]
        if data:
            _pass_on(data)
        return bool(data)

    def hear(self) -> bool:
        """Read the child's stdout and heed all whole lines; return whether there may be more."""
        data = _read(self.child.process.stdout)
        if data is None:
            return True
        if self.may_be_one_document:
            self.document += data
        self.line += data
        *whole, rest = self.line.split(b"\n")
        self.line = rest
        for line in whole:
            self.heed(line)
        if max(len(self.line), len(self.document)) > _MOST_OUTPUT:
            self.problem = ("prints more than 4 MiB without an end", "malformed")
        return bool(data)

    def hear_end(self) -> None:
        """Heed a last line that has no newline, or all lines as one document if they are that."""
        if self.line:
            self.heed(bytes(self.line))
        if self.is_in_lines:
            return
        document = _decode(self.document)
        if document is None:
            self.malformed(self.document)
        self.reply = document

    def heed(self, line: "bytes | bytearray") -> None:
        if self.problem is not None or not self.is_in_lines or not line.strip():
            return
        message = _decode(line)
        if message is None and self.may_be_one_document:
            self.is_in_lines = False
        elif message is None:
            self.malformed(line)
        elif "progress" not in message or "status" in message:
            self.reply = message
        elif self.progress_cb is not None:
            self.progress_cb(message)

    def malformed(self, output: "bytes | bytearray") -> None:
        start = bytes(output[:80]).decode("ascii", "backslashreplace")
        self.problem = (f"prints what is no JSON object: {start!r}", "malformed")

    def verdict(self) -> "dict[str, Any]":
        """Return the reply, or the failure if the child has failed."""
        child, reply = self.child, self.reply
        status = None if reply is None else reply.get("status", "failed" if "error" in reply else "ok")
        what, reason = "", "unknown"  # the child says itself how it failed
        if child.returncode is None:
            what, reason = "cannot be killed", "unkillable"
        elif self.problem is not None:
            what, reason = self.problem
        elif child.returncode < 0:
            what, reason = _ended(child.returncode), "signal"
        elif reply is not None and status != "ok":
            pass
        elif child.returncode > 0:
            what, reason = _ended(child.returncode), "exit-status"
        elif reply is None:
            what, reason = "gave no reply", "no-reply"
        else:
            return reply
        if child.terminated:
            what, reason = "was terminated", "terminated"

        told = {} if reply is None or status == "ok" else dict(reply)
        message = f"{child.name} {what or f'answered {status}'}"
        stderr = self.stderr.decode("utf-8", "replace").strip()
        if told.get("message"):
            message = f"{message}: {told['message']}" if what else told["message"]
        elif stderr:
            message += f"; stderr: {stderr}"
        told["status"] = status if told and isinstance(status, str) else "failed"
        told["reason"] = told.get("reason") or reason
        told["message"] = message
        return told


def _attend(selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    if not key.data():
        selector.unregister(key.fileobj)
        key.fileobj.close()  # type: ignore[union-attr] # it is a pipe


def _descriptor(stream: "Any") -> int:
    return int(stream.fileno())


def _read(stream: "Any") -> "bytes | None":
    """Return what there is to read, nothing at the end, None when there is nothing yet."""
    try:
        return os.read(_descriptor(stream), _BLOCK)
    except BlockingIOError:
        return None


def _decode(line: "bytes | bytearray") -> "dict[str, Any] | None":
    """Return the JSON object that `line` is, None when it is anything else."""
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _time_limit() -> "tuple[float | None, dict[str, str]]":
    """Return how long a child may be silent, None for ever, and the environment that tells it so."""
    environment = dict(os.environ)
    if not environment.get("PYTHONUNBUFFERED"):
        environment["PYTHONUNBUFFERED"] = "1"  # a Python driver that buffers its progress looks dead
    text = environment.get("OPTUNE_IO_TIMEOUT", "").strip()
    if not text:
        return None, environment
    is_plain = text != "." and not text.replace(".", "", 1).strip("0123456789")
    seconds = float(text) if is_plain else -1.0
    if not 0 <= seconds < float("inf"):
        raise _CannotStartError(
            f"OPTUNE_IO_TIMEOUT is {text!r}: a number of seconds is due, such as 300", "bad-environment"
        )
    if text.isdigit() and seconds > 1:
        environment["OPTUNE_IO_TIMEOUT"] = str(int(text) - 1)
    return max(seconds - 1, seconds / 2) or None, environment


def _ended(returncode: int) -> str:
    if returncode >= 0:
        return f"exited with status {returncode}"
    try:
        return f"was killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was killed by signal {-returncode}"


def _tell(*words: str) -> None:
    if getattr(g_args, "verbose", False):
        sys.stderr.write(" ".join(words) + "\n")
        sys.stderr.flush()


def _pass_on(data: bytes) -> None:
    if getattr(g_args, "verbose", False):
        sys.stderr.write(data.decode("utf-8", "replace"))
        sys.stderr.flush()
