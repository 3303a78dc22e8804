"""The process of one driver: start, exit status, reaping; and why a start failed.

Rules (SPEC 3, 10):
- A driver is started by posix_spawn in a session of its own, with an empty signal mask and default signal
  handling. It gets three descriptors and none of ours.
- Its exit is seen without reaping; it is reaped once its tree has been dealt with.
- posix_spawn returns, and lets other threads run, only when the driver's program is being executed. On a file
  server that hangs this takes as long as it hangs (docs/stopping.md tells what that means).
"""

from __future__ import annotations

import errno
import os

from servo_agg import threads
from servo_agg._compat import SIGKILL, SIGSTOP, signal_name, signal_number, valid_signals
from servo_agg.drivers.worker import Worker
from servo_agg.errors import StartError, resource_error
from servo_agg.processes.snapshot import start_time
from servo_agg.processes.start_token import START_TOKEN, append_token, new_token
from servo_agg.processes.tree import signal_child, signal_group

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from servo_agg.drivers.events import EventQueue
    from servo_agg.drivers.watchdog import SpawnTable
    from servo_agg.drivers.worker import ShowStderr

_DEFAULT_SIGNALS = valid_signals() - {SIGKILL, SIGSTOP}


class DriverCall:
    """A driver to run: its name, its arguments, and its stdin (None: empty)."""

    __slots__ = ("arguments", "name", "stdin")

    def __init__(self, name: str, arguments: Sequence[str], stdin: bytes | None = None) -> None:
        self.name = name
        self.arguments = arguments
        self.stdin = stdin


class DriverProcess:
    """A driver that has been started.

    pid     cannot be reused until `reap`
    token   its start token
    worker  moves its bytes
    reaped  whether `reap` was called
    """

    def __init__(self, pid: int, token: str, worker: Worker, spawn_table: SpawnTable, slot: int) -> None:
        self.pid = pid
        self.token = token
        self.worker = worker
        self.reaped = False
        self._spawn_table = spawn_table
        self._slot = slot
        self._registered = True
        self._exit_status: tuple[int | None, str | None] | None = None

    def exit_status(self) -> tuple[int | None, str | None] | None:
        """Return `(exit status, None)` or `(None, name of the signal)`; None while it runs."""
        if self._exit_status is None:
            result = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            if result is not None and result.si_code == os.CLD_EXITED:
                self._exit_status = result.si_status, None
            elif result is not None:
                self._exit_status = None, signal_name(result.si_status)
        return self._exit_status

    def send_signal(self, name: str) -> bool:
        """Send a signal to this process alone; return whether that is permitted. It must not be reaped."""
        return signal_child(self.pid, signal_number(name))

    def record_stop(self) -> None:
        """Record that it is being stopped: the watchdog must then stop all that it leaves."""
        if self._registered:
            self._spawn_table.set_stopping(self._slot)

    def record_members(self, members: Iterable[tuple[int, int]]) -> None:
        """Record other processes of its tree, as `(pid, start time)`: the watchdog must stop them, too."""
        if self._registered:
            self._spawn_table.add_members(self._slot, members)

    def unregister(self) -> None:
        """Remove it from the spawn table: the watchdog must ignore processes that it left on purpose."""
        if self._registered:
            self._registered = False
            self._spawn_table.remove(self._slot)

    def reap(self) -> None:
        """Reap it: from now on its pid may be reused. It must have exited, or be about to."""
        self.exit_status()
        os.waitpid(self.pid, 0)
        self.reaped = True


def spawn_driver(
    call: DriverCall,
    environment: Mapping[str, str],
    grace: float,
    queue: EventQueue,
    spawn_table: SpawnTable,
    show_stderr: ShowStderr | None,
) -> DriverProcess:
    """Start `adjust.d/NAME ARGUMENTS` in the current directory, and its worker (SPEC 2.8, 3.8).

    `grace`, in seconds from SIGTERM to SIGKILL, is for the watchdog. Raises StartError with the cause
    (SPEC 13.3).
    """
    path = f"adjust.d/{call.name}"
    token = new_token()
    slot: int | None = None
    ours: list[int] = []
    theirs: list[int] = []
    try:
        out = _open_pipe(ours, theirs)
        err = _open_pipe(ours, theirs)
        stdin = None
        if call.stdin is None:
            theirs.append(_open_empty_input())
        else:
            read_end, stdin = os.pipe()
            theirs.append(read_end)
            ours.append(stdin)
        for descriptor in ours:
            os.set_blocking(descriptor, False)
        slot = spawn_table.announce(token, grace, os.fstat(out).st_ino)
        pid = os.posix_spawn(
            path,
            [path, *call.arguments],
            {**environment, START_TOKEN: append_token(environment.get(START_TOKEN), token)},
            file_actions=[(os.POSIX_SPAWN_DUP2, end, number) for end, number in zip(theirs, (1, 2, 0))],
            setsid=True,
            setsigmask=(),
            setsigdef=_DEFAULT_SIGNALS,
        )
    except (OSError, MemoryError) as error:
        _close(ours)
        if slot is not None:
            spawn_table.remove(slot)
        raise StartError(_start_failure(path, error)) from None
    finally:
        _close(theirs)
    spawn_table.set_pid(slot, pid)
    try:
        exit_notification = _open_exit_notification(pid)
        ours.append(exit_notification)
        worker = Worker(
            call.name, pid, (out, err, exit_notification, stdin), call.stdin or b"", queue, show_stderr
        )
        process = DriverProcess(pid, token, worker, spawn_table, slot)

        def run() -> None:
            # Not in the coordinator: this read blocks while the driver executes a program of a dead file
            # server.
            spawn_table.set_start_time(slot, start_time(pid))
            worker.run()

        threads.start(run)
    except (OSError, MemoryError) as error:
        # Nothing can read its output: it must not keep running.
        if signal_group(pid, SIGKILL):
            os.waitpid(pid, 0)
        spawn_table.remove(slot)
        _close(ours)
        raise StartError(f"its output could not be read: {_start_failure(path, error)}") from None
    return process


def _open_empty_input() -> int:
    """Open an empty standard input for a driver."""
    try:
        return os.open(os.devnull, os.O_RDONLY)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
    # Many containers have no /dev/null, or none that we may read.
    read_end, write_end = os.pipe()
    os.close(write_end)
    return read_end


def _open_pipe(ours: list[int], theirs: list[int]) -> int:
    read_end, write_end = os.pipe()
    ours.append(read_end)
    theirs.append(write_end)
    return read_end


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _open_exit_notification(pid: int) -> int:
    """Return a descriptor that becomes readable when the child exits, without reaping it."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOSYS, errno.EPERM):
            raise
    # Linux before 5.3, macOS, sandboxes that forbid the call: a thread waits and hangs up.
    notice, hang_up = os.pipe()

    def wait() -> None:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        os.close(hang_up)

    threads.start(wait)
    return notice


_FIRST_LINE = 256
"""Bytes of the first line that Linux looks at."""

_CR_LF = "its first line ends in CR LF (Windows line endings); save it with LF line endings"

_CR = "its lines end in CR (old Mac line endings); save it with LF line endings"

_BEGINNINGS = {
    b"\x7fELF": "it is a program for another CPU architecture, or a library that it needs is missing",
    b"\xef\xbb\xbf#!": "it begins with a byte order mark; save it without one",
}

_NOT_EXECUTABLE = "it is not executable; check its permissions, and whether its file system is mounted noexec"

_CAUSES = {
    errno.E2BIG: "its arguments and environment are too long",
    errno.ETXTBSY: "the file is open for writing; try again later",
    errno.ELOOP: "it is a symbolic link that leads back to itself",
}


def _start_failure(path: str, error: OSError | MemoryError) -> str:
    """Return why a driver could not be started, and what to do (SPEC 13.3)."""
    number = error.errno or 0 if isinstance(error, OSError) else 0
    if number in (errno.ENOENT, errno.EACCES, errno.ENOEXEC):
        if os.path.exists(path) and not os.path.isfile(path):
            # To open it might take forever: it may be a pipe.
            return "it is not a regular file any more: it was replaced after adjust.d was listed"
        return _first_line_fault(path, number)
    if number == errno.ELOOP and os.path.exists(path):
        return (
            "its interpreter is a script, whose interpreter is a script, and so on, too many times; name a"
            " binary in its #! line"
        )
    return resource_error(error) or _CAUSES.get(number) or os.strerror(number)


def _first_line_fault(path: str, number: int) -> str:
    try:
        with open(path, "rb") as driver:
            first = driver.readline(_FIRST_LINE)
    except FileNotFoundError:
        return "the file was removed after adjust.d was listed"
    except OSError as error:
        return f"the file cannot be read ({os.strerror(error.errno or 0)}); check its permissions"
    if first.startswith(b"#!"):
        return _interpreter_fault(path, first, number)
    for beginning, cause in _BEGINNINGS.items():
        if first.startswith(beginning):
            return cause
    if number == errno.ENOEXEC:
        return "it has no #! line (the first line should be, for example, #!/bin/sh)"
    return _NOT_EXECUTABLE


def carriage_return(name: str) -> str:
    """Return a sentence if the first line of a driver ends in CR LF, which `env` takes for part of a name."""
    first = _first_line(name)
    return _CR_LF if first.startswith(b"#!") and first.endswith(b"\r\n") else ""


ENV_FAILED = (126, 127)
"""Exit statuses of `env` when it cannot run a program."""


def missing_interpreter(name: str) -> str:
    """Return a sentence if the first line of a driver names, after `env`, a program that cannot be run.

    Drivers have our PATH (SPEC 13.11).
    """
    first = _first_line(name)
    program = _program_of_env(first)
    if not program or b"\r" in first:
        return ""
    directories = [""] if "/" in program else os.get_exec_path()
    files = [path for path in (os.path.join(each, program) for each in directories) if os.path.isfile(path)]
    if any(os.access(path, os.X_OK) for path in files):
        return ""
    if files:
        return f"its interpreter {files[0]} is not executable"
    remedy = "; use env -S to pass arguments" if " " in program else ""
    where = "does not exist" if "/" in program else "is not on PATH"
    return f"its interpreter {program} {where}{remedy}"


_ENV_SYNTAX = frozenset("\"'\\$#")
"""Characters that `env -S` does not take literally."""


def _program_of_env(first: bytes) -> str:
    """Return the program that the first line of a driver has `env` run, "" if it is not clear."""
    env, _, argument = os.fsdecode(first[2:]).strip(" \t\n").replace("\t", " ").partition(" ")
    argument = argument.strip(" ")
    if not first.startswith(b"#!") or os.path.basename(env) != "env":
        return ""
    option, _, words = argument.partition(" ")
    if option not in ("-S", "--split-string"):
        # The system passes the rest of the line as one argument.
        arguments = [argument]
    elif _ENV_SYNTAX.intersection(words):
        arguments = []
    else:
        arguments = words.split()
    for word in arguments:
        # Another option or another PATH may change where `env` looks.
        if word.startswith(("-", "PATH=")):
            break
        if "=" not in word:
            return word
    return ""


def _first_line(name: str) -> bytes:
    try:
        with open(f"adjust.d/{name}", "rb") as driver:
            return driver.readline(_FIRST_LINE)
    except OSError:
        return b""


def _interpreter_fault(path: str, first: bytes, number: int) -> str:
    # The system takes nothing but blanks and tabs for white space here.
    interpreter = os.fsdecode(first[2:].rstrip(b"\n").strip(b" \t").replace(b"\t", b" ").partition(b" ")[0])
    if not interpreter:
        return "its #! line names no interpreter"
    if b"\r" in first:
        return _CR_LF if first.endswith(b"\r\n") else _CR
    if len(first) == _FIRST_LINE and not first.split(None, 1)[1:]:
        return "its #! line is longer than the 255 bytes that the system reads"
    if number == errno.ENOENT:
        return f"its interpreter {interpreter} does not exist"
    if os.access(path, os.X_OK):
        return f"its interpreter {interpreter} is not executable"
    return _NOT_EXECUTABLE
