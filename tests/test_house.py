"""The house: what a query costs in imports, what the files promise about themselves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from typing import TYPE_CHECKING

import pytest

from tests.processes import environment
from tests.servo import REPOSITORY

if TYPE_CHECKING:
    from tests.servo import ServoDirectory

NEEDED = {
    "__future__",
    "_collections_abc",
    "_json",
    "_stat",
    "errno",
    "gc",
    "genericpath",
    "mmap",
    "os",
    "posixpath",
    "select",
    "stat",
}
"""What a query imports beside our rooms: `os` and what that needs; the rest is in C. Anything else, `json`,
`re`, `threading` or `enum` say, costs every describe milliseconds."""

PACKAGES = os.pathsep.join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})

FOR_OTHERS = {
    f"servo_agg.{room}"
    for room in ("adjusting", "checking", "findings", "history", "permissions", "planning", "tables")
}
"""The rooms of an adjust, and of what only people ask for."""

AFTER_THE_START = {f"servo_agg.{room}" for room in ("description", "report", "running", "section")}
"""The rooms that judge and merge what drivers reply, and the one that reads a config.yaml."""


def imported(servo: ServoDirectory, *arguments: str, given: bytes = b"") -> set[str]:
    """Give what a run of python with these arguments imports beyond what its bare start does, rooms left out.

    Packages are found, but `site` is not run: a `.pth` file of another package may import much of the
    standard library, and nothing that was there before us would be seen.
    """
    return {name for name in told(servo, *arguments, given=given) if not name.startswith("servo_agg")} - told(
        servo, "-c", "pass"
    )


def told(servo: ServoDirectory, *arguments: str, given: bytes = b"") -> set[str]:
    done = subprocess.run(
        [sys.executable, "-S", "-X", "importtime", *arguments],
        cwd=servo.path,
        env=environment(servo.env, {"PYTHONUNBUFFERED": None, "PYTHONPATH": PACKAGES}),
        capture_output=True,
        input=given,
        check=True,
    )
    return {
        line.rpartition("|")[2].strip()
        for line in done.stderr.decode().splitlines()
        if line.startswith("import")
    }


@pytest.mark.parametrize(
    "arguments", [("--query", "app"), ("--info", "app"), ("--version",)], ids=lambda words: words[0]
)
def test_a_query_or_info_imports_only_what_it_needs(
    servo: ServoDirectory, arguments: tuple[str, ...]
) -> None:
    servo.configure("other: {section: 1}")
    servo.add("01plain", "plain")
    modules = imported(servo, "./adjust", *arguments)
    assert "_json" in modules
    assert modules <= NEEDED
    assert told(servo, "./adjust", *arguments) & FOR_OTHERS == set()


def test_a_section_of_ours_imports_yaml_and_nothing_else(servo: ServoDirectory) -> None:
    servo.configure("agg: {parallel: 2}")
    servo.add("01plain", "plain")
    modules = imported(servo, "./adjust", "--query", "app")
    assert "yaml" in modules
    assert modules <= NEEDED | imported(servo, "-c", "import yaml")


def test_an_adjust_imports_psutil_and_the_lock_and_nothing_else(servo: ServoDirectory) -> None:
    servo.add("01plain", "plain")
    request = json.dumps(servo.request("01plain.cpu")).encode()
    modules = imported(servo, "./adjust", "app", given=request)
    assert {"psutil", "fcntl"} <= modules
    assert modules <= NEEDED | {"fcntl"} | imported(servo, "-c", "import psutil")


AT_EACH_START = """
import runpy
import sys

def tell(event, _):
    if event == "os.posix_spawn":
        print(*(name for name in sys.modules if name.startswith("servo_agg.")), file=sys.stderr, flush=True)

sys.addaudithook(tell)
sys.argv = ["./adjust", "--query", "app"]
runpy.run_path("./adjust", run_name="__main__")
"""
"""Says at each start of a driver which rooms have been imported by then."""


def test_no_driver_waits_for_the_import_of_what_judges_its_reply(servo: ServoDirectory) -> None:
    servo.add("01plain", "plain")
    servo.add("02plain", "plain", component="other")
    done = subprocess.run(
        [sys.executable, "-c", AT_EACH_START],
        cwd=servo.path,
        env=environment(servo.env),
        capture_output=True,
        check=True,
    )
    starts = done.stderr.decode().splitlines()
    assert len(starts) == 2
    for rooms in starts:
        assert "servo_agg.process" in rooms.split()
        assert AFTER_THE_START & set(rooms.split()) == set()


def test_the_contract_and_the_code_agree_on_the_version() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^version = "(.*)"$', text, re.MULTILINE)
    assert found is not None
    source = (REPOSITORY / "servo_agg" / "__init__.py").read_text(encoding="utf-8")
    assert f'VERSION = "{found[1]}"' in source


def test_every_room_is_named_where_rooms_are_described() -> None:
    described = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for room in (REPOSITORY / "servo_agg").glob("[a-z]*.py"):
        assert f"`{room.stem}`" in described, room.stem
