"""SPEC 14: nonsense in a description is found, with its path and what is expected; anything is judged."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servo_agg.errors import SchemaError
from servo_agg.protocol.limits import identity, values_outside, violation
from servo_agg.protocol.lint import lint_description, lint_info, lint_setting
from servo_agg.protocol.settings import normalize_description

Object = dict[str, Any]

RANGE: Object = {"type": "range", "min": 0.5, "max": 8, "step": 0.5, "value": 2, "unit": "cores"}
ENUM: Object = {"type": "enum", "values": ["m5.large", "m5.xlarge"], "value": "m5.large"}


def without(setting: Object, *keys: str) -> Object:
    return {key: value for key, value in setting.items() if key not in keys}


GOOD = [
    RANGE,
    ENUM,
    {"value": 4},
    {"value": None},
    without(RANGE, "type"),
    without(RANGE, "step"),
    without(RANGE, "type", "max"),
    without(ENUM, "type"),
    {**RANGE, "min": 2, "max": 2},
    {**RANGE, "min": 0.1, "max": 1, "step": 0.1, "value": 0.7},
    {**RANGE, "min": 0, "max": 1, "step": 0.1, "value": 0.1 + 0.2},
    {**RANGE, "min": 0, "max": 2, "step": 2},
    {**RANGE, "value": 8.0},
    {**ENUM, "values": [1, True, "1", None], "value": True},
    {**ENUM, "values": [[1], [2], {}], "value": [2]},
    {"type": "range", "min": -(10**40), "max": 10**40, "step": 10, "value": 10**30},
    {"type": "range", "min": 0, "max": 1.5e308, "step": 5e-324, "value": 1},
]


@pytest.mark.parametrize("setting", GOOD, ids=str)
def test_a_sensible_setting_has_no_finding(setting: Object) -> None:
    assert [*lint_setting("web.cpu", setting)] == []


NONSENSE: dict[str, tuple[Any, str, str]] = {
    "a number": (4, "is 4", "describe it as an object"),
    "null": (None, "is null", "describe it as an object"),
    "a list": ([4], "is a list", "describe it as an object"),
    "no value": (without(RANGE, "value"), "has no `value`", "add its present value"),
    "unknown type": ({**RANGE, "type": "rnge"}, '`type` is the string "rnge"', "set it to `range`"),
    "type null": ({**RANGE, "type": None}, "`type` is null", "set it to `range`"),
    "type list": ({**RANGE, "type": ["range"]}, "`type` is a list", "set it to `range`"),
    "min above max": ({**RANGE, "min": 9}, "`min` 9 is above `max` 8", "set `min` to the lower end"),
    "min a text": ({**RANGE, "min": "0.5"}, '`min` is the string "0.5"', "set `min` to a number"),
    "max true": ({**RANGE, "max": True}, "`max` is true", "set `max` to a number"),
    "step null": ({**RANGE, "step": None}, "`step` is null", "set `step` to a number"),
    "no min": (without(RANGE, "min"), "is a range without `min`", "add `min`"),
    "no max": (without(RANGE, "max"), "is a range without `max`", "add `max`"),
    "step 0": ({**RANGE, "step": 0}, "`step` is 0", "set `step` to a number above 0"),
    "step negative": ({**RANGE, "step": -0.5}, "`step` is -0.5", "set `step` to a number above 0"),
    "step too large": (
        {**RANGE, "step": 7.6},
        "`step` 7.6 is larger than the range 0.5..8",
        "set `step` to the distance",
    ),
    "value above": ({**RANGE, "value": 9}, "`value` 9 is above its maximum 8", "correct `value`"),
    "value below": ({**RANGE, "value": 0}, "`value` 0 is below its minimum 0.5", "correct `value`"),
    "value off the steps": (
        {**RANGE, "value": 2.2},
        "`value` 2.2 is between its steps of 0.5",
        "correct `value`",
    ),
    "value a text": ({**RANGE, "value": "2"}, '`value` is the string "2"', "set `value` to a number"),
    "value null": ({**RANGE, "value": None}, "`value` is null", "set `value` to a number"),
    "value without a type": ({"max": 8, "value": 9}, "`value` 9 is above its maximum 8", "correct `value`"),
    "value not listed": (
        {**ENUM, "value": "t2"},
        '`value` "t2" is not among its `values`',
        "add the present value to the list",
    ),
    "true is not 1": (
        {"values": [0, 1], "value": True},
        "`value` true is not among its `values`",
        "add the present value to the list",
    ),
    "no values": (without(ENUM, "values"), "is an enum without `values`", "add `values`"),
    "values empty": ({**ENUM, "values": []}, "`values` is empty", "list all its values"),
    "values an object": ({**ENUM, "values": {"a": 1}}, "`values` is an object", "set `values` to the list"),
    "values a text": ({**ENUM, "values": "a,b"}, '`values` is the string "a,b"', "set `values` to the list"),
    "values twice": (
        {**ENUM, "values": ["m5.large", "a", "a", "a"]},
        '`values` has "a" more than once',
        "list each value once",
    ),
    "values twice, 1.0 is 1": ({"values": [1, 1.0], "value": 1}, "`values` has 1.0 more than once", "list"),
}


@pytest.mark.parametrize(("setting", "what", "remedy"), NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_in_a_setting_is_found(setting: object, what: str, remedy: str) -> None:
    settings = {"settings": {"cpu": setting}}
    (inner,) = lint_description({"application": {"components": {"web": settings}}})
    (outer,) = lint_description({"application": settings})
    assert (inner.path, outer.path) == ("web.cpu", "application-level cpu")
    assert inner.what == outer.what == what
    assert inner.remedy.startswith(remedy)


def test_a_setting_may_have_several_findings() -> None:
    found = [str(one) for one in lint_setting("web.cpu", {"type": "range", "min": "1", "step": 0})]
    assert found == [
        "web.cpu: has no `value`",
        'web.cpu: `min` is the string "1"',
        "web.cpu: is a range without `max`",
        "web.cpu: `step` is 0",
    ]


@pytest.mark.parametrize(
    ("application", "found", "remedy"),
    [
        (
            {"component": {"web": {}}},
            "application: has `component`, which is not read",
            "rename it to `components`",
        ),
        (
            {"components": {"web": {"setting": {"cpu": RANGE}}}},
            "web: has `setting`, which is not read",
            "rename it",
        ),
        (
            {"components": {"web": {"cpu": RANGE}}},
            "web: has the setting cpu outside of `settings`",
            "move it into",
        ),
    ],
    ids=["component", "setting", "level missing"],
)
def test_settings_that_go_unnoticed_are_found(application: Object, found: str, remedy: str) -> None:
    (finding,) = lint_description({"application": application})
    assert str(finding) == found
    assert finding.remedy.startswith(remedy)


def test_other_keys_of_a_component_are_not_judged() -> None:
    component = {"settings": {"cpu": RANGE}, "setting": {}, "namespace": {"value": "a"}}
    assert [*lint_description({"application": {"components": {"web": component}, "annotations": {}}})] == []


def test_a_name_that_could_be_misread_is_quoted() -> None:
    (found,) = lint_description({"application": {"components": {"a b": {"settings": {"": 4}}}}})
    assert found.path == "'a b'.''"


@pytest.mark.parametrize(
    ("body", "findings"),
    [
        ({"version": "1.0", "has_cancel": True}, []),
        ({"version": 2}, []),
        ({"has_cancel": False}, ["--info: has no `version`"]),
        ({"version": " "}, ["--info: `version` is empty"]),
        ({"version": None}, ["--info: `version` is empty"]),
        ({"version": "1", "has_cancel": "no"}, ['--info: `has_cancel` is the string "no"']),
        ({"version": "1", "has_cancel": 1}, ["--info: `has_cancel` is 1"]),
        ({"version": "1", "has_cancel": None}, ["--info: `has_cancel` is null"]),
    ],
    ids=str,
)
def test_nonsense_in_an_info_is_found(body: Object, findings: list[str]) -> None:
    assert [str(one) for one in lint_info(body)] == findings
    assert all(one.remedy for one in lint_info(body))


numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)
settings = values | st.fixed_dictionaries(
    {},
    optional={
        "value": numbers | values,
        "type": st.sampled_from(["range", "enum"]) | values,
        **dict.fromkeys(("min", "max", "step"), numbers | values),
        "values": st.lists(values) | values,
    },
)
setting_maps = st.dictionaries(st.text(), settings) | values
components = st.fixed_dictionaries({}, optional={"settings": setting_maps}) | values
applications = st.fixed_dictionaries(
    {}, optional={"settings": setting_maps, "components": st.dictionaries(st.text(), components) | values}
)
replies = st.fixed_dictionaries({"application": applications | values}) | applications


@given(settings)
def test_any_setting_is_judged(setting: Any) -> None:
    for finding in lint_setting("web.cpu", setting):
        assert finding.path == "web.cpu"
        assert finding.what
        assert finding.remedy


@given(replies)
def test_any_reply_is_judged(reply: Object) -> None:
    for _ in lint_info(reply):
        pass
    try:
        description = normalize_description(reply)
    except SchemaError:
        return
    for finding in lint_description(description):
        assert finding.remedy


@given(settings.filter(lambda setting: isinstance(setting, dict)))
def test_a_value_outside_of_a_setting_violates_it(setting: Object) -> None:
    assert all(violation(setting, value) for value in values_outside(setting))


@pytest.mark.parametrize(
    ("setting", "outside"),
    [
        (RANGE, [8.5, 0]),
        ({"min": 1, "max": 8}, [9, 0]),
        ({"min": 1, "step": 3}, [-2]),
        ({"max": 0.7, "step": 0.1}, [0.8]),
        ({"min": 0, "max": 10**15}, [10**15 + 1, -1]),
        (ENUM, ["not-in-its-list"]),
        ({"values": ["not-in-its-list"]}, ["not-in-its-list-"]),
        ({"values": [1, 2.5]}, [3]),
        ({"value": 4}, []),
        ({"values": []}, []),
        ({"max": 1e300, "step": 0.5}, []),
        ({"max": 10**400, "step": 0.5}, []),
        ({"min": 0, "max": 10**16}, [-1]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_values_outside_are_just_outside(setting: Object, outside: list[object]) -> None:
    assert values_outside(setting) == outside


@given(values, values)
def test_values_are_identical_exactly_if_json_says_so(one: Any, other: Any) -> None:
    assert identity(one) == identity(one)
    if isinstance(one, (bool, str)) or isinstance(other, (bool, str)):
        assert (identity(one) == identity(other)) == (one == other and type(one) is type(other))


@given(st.integers(-1000, 1000), st.integers(0, 1000), st.integers(1, 4))
def test_a_value_on_the_steps_is_accepted_whatever_floats_make_of_it(
    least: int, steps: int, digits: int
) -> None:
    step = 10.0**-digits
    described = {"min": least * step, "max": least * step + steps * step + 1, "step": step}
    assert violation(described, least * step + steps * step) is None
