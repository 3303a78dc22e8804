"""SPEC 4, 6, 7: descriptions are merged into one, a request is routed to its drivers; nothing is lost."""

from __future__ import annotations

import copy
import itertools
import json
import re
from typing import TYPE_CHECKING, Any, Optional

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from servo_agg.errors import BadInput, Conflict, SchemaError, UnknownSettings
from servo_agg.protocol.routing import fill_missing, route
from servo_agg.protocol.settings import (
    deep_merge,
    dotted_path,
    iter_settings,
    merge_descriptions,
    normalize_description,
    validate_shape,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

Object = dict[str, Any]
Place = tuple[Optional[str], str]
Path = tuple[str, ...]

# Names of different kinds differ, and none holds another: messages are searched for them.
DRIVERS = ["01ec2asg", "02winec2", "k8s-canary", "k8s-main"]
COMPONENTS = ["web", "db", "front.end", "caf\xe9"]
SETTINGS = ["cpu", "mem", "inst.type", "replicas"]


def component(**settings: Any) -> Object:
    return {"settings": settings}


def application(**components: Object) -> Object:
    return {"application": {"components": components}}


CPU = {"type": "range", "min": 0.5, "max": 8, "step": 0.5, "value": 2, "unit": "cores"}
MEM = {"type": "range", "min": 1, "max": 64, "step": 1, "value": 4}
KIND = {"type": "enum", "values": ["m5.large", "m5.xlarge"], "value": "m5.large"}


# What a description is (SPEC 4.10-4.13).


ABOUT_ITSELF = {"status": "ok", "reason": "r", "message": "m", "error": "e", "class": "c", "progress": 9}
ONE = application(web=component(cpu=CPU))


@pytest.mark.parametrize(
    ("reply", "description"),
    [
        (ONE, ONE),
        ({"application": {}}, {"application": {}}),
        ({"application": {}, "components": {"web": 1}}, {"application": {}, "components": {"web": 1}}),
        # Without the wrapper, as old drivers answer.
        ({"components": {"web": component(cpu=CPU)}}, ONE),
        ({"settings": {"cpu": CPU}}, {"application": {"settings": {"cpu": CPU}}}),
        ({"components": {}, "m": {"a": 1}}, {"application": {"components": {}, "m": {"a": 1}}}),
        ({"status": "ok", "components": {"web": component(cpu=CPU)}}, ONE),
        # What a driver says about itself is left out.
        (
            {**ABOUT_ITSELF, "drivers": {"a": {}}, "application": {"status": "kept", "drivers": "kept"}},
            {"application": {"status": "kept", "drivers": "kept"}},
        ),
    ],
)
def test_a_reply_becomes_a_description(reply: Object, description: Object) -> None:
    before = copy.deepcopy(reply)
    assert normalize_description(reply) == description
    assert reply == before


@pytest.mark.parametrize(
    "reply", [{}, {"status": "ok"}, {"monitoring": {}}, {"component": {}, "setting": {}}]
)
def test_a_reply_without_any_description_is_refused(reply: Object) -> None:
    with pytest.raises(SchemaError) as raised:
        normalize_description(reply)
    assert str(raised.value) == '"application", "components" and "settings" are missing'


WRONG: list[tuple[object, str]] = [
    *(
        (None, "null"),
        ([], "a list"),
        ("x", "a string"),
        ("", "a string"),
        (0, "a number"),
        (1.5, "a number"),
    ),
    (True, "a boolean"),
]
SHAPES: list[tuple[str, Path]] = [
    ("application", ("application",)),
    ("application.settings", ("application", "settings")),
    ("application.components", ("application", "components")),
    ("application.components.front.end", ("application", "components", "front.end")),
    ("application.components.''", ("application", "components", "")),
    ("application.components.'a\\n\\x1b[31m \"c\"'", ("application", "components", 'a\n\x1b[31m "c"')),
    ("application.components." + "x" * 1000, ("application", "components", "x" * 1000)),
    ("application.components.web.settings", ("application", "components", "web", "settings")),
]


@pytest.mark.parametrize(("shown", "path"), SHAPES, ids=lambda value: repr(value)[:40])
def test_a_value_that_must_be_an_object_is_refused_with_its_path(shown: str, path: Path) -> None:
    for value, kind in WRONG:
        content: Object = {}
        place = content
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = value
        for check in (validate_shape, normalize_description):
            with pytest.raises(SchemaError) as raised:
                check(content)
            assert str(raised.value) == f"{shown} must be an object, got {kind}"


@pytest.mark.parametrize("key", ["components", "settings"])
def test_a_reply_without_the_key_application_is_checked_too(key: str) -> None:
    with pytest.raises(SchemaError, match=rf"application\.{key} must be an object, got a list"):
        normalize_description({key: ["web"]})


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"application": {"components": {}, "settings": {}}},
        {"application": {"components": {"web": {"settings": {}, "deployment": None}}}, "control": [1]},
        {"application": {"components": {"web": {"settings": {"cpu": None, "mem": 5}}}, "annotations": None}},
    ],
)
def test_other_keys_and_the_settings_themselves_may_be_anything(content: Object) -> None:
    validate_shape(content)


# Merged (SPEC 6.3-6.6).


def test_a_merged_object_shares_nothing_with_its_parts() -> None:
    first: Object = {"a": {"b": {"c": 1}}}
    whole = deep_merge([first, {"d": 1}])
    whole["a"]["b"]["c"] = 2
    assert first == {"a": {"b": {"c": 1}}}


def test_the_settings_of_two_drivers_are_merged() -> None:
    merged, owners = merge_descriptions(
        [
            (
                "01ec2asg",
                {
                    **application(web={"settings": {"inst_type": KIND}, "deployment": "d"}),
                    "monitoring": {"a": 1},
                },
            ),
            (
                "02winec2",
                {
                    "application": {
                        "components": {"web": component(cpu=CPU), "db": component(cpu=CPU, mem=MEM)},
                        "settings": {"cpu": CPU},
                        "annotations": {"x": 1},
                    },
                    "monitoring": {"b": 2},
                },
            ),
        ]
    )
    assert merged == {
        "application": {
            "components": {
                "web": {"settings": {"inst_type": KIND, "cpu": CPU}, "deployment": "d"},
                "db": component(cpu=CPU, mem=MEM),
            },
            "settings": {"cpu": CPU},
            "annotations": {"x": 1},
        },
        "monitoring": {"a": 1, "b": 2},
    }
    assert owners == {
        ("web", "inst_type"): "01ec2asg",
        ("web", "cpu"): "02winec2",
        ("db", "cpu"): "02winec2",
        ("db", "mem"): "02winec2",
        (None, "cpu"): "02winec2",
    }


def test_the_answer_always_has_components() -> None:
    assert merge_descriptions([]) == ({"application": {"components": {}}}, {})
    assert merge_descriptions([("a", {"application": {}})]) == ({"application": {"components": {}}}, {})


def test_a_conflict_lists_every_setting_with_all_its_owners() -> None:
    odd = {"application": {"settings": {"": 1}, "components": {"": component(**{"\n,": 1})}}}
    with pytest.raises(Conflict) as raised:
        merge_descriptions(
            [
                ("01a", {"application": {**application(web=component(cpu=1, mem=2))["application"]}}),
                ("02b", {"application": {"components": {"web": component(cpu=1)}, "settings": {"n": 1}}}),
                ("03c", {"application": {"components": {"web": component(cpu=1)}, "settings": {"n": 1}}}),
                ("04d", odd),
                ("05e", odd),
            ]
        )
    assert str(raised.value) == (
        "only one driver may describe a setting, but"
        " setting web.cpu is described by 01a, 02b and 03c;"
        " setting n of the application is described by 02b and 03c;"
        " setting '' of the application is described by 04d and 05e;"
        " setting ''.'\\n,' is described by 04d and 05e"
    )


# Properties. A world says which drivers describe which setting.

places = st.sampled_from([(name, setting) for name in (None, *COMPONENTS) for setting in SETTINGS])
owned = st.dictionaries(places, st.sampled_from(DRIVERS), max_size=10)
# Each bit of a number is a driver that describes the setting.
contested = st.dictionaries(
    places,
    st.integers(1, 15).map(lambda bits: [driver for at, driver in enumerate(DRIVERS) if bits & 1 << at]),
    min_size=1,
    max_size=8,
)
extras = st.sampled_from(
    [
        {},
        {"top": {"control": {"timeout": 1}}, "application": {"note": None}},
        {"web": {"deployment": "d"}, "caf\xe9": {}},
    ]
)


def built(values: Iterable[tuple[Place, Any]], more: Object) -> Object:
    """Build a description or request of settings and of what else is in it."""
    made: Object = {**more.get("top", {}), "application": {**more.get("application", {})}}
    inner = made["application"]
    for name in COMPONENTS:
        if name in more:
            inner.setdefault("components", {})[name] = {**more[name]}
    for (component_, setting), value in values:
        holder = inner
        if component_ is not None:
            holder = inner.setdefault("components", {}).setdefault(component_, {})
        holder.setdefault("settings", {})[setting] = value
    return made


def clauses_of(message: str) -> list[list[str]]:
    """Return the words of each part of a message."""
    return [re.findall(r"[\w.-]*\w", part) for part in message.split(";")]


# Content of any shape: a setting may be any JSON value, and there may be any other keys. There are only a
# few names, so that drivers often use the same ones. Some of the names are keys of the protocol.

names = st.sampled_from(
    ["", "web", "a.b", "\ud800", "application", "components", "settings", "value", "drivers"]
)
anything = st.recursive(
    st.sampled_from([None, True, 0, -0.0, 10**400, "", "x", [], [{"settings": None}]]),
    lambda inner: st.dictionaries(names, inner, max_size=2) | st.lists(inner, max_size=1),
    max_leaves=3,
)
any_settings = st.dictionaries(names, anything, max_size=3)


def _with(**known: st.SearchStrategy[Object]) -> st.SearchStrategy[Object]:
    """Return objects with some of the known keys, and any others."""
    others = st.dictionaries(names.filter(lambda name: name not in known), anything, max_size=2)
    return st.builds(lambda more, own: {**more, **own}, others, st.fixed_dictionaries({}, optional=known))


any_content = _with(
    application=_with(
        settings=any_settings, components=st.dictionaries(names, _with(settings=any_settings), max_size=2)
    )
).map(lambda content: {"application": {}, **content})


def settings_by_path(content: Object) -> dict[Place, Any]:
    """Return the settings of such content by their paths."""
    inner = content["application"]
    holders: dict[str | None, Object] = {None: inner, **inner.get("components", {})}
    return {
        (name, setting): value
        for name, holder in holders.items()
        for setting, value in holder.get("settings", {}).items()
    }


def without_keys(holder: Object, *keys: str) -> Object:
    """Return an object without these keys."""
    return {key: value for key, value in holder.items() if key not in keys}


def deep_merged(those: list[Any]) -> Any:
    """Return the expected deep merge of these values: the last one that is not an object ends the merge."""
    if not isinstance(those[-1], dict):
        return those[-1]
    after = list(itertools.takewhile(lambda each: isinstance(each, dict), reversed(those)))[::-1]
    keys = {key for each in after for key in each}
    return {key: deep_merged([each[key] for each in after if key in each]) for key in keys}


def exact(content: Any) -> str:
    """Return a JSON value as text, to compare: 1, 1.0 and true differ, the order of keys does not matter."""
    return json.dumps(content, sort_keys=True)


@given(st.lists(any_content, max_size=4))
@example([{"a": {"b": 1}}, {"a": 2}, {"a": {"c": 3}}])
@example([{"a": {"b": {}}}, {"a": {"b": None}}])
def test_deep_merge_loses_and_adds_nothing(parts: list[Object]) -> None:
    before = exact(parts)
    assert exact(deep_merge(parts)) == exact(deep_merged([{}, *parts]))
    assert exact(parts) == before


@given(st.lists(any_content, max_size=4))
@example([application(web=component(x=1)), {"application": {"settings": {"x": 1}}}])
@example([application(web=component(x=1)), application(web=component(x=None))])
def test_merging_descriptions_loses_and_adds_nothing(contents: list[Object]) -> None:
    before = exact(contents)
    descriptions = list(zip(DRIVERS, contents))
    settings = [(place, driver) for driver, content in descriptions for place in settings_by_path(content)]
    try:
        merged, owners = merge_descriptions(descriptions)
    except Conflict:
        assert len(settings) > len(dict(settings))
    else:
        assert sorted(owners.items(), key=repr) == sorted(settings, key=repr)
        assert exact(merged) == exact(deep_merged([application(), *contents]))
        assert dict(iter_settings(merged)) == settings_by_path(merged)
        assert settings_by_path(merged) == {
            place: value for content in contents for place, value in settings_by_path(content).items()
        }
    assert exact(contents) == before


@given(world=contested, extra=extras)
def test_every_conflict_is_listed_with_all_owners_and_nothing_else_is(
    world: dict[Place, list[str]], extra: Object
) -> None:
    descriptions = [
        (
            driver,
            built(((place, CPU) for place, names in world.items() if driver in names), extra),
        )
        for driver in DRIVERS
    ]
    before = copy.deepcopy(descriptions)
    conflicts = {place: names for place, names in world.items() if len(names) > 1}
    message = ""
    try:
        merge_descriptions(descriptions)
    except Conflict as conflict:
        message = str(conflict)
    assert bool(message) == bool(conflicts)
    assert descriptions == before
    found = {
        (path, "application" in words, tuple(word for word in words if word in DRIVERS))
        for words in clauses_of(message)
        for path in {dotted_path(place) for place in world} & set(words)
    }
    assert found == {
        # Owners stand in driver order.
        (dotted_path(place), place[0] is None, tuple(driver for driver in DRIVERS if driver in names))
        for place, names in conflicts.items()
    }


# Routed (SPEC 7.7-7.17).

OWNERS: dict[Place, str] = {
    ("web", "cpu"): "a",
    ("web", "mem"): "b",
    ("db", "cpu"): "b",
    (None, "n"): "c",
    (None, "m"): "a",
}


def test_each_setting_goes_to_its_owner_with_all_that_is_not_a_setting() -> None:
    control = {"timeout": 600, "userdata": {"deploy_to": "canary"}}
    others = {"control": control, "other": [None]}
    web = component(cpu={"value": 4}, mem={"value": 8})
    request = {
        "application": {
            "components": {
                "web": {**web, "deployment": "d"},
                "db": component(cpu={"value": 1}, gone=None),
                "idle": {"x": 1},
            },
            "settings": {"n": 0, "gone": None},
            "annotations": {"x": 1},
        },
        **others,
    }
    before = copy.deepcopy(request)
    only_a = {"web": {"settings": {"cpu": {"value": 4}}, "deployment": "d"}}
    only_b = {
        "web": {"settings": {"mem": {"value": 8}}, "deployment": "d"},
        "db": component(cpu={"value": 1}),
    }
    assert route(request, OWNERS) == {
        "a": {"application": {"components": only_a, "annotations": {"x": 1}}, **others},
        "b": {"application": {"components": only_b, "annotations": {"x": 1}}, **others},
        "c": {"application": {"components": {}, "settings": {"n": 0}, "annotations": {"x": 1}}, **others},
    }
    assert request == before


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        ({"components": {"web": component(disk=1)}}, "setting web.disk"),
        ({"components": {"cache": component(cpu=1, mem=1)}}, "component cache (settings: cpu, mem)"),
        ({"components": {"Web": component(CPU=1)}}, "component Web (settings: CPU); did you mean web.cpu?"),
        ({"settings": {"k": 1}}, "setting k of the application"),
        (
            {"components": {"": component(cpu=1), "web": component(**{"": 1, "\ud800, x": 1})}},
            "setting web.''; setting web.'\\ud800, x'; component '' (settings: cpu)",
        ),
        (
            {
                "components": {
                    "web": component(cpu=1, disk=1, net=1),
                    "cache": component(size=1, gone=None),
                    "store": component(),
                    "queue": component(depth=1),
                },
                "settings": {"k": 1, "n": 1},
            },
            (
                "setting k of the application; setting web.disk; setting web.net;"
                " component cache (settings: size); component queue (settings: depth)"
            ),
        ),
    ],
)
def test_a_request_with_undescribed_settings_is_refused(inner: Object, message: str) -> None:
    request = {"application": inner}
    before = copy.deepcopy(request)
    with pytest.raises(UnknownSettings) as raised:
        route(request, OWNERS)
    assert str(raised.value) == f"no driver describes {message} (./adjust --query shows what is described)"
    assert request == before


@given(request=any_content, picks=st.binary(max_size=10))
@example(
    request={"application": {"settings": {"": 0}, "components": {"": component(**{"": None})}, "x": {}}},
    picks=b"\1",
)
def test_the_inputs_of_all_drivers_together_are_the_request(request: Object, picks: bytes) -> None:
    settings = settings_by_path(request)
    # A setting without a pick is undescribed.
    owners = {place: DRIVERS[pick % len(DRIVERS)] for place, pick in zip(settings, picks)}
    given_ = {place: value for place, value in settings.items() if value is not None}
    before = exact(request), dict(owners)
    try:
        shares = route(request, owners)
    except UnknownSettings:
        assert set(given_) - set(owners)
        return
    except BadInput:
        assert any("settings" not in component for component in request["application"]["components"].values())
        return
    finally:
        assert (exact(request), owners) == before
    assert set(given_) <= set(owners)
    assert set(shares) == {owners[place] for place in given_}
    inner = request["application"]
    for driver, share in shares.items():
        assert exact(without_keys(share, "application")) == exact(without_keys(request, "application"))
        its = share["application"]
        assert exact(without_keys(its, "components", "settings")) == exact(
            without_keys(inner, "components", "settings")
        )
        for name, holder in its["components"].items():
            assert holder["settings"]
            assert exact(without_keys(holder, "settings")) == exact(
                without_keys(inner["components"][name], "settings")
            )
        assert ("settings" in its) == ((None, driver) in {(place[0], owners[place]) for place in given_})
    merged, again = merge_descriptions(shares.items())
    assert again == {place: owners[place] for place in given_}
    assert {place: exact(value) for place, value in settings_by_path(merged).items()} == {
        place: exact(value) for place, value in given_.items()
    }


@given(owners=owned, wanted=st.lists(places, max_size=10), more=extras)
def test_exactly_the_undescribed_settings_are_listed(
    owners: dict[Place, str], wanted: list[Place], more: Object
) -> None:
    strangers = [place for place in wanted if place not in owners]
    message = ""
    try:
        route(built(((place, CPU) for place in wanted), more), owners)
    except UnknownSettings as error:
        message = str(error)
    assert bool(message) == bool(strangers)
    listed: set[Place] = set()
    for words in clauses_of(message):
        for name, setting in wanted:
            in_full = dotted_path((name, setting)) in words and (name is None) == ("application" in words)
            if in_full or {name, setting} < set(words):
                listed.add((name, setting))
    assert listed == set(strangers)


@given(request=any_content, description=any_content, every=st.integers(1, 2))
@example(
    request=application(web=component(x=None, z={"unit": "GB"})),
    description=application(web=component(x=CPU, y=CPU, z=CPU)),
    every=1,
)
def test_fill_missing_keeps_the_request_and_adds_only_described_values(
    request: Object, description: Object, every: int
) -> None:
    before = exact(request), exact(description)
    meant = list(settings_by_path(description))[::every]
    whole = fill_missing(request, description, meant)
    assert (exact(request), exact(description)) == before
    given_ = settings_by_path(request)
    lacking = {
        place: {"value": setting["value"]}
        for place, setting in settings_by_path(description).items()
        if place in meant and given_.get(place) is None and isinstance(setting, dict) and "value" in setting
    }
    assert {place: exact(value) for place, value in settings_by_path(whole).items()} == {
        place: exact(value) for place, value in {**given_, **lacking}.items()
    }
    inner, its = request["application"], whole["application"]
    assert exact(without_keys(whole, "application")) == exact(without_keys(request, "application"))
    assert exact(without_keys(its, "components", "settings")) == exact(
        without_keys(inner, "components", "settings")
    )
    for name, holder in its["components"].items():
        assert exact(without_keys(holder, "settings")) == exact(
            without_keys(inner.get("components", {}).get(name, {}), "settings")
        )


def test_the_deepest_content_that_is_parsed_can_be_merged_and_routed() -> None:
    deep: Object = {}
    for _ in range(380):
        deep = {"deeper": deep}
    merged, owners = merge_descriptions(
        [("a", {**application(web=component(cpu=CPU)), "top": deep}), ("b", {"top": deep})]
    )
    assert merged["top"] == deep
    assert route({**application(web=component(cpu=CPU)), "top": deep}, owners)["a"]["top"] == deep
