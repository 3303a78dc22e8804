"""A thread that writes to one descriptor, so that no other thread ever blocks on output.

Rules (SPEC 5, 8, 10):
- Lines are written whole and in order. Those that wait at the same time go out in one write.
- While a writer is `full`, enough bytes wait: the coordinator then takes no more output from drivers.
- A descriptor that cannot be written is `broken`: nothing more is written to it. `error` is the cause, unless
  the reader has closed its end.
"""

from __future__ import annotations

import os
import select
import time

from servo_agg import threads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class OnChange(Protocol):
        """Handle a change: a writer is no longer full, is broken, or has written all after `finish`.

        Called in the writer's thread.
        """

        def __call__(self) -> object: ...  # noqa: D102 - see the class


HIGH_WATER = 256 << 10
"""Bytes that may wait before a writer is `full`."""

_SCHEDULING_ALLOWANCE = 1.0
"""Seconds that `drain` waits longer where the descriptor takes bytes: our own thread is late then, as on a
loaded machine, and a final line that somebody would have read must not be lost."""


class Writer:
    """Writes lines to a descriptor from its own thread, which is started by `start` or by the first line.

    broken  whether the descriptor cannot be written
    error   the cause; "" while it can be written, and if the reader has closed its end
    """

    def __init__(self, descriptor: int, on_change: OnChange) -> None:
        self._descriptor = descriptor
        self._on_change = on_change
        self._lock = threads.Lock()
        self._lines_ready = threads.Notifier()
        self._written = threads.Notifier()
        # A list, not one bytearray: a single large line is then written without a copy.
        self._waiting: list[bytes] = []
        self._unwritten = 0
        self._started = False
        self._finishing = False
        self.broken = False
        self.error = ""

    @property
    def full(self) -> bool:
        """Whether so many bytes wait that no more should be written for now."""
        return self._unwritten >= HIGH_WATER

    def start(self) -> None:
        """Start the thread, if it does not run yet. Raises OSError when there can be no further thread."""
        if not self._started:
            threads.start(self._run)
            self._started = True

    def write(self, lines: bytes) -> None:
        """Write whole lines. Never waits. What is written to a broken descriptor is lost."""
        with self._lock:
            try:
                self.start()
            except OSError:
                self.broken = True
            if self.broken:
                return
            self._waiting.append(lines)
            self._unwritten += len(lines)
        self._lines_ready.notify()

    def finish(self) -> bool:
        """Announce that no more lines follow; return whether all is written, or never will be."""
        with self._lock:
            self._finishing = True
            return self.broken or not self._unwritten

    def drain(self, seconds: float) -> bool:
        """Wait until all is written, at most `seconds`; return whether all is.

        Waits _SCHEDULING_ALLOWANCE longer if the descriptor can take more bytes by then.
        """
        deadline = time.monotonic() + seconds
        extended = False
        while not self.broken and self._unwritten:
            left = deadline - time.monotonic()
            if left > 0:
                self._written.wait(left)
            elif not extended and self._is_writable():
                extended = True
                deadline += _SCHEDULING_ALLOWANCE
            else:
                break
        return not (self.broken or self._unwritten)

    def _is_writable(self) -> bool:
        if self._descriptor < 0:
            # The log is opened by its own thread.
            return False
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return any(events & select.POLLOUT for _, events in poll.poll(0))

    def _run(self) -> None:
        while not self.broken:
            with self._lock:
                lines, self._waiting = self._waiting, []
            if not lines:
                self._lines_ready.wait()
                continue
            block = b"".join(lines)
            written = not self._write_block(memoryview(block))
            with self._lock:
                was_full = self.full
                self._unwritten -= len(block)
                if not written:
                    self._discard()
                changed = (
                    self.broken or (was_full and not self.full) or (self._finishing and not self._unwritten)
                )
            self._written.notify()
            if changed:
                self._on_change()

    def _discard(self) -> None:
        """Mark the descriptor as broken and forget what waits. The lock must be held."""
        self.broken = True
        self._waiting = []
        self._unwritten = 0

    def _write_block(self, block: memoryview) -> memoryview:
        """Write a block; return the part that could not be written."""
        while block:
            try:
                block = block[os.write(self._descriptor, block) :]
            except BlockingIOError:
                # Another process that shares the open file has made it non-blocking.
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
            except BrokenPipeError:
                break
            except OSError as error:
                self.error = os.strerror(error.errno or 0)
                break
        return block
