"""Threads, and the bell by which one wakes another.

The module `threading` takes 3 ms to import, which every query would pay; what we need of it is little.

Rules:
- A thread lasts as long as its function, and nobody waits for it: we leave by os._exit.
- What two threads share is read and written under a `Lock`; who has something to wait for has a Bell.
"""

from __future__ import annotations

import _thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

Lock = _thread.allocate_lock


def start(work: Callable[[], object]) -> None:
    """Do `work` in a thread of its own. Raises RuntimeError when there can be no further one."""
    _thread.start_new_thread(work, ())


class Bell:
    """Wakes the one thread that waits for it; rung before, it wakes at once, however often it was rung."""

    __slots__ = ("_silent",)

    def __init__(self) -> None:
        self._silent = _thread.allocate_lock()
        self._silent.acquire()

    def ring(self) -> None:
        """Wake whoever waits, or the next to wait. Never waits."""
        try:
            self._silent.release()
        except RuntimeError:
            # It has been rung, and nobody has come yet.
            return

    def wait(self, seconds: float | None = None) -> None:
        """Wait until it is rung, at most `seconds`."""
        self._silent.acquire(timeout=-1 if seconds is None else min(seconds, _thread.TIMEOUT_MAX))
