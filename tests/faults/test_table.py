"""SPEC 5.18, 10: after any fault at any moment, no process is left and there is one final object."""

from __future__ import annotations

import pytest

from tests.faults.stage import STEP_TIMEOUT, RunResult, Stage, allowed
from tests.faults.table import GRACE, QUICK, RESTORING, Cell, cells
from tests.support.processes import wait_until

WATCHDOG_TIMEOUT = 4.0
"""Seconds, besides the grace, after which nothing is left of a program that was killed; SPEC 10.53 says 1."""

REAP_TIMEOUT = 30.0
"""Seconds after which the init has reaped all orphans."""

EXIT_TIMEOUT = 1.0
"""Seconds, besides the grace, in which the program exits."""


def _prepare(stage: Stage, cell: Cell) -> None:
    stage.grace(cell.grace)
    stage.env["OPTUNE_IO_TIMEOUT"] = None if cell.io_timeout is None else str(cell.io_timeout)
    for name, phase in cell.moment.gates:
        stage.shape(name, phase, cell.shape, gate=not cell.by_driver, survives_sigterm=cell.moment is GRACE)
    if cell.moment.halt:
        stage.halt(cell.moment.halt)
    if cell.moment.name == "lock":
        stage.lock()


def _run(stage: Stage, cell: Cell) -> RunResult:
    stage.start()
    if not cell.by_driver:
        cell.moment.reach(stage)
        stage.record_processes()
        cell.fault.inject(stage, cell.moment)
    return stage.end()


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(cell, id=cell.name, marks=() if cell.name in QUICK else pytest.mark.full)
        for cell in cells()
    ],
)
@pytest.mark.usefixtures("repetition")
def test_fault_leaves_no_process_and_one_final_object(stage: Stage, cell: Cell) -> None:
    _prepare(stage, cell)
    result = _run(stage, cell)

    killed = cell.expected.code < 0
    services = stage.services()
    assert bool(services) == (cell.shape in {"holder", "daemon"})
    spared = services if cell.shape == "daemon" or result.code == 0 else set()
    if killed:
        stage.await_no_process(cell.grace + WATCHDOG_TIMEOUT, "end of all processes", sparing=spared)
        wait_until(
            lambda: not stage.remaining(stage.all_processes, sparing=spared),
            REAP_TIMEOUT,
            "reaping by an init",
        )
    elif result.code == 0 or cell.shape == "group" or cell.finishes:
        # A driver that ends its own processes does not wait for them.
        stage.await_no_process(STEP_TIMEOUT, "end of what the drivers have result themselves", sparing=spared)
    assert set(stage.survivors()) == spared
    assert stage.remaining(stage.our_children) == []

    if cell.shape in RESTORING:
        stage.await_mark(f"{cell.moment.adjusting}.adjust.restored")
    if cell.shape == "cancelable":
        stage.await_mark(f"{cell.moment.adjusting}.adjust.canceled")

    assert result.code == cell.expected.code
    if cell.expected.status_and_reason is None:
        assert len(result.finals) <= 1
    else:
        assert result.status_and_reason == cell.expected.status_and_reason, result.finals
    if cell.moment is not GRACE and not cell.by_driver:
        assert result.seconds < cell.seconds + allowed(EXIT_TIMEOUT)
