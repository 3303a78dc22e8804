"""Threads, and the bell by which one wakes another.

The module `threading` takes 3 ms to import, which every query would pay; what we need of it is little.

Rules:
- A thread lasts as long as its function, and nobody waits for it: we leave by os._exit.
- One that ends by an error, as for want of memory, is missed by others: see `mourn`.
- What two threads share is read and written under a `Lock`; who has something to wait for has a Bell.
- The size of a thread's stack is ours to choose: `ulimit -s` and the C library may give too little.
"""

from __future__ import annotations

import _thread
import errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

Lock = _thread.allocate_lock

STACK = 1 << 20
"""Bytes of stack for 400 levels of JSON, several times over. What is not used costs address space alone:
it is less than a huge page, which the kernel may hand out as a whole."""

DEEP_STACK = 8 << 20
"""Bytes of stack for the one thread that reads config.yaml: its drivers' part may be nested deeper."""


_mourners: list[Callable[[BaseException], object]] = []


def mourn(tell: Callable[[BaseException], object]) -> None:
    """Have `tell(error)` called, in the thread concerned, when one ends by an error."""
    _mourners.append(tell)


def start(work: Callable[[], object], stack: int = STACK) -> None:
    """Do `work` in a thread of its own, with a stack of so many bytes.

    Raises OSError (EAGAIN) when there can be no further thread.
    """

    def live() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - whatever it was, the thread is gone
            for tell in _mourners:
                tell(error)

    _choose_stack(stack)
    try:
        _thread.start_new_thread(live, ())
    except RuntimeError:
        raise BlockingIOError(errno.EAGAIN, "there can be no further thread") from None


def _choose_stack(size: int) -> None:
    try:
        _thread.stack_size(size)
    except (RuntimeError, ValueError):
        # The system does not let us choose: its own size must do.
        return


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

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it is rung, at most `seconds`; return whether it was."""
        return self._silent.acquire(timeout=-1 if seconds is None else min(seconds, _thread.TIMEOUT_MAX))
