"""SPEC 8, 10: what drivers write waits in bounded room; what is urgent is never refused, and comes first."""

from __future__ import annotations

import os
import select
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from servo_agg.inbox import ROOM, Inbox
from tests.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BLOCK = 64 << 10


@pytest.fixture
def inbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    """Return an inbox whose descriptors are closed afterwards; in the program it lives to the end."""
    ends: list[int] = []
    pipe = os.pipe

    def noted() -> tuple[int, int]:
        pair = pipe()
        ends.extend(pair)
        return pair

    monkeypatch.setattr(os, "pipe", noted)
    made = Inbox()
    monkeypatch.undo()
    yield made
    for end in ends:
        os.close(end)


def has_room(inbox: Inbox) -> bool:
    return bool(select.select([inbox.room], [], [], 0)[0])


def fill(inbox: Inbox, size: int = BLOCK) -> int:
    """Offer blocks until one is refused; return how many were taken."""
    count = 0
    while inbox.offer(count, size):
        count += 1
        assert count * size <= 2 * ROOM + size
    return count


def everything(inbox: Inbox) -> list[Any]:
    found = []
    while (event := inbox.get(0)) is not None:
        found.append(event)
    return found


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_events_come_in_the_order_in_which_they_were_put(inbox: Inbox) -> None:
    for event in ("one", "two", "three"):
        inbox.put(event)
    assert everything(inbox) == ["one", "two", "three"]


def test_output_comes_in_the_order_in_which_it_was_offered_and_its_end_after_it(inbox: Inbox) -> None:
    assert inbox.offer("one", 5)
    assert inbox.offer("two", 0)
    inbox.close("end")
    assert inbox.offer("of another", 5)
    assert everything(inbox) == ["one", "two", "end", "of another"]


def test_what_is_urgent_overtakes_output(inbox: Inbox) -> None:
    inbox.offer("output", 5)
    inbox.close("end")
    inbox.put("signal")
    inbox.put("exit")
    assert everything(inbox) == ["signal", "exit", "output", "end"]


def test_output_may_be_left_alone(inbox: Inbox) -> None:
    inbox.offer("output", 5)
    inbox.close("end")
    inbox.put("signal")
    assert inbox.get(0, output=False) == "signal"
    assert inbox.get(0, output=False) is None
    assert everything(inbox) == ["output", "end"]


def test_it_is_known_whether_output_waits(inbox: Inbox) -> None:
    known = [inbox.holds_output]
    for change in (
        lambda: inbox.put("signal"),
        lambda: inbox.offer("output", 5),
        lambda: inbox.get(0) == "signal",
        lambda: inbox.get(0) == "output",
    ):
        change()
        known.append(inbox.holds_output)
    assert known == [False, False, True, True, False]


def test_without_an_event_the_getter_waits_as_long_as_it_said(inbox: Inbox) -> None:
    start = time.monotonic()
    assert inbox.get(0) is None
    assert inbox.get(0.05) is None
    assert time.monotonic() - start >= 0.05


@pytest.mark.parametrize("way", ["put", "offer", "close"])
def test_a_waiting_getter_is_woken(inbox: Inbox, way: str) -> None:
    found: list[Any] = []
    getter = in_thread(lambda: found.append(inbox.get(60)))
    ways: dict[str, Callable[[], object]] = {
        "put": lambda: inbox.put("event"),
        "offer": lambda: inbox.offer("event", 1),
        "close": lambda: inbox.close("event"),
    }
    ways[way]()
    getter.join(10)
    assert found == ["event"]


def test_a_getter_that_leaves_output_alone_is_not_woken_by_it_for_good(inbox: Inbox) -> None:
    found: list[Any] = []
    getter = in_thread(lambda: found.append(inbox.get(60, output=False)))
    inbox.offer("output", 1)
    inbox.put("signal")
    getter.join(10)
    assert found == ["signal"]


@pytest.mark.parametrize("size", [1 << 10, BLOCK, BLOCK - 1, 700_000, 4 << 20])
def test_output_is_bounded_in_bytes_by_about_a_mebibyte(inbox: Inbox, size: int) -> None:
    count = fill(inbox, size)
    assert count >= 1
    # The last block may reach beyond: who holds one block more has it in memory anyway.
    assert ROOM <= count * size < ROOM + size
    assert everything(inbox) == list(range(count))


def test_small_output_is_bounded_in_bytes_not_in_number(inbox: Inbox) -> None:
    assert all(inbox.offer(number, 10) for number in range(50_000))


def test_what_is_urgent_and_the_end_are_never_refused(inbox: Inbox) -> None:
    count = fill(inbox)
    inbox.close("end")
    for number in range(1000):
        inbox.put(f"signal {number}")
    assert everything(inbox) == [*(f"signal {number}" for number in range(1000)), *range(count), "end"]


def test_a_refused_block_is_not_taken(inbox: Inbox) -> None:
    count = fill(inbox)
    assert not inbox.offer("refused", 1)
    assert "refused" not in everything(inbox)
    assert count


def test_room_is_readable_as_long_as_there_is_some(inbox: Inbox) -> None:
    assert has_room(inbox)
    fill(inbox)
    assert not has_room(inbox)
    assert not has_room(inbox)
    everything(inbox)
    # For all who look, and again and again: nobody takes it away by looking.
    assert has_room(inbox)
    assert has_room(inbox)
    poll = select.poll()
    poll.register(inbox.room, select.POLLIN)
    assert poll.poll(0)
    assert inbox.offer("more", BLOCK)
    assert has_room(inbox)


def test_room_and_offer_agree_all_the_way(inbox: Inbox) -> None:
    for _ in range(3):
        while has_room(inbox):
            assert inbox.offer("block", BLOCK)
        assert not inbox.offer("block", BLOCK)
        taken = 0
        while not has_room(inbox):
            assert inbox.get(0) == "block"
            taken += 1
        # There is room again before all is taken, so that the drivers go on writing meanwhile.
        assert 0 < taken * BLOCK < ROOM
        assert inbox.holds_output


def test_who_waits_for_room_is_woken_by_the_getter(inbox: Inbox) -> None:
    count = fill(inbox)
    found: list[Any] = []

    def offer() -> None:
        select.select([inbox.room], [], [], 60)
        found.append(inbox.offer("late", BLOCK))

    putter = in_thread(offer)
    assert everything(inbox)[:count] == list(range(count))
    putter.join(10)
    assert found == [True]


def test_many_putters_lose_nothing_and_stay_within_bounds(inbox: Inbox) -> None:
    putters, blocks, size = 6, 400, 20_000
    lock = threading.Lock()
    waiting = 0
    most = 0
    refused = 0

    def put(who: int) -> None:
        nonlocal waiting, most, refused
        for number in range(blocks):
            if number % 100 == 0:
                inbox.put(("urgent", who, number))
            while not inbox.offer(("output", who, number), size):
                with lock:
                    refused += 1
                select.select([inbox.room], [], [], 60)
            with lock:
                waiting += size
                most = max(most, waiting)
        inbox.close(("end", who, blocks))

    threads = [in_thread(lambda who=who: put(who)) for who in range(putters)]  # type: ignore[misc]
    # Nobody takes anything until there is no room left, so that there is something to lose.
    wait_until(lambda: refused, 30, "a refused block")
    found: list[tuple[str, int, int]] = []
    ended = 0
    while ended < putters:
        event = inbox.get(30)
        assert event is not None
        found.append(event)
        ended += event[0] == "end"
        if event[0] == "output":
            with lock:
                waiting -= size
    for thread in threads:
        thread.join(30)
    for who in range(putters):
        mine = [(kind, number) for kind, owner, number in found if owner == who]
        assert [each for each in mine if each[0] != "urgent"] == [
            *(("output", number) for number in range(blocks)),
            ("end", blocks),
        ]
        assert [number for kind, number in mine if kind == "urgent"] == list(range(0, blocks, 100))
    assert inbox.get(0) is None
    # Each putter may be between its offer and its count.
    assert most <= ROOM + size + 2 * putters * size
