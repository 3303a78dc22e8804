"""SPEC 4, 8, 13: whatever drivers pour out, nothing is lost, nobody is blocked, and memory stays bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.floods import FLOODS, idle, run
from tests.servo import ServoDirectory

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", FLOODS)
def test_a_small_flood(servo: ServoDirectory, name: str) -> None:
    flood = FLOODS[name]
    flood.judge(run(servo, flood, flood.quick, deadline=60), flood.quick)


@pytest.mark.full
@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_costs_no_more_memory_than_it_may(servo: ServoDirectory, tmp_path: Path, name: str) -> None:
    flood = FLOODS[name]
    told = run(servo, flood, flood.full)
    flood.judge(told, flood.full)
    assert told.peak - idle(ServoDirectory(tmp_path, "idle")) < flood.above
