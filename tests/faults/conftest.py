"""Repetition of the cells, load during the repetition, and an init that reaps orphans."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.faults.stage import Init, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "repetition" in metafunc.fixturenames:
        times = metafunc.config.getoption("--repeat", 1)
        metafunc.parametrize("repetition", range(times), ids=lambda number: f"run{number + 1}")


@pytest.fixture(autouse=True, scope="session")
def _load(request: pytest.FixtureRequest) -> Iterator[None]:
    """One busy process per processor while the cells are repeated."""
    busy = []
    if request.config.getoption("--repeat", 1) > 1:
        busy = [
            subprocess.Popen(["/bin/sh", "-c", "while :; do :; done"]) for _ in range(os.cpu_count() or 1)
        ]
    yield
    for process in busy:
        process.kill()
        process.wait()


@pytest.fixture
def init() -> Iterator[Init]:
    with Init() as init:
        yield init


@pytest.fixture
def stage(tmp_path: Path, init: Init) -> Iterator[Stage]:
    with Stage(tmp_path, init) as stage:
        yield stage
