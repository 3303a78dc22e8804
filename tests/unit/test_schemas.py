"""The schemas of docs/schemas: valid, with examples, exactly as strict as SPEC.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from servo_agg.config import Config, Listing
from servo_agg.config_schema import KEYS
from servo_agg.config_section import parse_section
from servo_agg.errors import BadConfiguration
from tests.support.schemas import DIRECTORY, mismatch, schemas, validator

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = sorted(schemas())

DRAFT = "https://json-schema.org/draft/2020-12/schema"

SETTING = {"type": "range", "min": 1, "max": 8, "step": 1, "value": 2}

DONE = {"status": "ok", "reason": "success", "seconds": 0.1}

FAILURE = {"status": "failed", "reason": "timeout", "message": "02db: failed: was silent for 29 s"}

ROW = {
    "driver": "01web",
    "version": "1.0",
    "has_cancel": True,
    "seconds": 0.1,
    "settings": 2,
    "verdict": "ok",
}

CHECK = {
    "status": "ok",
    "directory": "/servo",
    "application": "app",
    "drivers": [ROW],
    "problems": [],
    "remarks": [],
}

PROBLEM = {"drivers": [], "what": "no driver", "remedy": "add executable files"}

RULE = {"rule": "answers --info", "verdict": "pass", "what": None, "remedy": None}

BROKEN = {**RULE, "verdict": "fail", "what": "replied ok", "remedy": "exit with 1"}

CHANGE = {"component": "web", "setting": "cpu", "from": 2, "to": 4, "limits": {"min": 1}, "wrong": None}


def described(setting: object) -> dict[str, Any]:
    return {"application": {"components": {"web": {"settings": {"cpu": setting}}}}}


def judged(*rules: object, status: str = "ok") -> dict[str, Any]:
    return {"driver": "01web", "application": "app", "status": status, "rules": [*rules]}


def informed(driver: object) -> dict[str, Any]:
    return {"version": "aggregator 2.0.0 (1)", "has_cancel": True, "drivers": {"01web": driver}}


def failed(driver: object) -> dict[str, Any]:
    return {**FAILURE, "drivers": {"01web": driver}}


def planned(*changes: object, status: str = "ok") -> dict[str, Any]:
    drivers = [{"driver": "01web", "input": described({"value": 4}), "settings": list(changes)}]
    return {"status": status, "application": "app", "drivers": drivers, "skipped": []}


def log_line(name: str, **changes: Any) -> dict[str, Any]:
    """Return the example of a line about a driver or run, changed."""
    number = ["driver", "run"].index(name)
    return {**schemas()["agg-log-line"]["examples"][number], **changes}


def without(body: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != key}


def parts(schema: Any, path: str = "#") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the path of each schema below a schema, itself included, with the schema."""
    if not isinstance(schema, dict):
        return
    yield path, schema
    for keyword in ("$defs", "properties"):
        for name, part in schema.get(keyword, {}).items():
            yield from parts(part, f"{path}/{keyword}/{name}")
    for keyword in ("items", "additionalProperties"):
        yield from parts(schema.get(keyword), f"{path}/{keyword}")


def examples() -> Iterator[tuple[str, Any]]:
    for name, schema in schemas().items():
        for path, part in parts(schema):
            for example in part.get("examples", ()):
                yield f"{name}{path}", example


# The files.


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_is_valid_and_named_like_its_file(name: str) -> None:
    schema = schemas()[name]
    Draft202012Validator.check_schema(schema)
    assert (schema["$schema"], schema["$id"]) == (DRAFT, f"{name}.json")
    # A keyword that a validator does not know is ignored: a typing error would allow everything.
    known = {
        *("$schema", "$id", "$ref", "$defs", "title", "description", "examples", "default", "type", "enum"),
        *("const", "properties", "required", "additionalProperties", "items", "contains", "pattern"),
        *("minimum", "maximum", "exclusiveMinimum", "minLength", "maxLength", "minItems", "maxItems"),
        *("uniqueItems", "maxProperties", "anyOf", "allOf", "oneOf", "not", "if", "then", "else"),
        "dependentRequired",
    }
    assert {key for _, part in parts(schema) for key in part} <= known


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_and_its_parts_are_described(name: str) -> None:
    for path, part in parts(schemas()[name]):
        parent = path.rpartition("/")[0]
        if path == "#" or parent.endswith("$defs"):
            assert {"title", "description"} <= part.keys(), path
        elif parent.endswith("properties"):
            assert "description" in part or part.get("$ref", "").startswith("#"), path


@pytest.mark.parametrize("name", [name for name in NAMES if name != "common"])
def test_a_schema_has_examples(name: str) -> None:
    assert schemas()[name]["examples"]


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_of_a_schema_match_it(name: str) -> None:
    found = [
        (example, mismatch(part, example)) for part, example in examples() if part.partition("#")[0] == name
    ]
    assert [(example, why) for example, why in found if why is not None] == []


def test_every_reference_leads_to_a_definition() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in DIRECTORY.glob("*.json"))
    assert '"$ref": "common.json#/$defs/application"' in text
    for name, schema in schemas().items():
        for reference in _references(schema):
            file, _, definition = reference.partition("#")
            # Raises if it cannot be resolved.
            mismatch(f"{file.removesuffix('.json') or name}#{definition}", {})


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for part in value.values():
            yield from _references(part)
    elif isinstance(value, list):
        for part in value:
            yield from _references(part)


def test_the_readme_and_the_spec_name_every_schema() -> None:
    readme = (DIRECTORY / "README.md").read_text(encoding="utf-8")
    spec = (DIRECTORY.parent / "SPEC.md").read_text(encoding="utf-8")
    for name in NAMES:
        assert f"[{name}.json]({name}.json)" in readme
        assert f"`{name}.json`" in spec


# What must match, and what must not.

MATCHING: dict[str, list[Any]] = {
    "driver-info": [
        {"version": 2, "features": ["a"]},
        {"version": ["1.0", "beta"], "has_cancel": True, "status": "ok"},
    ],
    "driver-query": [
        {"components": {"web": {"settings": {"cpu": {"value": 1}}}}},
        {"settings": {"cpu": {"value": None}}},
        {"application": {"annotations": {}}, "status": "ok", "components": 5},
        described({**SETTING, "pinned": True, "default": 2}),
        described({"type": "enum", "values": [1, True, "1"], "value": True}),
    ],
    "adjust-input": [
        {"application": {}},
        {"application": {"components": {"web": {"namespace": "a"}}}},
        described({"value": None, "unit": "cores"}),
    ],
    "progress": [{"progress": 130, "message": ["a", "b"], "log": {}}, {"progress": -1.5}],
    "driver-reply": [
        {"status": "transient-failure"},
        {"status": "unheard-of", "reason": "x", "progress": 4},
    ],
    "agg-query": [described(4)],
    "agg-final": [
        {"status": "ok", "reason": "success", "drivers": {"01web": DONE}, "state": []},
        {**FAILURE, "drivers": {"01web": {"status": "answered", "seconds": 0}}, "state": 1},
        # A driver may report a failure with the status `skipped`.
        {**FAILURE, "drivers": {"01web": {**DONE, "status": "skipped", "message": "x"}}},
    ],
    "agg-check": [{**CHECK, "application": None, "drivers": []}],
    "agg-plan": [planned({**CHANGE, "wrong": "above its maximum 3"}, CHANGE, status="failed")],
    "agg-log-line": [
        log_line("driver", exit="signal 35", signals=["SIGTERM", "SIGKILL"]),
        log_line("driver", exit=None, application=None),
        without(log_line("run"), "settings"),
        log_line("run", settings_omitted=44),
    ],
    "agg-test-driver": [judged({**RULE, "verdict": "not-tested"}), judged(RULE, BROKEN, status="failed")],
}

NOT_MATCHING: dict[str, list[Any]] = {
    "driver-info": [
        *({}, [], "1.0", {"version": None}, {"version": " "}),
        {"version": "1.0", "has_cancel": "yes"},
        {"version": "1.0", "status": "failed"},
        {"version": "1.0", "progress": 5},
    ],
    "driver-query": [
        *({}, [], {"status": "ok"}, {"application": []}, {"components": []}),
        {"application": {}, "status": "failed"},
        {"application": {}, "progress": 5},
        {"settings": {"cpu": 4}},
        {"application": {"components": {"web": []}}},
        {"application": {"components": {"web": {"settings": None}}}},
        *map(described, [None, 4, {}, {"value": 1, "unit": 3}, {"min": 1, "value": "1"}]),
        *(described(without(SETTING, key)) for key in ("min", "max", "value")),
        *(described({**SETTING, key: "1"}) for key in ("min", "max", "step", "value")),
        *(described({**SETTING, "step": step}) for step in (0, -1)),
        *(described({**SETTING, "type": kind}) for kind in ("integer", None, "Range")),
        described({"type": "enum", "value": 1}),
        *(described({"values": values, "value": "a"}) for values in ([], ["a", "a"], ["a", 1, 1.0])),
        *(described({"values": values, "value": "a"}) for values in ("a", None)),
    ],
    "adjust-input": [
        *({}, [], {"application": None}, {"application": {"settings": []}}),
        *map(described, [4, {}, [], {"Value": 4}]),
        {"application": {"components": {"web": {"cpu": {"value": 4}}}}},
    ],
    "progress": [
        *({}, [], {"message": "x"}, {"progress": True}, {"progress": "50"}),
        {"progress": 1, "status": "ok"},
        {"progress": 1, "message": {"text": "x"}},
    ],
    "driver-reply": [
        *({}, [], {"error": "x", "message": "y"}, {"status": "failed", "reason": ["x"]}),
        *({"status": status} for status in ("", " ", "OK", " ok", "ok\n")),
        *({"status": status} for status in (None, 0, True)),
    ],
    "agg-info": [
        {"version": "aggregator 2.0.0 ()", "has_cancel": True},
        {"version": "aggregator 2.0.0 ()", "has_cancel": False, "drivers": {}},
        {"version": "2.0.0", "has_cancel": True, "drivers": {}},
        {"version": "aggregator 2.0.0 ()", "has_cancel": True, "drivers": {}, "x": 1},
        informed({"version": "1"}),
        informed({"version": "", "has_cancel": True}),
        informed({"version": "1", "has_cancel": None}),
        informed({"version": "1", "has_cancel": True, "status": "ok"}),
        informed({"version": "1", "has_cancel": False, "message": "on --info: gave no reply"}),
    ],
    "agg-query": [
        *({}, {"application": {}}, {"components": {}}, {"application": {"components": {"web": 1}}}),
        *({"application": {"components": {}}, key: "x"} for key in ("status", "reason", "message", "error")),
        *({"application": {"components": {}}, key: "x"} for key in ("class", "progress", "drivers")),
    ],
    "agg-progress": [
        *({"progress": progress, "message": "x"} for progress in (-1, 101, 0.5, True)),
        *({"progress": 1}, {"progress": "1", "message": "x"}, {"progress": 1, "message": ["x"]}),
        {"progress": 1, "message": "x", "status": "ok"},
    ],
    "agg-final": [
        *(without(FAILURE, key) for key in FAILURE),
        *({**FAILURE, "status": status} for status in ("ok", "OK", "", None)),
        *({**FAILURE, key: "x"} for key in ("state", "progress", "error", "class")),
        {**FAILURE, "reason": None},
        *({**FAILURE, "message": text} for text in ("", "x" * (256 * 1024 + 1))),
        {"status": "ok", "reason": "success"},
        {"status": "ok", "reason": "fine", "drivers": {}},
        {"status": "ok", "reason": "success", "drivers": {}, "message": "x"},
        {"status": "ok", "reason": "no-drivers", "drivers": {}},
        failed({}),
        failed({"status": "skipped", "seconds": 1}),
        failed({"status": "answered"}),
        failed({"status": "ok"}),
        *(failed({**DONE, key: value}) for key, value in (("seconds", -1), ("state", 1))),
        *(failed({**DONE, key: value}) for key, value in (("message", "x"), ("status", "failed"))),
        failed({**DONE, "status": "OK", "message": "x"}),
    ],
    "agg-check": [
        *(without(CHECK, key) for key in CHECK),
        {**CHECK, "status": "failed"},
        {**CHECK, "problems": [PROBLEM]},
        {**CHECK, "status": "failed", "problems": [{**PROBLEM, "remedy": ""}]},
        {**CHECK, "more": 1},
        *({**CHECK, "drivers": [without(ROW, key)]} for key in ROW),
        {**CHECK, "drivers": [{**ROW, "settings": 1.5}]},
    ],
    "agg-plan": [
        *(without(planned(CHANGE), key) for key in planned(CHANGE)),
        *(planned(without(CHANGE, key)) for key in CHANGE),
        planned(CHANGE, status="failed"),
        planned({**CHANGE, "wrong": "above its maximum 3"}),
        planned(),
        planned({**CHANGE, "limits": {"unit": "cores"}}),
    ],
    "agg-log-line": [
        *(without(log_line("driver"), key) for key in log_line("driver")),
        *(without(log_line("run"), key) for key in log_line("run") if key != "settings"),
        *(log_line("driver", exit=status) for status in (-9, 256)),
        *(log_line("driver", exit=status) for status in ("9", "")),
        log_line("driver", signals=["SIGTERM", "SIGTERM"]),
        log_line("driver", signals=["SIGCONT"]),
        log_line("driver", message="x" * 1025),
        log_line("driver", time="2026-11-26 18:51:07"),
        log_line("run", command="query"),
        log_line("run", start=0.1),
        log_line("run", signals=[]),
        log_line("run", settings={str(number): number for number in range(257)}),
        log_line("run", settings_omitted=0),
        without(log_line("run", settings_omitted=1), "settings"),
    ],
    "agg-test-driver": [
        *(without(judged(RULE), key) for key in judged(RULE)),
        *(judged(without(RULE, key)) for key in RULE),
        judged(),
        judged(BROKEN),
        judged(RULE, status="failed"),
        judged({**BROKEN, "remedy": None}, status="failed"),
        judged({**RULE, "remedy": "exit with 1"}),
        judged({**RULE, "verdict": "FAIL"}, BROKEN, status="failed"),
    ],
    "agg-timings": [
        {"total": 1, "sequential": 1},
        {"total": 1, "sequential": -1, "records": []},
        {"total": 1, "sequential": 1, "records": [{"driver": "01web", "phase": "query"}]},
    ],
    "config-agg": [{"agg": []}, {"agg": 1}, {"agg": {"parallel": 0}}],
    "common#/$defs/text": [1, None, [1], {}],
    "common#/$defs/seconds": [-0.1, "1", None],
}


# One test for each schema: one for each instance would take several times as long.


@pytest.mark.parametrize("name", MATCHING)
def test_an_allowed_value_matches_its_schema(name: str) -> None:
    found = [(instance, mismatch(name, instance)) for instance in MATCHING[name]]
    assert [(instance, why) for instance, why in found if why is not None] == []


@pytest.mark.parametrize("name", NOT_MATCHING)
def test_a_wrong_value_does_not_match_its_schema(name: str) -> None:
    assert [instance for instance in NOT_MATCHING[name] if mismatch(name, instance) is None] == []


def test_every_schema_has_instances_that_do_not_match() -> None:
    assert {name.partition("#")[0] for name in NOT_MATCHING} == set(NAMES)


def test_what_servo_agg_answers_is_what_a_driver_may_answer() -> None:
    """A servo directory can be a driver of another."""
    for ours, driver in (
        ("agg-info", "driver-info"),
        ("agg-query", "driver-query"),
        ("agg-progress", "progress"),
        ("agg-final", "driver-reply"),
    ):
        for example in schemas()[ours]["examples"]:
            assert mismatch(driver, example) is None, example


# The section `agg`.


def section() -> dict[str, Any]:
    properties: dict[str, Any] = schemas()["config-agg"]["properties"]["agg"]["properties"]
    return properties


def config_of(values: dict[str, Any]) -> dict[str, Any]:
    config = Config("/servo", Listing(), {}, section=values, io_timeout=None, stderr="all")
    return without(vars(config), "listing")


def test_the_schema_has_the_keys_of_the_section_with_their_defaults() -> None:
    assert section().keys() == KEYS.keys()
    defaults = {key: part["default"] for key, part in section().items() if "default" in part}
    assert KEYS.keys() - defaults.keys() == {"io_timeout", "log"}
    assert config_of(defaults) == config_of({})
    # Another value than the default makes a difference, so that the comparison above means something.
    others = {"parallel": 1, "grace": 1, "cancel_grace": 1, "on_failure": "stop", "log": "a"}
    others.update(serial=["a"], complete=["a"])
    for key, value in others.items():
        assert config_of({**defaults, key: value}) != config_of({}), key


GOOD_SECTIONS = (
    "",
    "{}",
    "null",
    "{parallel: 1}",
    "{parallel: 100000}",
    *(f"{{{key}: {value}}}" for key in ("io_timeout", "grace", "cancel_grace") for value in (0, 2.5, 10**9)),
    "{on_failure: stop}",
    "{on_failure: continue, log: /var/log/agg}",
    "{serial: [], complete: ['k8s-*', '[a-z]?']}",
    "{log: agg.log}",
    "{log: '0'}",
    "{serial: ['1']}",
)

BAD_SECTIONS = (
    "1",
    "text",
    "[]",
    "[grace]",
    "{paralel: 2}",
    "{Grace: 2}",
    "{'': 2}",
    *(f"{{parallel: {value}}}" for value in (0, -1, 1.5, "'1'", "true", "null", "[1]", ".inf")),
    *(
        f"{{{key}: {value}}}"
        for key in ("io_timeout", "grace", "cancel_grace")
        for value in (-1, 10**9 + 1, "3s", "'3'", "true", "null", "[]", "1e3")
    ),
    *(f"{{on_failure: {value}}}" for value in ("abort", "Stop", "true", "null", "[stop]")),
    *(f"{{log: {value}}}" for value in ("''", "1", "true", "null", "[a]", '"a\\0b"')),
    *(
        f"{{{key}: {value}}}"
        for key in ("serial", "complete")
        for value in ("'k8s-*'", "[1]", "[null]", "[[a]]", "null", "{a: b}", "[a, true]")
    ),
)

BEYOND_A_SCHEMA = {
    "{grace: 1, grace: 2}": "a parser of YAML or an editor refuses a key that is given twice",
    "{serial: ['[z-a]']}": "a pattern with a range that is the wrong way round",
    "{parallel: 1.0}": "1.0 is an integer for JSON Schema",
}


def accepted_by(text: str) -> tuple[bool, bool]:
    """Return whether servo-agg and whether the schema accept the section."""
    content = f"k8s: {{namespace: web}}\nagg: {text}\n"
    try:
        parse_section(content, None)
    except BadConfiguration:
        ours = False
    else:
        ours = True
    return ours, validator("config-agg").is_valid(yaml.safe_load(content))


def test_good_sections_are_accepted_by_servo_agg_and_by_the_schema() -> None:
    assert [text for text in GOOD_SECTIONS if accepted_by(text) != (True, True)] == []


def test_bad_sections_are_refused_by_servo_agg_and_by_the_schema() -> None:
    assert [text for text in BAD_SECTIONS if accepted_by(text) != (False, False)] == []


@pytest.mark.parametrize("text", BEYOND_A_SCHEMA)
def test_only_servo_agg_refuses_what_a_schema_cannot_say(text: str) -> None:
    assert accepted_by(text) == (False, True)


@pytest.mark.parametrize("text", ["", "- a\n", "text\n", "agg: {}\nk8s: [1]\n'1': {agg: 3}\n"])
def test_other_sections_are_not_judged(text: str) -> None:
    assert parse_section(text, None) == {}
    assert mismatch("config-agg", yaml.safe_load(text)) is None
