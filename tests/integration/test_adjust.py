"""SPEC 7 and 8: settings go to their drivers, which run one after another; progress is overall."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.sources import adjust_script

if TYPE_CHECKING:
    from tests.support.servo import ServoDirectory


def replying(name: str, answer: str) -> str:
    """Return the source of a driver of `NAME.cpu` that replies to an adjust with `answer`."""
    return adjust_script(f"cat >/dev/null\ncat <<'END'\n{answer}\nEND\n", name)


def test_each_driver_gets_its_settings_and_all_that_is_not_a_setting(servo: ServoDirectory) -> None:
    servo.add("01web", "echo", component="web", settings='"cpu":{"value":2},"mem":{"value":1}')
    servo.add("02db", "echo", component="db", settings='"cpu":{"value":2}')
    servo.add("03other", "echo", component="other")
    content = {
        "application": {
            "id": "shop",
            "annotations": {"a": [1, 2]},
            "components": {
                "web": {"settings": {"cpu": {"value": 4, "note": "x"}, "mem": None}, "command": ["run"]},
                "db": {"settings": {"cpu": {"value": 8}}},
                "other": {"settings": {"cpu": None}, "command": ["none"]},
            },
        },
        "control": {"userdata": {"deploy_to": "canary"}},
        "extra": 1,
    }
    reply = servo.run("app", input=content).reply
    common = {"id": "shop", "annotations": {"a": [1, 2]}}
    rest = {"control": content["control"], "extra": 1}
    assert json.loads(servo.echoed("01web", "adjust")["stdin"]) == {
        "application": {
            **common,
            "components": {"web": {"settings": {"cpu": {"value": 4, "note": "x"}}, "command": ["run"]}},
        },
        **rest,
    }
    assert json.loads(servo.echoed("02db", "adjust")["stdin"]) == {
        "application": {**common, "components": {"db": {"settings": {"cpu": {"value": 8}}}}},
        **rest,
    }
    assert reply["drivers"]["03other"] == {"status": "skipped"}


@pytest.mark.parametrize(
    "content",
    [
        {"application": {}},
        {"application": {"components": {"web": {"settings": {}}}}},
        {"application": {"components": {"web": {"settings": {"cpu": None}}}}},
        {"application": {"components": {"unknown": {}}}},
    ],
)
def test_nothing_to_adjust_runs_nothing(servo: ServoDirectory, content: dict[str, Any]) -> None:
    servo.add("01web", "plain", component="web")
    completed = servo.run("app", input=content)
    assert completed.returncode == 0
    assert completed.reply == {"status": "ok", "reason": "no-settings-to-adjust"}
    assert servo.log(phase="adjust") == []


def test_drivers_run_strictly_one_after_another_in_name_order(servo: ServoDirectory) -> None:
    names = ["01c", "02b", "03a"]
    for name in names:
        servo.add(name, "plain", seconds=0.02)
    for _ in range(2):
        assert servo.adjust("03a.cpu", "02b.cpu", "01c.cpu").returncode == 0
    log = servo.log(phase="adjust")
    # Each start is followed by the end of the same driver.
    assert [(event.what, event.name) for event in log] == [
        (what, name) for _ in range(2) for name in names for what in ("start", "end")
    ]
    times = [event.seconds for event in log]
    assert times == sorted(times)


def test_by_default_the_next_driver_runs_after_a_failure(servo: ServoDirectory) -> None:
    servo.add("01fails", "exit3")
    servo.add("02plain", "plain")
    completed = servo.adjust("01fails.cpu", "02plain.cpu")
    assert completed.returncode == 1
    assert completed.reply["drivers"]["02plain"]["status"] == "ok"


def test_on_failure_stop_starts_no_other_driver(servo: ServoDirectory) -> None:
    servo.configure("agg: {on_failure: stop}")
    servo.add("01fails", "exit3")
    servo.add("02plain", "plain")
    servo.add("03idle", "plain")
    reply = servo.adjust("01fails.cpu", "02plain.cpu").reply
    assert reply["drivers"]["02plain"] == {"status": "not-started"}
    assert reply["drivers"]["03idle"] == {"status": "skipped"}
    assert {event.name for event in servo.log(phase="adjust")} == {"01fails"}


def test_a_failed_query_lists_every_driver(servo: ServoDirectory) -> None:
    servo.add("01plain", "plain")
    servo.add("02fails", "exit3", when="query")
    drivers = servo.adjust("01plain.cpu").reply["drivers"]
    assert [*drivers] == ["01plain", "02fails"]
    assert drivers["01plain"] == {"status": "not-started"}
    assert drivers["02fails"]["reason"] == "exit-status"


def test_success_lists_every_driver_and_merges_the_replies(servo: ServoDirectory) -> None:
    servo.add_script("01a", replying("01a", '{"status":"ok","reason":"already so","state":{"a":1,"both":1}}'))
    servo.add_script(
        "02b", replying("02b", '{"status":"ok","state":{"b":2,"both":2},"drivers":{"in":{"status":"ok"}}}')
    )
    servo.add("03c", "plain")
    completed = servo.adjust("01a.cpu", "02b.cpu")
    assert completed.returncode == 0
    reply = completed.reply
    assert (reply["status"], reply["reason"]) == ("ok", "success")
    assert reply["state"] == {"a": 1, "both": 2, "b": 2}
    assert [*reply["drivers"]] == ["01a", "02b", "03c"]
    assert reply["drivers"]["01a"]["reason"] == "already so"
    assert reply["drivers"]["01a"]["seconds"] >= 0
    assert reply["drivers"]["02b"]["drivers"] == {"in": {"status": "ok"}}
    assert reply["drivers"]["03c"] == {"status": "skipped"}


def test_a_failure_merges_the_replies_too(servo: ServoDirectory) -> None:
    servo.add_script("01a", replying("01a", '{"status":"failed","reason":"r","state":{"a":1,"both":1}}'))
    servo.add_script("02b", replying("02b", '{"status":"ok","state":{"b":2,"both":2}}'))
    reply = servo.adjust("01a.cpu", "02b.cpu").reply
    assert (reply["status"], reply["reason"]) == ("failed", "r")
    assert reply["state"] == {"a": 1, "both": 2, "b": 2}


def test_with_three_drivers_thirty_percent_is_seen_as_ten(servo: ServoDirectory) -> None:
    for name in ("01a", "02b", "03c"):
        servo.add(name, "plain", progress="30")
    completed = servo.adjust("01a.cpu", "02b.cpu", "03c.cpu")
    lines = [(message["progress"], message["message"]) for message in completed.progress]
    assert lines == [
        (0, "querying 3 drivers"),
        (0, "01a: starting"),
        (10, "01a: at 30"),
        (33, "01a: done"),
        (33, "02b: starting"),
        (43, "02b: at 30"),
        (66, "02b: done"),
        (66, "03c: starting"),
        (76, "03c: at 30"),
        (100, "03c: done"),
    ]


def test_a_long_failure_leaves_room_for_the_others(servo: ServoDirectory) -> None:
    names = [f"{number:02}x" for number in range(6)]
    for name in names:
        servo.add_script(name, replying(name, json.dumps({"status": "failed", "message": "é" * 200_000})))
    completed = servo.adjust(*(f"{name}.cpu" for name in names))
    message = completed.reply["message"]
    assert [line.split(":")[0] for line in message.split("\n")] == names
    assert len(message.encode()) <= 256 << 10
    # An outer aggregator takes lines of up to 4 MiB.
    assert len(completed.stdout.splitlines()[-1]) < 4 << 20
