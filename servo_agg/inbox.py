"""The one queue: what workers and main tell the coordinator.

Rules:
- What drivers write is bounded in bytes, all of them together: a worker that finds no room keeps
  its block and waits for `room` to become readable, so that the driver waits too (SPEC 8).
- Everything else is rare, small and urgent: it is never refused and overtakes output, so that the
  end of a driver and a signal are known while the agent does not read.
"""

from __future__ import annotations

import os
import time

from servo_agg.threads import Bell, Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ROOM = 1 << 20
"""Bytes of output that may wait for the coordinator."""


class Inbox:
    """Many putters, one getter. An event is any object; the rooms that put it know its type."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._news = Bell()
        self._urgent: list[Any] = []
        self._output: list[tuple[Any, int]] = []
        self._waiting = 0
        self._full = False
        self.room, self._room_sign = os.pipe()
        os.write(self._room_sign, b"+")

    def put(self, event: object) -> None:
        """Add an urgent event."""
        with self._lock:
            self._urgent.append(event)
        self._news.ring()

    def offer(self, event: object, size: int) -> bool:
        """Add output of `size` bytes; False when there is no room: then wait until `room` is readable."""
        with self._lock:
            if self._full:
                return False
            self._output.append((event, size))
            self._waiting += size
            if self._waiting >= ROOM:
                self._full = True
                os.read(self.room, 1)
        self._news.ring()
        return True

    def close(self, event: object) -> None:
        """Add the event that ends a driver's output; it comes after that output and is never refused."""
        with self._lock:
            self._output.append((event, 0))
        self._news.ring()

    def get(self, seconds: float, *, output: bool = True) -> Any | None:
        """Take the next event, waiting up to `seconds`; None when none came.

        `output`: whether output may be taken, or only what is urgent.
        """
        deadline = None
        while True:
            with self._lock:
                if self._urgent:
                    return self._urgent.pop(0)
                if output and self._output:
                    event, size = self._output.pop(0)
                    self._waiting -= size
                    if self._full and self._waiting <= ROOM // 2:
                        self._full = False
                        os.write(self._room_sign, b"+")
                    return event
            now = time.monotonic()
            if deadline is None:
                deadline = now + seconds
            if now >= deadline:
                return None
            self._news.wait(deadline - now)

    @property
    def holds_output(self) -> bool:
        """Whether output waits."""
        return bool(self._output)
