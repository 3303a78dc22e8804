"""Events, the queue that brings them to the coordinator, and the event loop in which the coordinator waits.

Rules (SPEC 5, 8, 9, 10):
- An event is a fact, not an order: the coordinator alone decides what follows from it. All events arrive
  through one queue at one thread.
- A driver is identified by its pid, which cannot be reused until the coordinator reaps it.
- The output of all drivers together is bounded in bytes. A worker that finds the queue full keeps its block
  and waits until the descriptor `space` is readable, so that its driver waits too.
- All other events are rare and urgent: they are never refused and overtake output, so that the exit of a
  driver and a signal are seen while the agent does not read.
- While the agent does not read, no output is taken from the queue, so the drivers wait.
- Time in which this process was suspended does not count. A wait that overruns by more than 0.1 s means that
  we were suspended; time in which we were busy always counts.
"""

from __future__ import annotations

import os
import time

from servo_agg.threads import STACK_SIZE, Lock, Notifier, start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Protocol

    class OutputState(Protocol):
        """What the event loop needs to know of the writer of stdout."""

        broken: bool
        """Nobody reads any more, or the bytes cannot be written."""

        @property
        def full(self) -> bool:
            """Enough waits to be written."""

        def finish(self) -> bool:
            """Return whether all is written."""

        def drain(self, seconds: float) -> bool:
            """Wait until all is written; return whether it was."""


AGENT_GONE = "agent-gone"
"""The cause of a shutdown without a signal: nobody reads our stdout any more."""

CANCEL = "SIGUSR1"
"""The signal by which the agent cancels, and by which we cancel a driver (SPEC 10.35, 10.37)."""


class Output:
    """A block of a driver's stdout. A later block may be appended while this one waits in the queue."""

    __slots__ = ("block", "pid")

    def __init__(self, pid: int, block: bytes) -> None:
        self.pid = pid
        self.block: bytes | bytearray = block


class OutputClosed:
    """A driver's stdout is at its end. `cut`: because we stopped reading it."""

    __slots__ = ("cut", "pid")

    def __init__(self, pid: int, *, cut: bool) -> None:
        self.pid = pid
        self.cut = cut


class Exited:
    """A driver has exited. It has not been reaped."""

    __slots__ = ("pid",)

    def __init__(self, pid: int) -> None:
        self.pid = pid


class ShutdownRequested:
    """The run must end. `cause`: the name of a signal, or AGENT_GONE."""

    __slots__ = ("cause",)

    def __init__(self, cause: str) -> None:
        self.cause = cause


class CancelRequested:
    """The agent cancels."""


class StdinRead:
    """Our stdin is at its end. `text` is its content; `error`, if not empty, is why that is not an input."""

    __slots__ = ("error", "text")

    def __init__(self, text: bytes, error: str = "") -> None:
        self.text = text
        self.error = error


class Wakeup:
    """Something that the event loop waits for may have changed: a writer, or work in another thread."""


OUTPUT_LIMIT = 1 << 20
"""Bytes of output that may wait in the queue."""

_JOIN_LIMIT = 64 << 10
"""Bytes up to which the blocks of one driver are joined: an event for each byte would take 100 bytes."""


class EventQueue:
    """Many threads put, one thread gets.

    space   a descriptor that is readable while output can be added
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._notifier = Notifier()
        self._urgent: list[Any] = []
        self._output: list[Any] = []
        self._last_output: dict[int, Output] = {}
        self._size = 0
        self._full = False
        self.space, self._space_writer = os.pipe()
        os.write(self._space_writer, b"+")

    def put(self, event: object) -> None:
        """Add an urgent event."""
        with self._lock:
            self._urgent.append(event)
        self._notifier.notify()

    def put_output(self, output: Output) -> bool:
        """Add output; return False if the queue is full: then wait until `space` is readable."""
        with self._lock:
            if self._full:
                return False
            last = self._last_output.get(output.pid)
            if last is not None and len(last.block) + len(output.block) <= _JOIN_LIMIT:
                if not isinstance(last.block, bytearray):
                    last.block = bytearray(last.block)
                last.block += output.block
            else:
                self._output.append(output)
                self._last_output[output.pid] = output
            self._size += len(output.block)
            if self._size >= OUTPUT_LIMIT:
                self._full = True
                os.read(self.space, 1)
        self._notifier.notify()
        return True

    def put_after_output(self, event: object) -> None:
        """Add the event that ends a driver's output; it follows that output and is never refused."""
        with self._lock:
            self._output.append(event)
        self._notifier.notify()

    def get(self, seconds: float, *, output: bool = True) -> Any | None:
        """Remove and return the next event; None if there is none for `seconds`.

        Without `output` only urgent events are returned.
        """
        deadline = None
        while True:
            with self._lock:
                if self._urgent:
                    return self._urgent.pop(0)
                if output and self._output:
                    return self._next_output()
            now = time.monotonic()
            if deadline is None:
                deadline = now + seconds
            if now >= deadline:
                return None
            self._notifier.wait(deadline - now)

    def _next_output(self) -> Any:
        event = self._output.pop(0)
        if isinstance(event, Output):
            if self._last_output.get(event.pid) is event:
                del self._last_output[event.pid]
            self._size -= len(event.block)
            if self._full and self._size <= OUTPUT_LIMIT // 2:
                self._full = False
                os.write(self._space_writer, b"+")
        return event

    @property
    def has_output(self) -> bool:
        """Whether output waits."""
        return bool(self._output)


MAX_WAIT = 0.1
"""Seconds of the longest single wait. Suspensions much shorter than that are not noticed."""

_OVERRUN = 0.1
"""Seconds by which a wait overruns only if we were suspended."""

MAX_EVENTS = 16
"""Events handled before the drivers are serviced again: the flood of one must not starve the others."""

FINAL_WRITE_TIMEOUT = 0.25
"""Seconds that stdout has to take the final line when a signal ends us (SPEC 5.20)."""


class Clock:
    """Monotonic seconds, without the time in which this process was suspended (SPEC 9.15)."""

    def __init__(self) -> None:
        self._suspended = 0.0

    def now(self) -> float:
        """Return the time."""
        return time.monotonic() - self._suspended

    def account_for_wait(self, seconds: float, waited: float) -> None:
        """Record that a wait of at most `seconds` took `waited` seconds."""
        if waited > seconds + _OVERRUN:
            self._suspended += waited - seconds


class ShutdownState:
    """Why, and how, the run must end.

    signal      the name of the signal that ends us, None without one
    canceled    the agent has canceled
    agent_gone  nobody reads our stdout
    skip_grace  a second signal came, which skips the grace period
    """

    __slots__ = ("agent_gone", "canceled", "signal", "skip_grace")

    def __init__(self) -> None:
        self.signal: str | None = None
        self.canceled = False
        self.agent_gone = False
        self.skip_grace = False

    @property
    def cause(self) -> str | None:
        """Why no further driver may start: the name of a signal, AGENT_GONE or CANCEL; None: go on."""
        return self.signal or (AGENT_GONE if self.agent_gone else CANCEL if self.canceled else None)

    @property
    def canceling(self) -> bool:
        """Whether the driver that is being adjusted must be canceled (SPEC 5.34, 10.35)."""
        return self.canceled or self.agent_gone

    def request(self, cause: str) -> None:
        """Apply a ShutdownRequested."""
        if cause == AGENT_GONE:
            self.agent_gone = True
        else:
            self.skip_grace |= self.signal is not None
            self.signal = self.signal or cause


class BackgroundWork:
    """Work in another thread. Once it is `done`, it has a `result`, or the `error` that ended it."""

    def __init__(self) -> None:
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None


class EventLoop:
    """Waits for events. Only the coordinator may call it.

    on_wait  called after each wait, so at least every MAX_WAIT seconds; None: nobody needs it
    """

    def __init__(self, queue: EventQueue, stdout: OutputState) -> None:
        self.shutdown = ShutdownState()
        self.on_wait: Callable[[], object] | None = None
        self._clock = Clock()
        self._queue = queue
        self._stdout = stdout
        self._stdin: StdinRead | None = None

    def now(self) -> float:
        """Return the time: see Clock."""
        return self._clock.now()

    @property
    def cause(self) -> str | None:
        """Why the run must end: see ShutdownState."""
        return self.shutdown.cause

    @property
    def output_pending(self) -> bool:
        """Whether output of drivers waits in the queue."""
        return self._queue.has_output

    @property
    def progress_useless(self) -> bool:
        """Whether progress need not be sent: we must end, and even what waits already is not read."""
        return (self.shutdown.signal is not None or self.shutdown.agent_gone) and self._stdout.full

    def wait_for_stdin(self) -> StdinRead | None:
        """Wait for the end of stdin; return None if the run must end before."""
        while self._stdin is None and self.cause is None:
            self._next_event(MAX_WAIT, output=False)
        return self._stdin

    def pause(self, seconds: float) -> None:
        """Wait, at most until the run must end."""
        until = self.now() + seconds
        while self.cause is None and self.now() < until:
            self._next_event(until - self.now(), output=False)

    def poll(self) -> str | None:
        """Apply the events that have arrived; return why the run must end, None if it is not.

        Only while no driver runs: events of drivers would be lost.
        """
        while self._next_event(0, output=False) is not None:
            pass
        return self.cause

    def start_work(self, work: Callable[[], object], stack: int = STACK_SIZE) -> BackgroundWork:
        """Do work that may block forever in another thread. Raises OSError if no thread is available."""
        background = BackgroundWork()

        def run() -> None:
            try:
                background.result = work()
            except BaseException as error:  # noqa: BLE001 - it is raised in the coordinator
                background.error = error
            background.done = True
            self._queue.put(Wakeup())

        start(run, stack)
        return background

    def wait_for_work(self, background: BackgroundWork, seconds: float | None) -> str | None:
        """Wait until work is done, at most `seconds`; return why the run must end, None if it is not."""
        until = None if seconds is None else self.now() + seconds
        while not background.done and self.cause is None and (until is None or self.now() < until):
            self._next_event(MAX_WAIT, output=False)
        return self.cause

    def flush(self) -> bool:
        """Wait until all that was sent is written; return whether it was (SPEC 5.20)."""
        while not self._stdout.finish():
            if self.shutdown.signal is not None or self.shutdown.agent_gone:
                return self._stdout.drain(FINAL_WRITE_TIMEOUT)
            self._next_event(MAX_WAIT, output=False)
        return not self._stdout.broken

    def events(self, seconds: float) -> Iterator[object]:
        """Wait at most `seconds` for an event; yield it and further ones, MAX_EVENTS + 1 at most."""
        event = self._next_event(seconds, output=self._accepts_output)
        for _ in range(MAX_EVENTS):
            if event is None:
                return
            yield event
            event = self._queue.get(0, output=self._accepts_output)
            self._apply(event)
        yield event

    @property
    def _accepts_output(self) -> bool:
        # During a shutdown output is read even if the agent does not read: a driver must be able to exit.
        return self.shutdown.signal is not None or self.shutdown.agent_gone or not self._stdout.full

    def _next_event(self, seconds: float, *, output: bool) -> Any | None:
        seconds = min(seconds, MAX_WAIT)
        began_at = time.monotonic()
        event = self._queue.get(seconds, output=output)
        self._clock.account_for_wait(seconds, time.monotonic() - began_at)
        self._apply(event)
        if self.on_wait is not None:
            self.on_wait()
        return event

    def _apply(self, event: object) -> None:
        """Apply what concerns the whole run."""
        if isinstance(event, CancelRequested):
            self.shutdown.canceled = True
        elif isinstance(event, ShutdownRequested):
            self.shutdown.request(event.cause)
        elif isinstance(event, StdinRead):
            self._stdin = event
        self.shutdown.agent_gone |= self._stdout.broken
