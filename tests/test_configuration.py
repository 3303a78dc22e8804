"""The section `agg` of config.yaml, through the whole program (SPEC 11)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.servo import Completed, Event, ServoDirectory


def adjust(servo: ServoDirectory, *settings: str, env: dict[str, str | None] | None = None) -> Completed:
    """Adjust `settings`."""
    return servo.run("app", input=json.dumps(servo.request(*settings)).encode(), env=env)


@pytest.fixture
def driver(servo: ServoDirectory) -> ServoDirectory:
    """Return a servo directory with one driver for web.cpu."""
    servo.add("driver", "plain", component="web")
    return servo


# --- how many are queried at once


MEETING = """\
#!/bin/sh
. ./behave.sh
if [ "$phase" = query ]; then
    touch "arrived.$name"
    waited=0
    while ! [ -e "arrived.$DRIVER_MEETS" ]; do
        waited=$((waited + 1))
        if [ "$waited" = 500 ]; then exit 7; fi
        sleep 0.02
    done
fi
behave
"""
"""A driver whose query lasts until that of another one has begun, at most 10 s."""


def add_meeting(servo: ServoDirectory, *names: str) -> None:
    """Add drivers that each wait for the next one, the last for the first."""
    for name, other in zip(names, [*names[1:], names[0]]):
        servo.add(name, "plain", meets=other)
        servo.add_script(name, MEETING)


def at_once(events: list[Event]) -> int:
    """Return how many drivers were alive at once, at most, by their own account."""
    most = alive = 0
    for event in events:
        alive += {"start": 1, "end": -1}[event.what]
        most = max(most, alive)
    return most


def test_spec_11_all_drivers_are_queried_at_once_unless_told_otherwise(servo: ServoDirectory) -> None:
    names = [f"{number:02}" for number in range(8)]
    add_meeting(servo, *names)
    completed = servo.run("--query", "app")
    assert completed.returncode == 0, completed
    assert list(completed.reply["application"]["components"]) == names


@pytest.mark.parametrize("operation", ["--query", "adjust"])
def test_spec_11_parallel_1_queries_one_after_another(servo: ServoDirectory, operation: str) -> None:
    names = ["01", "02", "03", "04"]
    for name in names:
        servo.add(name, "slow", seconds=0.05)
    servo.configure("agg: {parallel: 1}")
    completed = adjust(servo, "01.cpu") if operation == "adjust" else servo.run(operation, "app")
    assert completed.returncode == 0, completed
    events = servo.log(phase="query")
    assert [(event.name, event.what) for event in events] == [
        (name, what) for name in names for what in ("start", "end")
    ]


def test_spec_11_parallel_2_queries_two_at_once_and_no_more(servo: ServoDirectory) -> None:
    add_meeting(servo, "01", "02")
    for name in ("03", "04", "05"):
        servo.add(name, "slow", seconds=0.05)
    servo.configure("agg:\n  parallel: 2\n")
    completed = servo.run("--query", "app")
    assert completed.returncode == 0, completed
    assert at_once(servo.log(phase="query")) == 2


SERIAL: dict[str, tuple[list[str], list[str], list[str]]] = {
    "a pattern": (["k8s-*"], ["k8s-canary", "k8s-main", "k8s-other"], ["01", "02"]),
    "names": (["git", "vcs"], ["git", "vcs"], ["gitops", "01"]),
    "a set of characters": (["[ab]?"], ["a1", "b1"], ["c1", "a12"]),
    "upper and lower case differ": (["A*"], ["A1", "A2"], ["a1", "a2"]),
    "all": (["*"], ["01", "02", "03"], []),
    "one alone": (["01", "no such driver"], ["01"], ["02", "03"]),
}


@pytest.mark.parametrize(("patterns", "apart", "together"), SERIAL.values(), ids=SERIAL.keys())
def test_spec_11_serial_drivers_are_never_queried_at_the_same_time(
    servo: ServoDirectory, patterns: list[str], apart: list[str], together: list[str]
) -> None:
    """The others, and one of these, are: they do not end before they have met."""
    for name in apart[1:]:
        servo.add(name, "slow", seconds=0.05)
    if together:
        add_meeting(servo, *together, apart[0])
    else:
        servo.add(apart[0], "slow", seconds=0.05)
    servo.configure(f"agg: {{serial: {json.dumps(patterns)}}}")
    completed = servo.run("--query", "app")
    assert completed.returncode == 0, completed
    events = servo.log(phase="query")
    assert at_once([event for event in events if event.name in apart]) == 1
    # The answer is in driver order, whatever order they came in.
    assert list(completed.reply["application"]["components"]) == sorted([*apart, *together])


# --- io_timeout


@pytest.mark.parametrize("variable", [None, ""], ids=["unset", "empty"])
def test_spec_11_io_timeout_counts_when_the_variable_is_unset_or_empty(
    servo: ServoDirectory, variable: str | None
) -> None:
    servo.add("driver", "silent", when="query")
    servo.configure("agg: {io_timeout: 1}")
    completed = servo.run("--query", "app", env={"OPTUNE_IO_TIMEOUT": variable})
    assert completed.returncode == 1
    assert completed.reply["reason"] == "timeout"


@pytest.mark.parametrize("variable", ["60", "0"])
def test_spec_11_io_timeout_does_not_count_when_the_variable_is_set(
    servo: ServoDirectory, variable: str
) -> None:
    """The driver takes longer than the half second that io_timeout would leave it (SPEC 9)."""
    servo.add("driver", "slow", seconds=0.8)
    servo.configure("agg: {io_timeout: 1}")
    completed = servo.run("--query", "app", env={"OPTUNE_IO_TIMEOUT": variable})
    assert completed.returncode == 0, completed


def test_spec_11_io_timeout_0_is_unlimited(servo: ServoDirectory) -> None:
    servo.add("driver", "slow", seconds=0.3)
    servo.configure("agg: {io_timeout: 0}")
    assert servo.run("--query", "app").returncode == 0


# --- on_failure


@pytest.mark.parametrize(
    ("section", "statuses"),
    [
        ("", ["ok", "failed", "ok", "failed"]),
        ("agg: {}", ["ok", "failed", "ok", "failed"]),
        ("agg: {on_failure: continue}", ["ok", "failed", "ok", "failed"]),
        ("agg: {on_failure: stop}", ["ok", "failed", "not-started", "not-started"]),
    ],
    ids=["no section", "no key", "continue", "stop"],
)
def test_spec_11_and_7_7_on_failure(servo: ServoDirectory, section: str, statuses: list[str]) -> None:
    names = ["01", "02", "03", "04"]
    for name, kind in zip(names, ["plain", "exit3", "plain", "crash"]):
        servo.add(name, kind)
    servo.add("05", "plain")
    servo.configure(section)
    completed = adjust(servo, *(f"{name}.cpu" for name in names))
    assert completed.returncode == 1
    told = {name: one["status"] for name, one in completed.reply["drivers"].items()}
    assert told == {**dict(zip(names, statuses)), "05": "skipped"}
    started = [event.name for event in servo.log(phase="adjust") if event.what == "start"]
    assert started == [name for name, status in zip(names, statuses) if status != "not-started"]


# --- what is wrong


@pytest.mark.parametrize(
    "text",
    [
        "agg: {parallel: !!python/object/apply:os.mkdir [pwned]}",
        "agg: !!python/object/apply:os.mkdir [pwned]",
    ],
    ids=["a value", "the section"],
)
def test_spec_11_what_would_run_something_is_refused_and_not_run(driver: ServoDirectory, text: str) -> None:
    driver.configure(text)
    completed = driver.run("--query", "app")
    assert completed.reply["reason"] == "bad-configuration"
    assert not (driver.path / "pwned").exists()


# --- what is none of our business


NOT_JUDGED = {
    "no file": None,
    "an empty file": "",
    "only comments": "# nothing\n",
    "no section of ours": "k8s: {namespace: default}\n",
    "no section and not even YAML": "{{{ [ \t : not YAML !!! *x",
    "no section and a control character": "k8s: \x07\n",
    "an empty section": "agg: {}\n",
    "tags of the drivers": "agg: {parallel: 1}\nk8s: !Vault {secret: !Base64 eA==}\n",
    "what would run something": "k8s: !!python/object/apply:os.mkdir [pwned]\nagg: {parallel: 1}\n",
    "a date that is none": "k8s: {when: 2024-13-45}\nagg: {parallel: 1}\n",
    "the same key twice": "agg: {parallel: 1}\nk8s: 1\nk8s: 2\n",
    "a key that is a list": "[1, 2]: 3\nagg: {parallel: 1}\n? {a: b}\n: 4\n",
    "aliases": "base: &base {parallel: 1}\nagg: *base\n",
    "aliases without an anchor": "agg: {parallel: 1}\nk8s: *nowhere\n",
    "a merge": "base: &base {parallel: 1}\nagg:\n  <<: *base\n  serial: [x]\n",
    "a key that holds the bytes": "aggregate: {parallel: -1}\n",
    "a section within a section": "k8s: {agg: {parallel: -1}}\n",
    "a list that holds the word": "[agg]\n",
    "a text": "agg\n",
    "aliases of aliases of aliases": "a0: &a0 [x]\n"
    + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 25))
    + "agg: {parallel: 1}\n",
}


@pytest.mark.parametrize("text", NOT_JUDGED.values(), ids=NOT_JUDGED.keys())
def test_spec_11_the_rest_of_the_file_is_not_judged(driver: ServoDirectory, text: str | None) -> None:
    if text is not None:
        driver.configure(text)
    completed = adjust(driver, "web.cpu")
    assert completed.returncode == 0, completed
    assert completed.stderr == b""
    assert not (driver.path / "pwned").exists()


def test_spec_11_a_file_without_our_section_need_not_even_be_text(driver: ServoDirectory) -> None:
    (driver.path / "config.yaml").write_bytes(bytes(range(256)))
    assert adjust(driver, "web.cpu").returncode == 0


def test_spec_11_the_file_is_that_of_the_current_directory(driver: ServoDirectory) -> None:
    """Not $OPTUNE_CONFIG, which is the drivers'."""
    other = driver.path / "other.yaml"
    other.write_text("agg: {parallel: -1}\n", encoding="utf-8")
    assert adjust(driver, "web.cpu", env={"OPTUNE_CONFIG": str(other)}).returncode == 0


def test_spec_11_all_keys_together(servo: ServoDirectory) -> None:
    servo.add("01", "exit3")
    servo.add("02", "plain")
    servo.configure("""\
        agg:
          parallel: 4
          serial: ["0*"]
          io_timeout: 30.5
          grace: 0
          cancel_grace: 1.5
          on_failure: stop
        """)
    completed = adjust(servo, "01.cpu", "02.cpu")
    assert completed.reply["reason"] == "exit-status"
    assert completed.reply["drivers"]["02"] == {"status": "not-started"}
    assert at_once(servo.log(phase="query")) == 1
