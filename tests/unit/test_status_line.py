"""SPEC 14.33-14.37: what the status line says."""

from __future__ import annotations

import pytest

from servo_agg.output.status_line import Activity, stopping_text, waiting_text

NAMES = ("01a", "02b", "03c", "04d", "05e")


@pytest.mark.parametrize(
    ("option", "seconds", "text"),
    [
        ("--query", [], ""),
        ("--query", [1.9, 0.1], ""),
        ("--query", [2.0, 0.1], "waiting for 01a (--query), 2 s"),
        ("--info", [2.9, 12.9, 1.0, 3.0], "waiting for 01a, 02b, 04d (--info), 12 s"),
        ("--info", [3, 4, 5, 6, 7], "waiting for 01a, 02b, 03c and 2 more (--info), 7 s"),
        ("", [1.9], ""),
        ("", [75.5], "75 s"),
    ],
)
def test_drivers_that_run_for_some_seconds_are_shown(option: str, seconds: list[float], text: str) -> None:
    assert waiting_text([Activity(name, option, run, None) for name, run in zip(NAMES, seconds)]) == text


@pytest.mark.parametrize(
    ("kill_in", "text"),
    [
        ([None], ""),
        ([29.9], "stopping 01a: SIGKILL in 29 s; press Ctrl-C again to kill at once"),
        ([0.4, None, 3.0], "stopping 01a, 03c: SIGKILL in 3 s; press Ctrl-C again to kill at once"),
        ([0.5, 0.0], "stopping 01a, 02b"),
    ],
)
def test_drivers_that_are_being_stopped_are_shown(kill_in: list[float | None], text: str) -> None:
    assert stopping_text([Activity(name, "", 9.0, left) for name, left in zip(NAMES, kill_in)]) == text
