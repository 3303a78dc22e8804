"""SPEC 5, 14: what the command line means."""

from __future__ import annotations

from typing import Any

import pytest

from servo_agg.argument_parser import parse_arguments
from servo_agg.arguments import Arguments, parse_agent_arguments
from servo_agg.errors import UsageError

AGENT_FORMS: list[list[str]] = [
    ["--info"],
    ["--info", "app"],
    ["--query", "app"],
    ["--describe", "app"],
    ["--version"],
    ["--version", "app"],
    ["app"],
    ["a b"],
]


def known(arguments: Arguments | None) -> dict[str, Any]:
    assert arguments is not None
    found = {name: getattr(arguments, name) for name in Arguments.__slots__}
    return {**found, "assignments": list(arguments.assignments), "only": list(arguments.only)}


@pytest.mark.parametrize("words", AGENT_FORMS, ids=" ".join)
def test_the_forms_of_the_agent_mean_the_same_without_argparse(words: list[str]) -> None:
    assert known(parse_agent_arguments(words)) == known(parse_arguments(words))


@pytest.mark.parametrize("words", [[], ["--query"], ["-x"], [""], ["--query", "-x"], ["--info", ""], ["-V"]])
def test_other_forms_are_left_to_argparse(words: list[str]) -> None:
    assert parse_agent_arguments(words) is None


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        (["-V"], {"operation": "version"}),
        (["-vV"], {"operation": "version", "verbose": True}),
        (["-vv", "app"], {"operation": "adjust", "application": "app", "verbose": True}),
        (["--query=app"], {"operation": "query", "application": "app"}),
        (["app", "--query"], {"operation": "query", "application": "app"}),
        (["--query", "-v", "app"], {"operation": "query", "application": "app", "verbose": True}),
        (["--query", "--", "app"], {"operation": "query", "application": "app"}),
        (["--query", "--describe", "app"], {"operation": "query", "application": "app"}),
        (["--check", "--json"], {"operation": "check", "json": True}),
        (["--check", "app", "--timings"], {"operation": "check", "application": "app", "timings": True}),
        (
            ["--set", "a.b=1", "app", "--set=c=-2"],
            {"operation": "adjust", "application": "app", "assignments": ["a.b=1", "c=-2"]},
        ),
        (
            ["--set=-a.b=1", "--plan=app"],
            {"operation": "plan", "application": "app", "assignments": ["-a.b=1"]},
        ),
        (
            ["--only", "01*", "--info", "--only=02*"],
            {"operation": "info", "only": ["01*", "02*"]},
        ),
        (
            ["--query", "app", "--timings", "--json"],
            {"operation": "query", "application": "app", "timings": True, "json": True},
        ),
        (
            ["--test-driver", "01web", "app"],
            {"operation": "test-driver", "driver": "01web", "application": "app"},
        ),
        (
            ["app", "--test-driver=01web", "--read-only", "--json"],
            {
                "operation": "test-driver",
                "driver": "01web",
                "application": "app",
                "read_only": True,
                "json": True,
            },
        ),
        (["--no-such-option", "--help"], {"operation": "help"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_may_stand_anywhere_and_take_values_both_ways(
    words: list[str], meaning: dict[str, Any]
) -> None:
    expected: dict[str, Any] = {
        "application": None,
        "assignments": [],
        "driver": None,
        "only": [],
        "json": False,
        "read_only": False,
        "timings": False,
        "verbose": False,
    }
    assert known(parse_arguments(words)) == {**expected, **meaning}


NO_APP = "APP, the name of the application, is missing"
ONLY_NEEDS = "--only needs a pattern of driver names, such as --only '01*'"
ONLY_JSON = (
    "--json is allowed only with --check, --plan, --test-driver or --timings; --query, --info and an"
    " adjust print JSON without it"
)
NO_DASH = "(APP must not begin with a dash)"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-x", "app"], f"unknown option '-x' {NO_DASH}"),
        (["-vx", "app"], f"unknown option '-vx' {NO_DASH}"),
        (["--list", "app"], f"unknown option '--list' {NO_DASH}"),
        (["--st", "app"], "unknown option '--st': did you mean --set?"),
        (["--verb", "--query", "app"], "unknown option '--verb': did you mean --verbose?"),
        (["--QUERY", "app"], "unknown option '--QUERY': did you mean --query?"),
        (["--query", "--tmings"], "unknown option '--tmings': did you mean --timings?"),
        (["--query", "-"], f"unknown option '-' {NO_DASH}"),
        (["-app"], f"unknown option '-app' {NO_DASH}"),
        (["--caf\udce9"], f"unknown option '--caf\\udce9' {NO_DASH}"),
        (["--" + "x" * 100_000], f"unknown option '--{'x' * 78}...' {NO_DASH}"),
        (["--query=-app"], "APP must not begin with a dash, got '-app'"),
        (["--", "-app"], "APP must not begin with a dash, got '-app'"),
        (["--", "--info"], "APP must not begin with a dash, got '--info': did you mean --info?"),
        *((words, NO_APP) for words in (["--query"], ["--describe"], ["-v"], ["--plan"], ["--set", "a.b=4"])),
        (["--query", ""], "APP is empty; check that the variable it comes from is set"),
        (["--", ""], "APP is empty; check that the variable it comes from is set"),
        (["app", "b"], "only one APP is allowed, got 2 (put a name with spaces in quotes): 'app b'"),
        (
            ["--query", "a", "b\n"],
            "only one APP is allowed, got 2 (put a name with spaces in quotes): 'a b\\n'",
        ),
        (
            ["x" * 1000] * 50,
            f"only one APP is allowed, got 50 (put a name with spaces in quotes): '{'x' * 80}...'",
        ),
        (["--info", "--query", "app"], "only one operation is allowed, got --info, --query"),
        (["--plan", "app", "--check"], "only one operation is allowed, got --plan, --check"),
        (["--json=yes", "--check"], "--json takes no value, got '--json=yes'"),
        *(
            (["app", *words], "--set needs COMPONENT.SETTING=VALUE, such as --set web.cpu=4")
            for words in (["--set"], ["--set", "web.cpu"], ["--set", "web.cpu", "4"], ["--set", "=4"])
        ),
        *(
            ([operation, "--set=web.cpu=4"], "--set is allowed only with an adjust or --plan")
            for operation in ("--query=app", "--info", "--check", "--version")
        ),
        (["--check", "--only"], ONLY_NEEDS),
        *(
            ([*words, "--only=a"], "--only is allowed only with --query, --info, --check or --plan")
            for words in (["app"], ["--version"])
        ),
        *(
            (
                words,
                "--test-driver needs the name of a driver and APP, such as --test-driver 01web demo",
            )
            for words in (["--test-driver"], ["--test-driver=", "app"])
        ),
        (["--test-driver", "01web"], NO_APP),
        (
            ["--test-driver", "a", "--test-driver", "b", "app"],
            "only one --test-driver is allowed, got 2: 'a b'",
        ),
        (["--test-driver", "a", "--check"], "only one operation is allowed, got --test-driver, --check"),
        (["--read-only", "app"], "--read-only is allowed only with --test-driver"),
        (
            ["--query", "app", "--json"],
            ONLY_JSON,
        ),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_wrong_command_line_is_refused_with_this_message(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_arguments(words)
    assert str(raised.value) == message
