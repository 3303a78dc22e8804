"""SPEC 9, 10: when a driver is unresponsive and how it is stopped, told as histories on a made-up clock."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from servo_agg.lifecycle import PATIENCE, SHORT_GRACE, SHORT_PATIENCE, Life, Limits, extent

# T to I and the short grace (SPEC 9, 10).


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
    assert extent(timeout) == (limit, grace)


@given(st.floats(min_value=1e-3, max_value=1e6))
@example(2.0)
@example(1.9999999999999998)
def test_an_answer_is_out_before_the_agent_loses_patience(timeout: float) -> None:
    limit, grace = extent(timeout)
    assert limit is not None
    assert 0 < limit < timeout
    assert 0 < grace <= 0.5
    assert limit + grace < timeout


# When a driver is unresponsive (SPEC 9). Each line: a moment, and what happens or what must hold then.


def adjusting(silence: float | None) -> Limits:
    return Limits(grace=3, short_grace=0.5, silence=silence)


def asked(until: float | None) -> Limits:
    return Limits(grace=0.5, short_grace=0.5, until=until, allowance=29)


@pytest.mark.parametrize(
    ("limits", "history"),
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
            id="talking-on-and-on-keeps-it-alive",
        ),
        pytest.param(
            adjusting(29),
            # What is unread may be the message that it is waited for.
            [(129, "unread"), (1000, "unread"), (1001, "heard"), (1029, "fine"), (1030, "overdue")],
            id="never-for-what-was-not-yet-read",
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
def test_unresponsive(limits: Limits, history: list[tuple[Any, ...]]) -> None:
    life = Life(100, limits)
    for now, what, *rest in history:
        if what == "heard":
            life.heard(now)
        elif what == "due":
            assert life.due() == rest[0], now
            assert life.next_look(now, leader_gone=False) == rest[0], now
        elif what == "unread":
            assert not life.overdue(now, quiet=False), now
        elif what == "overdue although unread":
            assert life.overdue(now, quiet=False), now
        else:
            assert life.overdue(now, quiet=True) == (what == "overdue"), now
        assert not life.stopping


def test_how_long_it_was_silent_is_known_since_its_start_or_last_message() -> None:
    life = Life(100, adjusting(29))
    assert life.silent_for(103) == 3
    life.heard(110)
    assert life.silent_for(139) == 29


@given(
    limit=st.integers(1, 50),
    heard=st.lists(st.integers(0, 100), max_size=8).map(sorted),
    now=st.integers(0, 200),
)
def test_a_driver_is_unresponsive_exactly_when_the_limit_has_passed_since_it_was_heard(
    limit: int, heard: list[int], now: int
) -> None:
    life = Life(0, adjusting(limit))
    for moment in heard:
        life.heard(moment)
    last = heard[-1] if heard else 0
    assert life.overdue(now, quiet=True) == (now >= last + limit)


# The ladder (SPEC 10). Each line: milliseconds since the stop began, who is alive, and the next step.
# The clock is in milliseconds here: whole numbers have no rounding at the edges.

BOTH, LEADER, REST, NONE = "both", "leader", "rest", "none"
"""Of the leader and the rest of its tree: who is alive."""


def step(life: Life, now: float, alive: str) -> str:
    return life.step(now, leader_gone=alive in (REST, NONE), any_left=alive in (BOTH, REST))


@pytest.mark.parametrize(
    ("grace", "patience", "history"),
    [
        pytest.param(
            3000, 5000, [(0, LEADER, "wait"), (500, NONE, "wait"), (510, NONE, "done")], id="it-obeys"
        ),
        pytest.param(
            3000,
            5000,
            [(0, BOTH, "wait"), (2900, BOTH, "wait"), (2950, NONE, "wait"), (2960, NONE, "done")],
            id="it-obeys-late",
        ),
        pytest.param(
            3000,
            5000,
            [
                (100, BOTH, "wait"),
                (1000, REST, "ask-rest"),
                (1100, REST, "wait"),
                (2900, REST, "wait"),
                (2950, NONE, "wait"),
                (2960, NONE, "done"),
            ],
            id="what-it-leaves-behind-is-asked-once",
        ),
        pytest.param(
            3000,
            5000,
            [
                (2900, REST, "ask-rest"),
                (2990, REST, "wait"),
                (3000, REST, "kill"),
                (3100, NONE, "wait"),
                (3110, NONE, "done"),
            ],
            id="and-has-only-the-rest-of-the-grace",
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
                (3040, NONE, "done"),
            ],
            id="who-does-not-obey-is-killed-until-gone",
        ),
        pytest.param(
            3000,
            5000,
            [(3000, REST, "kill"), (3100, NONE, "wait"), (3110, NONE, "done")],
            id="after-the-grace-nobody-is-asked-any-more",
        ),
        pytest.param(0, 5000, [(0, BOTH, "kill"), (100, NONE, "wait"), (110, NONE, "done")], id="no-grace"),
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
            [(3000, BOTH, "kill"), (8000, NONE, "wait"), (8010, NONE, "done")],
            id="one-that-dies-at-the-last-moment-is-not-given-up",
        ),
        pytest.param(
            3000,
            5000,
            # Nobody looked for a while; the survivors still have their time, counted from the kill.
            [(60000, BOTH, "kill"), (64900, BOTH, "kill"), (65000, BOTH, "give-up")],
            id="a-late-kill-has-its-patience-too",
        ),
    ],
)
def test_the_ladder(grace: int, patience: int, history: list[tuple[int, str, str]]) -> None:
    life = Life(90_000, adjusting(29_000))
    life.stop(100_000, grace, patience)
    assert life.stopping
    for moment, alive, expected in history:
        assert step(life, 100_000 + moment, alive) == expected, moment


@pytest.mark.parametrize(
    ("second", "history"),
    [
        pytest.param((1000, 0), [(1000, BOTH, "kill")], id="a-second-signal-skips-the-grace"),
        pytest.param((1000, 1000), [(1900, BOTH, "wait"), (2000, BOTH, "kill")], id="a-shorter-grace-holds"),
        pytest.param((1000, 9000), [(2900, BOTH, "wait"), (3000, BOTH, "kill")], id="a-longer-one-does-not"),
        pytest.param((4000, 3000), [(4000, BOTH, "kill")], id="after-the-end-of-the-grace-there-is-none"),
    ],
)
def test_stopping_twice_only_shortens_the_grace(
    second: tuple[int, int], history: list[tuple[int, str, str]]
) -> None:
    life = Life(90_000, adjusting(29_000))
    life.stop(100_000, 3000)
    life.stop(100_000 + second[0], second[1])
    for moment, alive, expected in history:
        assert step(life, 100_000 + moment, alive) == expected, moment


def test_patience_is_5_s_unless_it_is_told_otherwise() -> None:
    """SPEC 10: 0.2 s on a timeout, else 5 s."""
    assert (SHORT_GRACE, SHORT_PATIENCE, PATIENCE) == (0.5, 0.2, 5)
    life = Life(90, adjusting(29))
    life.stop(100, 3)
    assert [step(life, now, BOTH) for now in (102.75, 103, 107.75, 108)] == [
        "wait",
        "kill",
        "kill",
        "give-up",
    ]


def test_a_tree_is_gone_when_two_looks_in_a_row_10_ms_apart_find_nothing() -> None:
    """SPEC 10. Between two readings of one look a process may have forked another and ended."""
    life = Life(90, adjusting(29))
    life.stop(100, 3)
    looks = [
        (100.5, NONE),
        (100.505, NONE),
        (100.508, REST),
        (100.509, NONE),
        (100.515, NONE),
        (100.52, NONE),
    ]
    assert [step(life, now, alive) for now, alive in looks] == [
        "wait",
        "wait",
        "ask-rest",
        "wait",
        "wait",
        "done",
    ]


def test_skipping_the_grace_does_not_prolong_the_patience() -> None:
    life = Life(90, adjusting(29))
    life.stop(100, 0.5, 0.2)
    life.stop(100.25, 0)
    assert step(life, 100.25, BOTH) == "kill"
    assert step(life, 100.5, BOTH) == "give-up"


def test_while_it_is_stopped_a_driver_is_looked_at_in_time() -> None:
    life = Life(90, adjusting(29))
    life.stop(100, 3)
    assert life.next_look(100, leader_gone=False) == 103
    # Of the end of what is no child of ours nothing tells: it must be looked for.
    for now, leader_gone in ((101, True), (103, False), (104, True)):
        look = life.next_look(now, leader_gone=leader_gone)
        assert look is not None
        assert now < look <= now + 0.1


@given(
    grace=st.integers(0, 30),
    patience=st.integers(1, 20),
    waits=st.lists(
        st.tuples(st.integers(0, 10), st.sampled_from([BOTH, LEADER, REST])), min_size=1, max_size=25
    ),
    hurry=st.none() | st.integers(0, 25),
)
def test_the_ladder_only_leads_down_and_always_ends(
    grace: int, patience: int, waits: list[tuple[int, str]], hurry: int | None
) -> None:
    life = Life(0, adjusting(None))
    life.stop(0, grace, patience)
    now = 0
    leader_gone = False
    taken: list[tuple[int, str]] = []
    end_of_grace = grace
    for index, (seconds, alive) in enumerate(waits):
        now += seconds
        # Who is dead stays dead.
        leader_gone = leader_gone or alive == REST
        if index == hurry:
            life.stop(now, 0)
            end_of_grace = min(end_of_grace, now)
        taken.append((now, step(life, now, REST if leader_gone else alive)))
        assert (taken[-1][1] in ("wait", "ask-rest")) == (now < end_of_grace)
    names = [name for _, name in taken]
    assert names.count("ask-rest") <= 1
    kills = [moment for moment, name in taken if name == "kill"]
    for moment, name in taken:
        if name == "give-up":
            assert kills
            assert moment >= kills[0] + patience
        elif name == "kill":
            assert moment < kills[0] + patience
    assert step(life, now, NONE) == "wait"
    # One look that finds nothing is not enough.
    assert step(life, now + 1, NONE) == "done"
