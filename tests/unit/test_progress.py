"""SPEC 8: the overall progress of an adjust, and its lines."""

from __future__ import annotations

import copy
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from servo_agg.protocol.messages import Progress, encode, to_text
from servo_agg.protocol.progress import OverallProgress
from tests.support.outputs import values

Object = dict[str, Any]


def advance(overall: OverallProgress, name: str, content: Object) -> Object:
    return overall.advance(name, Progress.from_body(content))


def percents(overall: OverallProgress, *own: float) -> list[int]:
    return [advance(overall, "a", {"progress": percent})["progress"] for percent in own]


def test_with_three_drivers_one_that_advances_by_30_is_seen_as_10() -> None:
    overall = OverallProgress(3)
    assert overall.format_line("a", "starting") == {"progress": 0, "message": "a: starting"}
    assert percents(overall, 0, 30, 60, 90, 100) == [0, 10, 20, 30, 33]
    overall.end_driver()
    assert overall.format_line("a", "failed") == {"progress": 33, "message": "a: failed"}
    assert percents(overall, 0, 30, 60, 90) == [33, 43, 53, 63]
    overall.end_driver()
    assert overall.percent == 66
    assert percents(overall, 100) == [99]
    overall.end_driver()
    assert overall.percent == 100


def test_the_last_driver_has_99_percent_until_it_ends() -> None:
    overall = OverallProgress(1)
    assert percents(overall, 98.9, 99, 99.5, 100) == [98, 99, 99, 99]
    overall.end_driver()
    assert overall.format_line("a", "done") == {"progress": 100, "message": "a: done"}


@pytest.mark.parametrize(
    ("progress", "total"),
    [
        *((40, 40), (40.0, 40), (39.999999999999996, 39), (105, 99), (10**400, 99), (1.7e308, 99)),
        *((-5, 20), (-(10**400), 20), (10, 20), (True, 20), (False, 20), (None, 20)),
        *(("50", 20), ([50], 20), ({"a": 50}, 20)),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_progress_that_is_not_a_number_or_goes_back_changes_nothing(progress: Any, total: int) -> None:
    overall = OverallProgress(1)
    advance(overall, "a", {"progress": 20})
    line = advance(overall, "a", {"progress": progress, "message": "still there"})
    assert line == {"progress": total, "message": "a: still there"}
    assert type(line["progress"]) is int


@pytest.mark.parametrize(
    ("message", "text"),
    [
        *(("resizing", "a: resizing"), (["one", 2, ["three", None]], "a: one; 2; three"), (7, "a: 7")),
        *((None, "a"), ("", "a"), ([], "a"), ("\ud800\n\x00", "a: \ud800\n\x00")),
    ],
)
def test_a_message_follows_the_name_of_the_driver(message: Any, text: str) -> None:
    line = advance(OverallProgress(2), "a", {"progress": 10, "message": message})
    assert line == {"progress": 5, "message": text}


def test_other_keys_pass_through_unchanged() -> None:
    more = {"stage": "s", "stageprogress": 50, "msg_index": 7, "time_remain": 1.5, "log": ["x", {"y": None}]}
    content = {"progress": 10, **more}
    before = copy.deepcopy(content)
    assert advance(OverallProgress(1), "a", content) == {**more, "progress": 10, "message": "a"}
    assert content == before


progresses = (
    st.integers(-10, 110)
    | st.integers()
    | st.floats(-10, 110, allow_nan=False)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.none()
    | st.booleans()
    | st.text(max_size=3)
    | st.lists(st.integers(), max_size=1)
)


messages = st.builds(
    lambda content, more: {**more, **content},
    st.fixed_dictionaries({"progress": progresses | values}, optional={"message": values}),
    st.dictionaries(st.sampled_from(["", "stage", "time_remain", "log", "drivers"]), values, max_size=2),
)


@given(st.lists(st.lists(messages, max_size=4), min_size=1, max_size=5))
@example([[{"progress": at} for at in (100 / 3, 2 * 100 / 3)], [{"progress": 0.1 + 0.2}], []])
@example([[{"progress": 28.999999999999996}], [], [{"progress": 5e-324}, {"progress": 100.00000000000001}]])
# In floating point 100 + 49.99999999999999 is 150, and a third of it 50.
@example([[], [{"progress": 49.99999999999999}], []])
@example([[{"progress": {"progress": 50}, "message": {"message": [None]}}, {"progress": [50]}]])
def test_the_overall_progress_is_exact_and_never_goes_back(messages_of_each: list[list[Object]]) -> None:
    count = len(messages_of_each)
    overall = OverallProgress(count)
    seen = [overall.percent]
    for done, contents in enumerate(messages_of_each):
        at = Fraction(0)
        for content in contents:
            before = repr(content)
            line = advance(overall, "driver", content)
            assert repr(content) == before
            progress = content["progress"]
            if isinstance(progress, (int, float)) and not isinstance(progress, bool):
                at = max(at, min(Fraction(progress), Fraction(100)))
            exact = (100 * done + at) / count
            # Rounded down, and 99 at most as long as any driver runs.
            assert line["progress"] == min(exact.__floor__(), 99)
            seen.append(line["progress"])
            # All other keys are passed on, and can be encoded.
            said = to_text(content.get("message"))
            assert line["message"] == (f"driver: {said}" if said else "driver")
            assert repr({**content, "progress": line["progress"], "message": line["message"]}) == repr(line)
            assert encode(line).isascii()
        overall.end_driver()
        seen.append(overall.percent)
        assert overall.percent == (100 if done + 1 == count else 100 * (done + 1) // count)
    assert seen == sorted(seen)
    assert all(type(total) is int for total in seen)
