"""Halt the program at the place named by FAULTS_HALT until a line comes through the FIFO faults/halt.

Python imports this at its start when the directory is on PYTHONPATH. A place is the name of an audit event;
for the moments around the start of a driver, besides which driver and phase:
`os.posix_spawn adjust.d/NAME query` (before it is started), `spawned adjust.d/NAME adjust` (it runs, its pid
is not recorded yet).
"""

# ruff: noqa: INP001 - its directory is meant for PYTHONPATH, not a package

from __future__ import annotations

import os
import sys
from typing import Any


class _Halt:
    def __init__(self, place: str) -> None:
        self._place = place

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        self.reach(f"{event} {_start(*arguments[:2])}" if event == "os.posix_spawn" else event)

    def reach(self, place: str) -> None:
        if place != self._place:
            return
        self._place = ""
        with open("faults/halt.reached", "w", encoding="ascii") as reached:
            reached.write("\n")
        gate = os.open("faults/halt", os.O_RDONLY)
        os.read(gate, 1)
        os.close(gate)


def _start(path: object, words: object) -> str:
    return f"{path} {'query' if '--query' in str(words) else 'adjust'}"


if "FAULTS_HALT" in os.environ:
    _halt = _Halt(os.environ["FAULTS_HALT"])
    sys.addaudithook(_halt)
    _spawn = os.posix_spawn

    def _spawn_and_halt(path: str, words: list[str], *rest: Any, **options: Any) -> int:
        pid = _spawn(path, words, *rest, **options)
        _halt.reach(f"spawned {_start(path, words)}")
        return pid

    os.posix_spawn = _spawn_and_halt  # type: ignore[assignment] # called as our own code calls it
