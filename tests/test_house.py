"""The house: what a query costs in imports, what the files promise about themselves."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.processes import environment
from tests.servo import REPOSITORY

if TYPE_CHECKING:
    from tests.servo import ServoDirectory

HEAVY = {
    "argparse",
    "asyncio",
    "dataclasses",
    "inspect",
    "logging",
    "pathlib",
    "psutil",
    "subprocess",
    "typing",
    "yaml",
}
"""What a query has no use for; together they cost more than all the rest of it."""


def imported(servo: ServoDirectory, *arguments: str) -> set[str]:
    """Give what a run imports beyond what every start of this interpreter does."""
    return told(servo, "./adjust", *arguments) - told(servo, "-c", "pass")


def told(servo: ServoDirectory, *arguments: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        cwd=servo.path,
        env=environment(servo.env, {"PYTHONUNBUFFERED": None}),
        capture_output=True,
        stdin=subprocess.DEVNULL,
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
def test_a_query_or_info_imports_nothing_heavy(servo: ServoDirectory, arguments: tuple[str, ...]) -> None:
    servo.configure("other: {section: 1}")
    servo.add("01plain", "plain")
    modules = imported(servo, *arguments)
    assert "servo_agg.supervisor" in modules
    assert modules & HEAVY == set()


def test_yaml_is_imported_for_a_section_of_ours(servo: ServoDirectory) -> None:
    servo.configure("agg: {parallel: 2}")
    servo.add("01plain", "plain")
    assert "yaml" in imported(servo, "--query", "app")


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
