"""The worker of one driver: a thread that moves its bytes, and sees its exit.

Rules (SPEC 4, 8, 13):
- stdout goes to the inbox in blocks; without room there, a block is held and stdout is left alone,
  so that the driver waits; stderr goes into a bounded store and is drained whatever happens.
- It decides nothing and parses nothing. Exit and end of output are two events, in any order.
- Output that a child of the driver still holds open is read for 0.25 s after the exit, then what
  is in the pipe by then, however long that waits for room; then the pipe is closed.
- The worker closes its descriptors, nobody else does.
"""

from __future__ import annotations

import os
import select
import time

from servo_agg.events import Closed, Exited, Output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional

    from servo_agg.inbox import Inbox

    Show = Optional[Callable[[str, Optional[bytes]], None]]

AFTERMATH = 0.25
"""Seconds after its exit in which what a driver, or a child of it, writes still counts (SPEC 4)."""

_BLOCK = 64 << 10
PIPE_AT_MOST = 1 << 20
"""The largest pipe that an unprivileged process can ask for: more cannot wait in it unread."""

_HEAD = 16 << 10
_TAIL = 48 << 10


class Kept:
    """The first 16 KiB and the last 48 KiB of a stream (SPEC 13)."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail = bytearray()
        self._lost = 0

    def add(self, block: bytes) -> None:
        """Take in a block."""
        room = _HEAD - len(self._head)
        if room > 0:
            self._head += block[:room]
            block = block[room:]
        self._tail += block
        surplus = len(self._tail) - _TAIL
        if surplus > 0:
            del self._tail[:surplus]
            self._lost += surplus

    def text(self) -> str:
        """Give what was kept, with a mark where something is missing."""
        mark = f"\n... {self._lost} bytes left out ...\n".encode() if self._lost else b""
        return bytes(self._head + mark + self._tail).decode("utf-8", "replace")


class Worker:
    """What the thread knows. `run` is the thread; the rest of the program asks `quiet` and `stderr`."""

    def __init__(
        self,
        name: str,
        pid: int,
        descriptors: tuple[int, int, int, int | None],
        given: bytes,
        inbox: Inbox,
        show: Show,
    ) -> None:
        """Take over non-blocking descriptors: stdout, stderr, one that is readable after the exit, stdin.

        `given` is written to stdin, where there is one. `show(name, block)` is called with what the
        driver writes to stderr, and with None at its end.
        """
        self.stderr = Kept()
        self._name = name
        self._pid = pid
        self._out, self._err, self._exit, self._in = descriptors
        self._given = memoryview(given)
        self._inbox = inbox
        self._show = show
        self._poll = select.poll()
        self._watched: dict[int, Callable[[], None]] = {}
        self._held = b""
        self._reading = False
        self._out_open = True
        self._until: float | None = None
        self._late = self._last = False

    def quiet(self) -> bool:
        """Whether nothing that the driver wrote is unread: not in its pipe, not in our hands.

        What was handed over is in the inbox: ask `holds_output` after this.
        """
        if not self._out_open:
            return True
        waiting = select.poll()
        waiting.register(self._out, select.POLLIN)
        # In this order: the thread says that it is reading before it empties the pipe.
        return not waiting.poll(0) and not self._reading

    def run(self) -> None:
        """Move bytes until the driver has exited and both its pipes are at their end."""
        self._watch(self._out, select.POLLIN, self._take_output)
        self._watch(self._err, select.POLLIN, self._take_stderr)
        self._watch(self._exit, select.POLLIN, self._take_exit)
        if self._in is not None:
            self._watch(self._in, select.POLLOUT, self._give_input)
        while self._watched:
            aftermath = None
            if self._until is not None and not self._late:
                aftermath = max(0.0, (self._until - time.monotonic()) * 1000)
            for descriptor, _ in self._poll.poll(aftermath):
                # One handler may have ended another's watch.
                self._watched.get(descriptor, _nothing)()
            if self._until is not None and not self._late and time.monotonic() >= self._until:
                self._late = True
                self._watched.get(self._err, _nothing)()
                self._watched.get(self._out, _nothing)()

    def _watch(self, descriptor: int, event: int, handler: Callable[[], None]) -> None:
        self._watched[descriptor] = handler
        self._poll.register(descriptor, event)

    def _unwatch(self, descriptor: int) -> None:
        del self._watched[descriptor]
        self._poll.unregister(descriptor)

    def _take_output(self) -> None:
        self._reading = True
        block = _read(self._out, PIPE_AT_MOST if self._late else _BLOCK)
        if block:
            self._held = block
            self._last = self._late
            self._hand_over()
        elif block == b"" or self._late:
            self._end_output(cut=block is None)
        else:
            self._reading = False

    def _hand_over(self) -> None:
        """Offer the held block; without room, leave stdout alone until there is some."""
        stalled = self._inbox.room in self._watched
        if not self._inbox.offer(Output(self._pid, self._held), len(self._held)):
            if not stalled:
                self._unwatch(self._out)
                self._watch(self._inbox.room, select.POLLIN, self._hand_over)
            return
        self._held = b""
        self._reading = False
        if stalled:
            self._unwatch(self._inbox.room)
            self._watch(self._out, select.POLLIN, self._take_output)
        if self._last:
            self._end_output(cut=True)
        elif stalled and self._late:
            self._take_output()

    def _end_output(self, *, cut: bool) -> None:
        self._out_open = self._reading = False
        self._unwatch(self._out)
        os.close(self._out)
        self._inbox.close(Closed(self._pid, cut=cut))

    def _take_stderr(self) -> None:
        block = _read(self._err, PIPE_AT_MOST if self._late else _BLOCK)
        if block:
            self.stderr.add(block)
            if self._show is not None:
                self._show(self._name, block)
        if block == b"" or self._late:
            self._unwatch(self._err)
            os.close(self._err)
            if self._show is not None:
                self._show(self._name, None)

    def _give_input(self) -> None:
        if self._in is None:
            return
        try:
            self._given = self._given[os.write(self._in, self._given[:_BLOCK]) :]
        except BlockingIOError:
            return
        except OSError:
            # A driver that closes its stdin is no error (SPEC 3).
            self._given = self._given[:0]
        if not self._given:
            self._end_input()

    def _end_input(self) -> None:
        if self._in is not None:
            self._unwatch(self._in)
            os.close(self._in)
            self._in = None

    def _take_exit(self) -> None:
        self._until = time.monotonic() + AFTERMATH
        self._unwatch(self._exit)
        os.close(self._exit)
        self._end_input()
        self._inbox.put(Exited(self._pid))


def _nothing() -> None:
    return


def _read(descriptor: int, size: int) -> bytes | None:
    """Read; `b""` at the end, or when `size` is 0; None when nothing is there yet."""
    try:
        return os.read(descriptor, size)
    except BlockingIOError:
        return None
