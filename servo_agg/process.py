"""One started driver: how it is spawned, what is known of its exit, and its reaping.

Rules (SPEC 3, 10):
- A driver is started by posix_spawn: in a session of its own, with a clean signal mask and default
  dispositions, holding three descriptors and none of ours.
- Its exit is seen without reaping; `reap` is called once its tree has been dealt with.
- What cannot be started is said in words that name the cause.
"""

from __future__ import annotations

import errno
import os

from servo_agg import threads
from servo_agg.errors import CannotStart, lack
from servo_agg.processes import MARK, born, chained, signal_child, signal_group
from servo_agg.signals import SIGKILL, SIGSTOP, name_of, number_of, valid_signals
from servo_agg.worker import Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from servo_agg.inbox import Inbox
    from servo_agg.ledger import Ledger
    from servo_agg.worker import Show

_DEFAULTS = valid_signals() - {SIGKILL, SIGSTOP}


class Child:
    """A driver that has been started.

    pid     its pid, which is its own until `reap`
    mark    in the last link of MARK in its environment
    worker  what moves its bytes
    reaped  whether `reap` was called
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        given: bytes | None,
        inbox: Inbox,
        show: Show,
        ledger: Ledger,
        grace: float,
    ) -> None:
        """Start `adjust.d/NAME ARGUMENTS` in the current directory (SPEC 2, 3).

        `given` is written to its stdin, None is an empty one. `show`: see Worker. In the ledger
        stands that it has `grace` seconds from SIGTERM to SIGKILL, should we be killed.
        Raises CannotStart with the cause in words (SPEC 13).
        """
        self.name = name
        self.mark = os.urandom(8).hex()
        self.reaped = False
        self._ledger = ledger
        self._let_go = False
        self._ending: tuple[int | None, str | None] | None = None
        path = f"adjust.d/{name}"
        ours: list[int] = []
        theirs: list[int] = []
        try:
            out = _pipe(ours, theirs)
            err = _pipe(ours, theirs)
            if given is None:
                theirs.append(_nothing_to_read())
            else:
                stdin, feed = os.pipe()
                theirs.append(stdin)
                ours.append(feed)
            for descriptor in ours:
                os.set_blocking(descriptor, False)
            self._slot = ledger.enter(self.mark, grace)
            self.pid = os.posix_spawn(
                path,
                [path, *arguments],
                {**environment, MARK: chained(environment.get(MARK), self.mark)},
                file_actions=[(os.POSIX_SPAWN_DUP2, end, number) for end, number in zip(theirs, (1, 2, 0))],
                setsid=True,
                setsigmask=(),
                setsigdef=_DEFAULTS,
            )
        except (OSError, MemoryError) as error:
            _close(ours)
            if hasattr(self, "_slot"):
                ledger.strike(self._slot)
            raise CannotStart(_why(path, error)) from None
        finally:
            _close(theirs)
        ledger.note(self._slot, self.pid)
        try:
            ours.append(_exit_notice(self.pid))
            *pipes, exit_notice = ours
            stdin_end = pipes[2] if given is not None else None
            self.worker = Worker(
                name, self.pid, (out, err, exit_notice, stdin_end), given or b"", inbox, show
            )
            threads.start(self._work)
        except (OSError, MemoryError) as error:
            # Nobody has heard of it yet, and nobody could: it must not live on unread.
            if signal_group(self.pid, SIGKILL):
                self.reap()
            self.let_go()
            _close(ours)
            raise CannotStart(f"its output could not be read: {_why(path, error)}") from None

    def _work(self) -> None:
        # Not by the coordinator: this read blocks while the driver executes a program of a dead file server.
        self._ledger.note_born(self._slot, born(self.pid))
        self.worker.run()

    def ending(self) -> tuple[int | None, str | None] | None:
        """Return `(exit status, None)` or `(None, name of the signal)`; None while it runs."""
        if self._ending is None:
            result = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            if result is not None and result.si_code == os.CLD_EXITED:
                self._ending = result.si_status, None
            elif result is not None:
                self._ending = None, name_of(result.si_status)
        return self._ending

    def signal(self, name: str) -> bool:
        """Send it the signal of that name, it alone; return whether we may. It must not have been reaped."""
        return signal_child(self.pid, number_of(name))

    def let_go(self) -> None:
        """Take it out of the ledger: of what it leaves nothing is to be stopped, should we be killed."""
        if not self._let_go:
            self._let_go = True
            self._ledger.strike(self._slot)

    def reap(self) -> None:
        """Reap it: its pid may be another's from now on. It must have exited, or be about to."""
        self.ending()
        os.waitpid(self.pid, 0)
        self.reaped = True


def _nothing_to_read() -> int:
    """Open an empty standard input for a driver."""
    try:
        return os.open(os.devnull, os.O_RDONLY)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
    # There is no /dev/null, or none that we may read, in many a container.
    read_end, write_end = os.pipe()
    os.close(write_end)
    return read_end


def _pipe(ours: list[int], theirs: list[int]) -> int:
    read_end, write_end = os.pipe()
    ours.append(read_end)
    theirs.append(write_end)
    return read_end


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _exit_notice(pid: int) -> int:
    """Give a descriptor that becomes readable when the child exits, and does not reap it."""
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


def _why(path: str, error: OSError | MemoryError) -> str:
    """Say why a driver could not be started, and what to do (SPEC 13)."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOENT, errno.EACCES, errno.ENOEXEC):
        if os.path.exists(path) and not os.path.isfile(path):
            # To open it might take for ever: it may be a pipe.
            return "it is no regular file any more, as it was when adjust.d was listed"
        return _first_line_fault(path, number)
    return (
        lack(error)
        or {
            errno.E2BIG: "its arguments and environment together are too long",
            errno.ETXTBSY: "the file is being written to; try again when that is done",
            errno.ELOOP: "its interpreter is a script, whose interpreter is a script, and so on too often"
            if os.path.exists(path)
            else "it is a link that leads in a circle",
        }.get(number or 0)
        or os.strerror(number or 0)
    )


def _first_line_fault(path: str, number: int) -> str:
    try:
        with open(path, "rb") as driver:
            first = driver.readline(_FIRST_LINE)
    except FileNotFoundError:
        return "the file has vanished since adjust.d was listed"
    except OSError as error:
        return f"the file cannot be read ({os.strerror(error.errno or 0)}); check its permissions"
    if first.startswith(b"#!"):
        return _interpreter_fault(path, first, number)
    for beginning, cause in _BEGINNINGS.items():
        if first.startswith(beginning):
            return cause
    if number == errno.ENOEXEC:
        return "it is no program: it has no #! line that names its interpreter"
    return _NOT_EXECUTABLE


def carriage_return(name: str) -> str:
    """Say so if the first line of a driver ends in CR LF: `env` looks for a program of that name in vain."""
    try:
        with open(f"adjust.d/{name}", "rb") as driver:
            first = driver.readline(_FIRST_LINE)
    except OSError:
        return ""
    return _CR_LF if first.startswith(b"#!") and first.endswith(b"\r\n") else ""


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
        return f"its interpreter {interpreter} may not be executed"
    return _NOT_EXECUTABLE


_FIRST_LINE = 256
"""Bytes of the first line that Linux looks at."""

_CR_LF = "its first line ends in CR LF, as Windows writes it; save it with LF line ends"

_CR = "its lines end in CR alone, as old Macs wrote them; save it with LF line ends"

_BEGINNINGS = {
    b"\x7fELF": "it is a program for another kind of machine, or what it is linked with is missing",
    b"\xef\xbb\xbf#!": "a byte order mark stands before its #! line; save it without one",
}

_NOT_EXECUTABLE = "it cannot be executed; check its permissions, and that its file system allows programs"
