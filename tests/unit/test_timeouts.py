"""SPEC 9, 10: when a driver is unresponsive and how it is stopped, as histories with a given clock."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from servo_agg.drivers.timeouts import (
    KILL_WAIT,
    SHORT_GRACE,
    SHORT_KILL_WAIT,
    Deadlines,
    StopSequence,
    Timeouts,
    driver_timeout,
    timeouts_for,
)

# T to I and the short grace (SPEC 9.4, 10.3).


@pytest.mark.parametrize(
    ("timeout", "limit", "grace"),
    [
        pytest.param(None, None, 0.5, id="unlimited"),
        pytest.param(5e-324, 5e-324, 0.0, id="too-small-to-be-halved"),
        pytest.param(0.4, 0.2, 0.1, id="well-below-1"),
        pytest.param(1, 0.5, 0.25, id="1"),
        pytest.param(1.5, 0.75, 0.375, id="between-1-and-2"),
        pytest.param(2, 1, 0.5, id="2"),
        pytest.param(2.5, 1.5, 0.5, id="2.5"),
        pytest.param(3, 2, 0.5, id="3"),
        pytest.param(30, 29, 0.5, id="30"),
        pytest.param(86400, 86399, 0.5, id="a-day"),
    ],
)
def test_a_driver_has_a_second_less_than_the_agent_or_half_of_it(
    timeout: float | None, limit: float | None, grace: float
) -> None:
    assert driver_timeout(timeout) == (limit, grace)


@given(st.floats(min_value=1e-3, max_value=1e6))
@example(2.0)
@example(1.9999999999999998)
def test_the_answer_is_written_before_the_agent_times_out(timeout: float) -> None:
    limit, grace = driver_timeout(timeout)
    assert limit is not None
    assert 0 < limit < timeout
    assert 0 < grace <= 0.5
    assert limit + grace < timeout


# When a driver is unresponsive (SPEC 9.5-9.9). Each line: a moment, and what happens or what must hold then.


def adjusting(silence: float | None) -> Timeouts:
    return Timeouts(grace=3, short_grace=0.5, silence=silence)


def asked(until: float | None) -> Timeouts:
    return Timeouts(grace=0.5, short_grace=0.5, until=until, allowance=29)


@pytest.mark.parametrize(
    ("timeouts", "history"),
    [
        pytest.param(
            adjusting(29),
            [(100, "due", 129), (128.9, "fine"), (129, "overdue"), (500, "overdue")],
            id="silent-since-its-start",
        ),
        pytest.param(
            adjusting(29),
            [(110, "heard"), (110, "due", 139), (138.9, "fine"), (139, "overdue")],
            id="silent-since-its-last-message",
        ),
        pytest.param(
            adjusting(29),
            [(110, "heard"), (130, "heard"), (150, "heard"), (170, "fine"), (179, "overdue")],
            id="each-message-restarts-the-limit",
        ),
        pytest.param(
            adjusting(29),
            # The expected message may be among the unread output.
            [(129, "unread"), (1000, "unread"), (1001, "heard"), (1029, "fine"), (1030, "overdue")],
            id="not-while-output-is-unread",
        ),
        pytest.param(adjusting(None), [(100, "due", None), (1e9, "fine")], id="without-a-limit-never"),
        pytest.param(
            asked(129),
            [(100, "due", 129), (128.9, "fine"), (129, "overdue")],
            id="a-query-has-its-end",
        ),
        pytest.param(
            asked(129),
            [(128, "heard"), (128, "due", 129), (129, "overdue")],
            id="a-query-is-not-prolonged-by-talking",
        ),
        pytest.param(
            asked(129),
            [(129, "unread"), (129.1, "unread"), (129.5, "overdue although unread")],
            id="nor-by-talking-without-end",
        ),
        pytest.param(asked(None), [(100, "due", None), (1e9, "fine")], id="a-query-without-a-limit-never"),
    ],
)
def test_a_driver_is_unresponsive_at_these_moments(
    timeouts: Timeouts, history: list[tuple[Any, ...]]
) -> None:
    deadlines = Deadlines(100, timeouts)
    for now, what, *rest in history:
        if what == "heard":
            deadlines.message_received(now)
        elif what == "due":
            assert deadlines.deadline() == rest[0], now
            assert deadlines.next_check() == rest[0], now
        elif what == "unread":
            assert not deadlines.expired(now, all_read=False), now
        elif what == "overdue although unread":
            assert deadlines.expired(now, all_read=False), now
        else:
            assert deadlines.expired(now, all_read=True) == (what == "overdue"), now


def test_silence_counts_from_the_start_or_the_last_message() -> None:
    deadlines = Deadlines(100, adjusting(29))
    assert deadlines.silent_for(103) == 3
    deadlines.message_received(110)
    assert deadlines.silent_for(139) == 29


@given(
    limit=st.integers(1, 50),
    message_received=st.lists(st.integers(0, 100), max_size=8).map(sorted),
    now=st.integers(0, 200),
)
def test_a_driver_is_unresponsive_once_the_limit_has_passed_since_its_last_message(
    limit: int, message_received: list[int], now: int
) -> None:
    deadlines = Deadlines(0, adjusting(limit))
    for moment in message_received:
        deadlines.message_received(moment)
    last = message_received[-1] if message_received else 0
    assert deadlines.expired(now, all_read=True) == (now >= last + limit)


# The stop sequence (SPEC 10.1). Each line: milliseconds since its start, what is alive, and the next step.
# The clock is in milliseconds here: whole numbers have no rounding at the edges.

BOTH, LEADER, REST, NONE = "both", "leader", "rest", "none"
"""Which are alive: the leader, the rest of its tree, or both."""


def step(sequence: StopSequence, now: float, alive: str) -> str:
    return sequence.advance(now, leader_exited=alive in (REST, NONE), members_left=alive in (BOTH, REST))


@pytest.mark.parametrize(
    ("grace", "kill_wait", "history"),
    [
        pytest.param(
            3000,
            5000,
            [(0, LEADER, "wait"), (500, NONE, "wait"), (510, NONE, "finished")],
            id="it-exits-in-the-grace",
        ),
        pytest.param(
            3000,
            5000,
            [(0, BOTH, "wait"), (2900, BOTH, "wait"), (2950, NONE, "wait"), (2960, NONE, "finished")],
            id="it-exits-late-in-the-grace",
        ),
        pytest.param(
            3000,
            5000,
            [
                (100, BOTH, "wait"),
                (1000, REST, "terminate-rest"),
                (1100, REST, "wait"),
                (2900, REST, "wait"),
                (2950, NONE, "wait"),
                (2960, NONE, "finished"),
            ],
            id="the-rest-of-the-tree-gets-sigterm-once",
        ),
        pytest.param(
            3000,
            5000,
            [
                (2900, REST, "terminate-rest"),
                (2990, REST, "wait"),
                (3000, REST, "kill"),
                (3100, NONE, "wait"),
                (3110, NONE, "finished"),
            ],
            id="the-rest-of-the-tree-has-the-rest-of-the-grace",
        ),
        pytest.param(
            3000,
            5000,
            [
                (2990, BOTH, "wait"),
                (3000, BOTH, "kill"),
                (3010, BOTH, "kill"),
                (3020, REST, "kill"),
                (3030, NONE, "wait"),
                (3040, NONE, "finished"),
            ],
            id="it-is-killed-after-the-grace-until-it-is-gone",
        ),
        pytest.param(
            3000,
            5000,
            [(3000, REST, "kill"), (3100, NONE, "wait"), (3110, NONE, "finished")],
            id="after-the-grace-there-is-no-sigterm",
        ),
        pytest.param(
            0, 5000, [(0, BOTH, "kill"), (100, NONE, "wait"), (110, NONE, "finished")], id="no-grace"
        ),
        pytest.param(
            3000,
            5000,
            [(3000, BOTH, "kill"), (7900, LEADER, "kill"), (8000, LEADER, "give-up")],
            id="a-survivor-of-sigkill-is-waited-for-5-s",
        ),
        pytest.param(
            500,
            200,
            [(500, BOTH, "kill"), (690, REST, "kill"), (700, REST, "give-up")],
            id="or-0.2-s-on-a-timeout",
        ),
        pytest.param(
            3000,
            5000,
            [(3000, BOTH, "kill"), (8000, NONE, "wait"), (8010, NONE, "finished")],
            id="one-that-exits-at-the-last-moment-is-not-given-up",
        ),
        pytest.param(
            3000,
            5000,
            # The step comes late; the survivors still have their full time after the kill.
            [(60000, BOTH, "kill"), (64900, BOTH, "kill"), (65000, BOTH, "give-up")],
            id="a-late-kill-has-its-full-wait",
        ),
    ],
)
def test_a_stop_takes_these_steps(grace: int, kill_wait: int, history: list[tuple[int, str, str]]) -> None:
    sequence = StopSequence(100_000, grace, kill_wait)
    for moment, alive, expected in history:
        assert step(sequence, 100_000 + moment, alive) == expected, moment


def test_a_second_signal_skips_the_grace_and_does_not_prolong_the_wait() -> None:
    sequence = StopSequence(100, 0.5, 0.2)
    sequence.skip_grace(100.25)
    assert step(sequence, 100.25, BOTH) == "kill"
    sequence.skip_grace(100.3)
    assert step(sequence, 100.5, BOTH) == "give-up"


def test_a_slow_exit_after_a_timeout_extends_the_wait_once() -> None:
    sequence = StopSequence(0, 0.5, SHORT_KILL_WAIT)
    assert step(sequence, 0.5, BOTH) == "kill"
    assert step(sequence, 0.7, BOTH) == "give-up"
    assert sequence.extend_wait()
    assert step(sequence, 0.8, BOTH) == "kill"
    assert step(sequence, 0.5 + KILL_WAIT, BOTH) == "give-up"
    assert not sequence.extend_wait()


def test_a_survivor_of_sigkill_is_waited_for_5_s() -> None:
    """SPEC 10.32: 0.2 s on a timeout, else 5 s."""
    assert (SHORT_GRACE, SHORT_KILL_WAIT, KILL_WAIT) == (0.5, 0.2, 5)
    sequence = StopSequence(100, 3)
    assert [step(sequence, now, BOTH) for now in (102.75, 103, 107.75, 108)] == [
        "wait",
        "kill",
        "kill",
        "give-up",
    ]


def test_a_tree_is_gone_after_two_empty_snapshots_10_ms_apart() -> None:
    """SPEC 10.8. While a snapshot is taken, a process may fork another one and exit."""
    sequence = StopSequence(100, 3)
    looks = [
        (100.5, NONE),
        (100.505, NONE),
        (100.508, REST),
        (100.509, NONE),
        (100.515, NONE),
        (100.52, NONE),
    ]
    assert [step(sequence, now, alive) for now, alive in looks] == [
        "wait",
        "wait",
        "terminate-rest",
        "wait",
        "wait",
        "finished",
    ]


def test_a_driver_that_is_stopped_is_checked_in_time() -> None:
    sequence = StopSequence(100, 3)
    assert sequence.next_check(100, leader_exited=False) == 103
    # Nothing reports the exit of processes that are not our children.
    for now, leader_exited in ((101, True), (103, False), (104, True)):
        assert now < sequence.next_check(now, leader_exited=leader_exited) <= now + 0.1


@given(
    grace=st.integers(0, 30),
    kill_wait=st.integers(1, 20),
    waits=st.lists(
        st.tuples(st.integers(0, 10), st.sampled_from([BOTH, LEADER, REST])), min_size=1, max_size=25
    ),
    hurry=st.none() | st.integers(0, 25),
)
def test_the_steps_of_a_stop_never_go_back_and_always_end(
    grace: int, kill_wait: int, waits: list[tuple[int, str]], hurry: int | None
) -> None:
    sequence = StopSequence(0, grace, kill_wait)
    now = 0
    leader_exited = False
    taken: list[tuple[int, str]] = []
    end_of_grace = grace
    for index, (seconds, alive) in enumerate(waits):
        now += seconds
        # A dead process stays dead.
        leader_exited = leader_exited or alive == REST
        if index == hurry:
            sequence.skip_grace(now)
            end_of_grace = min(end_of_grace, now)
        taken.append((now, step(sequence, now, REST if leader_exited else alive)))
        assert (taken[-1][1] in ("wait", "terminate-rest")) == (now < end_of_grace)
    names = [name for _, name in taken]
    assert names.count("terminate-rest") <= 1
    kills = [moment for moment, name in taken if name == "kill"]
    for moment, name in taken:
        if name == "give-up":
            assert kills
            assert moment >= kills[0] + kill_wait
        elif name == "kill":
            assert moment < kills[0] + kill_wait
    assert step(sequence, now, NONE) == "wait"
    # One empty snapshot is not enough.
    assert step(sequence, now + 1, NONE) == "finished"


GRACES = {"short_grace": 0.5, "grace": 30.0, "cancel_grace": 300.0}


@pytest.mark.parametrize(
    ("phase", "limit", "checking", "expected"),
    [
        ("query", 29, False, {"until": 129, "allowance": 29, "silence": None, "grace": 0.5}),
        ("info", None, False, {"until": None, "allowance": None, "silence": None, "grace": 0.5}),
        ("adjust", 29, False, {"until": None, "silence": 29, "grace": 30, "cancel_grace": 300}),
        ("adjust", 99, True, {"until": None, "silence": 99, "grace": 30, "cancel_grace": 300}),
        ("adjust", None, True, {"until": None, "silence": 30, "grace": 30, "cancel_grace": 300}),
        # In a check each driver has 30 s at most.
        ("query", 29, True, {"until": 129, "allowance": 29, "silence": None, "grace": 0.5}),
        ("query", 31, True, {"until": 131, "allowance": None, "silence": 30, "grace": 0.5}),
        ("info", None, True, {"until": 130, "allowance": 30, "silence": None, "grace": 0.5}),
    ],
)
def test_each_phase_has_its_timeouts(
    phase: Any, limit: float | None, checking: bool, expected: dict[str, float | None]
) -> None:
    timeouts = timeouts_for(phase, 100, limit=limit, checking=checking, **GRACES)
    assert {name: getattr(timeouts, name) for name in expected} == expected
