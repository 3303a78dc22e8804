"""The states of a driver run: the table, its description, and what real drivers go through."""

from __future__ import annotations

import sys

from servo_agg.drivers import run
from servo_agg.drivers.timeouts import TRANSITIONS
from tests.support.servo import REPOSITORY, ServoDirectory

RECORD_TRANSITIONS = """
from servo_agg.drivers.run import DriverRun

transition = DriverRun._transition

def record_and_transition(run, event):
    before = run.state
    transition(run, event)
    with open("transitions", "a") as file:
        file.write(f"{run.call.name} {before} {event} {run.state}\\n")

DriverRun._transition = record_and_transition
from servo_agg.cli import main
main()
"""
"""The program, which appends each transition to a file."""

PATHS = {
    "01plain": "started finished",
    "02missing": "start-failed",
    "03silent": "started stop finished",
    "04stubborn": "started stop grace-over finished",
    "05root": "started stop grace-over gave-up",
}
"""Drivers, and the events of their runs."""


def test_real_drivers_go_through_every_transition_of_the_table_and_no_other(servo: ServoDirectory) -> None:
    servo.add("01plain", "plain")
    servo.add_script("02missing", "#!/no/such/interpreter\n")
    servo.add_script("03silent", "#!/bin/sh\nexec sleep 60\n")
    servo.add_script("04stubborn", "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 0.1; done\n")
    (servo.path / "another-users").write_text("until [ -e go ]; do sleep 0.05; done\n", encoding="ascii")
    servo.add_script("05root", "#!/bin/sh\nexec sh ./another-users\n")
    path = f"{REPOSITORY / 'tests' / 'support' / 'machine'}:{REPOSITORY}"
    env = {"PYTHONPATH": path, "MACHINE": "forbids", "OPTUNE_IO_TIMEOUT": "1.5"}
    servo.run("--info", "app", env=env, command=[sys.executable, "-c", RECORD_TRANSITIONS])
    (servo.path / "go").touch()
    seen = [line.split() for line in (servo.path / "transitions").read_text(encoding="ascii").splitlines()]
    assert {(before, event): after for _, before, event, after in seen} == TRANSITIONS
    for name, events in PATHS.items():
        steps = [(before, event, after) for driver, before, event, after in seen if driver == name]
        assert " ".join(event for _, event, _ in steps) == events
        assert [before for before, _, _ in steps] == ["starting", *(after for _, _, after in steps[:-1])]
        assert steps[-1][2] == "ended"


def test_the_description_of_the_states_is_that_of_the_table() -> None:
    rows = [line.strip("| ").split("|") for line in (run.__doc__ or "").splitlines() if line.startswith("| ")]
    described = {row[0].strip(): set(row[2].strip().split(", ")) for row in rows[1:] if len(row) > 2}
    assert described == {
        state: {event for before, event in TRANSITIONS if before == state}
        for state in {before for before, _ in TRANSITIONS}
    }
