"""States, deadlines and the stop sequence of one driver run. Pure: `now` is passed in, no process is touched.

Rules (SPEC 9, 10):
- A running driver may be silent for a while (adjust), or must be done at a moment (query, info).
- A stop begins with SIGTERM to the leader, the process that we started. Once the leader has exited, its
  remaining processes get SIGTERM. At the end of the grace period all get SIGKILL. What survives SIGKILL is
  waited for, then reported as unkillable.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from servo_agg.protocol.outcome import Phase

    State = Literal["starting", "running", "stopping", "killing", "ended"]
    Event = Literal["started", "start-failed", "stop", "grace-over", "finished", "gave-up"]
    Step = Literal["wait", "terminate-rest", "kill", "finished", "give-up"]

TRANSITIONS: dict[tuple[State, Event], State] = {
    ("starting", "started"): "running",
    ("starting", "start-failed"): "ended",
    ("running", "finished"): "ended",
    ("running", "stop"): "stopping",
    ("stopping", "grace-over"): "killing",
    ("stopping", "finished"): "ended",
    ("killing", "finished"): "ended",
    ("killing", "gave-up"): "ended",
}
"""The states of a driver run. `finished`: the driver has exited, its output is read to the end, and, after a
stop, none of its processes is left. `gave-up`: one of them survives SIGKILL."""

SHORT_GRACE = 0.5
"""Seconds from SIGTERM to SIGKILL in a query, in an info, or after a timeout (SPEC 10.3)."""

KILL_WAIT = 5.0
"""Seconds to wait for a process that survived SIGKILL (SPEC 10.32)."""

SHORT_KILL_WAIT = 0.2
"""The same after a timeout, in seconds (SPEC 10.32)."""

POLL_INTERVAL = 0.01
"""Seconds between two snapshots of processes that are not our children, whose exit nothing reports."""

CANCEL_INFO_TIMEOUT = 5.0
"""Seconds in which a driver must say, on a cancel, whether it can be canceled (SPEC 10.36)."""

FAIL_FAST_GRACE = 2.0
"""Seconds that the other drivers of a query have after one has failed (SPEC 6.8)."""

LATE_READ_ALLOWANCE = 0.2
"""Seconds after the deadline of a query in which output that was written before is still read (SPEC 9.8)."""

CHECK_TIMEOUT = 30.0
"""Seconds of silence after which a driver that is checked is stopped, unless I is less (SPEC 14.14).

Without a limit, all drivers together have this time in each phase, so that a check ends."""


class Timeouts:
    """What applies to the drivers of one phase; all in seconds.

    silence       how long a driver may be silent, None without limit
    until         the moment by which all drivers must be done, None without limit
    allowance     the length of time up to `until`, for messages
    grace         from SIGTERM to SIGKILL
    short_grace   the same after a timeout
    cancel_grace  how long a driver that was canceled may take to end
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

    def end_by(self, moment: float) -> None:
        """Let all drivers be done by `moment`, if that is before `until`."""
        self.until = moment if self.until is None else min(self.until, moment)


def driver_timeout(io_timeout: float | None) -> tuple[float | None, float]:
    """Return `(I, short grace)` for `io_timeout`, which is T; all in seconds (SPEC 9.4, 10.3).

    I is T - 1 for T of 2 and more, half of T below, None if T is unlimited.
    """
    if io_timeout is None:
        return None, SHORT_GRACE
    if io_timeout >= 2:  # noqa: PLR2004 - SPEC 9.4
        return io_timeout - 1, SHORT_GRACE
    # Half of the smallest float would be 0.
    return io_timeout / 2 or io_timeout, min(SHORT_GRACE, io_timeout / 4)


def timeouts_for(
    phase: Phase,
    now: float,
    *,
    limit: float | None,
    short_grace: float,
    grace: float = 0.0,
    cancel_grace: float = 0.0,
    checking: bool = False,
) -> Timeouts:
    """Return deadlines and graces of a phase that begins at `now`; all in seconds (SPEC 10.3, 9.5, 9.7).

    `limit` is I, None if it is unlimited. `grace` and `cancel_grace` count in an adjust only.
    `checking`: the drivers are asked, or adjusted, to find out what is wrong with them.
    """
    if phase == "adjust":
        # Each driver may be silent for as long as `limit`.
        silence = CHECK_TIMEOUT if checking and limit is None else limit
        return Timeouts(grace=grace, short_grace=short_grace, cancel_grace=cancel_grace, silence=silence)
    if checking and limit is None:
        limit = CHECK_TIMEOUT
    if checking and limit is not None and limit > CHECK_TIMEOUT:
        # Each driver has its own time; `until` ends one that never stops talking.
        return Timeouts(grace=short_grace, short_grace=short_grace, until=now + limit, silence=CHECK_TIMEOUT)
    # All drivers together have `limit`.
    return Timeouts(
        grace=short_grace,
        short_grace=short_grace,
        until=None if limit is None else now + limit,
        allowance=limit,
    )


class Deadlines:
    """When a driver that is not being stopped counts as unresponsive. All moments are in seconds.

    started_at    when it was started
    cancel_until  when it must have ended after a cancel, None without a cancel (SPEC 10.37)
    """

    __slots__ = ("_last_message_at", "_timeouts", "cancel_until", "started_at")

    def __init__(self, now: float, timeouts: Timeouts) -> None:
        self.started_at = now
        self.cancel_until: float | None = None
        self._last_message_at = now
        self._timeouts = timeouts

    def message_received(self, now: float) -> None:
        """Restart the time of silence."""
        self._last_message_at = now

    def silent_for(self, now: float) -> float:
        """Return the seconds since the start or the last message."""
        return now - self._last_message_at

    def deadline(self) -> float | None:
        """Return the moment at which the driver counts as unresponsive, None if never (SPEC 9.5, 9.7)."""
        moments = [] if self._timeouts.until is None else [self._timeouts.until]
        if self._timeouts.silence is not None:
            moments.append(self._last_message_at + self._timeouts.silence)
        return min(moments, default=None)

    def expired(self, now: float, *, all_read: bool) -> bool:
        """Return whether the driver is unresponsive.

        `all_read`: no output of the driver waits to be read. A driver that keeps talking after `until` is
        unresponsive anyway.
        """
        deadline = self.deadline()
        if deadline is None or now < deadline:
            return False
        until = self._timeouts.until
        return all_read or (until is not None and now >= until + LATE_READ_ALLOWANCE)

    def cancel_expired(self, now: float) -> bool:
        """Return whether a canceled driver has used up its time."""
        return self.cancel_until is not None and now >= self.cancel_until

    def next_check(self) -> float | None:
        """Return the moment at which the driver must be checked again if nothing happens before."""
        moments = [moment for moment in (self.deadline(), self.cancel_until) if moment is not None]
        return min(moments, default=None)


class StopSequence:
    """The steps from the first SIGTERM until nothing is left, or the rest is given up (SPEC 10.1, 10.32).

    kill_at  the moment at which the grace period ends
    """

    __slots__ = ("_empty_since", "_give_up_at", "_kill_wait", "_rest_terminated", "kill_at")

    def __init__(self, now: float, grace: float, kill_wait: float = KILL_WAIT) -> None:
        self.kill_at = now + grace
        self._kill_wait = kill_wait
        self._give_up_at: float | None = None
        self._rest_terminated = False
        self._empty_since: float | None = None

    def skip_grace(self, now: float) -> None:
        """Let the grace period end now, unless it has ended before."""
        self.kill_at = min(self.kill_at, now)

    def extend_wait(self) -> bool:
        """Wait KILL_WAIT in all for what survived SIGKILL; return whether that is longer than before."""
        longer = self._kill_wait < KILL_WAIT
        if longer and self._give_up_at is not None:
            self._give_up_at += KILL_WAIT - self._kill_wait
            self._kill_wait = KILL_WAIT
        return longer

    def advance(
        self, now: float, *, leader_exited: bool, members_left: bool, quiet_period: float = POLL_INTERVAL
    ) -> Step:
        """Return the next step (SPEC 10.1, 10.8).

        A single snapshot without members proves little: while it was taken, a process may have forked another
        one and exited. All snapshots of `quiet_period` seconds must be empty, two at least.
        """
        if not leader_exited or members_left:
            self._empty_since = None
        elif self._empty_since is None:
            self._empty_since = now
            return "wait"
        else:
            return "finished" if now >= self._empty_since + quiet_period else "wait"
        if now < self.kill_at:
            if leader_exited and not self._rest_terminated:
                self._rest_terminated = True
                return "terminate-rest"
            return "wait"
        if self._give_up_at is None:
            self._give_up_at = now + self._kill_wait
        return "give-up" if now >= self._give_up_at else "kill"

    def next_check(self, now: float, *, leader_exited: bool) -> float:
        """Return the moment at which `advance` must be called again if nothing happens before."""
        return now + POLL_INTERVAL if leader_exited or now >= self.kill_at else self.kill_at
