"""SPEC 8: the overall progress of an adjust, and the lines that tell it."""

from __future__ import annotations

import copy
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from servo_agg.course import Course
from servo_agg.protocol import as_text, encode
from tests.outputs import values

Object = dict[str, Any]


def test_a_line_of_progress_is_bounded() -> None:
    line = Course(1).advance("a", {"progress": 1, "message": "\u20ac" * 200_000})
    assert line["message"].startswith("a: \u20ac")
    assert len(line["message"].encode()) <= 256 << 10


def test_with_three_drivers_one_that_advances_by_30_is_seen_as_10() -> None:
    course = Course(3)
    assert [course.advance("a", {"progress": at})["progress"] for at in (0, 30, 60, 90, 100)] == [
        0,
        10,
        20,
        30,
        33,
    ]
    course.end()
    assert course.total() == 33
    assert [course.advance("b", {"progress": at})["progress"] for at in (0, 30, 60, 90)] == [33, 43, 53, 63]
    course.end()
    assert course.total() == 66
    course.advance("c", {"progress": 100})
    assert course.total() == 99
    course.end()
    assert course.total() == 100


def test_one_driver_alone_has_99_until_it_is_done() -> None:
    course = Course(1)
    assert [course.advance("a", {"progress": at})["progress"] for at in (98.9, 99, 99.5, 100)] == [
        98,
        99,
        99,
        99,
    ]
    course.end()
    assert course.line("a", "done") == {"progress": 100, "message": "a: done"}


@pytest.mark.parametrize(
    ("progress", "total"),
    [
        pytest.param(40, 40, id="whole"),
        pytest.param(40.0, 40, id="float"),
        pytest.param(39.999999999999996, 39, id="just-below"),
        pytest.param(105, 99, id="beyond"),
        pytest.param(10**400, 99, id="huge"),
        pytest.param(1.7e308, 99, id="huge-float"),
        pytest.param(-5, 20, id="negative"),
        pytest.param(-(10**400), 20, id="hugely-negative"),
        pytest.param(10, 20, id="backwards"),
        pytest.param(True, 20, id="true"),
        pytest.param(False, 20, id="false"),
        pytest.param(None, 20, id="null"),
        pytest.param("50", 20, id="text"),
        pytest.param([50], 20, id="list"),
        pytest.param({"a": 50}, 20, id="object"),
    ],
)
def test_a_progress_that_is_no_number_or_goes_back_moves_nothing(progress: Any, total: int) -> None:
    course = Course(1)
    course.advance("a", {"progress": 20})
    line = course.advance("a", {"progress": progress, "message": "still there"})
    assert line == {"progress": total, "message": "a: still there"}
    assert type(line["progress"]) is int


@pytest.mark.parametrize(
    ("message", "text"),
    [
        pytest.param("resizing", "a: resizing", id="text"),
        pytest.param(["one", "two"], "a: one; two", id="list"),
        pytest.param(["one"], "a: one", id="list-of-one"),
        pytest.param("x" * 400, "a: " + "x" * 400, id="long"),
        pytest.param("\ud800\n\x00", "a: \ud800\n\x00", id="unprintable"),
    ],
)
def test_a_message_is_told_after_the_drivers_name(message: Any, text: str) -> None:
    assert Course(2).advance("a", {"progress": 10, "message": message}) == {"progress": 5, "message": text}


@pytest.mark.parametrize(
    "content", [{"progress": 1}, {"progress": 1, "message": None}], ids=["absent", "null"]
)
def test_without_a_message_the_driver_is_still_named(content: Object) -> None:
    assert Course(1).advance("01ec2asg", content)["message"] == "01ec2asg"


def test_other_keys_pass_through_unchanged() -> None:
    more = {"stage": "s", "stageprogress": 50, "msg_index": 7, "time_remain": 1.5, "log": ["x", {"y": None}]}
    content = {"progress": 10, "message": ["m"], **more}
    before = copy.deepcopy(content)
    assert Course(1).advance("a", content) == {**more, "progress": 10, "message": "a: m"}
    assert content == before


def test_a_start_and_an_end_are_told_without_moving_by_themselves() -> None:
    course = Course(2)
    assert course.line("a", "starting") == {"progress": 0, "message": "a: starting"}
    course.advance("a", {"progress": 50})
    course.end()
    assert course.line("a", "failed") == {"progress": 50, "message": "a: failed"}
    assert course.line("b", "starting") == {"progress": 50, "message": "b: starting"}


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
def test_the_whole_course_is_exact_and_never_goes_back(course_of_each: list[list[Object]]) -> None:
    count = len(course_of_each)
    course = Course(count)
    seen = [course.total()]
    for done, contents in enumerate(course_of_each):
        at = Fraction(0)
        for content in contents:
            before = repr(content)
            line = course.advance("driver", content)
            assert repr(content) == before
            progress = content["progress"]
            if isinstance(progress, (int, float)) and not isinstance(progress, bool):
                at = max(at, min(Fraction(progress), Fraction(100)))
            exact = (100 * done + at) / count
            # Rounded down, and 99 at most as long as any driver runs.
            assert line["progress"] == min(exact.__floor__(), 99)
            seen.append(line["progress"])
            # Whatever else it says is passed on, and can be.
            said = as_text(content.get("message"))
            assert line["message"] == (f"driver: {said}" if said else "driver")
            assert repr({**content, "progress": line["progress"], "message": line["message"]}) == repr(line)
            assert encode(line).isascii()
        course.end()
        seen.append(course.total())
        assert course.total() == (100 if done + 1 == count else 100 * (done + 1) // count)
    assert seen == sorted(seen)
    assert all(type(total) is int for total in seen)
