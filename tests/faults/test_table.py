"""SPEC 10: whatever happens, and whenever: nothing is left behind, and one answer is given."""

from __future__ import annotations

import pytest

from tests.faults.stage import PATIENCE, Ended, Stage, allowed
from tests.faults.table import GRACE, QUICK, RESTORING, Cell, cells
from tests.processes import wait_until

GUARDED = 4.0
"""Seconds after which nothing is left when we were killed. Promised are 1 and the grace; the rest is load."""

INIT = 10.0
"""Seconds after which an init has no zombie of ours left."""

PROMPT = 1.0
"""Seconds besides the grace in which we exit."""


def _prepared(stage: Stage, cell: Cell) -> None:
    stage.grace(cell.grace)
    stage.env["OPTUNE_IO_TIMEOUT"] = None if cell.io_timeout is None else str(cell.io_timeout)
    for name, phase in cell.moment.gates:
        stage.shape(name, phase, cell.shape, gate=not cell.deed, patient=cell.moment is GRACE)
    if cell.moment.halt:
        stage.halt(cell.moment.halt)
    if cell.moment.name == "lock":
        stage.lock()


def _played(stage: Stage, cell: Cell) -> Ended:
    stage.begin()
    if not cell.deed:
        cell.moment.reach(stage)
        stage.look()
        cell.fault.strike(stage, cell.moment)
    return stage.end()


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(cell, id=cell.name, marks=() if cell.name in QUICK else pytest.mark.full)
        for cell in cells()
    ],
)
@pytest.mark.usefixtures("repetition")
def test_fault(stage: Stage, cell: Cell) -> None:
    _prepared(stage, cell)
    ended = _played(stage, cell)

    killed = cell.verdict.code < 0
    services = stage.services()
    assert bool(services) == (cell.shape in {"holder", "daemon"})
    spared = services if cell.shape == "daemon" or ended.code == 0 else set()
    if killed:
        stage.await_nothing(cell.grace + GUARDED, "end of all we ran", sparing=spared)
        wait_until(lambda: not stage.zombies(stage.family, sparing=spared), INIT, "reaping by an init")
    elif ended.code == 0 or cell.shape == "group" or cell.finishes:
        # Who ends its own processes, as a good driver does, does not wait for the last breath of each.
        stage.await_nothing(PATIENCE, "end of what the drivers themselves have ended", sparing=spared)
    assert set(stage.survivors()) == spared
    assert stage.zombies(stage.ours) == []

    if cell.shape in RESTORING:
        stage.await_mark(f"{cell.moment.adjusting}.adjust.restored")
    if cell.shape == "cancelable":
        stage.await_mark(f"{cell.moment.adjusting}.adjust.canceled")

    assert ended.code == cell.verdict.code
    if cell.verdict.said is None:
        assert len(ended.finals) <= 1
    else:
        assert ended.said == cell.verdict.said, ended.finals
    if cell.moment is not GRACE and not cell.deed:
        assert ended.seconds < cell.seconds + allowed(PROMPT)
