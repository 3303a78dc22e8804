"""SPEC 8.10-8.12: however much drivers print, nothing is lost or blocked, and memory stays bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.floods import FLOODS, idle, run
from tests.support.servo import ServoDirectory

if TYPE_CHECKING:
    from pathlib import Path


ONLY_LARGE = {"few-files-adjust", "reply-of-objects", "answers-of-values"}
"""Floods that test something of their own only at full size."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.full] if name in ONLY_LARGE else []) for name in FLOODS]
)
def test_a_small_flood_is_handled(servo: ServoDirectory, name: str) -> None:
    flood = FLOODS[name]
    flood.check(run(servo, flood, flood.quick, deadline=60), flood.quick)


@pytest.mark.full
@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_stays_within_its_memory_limit(servo: ServoDirectory, tmp_path: Path, name: str) -> None:
    flood = FLOODS[name]
    result = run(servo, flood, flood.full)
    flood.check(result, flood.full)
    assert result.peak - idle(ServoDirectory(tmp_path, "idle")) < flood.above
