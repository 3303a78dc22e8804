"""The edge: arguments, streams, signals, threads, exit status. Everything else is told what it needs.

Rules (SPEC 5, 10, 14):
- Main starts the coordinator and from then on only watches: for signals, and for the agent's end.
- Where a thread cannot be started, or has ended by an error, main itself says the last word.
- We leave by os._exit: no thread that hangs in a read or write can keep us.
"""

from __future__ import annotations

from servo_agg import signals

# Until main has its handlers these wait: none of them may end us without a last word.
HEEDED = (signals.SIGTERM, signals.SIGINT, signals.SIGHUP, signals.SIGUSR1)
signals.pthread_sigmask(signals.SIG_BLOCK, HEEDED)

import gc  # noqa: E402 - the signals above must be blocked before anything that takes time

# Little of what we make is cyclic. Looking for what is would take 0.5 ms of our imports, and a third of the
# time of a large reply.
gc.set_threshold(100_000)

import os  # noqa: E402 - as above
import select  # noqa: E402 - as above
import sys  # noqa: E402 - as above
import time  # noqa: E402 - as above

from servo_agg import operations, threads  # noqa: E402 - as above
from servo_agg.arguments import USAGE, Call  # noqa: E402 - as above
from servo_agg.console import printable  # noqa: E402 - as above
from servo_agg.coordinator import Coordinator, confess, read_stdin  # noqa: E402 - as above
from servo_agg.errors import WrongUsage, lack  # noqa: E402 - as above
from servo_agg.events import AGENT_GONE, Ended  # noqa: E402 - as above
from servo_agg.guardian import Guardian  # noqa: E402 - as above
from servo_agg.ledger import Ledger  # noqa: E402 - as above
from servo_agg.processes import open_descriptors  # noqa: E402 - as above
from servo_agg.protocol import encode  # noqa: E402 - as above

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


_READ_BY_ALL = 0o444

_FINISHED = 0
_BEREFT = 255
"""What is written where the interpreter writes the numbers of signals: at the coordinator's end, and by
any thread that ends by an error."""

_FAREWELL = 250
"""Milliseconds that stdout has to take a last word of main."""

_AT_ONCE = 0.1
"""Seconds in which several signals to end are one: `timeout` sends two, as does a terminal that closes."""


def _secure_descriptors() -> None:
    """See to it that 0, 1 and 2 are open and that drivers get no other of ours.

    Without a stdout nothing is run, and we exit with status 1 (SPEC 5).
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            if descriptor == 1:
                _explain(2, "adjust: there is no stdout to answer on; nothing was run\n")
                os._exit(1)
            _open_as(descriptor)
    for descriptor in open_descriptors():
        try:
            os.set_inheritable(descriptor, False)
        except OSError:
            continue


def _open_as(descriptor: int) -> None:
    """Open something empty as 0 or 2, the lowest descriptor that is closed."""
    try:
        os.open(os.devnull, os.O_WRONLY if descriptor else os.O_RDONLY)
    except OSError:
        # No /dev/null that we may use: an end of a pipe whose other end is closed.
        read_end, write_end = os.pipe()
        if descriptor:
            os.dup2(write_end, read_end)
        os.close(write_end)


def _heed_signals() -> tuple[int, int]:
    """Have the signals that end or cancel us written to a pipe; give its two ends.

    A SIGINT or SIGHUP that was ignored when we were started (nohup) stays ignored (SPEC 10).
    """
    noticed, notice = os.pipe()
    os.set_blocking(notice, False)
    signals.set_wakeup_fd(notice, warn_on_full_buffer=False)
    for number in HEEDED:
        if number in (signals.SIGTERM, signals.SIGUSR1) or signals.getsignal(number) != signals.SIG_IGN:
            signals.signal(number, lambda *_: None)
    signals.pthread_sigmask(signals.SIG_UNBLOCK, HEEDED)
    # Ignored, it would have the kernel reap our drivers, and their exit status would be lost.
    signals.signal(signals.SIGCHLD, signals.SIG_DFL)
    return noticed, notice


def _reap(guardian: Guardian, coordinator: Coordinator) -> None:
    """Reap the guardian, which has gone; warn where that is not our doing."""
    guardian.reap()
    if not guardian.released:
        coordinator.warn_unguarded()


class _Signals:
    """Passes signals on to the coordinator; of those to end what comes at once with the first is left out."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._inbox = coordinator.inbox
        self._ended_at: float | None = None

    def pass_on(self, number: int) -> None:
        now = time.monotonic()
        if number != signals.SIGUSR1:
            if self._ended_at is not None and now < self._ended_at + _AT_ONCE:
                return
            self._ended_at = self._ended_at or now
        self._inbox.put(Ended(signals.name_of(number)))


def _watch(coordinator: Coordinator, guardian: Guardian, noticed: int, bereft: list[BaseException]) -> int:
    """Tell the coordinator of signals and of the agent's end until it has finished; give its status.

    The guardian is reaped when it has gone. Raises the first error by which a thread has ended, which is
    then in `bereft`, with the last word left to the caller.
    """
    patience = None
    heard = _Signals(coordinator)
    watched = select.poll()
    watched.register(noticed, select.POLLIN)
    # No event asked for: what is told all the same is that nobody reads any more.
    watched.register(1, 0)
    watched.register(guardian.line, 0)
    while True:
        ready = watched.poll(patience)
        if not ready:
            return 1
        for descriptor, _ in ready:
            if descriptor == 1:
                watched.unregister(1)
                coordinator.inbox.put(Ended(AGENT_GONE))
                continue
            if descriptor == guardian.line:
                watched.unregister(guardian.line)
                _reap(guardian, coordinator)
                continue
            for number in os.read(noticed, 64):
                if number == _BEREFT and coordinator.last_word.acquire(blocking=False):
                    raise bereft[0]
                if number == _BEREFT:
                    # The last word is being said, perhaps by the thread that is missing now.
                    patience = _FAREWELL
                    continue
                if number == _FINISHED:
                    return coordinator.status
                heard.pass_on(number)


def main() -> NoReturn:
    """Be the program: `./adjust`, `servo-agg`, `python -m servo_agg` (SPEC 5, 14)."""
    _secure_descriptors()
    try:
        call = Call(sys.argv[1:])
    except WrongUsage as error:
        _explain(2, f"adjust: {error}\n\n{USAGE}")
        os._exit(2)
    if call.operation == "help":
        os._exit(0 if _explain(1, USAGE) else 1)
    guardian = None
    astray = False
    bereft: list[BaseException] = []
    try:
        ledger = Ledger()
        locks = _open_for_locks() if call.operation == "adjust" else []
        guardian = Guardian(ledger, locks)
        noticed, notice = _heed_signals()

        def finish() -> None:
            os.write(notice, bytes([_FINISHED]))

        def miss(error: BaseException) -> None:
            bereft.append(error)
            os.write(notice, bytes([_BEREFT]))

        threads.mourn(miss)
        coordinator = Coordinator(call, ledger, guardian, locks, finish)
        coordinator.start()
        status = _watch(coordinator, guardian, noticed, bereft)
        astray = coordinator.astray
    except Exception as error:  # noqa: BLE001 - whatever it is, the agent must be told in its own way
        status = _say_last(call, error)
    # Not released, the guardian stops the drivers that are left, and those that are just being started.
    if guardian is not None and not bereft and not (astray and ledger.starts()):
        guardian.release()
        guardian.reap()
    os._exit(status)


def _say_last(call: Call, error: Exception) -> int:
    """Say the last word from here, since there is no coordinator who could; give the exit status.

    Stdin is read to its end before, unless a signal comes.
    """
    final = confess(error, lambda line: _explain(2, f"{line}\n") if call.verbose else None)
    came: list[int] = []

    def interrupt(number: int, _: object) -> None:
        came.append(number)
        for other in HEEDED:
            signals.signal(other, signals.SIG_IGN)
        # The only way out of a read.
        raise InterruptedError

    try:
        for number in HEEDED:
            if signals.getsignal(number) != signals.SIG_IGN:
                signals.signal(number, interrupt)
        signals.pthread_sigmask(signals.SIG_UNBLOCK, HEEDED)
        size = 0
        while call.reads_stdin and size < operations.ENDLESS and (block := read_stdin(4 << 10)):
            size += len(block)
    except (OSError, MemoryError):
        pass
    if call.for_people:
        _explain(2, f"adjust: {final['message']}\n")
    else:
        writable = select.poll()
        writable.register(1, select.POLLOUT)
        if writable.poll(_FAREWELL):
            _explain(1, encode(final).decode())
    return 128 + came[0] if came else 1


def _explain(descriptor: int, text: str) -> bool:
    """Write to a person, who may have gone; tell whether it could be written, having said why not."""
    try:
        os.write(descriptor, printable(text))
    except OSError as error:
        if descriptor == 1 and not isinstance(error, BrokenPipeError):
            _explain(2, f"adjust: stdout cannot take the answer: {os.strerror(error.errno or 0)}\n")
        return False
    return True


def _open_for_locks() -> list[int]:
    """Return descriptors of what an adjust must lock, in this order; the guardian holds them too (SPEC 10).

    Where somebody may not open the servo directory, all lock adjust.d as well, which each of them can list.
    Empty when neither may be opened. Raises OSError when the machine lacks the means.
    """
    found: list[int] = []
    for path in (".", "adjust.d"):
        if found and _may_be_read_by_all(found[0]):
            break
        try:
            found.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY))
        except OSError as error:
            if lack(error):
                raise
    return found


def _may_be_read_by_all(directory: int) -> bool:
    try:
        # A list of who may do what can take it from some, whatever the mode says.
        if "system.posix_acl_access" in os.listxattr(directory):
            return False
    except (AttributeError, OSError):
        # Not on this system, or not on this file system.
        pass
    return os.fstat(directory).st_mode & _READ_BY_ALL == _READ_BY_ALL
