"""SPEC 14.21-14.23: the request that `--set COMPONENT.SETTING=VALUE` gives."""

from __future__ import annotations

from typing import Any

import pytest

from servo_agg.errors import BadInput, UnknownSettings
from servo_agg.protocol.routing import request_from_assignments, route
from servo_agg.protocol.settings import iter_settings

DESCRIPTION: Any = {
    "application": {
        "settings": {"replicas": {"value": 3}, "web.cpu.limit": {"value": 1}, "twice.x": {"value": 0}},
        "components": {
            "web": {
                "settings": {
                    "cpu": {"value": 2},
                    "cpu.limit.soft": {"value": 1},
                    "a=b": {"value": "x"},
                    "a": {"value": 0},
                }
            },
            "web.a": {"settings": {"c": {"value": 1}}},
            "twice": {"settings": {"x": {"value": 0}, "y": 3}},
            "named": {"settings": {"text": {"value": "2"}, "null": {"value": None}, "none": {}}},
            "größe": {"settings": {"ß": {"value": 1}}},
            "": {"settings": {"": {"value": 1}}},
        },
    }
}


@pytest.mark.parametrize(
    ("assignments", "settings"),
    [
        (["web.cpu=4"], {("web", "cpu"): 4}),
        (["web.cpu=0.50"], {("web", "cpu"): 0.5}),
        (["web.cpu= 4 "], {("web", "cpu"): 4}),
        (["web.cpu=4 cores"], {("web", "cpu"): "4 cores"}),
        (["web.cpu="], {("web", "cpu"): ""}),
        (["web.cpu=null"], {("web", "cpu"): None}),
        (["web.cpu=NaN"], {("web", "cpu"): "NaN"}),
        (['web.cpu={"a": [1, true]}'], {("web", "cpu"): {"a": [1, True]}}),
        (["web.cpu=" + "[" * 500], {("web", "cpu"): "[" * 500}),
        # The longest name that is described counts.
        (["replicas=5"], {(None, "replicas"): 5}),
        (["web.cpu.limit=5"], {(None, "web.cpu.limit"): 5}),
        (["web.cpu.limit.soft=5"], {("web", "cpu.limit.soft"): 5}),
        (["web.a.c=5"], {("web.a", "c"): 5}),
        (["web.a=b=c=d"], {("web", "a=b"): "c=d"}),
        (["web.a=bc"], {("web", "a"): "bc"}),
        (["twice.y=5"], {("twice", "y"): 5}),
        (["größe.ß=4"], {("größe", "ß"): 4}),
        ([".=4"], {("", ""): 4}),
        # A value stays a text where the present value is one.
        (["named.text=4"], {("named", "text"): "4"}),
        (["named.text="], {("named", "text"): ""}),
        (['named.text="4"'], {("named", "text"): '"4"'}),
        (["named.null=4"], {("named", "null"): 4}),
        (["named.none=4"], {("named", "none"): 4}),
        (
            ["web.cpu=4", "replicas=5", "named.text=6"],
            {(None, "replicas"): 5, ("web", "cpu"): 4, ("named", "text"): "6"},
        ),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_an_assignment_sets_the_described_setting(assignments: list[str], settings: dict[Any, Any]) -> None:
    request = request_from_assignments(assignments, DESCRIPTION)
    assert dict(iter_settings(request)) == {path: {"value": value} for path, value in settings.items()}


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["zzz=4"], "--set zzz=4: no driver describes a setting zzz"),
        (
            ["zzz=4", "web.cpu=1", "yyy=5"],
            "--set zzz=4: no driver describes a setting zzz; --set yyy=5: no driver describes a setting yyy",
        ),
        (
            ["WEB.CPU=4"],
            (
                "--set WEB.CPU=4: no driver describes a setting WEB.CPU; did you mean web.cpu"
                " or web.a.c or web.cpu.limit?"
            ),
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_assignment_to_an_undescribed_setting_is_refused(assignments: list[str], message: str) -> None:
    with pytest.raises(UnknownSettings) as raised:
        request_from_assignments(assignments, DESCRIPTION)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (
            ["twice.x=1"],
            (
                "--set twice.x=1 is ambiguous: 'twice.x' of the application, or 'x' of component 'twice';"
                " give the setting on stdin instead"
            ),
        ),
        (["web.cpu=1", "replicas=1", "web.cpu=1"], "--set gives web.cpu more than once"),
        (['web.cpu={"a":1,"a":2}'], "--set web.cpu: the value has the key a twice"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_ambiguous_assignment_is_refused(assignments: list[str], message: str) -> None:
    with pytest.raises(BadInput) as raised:
        request_from_assignments(assignments, DESCRIPTION)
    assert str(raised.value) == message


@pytest.mark.parametrize("value", [4, "4", {"value": 4}])
def test_a_described_setting_without_the_level_settings_is_refused(value: object) -> None:
    request = {"application": {"components": {"web": {"cpu": value, "note": "x"}}}}
    with pytest.raises(BadInput, match=r'^application\.components\.web has no "settings": expected '):
        route(request, {("web", "cpu"): "01a"})


def test_other_keys_of_a_component_without_settings_are_allowed() -> None:
    request = {"application": {"components": {"web": {"note": {"text": "x"}}}}}
    assert route(request, {("web", "cpu"): "01a"}) == {}
