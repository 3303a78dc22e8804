"""SPEC 6: all drivers at once, their answers merged in driver order."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

import pytest

from tests.support.sources import answer_script

if TYPE_CHECKING:
    from tests.support.servo import ServoDirectory


def barrier(pattern: str, number: int, then: str) -> str:
    """Return the source of a driver that runs `then` once `number` drivers that match `pattern` have started.

    None of them ends before the last one starts, however long that takes.
    """
    started = f'''"$(grep -c "^start query .* {pattern}$" "$DRIVER_LOG")"'''
    return f"#!/bin/sh\n. ./behave.sh\nuntil [ {started} = {number} ]; do sleep 0.02; done\n{then}\n"


def test_all_drivers_are_queried_at_once(servo: ServoDirectory) -> None:
    for number in range(8):
        servo.add_script(f"{number}slow", barrier("[0-7]slow", 8, "behave"))
    # If one of them had to wait for another, none would end.
    completed = servo.run("--query", "app")
    assert completed.returncode == 0
    assert len(completed.reply["application"]["components"]) == 8


def test_answers_merge_in_driver_order_whatever_order_they_came_in(servo: ServoDirectory) -> None:
    servo.add("01first", "slow", seconds=0.4)
    servo.add("02second", "plain")
    servo.add("03third", "slow", seconds=0.2)
    components = servo.run("--query", "app").reply["application"]["components"]
    assert list(components) == ["01first", "02second", "03third"]


def test_replies_merge_without_what_drivers_say_about_themselves(servo: ServoDirectory) -> None:
    about = {"status": "ok", "reason": "r", "message": "m", "class": "c", "drivers": {"inner": {}}}
    first = {
        "components": {"web": {"settings": {"cpu": {}}, "command": {"x": 1}}},
        "notes": {"both": 1},
    }
    second = {
        "components": {"web": {"settings": {"mem": {}}, "command": {"y": 2}}},
        "notes": {"both": 2},
    }
    servo.add_script("01a", answer_script({"application": first, "monitoring": {"low": 1}, **about}))
    servo.add_script("02b", answer_script({"application": second, "monitoring": {"high": 2}}))
    web = {"settings": {"cpu": {}, "mem": {}}, "command": {"x": 1, "y": 2}}
    assert servo.run("--query", "app").reply == {
        "application": {"components": {"web": web}, "notes": {"both": 2}},
        "monitoring": {"low": 1, "high": 2},
    }


def test_after_a_failure_running_drivers_may_finish(servo: ServoDirectory) -> None:
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
def test_two_seconds_after_a_failure_the_others_are_stopped_and_not_reported_as_failed(
    servo: ServoDirectory,
) -> None:
    servo.add("01fails", "malformed", when="query")
    servo.add("02hangs", "silent", when="query")
    completed = servo.run("--query", "app")
    assert 2 <= completed.seconds < 10
    assert completed.reply["message"].startswith("01fails: failed: ")
    assert "02hangs" not in completed.reply["message"]


def test_after_a_failure_no_further_driver_is_started(servo: ServoDirectory) -> None:
    servo.configure("agg: {parallel: 1}")
    servo.add("01plain", "plain")
    servo.add("02fails", "malformed", when="query")
    servo.add("03plain", "plain")
    assert servo.run("--query", "app").returncode == 1
    assert {event.name for event in servo.log(phase="query")} == {"01plain", "02fails"}


def test_after_a_driver_that_cannot_be_started_no_further_one_is_started(servo: ServoDirectory) -> None:
    servo.add_script("01missing", "#!/no/such/interpreter\n")
    servo.add("02plain", "plain")
    assert servo.run("--query", "app").reply["reason"] == "cannot-start"
    assert servo.log() == []


def test_every_failed_driver_is_named_in_driver_order(servo: ServoDirectory) -> None:
    def failing(seconds: float, status: str) -> str:
        answer = f'{{"status":"{status}","message":"no {status}"}}'
        # All have started when the first one fails.
        return barrier("0[1-3][abc]", 3, f"sleep {seconds}\necho '{answer}'\nexit 1")

    servo.add_script("01a", failing(0.3, "failed"))
    servo.add_script("02b", failing(0.1, "aborted"))
    servo.add_script("03c", failing(0.2, "failed"))
    reply = servo.run("--query", "app").reply
    assert [line.split(":")[0] for line in reply["message"].split("\n")] == ["01a", "02b", "03c"]
    assert reply["status"] == "aborted"


def test_info_runs_all_drivers_even_if_one_fails(servo: ServoDirectory) -> None:
    servo.configure("agg: {parallel: 1}")
    servo.add("01fails", "malformed", when="info")
    servo.add("02plain", "plain")
    reply = servo.run("--info", "app").reply
    assert reply["version"] == "aggregator 2.0.0 (unknown, 1.0)"


def test_parallel_limits_how_many_drivers_run_at_once(servo: ServoDirectory) -> None:
    servo.configure("agg: {parallel: 3}")
    for number in range(9):
        first = number // 3 * 3
        # The pause would show a driver that runs too early.
        servo.add_script(f"{number}slow", barrier(f"[{first}-{first + 2}]slow", 3, "pause 0.2\nbehave"))
    assert servo.run("--query", "app").returncode == 0
    at_once = list(accumulate(1 if event.what == "start" else -1 for event in servo.log(phase="query")))
    assert len(at_once) == 18
    assert max(at_once) == 3


def test_a_timeout_says_that_a_driver_started_late(servo: ServoDirectory) -> None:
    servo.configure("agg: {parallel: 1}")
    servo.add("01slow", "slow", seconds=0.8)
    servo.add("02slow", "slow", seconds=600)
    completed = servo.run("--query", "app", env={"OPTUNE_IO_TIMEOUT": "4"})
    assert completed.reply["reason"] == "timeout"
    assert "late because of `parallel` or `serial`) and was stopped" in completed.reply["message"]


def test_only_asks_the_drivers_whose_names_match(servo: ServoDirectory) -> None:
    for name in ("01a", "02b", "03c"):
        servo.add(name, "plain")
    names = ["--only", "01*", "--only=03c"]
    queried = servo.run("--query", "app", *names).reply
    assert list(queried["application"]["components"]) == ["01a", "03c"]
    assert list(servo.run("--info", *names).reply["drivers"]) == ["01a", "03c"]
    checked = servo.run("--check", "--json", *names).reply
    assert [row["driver"] for row in checked["drivers"]] == ["01a", "03c"]
    planned = servo.run("--plan", "app", "--json", "--set", "03c.cpu=4", *names).reply
    assert (planned["drivers"][0]["driver"], planned["skipped"]) == ("03c", ["01a"])
    assert "02b" not in {event.name for event in servo.log()}
