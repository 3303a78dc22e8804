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
- /proc may hide processes (`hidepid`, another pid namespace's /proc). Whether the group has members that
  no look shows is asked of the system once the leader has been reaped. If so, the group gets the signals.
- A tree that goes on forking must not keep us: each deed looks a bounded number of times, and the
  next one goes on.
"""

from __future__ import annotations

import os

from servo_agg.lifecycle import GLANCE, UNREST
from servo_agg.processes import (
    group_exists,
    kill_all,
    look,
    read_marks,
    send,
    signal_child,
    signal_group,
)
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
        self._reaped = False
        self._owns_group = False
        self._swept = False
        self._hidden = False
        self._forbidden = False

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
        if self._born_at is None and not self._reaped:
            pids.add(self._leader)
        if self._owns_its_pid(rows):
            pids |= {pid for pid, process in rows.items() if process.session == self._leader}
        if self._bystanders is not None:
            strangers = [process for pid, process in rows.items() if pid not in pids]
            read_marks(process for process in strangers if process not in (self._bystanders or ()))
            pids |= {process.pid for process in strangers if self._bears_mark(process)}
        pids = glance.with_descendants(pids)
        # While one of them is in the group, its number is no other's.
        self._owns_group = any(pid in rows and rows[pid].group == self._leader for pid in pids)
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
        if self._reaped:
            return self._hidden
        return not self._born_at or self._leader not in rows or rows[self._leader].born == self._born_at

    def _bears_mark(self, process: Process) -> bool:
        if self._bystanders is None or process.dead or process in self._bystanders:
            return False
        if process.marks is None:
            return False
        self._bystanders.add(process)
        return self._mark in process.marks

    def ask_leader(self) -> None:
        """Send SIGTERM and SIGCONT to the leader: one that is stopped must be woken to obey."""
        self._asked = True
        if self._born_at is not None:
            leader = [member for member in self._members if member.pid == self._leader]
            send(leader, SIGTERM)
            send(leader, SIGCONT)
        elif signal_child(self._leader, SIGTERM):
            signal_child(self._leader, SIGCONT)
        else:
            # Another user's process can pass nothing on to those that are ours.
            self.ask_rest()

    def ask_rest(self) -> None:
        """Send SIGTERM and SIGCONT to what the leader left behind."""
        send(self._members, SIGTERM)
        send(self._members, SIGCONT)

    def kill_group(self) -> None:
        """Send SIGKILL to the group of the leader, while its number is sure to be that of this group."""
        if self._born_at is None and not self._reaped:
            # On its way to exec it is not yet the leader of its group.
            signal_group(self._leader, SIGKILL) or signal_child(self._leader, SIGKILL)
        elif self._owns_group or self._hidden:
            signal_group(self._leader, SIGKILL)

    def hides_members(self, glance: Glance) -> bool:
        """Return whether its group has members that no look shows (SPEC 10).

        To be asked when the leader has gone, and was reaped if it was our child: a zombie is a member, too.
        While the group has members, its number is given to no other. Where it has visible zombies, nobody can
        tell whether it has hidden members: the group is killed then.
        """
        # The first look is older than the reaping, and shows the leader.
        just_reaped = self._born_at is None and not self._reaped
        self._reaped = self._born_at is None
        exists, allowed = group_exists(self._leader)
        group = [row for row in glance.rows.values() if row.group == self._leader]
        visible = [row for row in group if not (just_reaped and row.pid == self._leader)]
        was_hidden, self._hidden = self._hidden, exists and not visible
        if self._hidden and not was_hidden:
            signal_group(self._leader, SIGTERM)
            signal_group(self._leader, SIGCONT)
        self._forbidden = self._hidden and not allowed
        obscured = self._owns_group and visible and all(row.dead for row in visible)
        if obscured and not self._swept:
            # What was killed unseen may take a while to die.
            self._swept = self._restless = True
            signal_group(self._leader, SIGKILL)
            return True
        return self._hidden

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
        elif self._born_at is None and not self._reaped and self._leader not in glance.rows:
            self._forbidden = not signal_child(self._leader, 0)
        beyond_us = {process for process in alive if process.beyond_us()}
        self._resisting = beyond_us if self._resisting is None else self._resisting & beyond_us

    @property
    def resists(self) -> bool:
        """Whether something of the tree, the leader too, was beyond SIGKILL in every look since `kill`."""
        return bool(self._resisting) or self._forbidden

    def remains(self, glance: Glance) -> tuple[bool, list[Process]]:
        """Tell whether the leader, another's child, is gone, and give what else is alive."""
        self.look(glance)
        living = self._living(glance)
        gone = all(process.pid != self._leader for process in living)
        return gone, [process for process in living if process.pid != self._leader]

    def living(self, glance: Glance) -> list[Process]:
        """Return the members, our own child the leader aside, that are alive."""
        self.look(glance)
        return self._living(glance)

    def names(self, glance: Glance) -> list[str]:
        """Name for a person what is alive, the leader aside."""
        names = [process.name() for process in self.living(glance)]
        return [*names, f"a hidden process of group {self._leader}"] if self._hidden else names

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
