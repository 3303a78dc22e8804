"""Halts the program at the place named by FAULTS_HALT until a line comes through the FIFO faults/halt.

Python imports this at its start when the directory is on PYTHONPATH. A place is the name of an audit event;
for the events around the start of a driver, besides which driver and phase:
`os.posix_spawn adjust.d/NAME query` (before it is started), `open adjust.d/NAME adjust` (it runs, its pid
is not noted yet).
"""

# ruff: noqa: INP001 - its directory is a place for PYTHONPATH, no package

from __future__ import annotations

import os
import sys


class _Halt:
    def __init__(self, place: str) -> None:
        self._place = place
        self._starting = ""

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self._place:
            return
        place = event
        if event == "os.posix_spawn":
            path, words = arguments[:2]
            self._starting = f"{path} {'query' if '--query' in str(words) else 'adjust'}"
        elif event == "open" and not str(arguments[0]).startswith("/proc/"):
            return
        if event in {"os.posix_spawn", "open"}:
            place = f"{event} {self._starting}"
        if place == self._place:
            self._place = ""
            with open("faults/halt.reached", "w", encoding="ascii") as reached:
                reached.write("\n")
            gate = os.open("faults/halt", os.O_RDONLY)
            os.read(gate, 1)
            os.close(gate)


if "FAULTS_HALT" in os.environ:
    sys.addaudithook(_Halt(os.environ["FAULTS_HALT"]))
