"""The whole program as the agent uses it: info, describe, adjust, describe."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from tests.support.agent import Agent
from tests.support.servo import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servo import ServoDirectory


def test_the_repository_is_a_servo_directory_whose_drivers_answer_as_one(tmp_path: Path) -> None:
    for name in ("10envfile", "20limits"):
        (tmp_path / "adjust.d").mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / "adjust.d" / name, tmp_path / "adjust.d")
    shutil.copy(REPOSITORY / "config.yaml", tmp_path)
    (tmp_path / "adjust").symlink_to(REPOSITORY / "adjust")
    with Agent(tmp_path, io_timeout=20) as agent:
        before = agent.describe("demo").reply
        operation = agent.adjust(
            "demo",
            {
                "application": {
                    "components": {
                        "web": {"settings": {"workers": {"value": 8}, "gc": {"value": "serial"}}},
                        "limits": {"settings": {"idle_seconds": {"value": 30}}},
                    }
                }
            },
        )
        after = agent.describe("demo").reply
    assert operation.ok, operation.summary()
    assert operation.returncode == 0
    was, now = before["application"]["components"], after["application"]["components"]
    assert [component["settings"].keys() for component in was.values()] == [
        component["settings"].keys() for component in now.values()
    ]
    assert (was["web"]["settings"]["workers"]["value"], now["web"]["settings"]["workers"]["value"]) == (4, 8)
    assert now["web"]["settings"]["gc"]["value"] == "serial"
    assert now["limits"]["settings"]["idle_seconds"]["value"] == 30
    assert was["web"]["settings"]["timeout"] == now["web"]["settings"]["timeout"]


def test_many_drivers_are_described_and_adjusted_as_one(servo: ServoDirectory) -> None:
    names = [f"{number:02}driver" for number in range(8)]
    for name in names:
        servo.add(name, "plain")
    with servo.agent(io_timeout=20) as agent:
        info = agent.info("app")
        assert info["has_cancel"] is True
        assert list(info["drivers"]) == names
        described = agent.describe("app")
        operation = agent.adjust("app", servo.request(*(f"{name}.cpu" for name in names)))
    assert list(described.reply["application"]["components"]) == names
    assert operation.ok, operation.summary()
    assert [entry["status"] for entry in operation.reply["drivers"].values()] == ["ok"] * 8
    percents = [message["progress"] for message in operation.progress]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    # Each has two lines of its own, one at its start and one at its end.
    assert len(percents) == 1 + 4 * 8
    assert [event.name for event in servo.log(phase="adjust") if event.what == "start"] == names
