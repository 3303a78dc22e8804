"""The section `agg` of config.yaml, through the whole program (SPEC 11)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.servo import Event, ServoDirectory


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
"""A driver whose query waits for the query of another driver to start, for at most 10 s."""


def add_meeting(servo: ServoDirectory, *names: str) -> None:
    """Add drivers that each wait for the next one, the last for the first."""
    for name, other in zip(names, [*names[1:], names[0]]):
        servo.add(name, "plain", meets=other)
        servo.add_script(name, MEETING)


def at_once(events: list[Event]) -> int:
    """Return how many drivers were alive at once, at most, by their log."""
    most = alive = 0
    for event in events:
        alive += {"start": 1, "end": -1}[event.what]
        most = max(most, alive)
    return most


def test_all_drivers_are_queried_at_once_by_default(servo: ServoDirectory) -> None:
    names = [f"{number:02}" for number in range(8)]
    add_meeting(servo, *names)
    completed = servo.run("--query", "app")
    assert completed.returncode == 0, completed
    assert list(completed.reply["application"]["components"]) == names


def test_parallel_1_queries_one_after_another_in_an_adjust_too(servo: ServoDirectory) -> None:
    names = ["01", "02", "03", "04"]
    for name in names:
        servo.add(name, "slow", seconds=0.05)
    servo.configure("agg: {parallel: 1}")
    completed = servo.adjust("01.cpu")
    assert completed.returncode == 0, completed
    events = servo.log(phase="query")
    assert [(event.name, event.what) for event in events] == [
        (name, what) for name in names for what in ("start", "end")
    ]


def test_parallel_2_queries_two_at_once_and_no_more(servo: ServoDirectory) -> None:
    add_meeting(servo, "01", "02")
    for name in ("03", "04", "05"):
        servo.add(name, "slow", seconds=0.05)
    servo.configure("agg:\n  parallel: 2\n")
    completed = servo.run("--query", "app")
    assert completed.returncode == 0, completed
    assert at_once(servo.log(phase="query")) == 2


SERIAL: dict[str, tuple[list[str], list[str], list[str]]] = {
    "a pattern": (["k8s-*"], ["k8s-canary", "k8s-main", "k8s-other"], ["01", "02"]),
    "all": (["*"], ["01", "02", "03"], []),
    "one alone": (["01", "no such driver"], ["01"], ["02", "03"]),
}
"""Patterns, the matching drivers, and the other ones."""


@pytest.mark.parametrize(("patterns", "serial", "others"), SERIAL.values(), ids=SERIAL.keys())
def test_serial_drivers_are_never_queried_at_the_same_time(
    servo: ServoDirectory, patterns: list[str], serial: list[str], others: list[str]
) -> None:
    """The other drivers and one serial driver run together: each waits for the start of the next."""
    for name in serial[1:]:
        servo.add(name, "slow", seconds=0.05)
    if others:
        add_meeting(servo, *others, serial[0])
    else:
        servo.add(serial[0], "slow", seconds=0.05)
    servo.configure(f"agg: {{serial: {json.dumps(patterns)}}}")
    completed = servo.run("--query", "app")
    assert completed.returncode == 0, completed
    events = servo.log(phase="query")
    assert at_once([event for event in events if event.name in serial]) == 1
    # The answer is in driver order.
    assert list(completed.reply["application"]["components"]) == sorted([*serial, *others])


@pytest.mark.full
def test_many_serial_drivers_take_no_longer_than_with_parallel_1(servo: ServoDirectory) -> None:
    """The time per driver does not grow with their number."""
    for number in range(1000):
        servo.add_script(f"{number:04}", "#!/bin/sh\necho '{\"application\":{}}'\n")
    seconds = []
    for section in ("{parallel: 1}", "{serial: ['*']}"):
        servo.configure(f"agg: {section}")
        seconds.append(servo.run("--query", "app").seconds)
    assert seconds[1] < 2.5 * seconds[0]


def test_io_timeout_of_the_section_applies_without_the_variable(servo: ServoDirectory) -> None:
    servo.add("driver", "silent", when="query")
    servo.configure("agg: {io_timeout: 1}")
    completed = servo.run("--query", "app", env={"OPTUNE_IO_TIMEOUT": None})
    assert completed.returncode == 1
    assert completed.reply["reason"] == "timeout"


@pytest.mark.parametrize(
    ("section", "statuses"),
    [
        ("agg: {}", ["ok", "failed", "ok", "failed"]),
        ("agg: {on_failure: stop}", ["ok", "failed", "not-started", "not-started"]),
    ],
    ids=["continue", "stop"],
)
def test_on_failure_decides_whether_further_drivers_start(
    servo: ServoDirectory, section: str, statuses: list[str]
) -> None:
    """SPEC 7.21."""
    names = ["01", "02", "03", "04"]
    for name, kind in zip(names, ["plain", "exit3", "plain", "crash"]):
        servo.add(name, kind)
    servo.add("05", "plain")
    servo.configure(section)
    completed = servo.adjust(*(f"{name}.cpu" for name in names))
    assert completed.returncode == 1
    entries = {name: entry["status"] for name, entry in completed.reply["drivers"].items()}
    assert entries == {**dict(zip(names, statuses)), "05": "skipped"}
    started = [event.name for event in servo.log(phase="adjust") if event.what == "start"]
    assert started == [name for name, status in zip(names, statuses) if status != "not-started"]
