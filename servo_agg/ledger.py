"""What is running now, in memory that the guardian shares.

Rules (SPEC 10):
- A start is entered before it is made, noted with its pid after, and struck out when it was reaped.
- Writing an entry costs no system call and wakes nobody; the guardian reads only once we are gone.
- An entry counts from the moment at which its state, one byte, is written: last when it is made,
  so that no torn entry is ever read.
"""

from __future__ import annotations

import mmap

SLOTS = 4096
"""Starts at one time; a process has fewer descriptors than it would take to run as many."""

_SIZE = 64
_FREE, _ANNOUNCED, _NOTED = 0, 1, 2


class Start:
    """A start of a driver: `mark`, `grace` in seconds; `pid` and `born` (see processes.born), once known.

    `pid` is None and `born` is 0 before that.
    """

    __slots__ = ("born", "grace", "mark", "pid")

    def __init__(self, mark: str, grace: float, pid: int | None, born: int) -> None:
        self.mark = mark
        self.grace = grace
        self.pid = pid
        self.born = born


class Ledger:
    """The entries, written by one process and read by another."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, SLOTS * _SIZE)
        self._fresh = iter(range(SLOTS))
        self._freed: list[int] = []

    def enter(self, mark: str, grace: float) -> int:
        """Announce a start; give its slot. `mark` has 16 ASCII characters."""
        slot = self._freed.pop() if self._freed else next(self._fresh)
        at = slot * _SIZE
        self._memory[at + 1 : at + 17] = mark.encode("ascii")
        self._memory[at + 17 : at + 25] = _bytes(min(int(grace * 1000), 1 << 62))
        self._memory[at] = _ANNOUNCED
        return slot

    def note(self, slot: int, pid: int) -> None:
        """Note the pid of an announced start."""
        at = slot * _SIZE
        self._memory[at + 25 : at + 41] = _bytes(pid) + _bytes(0)
        self._memory[at] = _NOTED

    def note_born(self, slot: int, born: int) -> None:
        """Note when the process whose pid was noted was born: see processes.born."""
        self._memory[slot * _SIZE + 33 : slot * _SIZE + 41] = _bytes(born)

    def strike(self, slot: int) -> None:
        """Strike out a start: it was reaped, or never made."""
        self._memory[slot * _SIZE] = _FREE
        self._freed.append(slot)

    def starts(self) -> list[Start]:
        """Give all entries."""
        found = []
        for at in range(0, SLOTS * _SIZE, _SIZE):
            state = self._memory[at]
            if state != _FREE:
                entry = self._memory[at : at + _SIZE]
                grace = int.from_bytes(entry[17:25], "big") / 1000
                pid = int.from_bytes(entry[25:33], "big") if state == _NOTED else None
                found.append(
                    Start(entry[1:17].decode("ascii"), grace, pid, int.from_bytes(entry[33:41], "big"))
                )
        return found


def _bytes(number: int) -> bytes:
    return number.to_bytes(8, "big")
