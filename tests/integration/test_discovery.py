"""Which files of adjust.d are run as drivers, in which order and under which name (SPEC 2)."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.agent import Agent
from tests.support.servo import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servo import ServoDirectory


def add_failing(path: Path, mode: int = 0o755) -> None:
    """Write a driver that must not be run."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh\necho must not run >&2\nexit 1\n", encoding="utf-8")
    path.chmod(mode)


def test_files_that_are_not_drivers_are_ignored_without_a_message(servo: ServoDirectory) -> None:
    servo.add("50driver", "plain")
    add_failing(servo.drivers / "directory" / "driver")
    add_failing(servo.drivers / "not-executable", 0o644)
    add_failing(servo.drivers / "copy~")
    (servo.drivers / "link-to-file").symlink_to("not-executable")
    (servo.drivers / "link-to-directory").symlink_to("directory")
    (servo.drivers / ".#hidden-link-to-nowhere").symlink_to("me@host")
    os.mkfifo(servo.drivers / "pipe", 0o755)
    for completed in (servo.run("--info"), servo.adjust("50driver.cpu")):
        assert completed.returncode == 0, completed
        assert list(completed.reply["drivers"]) == ["50driver"]
        assert completed.stderr == b""


def test_a_program_that_cannot_be_read_is_a_driver(servo: ServoDirectory) -> None:
    shutil.copy("/bin/true", servo.drivers / "program")
    (servo.drivers / "program").chmod(0o100)
    servo.add("script", "plain").chmod(0o555)
    assert list(servo.run("--info").reply["drivers"]) == ["program", "script"]


def test_drivers_run_in_the_order_of_their_names_as_bytes(servo: ServoDirectory) -> None:
    """Not as the locale sorts, not as numbers, and not by the code points of a name that is not UTF-8."""
    in_order = [b"#driver#", b"-n", b"01ec2asg", b"02winec2", b"10", b"9", b"A", b"B", b"_", b"a"]
    in_order += [b"a b;$HOME 'c' \"d\"", b"a.sh", b"b", b"b-", b"b.", b"ba", b"~driver"]
    in_order += ["\u00e9".encode(), "\ufffd".encode(), "\U0001f600".encode(), b"\xff"]
    names = [os.fsdecode(name) for name in in_order]
    # They are created in another order, and with it perhaps listed in another one.
    for version in sorted(range(len(names)), key=lambda number: number * 8 % len(names)):
        servo.add(names[version], "plain", component=f"c{version}", version=version)
    completed = servo.run("--info", "app", env={"LC_ALL": "C"})
    assert list(completed.reply["drivers"]) == names
    assert completed.reply["version"] == f"aggregator 2.0.0 ({', '.join(map(str, range(len(names))))})"
    completed = servo.adjust(*(f"c{version}.cpu" for version in reversed(range(len(names)))))
    assert completed.returncode == 0, completed
    assert list(completed.reply["drivers"]) == names
    starting = [line["message"] for line in completed.progress if "starting" in line["message"]]
    assert starting == [f"{name}: starting" for name in names]


def test_a_driver_that_is_a_symlink_is_run_by_its_own_relative_path(servo: ServoDirectory) -> None:
    """The same driver twice, each with its own settings, as in `k8s-adjust-canary`, `k8s-adjust-main`."""
    elsewhere = servo.path.parent / "installed"
    elsewhere.mkdir()
    shutil.move(servo.add("adjust", "echo"), elsewhere)
    # One link is absolute, the other goes to it, so it takes two steps to the file.
    (servo.drivers / "k8s-adjust-canary").symlink_to(elsewhere / "adjust")
    (servo.drivers / "k8s-adjust-main").symlink_to("k8s-adjust-canary")
    names = ["k8s-adjust-canary", "k8s-adjust-main"]
    assert list(servo.run("--info").reply["drivers"]) == names
    completed = servo.adjust(*(f"{name}.cpu" for name in names))
    assert completed.returncode == 0, completed
    for name in names:
        for phase in ("info", "query", "adjust"):
            start = servo.echoed(name, phase)
            assert (start["argv"][0], start["cwd"]) == (f"adjust.d/{name}", str(servo.path))
        stdin = json.loads(servo.echoed(name, "adjust")["stdin"])
        assert stdin["application"]["components"] == {name: {"settings": {"cpu": {"value": 4}}}}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an installed copy of the program with the content of another servo directory around it."""
    path = tmp_path_factory.mktemp("installed")
    shutil.copy(REPOSITORY / "adjust", path)
    shutil.copytree(
        REPOSITORY / "servo_agg", path / "servo_agg", ignore=shutil.ignore_patterns("__pycache__")
    )
    add_failing(path / "adjust.d" / "other")
    (path / "config.yaml").write_text("agg: {parallel: wrong}\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("how", ["symlink to a symlink", "absolute path", "copy"])
def test_the_servo_directory_is_the_current_directory(
    servo: ServoDirectory, installed: Path, how: str
) -> None:
    (servo.path / "adjust").unlink()
    command = "./adjust"
    if how == "symlink to a symlink":
        (servo.path.parent / "bin").symlink_to(installed / "adjust")
        (servo.path / "adjust").symlink_to("../bin")
    elif how == "absolute path":
        command = str(installed / "adjust")
    else:
        shutil.copy(installed / "adjust", servo.path)
        shutil.copytree(installed / "servo_agg", servo.path / "servo_agg")
    servo.add("own", "plain")
    agent = Agent(servo.path, [command], env=servo.env)
    assert list(agent.info("app")["drivers"]) == ["own"]
    operation = agent.adjust("app", servo.request("own.cpu"))
    assert operation.ok, operation.summary()
    assert operation.stderr == b""


def test_without_a_driver_an_adjust_of_null_settings_is_ok(servo: ServoDirectory) -> None:
    """SPEC 7.10: a setting that is null counts as not given."""
    request = {"application": {"components": {"web": {"settings": {"cpu": None}}}}}
    completed = servo.run("app", input=request)
    assert completed.returncode == 0, completed
    assert completed.reply == {"status": "ok", "reason": "no-drivers"}
