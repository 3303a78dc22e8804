"""SPEC 14.42, 14.46: what one call of a tested driver shows."""

from __future__ import annotations

from typing import Any

import pytest

from servo_agg.commands.conformance_judgment import (
    ObservedAdjust,
    is_equal,
    judge_progress,
    may_have_been_ending,
)
from servo_agg.commands.conformance_rules import TIMING, RuleResults
from servo_agg.protocol.messages import Progress


def adjust(seconds: float, signaled_after: float | None = None) -> ObservedAdjust:
    found = ObservedAdjust(100.0)
    found.ended_at += seconds
    found.signaled_at = None if signaled_after is None else found.began_at + signaled_after
    return found


@pytest.mark.parametrize(
    ("normal", "signaled_after", "short"),
    [(1.5, 0.5, False), (0.9, 0.5, True), (1.5, 1.2, True), (0.6, 0, False)],
)
def test_an_adjust_near_its_end_may_not_react_to_a_signal(
    normal: float, signaled_after: float, short: bool
) -> None:
    assert may_have_been_ending(adjust(normal), adjust(normal, signaled_after)) == short


@pytest.mark.parametrize(
    ("value", "other", "equal"),
    [
        (2, 2.0, True),
        (0.3, 0.1 + 0.2, True),
        (0, 0.0, True),
        (2, 2.001, False),
        (1, True, False),
        ("2", 2, False),
        (None, 0, False),
        ([1], [1], True),
    ],
    ids=repr,
)
def test_values_that_differ_only_by_rounding_are_equal(value: Any, other: Any, equal: bool) -> None:
    assert is_equal(value, other) == equal


@pytest.mark.parametrize(
    ("moments", "verdict"),
    [
        # When progress comes, in seconds of an adjust, and the percentages.
        ([(0.1, 0), (2.0, 50)], "pass"),
        ([(1.95, 0), (2.0, 50)], "fail"),
        ([(2.0, 100)], "not-tested"),
        ([(0.1, 0), (0.9, 50)], "not-tested"),
        ([], "not-tested"),
    ],
)
def test_output_only_at_the_end_breaks_the_timing_rule(
    moments: list[tuple[float, int]], verdict: str
) -> None:
    found = adjust(2.0)
    for after, percent in moments:
        found.add(Progress.from_body({"progress": percent}), found.began_at + after)
    results = RuleResults()
    judge_progress(results, found)
    assert {one.verdict for one in results if one.rule == TIMING} == {verdict}
