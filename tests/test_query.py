"""SPEC 6: all drivers at once, their answers merged in driver order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.sources import describing

if TYPE_CHECKING:
    from tests.servo import Event, ServoDirectory


def lives(log: list[Event]) -> dict[str, tuple[float, float]]:
    """Give the start and end of each driver, in seconds since the boot."""
    return {
        event.name: (event.seconds, next(e.seconds for e in log if e.what == "end" and e.pid == event.pid))
        for event in log
        if event.what == "start"
    }


def test_all_drivers_are_queried_at_once(servo: ServoDirectory) -> None:
    for number in range(8):
        servo.add(f"{number}slow", "slow")
    completed = servo.run("--query", "app")
    assert completed.returncode == 0
    spans = lives(servo.log(phase="query")).values()
    assert len(spans) == 8
    assert max(start for start, _ in spans) < min(end for _, end in spans)


def test_answers_merge_in_driver_order_whatever_order_they_came_in(servo: ServoDirectory) -> None:
    servo.add("01first", "slow", seconds=0.4)
    servo.add("02second", "plain")
    servo.add("03third", "slow", seconds=0.2)
    components = servo.run("--query", "app").reply["application"]["components"]
    assert list(components) == ["01first", "02second", "03third"]


def test_settings_of_one_component_and_of_the_application_are_united(servo: ServoDirectory) -> None:
    servo.add_script(
        "01a",
        describing(
            {
                "application": {
                    "settings": {"x": {"value": 1}},
                    "components": {"web": {"settings": {"cpu": {}}}},
                }
            }
        ),
    )
    servo.add_script(
        "02b",
        describing(
            {
                "application": {
                    "settings": {"y": {"value": 2}},
                    "components": {"web": {"settings": {"mem": {}}}},
                }
            }
        ),
    )
    assert servo.run("--query", "app").reply == {
        "application": {
            "settings": {"x": {"value": 1}, "y": {"value": 2}},
            "components": {"web": {"settings": {"cpu": {}, "mem": {}}}},
        }
    }


def test_every_conflict_is_listed_with_all_owners(servo: ServoDirectory) -> None:
    for name in ("01a", "02b", "03c"):
        servo.add(name, "plain", component="web")
    servo.add_script("04d", describing({"settings": {"size": {"value": 1}}}))
    servo.add_script("05e", describing({"settings": {"size": {"value": 1}}}))
    completed = servo.run("--query", "app")
    assert completed.returncode == 1
    reply = completed.reply
    assert (reply["status"], reply["reason"]) == ("failed", "conflict")
    for setting in ("web.cpu", "web.inst_type"):
        assert f"setting {setting} is described by 01a, 02b and 03c" in reply["message"]
    assert "setting size of the application is described by 04d and 05e" in reply["message"]


def test_what_is_no_setting_merges_deeply_and_the_later_leaf_stands(servo: ServoDirectory) -> None:
    servo.add_script(
        "01a",
        describing(
            {
                "application": {
                    "annotations": {"a": 1, "both": "first"},
                    "components": {"web": {"command": {"x": 1}}},
                },
                "monitoring": {"rate": {"low": 1}},
                "status": "ok",
                "reason": "r",
                "message": "m",
                "class": "c",
                "drivers": {"inner": {}},
            }
        ),
    )
    servo.add_script(
        "02b",
        describing(
            {
                "application": {
                    "annotations": {"both": "second"},
                    "components": {"web": {"command": {"y": 2}}},
                },
                "monitoring": {"rate": {"high": 2}},
            }
        ),
    )
    assert servo.run("--query", "app").reply == {
        "application": {
            "annotations": {"a": 1, "both": "second"},
            "components": {"web": {"command": {"x": 1, "y": 2}}},
        },
        "monitoring": {"rate": {"low": 1, "high": 2}},
    }


def test_drivers_inside_a_driver_stand_in_info(servo: ServoDirectory) -> None:
    servo.add_script(
        "01a", describing({"version": "1", "has_cancel": True, "drivers": {"inner": {"version": "2"}}})
    )
    entry = servo.run("--info", "app").reply["drivers"]["01a"]
    assert entry == {"version": "1", "has_cancel": True, "drivers": {"inner": {"version": "2"}}}


def test_a_failure_lets_the_others_finish_for_a_while_and_is_theirs_not(servo: ServoDirectory) -> None:
    servo.add("01fails", "malformed", when="query")
    servo.add("02finishes", "slow", seconds=0.3)
    completed = servo.run("--query", "app")
    assert completed.returncode == 1
    assert [event.name for event in servo.log(phase="query") if event.what == "end"][-1] == "02finishes"
    assert "02finishes" not in completed.reply["message"]


@pytest.mark.full
def test_after_two_seconds_the_others_are_stopped_which_is_no_failure_of_theirs(
    servo: ServoDirectory,
) -> None:
    servo.add("01fails", "malformed", when="query")
    servo.add("02hangs", "silent", when="query")
    completed = servo.run("--query", "app")
    assert 2 <= completed.seconds < 10
    assert completed.reply["message"].startswith("01fails: failed: ")
    assert "02hangs" not in completed.reply["message"]


def test_after_a_failure_no_further_driver_is_begun(servo: ServoDirectory) -> None:
    servo.configure("agg: {parallel: 1}")
    servo.add("01plain", "plain")
    servo.add("02fails", "malformed", when="query")
    servo.add("03plain", "plain")
    assert servo.run("--query", "app").returncode == 1
    assert {event.name for event in servo.log(phase="query")} == {"01plain", "02fails"}


def test_every_failed_driver_is_named_in_driver_order(servo: ServoDirectory) -> None:
    failing = '#!/bin/sh\nsleep {seconds}\necho \'{{"status":"{status}","message":"no {status}"}}\'\nexit 1\n'
    servo.add_script("01a", failing.format(seconds=0.3, status="failed"))
    servo.add_script("02b", failing.format(seconds=0.1, status="aborted"))
    servo.add_script("03c", failing.format(seconds=0.2, status="failed"))
    reply = servo.run("--query", "app").reply
    assert [line.split(":")[0] for line in reply["message"].split("\n")] == ["01a", "02b", "03c"]
    assert reply["status"] == "aborted"


def test_info_asks_all_whoever_fails(servo: ServoDirectory) -> None:
    servo.configure("agg: {parallel: 1}")
    servo.add("01fails", "malformed", when="info")
    servo.add("02plain", "plain")
    reply = servo.run("--info", "app").reply
    assert reply["version"] == "aggregator 2.0.0 (unknown, 1.0)"


def test_as_many_run_at_once_as_may(servo: ServoDirectory) -> None:
    servo.configure("agg: {parallel: 3}")
    for number in range(9):
        servo.add(f"{number}slow", "slow", seconds=0.4)
    assert servo.run("--query", "app").returncode == 0
    spans = sorted(lives(servo.log(phase="query")).values())
    for turn in range(0, 9, 3):
        together = spans[turn : turn + 3]
        assert max(start for start, _ in together) < min(end for _, end in together)


def test_a_timeout_tells_of_one_that_had_to_wait(servo: ServoDirectory) -> None:
    servo.configure("agg: {parallel: 1}")
    servo.add("01slow", "slow", seconds=0.7)
    servo.add("02slow", "slow", seconds=600)
    completed = servo.run("--query", "app", env={"OPTUNE_IO_TIMEOUT": "2"})
    assert completed.reply["reason"] == "timeout"
    assert "late because of `parallel` or `serial`, and was stopped" in completed.reply["message"]


def test_once_a_driver_cannot_be_started_no_further_one_is_begun(servo: ServoDirectory) -> None:
    servo.configure("agg: {parallel: 1}")
    servo.add_script("01broken", "#!/no/such/interpreter\n")
    servo.add("02plain", "plain")
    completed = servo.run("--query", "app")
    assert completed.reply["reason"] == "cannot-start"
    assert servo.log() == []
