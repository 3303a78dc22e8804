"""The worker thread of one driver: it moves the driver's bytes and sees its exit.

Rules (SPEC 4, 8, 13):
- stdout goes to the event queue in blocks. While the queue is full, the worker keeps one block and does not
  read stdout, so the driver waits. stderr goes to a bounded buffer and is always read.
- An incomplete line on stderr is shown before the exit is reported.
- A worker decides nothing, and parses nothing but the lines of stderr. Exit and end of output are two
  events, in any order.
- Output that a child of the driver keeps open is read for 0.25 s after the exit; then what the pipe holds is
  read, however long the queue is full; then the pipe is closed.
- The worker alone closes its descriptors.
"""

from __future__ import annotations

import codecs
import os
import select
import time

from servo_agg.drivers.events import Exited, Output, OutputClosed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from servo_agg.drivers.events import EventQueue

    class ShowStderr(Protocol):
        """Shows a line that the driver `name` has written to stderr."""

        def __call__(self, name: str, line: bytes, /) -> None:  # noqa: D102 - see the class
            ...


POST_EXIT_DRAIN = 0.25
"""Seconds after its exit in which output of a driver, or of a child of it, still counts (SPEC 4.22)."""

MAX_PIPE_SIZE = 1 << 20
"""Bytes of the largest pipe that an unprivileged process can request: no more can wait in it."""

_BLOCK_SIZE = 64 << 10

_LINE_LIMIT = 4096
"""Bytes of an incomplete line of stderr that are held back."""

_HEAD_SIZE = 16 << 10
_TAIL_SIZE = 48 << 10


class HeadTailBuffer:
    """Keeps the first 16 KiB and the last 48 KiB of a stream (SPEC 13.7)."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail = bytearray()
        self._omitted = 0

    def add(self, block: bytes) -> None:
        """Append a block."""
        space = _HEAD_SIZE - len(self._head)
        if space > 0:
            self._head += block[:space]
            block = block[space:]
        self._tail += block
        surplus = len(self._tail) - _TAIL_SIZE
        if surplus > 0:
            del self._tail[:surplus]
            self._omitted += surplus

    def text(self) -> str:
        """Return what was kept, with a note where bytes are missing."""
        note = f"\n... {self._omitted} bytes omitted ...\n".encode() if self._omitted else b""
        return bytes(self._head + note + self._tail).decode("utf-8", "replace")


class Worker:
    """The state of a worker thread; `run` is its function. Other threads may use `all_read` and `stderr`."""

    def __init__(
        self,
        name: str,
        pid: int,
        descriptors: tuple[int, int, int, int | None],
        stdin: bytes,
        queue: EventQueue,
        show_stderr: ShowStderr | None,
    ) -> None:
        """`descriptors`, all non-blocking: stdout, stderr, one that is readable after the exit, stdin.

        The worker owns them from now on. `stdin` is written to the last one, if there is one.
        """
        self.stderr = HeadTailBuffer()
        self._name = name
        self._pid = pid
        self._out, self._err, self._exit, self._in = descriptors
        self._stdin = memoryview(stdin)
        self._queue = queue
        self._show_stderr = show_stderr
        self._incomplete_line = b""
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._held: Output | None = None
        self._reading = False
        self._out_open = True
        self._drain_until: float | None = None
        self._drained = self._closing = False

    def all_read(self) -> bool:
        """Return whether no output of the driver waits in its pipe or in this worker.

        Output may wait in the event queue: ask that afterwards.
        """
        if not self._out_open:
            return True
        waiting = select.poll()
        waiting.register(self._out, select.POLLIN)
        # In this order: the worker sets `_reading` before it empties the pipe.
        return not waiting.poll(0) and not self._reading

    def run(self) -> None:
        """Move bytes until the driver has exited and both its pipes are at their end."""
        self._watch(self._out, select.POLLIN, self._read_stdout)
        self._watch(self._err, select.POLLIN, self._read_stderr)
        self._watch(self._exit, select.POLLIN, self._handle_exit)
        if self._in is not None:
            self._watch(self._in, select.POLLOUT, self._write_stdin)
        while self._handlers:
            timeout = None
            if self._drain_until is not None and not self._drained:
                timeout = max(0.0, (self._drain_until - time.monotonic()) * 1000)
            for descriptor, _ in self._poll.poll(timeout):
                # A handler may have stopped watching another descriptor.
                self._handlers.get(descriptor, _do_nothing)()
            if self._drain_until is not None and not self._drained and time.monotonic() >= self._drain_until:
                self._drained = True
                self._handlers.get(self._err, _do_nothing)()
                self._handlers.get(self._out, _do_nothing)()

    def _watch(self, descriptor: int, event: int, handler: Callable[[], None]) -> None:
        self._handlers[descriptor] = handler
        self._poll.register(descriptor, event)

    def _unwatch(self, descriptor: int) -> None:
        del self._handlers[descriptor]
        self._poll.unregister(descriptor)

    def _read_stdout(self) -> None:
        self._reading = True
        block = _read(self._out, MAX_PIPE_SIZE if self._drained else _BLOCK_SIZE)
        if block:
            self._held = Output(self._pid, block)
            self._closing = self._drained
            self._enqueue()
        elif block == b"" or self._drained:
            self._close_stdout(cut=block is None)
        else:
            self._reading = False

    def _enqueue(self) -> None:
        """Put the held block into the queue; if that is full, wait for space and leave stdout alone."""
        waiting = self._queue.space in self._handlers
        if self._held is not None and not self._queue.put_output(self._held):
            if not waiting:
                self._unwatch(self._out)
                self._watch(self._queue.space, select.POLLIN, self._enqueue)
            return
        self._held = None
        self._reading = False
        if waiting:
            self._unwatch(self._queue.space)
            self._watch(self._out, select.POLLIN, self._read_stdout)
        if self._closing:
            self._close_stdout(cut=True)
        elif waiting and self._drained:
            self._read_stdout()

    def _close_stdout(self, *, cut: bool) -> None:
        self._out_open = self._reading = False
        self._unwatch(self._out)
        os.close(self._out)
        self._queue.put_after_output(OutputClosed(self._pid, cut=cut))

    def _read_stderr(self) -> None:
        # After the exit, all that the pipe holds: an incomplete line is shown then.
        exited = self._drain_until is not None
        block = _read(self._err, MAX_PIPE_SIZE if exited else _BLOCK_SIZE)
        if block:
            self.stderr.add(block)
            self._show_lines(block)
        if block == b"" or self._drained:
            self._unwatch(self._err)
            os.close(self._err)
            self._show_lines(None)

    def _show_lines(self, block: bytes | None) -> None:
        """Show the lines of stderr that `block` completes; with None also an incomplete line."""
        if self._show_stderr is None:
            return
        *lines, rest = (self._incomplete_line + (block or b"")).split(b"\n")
        shown = 0
        if block is None:
            shown = len(rest)
        elif len(rest) > _LINE_LIMIT:
            # A character of which only a part has arrived is held back.
            _, shown = codecs.utf_8_decode(rest, "replace")
        self._incomplete_line = rest[shown:]
        for line in [*lines, rest[:shown]] if shown else lines:
            self._show_stderr(self._name, line)

    def _write_stdin(self) -> None:
        if self._in is None:
            return
        try:
            self._stdin = self._stdin[os.write(self._in, self._stdin[:_BLOCK_SIZE]) :]
        except BlockingIOError:
            return
        except OSError:
            # A driver may close its stdin (SPEC 3.7).
            self._stdin = self._stdin[:0]
        if not self._stdin:
            self._close_stdin()

    def _close_stdin(self) -> None:
        if self._in is not None:
            self._unwatch(self._in)
            os.close(self._in)
            self._in = None

    def _handle_exit(self) -> None:
        self._drain_until = time.monotonic() + POST_EXIT_DRAIN
        self._unwatch(self._exit)
        os.close(self._exit)
        self._close_stdin()
        # Once the coordinator knows of the exit, the run can end before this thread reads again.
        self._handlers.get(self._err, _do_nothing)()
        self._show_lines(None)
        self._queue.put(Exited(self._pid))


def _do_nothing() -> None:
    return


def _read(descriptor: int, size: int) -> bytes | None:
    """Read; return b"" at the end of the stream, None if nothing is available now."""
    try:
        return os.read(descriptor, size)
    except BlockingIOError:
        return None
