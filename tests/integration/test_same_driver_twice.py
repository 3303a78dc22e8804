"""One driver under two names, each with a section of its own: the example in docs/same-driver-twice."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.servo import REPOSITORY, ServoDirectory

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLE = REPOSITORY / "docs" / "same-driver-twice"
CANARY, MAIN = "k8s-canary", "k8s-main"
SKIPPED = "Skipped due to 'adjust_on' condition"


WAYS = ["link", "copy", "link to elsewhere"]


@pytest.fixture
def twice(request: pytest.FixtureRequest, tmp_path: Path) -> ServoDirectory:
    """Make a servo directory with the driver under both names, in one of the ways seen in the field."""
    way = getattr(request, "param", "link")
    servo = ServoDirectory(tmp_path)
    servo.env["OPTUNE_USE_DRIVER_NAME"] = "1"
    shutil.copy(EXAMPLE / "config.yaml", servo.path)
    driver = EXAMPLE / "adjust.d" / CANARY
    if way == "link":
        shutil.copytree(EXAMPLE / "adjust.d", servo.drivers, symlinks=True, dirs_exist_ok=True)
    for name in (CANARY, MAIN):
        if way == "copy":
            shutil.copy(driver, servo.drivers / name)
        elif way == "link to elsewhere":
            (servo.drivers / name).symlink_to(driver)
    return servo


def deploy(to: str | None, cpu: float = 4) -> dict[str, Any]:
    """Return the input of an adjust of both that is meant for one."""
    request = ServoDirectory.request("web.cpu", "web-canary.cpu", value=cpu)
    return request if to is None else {**request, "control": {"userdata": {"deploy_to": to}}}


def written(servo: ServoDirectory) -> dict[str, Any]:
    """Return what each driver has written, by its name."""
    files = {CANARY: servo.path / "canary.json", MAIN: servo.path / "main.json"}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}


@pytest.mark.parametrize("twice", WAYS, indirect=True)
def test_each_finds_its_own_section(twice: ServoDirectory) -> None:
    components = twice.run("--query", "app").reply["application"]["components"]
    assert list(components) == ["web-canary", "web"]
    assert components["web"]["settings"]["cpu"]["value"] == 2


@pytest.mark.parametrize(
    "twice",
    [pytest.param(way, marks=[] if way == "link" else [pytest.mark.full]) for way in WAYS],
    indirect=True,
)
@pytest.mark.parametrize(("to", "other"), [(CANARY, MAIN), (MAIN, CANARY)])
def test_only_the_selected_driver_acts(twice: ServoDirectory, to: str, other: str) -> None:
    operation = twice.agent(io_timeout=30, calls_info=False).adjust("app", deploy(to.partition("-")[2]))
    assert operation.ok
    assert operation.reply["drivers"][to]["reason"] == "success"
    assert (operation.reply["drivers"][other]["status"], operation.reply["drivers"][other]["reason"]) == (
        "ok",
        SKIPPED,
    )
    assert written(twice) == {to: {"cpu": 4, "replicas": 1}}
    assert [line["progress"] for line in operation.progress][-1] == 100


@pytest.mark.parametrize("to", [pytest.param(None, marks=pytest.mark.full), "cannary"])
def test_no_driver_acts_if_none_is_selected(twice: ServoDirectory, to: str | None) -> None:
    reply = twice.run("app", input=deploy(to)).reply
    assert reply["status"] == "ok"
    assert {entry["reason"] for entry in reply["drivers"].values()} == {SKIPPED}
    assert written(twice) == {}


def test_both_act_if_no_section_has_a_condition(twice: ServoDirectory) -> None:
    lines = (EXAMPLE / "config.yaml").read_text(encoding="utf-8").splitlines(keepends=True)
    twice.configure("".join(line for line in lines if "adjust_on" not in line))
    assert twice.run("app", input=deploy(None)).returncode == 0
    assert set(written(twice)) == {CANARY, MAIN}


def test_without_the_variable_the_missing_section_is_named(twice: ServoDirectory) -> None:
    done = twice.run("--query", "app", env={"OPTUNE_USE_DRIVER_NAME": None})
    assert done.reply["reason"] == "bad-configuration"
    assert "no section k8s;" in done.reply["message"]


def test_a_setting_of_both_is_a_conflict_that_names_both(twice: ServoDirectory) -> None:
    text = (EXAMPLE / "config.yaml").read_text(encoding="utf-8")
    twice.configure(text.replace("component: web\n", "component: web-canary\n"))
    reply = twice.run("--query", "app").reply
    assert reply["reason"] == "conflict"
    assert f"web-canary.cpu is described by {CANARY} and {MAIN}" in reply["message"]


def test_with_on_failure_stop_main_is_not_started_when_the_canary_fails(twice: ServoDirectory) -> None:
    text = (EXAMPLE / "config.yaml").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if "adjust_on" not in line]
    twice.configure("\n".join([*lines, "agg: {on_failure: stop}\n"]))
    # A directory of that name is in the way of the new file.
    (twice.path / "canary.json.new").mkdir()
    reply = twice.run("app", input=deploy(None)).reply
    assert reply["status"] == "failed"
    assert reply["drivers"][MAIN] == {"status": "not-started"}
    assert written(twice) == {}
