"""Start and stop the processes of a driver; for `adjust` and `util` (SPEC 12.17, 12.23).

`adjust` imports this module only to run a command, since most drivers run none.

The driver's interpreter loads this file, so it must work with Python 3.6. Annotations are quoted where
Python 3.6 would evaluate them.
"""
# ruff: noqa: INP001 - drivers find it through PYTHONPATH: its directory is not a package

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

TYPE_CHECKING = False  # `typing` has it too, but takes time to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

COMMAND_GRACE = 2.0
"""Seconds from SIGTERM to SIGKILL when a command is stopped; less than a driver itself has in an adjust."""

_CTRL_C_GRACE = 0.25
"""Seconds before SIGTERM is sent to a command in the foreground: the terminal may have sent it SIGINT."""

_POLL_INTERVAL = 0.01
_KILL_ROUNDS = 10
"""How often SIGKILL is sent: processes that fork without end must not block the driver forever."""

_KILL_WAIT = 0.2
"""Seconds to wait after SIGKILL; a process in an uninterruptible sleep may never exit."""

_MAX_WAIT = 1.0
"""Seconds. Python runs the handler of a signal that arrives just before a wait only after that wait."""

_POST_EXIT_DRAIN = 0.25
"""Seconds for which a pipe is read after the exit: a background process may hold it open forever."""

_BLOCK_SIZE = 65536


class Process:
    """A process as /proc shows it."""

    def __init__(self, pid: int, fields: "list[bytes]") -> None:
        # The fields of /proc/PID/stat, see proc(5), from the third on.
        self.pid = pid
        self.parent, self.group, self.session = map(int, fields[1:4])
        self.alive = fields[0] not in (b"Z", b"X") or int(fields[17]) > 1
        # A later process may get the same pid, but not with the same start time.
        self.identity = (pid, int(fields[19]))


def find_process(pid: int) -> "Process | None":
    """Return the process with this pid, or None if there is none or /proc does not show it."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return Process(pid, file.read().rpartition(b")")[2].split())
    except (OSError, IndexError, ValueError):
        return None


def find_processes() -> "list[Process]":
    """Return all processes that /proc shows; an empty list if there is no /proc."""
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []
    return [process for process in map(find_process, pids) if process is not None]


def describe_exit(status: int) -> str:
    """Return how a process has ended; `status` is -n for signal n."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def session_members(leader: int) -> "Callable[[], list[Process]]":
    """Return a function that finds the members of the session of `leader`.

    It must not be called after the leader was reaped, since the id of the session may be reused then.
    """
    return lambda: [process for process in find_processes() if process.session == leader]


class ProcessSet:
    """Processes that are stopped together, identified by pid and start time."""

    def __init__(self, find: "Callable[[], list[Process]]", group: "int | None") -> None:
        """Store the function that finds the members, and the id of their process group if they have one."""
        self.find = find
        self.group = group
        self.members: dict[tuple[int, int], Process] = {}

    def update(self) -> "list[Process]":
        """Find the current members, and return those that are new."""
        new = [process for process in self.find() if process.identity not in self.members]
        self.members.update({process.identity: process for process in new})
        return new

    def send(self, number: int) -> None:
        """Send a signal to the group, and to each living member outside of it, parents first.

        A shell that is still waiting for a child must get SIGTERM before the child's exit lets it go on.
        """
        sent_to_group = self.group is not None and _send(os.killpg, self.group, number)
        for process in self.living():
            if not (sent_to_group and process.group == self.group):
                _send(os.kill, process.pid, number)

    def living(self) -> "list[Process]":
        """Return the members that are still alive, in the order of their start."""
        by_start = sorted(self.members, key=lambda identity: (identity[1], identity[0]))
        found = map(find_process, [pid for pid, _ in by_start])
        return [
            process for process in found if process and process.alive and process.identity in self.members
        ]

    def wait(self, seconds: float) -> bool:
        """Wait until no member is alive, including new ones; return false on timeout."""
        deadline = time.monotonic() + seconds
        while self.living() or any(process.alive for process in self.update()):
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_INTERVAL)
        return True

    def kill(self) -> None:
        """Send SIGKILL until no member is alive, including new ones."""
        for _ in range(_KILL_ROUNDS):
            self.update()
            self.send(signal.SIGKILL)
            if self.wait(_KILL_WAIT):
                return


def _send(send: "Callable[[int, int], None]", target: int, number: int) -> bool:
    """Send a signal; return whether a process received it."""
    try:
        send(target, number)
    except (ProcessLookupError, PermissionError):
        # It has exited, or sudo has changed its user: neither can be helped.
        return False
    return True


class DeferredSignals:
    """A context manager that defers the signal handlers of the driver until `run_handlers` is called.

    A handler may raise at any point of the main thread, for example after a process was started and before
    its pid is stored, or in the middle of a stop. A deferred handler raises only in `run_handlers`. Signals
    without a Python handler are not changed.
    """

    def __init__(self) -> None:
        self.wakeup = threading.Lock()
        self.wakeup.acquire()
        self._handlers: dict[int, Any] = {}
        self._deferred: list[tuple[int, Any]] = []
        self._is_active = False

    def __enter__(self) -> "DeferredSignals":  # noqa: PYI034 - Python 3.6 has no Self
        # Only the main thread runs handlers, and only it can set them.
        if threading.current_thread() is threading.main_thread():
            for number in range(1, signal.NSIG):
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._defer)
        self._is_active = True
        return self

    def __exit__(self, *_: object) -> None:
        self._is_active = False
        try:
            for number, handler in self._handlers.items():
                if signal.getsignal(number) == self._defer:
                    signal.signal(number, handler)
        finally:
            self.run_handlers()

    def _defer(self, number: int, frame: "Any") -> None:
        if self._is_active:
            self._deferred.append((number, frame))
            self.wake()
        else:
            # A handler has raised while the handlers were being replaced or restored.
            self._handlers[number](number, frame)

    def wake(self) -> None:
        """Release `wakeup`; may be called from any thread."""
        with contextlib.suppress(RuntimeError):  # it is released already
            self.wakeup.release()

    def run_handlers(self) -> None:
        """Run the handlers of all signals that have arrived; raise the exception of the last that raises."""
        if self._deferred:
            number, frame = self._deferred.pop(0)
            try:
                self._handlers[number](number, frame)
            finally:
                self.run_handlers()


class Command:
    """A command that runs until it exits; all its processes are stopped if a signal handler raises.

    It has its own process group, but stays in our session, so that stopping our session stops it too. In the
    foreground of a terminal it stays in our process group, so that Ctrl-C reaches it and it can read a
    password. Its processes are those of its group, and its descendants in our session.
    """

    def __init__(self, command: "str | list[str]") -> None:
        self.command = command
        self.start_error: Exception | None = None
        self.status: int | None = None
        self.out = self.err = b""
        self._exited = threading.Event()

    def run(self) -> None:
        """Run it, and set `status` (-n for signal n), `out` and `err`; or `start_error` if it does not start.

        If a signal handler raises, stop all processes of the command, then raise the exception.
        """
        with DeferredSignals() as signals, contextlib.ExitStack() as stack:
            has_terminal = _is_in_foreground()
            try:
                out = _new_output()
                stack.callback(out.close)
                err = _new_output()
                stack.callback(err.close)
                process = _start(_argv(self.command), out.writer, err.writer, own_group=not has_terminal)
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                self.start_error = error
                return
            try:
                out.start()
                err.start()
                _start_thread(self._wait_for_exit, process, signals)
                while not self._exited.is_set():
                    signals.wakeup.acquire(timeout=_MAX_WAIT)
                    signals.run_handlers()
            finally:
                if not self._exited.is_set():
                    self._stop(process.pid, has_terminal)
                if self._exited.is_set():
                    self.status = process.wait()
            self.out, self.err = out.read(), err.read()

    def _wait_for_exit(self, process: "subprocess.Popen[bytes]", signals: DeferredSignals) -> None:
        # ChildProcessError: the driver itself has reaped it.
        with contextlib.suppress(ChildProcessError):
            if hasattr(os, "waitid"):
                # Do not reap it yet: until then its pid, which is the id of its group, is not reused.
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            else:
                process.wait()
        self._exited.set()
        signals.wake()

    def _stop(self, leader: int, has_terminal: bool) -> None:
        session, group = os.getsid(0), None if has_terminal else leader

        def members() -> "list[Process]":
            processes = [process for process in find_processes() if process.session == session]
            found = {
                process.pid
                for process in processes
                if process.pid == leader or process.group == group or process.identity in tree.members
            }
            while True:
                children = {process.pid for process in processes if process.parent in found} - found
                if not children:
                    return [process for process in processes if process.pid in found]
                found |= children

        tree = ProcessSet(members, group)
        deadline = time.monotonic() + COMMAND_GRACE
        tree.update()  # before the leader exits, since its children then get another parent
        if has_terminal:
            tree.wait(_CTRL_C_GRACE)
        tree.send(signal.SIGTERM)
        tree.send(signal.SIGCONT)
        if self._exited.wait(COMMAND_GRACE) and tree.wait(deadline - time.monotonic()):
            if group is not None:
                _send(os.killpg, group, signal.SIGKILL)  # reaches members that /proc does not show
        else:
            tree.kill()
            self._exited.wait(_KILL_WAIT)


def _argv(command: "str | list[str]") -> "list[str]":
    """Return the argv of `command`; a string is run by bash, or by sh if there is no bash."""
    if not isinstance(command, str):
        return list(command)
    candidates = ["/bin/bash", *(os.path.join(directory, "bash") for directory in os.get_exec_path())]
    shells = (path for path in candidates if os.path.isfile(path) and os.access(path, os.X_OK))
    return [next(shells, "/bin/sh"), "-c", command]


def _start(arguments: "list[str]", out: int, err: int, own_group: bool) -> "subprocess.Popen[bytes]":
    options: dict[str, Any] = {}
    if own_group:
        # `preexec_fn` can deadlock if there are threads: use it only where `process_group` is missing.
        options = {"process_group": 0} if sys.version_info >= (3, 11) else {"preexec_fn": os.setpgrp}
    # An empty pipe works like /dev/null, which may be missing.
    stdin, writer = os.pipe()
    os.close(writer)
    try:
        return subprocess.Popen(arguments, stdin=stdin, stdout=out, stderr=err, **options)
    finally:
        os.close(stdin)


def _start_thread(function: "Callable[..., None]", *arguments: "Any") -> None:
    threading.Thread(target=function, args=arguments, daemon=True).start()


def _is_in_foreground() -> bool:
    """Return whether our process group is in the foreground of a terminal."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


class _MemoryOutput:
    """Output to a memory file: it needs no reader, and background processes can go on writing."""

    def __init__(self) -> None:
        self.writer = os.memfd_create("output")

    def close(self) -> None:
        os.close(self.writer)

    def start(self) -> None:
        """Do nothing: there is no reader."""

    def read(self) -> bytes:
        return os.pread(self.writer, os.fstat(self.writer).st_size, 0)


class _PipeOutput:
    """Output to a pipe that a thread reads; used where memory files are not available."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.is_started = False
        self.data: bytearray | None = bytearray()
        self.ended = threading.Event()

    def close(self) -> None:
        if not self.is_started:
            os.close(self.reader)
            os.close(self.writer)

    def start(self) -> None:
        _start_thread(self._read)
        self.is_started = True
        os.close(self.writer)

    def _read(self) -> None:
        # A background process may hold it open: read until the driver exits, so that it does not block.
        while True:
            block = os.read(self.reader, _BLOCK_SIZE)
            data = self.data
            if not block:
                break
            if data is not None:
                data += block
        os.close(self.reader)
        self.ended.set()

    def read(self) -> bytes:
        self.ended.wait(_POST_EXIT_DRAIN)
        data, self.data = self.data, None
        return bytes(data or b"")


def _new_output() -> "_MemoryOutput | _PipeOutput":
    try:
        return _MemoryOutput()
    except (AttributeError, OSError):
        return _PipeOutput()
