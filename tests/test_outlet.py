"""SPEC 5, 8, 10: lines go out whole and in order, and whoever says one never waits for who reads it."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from servo_agg.outlet import ENOUGH, Outlet
from tests.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LINES = [b'{"line":%d,"padding":"%s"}\n' % (number, b"x" * (number % 997)) for number in range(5000)]
"""More than a pipe holds, and more than enough."""


class End:
    """The two ends of a pipe, and the outlet that writes to it."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        self.told = 0
        self.outlet = Outlet(self.write_end, self._tell)

    def _tell(self) -> None:
        self.told += 1

    def read(self, size: int) -> bytes:
        """Read exactly so much."""
        blocks = []
        while size:
            assert select.select([self.read_end], [], [], 20)[0], f"{size} bytes have not come"
            block = os.read(self.read_end, min(size, 1 << 16))
            assert block
            blocks.append(block)
            size -= len(block)
        return b"".join(blocks)

    def hang_up(self) -> None:
        if self.read_end >= 0:
            os.close(self.read_end)
            self.read_end = -1

    def close(self) -> None:
        self.hang_up()
        # A thread that still writes must not find another file under its number.
        wait_until(self.outlet.finish, 10, "end of writing")
        os.close(self.write_end)


@pytest.fixture
def end() -> Iterator[End]:
    made = End()
    yield made
    made.close()


def in_time(work: Callable[[], object], what: str) -> None:
    """Do in a thread what would hang if the promise were broken."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), what


def say_all(outlet: Outlet, lines: list[bytes]) -> None:
    for line in lines:
        outlet.put(line)


def block_up(end: End) -> bytes:
    """Say more than the pipe takes, with nobody reading; return what was said."""
    in_time(lambda: say_all(end.outlet, LINES), "saying lines that nobody reads")
    return b"".join(LINES)


def test_a_line_goes_out_at_once(end: End) -> None:
    end.outlet.put(b"one\n")
    assert end.read(4) == b"one\n"
    end.outlet.put(b"two\n")
    assert end.read(4) == b"two\n"
    assert end.outlet.drain(10)
    assert not end.told


def test_lines_go_out_in_order_and_nothing_is_lost(end: End) -> None:
    said = block_up(end)
    assert end.read(len(said)) == said
    assert end.outlet.drain(10)


def test_a_line_larger_than_the_pipe_goes_out_whole(end: End) -> None:
    line = bytes(range(1, 10)) * 500_000 + b"\n"
    in_time(lambda: end.outlet.put(line), "saying a large line")
    end.outlet.put(b"next\n")
    assert end.read(len(line) + 5) == line + b"next\n"


def test_each_write_holds_whole_lines() -> None:
    # Here a write is a message, and keeps its edges.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        outlet = Outlet(theirs.fileno(), lambda: None)
        lines = [b'{"progress":%d}\n' % number for number in range(2000)]
        say_all(outlet, lines)
        found: list[bytes] = []
        while sum(map(len, found)) < sum(map(len, lines)):
            found.append(ours.recv(1 << 20))
            assert found[-1].endswith(b"\n")
        assert b"".join(found) == b"".join(lines)


def test_nobody_who_says_something_waits_for_the_reader(end: End) -> None:
    block_up(end)
    # Still nobody has read.
    in_time(lambda: say_all(end.outlet, LINES), "saying more")
    assert end.outlet.full


def test_several_may_speak_and_no_line_is_torn(end: End) -> None:
    count = 400

    def speak(who: int) -> None:
        for number in range(count):
            end.outlet.put(b"%d %d %s\n" % (who, number, b"x" * 500))

    threads = [threading.Thread(target=speak, args=(who,), daemon=True) for who in range(4)]
    for thread in threads:
        thread.start()
    size = sum(len(b"%d %d %s\n" % (who, number, b"x" * 500)) for who in range(4) for number in range(count))
    words = [line.split() for line in end.read(size).splitlines()]
    assert {tail for _, _, tail in words} == {b"x" * 500}
    for who in range(4):
        assert [int(number) for owner, number, _ in words if int(owner) == who] == list(range(count))


# Full, and not any more (SPEC 8).


def test_it_is_full_when_enough_waits_and_tells_when_it_no_longer_is(end: End) -> None:
    said = block_up(end)
    assert len(said) > 2 * ENOUGH
    assert end.outlet.full
    told = end.told
    end.read(len(said))
    wait_until(lambda: not end.outlet.full, 10, "end of being full")
    wait_until(lambda: end.told > told, 10, "being told of it")


def test_before_enough_waits_it_is_not_full(end: End) -> None:
    # A pipe does not take the first of these, and what is written in part waits as a whole.
    known = []
    for block in (b"x" * (ENOUGH - 1), b"\n"):
        end.outlet.put(block)
        known.append(end.outlet.full)
    assert known == [False, True]


# The end (SPEC 5).


def test_it_is_finished_when_nothing_was_said(end: End) -> None:
    assert end.outlet.drain(0)
    assert end.outlet.finish()


def test_who_has_finished_is_told_when_all_is_written(end: End) -> None:
    said = block_up(end)
    assert not end.outlet.finish()
    told = end.told
    end.read(len(said))
    wait_until(lambda: end.told > told, 10, "being told that all is written")
    wait_until(end.outlet.finish, 10, "all written")
    assert not end.outlet.broken


def test_who_has_finished_is_told_of_a_short_line_too(end: End) -> None:
    end.outlet.put(b"x" * (1 << 17))
    assert not end.outlet.finish()
    end.read(1 << 17)
    wait_until(lambda: end.told, 10, "being told that all is written")
    assert end.outlet.finish()


def test_nothing_is_said_to_be_written_before_it_is(end: End) -> None:
    """What is being written counts, and so does what waits behind it."""
    first, second = b"1" * 300_000, b"2" * 300_000
    end.outlet.put(first)
    # What is read is being written: from now on the second is on its own.
    assert end.read(1) == b"1"
    end.outlet.put(second)
    assert not end.outlet.finish()
    end.read(len(first) - 1)
    assert end.read(1) == b"2"
    assert end.outlet.full
    assert not end.outlet.finish()
    assert not end.outlet.drain(0.05)
    end.read(len(second) - 1)
    assert end.outlet.drain(10)
    assert end.outlet.finish()


def test_draining_waits_no_longer_than_it_was_told(end: End) -> None:
    block_up(end)
    drained = []
    start = time.monotonic()
    in_time(lambda: drained.append(end.outlet.drain(0.05)), "draining for 0.05 s")
    assert time.monotonic() - start >= 0.05
    assert drained == [False]


class _Late(Outlet):
    """Its thread does not have its turn for a while."""

    turn = threading.Event()

    def _write_all(self, block: memoryview) -> memoryview:
        self.turn.wait(20)
        return super()._write_all(block)


def test_draining_gives_our_own_thread_its_turn_where_somebody_reads(end: End) -> None:
    end.outlet = _Late(end.write_end, lambda: None)
    end.outlet.put(b"last word\n")
    threading.Timer(0.3, _Late.turn.set).start()
    assert end.outlet.drain(0.05)
    assert end.read(10) == b"last word\n"


def test_draining_waits_for_the_reader(end: End) -> None:
    said = block_up(end)
    reader = threading.Thread(target=end.read, args=(len(said),), daemon=True)
    reader.start()
    start = time.monotonic()
    assert end.outlet.drain(60)
    # Until the end of reading, that is, not of the time.
    assert time.monotonic() - start < 30
    assert not end.outlet.broken
    reader.join(10)


# A descriptor that does not take our bytes (SPEC 5).


def test_a_reader_that_has_gone_is_noticed_with_the_next_line(end: End) -> None:
    end.outlet.put(b"one\n")
    end.read(4)
    end.hang_up()
    end.outlet.put(b"two\n")
    wait_until(lambda: end.outlet.broken, 10, "noticing that the reader has gone")
    wait_until(lambda: end.told, 10, "being told of it")


def test_a_reader_that_goes_while_we_write_is_noticed(end: End) -> None:
    block_up(end)
    assert not end.outlet.broken
    told = end.told
    end.hang_up()
    wait_until(lambda: end.outlet.broken, 10, "noticing that the reader has gone")
    wait_until(lambda: end.told > told, 10, "being told of it")
    # Who waits for room would wait for ever.
    assert not end.outlet.full
    assert end.outlet.finish()


def test_what_is_said_to_nobody_is_lost_without_noise(end: End) -> None:
    end.hang_up()
    end.outlet.put(b"one\n")
    wait_until(lambda: end.outlet.broken, 10, "noticing that the reader has gone")
    in_time(lambda: say_all(end.outlet, LINES), "saying lines to nobody")
    # Nothing is kept: there is nobody to keep it for.
    assert not end.outlet.full
    assert not end.outlet.drain(0)
    assert end.outlet.finish()


def test_a_full_disk_is_noticed() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    told = threading.Event()
    outlet = Outlet(descriptor, told.set)
    outlet.put(b"one\n")
    wait_until(lambda: outlet.broken, 10, "noticing that there is no space")
    assert told.wait(10)
    assert not outlet.drain(0)
    os.close(descriptor)


def test_a_closed_descriptor_is_noticed() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    os.close(write_end)
    outlet = Outlet(write_end, lambda: None)
    outlet.put(b"one\n")
    wait_until(lambda: outlet.broken, 10, "noticing that the descriptor is closed")


def test_a_non_blocking_descriptor_is_waited_for(end: End) -> None:
    os.set_blocking(end.write_end, False)
    said = block_up(end)
    assert not end.outlet.drain(0.05)
    assert not end.outlet.broken
    assert end.read(len(said)) == said
    assert end.outlet.drain(10)
    assert not end.outlet.broken


def test_a_non_blocking_descriptor_is_waited_for_without_burning_time(end: End) -> None:
    os.set_blocking(end.write_end, False)
    block_up(end)
    with contextlib.suppress(BlockingIOError):
        # Fill what a torn block has left in the pipe: the writer has now nothing to do but wait.
        while True:
            os.write(end.write_end, b"x")
    before = time.process_time()
    assert not end.outlet.drain(0.3)
    assert time.process_time() - before < 0.15


def test_a_non_blocking_reader_that_has_gone_is_noticed(end: End) -> None:
    os.set_blocking(end.write_end, False)
    block_up(end)
    end.hang_up()
    wait_until(lambda: end.outlet.broken, 10, "noticing that the reader has gone")
