"""SPEC 6: all drivers at once, their answers merged in driver order."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

import pytest

from tests.sources import describing

if TYPE_CHECKING:
    from tests.servo import ServoDirectory


def meeting(those: str, number: int, then: str) -> str:
    """Give the source of a driver that in a query does `then` once `number` of `those` have begun.

    None of them ends before the last one begins, however long that takes.
    """
    begun = f'''"$(grep -c "^start query .* {those}$" "$DRIVER_LOG")"'''
    return f"#!/bin/sh\n. ./behave.sh\nuntil [ {begun} = {number} ]; do sleep 0.02; done\n{then}\n"


def test_all_drivers_are_queried_at_once(servo: ServoDirectory) -> None:
    for number in range(8):
        servo.add_script(f"{number}slow", meeting("[0-7]slow", 8, "behave"))
    # Were one of them to wait for another, they would never meet.
    completed = servo.run("--query", "app")
    assert completed.returncode == 0
    assert len(completed.reply["application"]["components"]) == 8


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
    servo.add_script(
        "02finishes",
        """\
        #!/bin/sh
        . ./behave.sh
        misbehave_on query
        until grep -q "^end query .* 01fails$" "$DRIVER_LOG"; do sleep 0.02; done
        pause 0.3
        behave
        """,
    )
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
    def failing(seconds: float, status: str) -> str:
        answer = f'{{"status":"{status}","message":"no {status}"}}'
        # When the first one fails all have begun, and none is left out.
        return meeting("0[1-3][abc]", 3, f"sleep {seconds}\necho '{answer}'\nexit 1")

    servo.add_script("01a", failing(0.3, "failed"))
    servo.add_script("02b", failing(0.1, "aborted"))
    servo.add_script("03c", failing(0.2, "failed"))
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
        first = number // 3 * 3
        # They meet, or there would be no end; the pause lets one be seen that may not run yet.
        servo.add_script(f"{number}slow", meeting(f"[{first}-{first + 2}]slow", 3, "pause 0.2\nbehave"))
    assert servo.run("--query", "app").returncode == 0
    at_once = list(accumulate(1 if event.what == "start" else -1 for event in servo.log(phase="query")))
    assert len(at_once) == 18
    assert max(at_once) == 3


def test_a_timeout_tells_of_one_that_had_to_wait(servo: ServoDirectory) -> None:
    servo.configure("agg: {parallel: 1}")
    servo.add("01slow", "slow", seconds=1.5)
    servo.add("02slow", "slow", seconds=600)
    completed = servo.run("--query", "app", env={"OPTUNE_IO_TIMEOUT": "5"})
    assert completed.reply["reason"] == "timeout"
    assert "late because of `parallel` or `serial`, and was stopped" in completed.reply["message"]


def test_once_a_driver_cannot_be_started_no_further_one_is_begun(servo: ServoDirectory) -> None:
    servo.configure("agg: {parallel: 1}")
    servo.add_script("01broken", "#!/no/such/interpreter\n")
    servo.add("02plain", "plain")
    completed = servo.run("--query", "app")
    assert completed.reply["reason"] == "cannot-start"
    assert servo.log() == []
