"""The life of one driver as a value: its deadlines, and the ladder by which it is stopped. Pure.

Rules (SPEC 9, 10):
- It is given `now` in seconds, reads no clock, and touches no process.
- While it runs, a driver may be silent for a while (adjust) or must be done by a moment (query).
- Stopping: the leader is asked; once it is gone the rest is asked; at the end of the grace all are
  killed; what survives that is waited for with patience, then given up.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Step = Literal["wait", "ask-rest", "kill", "done", "give-up"]

SHORT_GRACE = 0.5
"""Seconds from SIGTERM to SIGKILL in a query, an info, or after a timeout (SPEC 10)."""

SHORT_PATIENCE = 0.2
"""Seconds that a survivor of SIGKILL is waited for on a timeout (SPEC 10)."""

PATIENCE = 5.0
"""Seconds that a survivor of SIGKILL is waited for otherwise (SPEC 10)."""

GLANCE = 0.01
"""Seconds between two looks at what is left of a tree whose leader is gone, or was killed."""

UNREST = 0.1
"""Seconds in which nothing must be found of a tree that went on forking while it was stopped."""

ASKING = 5.0
"""Seconds that a driver has to tell, on a cancel, whether it can be cancelled (SPEC 10)."""

RESPITE = 2.0
"""Seconds that the other drivers of a query have once one has failed (SPEC 6)."""

LATE_READING = 0.2
"""Seconds past a moment by which a driver must be done, in which what it wrote before is still read."""


class Limits:
    """What holds for the drivers of one phase; all in seconds.

    silence       how long a driver may say nothing, None for ever
    until         the moment by which all must be done, None for never
    allowance     how long that is, for the sentence about a timeout
    grace         from SIGTERM to SIGKILL
    short_grace   the same after a timeout
    cancel_grace  how long a driver that was cancelled may take
    """

    __slots__ = ("allowance", "cancel_grace", "grace", "short_grace", "silence", "until")

    def __init__(
        self,
        *,
        grace: float,
        short_grace: float,
        cancel_grace: float = 0.0,
        silence: float | None = None,
        until: float | None = None,
        allowance: float | None = None,
    ) -> None:
        self.silence = silence
        self.until = until
        self.allowance = allowance
        self.grace = grace
        self.short_grace = short_grace
        self.cancel_grace = cancel_grace


class Life:
    """Deadlines of one running driver and, once `stop` was called, its way down the ladder."""

    __slots__ = (
        "_asked_rest",
        "_empty_since",
        "_give_up_at",
        "_heard_at",
        "_kill_at",
        "_leave_at",
        "_limits",
        "_patience",
        "started_at",
    )

    def __init__(self, now: float, limits: Limits) -> None:
        self.started_at = now
        self._limits = limits
        self._heard_at = now
        self._kill_at: float | None = None
        self._give_up_at: float | None = None
        self._leave_at: float | None = None
        self._asked_rest = False
        self._empty_since: float | None = None
        self._patience = PATIENCE

    @property
    def stopping(self) -> bool:
        """Whether the driver is being stopped."""
        return self._kill_at is not None

    def heard(self, now: float) -> None:
        """Take in that the driver said something."""
        self._heard_at = now

    def silent_for(self, now: float) -> float:
        """Give the seconds since the driver's start or its last message."""
        return now - self._heard_at

    def leave_by(self, moment: float) -> None:
        """Take in that the driver was cancelled, and by when it must have ended (SPEC 10)."""
        self._leave_at = moment

    def must_leave(self, now: float) -> bool:
        """Tell whether a cancelled driver has had its time."""
        return self._leave_at is not None and now >= self._leave_at

    def due(self) -> float | None:
        """Give the moment at which the driver counts as unresponsive, None for never (SPEC 9)."""
        moments = [] if self._limits.until is None else [self._limits.until]
        if self._limits.silence is not None:
            moments.append(self._heard_at + self._limits.silence)
        return min(moments, default=None)

    def overdue(self, now: float, *, quiet: bool) -> bool:
        """Tell whether to stop the driver as unresponsive.

        `quiet`: nothing that it wrote is still unread. A driver that talks on and on past the
        moment by which it must be done is overdue all the same.
        """
        due = self.due()
        if due is None or now < due:
            return False
        until = self._limits.until
        return quiet or (until is not None and now >= until + LATE_READING)

    def next_look(self, now: float, *, leader_gone: bool) -> float | None:
        """Give the moment at which the driver is to be looked at again, if nothing happens before."""
        if self._kill_at is None:
            moments = [moment for moment in (self.due(), self._leave_at) if moment is not None]
            return min(moments, default=None)
        if leader_gone or now >= self._kill_at:
            # Nothing tells of the end of processes that are not our children.
            return now + GLANCE
        return self._kill_at

    def stop(self, now: float, grace: float, patience: float = PATIENCE) -> None:
        """Begin the ladder: the leader has been asked to end. A second call only shortens the grace."""
        kill_at = now + grace
        if self._kill_at is None:
            self._patience = patience
            self._kill_at = kill_at
        self._kill_at = min(self._kill_at, kill_at)

    def bear_with(self) -> bool:
        """Wait longer for what survived SIGKILL: PATIENCE in all; tell whether that is still ahead."""
        longer = self._patience < PATIENCE
        if longer and self._give_up_at is not None:
            self._give_up_at += PATIENCE - self._patience
            self._patience = PATIENCE
        return longer

    def step(self, now: float, *, leader_gone: bool, any_left: bool, settle: float = GLANCE) -> Step:
        """Give what is to be done next about a driver that is being stopped (SPEC 10).

        One look that finds nothing proves little: between two of its readings a process may have
        forked another and ended. All looks of `settle` seconds must find nothing, two at least.
        """
        if not leader_gone or any_left:
            self._empty_since = None
        elif self._empty_since is None:
            self._empty_since = now
            return "wait"
        else:
            return "done" if now >= self._empty_since + settle else "wait"
        if self._kill_at is not None and now < self._kill_at:
            if leader_gone and not self._asked_rest:
                self._asked_rest = True
                return "ask-rest"
            return "wait"
        if self._give_up_at is None:
            self._give_up_at = now + self._patience
        return "give-up" if now >= self._give_up_at else "kill"


def extent(limit: float | None) -> tuple[float | None, float]:
    """Give `(I, grace)` for the I/O timeout T: a driver's limit and the short grace, in seconds.

    I = T - 1 for T of 2 and more, half of T below, None when T is unlimited (SPEC 9, 10).
    """
    if limit is None:
        return None, SHORT_GRACE
    if limit >= 2:  # noqa: PLR2004 - SPEC 9
        return limit - 1, SHORT_GRACE
    # Half of the least number that there is would be 0.
    return limit / 2 or limit, min(SHORT_GRACE, limit / 4)
