"""SPEC 8.11: the queued output of drivers is bounded; other events are never refused and come first."""

from __future__ import annotations

import os
import select
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from servo_agg.drivers.events import OUTPUT_LIMIT, EventQueue, Output, OutputClosed
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BLOCK_SIZE = 64 << 10


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Iterator[EventQueue]:
    """Return a queue whose descriptors are closed afterwards; in the program it exists to the end."""
    ends: list[int] = []
    pipe = os.pipe

    def recorded() -> tuple[int, int]:
        pair = pipe()
        ends.extend(pair)
        return pair

    monkeypatch.setattr(os, "pipe", recorded)
    made = EventQueue()
    monkeypatch.undo()
    yield made
    for end in ends:
        os.close(end)


def has_space(queue: EventQueue) -> bool:
    return bool(select.select([queue.space], [], [], 0)[0])


def fill(queue: EventQueue, size: int = BLOCK_SIZE) -> int:
    """Put blocks, each of another driver, until one is refused; return how many were accepted."""
    count = 0
    while queue.put_output(Output(count, b"x" * size)):
        count += 1
        assert count * size <= 2 * OUTPUT_LIMIT + size
    return count


def drain(queue: EventQueue) -> list[Any]:
    found = []
    while (event := queue.get(0)) is not None:
        found.append(event)
    return found


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_output_keeps_its_order_and_other_events_overtake_it(queue: EventQueue) -> None:
    first, closed, second = Output(1, b"one"), OutputClosed(1, cut=False), Output(2, b"two")
    queue.put_output(first)
    queue.put_after_output(closed)
    queue.put_output(second)
    queue.put("signal")
    queue.put("exit")
    assert drain(queue) == ["signal", "exit", first, closed, second]


def test_output_stays_in_the_queue_while_it_is_not_wanted(queue: EventQueue) -> None:
    known = [queue.has_output]
    output = Output(1, b"output")
    queue.put_output(output)
    queue.put("signal")
    assert queue.get(0, output=False) == "signal"
    assert queue.get(0, output=False) is None
    known.append(queue.has_output)
    assert drain(queue) == [output]
    known.append(queue.has_output)
    assert known == [False, True, False]


def test_get_waits_for_the_given_time(queue: EventQueue) -> None:
    start = time.monotonic()
    assert queue.get(0.05) is None
    assert time.monotonic() - start >= 0.05


@pytest.mark.parametrize("method", ["put", "put_output", "put_after_output"])
def test_a_new_event_ends_a_waiting_get(queue: EventQueue, method: str) -> None:
    found: list[Any] = []
    getter = in_thread(lambda: found.append(queue.get(60)))
    event = Output(1, b"event")
    getattr(queue, method)(event)
    getter.join(10)
    assert found == [event]


def test_unwanted_output_does_not_end_a_waiting_get(queue: EventQueue) -> None:
    found: list[Any] = []
    getter = in_thread(lambda: found.append(queue.get(60, output=False)))
    queue.put_output(Output(1, b"output"))
    queue.put("signal")
    getter.join(10)
    assert found == ["signal"]


@pytest.mark.parametrize("size", [1 << 10, BLOCK_SIZE, BLOCK_SIZE - 1, 700_000, 4 << 20])
def test_output_is_bounded_in_bytes_and_other_events_are_not(queue: EventQueue, size: int) -> None:
    count = fill(queue, size)
    # The last block may exceed the limit: the worker has it in memory anyway.
    assert OUTPUT_LIMIT <= count * size < OUTPUT_LIMIT + size
    closed = OutputClosed(0, cut=False)
    queue.put_after_output(closed)
    for number in range(1000):
        queue.put(number)
    found = drain(queue)
    assert found[:1000] == list(range(1000))
    assert [event.pid for event in found[1000:]] == [*range(count), 0]
    assert found[-1] is closed


def test_small_blocks_of_a_driver_are_joined(queue: EventQueue) -> None:
    for number in range(30_000):
        assert queue.put_output(Output(1, b"%d;" % number))
        assert queue.put_output(Output(2, b"."))
    found = drain(queue)
    assert len(found) <= 8
    assert b"".join(event.block for event in found if event.pid == 1) == b"".join(
        b"%d;" % number for number in range(30_000)
    )


def test_space_is_readable_exactly_while_output_is_accepted(queue: EventQueue) -> None:
    for _ in range(3):
        while has_space(queue):
            assert queue.put_output(Output(1, b"x" * BLOCK_SIZE))
        refused = Output(1, b"refused")
        assert not queue.put_output(refused)
        size = 0
        while not has_space(queue):
            event = queue.get(0)
            assert isinstance(event, Output)
            assert b"refused" not in event.block
            size += len(event.block)
        # There is space before the queue is empty, so that drivers can continue to write.
        assert 0 < size < OUTPUT_LIMIT
        assert queue.has_output


def test_get_wakes_a_thread_that_waits_for_space(queue: EventQueue) -> None:
    count = fill(queue)
    accepted: list[bool] = []

    def put_output() -> None:
        select.select([queue.space], [], [], 60)
        accepted.append(queue.put_output(Output(count, b"late")))

    putter = in_thread(put_output)
    assert len(drain(queue)) >= count
    putter.join(10)
    assert accepted == [True]


def test_many_threads_lose_nothing_and_stay_within_bounds(queue: EventQueue) -> None:
    putters, blocks, size = 6, 400, 20_000
    lock = threading.Lock()
    waiting = most = refused = 0

    def put(pid: int) -> None:
        nonlocal waiting, most, refused
        for number in range(blocks):
            if number % 100 == 0:
                queue.put((pid, number))
            block = b"%-*d" % (size, number)
            while not queue.put_output(Output(pid, block)):
                with lock:
                    refused += 1
                select.select([queue.space], [], [], 60)
            with lock:
                waiting += size
                most = max(most, waiting)
        queue.put_after_output(OutputClosed(pid, cut=False))

    threads = [in_thread(lambda pid=pid: put(pid)) for pid in range(putters)]  # type: ignore[misc]
    # Start to read when the queue is full: only then could data be lost.
    wait_until(lambda: refused, 30, "a refused block")
    output = {pid: bytearray() for pid in range(putters)}
    urgent: list[tuple[int, int]] = []
    ended = 0
    while ended < putters:
        event = queue.get(30)
        assert event is not None
        if isinstance(event, Output):
            output[event.pid] += event.block
            with lock:
                waiting -= len(event.block)
        elif isinstance(event, OutputClosed):
            ended += 1
            assert [int(word) for word in output[event.pid].split()] == list(range(blocks))
        else:
            urgent.append(event)
    for thread in threads:
        thread.join(30)
    assert sorted(urgent) == [(pid, number) for pid in range(putters) for number in range(0, blocks, 100)]
    assert queue.get(0) is None
    # Each thread may be between its put and its count.
    assert most <= OUTPUT_LIMIT + size + 2 * putters * size
