"""SPEC 14: `--plan` shows what an adjust with the same input would give each driver, and changes nothing."""

from __future__ import annotations

import json
import os
import random
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.locks import held_as_by_adjust

if TYPE_CHECKING:
    from tests.support.servo import Completed, ServoDirectory

Object = dict[str, Any]

KEEPING = """\
#!/bin/sh
case $1 in
--info) echo '{"version":"1","has_cancel":false}' ;;
--query) cat "described/${0##*/}" ;;
*)
    cat >"given/${0##*/}"
    echo "${0##*/}" >>given/order
    echo '{"status":"ok"}'
    ;;
esac
"""
"""A driver that describes what stands in described/NAME, and writes its input to given/NAME."""


def add(servo: ServoDirectory, name: str, application: Object) -> None:
    servo.add_script(name, KEEPING)
    for directory in ("described", "given"):
        (servo.path / directory).mkdir(exist_ok=True)
    described = json.dumps({"application": application})
    (servo.path / "described" / name).write_text(described, encoding="utf-8")


def of(component: str, **settings: object) -> Object:
    return {"components": {component: {"settings": settings}}}


def asking(*components: tuple[str, Object], **application: object) -> bytes:
    """Return an input with the settings of these components, and other keys of the application."""
    settings = {name: {"settings": values} for name, values in components}
    return json.dumps({"application": {**application, "components": settings}}).encode()


def planned(servo: ServoDirectory, *choices: str, given: bytes = b"") -> Object:
    completed = servo.run("--plan", "app", "--json", *choices, input=given)
    assert completed.stderr == b""
    (final,) = completed.messages
    wrong = any(change["wrong"] for driver in final["drivers"] for change in driver["settings"])
    assert (completed.returncode, final["status"]) == ((1, "failed") if wrong else (0, "ok"))
    return final


# What is adjusted is what was planned.

PLACES: dict[tuple[str | None, str], Object] = {
    ("web", "cpu"): {"type": "range", "min": 0.5, "max": 8, "step": 0.5, "value": 2},
    ("web", "a.b=c"): {"type": "enum", "values": ["x", "é"], "value": "x"},
    (None, "replicas"): {"value": 3},
    ("web", "disk"): {"value": 10},
    ("b.db", "x"): {"value": None},
    ("gitops", "one"): {"value": 1, "unit": "s"},
    ("gitops", "two"): {"value": "text"},
    ("gitops", "no value"): {"type": "range"},
    ("größe", "three"): {"value": {"deep": [1, {}]}},
    (None, "four"): {"value": 0.1},
}
OWNERS = {"10a": range(3), "20b": range(3, 5), "30gitops": range(5, 10)}
"""Which of the places each driver describes; the last wants all of its settings."""

VALUES: list[Any] = [
    *(
        0,
        -1,
        2.5,
        1e300,
        10**30,
        True,
        None,
        "",
        "text",
        "2",
        "名前\n\ud800",
        [],
        [1, [2]],
        {},
        {"value": {}},
    ),
]


def put(application: Object, place: tuple[str | None, str], setting: object) -> None:
    component, name = place
    holder = application
    if component is not None:
        holder = application.setdefault("components", {}).setdefault(component, {})
    holder.setdefault("settings", {})[name] = setting


def world(servo: ServoDirectory) -> None:
    servo.configure("agg: {complete: ['*gitops']}")
    places = list(PLACES)
    for name, numbers in OWNERS.items():
        application: Object = {}
        for number in numbers:
            put(application, places[number], PLACES[places[number]])
        add(servo, name, application)


def any_input(chance: random.Random) -> Object:
    application: Object = {}
    for place in chance.sample(list(PLACES), chance.randint(0, len(PLACES))):
        value = chance.choice(VALUES)
        more = {"pinned": True} if chance.random() < 0.2 else {}
        setting = {"value": value, **more} if chance.random() < 0.8 else chance.choice(VALUES)
        put(application, place, setting)
    for component in ("web", "gitops", "stranger"):
        if chance.random() < 0.3:
            application.setdefault("components", {}).setdefault(component, {})["deployment"] = {
                "of": component
            }
    if chance.random() < 0.5:
        application["annotations"] = {"note": chance.choice(VALUES)}
    request: Object = {"application": application}
    if chance.random() < 0.5:
        request = {"control": {"timeout": 600, "userdata": {"deploy_to": "é"}}, **request, "more": [None]}
    return request


def any_choices(chance: random.Random) -> list[str]:
    words = []
    for component, name in chance.sample(list(PLACES), chance.randint(1, 4)):
        value = chance.choice(["4", "0.5", '{"a": [1]}', "true", "null", "a text", "", '"quoted"', "名"])
        path = name if component is None else f"{component}.{name}"
        words += ["--set", f"{path}={value}"]
    return words


def check_plan_against_adjust(servo: ServoDirectory, chance: random.Random) -> int:
    """Plan, then adjust, with the same random input; return how many drivers were adjusted."""
    choices = any_choices(chance) if chance.random() < 0.3 else []
    request = any_input(chance)
    given = b"" if choices else json.dumps(request).encode()
    plan = planned(servo, *choices, given=given)
    assert os.listdir(servo.path / "given") == []
    adjusted = servo.run("app", *choices, input=given)
    assert adjusted.returncode == 0, adjusted
    inputs = {
        name: (servo.path / "given" / name).read_text(encoding="ascii")
        for name in os.listdir(servo.path / "given")
    }
    order = inputs.pop("order", "").split()
    assert order == [entry["driver"] for entry in plan["drivers"]], request
    assert plan["skipped"] == [name for name in OWNERS if name not in order]
    for entry in plan["drivers"]:
        # To the letter, the order of keys included.
        assert inputs[entry["driver"]] == json.dumps(entry["input"], separators=(",", ":")) + "\n", request
    for name in os.listdir(servo.path / "given"):
        (servo.path / "given" / name).unlink()
    return len(order)


@pytest.mark.parametrize("number", [4, pytest.param(200, marks=pytest.mark.full)])
def test_an_adjust_gives_the_drivers_what_was_planned(servo: ServoDirectory, number: int) -> None:
    world(servo)
    chance = random.Random(number)  # noqa: S311 - examples, no secrets
    counts = [check_plan_against_adjust(servo, chance) for _ in range(number)]
    assert {0, 1, 2, 3} >= set(counts) >= {1, 2, 3}


# The text.


def test_a_rich_plan_in_full(servo: ServoDirectory) -> None:
    add(
        servo,
        "01ec2asg",
        {
            **of(
                "web",
                cpu={"type": "range", "min": 0.5, "max": 8, "step": 0.5, "value": 2, "unit": "cores"},
                inst_type={"type": "enum", "values": ["m5.large", "m5.xlarge", "2"], "value": "m5.large"},
            ),
            "settings": {"replicas": {"min": 1, "max": 3, "value": 2}},
        },
    )
    add(servo, "02größe", of("größe", bare={}, mem={"min": 64, "step": 64, "value": 128}, odd={"value": "2"}))
    add(servo, "03idle", of("idle", x={"value": 1}))
    add(servo, "04\x1b[31m", of("a b.c", **{"d=e": {"max": 5, "value": None}, "f": {"values": [True, 1.0]}}))
    request = {
        "control": {"timeout": 600},
        "application": {
            "annotations": {"é": 1},
            "settings": {"replicas": {"value": 4}},
            "components": {
                "web": {
                    "settings": {"cpu": {"value": 2.25}, "inst_type": {"value": "m5.huge"}},
                    "image": "web:2",
                },
                "größe": {
                    "settings": {"bare": {"value": " a\n"}, "mem": {"value": 192}, "odd": {"value": "true"}}
                },
                "a b.c": {"settings": {"d=e": {"value": None}, "f": {"value": 1}}},
                "idle": {"settings": {"x": None}},
            },
        },
    }
    completed = servo.run("--plan", "app", input=json.dumps(request).encode())
    assert completed.stderr == b""
    assert completed.stdout.decode() == textwrap.dedent(
        """\
        1. 01ec2asg
          replicas       2 -> 4               (1..3)
            ! above its maximum 3
          web.cpu        2 -> 2.25            (0.5..8 step 0.5)
            ! between its steps of 0.5
          web.inst_type  m5.large -> m5.huge  (m5.large, m5.xlarge, "2")
            ! not in its list of values
          with control {"timeout":600}; application.annotations {"\\u00e9":1}; web.image "web:2"
        2. 02größe
          größe.bare     null -> " a\\n"
          größe.mem      128 -> 192           (64.. step 64)
          größe.odd      "2" -> "true"
          with control {"timeout":600}; application.annotations {"\\u00e9":1}
        3. 04\\x1b[31m
          a b.c.d=e      null -> null         (..5)
            ! not a number
          a b.c.f        null -> 1            (true, 1.0)
          with control {"timeout":600}; application.annotations {"\\u00e9":1}
        drivers not run (the input has no setting for them): 03idle
        """
    )


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (6, "(0x, 1x, 2x, 3x, 4x, 5x)"),
        (7, "(0x, 1x, 2x, 3x, 4x, 5x, ... 1 more)"),
        (300, "(0x, 1x, 2x, 3x, 4x, 5x, ... 294 more)"),
    ],
)
def test_the_text_shows_six_values_of_a_list_and_the_json_all(
    servo: ServoDirectory, count: int, shown: str
) -> None:
    values = [f"{number}x" for number in range(count)]
    add(servo, "01a", of("web", kind={"type": "enum", "values": values, "value": "0x"}))
    completed = servo.run("--plan", "app", "--set", f"web.kind={values[-1]}")
    assert completed.stdout.decode() == f"1. 01a\n  web.kind  0x -> {values[-1]}  {shown}\n"
    (change,) = planned(servo, "--set", f"web.kind={values[-1]}")["drivers"][0]["settings"]
    assert change["limits"] == {"values": values}


LIMITS: list[tuple[Object, Any, str | None]] = [
    ({"min": 1, "max": 8}, 0, "below its minimum 1"),
    ({"min": 1, "max": 8}, 8.01, "above its maximum 8"),
    ({"min": 1, "max": 8}, "4", "not a number"),
    ({"min": 1, "max": 8}, True, "not a number"),
    ({"min": 1, "max": 8}, 8.0, None),
    ({"min": 0.1, "max": 1, "step": 0.1}, 0.7, None),
    ({"min": 0.1, "max": 1, "step": 0.1}, 0.1 + 0.2, None),
    ({"min": 0.1, "max": 1, "step": 0.1}, 0.75, "between its steps of 0.1"),
    ({"min": 1, "step": 2}, 4, "between its steps of 2"),
    ({"min": 0.5, "step": 0.5}, 10**400, None),
    ({"min": -1e308, "max": 1e308, "step": 5e-324}, 1e308, None),
    ({"min": 1, "max": 3, "step": 0}, 2.5, None),
    ({"min": "1", "max": None, "step": True}, 7, None),
    ({"values": ["a", 1]}, "b", "not in its list of values"),
    ({"values": ["a", 1]}, 1.0, None),
    ({"values": ["a", 1]}, True, "not in its list of values"),
    ({"values": ["a", 1]}, "1", "not in its list of values"),
    ({"values": "a"}, "b", None),
    ({}, {"any": []}, None),
]
"""What is described of a setting, the value to set, and what is wrong with it."""


def test_a_value_outside_of_what_was_described_is_marked(servo: ServoDirectory) -> None:
    described = {f"s{number}": {**limits, "value": 2} for number, (limits, _, _) in enumerate(LIMITS)}
    wanted = {f"s{number}": {"value": value} for number, (_, value, _) in enumerate(LIMITS)}
    add(servo, "01a", of("web", **described))
    plan = planned(servo, given=asking(("web", wanted)))
    changes = {change.pop("setting"): change for change in plan["drivers"][0]["settings"]}
    assert changes == {
        f"s{number}": {"component": "web", "from": 2, "to": value, "limits": limits, "wrong": wrong}
        for number, (limits, value, wrong) in enumerate(LIMITS)
    }


def test_a_setting_that_is_not_an_object_can_be_planned(servo: ServoDirectory) -> None:
    add(servo, "01a", of("web", cpu=2))
    plan = planned(servo, given=asking(("web", {"cpu": 4})))
    (change,) = plan["drivers"][0]["settings"]
    assert (change["from"], change["to"], change["limits"]) == (None, 4, {})


def text_of(completed: Completed) -> str:
    assert completed.returncode == 0
    return completed.stdout.decode()


def test_a_plan_without_settings_runs_no_driver(servo: ServoDirectory) -> None:
    add(servo, "01a", of("web", cpu={"value": 2}))
    add(servo, "02b", of("db", x={"value": 2}))
    assert text_of(servo.run("--plan", "app", input=asking())) == (
        "nothing to adjust: no driver would be run\n"
        "drivers not run (the input has no setting for them): 01a, 02b\n"
    )


def test_a_plan_without_drivers_is_like_an_adjust_without_drivers(servo: ServoDirectory) -> None:
    completed = servo.run("--plan", "app", input=asking())
    assert text_of(completed) == "nothing to adjust: no driver would be run\n"
    assert completed.stderr.startswith(b"warning: no driver in ")
    refused = servo.run("--plan", "app", input=asking(("web", {"cpu": {"value": 1}})))
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert b"adjust: no driver describes component web (settings: cpu): no driver" in refused.stderr


def test_a_plan_refuses_what_an_adjust_refuses(servo: ServoDirectory) -> None:
    add(servo, "01a", of("web", cpu={"value": 2}))
    for given in (b"", b"{}", asking(("web", {"gpu": {"value": 1}}))):
        refused = servo.run("app", input=given).reply
        completed = servo.run("--plan", "app", input=given)
        assert (completed.returncode, completed.stdout) == (1, b"")
        assert completed.stderr.decode() == f"adjust: {refused['message']}\n"
        in_json = servo.run("--plan", "app", "--json", input=given)
        assert in_json.returncode == 1
        assert {key: refused[key] for key in in_json.reply} == in_json.reply


def test_a_failed_query_fails_the_plan(servo: ServoDirectory) -> None:
    servo.add("01a", "exit3", when="query")
    completed = servo.run("--plan", "app", input=asking())
    assert (completed.returncode, completed.stdout) == (1, b"")
    assert completed.stderr.startswith(
        b"adjust: 01a: failed: on --query: replied ok but exited with status 3"
    )


def test_nothing_is_adjusted_and_no_lock_is_taken(servo: ServoDirectory) -> None:
    servo.add("01a", "plain", component="web")
    request = json.dumps(servo.request("web.cpu")).encode()
    with held_as_by_adjust(servo.path):
        assert text_of(servo.run("--plan", "app", input=request)).startswith("1. 01a\n  web.cpu  2 -> 4")
        # An adjust needs the lock.
        busy = servo.run("app", input=request, env={"OPTUNE_IO_TIMEOUT": "2"})
        assert busy.reply["reason"] == "busy"
    assert {event.phase for event in servo.log()} == {"query"}


# Drivers that want all of their settings (SPEC 11.13).


def given_to(servo: ServoDirectory, name: str) -> Object:
    content: Object = json.loads((servo.path / "given" / name).read_text(encoding="ascii"))
    return content


def test_a_driver_that_wants_all_its_settings_gets_them(servo: ServoDirectory) -> None:
    servo.configure("agg: {complete: ['gitops-*']}")
    described = {
        "components": {
            "web": {"settings": {"cpu": {"value": 2, "min": 1}, "mem": {"value": 4}, "new": {"min": 1}}},
            "db": {"settings": {"x": {"value": "text"}, "odd": 3}},
        },
        "settings": {"replicas": {"value": 3}, "unset": {"value": None}},
    }
    add(servo, "gitops-a", described)
    add(servo, "plain", of("idle", x={"value": 1}, y={"value": 2}))
    request = {
        "control": {"timeout": 1},
        "application": {
            "components": {
                "web": {"settings": {"cpu": {"value": 8, "pinned": True}, "mem": None}, "image": "i"},
                "db": {"size": "xl"},
                "idle": {"settings": {"x": {"value": 7}}},
            }
        },
    }
    assert servo.run("app", input=json.dumps(request).encode()).returncode == 0
    assert given_to(servo, "gitops-a") == {
        "control": {"timeout": 1},
        "application": {
            "components": {
                "web": {"settings": {"cpu": {"value": 8, "pinned": True}, "mem": {"value": 4}}, "image": "i"},
                "db": {"settings": {"x": {"value": "text"}}, "size": "xl"},
            },
            "settings": {"replicas": {"value": 3}, "unset": {"value": None}},
        },
    }
    assert given_to(servo, "plain")["application"]["components"] == {
        "idle": {"settings": {"x": {"value": 7}}}
    }


def test_a_driver_that_wants_all_its_settings_is_not_run_only_for_them(servo: ServoDirectory) -> None:
    servo.configure("agg: {complete: ['*']}")
    add(servo, "01a", of("web", cpu={"value": 2}))
    completed = servo.run("app", input=asking(("web", {"cpu": None})))
    assert completed.reply == {"status": "ok", "reason": "no-settings-to-adjust"}
