"""The entry point, and the main thread: file descriptors, signals, exit status.

Rules (SPEC 5, 10, 14):
- The main thread starts the coordinator. After that it only waits for signals and for the end of the agent.
- Where a thread cannot be started, or was ended by an error, the main thread writes the final line.
- The program ends by os._exit: no thread that hangs in a read or write can delay that.
"""

from __future__ import annotations

from servo_agg import _compat

# They stay blocked until the handlers are installed: none may end us without a final line.
HANDLED_SIGNALS = (_compat.SIGTERM, _compat.SIGINT, _compat.SIGHUP, _compat.SIGUSR1)
_compat.pthread_sigmask(_compat.SIG_BLOCK, HANDLED_SIGNALS)

import gc  # noqa: E402 - the signals above must be blocked before anything that takes time

# Few of our objects form cycles. The search for cycles would add 0.5 ms to our imports, and a third to the
# time that a large reply takes.
gc.set_threshold(100_000)

import os  # noqa: E402 - as above
import select  # noqa: E402 - as above
import sys  # noqa: E402 - as above
import time  # noqa: E402 - as above

from servo_agg import threads  # noqa: E402 - as above
from servo_agg.arguments import parse_agent_arguments  # noqa: E402 - as above
from servo_agg.coordinator import (  # noqa: E402 - as above
    STDIN_LIMIT,
    Coordinator,
    internal_error_result,
    read_stdin,
)
from servo_agg.drivers.events import (  # noqa: E402 - as above
    AGENT_GONE,
    CancelRequested,
    EventQueue,
    ShutdownRequested,
)
from servo_agg.drivers.watchdog import (  # noqa: E402 - as above
    SpawnTable,
    open_descriptors,
    start_watchdog,
)
from servo_agg.errors import UsageError  # noqa: E402 - as above
from servo_agg.output.console import (  # noqa: E402 - as above
    encode_printable,
    is_utf8_terminal,
    terminal_width,
)
from servo_agg.protocol.messages import encode  # noqa: E402 - as above

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from servo_agg.arguments import Arguments
    from servo_agg.drivers.watchdog import Watchdog


_FINAL_WRITE_TIMEOUT = 250
"""Milliseconds that stdout has to take a final line of the main thread."""

_SAME_SHUTDOWN = 0.1
"""Seconds in which several signals count as one: `timeout` sends two, as does a terminal that closes."""


def _secure_descriptors() -> None:
    """Open 0, 1 and 2 if they are closed, and keep drivers from inheriting our other descriptors.

    Without a stdout nothing is run, and we exit with status 1 (SPEC 5.37).
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            if descriptor == 1:
                _write_text(2, "adjust: stdout is closed, so nothing was run\n")
                os._exit(1)
            _open_placeholder(descriptor)
    for descriptor in open_descriptors():
        try:
            os.set_inheritable(descriptor, False)
        except OSError:
            continue


def _open_placeholder(descriptor: int) -> None:
    """Open something empty as 0 or 2, the lowest descriptor that is closed."""
    try:
        os.open(os.devnull, os.O_WRONLY if descriptor else os.O_RDONLY)
    except OSError:
        # No /dev/null that we may use: an end of a pipe whose other end is closed.
        read_end, write_end = os.pipe()
        if descriptor:
            os.dup2(write_end, read_end)
        os.close(write_end)


class _Signals:
    """The signals that have arrived.

    handle   the signal handler. It only records the signal, since it can interrupt the main thread anywhere.
             It is a function in C: in a storm of signals, one in Python is interrupted by its own next call
    wakeup   a descriptor that is readable once a signal has arrived
    """

    def __init__(self, queue: EventQueue, wakeup: int) -> None:
        self.wakeup = wakeup
        self._queue = queue
        self._arrived: dict[int, object] = {}
        self.handle = self._arrived.setdefault
        self._canceled = False
        self._first_shutdown_at: float | None = None

    def forward(self) -> None:
        """Put an event for each signal that has arrived into the queue; of SIGUSR1 only the first counts."""
        # Its bytes carry no information, and it may be full.
        os.read(self.wakeup, 64 << 10)
        for number in list(self._arrived):
            # Before it is forwarded: a signal that arrives from now on is another one.
            del self._arrived[number]
            if number == _compat.SIGUSR1:
                if not self._canceled:
                    self._canceled = True
                    self._queue.put(CancelRequested())
                continue
            now = time.monotonic()
            if self._first_shutdown_at is None:
                self._first_shutdown_at = now
            elif now < self._first_shutdown_at + _SAME_SHUTDOWN:
                continue
            self._queue.put(ShutdownRequested(_compat.signal_name(number)))


def _install_signal_handlers(queue: EventQueue) -> _Signals:
    """Handle the signals that end or cancel us.

    A SIGINT or SIGHUP that was ignored when we were started (nohup) stays ignored (SPEC 10.52).
    """
    wakeup, wakeup_writer = os.pipe()
    os.set_blocking(wakeup_writer, False)
    _compat.set_wakeup_fd(wakeup_writer, warn_on_full_buffer=False)
    signals = _Signals(queue, wakeup)
    for number in HANDLED_SIGNALS:
        if number in (_compat.SIGTERM, _compat.SIGUSR1) or _compat.getsignal(number) != _compat.SIG_IGN:
            _compat.signal(number, signals.handle)
    _compat.pthread_sigmask(_compat.SIG_UNBLOCK, HANDLED_SIGNALS)
    # If it were ignored, the kernel would reap our drivers, and their exit status would be lost.
    _compat.signal(_compat.SIGCHLD, _compat.SIG_DFL)
    return signals


def _on_watchdog_exit(watchdog: Watchdog, coordinator: Coordinator) -> None:
    """Reap the watchdog; warn if it was not released."""
    watchdog.reap()
    if not watchdog.released:
        coordinator.warn_watchdog_gone()


def _wait_for_coordinator(
    coordinator: Coordinator,
    watchdog: Watchdog,
    signals: _Signals,
    done: int,
    thread_errors: list[BaseException],
) -> int:
    """Forward signals and the end of the agent until the coordinator has finished; return the exit status.

    `done` is readable once it has finished, or a thread has failed. Raises the first of `thread_errors` if no
    other thread is about to write the final line.
    """
    timeout = None
    watched = select.poll()
    watched.register(signals.wakeup, select.POLLIN)
    watched.register(done, select.POLLIN)
    # Without events, only errors are reported: nobody reads any more.
    watched.register(1, 0)
    watched.register(watchdog.line, 0)
    while True:
        ready = watched.poll(timeout)
        if not ready:
            return 1
        for descriptor, _ in ready:
            if descriptor == signals.wakeup:
                signals.forward()
            elif descriptor == 1:
                watched.unregister(1)
                coordinator.queue.put(ShutdownRequested(AGENT_GONE))
            elif descriptor == watchdog.line:
                watched.unregister(watchdog.line)
                _on_watchdog_exit(watchdog, coordinator)
            elif not thread_errors:
                return coordinator.status
            elif coordinator.final_line_lock.acquire(blocking=False):
                raise thread_errors[0]
            else:
                # The final line is being written, perhaps by the thread that has failed.
                watched.unregister(done)
                timeout = _FINAL_WRITE_TIMEOUT


def main() -> NoReturn:
    """Run the program: `./adjust`, `servo-agg`, `python -m servo_agg` (SPEC 5.29, 14.2)."""
    _secure_descriptors()
    try:
        arguments = parse_agent_arguments(sys.argv[1:])
        if arguments is None:
            from servo_agg.argument_parser import parse_arguments  # noqa: PLC0415 - the agent does not need it

            arguments = parse_arguments(sys.argv[1:])
    except UsageError as error:
        from servo_agg.argument_parser import USAGE  # noqa: PLC0415 - as above

        _write_text(2, _usage_text(USAGE, f"adjust: {error}", terminal_width(2)))
        os._exit(2)
    except (ImportError, OSError, MemoryError) as error:
        # Without argparse nobody can tell whether an object on stdout is expected.
        _write_text(2, f"adjust: {internal_error_result(error, lambda _: None)['message']}\n")
        os._exit(1)
    if arguments.operation == "help":
        from servo_agg.argument_parser import HELP  # noqa: PLC0415 - as above

        os._exit(0 if _write_text(1, HELP) else 1)
    watchdog = None
    crashed = False
    thread_errors: list[BaseException] = []
    try:
        spawn_table = SpawnTable()
        locks: list[int] = []
        if arguments.adjusts:
            from servo_agg.lock import open_lock_descriptors  # noqa: PLC0415 - a query takes no lock

            locks = open_lock_descriptors()
        watchdog = start_watchdog(spawn_table, locks)
        queue = EventQueue()
        signals = _install_signal_handlers(queue)
        done, done_writer = os.pipe()

        def finish() -> None:
            os.write(done_writer, b"+")

        def fail(error: BaseException) -> None:
            thread_errors.append(error)
            finish()

        threads.on_thread_error(fail)
        coordinator = Coordinator(arguments, queue, spawn_table, watchdog, locks, finish)
        coordinator.start()
        status = _wait_for_coordinator(coordinator, watchdog, signals, done, thread_errors)
        crashed = coordinator.crashed
    except Exception as error:  # noqa: BLE001 - the agent needs a final object after any error
        status = _write_final_line(arguments, error)
    # If it is not released, the watchdog stops all drivers that are running or being started.
    if watchdog is not None and not thread_errors and not (crashed and spawn_table.records()):
        watchdog.release()
        watchdog.reap()
    os._exit(status)


def _write_final_line(arguments: Arguments, error: Exception) -> int:
    """Write the final line from the main thread, where the coordinator cannot; return the exit status.

    Stdin is read to its end first, unless a signal arrives.
    """
    final = internal_error_result(
        error, lambda line: _write_text(2, f"{line}\n") if arguments.verbose else None
    )
    arrived: list[int] = []

    def interrupt(number: int, _: object) -> None:
        arrived.append(number)
        for other in HANDLED_SIGNALS:
            _compat.signal(other, _compat.SIG_IGN)
        # Only an exception ends the read.
        raise InterruptedError

    try:
        for number in HANDLED_SIGNALS:
            if _compat.getsignal(number) != _compat.SIG_IGN:
                _compat.signal(number, interrupt)
        _compat.pthread_sigmask(_compat.SIG_UNBLOCK, HANDLED_SIGNALS)
        size = 0
        while arguments.reads_stdin and size < STDIN_LIMIT and (block := read_stdin(4 << 10)):
            size += len(block)
    except (OSError, MemoryError):
        pass
    if arguments.for_people:
        _write_text(2, f"adjust: {final['message']}\n")
    else:
        writable = select.poll()
        writable.register(1, select.POLLOUT)
        if writable.poll(_FINAL_WRITE_TIMEOUT):
            _write_text(1, encode(final).decode())
    return 128 + arrived[0] if arrived else 1


def _usage_text(usage: str, error: str, width: int | None) -> str:
    """Return the lines of the usage and the error, on a terminal wrapped to its width."""
    if width is None:
        return f"{usage}{error}\n"
    from servo_agg.output.tables import wrap  # noqa: PLC0415 - the agent does not need it

    start = len("usage: ")
    lines: list[str] = []
    for line in usage.splitlines():
        lines += wrap(line[start:], width, line[:start], " " * 2 * start)
    lines += wrap(error, width, "", "    ")
    return "".join(f"{line}\n" for line in lines)


def _write_text(descriptor: int, text: str) -> bool:
    """Write text for people; return whether that was possible. Explain on stderr why stdout failed."""
    try:
        os.write(descriptor, encode_printable(text, utf8=is_utf8_terminal(descriptor)))
    except OSError as error:
        if descriptor == 1 and not isinstance(error, BrokenPipeError):
            _write_text(2, f"adjust: cannot write the answer to stdout: {os.strerror(error.errno or 0)}\n")
        return False
    return True
