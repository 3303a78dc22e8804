"""The way out: one thread writes to one descriptor, so that whoever has something to say never hangs.

Rules (SPEC 5, 8, 10):
- Lines go out whole and in order; those that wait together go out in one write.
- `full` tells when more is waiting than we want to hold: the sayer then stops taking in.
- A descriptor that cannot take our bytes is `broken`: nothing more is written to it. `trouble` says
  why in words, unless nobody reads any more.
"""

from __future__ import annotations

import os
import select
import time

from servo_agg import threads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

ENOUGH = 256 << 10
"""Bytes that may wait before `full`."""

_TURN = 1.0


class Outlet:
    """Writes to a descriptor from a thread of its own, begun with the first line."""

    def __init__(self, descriptor: int, tell: Callable[[], None]) -> None:
        """Take a descriptor and whom to tell of news.

        `tell` is called, from the thread, when `full` has ended, `broken` has begun, or, once
        `finish` was called, all is written.
        """
        self._descriptor = descriptor
        self._tell = tell
        self._lock = threads.Lock()
        self._news = threads.Bell()
        self._written = threads.Bell()
        self._waiting: list[bytes] = []
        self._size = 0
        self._begun = False
        self._finishing = False
        self.broken = False
        self.trouble = ""

    @property
    def full(self) -> bool:
        """Whether enough is waiting."""
        return self._size >= ENOUGH

    def begin(self) -> None:
        """Start the thread before the first line does. Raises OSError when there can be none."""
        if not self._begun:
            threads.start(self._write)
            self._begun = True

    def put(self, lines: bytes) -> None:
        """Say whole lines. Never waits; what is said to a broken descriptor is lost."""
        with self._lock:
            try:
                self.begin()
            except OSError:
                self.broken = True
            if self.broken:
                return
            self._waiting.append(lines)
            self._size += len(lines)
        self._news.ring()

    def give_up(self) -> None:
        """Take in that nothing can be written; what waits is lost."""
        with self._lock:
            self.broken = True
            self._waiting = []
            self._size = 0
        self._written.ring()

    def finish(self) -> bool:
        """Take in that nothing more will be said; tell whether all is written, or never will be."""
        with self._lock:
            self._finishing = True
            return self.broken or not self._size

    def drain(self, seconds: float) -> bool:
        """Wait until all is written, at most `seconds`; tell whether it was.

        If there is room for more by then, our own thread has not had its turn, as on a loaded machine: it
        gets _TURN seconds more, so that no last word is lost that somebody would have read.
        """
        until = time.monotonic() + seconds
        in_turn = True
        while not self.broken and self._size:
            left = until - time.monotonic()
            if left > 0:
                self._written.wait(left)
            elif in_turn and self._has_room():
                in_turn = False
                until += _TURN
            else:
                break
        return not (self.broken or self._size)

    def _has_room(self) -> bool:
        if self._descriptor < 0:
            # It is still being opened.
            return False
        writable = select.poll()
        writable.register(self._descriptor, select.POLLOUT)
        return any(events & select.POLLOUT for _, events in writable.poll(0))

    def _write(self) -> None:
        while not self.broken:
            with self._lock:
                lines, self._waiting = self._waiting, []
            if not lines:
                self._news.wait()
                continue
            block = b"".join(lines)
            written = not self._write_all(memoryview(block))
            with self._lock:
                was_full = self.full
                self._size -= len(block)
                if not written:
                    self.broken = True
                    self._waiting = []
                    self._size = 0
                news = not written or (was_full and not self.full) or (self._finishing and not self._size)
            self._written.ring()
            if news:
                self._tell()

    def _write_all(self, block: memoryview) -> memoryview:
        """Return what could not be written; empty when all was."""
        while block:
            try:
                block = block[os.write(self._descriptor, block) :]
            except BlockingIOError:
                # Whoever started us made it non-blocking, for all who share it.
                writable = select.poll()
                writable.register(self._descriptor, select.POLLOUT)
                writable.poll()
            except BrokenPipeError:
                break
            except OSError as error:
                self.trouble = os.strerror(error.errno or 0)
                break
        return block
