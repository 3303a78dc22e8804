"""SPEC 11: section `agg` in the text of config.yaml."""

from __future__ import annotations

import contextlib
import re
import time
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from servo_agg.config_schema import KEYS
from servo_agg.config_section import parse_section
from servo_agg.errors import BadConfiguration

LEVELS = 20_000
"""Far more than an interpreter or libyaml (1,000) nests."""


def refusal(text: str) -> str:
    with pytest.raises(BadConfiguration) as raised:
        parse_section(text, None)
    return str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        *("", "agg:\n", "agg: null\n", "agg: {}\n", "# agg: {parallel: 1}\n", "---\n...\n# agg\n"),
        "k8s: {agg: {parallel: -1}}\n",
        "aggregate: {parallel: -1}\nflag: x\n",
        "- agg\n- {agg: {parallel: -1}}\n",
        "agg\n",
        "? [agg]\n: {parallel: -1}\n? {agg: 1}\n: 2\n",
    ],
)
def test_a_file_without_keys_in_the_section_configures_nothing(text: str) -> None:
    assert parse_section(text, None) == {}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("parallel: 1000", {"parallel": 1000}),
        ("io_timeout: 2.5", {"io_timeout": 2.5}),
        ("io_timeout: 0", {"io_timeout": 0}),
        ("grace: 1000000000", {"grace": 10**9}),
        ("cancel_grace: 60", {"cancel_grace": 60}),
        ("on_failure: stop", {"on_failure": "stop"}),
        ("on_failure: continue", {"on_failure": "continue"}),
        ("serial: []", {"serial": []}),
        ("serial: ['git-*', 'k8s-?']", {"serial": ["git-*", "k8s-?"]}),
        ("complete: [k8s]", {"complete": ["k8s"]}),
        ("log: /var/log/agg", {"log": "/var/log/agg"}),
        ("'grace': 1\n  \"parallel\": 2", {"grace": 1, "parallel": 2}),
        ("grace: &g 1\n  io_timeout: *g", {"grace": 1, "io_timeout": 1}),
    ],
)
def test_a_key_has_the_value_that_is_given(text: str, values: dict[str, Any]) -> None:
    assert parse_section(f"k8s: {{parallel: 99}}\nagg:\n  {text}\n", None) == values


@pytest.mark.parametrize(
    "text",
    [
        "a: !vault secret\nb: !!python/object:os.system {x: 1}\nagg: {grace: 7}\n",
        "a: !!python/object/apply:os.abort []\nagg: {grace: 7}\n",
        "!servo\nagg: {grace: 7}\n",
        "a: &x {grace: 7}\nagg: *x\n",
        "a: &x {grace: 8}\nagg:\n  <<: *x\n  grace: 7\n",
        "a: &x 7\nb: !foo\n  - *x\nagg: {grace: *x}\n",
        "agg: {grace: 7}\nb: &r [*r]\n",
        "? {a: 1}\n: 2\n? [b]\n: 3\nagg: {grace: 7}\n",
        "a: *nobody\nagg: {grace: 7}\n",
        "agg: {grace: 7}\na: 1\na: 2\n",
        "a: &x 1\nb: &x 7\nagg: {grace: *x}\n",
        "b: &b {agg: {grace: 7}}\n<<: *b\n",
        "b: &b {agg: {grace: 7}}\nc: &c {<<: *b}\n<<: [{x: 1}, *c]\n",
        "b: &b {agg: {grace: 5}}\n<<: *b\nagg: {grace: 7}\n",
        "b: &b {agg: {grace: 7}}\nc: &c {agg: {grace: 8}}\n<<: [*b, *c]\n",
        "<<: {agg: {grace: 7}}\n",
        "a: 2020-13-45\nb: 1.0e+400\nagg: {grace: 7}\n",
        "{agg: {grace: 7}, caf\xe9: \u20ac}",
        "%YAML 1.1\n---\nagg:\r\n  grace: 7\r\n",
        *("agg: {grace: 7}\n---\n[ broken\n", "agg: {grace: 7}\n---\nb: 1\n"),
        "a0: &a0 [x]\n"
        + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 25))
        + "agg: {grace: 7}\n",
    ],
)
def test_the_rest_of_the_file_is_not_checked(text: str) -> None:
    assert parse_section(text, None) == {"grace": 7}


DEEP = {
    "lists": "[" * LEVELS + "]" * LEVELS,
    "lists in lines": "[\n" * LEVELS + "]\n" * LEVELS,
    "mappings": "{a: " * LEVELS + "}" * LEVELS,
    "JSON": '{"]":[' * LEVELS + "]}" * LEVELS,
    "texts and comments in brackets": "[" * 300 + "']]', \"\\\"]]\", it's ] # ]]\n" + "," + "]" * 299,
    "dashes": "\n  " + "- " * LEVELS + "1",
    "question marks": "\n  " + "? " * LEVELS + "1",
    "indented": "\n" + "".join(" " * level + "a:\n" for level in range(2, 1300)),
}
AROUND_DEEP = {
    "before": "base: &base {grace: 7}\ndeep: DEEP\nagg: {<<: *base}\n",
    "after": "base: &base {grace: 7}\nagg: {<<: *base}\ndeep: DEEP\n",
    "around": "part:\n  base: &base {grace: 8}\n  deep: DEEP\n  grace: &grace 7\n"
    "agg: {<<: *base, grace: *grace}\n",
}
BRACES = "{a: &a {grace: 7}, deep: DEEP, agg: {<<: *a}}\n"


@pytest.mark.parametrize(
    ("text", "deep"),
    [
        *((text, deep) for deep in DEEP for text in AROUND_DEEP.values()),
        *((BRACES, deep) for deep in ("lists", "mappings", "JSON")),
    ],
)
def test_the_rest_of_the_file_may_be_nested_to_any_depth(text: str, deep: str) -> None:
    assert parse_section(text.replace("DEEP", DEEP[deep]), None) == {"grace": 7}


COUNT = "a whole number of 1 or more"
PATTERNS = "a list of name patterns, such as ['k8s-*']"
SECONDS = "a number of seconds from 0 to a billion"
POLICY = "continue or stop"


@pytest.mark.parametrize(
    ("key", "value", "shown", "expected"),
    [
        *(("parallel", value, value, COUNT) for value in ("0", "-7", "1.5", "true", "[4]", ".inf", "null")),
        ("parallel", "", "empty", COUNT),
        ("parallel", "four", "the string 'four'", COUNT),
        ("parallel", "'4'", "the string '4'", COUNT),
        ("parallel", "!Custom 1", "!Custom 1", COUNT),
        ("parallel", "!!python/object/apply:os.abort []", "!!python/object/apply:os.abort []", COUNT),
        *(("serial", value, value, PATTERNS) for value in ("[a, 77]", "{name: k8s}", "[[a]]", "5")),
        ("serial", "k8s-*", "the string 'k8s-*'", PATTERNS),
        ("complete", "k8s-*", "the string 'k8s-*'", PATTERNS),
        *(
            (key, value, value, SECONDS)
            for key in ("io_timeout", "grace", "cancel_grace")
            for value in ("-1", ".nan", ".inf", "-.inf", "1000000001", "false", "[77]", "null", "2024-13-45")
        ),
        ("io_timeout", "30s", "the string '30s'", SECONDS),
        ("io_timeout", "1:" * 140 + "1", "1:" * 40 + "...", SECONDS),
        ("grace", "1" * 5000, "1" * 80 + "...", SECONDS),
        ("grace", "!!float ''", "!!float ''", SECONDS),
        ("grace", "!!bool x", "!!bool x", SECONDS),
        ("grace", "!!python/int 5", "!!python/int 5", SECONDS),
        ("grace", "!!timestamp x", "!!timestamp x", SECONDS),
        ("grace", "2020-12-05 10:00:00", "2020-12-05 10:00:00", SECONDS),
        ("grace", "!!set {a}", "!!set {a}", SECONDS),
        ("grace", "!!binary aGk=", "!!binary aGk=", SECONDS),
        *(("on_failure", value, value, POLICY) for value in ("false", "{stop: 1}", "[stop]", "null")),
        ("on_failure", "Stop", "the string 'Stop'", POLICY),
        ("on_failure", '"\\e[31m\\n"', "the string '\\x1b[31m\\n'", POLICY),
        ("on_failure", "x" * 1000, f"the string '{'x' * 80}...'", POLICY),
        ("log", "''", "the string ''", "the path of a file"),
    ],
    ids=lambda value: value[:30],
)
def test_a_wrong_value_is_refused_with_line_key_and_value(
    key: str, value: str, shown: str, expected: str
) -> None:
    message = refusal(f"agg:\n  {key}: {value}\n")
    assert message == f"config.yaml, line 2: agg.{key} is {shown}, expected {expected}"


NO_ANCHOR = "this alias (*NAME) has no anchor (&NAME) above it; define the anchor, or remove the alias"
REVERSED = "in a pattern of agg.{} the range {!r} is reversed; write {!r}"
ONLY_MAPPINGS = "<< merges only mappings; give it a mapping, such as *NAME"
THE_KEYS = "known keys: parallel, serial, io_timeout, grace, cancel_grace, on_failure, log, complete"


@pytest.mark.parametrize(
    ("line", "key", "value", "hint"),
    [
        *(
            (f"{key}: 4", key, "4", f"did you mean {near!r}?")
            for key, near in [
                *(("paralel", "parallel"), ("PARALLEL", "parallel"), ("seriell", "serial")),
                *(("timeout", "io_timeout"), ("io-timeout", "io_timeout"), ("iotimeout", "io_timeout")),
                *(("graze", "grace"), ("cancelgrace", "cancel_grace"), ("onfailure", "on_failure")),
            ]
        ),
        ("color: blue", "color", "the string 'blue'", THE_KEYS),
        *(("4711: 1", "4711", "1", THE_KEYS), ("'': 1", "", "1", THE_KEYS)),
        *(("null: 1", "null", "1", THE_KEYS), ("[a, b]: 1", "[a, b]", "1", THE_KEYS)),
        ("? {a: b}\n  : 1", "{a: b}", "1", THE_KEYS),
        ("x" * 1000 + ": 1", "x" * 80 + "...", "1", THE_KEYS),
    ],
    ids=lambda value: value[:30],
)
def test_an_unknown_key_is_refused_with_its_value_and_the_nearest_known_one(
    line: str, key: str, value: str, hint: str
) -> None:
    message = f"config.yaml, line 2: unknown key '{key}' (value {value}) in section agg; {hint}"
    assert refusal(f"agg:\n  {line}\n") == message


NO_MAPPING = "the section agg must hold keys with values, such as `grace: 5`"
NOT_YAML = "config.yaml is not valid YAML"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # Not a mapping.
        ("agg: 4711", f"config.yaml, line 1: {NO_MAPPING}, got 4711"),
        ("agg: ''", f"config.yaml, line 1: {NO_MAPPING}, got the string ''"),
        ("agg: some text", f"config.yaml, line 1: {NO_MAPPING}, got the string 'some text'"),
        ("agg:\n  parallel:4\n", f"config.yaml, line 2: {NO_MAPPING}, got the string 'parallel:4'"),
        ("agg:\n- parallel: 4\n", f"config.yaml, line 2: {NO_MAPPING}, got - parallel: 4"),
        ("agg: !Own {grace: 1}", f"config.yaml, line 1: {NO_MAPPING}, got !Own {{grace: 1}}"),
        (
            "agg: !!python/object/apply:os.abort []",
            f"config.yaml, line 1: {NO_MAPPING}, got !!python/object/apply:os.abort []",
        ),
        (
            "agg: " + "[" * 1500 + "]" * 1500,
            f"config.yaml, line 1: {NO_MAPPING}, got {'[' * 80}...",
        ),
        # Given twice, or in two places.
        (
            "agg:\n  grace: 1\n  grace: x\n",
            "config.yaml, line 3: agg.grace is set twice; remove one of the two",
        ),
        (
            "agg:\n  on_failure: stop\nk8s: {}\nagg:\n  parallel: 2\n",
            "config.yaml, line 4: a second section agg; put all keys into one section",
        ),
        (
            "k8s: {}\n---\nagg:\n  parallel: 2\n",
            (
                "config.yaml, line 4: the section agg is in the second document, after a `---`; move it into"
                " the first"
            ),
        ),
        # Not YAML.
        ("agg: {grace: 1}\nother: [\n", f"{NOT_YAML} at line 3, column 1"),
        ("agg: {grace: 1}\nx: \x00\n", f"{NOT_YAML}: line 2 has a control character; remove it"),
        ("k8s: \x07\nagg: {parallel: 1}\n", f"{NOT_YAML}: line 1 has a control character; remove it"),
        ("k8s:\n \tkey: SECRET\nagg: {}\n", f"{NOT_YAML}: line 2 is indented with a tab; YAML needs spaces"),
        (
            "k8s: [SECRET\nlist: b\nagg: {}\n",
            f"{NOT_YAML} at line 2, column 5, in the part that starts at line 1",
        ),
        # Aliases, merges and patterns.
        (
            "agg: *nobody",
            f"config.yaml, line 1, column 6: {NO_ANCHOR}",
        ),
        ("k8s: agg\n<<: 3\n", f"config.yaml, line 2: {ONLY_MAPPINGS}"),
        ("agg: {<<: 1}\n", f"config.yaml, line 1: {ONLY_MAPPINGS}"),
        (
            "agg: {serial: ['k8s-*', 'x[z-a]*']}\n",
            f"config.yaml, line 1: {REVERSED.format('serial', 'z-a', 'a-z')}: 'x[z-a]*'",
        ),
        (
            "agg: {complete: ['[0-9a-z]', '[!a-f9-0]']}\n",
            f"config.yaml, line 1: {REVERSED.format('complete', '9-0', '0-9')}: '[!a-f9-0]'",
        ),
        (
            f"agg: {{serial: ['{'[a-' * 400}']}}\n",
            (
                "config.yaml, line 1: a pattern of agg.serial is longer than 1000 characters; shorten it:"
                f" '{('[a-' * 400)[:80]}...'"
            ),
        ),
        # Lines are counted as an editor counts them.
        (
            "k8s: \U0001f600\r\nagg: {grace: [1, 2]}\r\n",
            f"config.yaml, line 2: agg.grace is [1, 2], expected {SECONDS}",
        ),
        # The sections of drivers are not quoted: they may contain passwords.
        (
            "k8s: &k8s {password: SECRET}\nagg: {<<: *k8s}\n",
            f"config.yaml, line 1: unknown key 'password' in section agg; {THE_KEYS}",
        ),
        ("k8s: &k8s SECRET\nagg: *k8s\n", f"config.yaml, line 1: {NO_MAPPING}"),
        ("k8s: &k8s SECRET\nagg: !!str [*k8s]\n", f"config.yaml, line 2: {NO_MAPPING}, got !!str [*k8s]"),
        (
            "k8s: &k8s SECRET\nagg:\n  *k8s : 4\n",
            f"config.yaml, line 3: an alias (*NAME) in section agg stands for an unknown key; {THE_KEYS}",
        ),
        *(
            (f"k8s:\n  password: {value}\nagg: {{grace: 1}}\n", f"{NOT_YAML} at line 2, column 13")
            for value in ("@SECRET", "`SECRET", "%SECRET", "!SECRET!x y")
        ),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_a_section_that_cannot_be_read_is_refused_with_this_message(text: str, message: str) -> None:
    assert refusal(text) == message


HAS_VALUE = "which already has a value; indent both lines equally, or remove that value"
NOT_CLOSED = "that is not closed; close it"
BRACKET_NOT_CLOSED = f"{NOT_CLOSED}, or put the value in quotes"
INDENTATION = (
    "is indented differently from the lines above it; indent all entries of a mapping or list equally"
)

SYNTAX_ERRORS = [
    # Tabs.
    ("\tgrace: 5", 2, "is indented with a tab; YAML needs spaces"),
    ("  grace: 5\n\tparallel: 3", 3, "is indented with a tab; YAML needs spaces"),
    ("  serial:\n\t- a", 3, "is indented with a tab; YAML needs spaces"),
    # Colons.
    ("  grace 5\n  parallel: 3", 2, "has no colon after the key; write KEY: VALUE"),
    ("  parallel: 3\n  grace", 3, "has no colon after the key; write KEY: VALUE"),
    ("  grace = 5\n  parallel: 3", 2, "has no colon after the key; write KEY: VALUE"),
    ("  parallel: 3\n  grace 5\nk8s: SECRET", 3, "has no colon after the key; write KEY: VALUE"),
    ("  grace:5\n  parallel: 3", 2, "has no space after the colon; write KEY: VALUE"),
    ("  parallel: 3\n  grace:5\n  log: x", 3, "has no space after the colon; write KEY: VALUE"),
    ("  log: a: b", 2, "has a second colon; put the value in quotes, or each key on its own line"),
    # Quotes and brackets.
    ('  log: "x\n  grace: 5', 2, f'has a " {NOT_CLOSED}'),
    ("  grace: 5\n  log: 'x", 3, f"has a ' {NOT_CLOSED}"),
    ("  serial: [a, b\n  grace: 5", 2, f"has a [ {BRACKET_NOT_CLOSED}"),
    ("  serial: [a, b\nk8s: [SECRET]", 2, f"has a [ {BRACKET_NOT_CLOSED}"),
    ("  serial: [{a, b]", 2, f"has a {{ {BRACKET_NOT_CLOSED}"),
    ("  serial: ['a' 'b']", 2, "needs a comma or quotes at column 16"),
    ("  log: 'it's'", 2, "has text after a closing quote; put the whole value in quotes"),
    ("  serial: ['a'-*, b]", 2, "has text after a closing quote; put the whole value in quotes"),
    ('  log: "C:\\path"', 2, "has an unknown escape sequence in double quotes; use single quotes"),
    *(
        (f"  serial: [a, {first}x]", 2, f"has a value that begins with {first}; put it in quotes")
        for first in "@`%"
    ),
    ("  serial: [*]", 2, "has a value that begins with *; put it in quotes"),
    ("  serial:\n  - *.k8s", 3, "has a value that begins with *; put it in quotes"),
    ("  log: |x", 2, "has a value that begins with |; put it in quotes"),
    # Indentation.
    (
        "  grace: 5\n    parallel: 3",
        3,
        f"is indented more than line 2, {HAS_VALUE}",
    ),
    ("    grace: 5\n  parallel: 3", 3, INDENTATION),
    ("  serial: []\n    parallel: 3", 3, INDENTATION),
    ("  serial:\n    - a\n   - b", 4, INDENTATION),
    ("  serial: - a", 2, "has a list item after a key; write the list in brackets, such as ['k8s-*']"),
]


@pytest.fixture(params=["the parser in C", "the parser in Python"])
def _parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "the parser in Python":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)


@pytest.mark.usefixtures("_parser")
@pytest.mark.parametrize(("section", "line", "cause"), SYNTAX_ERRORS)
def test_a_common_syntax_error_is_explained(section: str, line: int, cause: str) -> None:
    text = f"k8s: {{}}\nagg:\n{section}\n"
    quoted = "" if "tab" in cause else f": {text.splitlines()[line]!r}"
    assert refusal(text) == f"{NOT_YAML}: line {line + 1} {cause}{quoted}".replace(
        # The line that a cause refers to.
        "than line 2",
        "than line 3",
    )


@pytest.mark.usefixtures("_parser")
@pytest.mark.parametrize(
    ("section", "place"),
    [
        ("  log: ? x", "line 3, column 8: '  log: ? x'"),
        ("  serial: [a]]", "line 3, column 14: '  serial: [a]]'"),
        ("  grace: 5\n  - a", "line 4, column 3, in the part that starts at line 3: '  - a'"),
    ],
)
def test_of_other_syntax_errors_the_place_is_named(section: str, place: str) -> None:
    assert refusal(f"k8s: {{}}\nagg:\n{section}\n") == f"{NOT_YAML} at {place}"


@pytest.mark.usefixtures("_parser")
@given(st.text(st.sampled_from("agk :\n\t-[]{}\"'\\#&*!|>%@`,?ä\u2028"), max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_accepted_or_refused_with_a_message(text: str) -> None:
    with contextlib.suppress(BadConfiguration):
        parse_section(f"agg:\n  {text}\nk8s: 1\n", None)


@pytest.mark.usefixtures("_parser")
@pytest.mark.parametrize(
    "error", [section for section, _, cause in SYNTAX_ERRORS if "tab" not in cause and "k8s" not in section]
)
def test_a_line_outside_of_the_section_is_not_quoted(error: str) -> None:
    message = refusal(f"agg: {{}}\nk8s:\n{error.replace('a', 'SECRET')}\n")
    assert re.fullmatch(
        NOT_YAML + r" at line \d+, column \d+(, in the part that starts at line \d+)?", message
    )


LONG = {
    "a number in base 60": "agg: {io_timeout: " + "1:" * 150_000 + "1}\n",
    "unknown keys": "agg:\n" + "".join(f"  parallel{number}: 1\n" for number in range(20_000)),
}


@pytest.mark.parametrize("errors", [None, []], ids=["run", "check"])
@pytest.mark.parametrize("text", LONG.values(), ids=LONG.keys())
def test_a_section_takes_a_time_that_its_length_limits(text: str, errors: list[Any] | None) -> None:
    start = time.process_time()
    with contextlib.suppress(BadConfiguration):
        parse_section(text, errors)
    # 0.4 s where it was written; 4 s and more if the time grows with the square of the length.
    assert time.process_time() - start < 2


@pytest.mark.parametrize("text", ["agg: {grace: [1, &a {b: *a}]}\n", "agg: &a {grace: *a}\n"])
def test_a_recursive_value_is_refused(text: str) -> None:
    assert refusal(text).startswith("config.yaml, line 1: agg.grace is ")


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)


@example({"io_timeout": 5e-324})
@given(
    st.dictionaries(st.sampled_from([*KEYS, "other"]), scalars | st.lists(scalars, max_size=2), max_size=3)
)
def test_any_section_is_accepted_unchanged_or_refused_with_a_message(section: dict[str, Any]) -> None:
    try:
        values = parse_section(yaml.safe_dump({"agg": section}), None)
    except BadConfiguration as error:
        message = str(error)
        assert message.startswith("config.yaml")
        assert not re.search("Error|<class", message)
    else:
        assert values == section
        assert all(KEYS[key][0](value) for key, value in values.items())
