"""The text of the status line on a terminal: which drivers are waited for, and for how long. Pure.

Rules (SPEC 14.33-14.37):
- A driver is named when it has run for 2 s: most answer earlier.
- After a signal the line says what is being stopped and how to skip the grace period.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_MIN_SECONDS = 2.0
"""Seconds after which a driver that runs is shown."""

_MAX_NAMES = 3
"""Drivers that are named; the others are counted."""


class Activity:
    """A driver that runs.

    name     the driver
    option   what it was called with (`--query`, `--info`); "" in an adjust
    seconds  since its start
    kill_in  seconds until SIGKILL, None if it is not being stopped
    """

    __slots__ = ("kill_in", "name", "option", "seconds")

    def __init__(self, name: str, option: str, seconds: float, kill_in: float | None) -> None:
        self.name = name
        self.option = option
        self.seconds = seconds
        self.kill_in = kill_in


def waiting_text(activities: Sequence[Activity]) -> str:
    """Return `waiting for 02db (--query), 12 s`; in an adjust only `12 s`; "" if it is too early to say."""
    slow = [activity for activity in activities if activity.seconds >= _MIN_SECONDS]
    if not slow:
        return ""
    seconds = f"{int(max(activity.seconds for activity in slow))} s"
    # On a cancel the driver that is being adjusted and its `--info` run at the same time.
    option = slow[-1].option
    return f"waiting for {_names(slow)} ({option}), {seconds}" if option else seconds


def stopping_text(activities: Sequence[Activity]) -> str:
    """Return what is being stopped after a signal, and for how long; "" if nothing is."""
    stopping = [activity for activity in activities if activity.kill_in is not None]
    if not stopping:
        return ""
    seconds = max(activity.kill_in or 0.0 for activity in stopping)
    names = _names(stopping)
    if seconds < 1:
        return f"stopping {names}"
    return f"stopping {names}: SIGKILL in {int(seconds)} s; press Ctrl-C again to kill at once"


def _names(activities: Sequence[Activity]) -> str:
    names = [activity.name for activity in activities]
    more = len(names) - _MAX_NAMES
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:_MAX_NAMES])} and {more} more"
