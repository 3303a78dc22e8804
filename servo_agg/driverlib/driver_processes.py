"""Processes that a driver starts, and how they are ended; for `adjust` and `util` (SPEC 12).

Neither imports this before it needs it: most drivers start no process by way of the library.

The driver's interpreter loads this file: any Python from 3.6 on. So annotations are quoted where that one
would evaluate them.
"""
# ruff: noqa: INP001 - it is found through PYTHONPATH: its directory is no package

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

TYPE_CHECKING = False  # `typing` has it too, for the price of importing it
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

COMMAND_GRACE = 2.0
"""Seconds from SIGTERM to SIGKILL when a command is ended; less than a driver itself has in an adjust."""

_TYPED = 0.25
"""Seconds that a command gets in the foreground of a terminal: Ctrl-C has told it already to end."""

_POLL = 0.01
_KILL_ROUNDS = 10
"""How often SIGKILL is sent to what is found; processes that go on forking must not keep us for ever."""

_KILL_WAIT = 0.2
"""Seconds in which a process must be gone after SIGKILL; the kernel may hold it back for ever."""

_LONGEST_WAIT = 1.0
"""Seconds. Python runs the handler of a signal that comes just before a wait only after that wait."""

_DRAIN = 0.25
"""Seconds after the exit in which a pipe is read on: a background process may hold it open for ever."""

_BLOCK = 65536


class Process:
    """One process, as /proc shows it."""

    def __init__(self, pid: int, fields: "list[bytes]") -> None:
        # Of proc(5), /proc/PID/stat, from the third field on.
        self.pid = pid
        self.parent, self.group, self.session = map(int, fields[1:4])
        self.alive = fields[0] not in (b"Z", b"X") or int(fields[17]) > 1
        self.started = int(fields[19])


def find_process(pid: int) -> "Process | None":
    """Return the process with this pid, None if there is none or it cannot be seen."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return Process(pid, file.read().rpartition(b")")[2].split())
    except (OSError, IndexError, ValueError):
        return None


def find_processes() -> "list[Process]":
    """Return all processes that can be seen; none where there is no /proc."""
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []
    return [process for process in map(find_process, pids) if process is not None]


def session_of(leader: int) -> "Callable[[], list[Process]]":
    """Return a function that finds the members of the session that `leader` leads.

    The leader must not be reaped meanwhile: until then its pid, and so its session, is no other's.
    """
    return lambda: [process for process in find_processes() if process.session == leader]


class ProcessSet:
    """Processes that are ended together, known by pid and start time."""

    def __init__(self, find: "Callable[[], list[Process]]", group: "int | None") -> None:
        """Take the function that finds the members, and the process group that they have, if any."""
        self.find = find
        self.group = group
        self.members: dict[tuple[int, int], Process] = {}

    def look(self) -> "list[Process]":
        """Find the members that there are now, and return those that are new."""
        new = [each for each in self.find() if (each.pid, each.started) not in self.members]
        self.members.update({(each.pid, each.started): each for each in new})
        return new

    def send(self, number: int) -> None:
        """Send a signal to the group, and to all living members that are not in it."""
        group_got_it = self.group is not None and _send(os.killpg, self.group, number)
        for process in self.living():
            if not (group_got_it and process.group == self.group):
                _send(os.kill, process.pid, number)

    def living(self) -> "list[Process]":
        """Return the members that are still alive."""
        now = [(started, find_process(pid)) for pid, started in self.members]
        return [each for started, each in now if each is not None and each.alive and each.started == started]

    def wait(self, seconds: float) -> bool:
        """Wait until no member is alive, new ones included; return whether that is so in time."""
        deadline = time.monotonic() + seconds
        while self.living() or any(each.alive for each in self.look()):
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL)
        return True

    def kill(self) -> None:
        """Send SIGKILL until no member is left, those included that are found only now."""
        for _ in range(_KILL_ROUNDS):
            self.look()
            self.send(signal.SIGKILL)
            if self.wait(_KILL_WAIT):
                return


def _send(send: "Callable[[int, int], None]", target: int, number: int) -> bool:
    """Send a signal; return whether anyone got it."""
    try:
        send(target, number)
    except (ProcessLookupError, PermissionError):
        # Gone, or another user's by way of sudo: there is nothing that could be done about it.
        return False
    return True


class DeferredSignals:
    """Signal handlers that wait until `run_handlers` calls them; a context manager.

    A handler of the driver may raise, at any point of the main thread: between a start and its note, amid a
    stop. Here it raises where that can be dealt with. Signals without a Python handler work as ever.
    """

    def __init__(self) -> None:
        self.woken = threading.Lock()
        self.woken.acquire()
        self._handlers: dict[int, Any] = {}
        self._noted: list[tuple[int, Any]] = []
        self._is_active = False

    def __enter__(self) -> "DeferredSignals":  # noqa: PYI034 - Python 3.6 has no Self
        # Other threads run no handlers, and cannot set any.
        if threading.current_thread() is threading.main_thread():
            for number in range(1, signal.NSIG):
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._note)
        self._is_active = True
        return self

    def __exit__(self, *_: object) -> None:
        self._is_active = False
        try:
            for number, handler in self._handlers.items():
                if signal.getsignal(number) == self._note:
                    signal.signal(number, handler)
        finally:
            self.run_handlers()

    def _note(self, number: int, frame: "Any") -> None:
        if self._is_active:
            self._noted.append((number, frame))
            self.wake()
        else:
            # A handler has raised while these were installed or removed.
            self._handlers[number](number, frame)

    def wake(self) -> None:
        """Make `woken` free, also from another thread."""
        with contextlib.suppress(RuntimeError):  # it is free
            self.woken.release()

    def run_handlers(self) -> None:
        """Run the handlers of the signals that have come, all of them; what the last one raises is raised."""
        if self._noted:
            number, frame = self._noted.pop(0)
            try:
                self._handlers[number](number, frame)
            finally:
                self.run_handlers()


class Command:
    """A command that runs to its end, or is ended with all its processes when a signal handler raises.

    It has a process group of its own in our session, so that whoever ends our session ends it too. In the
    foreground of a terminal it stays in our group: there it gets what is typed, such as Ctrl-C, and can ask
    for a password. What belongs to it is its group, and its descendants in our session.
    """

    def __init__(self, command: "str | list[str]") -> None:
        self.command = command
        self.problem: Exception | None = None
        self.status: int | None = None
        self.out = self.err = b""
        self._exited = threading.Event()

    def run(self) -> None:
        """Run it, and set `status` (-n for signal n), `out` and `err`; or `problem` if it cannot be started.

        What a signal handler raises meanwhile is raised here, once all that belongs to the command has ended.
        """
        with DeferredSignals() as signals, contextlib.ExitStack() as stack:
            has_terminal = _is_in_foreground()
            try:
                out = _output()
                stack.callback(out.close)
                err = _output()
                stack.callback(err.close)
                process = _start(_arguments(self.command), out.writer, err.writer, own_group=not has_terminal)
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                self.problem = error
                return
            try:
                out.start()
                err.start()
                _start_thread(self._wait_for_exit, process, signals)
                while not self._exited.is_set():
                    signals.woken.acquire(timeout=_LONGEST_WAIT)
                    signals.run_handlers()
            finally:
                if not self._exited.is_set():
                    self._stop(process.pid, has_terminal)
                if self._exited.is_set():
                    self.status = process.wait()
            self.out, self.err = out.read(), err.read()

    def _wait_for_exit(self, process: "subprocess.Popen[bytes]", signals: DeferredSignals) -> None:
        # ChildProcessError: the driver has reaped it.
        with contextlib.suppress(ChildProcessError):
            if hasattr(os, "waitid"):
                # Not reaped yet: until then its pid, and so its group, is no other's.
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            else:
                process.wait()
        self._exited.set()
        signals.wake()

    def _stop(self, leader: int, has_terminal: bool) -> None:
        session, group = os.getsid(0), None if has_terminal else leader

        def members() -> "list[Process]":
            processes = [each for each in find_processes() if each.session == session]
            found = {
                each.pid
                for each in processes
                if each.pid == leader or each.group == group or (each.pid, each.started) in tree.members
            }
            while True:
                children = {each.pid for each in processes if each.parent in found} - found
                if not children:
                    return [each for each in processes if each.pid in found]
                found |= children

        tree = ProcessSet(members, group)
        deadline = time.monotonic() + COMMAND_GRACE
        tree.look()  # before the leader ends: then its children have another parent
        if has_terminal:
            tree.wait(_TYPED)
        tree.send(signal.SIGTERM)
        tree.send(signal.SIGCONT)
        if self._exited.wait(COMMAND_GRACE) and tree.wait(deadline - time.monotonic()):
            if group is not None:
                _send(os.killpg, group, signal.SIGKILL)  # members that cannot be seen
        else:
            tree.kill()
            self._exited.wait(_KILL_WAIT)


def _arguments(command: "str | list[str]") -> "list[str]":
    """Return the arguments that run `command`: a text by bash, or by sh where there is no bash."""
    if not isinstance(command, str):
        return list(command)
    places = ["/bin/bash", *(os.path.join(directory, "bash") for directory in os.get_exec_path())]
    shell = next((path for path in places if os.path.isfile(path) and os.access(path, os.X_OK)), "/bin/sh")
    return [shell, "-c", command]


def _start(arguments: "list[str]", out: int, err: int, own_group: bool) -> "subprocess.Popen[bytes]":
    options: dict[str, Any] = {}
    if own_group:
        # `preexec_fn` can hang where there are threads, so it is for those alone that have nothing else.
        options = {"process_group": 0} if sys.version_info >= (3, 11) else {"preexec_fn": os.setpgrp}
    # An empty pipe does what /dev/null does, which may be missing.
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


class _Memory:
    """Output that goes to memory: nobody has to read it, and a process that keeps it open can still write."""

    def __init__(self) -> None:
        self.writer = os.memfd_create("output")

    def close(self) -> None:
        os.close(self.writer)

    def start(self) -> None:
        """Do nothing: there is no reader."""

    def read(self) -> bytes:
        return os.pread(self.writer, os.fstat(self.writer).st_size, 0)


class _Pipe:
    """Output that goes to a pipe, read by a thread, for systems and Pythons that have no memory files."""

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
        # A background process may keep it open: it is read as long as we live, so that the process can write.
        while True:
            block = os.read(self.reader, _BLOCK)
            data = self.data
            if not block:
                break
            if data is not None:
                data += block
        os.close(self.reader)
        self.ended.set()

    def read(self) -> bytes:
        self.ended.wait(_DRAIN)
        data, self.data = self.data, None
        return bytes(data or b"")


def _output() -> "_Memory | _Pipe":
    try:
        return _Memory()
    except (AttributeError, OSError):
        return _Pipe()
