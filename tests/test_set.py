"""SPEC 14: `--set COMPONENT.SETTING=VALUE` instead of stdin; and which options go together."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.processes import environment
from tests.sources import describing

if TYPE_CHECKING:
    from tests.servo import ServoDirectory

APPLICATION = {
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


def chosen(servo: ServoDirectory, *choices: str) -> dict[str, Any]:
    """Give what an adjust with these choices would be given, as `--plan` tells; values by path."""
    servo.add_script("01a", describing({"application": APPLICATION}))
    words = [word for choice in choices for word in ("--set", choice)]
    completed = servo.run("--plan", "app", "--json", *words)
    assert completed.returncode == 0, completed
    (final,) = completed.messages
    (entry,) = final["drivers"]
    return {f"{change['component']}|{change['setting']}": change["to"] for change in entry["settings"]}


@pytest.mark.parametrize(
    ("choice", "place", "value"),
    [
        ("web.cpu=4", "web|cpu", 4),
        ("web.cpu=0.50", "web|cpu", 0.5),
        ("web.cpu= 4 ", "web|cpu", 4),
        ("web.cpu=4 cores", "web|cpu", "4 cores"),
        ("web.cpu=", "web|cpu", ""),
        ("web.cpu=null", "web|cpu", None),
        ("web.cpu=NaN", "web|cpu", "NaN"),
        ('web.cpu={"a": [1, true]}', "web|cpu", {"a": [1, True]}),
        ("web.cpu=" + "[" * 500, "web|cpu", "[" * 500),
        ("replicas=5", "None|replicas", 5),
        ("web.cpu.limit=5", "None|web.cpu.limit", 5),
        ("web.cpu.limit.soft=5", "web|cpu.limit.soft", 5),
        ("web.a.c=5", "web.a|c", 5),
        ("web.a=b=c=d", "web|a=b", "c=d"),
        ("web.a=bc", "web|a", "bc"),
        ("twice.y=5", "twice|y", 5),
        ("named.text=4", "named|text", "4"),
        ("named.text=", "named|text", ""),
        ('named.text="4"', "named|text", '"4"'),
        ("named.null=4", "named|null", 4),
        ("named.none=4", "named|none", 4),
        ("größe.ß=4", "größe|ß", 4),
        (".=4", "|", 4),
    ],
)
def test_a_setting_is_what_is_described(
    servo: ServoDirectory, choice: str, place: str, value: object
) -> None:
    assert chosen(servo, choice) == {place: value}


def test_as_often_as_needed(servo: ServoDirectory) -> None:
    given = chosen(servo, "web.cpu=4", "replicas=5", "named.text=6", "web.a=b=y")
    assert given == {"None|replicas": 5, "web|cpu": 4, "web|a=b": "y", "named|text": "6"}


@pytest.mark.parametrize(
    ("choices", "reason", "sentence"),
    [
        (
            ["web.cpx=4"],
            "unknown-settings",
            "--set web.cpx=4: no driver describes a setting web.cpx; did you mean web.cpu",
        ),
        (
            ["WEB.CPU=4"],
            "unknown-settings",
            "--set WEB.CPU=4: no driver describes a setting WEB.CPU; did you mean web.cpu",
        ),
        (
            ["zzz=4", "web.cpu=1", "yyy=5"],
            "unknown-settings",
            "--set zzz=4: no driver describes a setting zzz; --set yyy=5: no driver describes a setting yyy",
        ),
        (["zzz=4"], "unknown-settings", "--set zzz=4: no driver describes a setting zzz"),
        (["web=4"], "unknown-settings", "--set web=4: no driver describes a setting web; did you mean"),
        (
            ["twice.x=1"],
            "bad-input",
            "--set twice.x=1 may mean 'twice.x' of the application and 'x' of component 'twice': give it on",
        ),
        (["web.cpu=1", "replicas=1", "web.cpu=1"], "bad-input", "--set gives web.cpu more than once"),
        (['web.cpu={"a":1,"a":2}'], "bad-input", "--set web.cpu: in its value a is given twice"),
    ],
)
@pytest.mark.parametrize("operation", [(), ("--plan", "--json")], ids=["adjust", "plan"])
def test_what_is_unclear_is_refused(
    servo: ServoDirectory, operation: tuple[str, ...], choices: list[str], reason: str, sentence: str
) -> None:
    servo.add_script("01a", describing({"application": APPLICATION}))
    completed = servo.run(*operation, "app", *(f"--set={choice}" for choice in choices))
    assert completed.returncode == 1
    assert completed.reply["reason"] == reason
    assert completed.reply["message"].startswith(sentence)


def test_without_drivers_it_names_what_is_not_described(servo: ServoDirectory) -> None:
    (servo.drivers / "01a").touch()
    reply = servo.run("app", "--set", "web.cpu=4").reply
    assert reply["reason"] == "unknown-settings"
    assert reply["message"].startswith("--set web.cpu=4: no driver describes a setting web.cpu")
    assert "chmod +x makes drivers of the files there: 01a" in reply["message"]


def test_an_adjust_gives_it_to_the_drivers(servo: ServoDirectory) -> None:
    servo.add("01a", "echo", component="web")
    servo.add("02b", "echo", component="db", settings='"name": {"value": "x"}')
    completed = servo.run("app", "--set", "web.cpu=4", "--set=db.name=4")
    assert completed.reply["status"] == "ok"
    given = [json.loads(servo.echoed(name, "adjust")["stdin"]) for name in ("01a", "02b")]
    assert given == [
        {"application": {"components": {"web": {"settings": {"cpu": {"value": 4}}}}}},
        {"application": {"components": {"db": {"settings": {"name": {"value": "4"}}}}}},
    ]


@pytest.mark.parametrize("operation", [(), ("--plan",)], ids=["adjust", "plan"])
def test_stdin_is_not_read(servo: ServoDirectory, operation: tuple[str, ...]) -> None:
    servo.add("01a", "plain", component="web")
    theirs, ours = os.pipe()
    try:
        os.write(ours, b"for another")
        # The writer keeps it open: who read it would wait for ever.
        done = subprocess.run(
            ["./adjust", *operation, "app", "--set", "web.cpu=4"],
            cwd=servo.path,
            env=environment(servo.env),
            stdin=theirs,
            capture_output=True,
            timeout=30,
            check=True,
        )
        assert done.stderr == b""
        assert os.read(theirs, 64) == b"for another"
    finally:
        os.close(theirs)
        os.close(ours)


# Which options go together, and what is said when they do not.


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--query", "app", "--set", "web.cpu=4"], "--set goes with --plan or an adjust only"),
        (["--info", "--set=web.cpu=4"], "--set goes with --plan or an adjust only"),
        (["--check", "--set", "web.cpu=4"], "--set goes with --plan or an adjust only"),
        (["--version", "--set", "web.cpu=4"], "--set goes with --plan or an adjust only"),
        (["app", "--set"], "--set needs COMPONENT.SETTING=VALUE, such as --set web.cpu=4"),
        (["app", "--set", "web.cpu", "4"], "--set needs COMPONENT.SETTING=VALUE, such as --set web.cpu=4"),
        (["app", "--set", "=4"], "--set needs COMPONENT.SETTING=VALUE, such as --set web.cpu=4"),
        (["app", "--set=web.cpu"], "--set needs COMPONENT.SETTING=VALUE, such as --set web.cpu=4"),
        (
            ["--set", "web.cpu=4"],
            "APP is missing: the name of the application, which is passed on to the drivers",
        ),
        (["--plan"], "APP is missing: the name of the application, which is passed on to the drivers"),
        (["--plan", "a", "b"], "one APP only, but 2 are given: 'a b'; a name with blanks needs quotes"),
        (["app", "--json"], "--json goes with --check or --plan only: all else answers in JSON anyway"),
        (
            ["--query", "app", "--json"],
            "--json goes with --check or --plan only: all else answers in JSON anyway",
        ),
        (["--plan", "app", "--check"], "one at a time of --plan, --check"),
        (["--check", "--query", "app"], "one at a time of --check, --query"),
        (["--check", "--jsom"], "unknown option '--jsom': did you mean --json?"),
        (["app", "--timing"], "unknown option '--timing': did you mean --timings?"),
        (["--plan", "--xyzzy"], "unknown option '--xyzzy' (an APP must not begin with a dash)"),
        (["--query", "--tmings"], "unknown option '--tmings': did you mean --timings?"),
        (["--info", "-x"], "unknown option '-x' (an APP must not begin with a dash)"),
        (["--version", "-x"], "unknown option '-x' (an APP must not begin with a dash)"),
        (["--check", "-"], "unknown option '-' (an APP must not begin with a dash)"),
        (["--info", ""], "APP is empty: is the variable set that it comes from?"),
        (["--", ""], "APP is empty: is the variable set that it comes from?"),
        (["--query", "--", "-x"], "an APP must not begin with a dash, but '-x' does"),
        (["--plan", "--set", "a.b=1", "--", "-x"], "an APP must not begin with a dash, but '-x' does"),
        (
            ["--info", "--", "--tmings"],
            "an APP must not begin with a dash, but '--tmings' does: did you mean --timings?",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_does_not_go_together_is_refused(servo: ServoDirectory, words: list[str], sentence: str) -> None:
    servo.add("01a", "plain")
    completed = servo.run(*words)
    assert (completed.returncode, completed.stdout) == (2, b"")
    first, blank, usage, *_ = completed.stderr.decode("ascii").splitlines()
    assert first == f"adjust: {sentence}"
    assert blank == ""
    assert usage.startswith("usage: adjust ")
    assert servo.log() == []


@pytest.mark.parametrize(
    "words", [["--help"], ["-h"], ["--check", "--help"], ["app", "--set", "a.b=1", "-h"]]
)
def test_help_is_for_a_newcomer(servo: ServoDirectory, words: list[str]) -> None:
    servo.add("01a", "plain")
    completed = servo.run(*words)
    assert (completed.returncode, completed.stderr) == (0, b"")
    lines = completed.stdout.decode("ascii").splitlines()
    assert max(map(len, lines)) < 110
    text = " ".join(lines)
    for word in ("--query", "--info", "--version", "--check", "--plan", "--set", "--json", "--timings", "-v"):
        assert f" {word} " in text or f" {word}," in text, word
    assert servo.log() == []
