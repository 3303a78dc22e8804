"""SPEC 4, 6, 7: many descriptions to one, one request to many; nothing is lost, invented or changed."""

from __future__ import annotations

import copy
import itertools
import json
import re
from typing import TYPE_CHECKING, Any, Optional

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from servo_agg.description import check_shape, describe, merge, path_of, settings_in, united
from servo_agg.errors import Conflict, Misshapen, UnknownSettings
from servo_agg.routing import completed, route

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


# What a description is (SPEC 4).


@pytest.mark.parametrize(
    ("reply", "description"),
    [
        pytest.param(
            application(web=component(cpu=CPU)), application(web=component(cpu=CPU)), id="as-it-should-be"
        ),
        pytest.param(
            {"components": {"web": component(cpu=CPU)}},
            application(web=component(cpu=CPU)),
            id="old-components",
        ),
        pytest.param(
            {"settings": {"cpu": CPU}}, {"application": {"settings": {"cpu": CPU}}}, id="old-settings"
        ),
        pytest.param(
            {"components": {}, "settings": {"cpu": CPU}},
            {"application": {"components": {}, "settings": {"cpu": CPU}}},
            id="old-both",
        ),
        pytest.param({"application": {}}, {"application": {}}, id="application-without-components"),
        pytest.param(
            {"application": {}, "components": {"web": 1}},
            {"application": {}, "components": {"web": 1}},
            id="both",
        ),
        pytest.param(
            {"components": {}, "monitoring": {"a": 1}},
            {"application": {"components": {}, "monitoring": {"a": 1}}},
            id="an-old-reply-is-wrapped-as-a-whole",
        ),
        pytest.param(
            {"application": {"components": {"web": {}}}},
            {"application": {"components": {"web": {}}}},
            id="component-without-settings",
        ),
        pytest.param(
            {
                "application": {"components": {"web": {"deployment": "d"}}, "annotations": {"a": 1}},
                "monitoring": {},
            },
            {
                "application": {"components": {"web": {"deployment": "d"}}, "annotations": {"a": 1}},
                "monitoring": {},
            },
            id="more-than-settings",
        ),
        pytest.param(
            {
                "status": "ok",
                "reason": "r",
                "message": "m",
                "error": "e",
                "class": "c",
                "progress": 100,
                "drivers": {"a": {}},
                "application": {"status": "kept", "message": "kept", "drivers": "kept"},
            },
            {"application": {"status": "kept", "message": "kept", "drivers": "kept"}},
            id="its-words-about-itself-are-left-out",
        ),
        pytest.param(
            {"status": "ok", "components": {"web": component(cpu=CPU)}},
            application(web=component(cpu=CPU)),
            id="also-of-an-old-reply",
        ),
    ],
)
def test_a_reply_becomes_a_description(reply: Object, description: Object) -> None:
    before = copy.deepcopy(reply)
    assert describe(reply) == description
    assert reply == before


@pytest.mark.parametrize(
    "reply",
    [{}, {"status": "ok"}, {"monitoring": {}}, {"component": {}, "setting": {}}],
    ids=["empty", "status-only", "monitoring-only", "misspelt"],
)
def test_a_reply_without_any_description_is_refused(reply: Object) -> None:
    with pytest.raises(Misshapen, match=r'"application".*"components".*"settings"'):
        describe(reply)


WRONG: list[object] = [None, [], [{}], "x", "", 0, 1.5, True]
PATHS: list[Path] = [
    ("application",),
    ("application", "settings"),
    ("application", "components"),
    ("application", "components", "front.end"),
    ("application", "components", "front.end", "settings"),
]


@pytest.mark.parametrize("path", PATHS, ids=".".join)
def test_what_is_no_object_where_one_must_be_is_refused_with_its_path(path: Path) -> None:
    for wrong in WRONG:
        content: Object = {}
        place = content
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = wrong
        for check in (check_shape, describe):
            with pytest.raises(Misshapen) as raised:
                check(content)
            assert str(raised.value).startswith(".".join(path) + " is ")


@pytest.mark.parametrize("key", ["components", "settings"])
def test_an_old_reply_is_checked_like_any_other(key: str) -> None:
    with pytest.raises(Misshapen, match=key):
        describe({key: ["web"]})


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"application": {}},
        {"application": {"components": {}, "settings": {}}},
        {"application": {"components": {"web": {}}}},
        {"application": {"components": {"web": {"settings": {}, "deployment": None}}}, "control": [1]},
        {"application": {"components": {"web": {"settings": {"cpu": None, "mem": 5}}}, "annotations": None}},
    ],
)
def test_what_is_absent_or_no_affair_of_ours_is_not_checked(content: Object) -> None:
    check_shape(content)


# United and merged (SPEC 6).


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        pytest.param([], {}, id="nothing"),
        pytest.param([{"a": {"b": 1}}], {"a": {"b": 1}}, id="one"),
        pytest.param([{"a": 1}, {"b": 2}], {"a": 1, "b": 2}, id="side-by-side"),
        pytest.param([{"a": {"b": 1}}, {"a": {"c": 2}}], {"a": {"b": 1, "c": 2}}, id="deeply"),
        pytest.param([{"a": {"b": 1}}, {"a": {"b": 2}}, {"a": {}}], {"a": {"b": 2}}, id="later-leaf"),
        pytest.param([{"a": [1, 2]}, {"a": [3]}], {"a": [3]}, id="a-list-is-a-leaf"),
        pytest.param([{"a": 1}, {"a": None}], {"a": None}, id="null-is-a-leaf"),
        pytest.param([{"a": {}}, {"b": {"c": {}}}], {"a": {}, "b": {"c": {}}}, id="empty-objects-stay"),
    ],
)
def test_objects_are_united(parts: list[Object], whole: Object) -> None:
    before = copy.deepcopy(parts)
    assert united(parts) == whole
    assert parts == before


def test_what_is_united_is_not_shared_with_its_parts() -> None:
    first: Object = {"a": {"b": {"c": 1}}}
    whole = united([first, {"d": 1}])
    whole["a"]["b"]["c"] = 2
    assert first == {"a": {"b": {"c": 1}}}


def test_two_drivers_side_by_side_look_like_one() -> None:
    merged, owners = merge(
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


@pytest.mark.parametrize(
    "descriptions",
    [
        [],
        [("a", {"application": {}})],
        [("a", {"application": {"settings": {}}}), ("b", {"application": {}})],
    ],
    ids=["no-driver", "empty-application", "two-empty"],
)
def test_the_answer_always_has_components(descriptions: list[tuple[str, Object]]) -> None:
    merged, owners = merge(descriptions)
    assert merged["application"]["components"] == {}
    assert owners == {}


def test_names_that_look_like_paths_are_no_conflict() -> None:
    _, owners = merge(
        [
            ("a", {"application": {"components": {"x.y": component(z=CPU)}}}),
            ("b", {"application": {"components": {"x": {"settings": {"y.z": CPU}}}}}),
            ("c", {"application": {"settings": {"x.y.z": CPU, "z": CPU}}}),
        ]
    )
    assert owners == {("x.y", "z"): "a", ("x", "y.z"): "b", (None, "x.y.z"): "c", (None, "z"): "c"}


@pytest.mark.parametrize("value", [CPU, {}, None, 5])
def test_a_setting_is_in_conflict_whatever_its_value(value: object) -> None:
    with pytest.raises(Conflict, match=r"web\.cpu"):
        merge([("a", application(web=component(cpu=value))), ("b", application(web=component(cpu=value)))])


def test_a_conflict_is_told_like_a_sentence_with_every_setting_and_all_its_owners() -> None:
    with pytest.raises(Conflict) as raised:
        merge(
            [
                (
                    "01a",
                    {
                        "application": {
                            "components": {"web": component(cpu=CPU, mem=MEM)},
                            "settings": {"n": CPU},
                        }
                    },
                ),
                (
                    "02b",
                    {"application": {"components": {"web": component(cpu=CPU), "db": component(cpu=CPU)}}},
                ),
                ("03c", {"application": {"components": {"web": component(cpu=CPU)}, "settings": {"n": CPU}}}),
            ]
        )
    message = str(raised.value)
    assert re.search(r"\bweb\.cpu\b[^;]* 01a, 02b and 03c\b", message)
    assert re.search(r"\bn of the application\b[^;]* 01a and 03c\b", message)
    assert "mem" not in message
    assert "db" not in message


@pytest.mark.parametrize(
    ("place", "path"), [(("web", "cpu"), "web.cpu"), ((None, "cpu"), "cpu"), (("a.b", "c"), "a.b.c")]
)
def test_a_setting_is_named_by_its_path(place: Place, path: str) -> None:
    assert path_of(place) == path


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
    """Give the words of each part of a message: what is said in one part belongs together."""
    return [re.findall(r"[\w.-]*\w", part) for part in message.split(";")]


# Any shapes: a setting may be any JSON, and anything may stand under any name beside the settings. The
# names are few, so that drivers often speak of the same; among them are those that mean something.

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
    """Give objects with some of the known keys, and any others."""
    others = st.dictionaries(names.filter(lambda name: name not in known), anything, max_size=2)
    return st.builds(lambda more, own: {**more, **own}, others, st.fixed_dictionaries({}, optional=known))


any_content = _with(
    application=_with(
        settings=any_settings, components=st.dictionaries(names, _with(settings=any_settings), max_size=2)
    )
).map(lambda content: {"application": {}, **content})


def places_in(content: Object) -> dict[Place, Any]:
    """Give the settings of any content by their places."""
    inner = content["application"]
    holders: dict[str | None, Object] = {None: inner, **inner.get("components", {})}
    return {
        (name, setting): value
        for name, holder in holders.items()
        for setting, value in holder.get("settings", {}).items()
    }


def beside(holder: Object, *keys: str) -> Object:
    """Give what an object holds beside these keys."""
    return {key: value for key, value in holder.items() if key not in keys}


def laid_over(those: list[Any]) -> Any:
    """Say what stands where these were given one after another: the last leaf, and what came after it."""
    if not isinstance(those[-1], dict):
        return those[-1]
    after = list(itertools.takewhile(lambda each: isinstance(each, dict), reversed(those)))[::-1]
    keys = {key for each in after for key in each}
    return {key: laid_over([each[key] for each in after if key in each]) for key in keys}


def exact(content: Any) -> str:
    """Make a JSON value comparable: 1, 1.0 and true differ, the order of keys does not matter."""
    return json.dumps(content, sort_keys=True)


@given(st.lists(any_content, max_size=4))
@example([{"a": {"b": 1}}, {"a": 2}, {"a": {"c": 3}}])
@example([{"a": {"b": {}}}, {"a": {"b": None}}])
def test_uniting_loses_and_invents_nothing(parts: list[Object]) -> None:
    before = exact(parts)
    assert exact(united(parts)) == exact(laid_over([{}, *parts]))
    assert exact(parts) == before


@given(st.lists(any_content, max_size=4))
@example([application(web=component(x=1)), {"application": {"settings": {"x": 1}}}])
@example([application(web=component(x=1)), application(web=component(x=None))])
def test_merging_loses_and_invents_nothing(contents: list[Object]) -> None:
    before = exact(contents)
    descriptions = list(zip(DRIVERS, contents))
    settings = [(place, driver) for driver, content in descriptions for place in places_in(content)]
    try:
        merged, owners = merge(descriptions)
    except Conflict:
        assert len(settings) > len(dict(settings))
    else:
        assert sorted(owners.items(), key=repr) == sorted(settings, key=repr)
        assert exact(merged) == exact(laid_over([application(), *contents]))
        assert dict(settings_in(merged)) == places_in(merged)
        assert places_in(merged) == {
            place: value for content in contents for place, value in places_in(content).items()
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
        merge(descriptions)
    except Conflict as conflict:
        message = str(conflict)
    assert bool(message) == bool(conflicts)
    assert descriptions == before
    found = {
        (path, "application" in words, tuple(word for word in words if word in DRIVERS))
        for words in clauses_of(message)
        for path in {path_of(place) for place in world} & set(words)
    }
    assert found == {
        # Owners stand in driver order.
        (path_of(place), place[0] is None, tuple(driver for driver in DRIVERS if driver in names))
        for place, names in conflicts.items()
    }


# Routed (SPEC 7.3 to 7.5).

OWNERS: dict[Place, str] = {
    ("web", "cpu"): "a",
    ("web", "mem"): "b",
    ("db", "cpu"): "b",
    (None, "n"): "c",
    (None, "m"): "a",
}


@pytest.mark.parametrize(
    ("request_", "shares"),
    [
        pytest.param({"application": {}}, {}, id="no-settings"),
        pytest.param(
            {"application": {"components": {"web": {"settings": {}}}, "settings": {}}}, {}, id="empty"
        ),
        pytest.param(
            {"application": {"components": {"nobody's": {"x": 1}}}, "control": {}}, {}, id="others-only"
        ),
        pytest.param(
            application(web=component(cpu={"value": 4})),
            {"a": application(web=component(cpu={"value": 4}))},
            id="one-owner",
        ),
        pytest.param(
            {
                "application": {
                    "components": {
                        "web": {"settings": {"cpu": {"value": 4}, "mem": {"value": 8}}, "deployment": "d"},
                        "db": {"settings": {"cpu": {"value": 1}}},
                        "idle": {"x": 1},
                    },
                    "annotations": {"x": 1},
                },
                "control": {"timeout": 600, "userdata": {"deploy_to": "canary"}},
                "other": [None],
            },
            {
                "a": {
                    "application": {
                        "components": {"web": {"settings": {"cpu": {"value": 4}}, "deployment": "d"}},
                        "annotations": {"x": 1},
                    },
                    "control": {"timeout": 600, "userdata": {"deploy_to": "canary"}},
                    "other": [None],
                },
                "b": {
                    "application": {
                        "components": {
                            "web": {"settings": {"mem": {"value": 8}}, "deployment": "d"},
                            "db": {"settings": {"cpu": {"value": 1}}},
                        },
                        "annotations": {"x": 1},
                    },
                    "control": {"timeout": 600, "userdata": {"deploy_to": "canary"}},
                    "other": [None],
                },
            },
            id="two-owners-of-one-component",
        ),
        pytest.param(
            {"application": {"components": {}, "settings": {"n": {"value": 1}, "m": {"value": 2}}}},
            {
                "a": {"application": {"components": {}, "settings": {"m": {"value": 2}}}},
                "c": {"application": {"components": {}, "settings": {"n": {"value": 1}}}},
            },
            id="settings-of-the-application",
        ),
        pytest.param(
            application(web=component(cpu=None, mem={"value": 8}), db=component(cpu=None)),
            {"b": application(web=component(mem={"value": 8}))},
            id="null-is-not-given",
        ),
        pytest.param(
            {"application": {"components": {"x": component(y=None)}, "settings": {"z": None}}},
            {},
            id="null-that-nobody-described",
        ),
        pytest.param(
            application(web=component(cpu=0, mem=False)),
            {"a": application(web=component(cpu=0)), "b": application(web=component(mem=False))},
            id="only-null-is-null",
        ),
    ],
)
def test_each_setting_goes_to_its_owner(request_: Object, shares: dict[str, Object]) -> None:
    before = copy.deepcopy(request_)
    assert route(request_, OWNERS) == shares
    assert request_ == before


@pytest.mark.parametrize(
    ("request_", "named", "not_named"),
    [
        pytest.param(application(web=component(disk={"value": 1})), ["web.disk"], [], id="setting"),
        pytest.param(
            application(cache=component(cpu={"value": 1}, mem={"value": 1})),
            ["cache", "cpu", "mem"],
            [],
            id="component",
        ),
        pytest.param(
            {"application": {"settings": {"k": {"value": 1}}}}, ["k of the application"], [], id="application"
        ),
        pytest.param(
            {
                "application": {
                    "components": {
                        "web": component(cpu={"value": 1}, disk={"value": 1}, net={"value": 1}),
                        "cache": component(size={"value": 1}, gone=None),
                        "store": component(),
                        "queue": component(depth={"value": 1}),
                    },
                    "settings": {"k": {"value": 1}, "n": {"value": 1}},
                }
            },
            ["web.disk", "web.net", "cache", "size", "queue", "depth", "k of the application"],
            ["web.cpu", "gone", "store", " n of"],
            id="all-of-them",
        ),
    ],
)
def test_what_nobody_described_refuses_the_whole(
    request_: Object, named: list[str], not_named: list[str]
) -> None:
    before = copy.deepcopy(request_)
    with pytest.raises(UnknownSettings) as raised:
        route(request_, OWNERS)
    message = str(raised.value)
    assert [name for name in named if name not in message] == []
    assert [name for name in not_named if name in message] == []
    assert request_ == before


@given(request=any_content, picks=st.binary(max_size=10))
@example(
    request={"application": {"settings": {"": 0}, "components": {"": component(**{"": None})}, "x": {}}},
    picks=b"\1",
)
def test_what_the_drivers_get_is_together_what_was_given(request: Object, picks: bytes) -> None:
    settings = places_in(request)
    # Where there is no pick, nobody describes the setting.
    owners = {place: DRIVERS[pick % len(DRIVERS)] for place, pick in zip(settings, picks)}
    given_ = {place: value for place, value in settings.items() if value is not None}
    before = exact(request), dict(owners)
    try:
        shares = route(request, owners)
    except UnknownSettings:
        assert set(given_) - set(owners)
        return
    finally:
        assert (exact(request), owners) == before
    assert set(given_) <= set(owners)
    assert set(shares) == {owners[place] for place in given_}
    inner = request["application"]
    for driver, share in shares.items():
        assert exact(beside(share, "application")) == exact(beside(request, "application"))
        its = share["application"]
        assert exact(beside(its, "components", "settings")) == exact(beside(inner, "components", "settings"))
        for name, holder in its["components"].items():
            assert holder["settings"]
            assert exact(beside(holder, "settings")) == exact(beside(inner["components"][name], "settings"))
        assert ("settings" in its) == ((None, driver) in {(place[0], owners[place]) for place in given_})
    merged, again = merge(shares.items())
    assert again == {place: owners[place] for place in given_}
    assert {place: exact(value) for place, value in places_in(merged).items()} == {
        place: exact(value) for place, value in given_.items()
    }


@given(owners=owned, wanted=st.lists(places, max_size=10), more=extras)
def test_exactly_what_nobody_described_is_listed(
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
            in_full = path_of((name, setting)) in words and (name is None) == ("application" in words)
            if in_full or {name, setting} < set(words):
                listed.add((name, setting))
    assert listed == set(strangers)


@given(request=any_content, description=any_content, every=st.integers(1, 2))
@example(
    request=application(web=component(x=None, z={"unit": "GB"})),
    description=application(web=component(x=CPU, y=CPU, z=CPU)),
    every=1,
)
def test_what_is_completed_keeps_what_was_given_and_gets_only_values_described(
    request: Object, description: Object, every: int
) -> None:
    before = exact(request), exact(description)
    meant = list(places_in(description))[::every]
    whole = completed(request, description, meant)
    assert (exact(request), exact(description)) == before
    given_ = places_in(request)
    lacking = {
        place: {"value": setting["value"]}
        for place, setting in places_in(description).items()
        if place in meant and given_.get(place) is None and isinstance(setting, dict) and "value" in setting
    }
    assert {place: exact(value) for place, value in places_in(whole).items()} == {
        place: exact(value) for place, value in {**given_, **lacking}.items()
    }
    inner, its = request["application"], whole["application"]
    assert exact(beside(whole, "application")) == exact(beside(request, "application"))
    assert exact(beside(its, "components", "settings")) == exact(beside(inner, "components", "settings"))
    for name, holder in its["components"].items():
        assert exact(beside(holder, "settings")) == exact(
            beside(inner.get("components", {}).get(name, {}), "settings")
        )


def test_what_was_not_too_deep_to_parse_is_not_too_deep_to_merge_and_route() -> None:
    deep: Object = {}
    for _ in range(380):
        deep = {"deeper": deep}
    merged, owners = merge(
        [("a", {**application(web=component(cpu=CPU)), "top": deep}), ("b", {"top": deep})]
    )
    assert merged["top"] == deep
    assert route({**application(web=component(cpu=CPU)), "top": deep}, owners)["a"]["top"] == deep
