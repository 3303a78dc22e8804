"""Threads, and the notifier that wakes a waiting thread.

`threading` takes 3.8 ms to import, which every query would pay. This module has the part of it that we use.

Rules:
- A thread ends when its function returns. No thread is joined: the program ends with os._exit.
- An exception that ends a thread is reported to the handlers of `on_thread_error`.
- Data that threads share is read and written under a `Lock`. A thread that waits for another
  uses a `Notifier`.
- We set the stack size of each thread: the default of `ulimit -s` or of the C library may be too small.
"""

from __future__ import annotations

import errno

from servo_agg import _compat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Work(Protocol):
        """The function that a thread runs."""

        def __call__(self) -> object: ...  # noqa: D102 - see the class

    class ThreadErrorHandler(Protocol):
        """Report an exception that has ended a thread. Called in that thread."""

        def __call__(self, error: BaseException, /) -> object: ...  # noqa: D102 - see the class


Lock = _compat.allocate_lock

STACK_SIZE = 1 << 20
"""Bytes of stack: several times what 400 levels of JSON need. Unused stack costs only address space, since
it is smaller than a huge page, which the kernel may allocate as a whole."""

DEEP_STACK_SIZE = 8 << 20
"""Bytes of stack for the thread that reads config.yaml: the drivers' sections in it may be nested deeper."""


_error_handlers: list[ThreadErrorHandler] = []


def on_thread_error(handler: ThreadErrorHandler) -> None:
    """Call `handler` whenever an exception ends a thread."""
    _error_handlers.append(handler)


def start(work: Work, stack: int = STACK_SIZE) -> None:
    """Run `work` in a new thread with `stack` bytes of stack.

    Raises OSError (EAGAIN) when the system allows no further thread.
    """

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - any error ends the thread
            for handler in _error_handlers:
                handler(error)

    _set_stack_size(stack)
    try:
        _compat.start_new_thread(run, ())
    except RuntimeError:
        raise BlockingIOError(errno.EAGAIN, "no further thread can be started") from None


def _set_stack_size(size: int) -> None:
    try:
        _compat.stack_size(size)
    except (RuntimeError, ValueError):
        # The system does not allow this size: use its default.
        return


class Notifier:
    """Wakes the one thread that waits for it.

    A `notify` that comes before `wait` is kept: `wait` then returns at once. Several count as one.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        # Held while there is no notification.
        self._lock = _compat.allocate_lock()
        self._lock.acquire()

    def notify(self) -> None:
        """Wake the thread that waits, or the next one to wait. Never blocks."""
        try:
            self._lock.release()
        except RuntimeError:
            # Not held: an earlier notification has not been received yet.
            return

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for a notification, at most `seconds`; return whether there was one."""
        return self._lock.acquire(timeout=-1 if seconds is None else min(seconds, _compat.TIMEOUT_MAX))
