"""SPEC 5.2, 8.11, 10.50: lines are written whole and in order, and `write` never waits for the reader."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from servo_agg.output.writer import HIGH_WATER, Writer
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LINES = [b'{"line":%d,"padding":"%s"}\n' % (number, b"x" * (number % 997)) for number in range(5000)]
"""More than a pipe holds."""


class End:
    """The two ends of a pipe, and the writer that writes to it."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        self.notified = 0
        self.writer = Writer(self.write_end, self._notify)

    def _notify(self) -> None:
        self.notified += 1

    def read(self, size: int) -> bytes:
        """Read exactly `size` bytes."""
        blocks = []
        while size:
            assert select.select([self.read_end], [], [], 20)[0], f"{size} bytes have not come"
            block = os.read(self.read_end, min(size, 1 << 16))
            assert block
            blocks.append(block)
            size -= len(block)
        return b"".join(blocks)

    def close_read_end(self) -> None:
        if self.read_end >= 0:
            os.close(self.read_end)
            self.read_end = -1

    def close(self) -> None:
        self.close_read_end()
        # A thread that still writes must not find another file under its number.
        wait_until(self.writer.finish, 10, "end of writing")
        os.close(self.write_end)


@pytest.fixture
def end() -> Iterator[End]:
    made = End()
    yield made
    made.close()


def in_time(work: Callable[[], object], what: str) -> None:
    """Run a function in a thread: it would block if the rule were broken."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), what


def write_all(writer: Writer, lines: list[bytes]) -> None:
    for line in lines:
        writer.write(line)


def fill(end: End) -> bytes:
    """Write more than the pipe takes, without a reader; return what was written."""
    in_time(lambda: write_all(end.writer, LINES), "writing lines without a reader")
    return b"".join(LINES)


def test_a_line_is_written_at_once(end: End) -> None:
    end.writer.write(b"one\n")
    assert end.read(4) == b"one\n"
    end.writer.write(b"two\n")
    assert end.read(4) == b"two\n"
    assert end.writer.drain(10)
    assert not end.notified


def test_lines_are_written_in_order_and_none_is_lost(end: End) -> None:
    written = fill(end)
    assert end.read(len(written)) == written
    assert end.writer.drain(10)


def test_a_line_larger_than_the_pipe_is_written_whole(end: End) -> None:
    line = bytes(range(1, 10)) * 500_000 + b"\n"
    in_time(lambda: end.writer.write(line), "writing a large line")
    end.writer.write(b"next\n")
    assert end.read(len(line) + 5) == line + b"next\n"


def test_each_write_holds_whole_lines() -> None:
    # A write to such a socket is one message.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        writer = Writer(theirs.fileno(), lambda: None)
        lines = [b'{"progress":%d}\n' % number for number in range(2000)]
        write_all(writer, lines)
        found: list[bytes] = []
        while sum(map(len, found)) < sum(map(len, lines)):
            found.append(ours.recv(1 << 20))
            assert found[-1].endswith(b"\n")
        assert b"".join(found) == b"".join(lines)


def test_write_does_not_wait_for_the_reader(end: End) -> None:
    fill(end)
    in_time(lambda: write_all(end.writer, LINES), "writing more")
    assert end.writer.full


def test_lines_of_several_threads_are_not_mixed(end: End) -> None:
    count = 400

    def write_numbered(writer_id: int) -> None:
        for number in range(count):
            end.writer.write(b"%d %d %s\n" % (writer_id, number, b"x" * 500))

    threads = [
        threading.Thread(target=write_numbered, args=(writer_id,), daemon=True) for writer_id in range(4)
    ]
    for thread in threads:
        thread.start()
    size = sum(
        len(b"%d %d %s\n" % (writer_id, number, b"x" * 500))
        for writer_id in range(4)
        for number in range(count)
    )
    words = [line.split() for line in end.read(size).splitlines()]
    assert {tail for _, _, tail in words} == {b"x" * 500}
    for writer_id in range(4):
        assert [int(number) for owner, number, _ in words if int(owner) == writer_id] == list(range(count))


# Full, and not any more (SPEC 8.11).


def test_it_is_full_above_the_high_water_mark_and_notifies_when_it_no_longer_is(end: End) -> None:
    written = fill(end)
    assert len(written) > 2 * HIGH_WATER
    assert end.writer.full
    notified = end.notified
    end.read(len(written))
    wait_until(lambda: not end.writer.full, 10, "end of being full")
    wait_until(lambda: end.notified > notified, 10, "notification")


def test_it_is_not_full_below_the_high_water_mark(end: End) -> None:
    # A pipe does not take the first of these, and what is written in part waits as a whole.
    known = []
    for block in (b"x" * (HIGH_WATER - 1), b"\n"):
        end.writer.write(block)
        known.append(end.writer.full)
    assert known == [False, True]


# The end (SPEC 5.20, 5.21).


def test_it_is_finished_when_nothing_was_written(end: End) -> None:
    assert end.writer.drain(0)
    assert end.writer.finish()


def test_after_finish_it_notifies_when_all_is_written(end: End) -> None:
    written = fill(end)
    assert not end.writer.finish()
    notified = end.notified
    end.read(len(written))
    wait_until(lambda: end.notified > notified, 10, "notification that all is written")
    wait_until(end.writer.finish, 10, "all written")
    assert not end.writer.broken


def test_it_is_not_finished_before_everything_is_written(end: End) -> None:
    """The block that is being written counts, and so do the lines behind it."""
    first, second = b"1" * 300_000, b"2" * 300_000
    end.writer.write(first)
    # The first is being written now, so the second will be a block of its own.
    assert end.read(1) == b"1"
    end.writer.write(second)
    assert not end.writer.finish()
    end.read(len(first) - 1)
    assert end.read(1) == b"2"
    assert end.writer.full
    assert not end.writer.finish()
    assert not end.writer.drain(0.05)
    end.read(len(second) - 1)
    assert end.writer.drain(10)
    assert end.writer.finish()


def test_drain_returns_after_its_timeout(end: End) -> None:
    fill(end)
    drained = []
    start = time.monotonic()
    in_time(lambda: drained.append(end.writer.drain(0.05)), "draining for 0.05 s")
    assert time.monotonic() - start >= 0.05
    assert drained == [False]


class _Late(Writer):
    """A writer whose thread is not scheduled for a while."""

    turn = threading.Event()

    def _write_block(self, block: memoryview) -> memoryview:
        self.turn.wait(20)
        return super()._write_block(block)


def test_drain_waits_for_the_writer_thread_while_the_descriptor_is_writable(end: End) -> None:
    end.writer = _Late(end.write_end, lambda: None)
    end.writer.write(b"last line\n")
    threading.Timer(0.3, _Late.turn.set).start()
    assert end.writer.drain(0.05)
    assert end.read(10) == b"last line\n"


def test_drain_waits_for_the_reader(end: End) -> None:
    written = fill(end)
    reader = threading.Thread(target=end.read, args=(len(written),), daemon=True)
    reader.start()
    start = time.monotonic()
    assert end.writer.drain(60)
    # It returns at the end of reading, not at its timeout.
    assert time.monotonic() - start < 30
    assert not end.writer.broken
    reader.join(10)


# A descriptor that cannot be written to (SPEC 5.36).


def test_a_missing_reader_is_noticed_with_the_next_line(end: End) -> None:
    end.writer.write(b"one\n")
    end.read(4)
    end.close_read_end()
    end.writer.write(b"two\n")
    wait_until(lambda: end.writer.broken, 10, "noticing that the reader has left")
    wait_until(lambda: end.notified, 10, "notification")


def test_a_reader_that_leaves_during_a_write_is_noticed(end: End) -> None:
    fill(end)
    assert not end.writer.broken
    notified = end.notified
    end.close_read_end()
    wait_until(lambda: end.writer.broken, 10, "noticing that the reader has left")
    wait_until(lambda: end.notified > notified, 10, "notification")
    # Otherwise a thread that waits for space would wait forever.
    assert not end.writer.full
    assert end.writer.finish()


def test_lines_without_a_reader_are_dropped(end: End) -> None:
    end.close_read_end()
    end.writer.write(b"one\n")
    wait_until(lambda: end.writer.broken, 10, "noticing that the reader has left")
    in_time(lambda: write_all(end.writer, LINES), "writing lines without a reader")
    # No line is kept.
    assert not end.writer.full
    assert not end.writer.drain(0)
    assert end.writer.finish()


def test_a_full_disk_is_noticed() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    notified = threading.Event()
    writer = Writer(descriptor, notified.set)
    writer.write(b"one\n")
    wait_until(lambda: writer.broken, 10, "noticing that there is no space")
    assert notified.wait(10)
    assert not writer.drain(0)
    os.close(descriptor)


def test_a_closed_descriptor_is_noticed() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    os.close(write_end)
    writer = Writer(write_end, lambda: None)
    writer.write(b"one\n")
    wait_until(lambda: writer.broken, 10, "noticing that the descriptor is closed")


def test_a_non_blocking_descriptor_is_written_completely(end: End) -> None:
    os.set_blocking(end.write_end, False)
    written = fill(end)
    assert not end.writer.drain(0.05)
    assert not end.writer.broken
    assert end.read(len(written)) == written
    assert end.writer.drain(10)
    assert not end.writer.broken


def test_waiting_for_a_non_blocking_descriptor_takes_no_processor_time(end: End) -> None:
    os.set_blocking(end.write_end, False)
    fill(end)
    with contextlib.suppress(BlockingIOError):
        # Fill the space that a partly written block has left in the pipe: the writer can only wait now.
        while True:
            os.write(end.write_end, b"x")
    before = time.process_time()
    assert not end.writer.drain(0.3)
    assert time.process_time() - before < 0.15


def test_a_missing_reader_of_a_non_blocking_descriptor_is_noticed(end: End) -> None:
    os.set_blocking(end.write_end, False)
    fill(end)
    end.close_read_end()
    wait_until(lambda: end.writer.broken, 10, "noticing that the reader has left")
