"""The drivers and configurations that the documentation shows match the schemas of docs/schemas.

What servo-agg prints is checked in every test that runs it, see tests/support/schemas.py; the drivers of
adjust.d are checked in test_examples.py.
"""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yaml

from servo_agg.protocol.messages import encode
from tests.support.processes import environment, has_interpreter
from tests.support.schemas import assert_driver_output_matches, assert_matches
from tests.support.servo import REPOSITORY, ServoDirectory

if TYPE_CHECKING:
    from pathlib import Path

DOCS = REPOSITORY / "docs"

LIBRARY = REPOSITORY / "servo_agg" / "driverlib"

DEADLINE = 30.0


class Block(NamedTuple):
    """A file that a page shows."""

    page: str
    line: int
    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path, path: str) -> list[Block]:
    """Return the files that a page shows whose paths match a pattern."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(rf"^<!-- file: ({path}) -->\n```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [
        Block(str(page.relative_to(REPOSITORY)), text.count("\n", 0, block.start()) + 1, block[1], block[2])
        for block in found
    ]


DRIVERS = blocks(DOCS / "writing-drivers.md", r"adjust\.d/\S+")

LAMPS = [block for block in DRIVERS if block.path == "adjust.d/10lamp" and has_interpreter(block.text)]

CONFIGURATIONS = [
    block
    for page in (REPOSITORY / "README.md", *sorted(DOCS.rglob("*.md")))
    for block in blocks(page, r"config\.yaml")
]


def run(servo: ServoDirectory, path: str, *words: str, request: Any = None) -> list[dict[str, Any]]:
    """Run a driver as servo-agg does, and return what it prints, which must match the schemas."""
    if request is not None:
        assert_matches("adjust-input", request)
    done = subprocess.run(
        [path, *words],
        cwd=servo.path,
        env=environment({"PYTHONPATH": f"{servo.path}:{LIBRARY}"}),
        # Compact, as servo-agg writes it.
        input=b"" if request is None else encode(request),
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    assert_driver_output_matches(words, messages)
    assert (done.returncode == 0) == (messages[-1].get("status", "ok") == "ok"), done
    return messages


def check(servo: ServoDirectory, path: str) -> None:
    """Call a driver of the lamp in every way that servo-agg does."""
    assert run(servo, path, "--info", "app")[-1]["version"]
    assert run(servo, path, "--query", "app")
    for watts, status in ((60, "ok"), (75, "rejected")):
        components = {"lamp": {"settings": {"watts": {"value": watts}}}}
        messages = run(servo, path, "app", request={"application": {"components": components}})
        assert messages[-1]["status"] == status


@pytest.mark.parametrize("lamp", LAMPS, ids=str)
def test_the_output_of_a_driver_in_writing_drivers_md_matches_the_schemas(
    servo: ServoDirectory, lamp: Block
) -> None:
    servo.add_script("10lamp", lamp.text)
    check(servo, lamp.path)


def test_the_output_of_a_driver_that_runs_another_one_matches_the_schemas(servo: ServoDirectory) -> None:
    outer = next(block for block in DRIVERS if block.path == "adjust.d/20outer")
    servo.add_script("10lamp", LAMPS[-1].text)
    servo.add_script(outer.path.rpartition("/")[2], outer.text)
    (servo.drivers / "lib").mkdir()
    (servo.drivers / "10lamp").rename(servo.drivers / "lib" / "lamp")
    check(servo, outer.path)


def test_the_pages_show_drivers_and_configurations() -> None:
    assert len(LAMPS) >= 5
    assert len(DRIVERS) == 7
    assert len(CONFIGURATIONS) >= 5


@pytest.mark.parametrize("shown", CONFIGURATIONS, ids=str)
def test_a_config_yaml_of_the_documentation_matches_its_schema(shown: Block) -> None:
    assert_matches("config-agg", yaml.safe_load(shown.text))
