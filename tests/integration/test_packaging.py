"""The content of the wheel, and the editable installation of the README."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email.parser import Parser
from typing import TYPE_CHECKING

import pytest

from servo_agg import VERSION
from tests.support.servo import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path


def build(kind: str, target: Path) -> dict[str, str]:
    """Return the files of the wheel of this kind; a warning of the build fails it."""
    source = f"import sys; from flit_core.buildapi import {kind}; print({kind}(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", source, str(target)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    with zipfile.ZipFile(target / done.stdout.strip()) as wheel:
        return {name: wheel.read(name).decode() for name in wheel.namelist()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the files of the wheel that pip installs."""
    return build("build_wheel", tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_only_the_package_with_types_and_driver_library(
    wheel: dict[str, str],
) -> None:
    package = REPOSITORY / "servo_agg"
    sources = {str(path.relative_to(REPOSITORY)) for path in package.rglob("*.py")}
    assert {"servo_agg/driverlib/adjust.py", "servo_agg/driverlib/util.py"} <= sources
    files = {name for name in wheel if ".dist-info/" not in name}
    assert files == {*sources, "servo_agg/py.typed"}


def test_the_metadata_has_author_license_and_project_url(wheel: dict[str, str]) -> None:
    place = f"servo_agg-{VERSION}.dist-info"
    metadata = Parser().parsestr(wheel[f"{place}/METADATA"])
    assert (metadata["Version"], metadata["License-Expression"]) == (VERSION, "BSD-3-Clause")
    for field in ("Author", "Keywords", "Project-URL", "Requires-Python", "Summary"):
        assert metadata[field], field
    assert f"{place}/licenses/LICENSE" in wheel
    assert "servo-agg=servo_agg.cli:main" in wheel[f"{place}/entry_points.txt"]


def test_an_editable_installation_is_a_plain_path(tmp_path: Path) -> None:
    """A hook that finds the package would cost each start of the interpreter 10 ms."""
    files = build("build_editable", tmp_path)
    installed = {name: text.strip() for name, text in files.items() if ".dist-info/" not in name}
    assert installed == {"servo_agg.pth": str(REPOSITORY)}
