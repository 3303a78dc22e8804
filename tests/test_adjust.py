"""SPEC 7 and 8: settings go to their owners, drivers run one after another, progress is told as one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.sources import adjusting

if TYPE_CHECKING:
    from tests.servo import Completed, ServoDirectory


def adjust(servo: ServoDirectory, content: object) -> Completed:
    return servo.run("app", input=json.dumps(content).encode())


def replying(name: str, answer: str, progress: str = "") -> str:
    """Give the source of a driver that describes `NAME.cpu` and answers an adjust so."""
    return adjusting(f"cat >/dev/null\ncat <<'END'\n{progress}\n{answer}\nEND\n", name)


def test_each_driver_gets_its_settings_and_what_is_no_setting(servo: ServoDirectory) -> None:
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
    reply = adjust(servo, content).reply
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


def test_application_level_settings_are_routed_too(servo: ServoDirectory) -> None:
    servo.add("01a", "echo", component="web")
    servo.add_script(
        "02b",
        """\
        #!/bin/sh
        case $1 in
        --query) echo '{"settings":{"size":{"value":1}}}' ;;
        *) echo '{"status":"ok","got":'"$(cat)"'}' ;;
        esac
        """,
    )
    reply = adjust(servo, {"application": {"settings": {"size": {"value": 3}}}}).reply
    assert reply["got"] == {"application": {"components": {}, "settings": {"size": {"value": 3}}}}
    assert reply["drivers"]["01a"] == {"status": "skipped"}


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
    completed = adjust(servo, content)
    assert completed.returncode == 0
    assert completed.reply == {"status": "ok", "reason": "no-settings-to-adjust"}
    assert servo.log(phase="adjust") == []


def test_drivers_run_strictly_one_after_another_in_name_order(servo: ServoDirectory) -> None:
    names = ["01c", "02b", "03a"]
    for name in names:
        servo.add(name, "plain", seconds=0.02)
    for _ in range(20):
        assert adjust(servo, servo.request("03a.cpu", "02b.cpu", "01c.cpu")).returncode == 0
    log = servo.log(phase="adjust")
    # Each start is followed by the end of the same process before anything else is noted.
    assert [(event.what, event.name) for event in log] == [
        (what, name) for _ in range(20) for name in names for what in ("start", "end")
    ]
    times = [event.seconds for event in log]
    assert times == sorted(times)


def test_by_default_a_failure_does_not_keep_the_next_from_running(servo: ServoDirectory) -> None:
    servo.add("01fails", "exit3")
    servo.add("02plain", "plain")
    completed = adjust(servo, servo.request("01fails.cpu", "02plain.cpu"))
    assert completed.returncode == 1
    assert completed.reply["drivers"]["02plain"]["status"] == "ok"


def test_on_failure_stop_starts_no_other(servo: ServoDirectory) -> None:
    servo.configure("agg: {on_failure: stop}")
    servo.add("01fails", "exit3")
    servo.add("02plain", "plain")
    servo.add("03idle", "plain")
    reply = adjust(servo, servo.request("01fails.cpu", "02plain.cpu")).reply
    assert reply["drivers"]["02plain"] == {"status": "not-started"}
    assert reply["drivers"]["03idle"] == {"status": "skipped"}
    assert {event.name for event in servo.log(phase="adjust")} == {"01fails"}


def test_success_lists_every_driver_and_merges_what_the_replies_hold(servo: ServoDirectory) -> None:
    servo.add_script("01a", replying("01a", '{"status":"ok","reason":"already so","state":{"a":1,"both":1}}'))
    servo.add_script(
        "02b", replying("02b", '{"status":"ok","state":{"b":2,"both":2},"drivers":{"in":{"status":"ok"}}}')
    )
    servo.add("03c", "plain")
    completed = adjust(servo, servo.request("01a.cpu", "02b.cpu"))
    assert completed.returncode == 0
    reply = completed.reply
    assert (reply["status"], reply["reason"]) == ("ok", "success")
    assert reply["state"] == {"a": 1, "both": 2, "b": 2}
    assert [*reply["drivers"]] == ["01a", "02b", "03c"]
    assert reply["drivers"]["01a"]["reason"] == "already so"
    assert reply["drivers"]["01a"]["seconds"] >= 0
    assert reply["drivers"]["02b"]["drivers"] == {"in": {"status": "ok"}}
    assert reply["drivers"]["03c"] == {"status": "skipped"}


@pytest.mark.parametrize(
    ("answers", "status", "reason"),
    [
        (['{"status":"failed"}', '{"status":"aborted","reason":"unstable"}'], "aborted", "unstable"),
        (
            ['{"status":"aborted"}', '{"status":"failed"}', '{"status":"rejected","reason":"range"}'],
            "rejected",
            "range",
        ),
        (['{"status":"ok"}', '{"status":"transient-failure"}'], "transient-failure", "unknown"),
        (['{"error":"e","class":"c","message":"m"}'], "failed", "unknown"),
        (['{"status":"failed","reason":null}'], "failed", "unknown"),
    ],
)
def test_one_failure_speaks_for_all(
    servo: ServoDirectory, answers: list[str], status: str, reason: str
) -> None:
    names = [f"{number:02}x" for number, _ in enumerate(answers)]
    for name, answer in zip(names, answers):
        servo.add_script(name, replying(name, answer))
    completed = adjust(servo, servo.request(*(f"{name}.cpu" for name in names)))
    assert completed.returncode == 1
    assert (completed.reply["status"], completed.reply["reason"]) == (status, reason)
    failed = [name for name, entry in completed.reply["drivers"].items() if entry["status"] != "ok"]
    lines = completed.reply["message"].split("\n")
    assert [line.split(": ")[0] for line in lines] == failed


def test_with_three_drivers_thirty_percent_is_seen_as_ten(servo: ServoDirectory) -> None:
    for name in ("01a", "02b", "03c"):
        servo.add(name, "plain", progress="30")
    completed = adjust(servo, servo.request("01a.cpu", "02b.cpu", "03c.cpu"))
    told = [(message["progress"], message["message"]) for message in completed.progress]
    assert told == [
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


def test_progress_passes_what_it_does_not_know_and_never_goes_back(servo: ServoDirectory) -> None:
    rest = '"stage":"s","stageprogress":7,"msg_index":1,"time_remain":9,"log":[1]'
    progress = f"""{{"progress":40,"message":["one","two"],{rest}}}
{{"progress":20,"message":"less"}}
{{"progress":400,"message":"more"}}
{{"progress":true,"message":"no number"}}
{{"progress":"50","message":"a text"}}
{{"progress":-3}}"""
    servo.add_script("01a", replying("01a", '{"status":"ok"}', progress))
    lines = adjust(servo, servo.request("01a.cpu")).progress[2:-1]
    assert lines[0] == {
        "progress": 40,
        "message": "01a: one; two",
        "stage": "s",
        "stageprogress": 7,
        "msg_index": 1,
        "time_remain": 9,
        "log": [1],
    }
    assert [(line["progress"], line["message"]) for line in lines[1:]] == [
        (40, "01a: less"),
        (99, "01a: more"),
        (99, "01a: no number"),
        (99, "01a: a text"),
        (99, "01a"),
    ]


def test_no_progress_is_dropped_or_reordered(servo: ServoDirectory) -> None:
    servo.add("01flood", "flood", lines=20000)
    completed = adjust(servo, servo.request("01flood.cpu"))
    assert completed.returncode == 0
    told = completed.progress[2:-1]
    assert len(told) == 20000
    percents = [message["progress"] for message in told]
    assert percents == sorted(percents)
    assert len({message["message"] for message in told}) == 20000


def test_a_failed_query_refuses_the_adjust(servo: ServoDirectory) -> None:
    servo.add("01plain", "plain")
    servo.add("02fails", "malformed", when="query")
    completed = adjust(servo, servo.request("01plain.cpu"))
    assert completed.returncode == 1
    assert completed.reply["drivers"]["01plain"] == {"status": "not-started"}
    assert completed.reply["drivers"]["02fails"]["status"] == "failed"
    assert servo.log(phase="adjust") == []


def test_long_failures_leave_room_for_each_other(servo: ServoDirectory) -> None:
    names = [f"{number:02}x" for number in range(6)]
    for name in names:
        servo.add_script(name, replying(name, json.dumps({"status": "failed", "message": "é" * 200_000})))
    completed = adjust(servo, servo.request(*(f"{name}.cpu" for name in names)))
    message = completed.reply["message"]
    assert [line.split(":")[0] for line in message.split("\n")] == names
    assert len(message.encode()) <= 256 << 10
    # An aggregator around us takes lines of up to 4 MiB.
    assert len(completed.stdout.splitlines()[-1]) < 4 << 20
