"""The processes that belong to a driver, and their end.

Rules (SPEC 10):
- A driver's tree is its descendants and every process in its session, which holds its process group.
- Who was a member once stays one, by pid and start time, whatever becomes of its parent.
- What bears the mark of this start in its environment and was not there at the first look left the
  session while we looked: it is a member too. What had left session and descent before is a daemon
  that the driver meant to leave, and is spared.
- Of a driver that was killed before anyone looked, descent cannot be told any more: all that bears its mark
  is its tree.
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
    from collections.abc import Collection, Iterable

    from servo_agg.processes import Process

_FIRST_LOOKS = 5
"""How often we look before the first signal, as long as someone new is found."""

_ROUNDS = 10
"""How often `kill` kills in one go, as long as someone new is found."""


class Glance:
    """All processes at one moment, looked at when that is first wanted: one look serves many trees."""

    def __init__(self) -> None:
        self._rows: dict[int, Process] | None = None
        self._children: dict[int, list[int]] | None = None

    @property
    def rows(self) -> dict[int, Process]:
        """All processes by pid."""
        if self._rows is None:
            self._rows = look()
        return self._rows

    def with_descendants(self, pids: set[int]) -> set[int]:
        """Give these pids and those of all their descendants."""
        if self._children is None:
            self._children = {}
            for pid, process in self.rows.items():
                self._children.setdefault(process.parent, []).append(pid)
        found = set(pids)
        fresh = list(pids)
        while fresh:
            fresh = [child for pid in fresh for child in self._children.get(pid, ()) if child not in found]
            found.update(fresh)
        return found


class Tree:
    """The processes of one started driver, from the moment at which it is to be stopped."""

    def __init__(
        self, leader: int, mark: str, born_at: int | None = None, *, leader_killed: bool = False
    ) -> None:
        """Take the pid of the driver and its mark.

        Without `born_at` the driver is our child and not yet reaped, so that its pid is its own, and
        `leader_killed` tells whether it was killed before. Else it is another's, and the pid is its own
        only as long as its start time is that (0: unknown).
        """
        self._leader = leader
        self._mark = mark
        self._born_at = born_at
        self._members: set[Process] = set()
        self._bystanders: set[Process] | None = set() if leader_killed else None
        self._resisting: set[Process] | None = None
        self._asked = False
        self._restless = False

    @property
    def settle(self) -> float:
        """How long looks must find nothing until the tree counts as gone, in seconds."""
        return UNREST if self._restless else GLANCE

    def look(self, glance: Glance) -> bool:
        """Take in all members that there are now; tell whether any is new."""
        rows = glance.rows
        before = len(self._members)
        if self._bystanders is None and self._born_at is not None and not self._leader_lives(rows):
            self._bystanders = set()
        pids = {process.pid for process in self._members if rows.get(process.pid) == process}
        if self._born_at is None:
            pids.add(self._leader)
        if self._owns_its_pid(rows):
            pids |= {pid for pid, process in rows.items() if process.session == self._leader}
        if self._bystanders is not None:
            pids |= {pid for pid, process in rows.items() if pid not in pids and self._bears_mark(process)}
        pids = glance.with_descendants(pids)
        ours = {os.getpid()} if self._born_at is not None else {os.getpid(), self._leader}
        self._members |= {rows[pid] for pid in pids - ours if pid in rows}
        if self._bystanders is None:
            self._bystanders = set(rows.values())
        anyone_new = len(self._members) > before
        self._restless |= anyone_new and self._asked
        return anyone_new

    def _leader_lives(self, rows: dict[int, Process]) -> bool:
        return self._owns_its_pid(rows) and self._leader in rows and not rows[self._leader].dead

    def _owns_its_pid(self, rows: dict[int, Process]) -> bool:
        """Whether the leader's pid is not someone else's by now; then neither is the session.

        The system gives no pid away while it still names a session.
        """
        return not self._born_at or self._leader not in rows or rows[self._leader].born == self._born_at

    def _bears_mark(self, process: Process) -> bool:
        if self._bystanders is None or process.dead or process in self._bystanders:
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

    def kill_group(self) -> None:
        """Send SIGKILL to the group of the leader, if that is our child."""
        if self._born_at is not None:
            return
        try:
            os.killpg(self._leader, SIGKILL)
        except OSError:
            # On its way to exec it is not yet the leader of its group.
            os.kill(self._leader, SIGKILL)

    def kill_members(self, glance: Glance) -> bool:
        """Send SIGKILL to all members that there are now; tell whether any is new."""
        anyone_new = self.look(glance)
        kill_all(self._living(glance))
        return anyone_new

    def note_who_resists(self, glance: Glance) -> None:
        """Take in who is beyond SIGKILL: for a moment many a dying process, in every look what is stuck."""
        alive = self._living(glance)
        if self._leader in glance.rows and not glance.rows[self._leader].dead:
            alive.append(glance.rows[self._leader])
        beyond_us = {process for process in alive if process.beyond_us()}
        self._resisting = beyond_us if self._resisting is None else self._resisting & beyond_us

    @property
    def resists(self) -> bool:
        """Whether something of the tree, the leader too, was beyond SIGKILL in every look since `kill`."""
        return bool(self._resisting)

    def remains(self, glance: Glance) -> tuple[bool, list[Process]]:
        """Tell whether the leader, another's child, is gone, and give what else is alive."""
        self.look(glance)
        living = self._living(glance)
        gone = all(process.pid != self._leader for process in living)
        return gone, [process for process in living if process.pid != self._leader]

    def living(self, glance: Glance) -> list[Process]:
        """Give the members, our own child the leader aside, that are alive.

        Where nothing can be seen, no /proc being mounted or no descriptor left, the group is killed.
        """
        if not glance.rows:
            self.kill_group()
        self.look(glance)
        return self._living(glance)

    def _living(self, glance: Glance) -> list[Process]:
        rows = glance.rows
        there = [rows[process.pid] for process in self._members if rows.get(process.pid) == process]
        return [process for process in there if not process.dead]


def take_in(trees: Iterable[Tree]) -> None:
    """Look at trees that are about to be stopped until no new member is found, within bounds."""
    looking = list(trees)
    for _ in range(_FIRST_LOOKS):
        if not looking:
            return
        glance = Glance()
        looking = [tree for tree in looking if tree.look(glance)]


def kill(trees: Collection[Tree]) -> None:
    """Send SIGKILL to whole trees, and to whom they fork meanwhile, in a bounded time."""
    hunted = trees
    for _ in range(_ROUNDS):
        if not hunted:
            break
        for tree in hunted:
            tree.kill_group()
        glance = Glance()
        hunted = [tree for tree in hunted if tree.kill_members(glance)]
    if trees:
        glance = Glance()
        for tree in trees:
            tree.note_who_resists(glance)
