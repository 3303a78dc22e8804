"""The architecture: what each command imports, and what the files say about themselves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import environment
from tests.support.servo import REPOSITORY

if TYPE_CHECKING:
    from tests.support.servo import ServoDirectory

NEEDED = {
    "__future__",
    "_collections_abc",
    "_json",
    "_stat",
    "_struct",
    "errno",
    "gc",
    "genericpath",
    "mmap",
    "os",
    "posixpath",
    "select",
    "stat",
    "struct",
}
"""What a query imports besides our modules: `os` and what that needs; the rest is in C. Anything else, such
as `json`, `re`, `threading` or `enum`, costs every query milliseconds."""

PACKAGES = os.pathsep.join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})

NOT_FOR_QUERIES = {
    f"servo_agg.{module}"
    for module in (
        "argument_parser",
        "commands.adjust",
        "commands.check",
        "commands.check_drivers",
        "commands.check_permissions",
        "commands.check_report",
        "commands.conformance",
        "commands.conformance_calls",
        "commands.conformance_judgment",
        "commands.conformance_rules",
        "commands.plan",
        "lock",
        "output.run_log",
        "output.tables",
        "protocol.limits",
        "protocol.lint",
    )
}
"""The modules of an adjust, and of commands that only people use."""


def imported(servo: ServoDirectory, *arguments: str, given: bytes = b"") -> set[str]:
    """Return what python imports with these arguments and not at a bare start, without our modules.

    Packages are found, but `site` is not run: a `.pth` file of another package may import much of the
    standard library, which would hide our own imports.
    """
    modules = all_imported(servo, *arguments, given=given) - all_imported(servo, "-c", "pass")
    return {name for name in modules if not name.startswith("servo_agg")}


def all_imported(servo: ServoDirectory, *arguments: str, given: bytes = b"") -> set[str]:
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
    assert all_imported(servo, "./adjust", *arguments) & NOT_FOR_QUERIES == set()


def test_a_section_agg_imports_yaml_and_nothing_else(servo: ServoDirectory) -> None:
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


def test_package_and_metadata_have_the_same_version() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^version = "(.*)"$', text, re.MULTILINE)
    assert found is not None
    source = (REPOSITORY / "servo_agg" / "__init__.py").read_text(encoding="utf-8")
    assert f'VERSION = "{found[1]}"' in source


def test_contributing_names_every_module() -> None:
    described = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for path in (REPOSITORY / "servo_agg").glob("**/[a-z]*.py"):
        assert f"`{path.stem}`" in described, path
