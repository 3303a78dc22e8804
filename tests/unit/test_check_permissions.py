"""SPEC 14.12, 14.13: a check finds files and directories that any user may write to."""

from __future__ import annotations

import os
import subprocess
import sys
from shlex import quote
from typing import TYPE_CHECKING, NamedTuple

import pytest

from servo_agg.commands.check_permissions import writable_by_all
from servo_agg.config import read_config

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from servo_agg.commands.check_report import Problem

OPEN = "is world-writable"
AS_US = f"{OPEN} and runs as the agent's user"
TELLS = f"{OPEN} and configures the drivers"
REPLACE = f"{OPEN}: any user can replace"


class Opened(NamedTuple):
    """Something that any user may write to, and what a check must say of it."""

    path: Path
    what: str
    remedy: str
    drivers: tuple[str, ...] = ()
    mode: int = 0o002
    """Bits that are added to its mode."""


def put_file(path: Path, mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    path.chmod(mode)
    return path


@pytest.fixture
def servo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a servo directory with the driver 50good, which is the current directory."""
    path = tmp_path / "servo directory"
    put_file(path / "adjust", 0o755)
    put_file(path / "adjust.d" / "50good", 0o755)
    monkeypatch.chdir(path)
    monkeypatch.setattr(sys, "argv", ["./adjust"])
    monkeypatch.delenv("OPTUNE_CONFIG", raising=False)
    return path


def problems() -> list[Problem]:
    return writable_by_all(read_config(os.environ))


def link_driver(servo: Path) -> Path:
    """Make the driver a link, and return its target."""
    target = servo.parent / "elsewhere" / "driver"
    target.parent.mkdir()
    (servo / "adjust.d" / "50good").rename(target)
    (servo / "adjust.d" / "50good").symlink_to(target)
    return target


def a_file(name: str, mode: int = 0o644, shown: str = "") -> Callable[[Path], Opened]:
    shown = shown or name
    return lambda servo: Opened(put_file(servo / name, mode), f"{shown} {AS_US}", f"chmod o-w {shown}")


def linked_driver(servo: Path) -> Opened:
    target = link_driver(servo)
    what = f"adjust.d/50good (a link to {target}) {AS_US}"
    return Opened(target, what, f"chmod o-w {quote(str(target))}", ("50good",))


def directory_of_linked_driver(servo: Path) -> Opened:
    path = link_driver(servo).parent
    return Opened(path, f"{path} {REPLACE} adjust.d/50good", f"chmod o-w {quote(str(path))}", ("50good",))


def sticky_directory_of_linked_driver(servo: Path) -> Opened:
    path = link_driver(servo).parent
    what = (
        f"{path} {OPEN}: any user can add Python modules next to adjust.d/50good, and adjust.d/50good would"
        " import them"
    )
    remedy = "move adjust.d/50good to a directory that only its owner may write to"
    return Opened(path, what, remedy, ("50good",), 0o1002)


def directory_of_a_link(servo: Path) -> Opened:
    target = link_driver(servo)
    between = servo.parent / "between"
    between.mkdir()
    (between / "current").symlink_to(target.parent)
    (servo / "adjust.d" / "50good").unlink()
    (servo / "adjust.d" / "50good").symlink_to("../../between/current/driver")
    return Opened(between, f"{between} {REPLACE} adjust.d/50good", closing(between), ("50good",))


def closing(directory: Path) -> str:
    """Return the remedy for a directory on the path to a file."""
    word = quote(str(directory))
    return f"chmod o-w {word}; or, if other users must be able to write there: chmod +t {word}"


def linked_configuration(servo: Path) -> Opened:
    target = put_file(servo.parent / "elsewhere" / "config.yaml")
    (servo / "config.yaml").symlink_to(target)
    what = f"config.yaml (a link to {target}) {TELLS}"
    return Opened(target, what, f"chmod o-w {quote(str(target))}")


def other_configuration(servo: Path) -> Opened:
    os.environ["OPTUNE_CONFIG"] = "conf/drivers.yaml"
    path = put_file(servo / "conf" / "drivers.yaml")
    return Opened(path, f"conf/drivers.yaml {TELLS}", "chmod o-w conf/drivers.yaml")


def sticky_servo_directory(servo: Path) -> Opened:
    remedy = "move its content to a directory that only its owner may write to"
    return Opened(servo, f"{servo} {AS_US}", remedy, (), 0o1002)


OPENED: dict[str, Callable[[Path], Opened]] = {
    "servo directory": lambda servo: Opened(servo, f"{servo} {AS_US}", f"chmod o-w {quote(str(servo))}"),
    "servo directory with sticky bit": sticky_servo_directory,
    "parent": lambda servo: Opened(servo.parent, f"{servo.parent} {REPLACE} {servo}", closing(servo.parent)),
    "adjust.d": lambda servo: Opened(
        servo / "adjust.d", f"adjust.d {AS_US}", "chmod o-w adjust.d", (), 0o1002
    ),
    "driver": lambda servo: Opened(
        servo / "adjust.d" / "50good", f"adjust.d/50good {AS_US}", "chmod o-w adjust.d/50good", ("50good",)
    ),
    **{
        name: a_file(name)
        for name in (
            *("adjust", "adjust.py", "state_store.py", "servo", "encoders/jvm.py", "servo_agg/config.py"),
            *("__pycache__/adjust.cpython-311.pyc", "adjust.d/helper.py", "adjust.d/lib/deep/template"),
        )
    },
    "executable": a_file("restart.sh", 0o755),
    "name that begins with a dash": a_file("-x.py", shown="./-x.py"),
    "config.yaml": lambda servo: Opened(
        put_file(servo / "config.yaml"), f"config.yaml {TELLS}", "chmod o-w config.yaml"
    ),
    "config.yaml that is a link": linked_configuration,
    "OPTUNE_CONFIG": other_configuration,
    "driver that is a link": linked_driver,
    "directory of a driver that is a link": directory_of_linked_driver,
    "directory of a driver that is a link, with sticky bit": sticky_directory_of_linked_driver,
    "directory of a link": directory_of_a_link,
}


@pytest.mark.parametrize("prepare", OPENED.values(), ids=OPENED.keys())
def test_anything_writable_by_everybody_is_a_problem_with_a_remedy(
    servo: Path, monkeypatch: pytest.MonkeyPatch, prepare: Callable[[Path], Opened]
) -> None:
    monkeypatch.setenv("OPTUNE_CONFIG", "")
    opened = prepare(servo)
    assert problems() == []
    opened.path.chmod(opened.path.stat().st_mode | opened.mode)
    (problem,) = problems()
    assert (problem.what, problem.remedy) == (opened.what, opened.remedy)
    assert tuple(problem.drivers) == opened.drivers
    if opened.remedy.startswith("chmod"):
        subprocess.run(["/bin/sh", "-c", opened.remedy.partition(";")[0]], check=True)
        assert problems() == []


@pytest.mark.usefixtures("servo")
def test_the_adjust_that_was_started_is_examined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = put_file(tmp_path / "installed" / "adjust", 0o757)
    monkeypatch.setattr(sys, "argv", [str(started)])
    assert [problem.what for problem in problems()] == [f"{started} {AS_US}"]


def test_many_files_are_one_problem(servo: Path) -> None:
    for number in range(10):
        put_file(servo / "adjust.d" / "lib" / f"{number}.py", 0o666)
    for name in ("adjust.py", "util.py"):
        put_file(servo / name, 0o666)
    first, second = problems()
    names = ", ".join(f"adjust.d/lib/{number}.py" for number in range(5))
    assert first.what == f"{names} and 5 more are world-writable and run as the agent's user"
    assert first.remedy == "chmod -R o-w adjust.d"
    assert second.what == "adjust.py and util.py are world-writable and run as the agent's user"
    assert second.remedy == "chmod o-w adjust.py util.py"


def test_links_devices_data_and_sticky_directories_are_no_problem(
    servo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The mode of a link means nothing; in a directory with the sticky bit nobody can replace the file of
    # another user; data is not run.
    link_driver(servo)
    (servo / "config.yaml").symlink_to("/dev/null")
    monkeypatch.setenv("OPTUNE_CONFIG", "/dev/null")
    (servo / "adjust.d" / "scratch").symlink_to("/tmp")  # noqa: S108 - exists everywhere, with the sticky bit
    servo.parent.chmod(0o1777)
    put_file(servo / "agg.log", 0o666)
    put_file(servo / "state" / "values", 0o666).parent.chmod(0o777)
    assert problems() == []
