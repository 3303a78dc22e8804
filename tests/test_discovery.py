"""Which files of adjust.d are drivers, in which order, and what happens when there are none (SPEC 2)."""

from __future__ import annotations

import json
import os
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.agent import Agent
from tests.servo import REPOSITORY, on_stderr

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.servo import Completed, ServoDirectory


def discovered(servo: ServoDirectory) -> list[str]:
    """Return the drivers that the program finds, in its order."""
    completed = servo.run("--info", "app")
    assert completed.returncode == 0, completed
    return list(completed.reply["drivers"])


def make_subdirectory(path: Path) -> None:
    path.mkdir()
    (path / "driver").write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    (path / "driver").chmod(0o755)


def make_file(path: Path) -> None:
    path.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    path.chmod(0o644)


def make_link_to_file(path: Path) -> None:
    target = path.parent.parent / "data"
    make_file(target)
    path.symlink_to(target)


def make_link_to_directory(path: Path) -> None:
    target = path.parent.parent / "a directory"
    make_subdirectory(target)
    path.symlink_to(target)


def make_pipe(path: Path) -> None:
    os.mkfifo(path)
    path.chmod(0o755)


NO_DRIVERS = {
    "sub-directory": make_subdirectory,
    "file without the flag": make_file,
    "hidden link to nowhere": lambda path: path.with_name(f".#{path.name}").symlink_to("me@host"),
    "link to a file without the flag": make_link_to_file,
    "link to a directory": make_link_to_directory,
    "named pipe": make_pipe,
}


@pytest.mark.parametrize("make", NO_DRIVERS.values(), ids=NO_DRIVERS.keys())
def test_spec_2_whatever_is_no_driver_is_skipped_without_noise(
    servo: ServoDirectory, make: Callable[[Path], None]
) -> None:
    servo.add("50driver", "plain")
    make(servo.drivers / "10no-driver")
    adjustment = json.dumps(servo.request("50driver.cpu")).encode()
    for operation in (["--info"], ["app"]):
        completed = servo.run(*operation, input=adjustment)
        assert completed.returncode == 0, completed
        assert completed.stderr == b""
        assert b"no-driver" not in completed.stdout
    assert {event.name for event in servo.log()} == {"50driver"}


@pytest.mark.parametrize("mode", [0o755, 0o555, 0o700, 0o100])
def test_spec_2_a_regular_file_that_we_may_execute_is_a_driver(servo: ServoDirectory, mode: int) -> None:
    if mode == 0o100:
        # A program that cannot be read can be run all the same, a script cannot.
        shutil.copy("/bin/true", servo.drivers / "driver")
    else:
        servo.add("driver", "plain")
    (servo.drivers / "driver").chmod(mode)
    assert discovered(servo) == ["driver"]


@pytest.mark.parametrize("name", ["#driver#", "~driver", "driver.sh", "a b;$HOME 'c' \"d\"", "-n", "a\nb"])
def test_spec_2_any_name_will_do_and_is_the_drivers_name(servo: ServoDirectory, name: str) -> None:
    servo.add(name, "plain", component="web")
    assert discovered(servo) == [name]
    completed = servo.run("app", input=json.dumps(servo.request("web.cpu")).encode())
    assert completed.returncode == 0, completed
    assert list(completed.reply["drivers"]) == [name]
    assert [line["message"] for line in completed.progress if "starting" in line["message"]] == [
        f"{name}: starting"
    ]


def test_spec_2_drivers_are_ordered_by_their_names_as_bytes(servo: ServoDirectory) -> None:
    """Not by locale, not as numbers, and not by the code points of a name that is no UTF-8."""
    in_order = [b"01ec2asg", b"02winec2", b"10", b"9", b"A", b"B", b"_", b"a", b"b", b"b-", b"b.", b"ba"]
    in_order += ["\u00e9".encode(), "\ufffd".encode(), "\U0001f600".encode(), b"\xff"]
    names = [os.fsdecode(name) for name in in_order]
    # The order in which the files are made, and with it perhaps that of the listing, is another one.
    for version in sorted(range(len(names)), key=lambda number: number * 7 % len(names)):
        servo.add(names[version], "plain", component=f"c{version}", version=version)
    versions = ", ".join(map(str, range(len(names))))
    for locale in ("C.UTF-8", "en_US.UTF-8", "C"):
        completed = servo.run("--info", "app", env={"LC_ALL": locale})
        assert list(completed.reply["drivers"]) == names
        assert completed.reply["version"] == f"aggregator 2.0.0 ({versions})"


def test_spec_2_drivers_are_adjusted_in_the_order_of_their_names(servo: ServoDirectory) -> None:
    names = ["01ec2asg", "02winec2", "10", "9", "Z", "a"]
    for name in reversed(names):
        servo.add(name, "plain")
    request = servo.request(*(f"{name}.cpu" for name in reversed(names)))
    operation = servo.agent().adjust("app", request)
    assert operation.ok, operation.told()
    assert [event.name for event in servo.log(phase="adjust") if event.what == "start"] == names
    assert operation.reply is not None
    assert list(operation.reply["drivers"]) == names


def test_spec_2_a_driver_is_run_by_its_relative_path_in_the_servo_directory(servo: ServoDirectory) -> None:
    servo.add("01echo", "echo")
    assert servo.agent().adjust("app", servo.request("01echo.cpu")).ok
    for phase in ("info", "query", "adjust"):
        told = servo.echoed("01echo", phase)
        assert told["argv"][0] == "adjust.d/01echo"
        assert told["cwd"] == str(servo.path)


def test_spec_2_a_driver_that_is_a_symlink_is_run_under_its_own_name(servo: ServoDirectory) -> None:
    """The same driver twice, each with its own settings, as in `k8s-adjust-canary`, `k8s-adjust-main`."""
    elsewhere = servo.path.parent / "installed"
    elsewhere.mkdir()
    shutil.move(servo.add("adjust", "echo"), elsewhere)
    # One link is absolute, the other goes to it, so it takes two steps to the file.
    (servo.drivers / "k8s-adjust-canary").symlink_to(elsewhere / "adjust")
    (servo.drivers / "k8s-adjust-main").symlink_to("k8s-adjust-canary")
    names = ["k8s-adjust-canary", "k8s-adjust-main"]
    assert discovered(servo) == names
    operation = servo.agent().adjust("app", servo.request(*(f"{name}.cpu" for name in names)))
    assert operation.ok, operation.told()
    for name in names:
        for phase in ("info", "query", "adjust"):
            told = servo.echoed(name, phase)
            assert told["argv"][0] == f"adjust.d/{name}"
            assert told["cwd"] == str(servo.path)
        given = json.loads(servo.echoed(name, "adjust")["stdin"])
        assert given["application"]["components"] == {name: {"settings": {"cpu": {"value": 4}}}}


def test_spec_2_adjust_d_itself_may_be_a_symlink(servo: ServoDirectory) -> None:
    servo.add("01echo", "echo")
    servo.drivers.rename(servo.path / "real.d")
    servo.drivers.symlink_to("real.d")
    assert discovered(servo) == ["01echo"]
    assert servo.echoed("01echo", "info")["argv"][0] == "adjust.d/01echo"


def install(at: Path) -> Path:
    """Make an installed copy of the program with a servo directory's content around it."""
    at.mkdir()
    shutil.copy(REPOSITORY / "adjust", at)
    shutil.copytree(REPOSITORY / "servo_agg", at / "servo_agg", ignore=shutil.ignore_patterns("__pycache__"))
    decoy = at / "adjust.d" / "decoy"
    decoy.parent.mkdir()
    decoy.write_text("#!/bin/sh\necho decoy >&2\nexit 1\n", encoding="utf-8")
    decoy.chmod(0o755)
    (at / "config.yaml").write_text("agg: {parallel: none of yours}\n", encoding="utf-8")
    return at


@pytest.mark.parametrize("how", ["symlink", "symlink to a symlink", "absolute path", "copy"])
def test_spec_2_the_servo_directory_is_the_current_one(servo: ServoDirectory, how: str) -> None:
    installed = install(servo.path.parent / "installed")
    (servo.path / "adjust").unlink()
    command = "./adjust"
    if how == "symlink":
        (servo.path / "adjust").symlink_to(installed / "adjust")
    elif how == "symlink to a symlink":
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
    assert operation.ok, operation.told()
    assert operation.stderr == b""


PASSED_OVER = [f"{number:02}flagless" for number in range(7)]


@pytest.fixture
def without_driver(servo: ServoDirectory) -> ServoDirectory:
    """Return a directory with seven files without the executable flag and other things, but no driver."""
    for name in PASSED_OVER:
        make_file(servo.drivers / name)
    make_subdirectory(servo.drivers / "lib")
    (servo.drivers / "broken").symlink_to("no such file")
    return servo


def warned_of(completed: Completed, count: int, servo: ServoDirectory) -> None:
    """Check that stderr tells how many files were passed over."""
    text = completed.stderr.decode("ascii").replace(on_stderr(servo.path), "")
    assert "no driver" in text.lower(), completed
    assert re.findall(r"\d+", text) == [str(count)], completed


def test_spec_2_without_a_driver_a_query_answers_an_empty_application(without_driver: ServoDirectory) -> None:
    completed = without_driver.run("--query", "app")
    assert completed.returncode == 0
    assert completed.reply == {"application": {"components": {}}}
    warned_of(completed, 7, without_driver)


def test_spec_2_without_a_driver_info_and_version_answer_and_warn(without_driver: ServoDirectory) -> None:
    completed = without_driver.run("--info", "app")
    assert completed.returncode == 0
    assert completed.reply["has_cancel"] is True
    assert completed.reply["drivers"] == {}
    warned_of(completed, 7, without_driver)
    version = without_driver.run("--version")
    assert version.returncode == 0
    assert version.stdout.decode("ascii").rstrip("\n") == completed.reply["version"]
    warned_of(version, 7, without_driver)


NO_SETTINGS = {
    "no components": {"application": {}},
    "no component": {"application": {"components": {}}},
    "no settings": {"application": {"components": {"web": {}}, "settings": {}}},
    "empty settings": {"application": {"components": {"web": {"settings": {}}}}, "control": {"timeout": 1}},
    "only null (SPEC 7.3)": {"application": {"components": {"web": {"settings": {"cpu": None}}}}},
}


@pytest.mark.parametrize("request_", NO_SETTINGS.values(), ids=NO_SETTINGS.keys())
def test_spec_2_without_a_driver_an_adjust_of_no_settings_is_ok(
    without_driver: ServoDirectory, request_: dict[str, object]
) -> None:
    completed = without_driver.run("app", input=json.dumps(request_).encode())
    assert completed.returncode == 0, completed
    assert completed.reply == {"status": "ok", "reason": "no-drivers"}
    warned_of(completed, 7, without_driver)
