"""The one waiting point: hears all that happens, keeps our own time, and knows why we are to end.

Rules (SPEC 5, 9, 10):
- Everything that happens comes through the inbox to one thread, which waits here and nowhere else.
- Time in which we ourselves were stopped does not count: who oversleeps was stopped.
- While the agent does not read, no output is taken in, and so the drivers wait.
"""

from __future__ import annotations

import time

from servo_agg.events import AGENT_GONE, CANCEL, Ended, Given

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from servo_agg.inbox import Inbox
    from servo_agg.outlet import Outlet

TICK = 0.5
"""Seconds of the longest single wait: what we oversleep beyond that is time in which we were stopped."""

BATCH = 16
"""Events taken in before the drivers are attended to again: none is forgotten in another's flood."""

FAREWELL = 0.25
"""Seconds that stdout has to take the final line when a signal ends us (SPEC 5)."""


class Listener:
    """Listens for the coordinator, the only thread that may call it.

    ended     the name of the signal that ends us; None while there is none
    canceled  whether the agent has cancelled
    gone      whether the agent has gone: nobody reads our stdout
    hurried   whether a second signal came, which skips the grace
    """

    def __init__(self, inbox: Inbox, outlet: Outlet) -> None:
        """Listen to `inbox`, and watch `outlet` for the agent's end and for its reading."""
        self.ended: str | None = None
        self.canceled = False
        self.gone = False
        self.hurried = False
        self._inbox = inbox
        self._outlet = outlet
        self._given: Given | None = None
        self._woke = time.monotonic()
        self._stopped = 0.0

    def now(self) -> float:
        """Give monotonic seconds, less the time in which we ourselves were stopped (SPEC 9)."""
        self._wake(0.0)
        return self._woke - self._stopped

    @property
    def cause(self) -> str | None:
        """Why no further driver is to be started: the name of a signal, AGENT_GONE or CANCEL; None: go on."""
        return self.ended or (AGENT_GONE if self.gone else CANCEL if self.canceled else None)

    @property
    def canceling(self) -> bool:
        """Whether the driver that is being adjusted is to be cancelled (SPEC 5, 10)."""
        return self.canceled or self.gone

    @property
    def unread(self) -> bool:
        """Whether output of drivers waits to be taken in."""
        return self._inbox.holds_output

    @property
    def in_vain(self) -> bool:
        """Whether there is no use in saying more: we are to end, and nobody reads what waits already."""
        return (self.ended is not None or self.gone) and self._outlet.full

    def receive(self) -> Given | None:
        """Wait for the end of stdin; None when we are ended before."""
        while self._given is None and self.cause is None:
            self._take(TICK, output=False)
        return self._given

    def pause(self, seconds: float) -> None:
        """Wait, but no longer than until we are to end or to cancel."""
        until = self.now() + seconds
        while self.cause is None and self.now() < until:
            self._take(until - self.now(), output=False)

    def flush(self) -> bool:
        """Wait until all that was said is written; tell whether it was (SPEC 5)."""
        while not self._outlet.finish():
            if self.ended is not None or self.gone:
                return self._outlet.drain(FAREWELL)
            self._take(TICK, output=False)
        return not self._outlet.broken

    def events(self, seconds: float) -> Iterator[object]:
        """Wait at most so long for something to happen; give what has, BATCH and one at most."""
        event = self._take(seconds, output=self._may_listen)
        for _ in range(BATCH):
            if event is None:
                return
            yield event
            event = self._inbox.get(0, output=self._may_listen)
            self._digest(event)
        yield event

    @property
    def _may_listen(self) -> bool:
        # Once ended we listen even if the agent does not: a driver must not hang on its way out.
        return self.ended is not None or self.gone or not self._outlet.full

    def _take(self, seconds: float, *, output: bool) -> Any | None:
        event = self._inbox.get(min(seconds, TICK), output=output)
        self._wake(min(seconds, TICK))
        self._digest(event)
        return event

    def _wake(self, waited: float) -> None:
        """Take in that we go on, after a wait of so many seconds at most: what is far beyond was no wait."""
        woke = time.monotonic()
        if woke - self._woke > waited + TICK:
            self._stopped += woke - self._woke
        self._woke = woke

    def _digest(self, event: object) -> None:
        """Take in what concerns all of us."""
        if isinstance(event, Ended) and event.cause == CANCEL:
            self.canceled = True
        elif isinstance(event, Ended) and event.cause == AGENT_GONE:
            self.gone = True
        elif isinstance(event, Ended):
            self.hurried |= self.ended is not None
            self.ended = self.ended or event.cause
        elif isinstance(event, Given):
            self._given = event
        self.gone |= self._outlet.broken
