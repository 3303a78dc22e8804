"""The processes that belong to a driver, and their end.

Rules (SPEC 10):
- A driver's tree is its descendants and every process in its session, which holds its process group.
- Who was a member once stays one, by pid and start time, whatever becomes of its parent.
- What bears the mark of this start in its environment and was not there at the first look left the
  session while we looked: it is a member too. What had left session and descent before is a daemon
  that the driver meant to leave, and is spared.
- The leader, if it is our child, must not be reaped before its tree has ended: until then its pid,
  and so its process group and session, cannot be anyone else's.
- `killpg` comes first: it works when there is no descriptor left to read /proc with.
- A tree that goes on forking must not keep us: each deed looks a bounded number of times, and the
  next one goes on.
"""

from __future__ import annotations

import os

from servo_agg.lifecycle import GLANCE, UNREST
from servo_agg.processes import kill_all, look, send
from servo_agg.signals import SIGCONT, SIGKILL, SIGTERM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from servo_agg.processes import Process

_FIRST_LOOKS = 5
"""How often we look before the first signal, as long as someone new is found."""

_ROUNDS = 10
"""How often `kill` kills in one go, as long as someone new is found."""


class Tree:
    """The processes of one started driver, from the moment at which it is to be stopped."""

    def __init__(self, leader: int, mark: str, born_at: int | None = None) -> None:
        """Take the pid of the driver and its mark.

        Without `born_at` the driver is our child and not yet reaped, so that its pid is its own. Else
        it is another's, and the pid is its own only as long as its start time is that (0: unknown).
        """
        self._leader = leader
        self._mark = mark
        self._born_at = born_at
        self._members: set[Process] = set()
        self._bystanders: set[Process] | None = None
        self._resisting: set[Process] | None = None
        self._asked = False
        self._restless = False

    @property
    def settle(self) -> float:
        """How long looks must find nothing until the tree counts as gone, in seconds."""
        return UNREST if self._restless else GLANCE

    def look(self, table: dict[int, Process] | None = None) -> bool:
        """Take in all members that there are now; tell whether any is new.

        `table`: all processes, if the caller has just looked.
        """
        rows = look() if table is None else table
        before = len(self._members)
        pids = {pid for pid, process in rows.items() if process in self._members}
        if self._born_at is None:
            pids.add(self._leader)
        if self._owns_its_pid(rows):
            pids |= {pid for pid, process in rows.items() if process.session == self._leader}
        if self._bystanders is not None:
            pids |= {pid for pid, process in rows.items() if pid not in pids and self._bears_mark(process)}
        pids = _with_descendants(pids, rows)
        ours = {os.getpid()} if self._born_at is not None else {os.getpid(), self._leader}
        self._members |= {rows[pid] for pid in pids - ours if pid in rows}
        if self._bystanders is None:
            self._bystanders = set(rows.values())
        anyone_new = len(self._members) > before
        self._restless |= anyone_new and self._asked
        return anyone_new

    def _owns_its_pid(self, rows: dict[int, Process]) -> bool:
        """Whether the leader's pid is not someone else's by now; then neither is the session.

        The system gives no pid away while it still names a session.
        """
        return not self._born_at or self._leader not in rows or rows[self._leader].born == self._born_at

    def _bears_mark(self, process: Process) -> bool:
        if self._bystanders is None or process in self._bystanders:
            return False
        marks = process.marks()
        if marks is None:
            return False
        self._bystanders.add(process)
        return self._mark in marks

    def ask_leader(self) -> None:
        """Send SIGTERM and SIGCONT to the leader: one that is stopped must be woken to obey."""
        self._asked = True
        for number in (SIGTERM, SIGCONT):
            if self._born_at is None:
                os.kill(self._leader, number)
            else:
                send([member for member in self._members if member.pid == self._leader], number)

    def ask_rest(self) -> None:
        """Send SIGTERM and SIGCONT to what the leader left behind."""
        send(self._members, SIGTERM)
        send(self._members, SIGCONT)

    def kill(self) -> None:
        """Send SIGKILL to the whole tree, and to whom it forks meanwhile, in a bounded time."""
        for _ in range(_ROUNDS):
            if self._born_at is None:
                self._kill_group()
            table = look()
            anyone_new = self.look(table)
            kill_all(self._living(table))
            if not anyone_new:
                break
        self._note_who_resists()

    def _kill_group(self) -> None:
        try:
            os.killpg(self._leader, SIGKILL)
        except OSError:
            # On its way to exec it is not yet the leader of its group.
            os.kill(self._leader, SIGKILL)

    def _note_who_resists(self) -> None:
        table = look()
        alive = self._living(table)
        if self._leader in table and not table[self._leader].dead:
            alive.append(table[self._leader])
        beyond_us = {process for process in alive if process.beyond_us()}
        # For a moment many a dying process looks so; what is really stuck does in every look.
        self._resisting = beyond_us if self._resisting is None else self._resisting & beyond_us

    @property
    def resists(self) -> bool:
        """Whether something of the tree, the leader too, was beyond SIGKILL in every look since `kill`."""
        return bool(self._resisting)

    def remains(self) -> tuple[bool, list[Process]]:
        """Tell whether the leader, another's child, is gone, and give what else is alive."""
        table = look()
        self.look(table)
        living = self._living(table)
        gone = all(process.pid != self._leader for process in living)
        return gone, [process for process in living if process.pid != self._leader]

    def living(self) -> list[Process]:
        """Give the members, our own child the leader aside, that are alive.

        Where nothing can be seen, no /proc being mounted or no descriptor left, the group is killed.
        """
        table = look()
        if not table:
            self._kill_group()
        self.look(table)
        return self._living(table)

    def _living(self, table: dict[int, Process]) -> list[Process]:
        return [process for process in table.values() if not process.dead and process in self._members]


def _with_descendants(pids: set[int], rows: dict[int, Process]) -> set[int]:
    children: dict[int, list[int]] = {}
    for pid, process in rows.items():
        children.setdefault(process.parent, []).append(pid)
    found = set(pids)
    fresh = list(pids)
    while fresh:
        fresh = [child for pid in fresh for child in children.get(pid, ()) if child not in found]
        found.update(fresh)
    return found


def take_in(trees: Iterable[Tree]) -> None:
    """Look at trees that are about to be stopped until no new member is found, within bounds."""
    looking = list(trees)
    for _ in range(_FIRST_LOOKS):
        if not looking:
            return
        table = look()
        looking = [tree for tree in looking if tree.look(table)]
