"""The processes that belong to a driver, and how they are ended.

Rules (SPEC 10.5-10.26):
- A driver's tree is its descendants and every process in its session, which includes its process group.
- Once a member, always a member, by pid and start time, even after its parent has exited.
- What is about to get SIGTERM is stopped by SIGSTOP while the tree is read. Otherwise, a process that it
  starts between the snapshot and SIGTERM, and that leaves its session and environment, is never found.
- A process that has the driver's start token and did not exist at the first snapshot left the session after
  it: it is a member. What had left session and descent before is a daemon that the driver left on purpose.
- If the driver was killed before the first snapshot, descent is lost: all that have its token are its tree.
- The leader, if it is our child, must not be reaped before its tree has ended: until then its pid, and so the
  ids of its process group and session, cannot be reused.
- `killpg` comes first: it works even if no descriptor is left to read /proc.
- A signal to a member goes only to the process that was seen, known by its start time.
- /proc may hide processes (`hidepid`, the /proc of another pid namespace). Whether the group has members that
  no snapshot shows is asked of the kernel once the leader has been reaped. If so, signals go to the group.
- A tree that keeps forking must not block us: each call takes a bounded number of snapshots, and the next
  call continues.
"""

from __future__ import annotations

import os
import time

from servo_agg._compat import SIGCONT, SIGKILL, SIGSTOP, SIGTERM, pidfd_send_signal
from servo_agg.processes.snapshot import read_each, read_process, start_time, take_snapshot
from servo_agg.processes.start_token import read_tokens

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from servo_agg.processes.snapshot import Process


def send_signal(processes: Iterable[Process], number: int) -> None:
    """Send a signal to each process that is still the one that was seen (SPEC 10.26).

    Where the kernel has pidfds, no other process can get the signal: the pidfd is opened before the start
    time is compared. Elsewhere psutil sends the signal, after a comparison of its own. A process whose files
    block cannot be compared: it gets the signal.
    """
    targets = {process.pid: process for process in processes}
    send = _choose_sender()
    over = False

    def is_target(pid: int) -> bool:
        # A second SIGTERM, by a thread that was abandoned, would mean something else than the first.
        return start_time(pid) in (0, targets[pid].start_time) and not over

    done = read_each(targets, lambda pid: send(pid, number, is_target))
    over = True
    for pid in targets.keys() - done.keys():
        signal_child(pid, number)


def _choose_sender() -> Callable[[int, int, Callable[[int], bool]], None]:
    """Return a function that sends a signal to a pid if its process is a target."""
    try:
        pidfd = os.pidfd_open(os.getpid())
        try:
            pidfd_send_signal(pidfd, 0)
        finally:
            os.close(pidfd)
    except (AttributeError, OSError):
        # Linux before 5.3, macOS, sandboxes that forbid one of the calls, no free descriptor.
        try:
            from servo_agg.processes import by_psutil  # noqa: PLC0415 - needed only without pidfds

            by_psutil.load_psutil()
        except Exception:  # noqa: BLE001 - with too little memory it fails in any way
            return _send_by_kill
        return _send_by_psutil
    return _send_by_pidfd


def _send_by_pidfd(pid: int, number: int, is_target: Callable[[int], bool]) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except OSError:
        _send_by_kill(pid, number, is_target)
        return
    try:
        if is_target(pid):
            pidfd_send_signal(pidfd, number)
    except OSError:
        # It has exited, or runs as another user.
        return
    finally:
        os.close(pidfd)


def _send_by_psutil(pid: int, number: int, is_target: Callable[[int], bool]) -> None:
    from servo_agg.processes import by_psutil  # noqa: PLC0415 - as above

    if is_target(pid) and not by_psutil.send_signal(pid, number):
        signal_child(pid, number)


def _send_by_kill(pid: int, number: int, is_target: Callable[[int], bool]) -> None:
    if is_target(pid):
        signal_child(pid, number)


def signal_child(pid: int, number: int) -> bool:
    """Send a signal to a process whose pid cannot have been reused; return whether that was possible.

    It is not possible if the process runs as another user, as after `exec sudo`, or has exited.
    """
    try:
        os.kill(pid, number)
    except OSError:
        return False
    return True


def signal_group(group: int, number: int) -> bool:
    """Send a signal to a process group; return whether any of its processes could get it."""
    try:
        os.killpg(group, number)
    except OSError:
        return False
    return True


def group_exists(group: int) -> tuple[bool, bool]:
    """Return whether a process group has members, zombies included, and whether we may signal any of them."""
    try:
        os.killpg(group, 0)
    except PermissionError:
        return True, False
    except OSError:
        return False, False
    return True, True


FORK_QUIET_PERIOD = 0.1
"""Seconds for which snapshots must be empty if the tree kept forking while it was stopped."""

_QUIET_PERIOD = 0.01
"""The same otherwise, in seconds."""

_FREEZE_WAIT = 0.25
"""Seconds to wait until processes that got SIGSTOP have stopped: they may have to wait for a processor."""

_UNINTERRUPTIBLE_WAIT = 0.1
"""The same for an uninterruptible wait, which may last, but ends after a moment in a fork."""

_FREEZE_POLL_INTERVAL = 0.001
"""Seconds between two looks at them."""

_FIRST_SNAPSHOTS = 5
"""Snapshots before the first signal, as long as each shows a new member."""

_KILL_ROUNDS = 10
"""Rounds of SIGKILL in one call of `kill_trees`, as long as each shows a new member."""


class Snapshot:
    """All processes at one moment, taken when first needed: one snapshot serves many trees."""

    def __init__(self) -> None:
        self._processes: dict[int, Process] | None = None
        self._children: dict[int, list[int]] | None = None

    @property
    def processes(self) -> dict[int, Process]:
        """All processes by pid."""
        if self._processes is None:
            self._processes = take_snapshot()
        return self._processes

    def with_descendants(self, pids: set[int]) -> set[int]:
        """Return these pids and those of all their descendants."""
        if self._children is None:
            self._children = {}
            for pid, process in self.processes.items():
                self._children.setdefault(process.parent, []).append(pid)
        found = set(pids)
        new = list(pids)
        while new:
            new = [child for pid in new for child in self._children.get(pid, ()) if child not in found]
            found.update(new)
        return found


class Tree:
    """The processes of one driver, from the moment at which it must be stopped.

    leader  the pid of the driver
    """

    def __init__(
        self,
        leader: int,
        token: str,
        *,
        leader_start: int | None = None,
        leader_killed: bool = False,
        spare_daemons: bool = False,
        members: Iterable[Process] = (),
        on_members: Callable[[Iterable[tuple[int, int]]], object] | None = None,
    ) -> None:
        """`leader` is the pid of the driver, `token` its start token.

        Without `leader_start` the driver is our child and not yet reaped, so its pid cannot be reused;
        `leader_killed`: it was killed, and not by us. With `leader_start` it is the child of another process,
        and the pid is valid only while its start time is that (0: unknown). If it has exited, what has left
        its session is a member too, unless `spare_daemons`. `members` are known before.
        `on_members` is called with `(pid, start time)` of each new member.
        """
        self.leader = leader
        self._token = token
        self._leader_start = leader_start
        self._members: set[Process] = set(members)
        self._on_members = on_members
        self._spare_daemons = spare_daemons
        self._known_before: set[Process] | None = set() if leader_killed else None
        self._unkillable: set[Process] | None = None
        self._terminating = False
        self._still_forking = False
        self._leader_reaped = False
        self._owns_group = False
        self._group_swept = False
        self._hidden = False
        self._forbidden = False

    @property
    def quiet_period(self) -> float:
        """Seconds for which snapshots must be empty until the tree counts as gone."""
        return FORK_QUIET_PERIOD if self._still_forking else _QUIET_PERIOD

    def discover(self, snapshot: Snapshot) -> bool:
        """Add all members of a snapshot; return whether any is new."""
        processes = snapshot.processes
        if (
            self._known_before is None
            and self._leader_start is not None
            and not self._spare_daemons
            and not self._leader_alive(processes)
        ):
            self._known_before = set()
        pids = {process.pid for process in self._members if processes.get(process.pid) == process}
        if self._leader_start is None and not self._leader_reaped:
            pids.add(self.leader)
        if self._owns_leader_pid(processes):
            pids |= {pid for pid, process in processes.items() if process.session == self.leader}
        if self._known_before is not None:
            others = [process for pid, process in processes.items() if pid not in pids]
            read_tokens(process for process in others if process not in (self._known_before or ()))
            pids |= {process.pid for process in others if self._has_token(process)}
        pids = snapshot.with_descendants(pids)
        # While a member is in the group, the id of the group cannot be reused.
        self._owns_group = any(pid in processes and processes[pid].group == self.leader for pid in pids)
        excluded = {os.getpid()} if self._leader_start is not None else {os.getpid(), self.leader}
        new = {processes[pid] for pid in pids - excluded if pid in processes} - self._members
        self._members |= new
        if self._known_before is None:
            self._known_before = set(processes.values())
        self._still_forking |= bool(new) and self._terminating
        if new and self._on_members is not None:
            self._on_members((process.pid, process.start_time) for process in new)
        return bool(new)

    def _leader_alive(self, processes: dict[int, Process]) -> bool:
        leader = processes.get(self.leader)
        return self._owns_leader_pid(processes) and leader is not None and not leader.is_zombie

    def _owns_leader_pid(self, processes: dict[int, Process]) -> bool:
        """Return whether the leader's pid has not been reused; then neither has the session id.

        The kernel does not reuse a pid while it is the id of a session.
        """
        if self._leader_reaped:
            return self._hidden
        leader = processes.get(self.leader)
        return not self._leader_start or leader is None or leader.start_time == self._leader_start

    def _has_token(self, process: Process) -> bool:
        if self._known_before is None or process.is_zombie or process in self._known_before:
            return False
        if process.tokens is None:
            return False
        self._known_before.add(process)
        return self._token in process.tokens

    def stop_leader(self, leader: Process) -> bool:
        """Send SIGSTOP to the leader; return whether it can have got it."""
        if self._leader_start is None:
            return signal_child(self.leader, SIGSTOP)
        if not self._owns_leader_pid({self.leader: leader}):
            return False
        send_signal([leader], SIGSTOP)
        return True

    def terminate_leader(self) -> None:
        """Send SIGTERM and SIGCONT to the leader: a stopped process must continue to handle SIGTERM."""
        self._terminating = True
        if self._leader_start is not None:
            leader = [member for member in self._members if member.pid == self.leader]
            send_signal(leader, SIGTERM)
            send_signal(leader, SIGCONT)
        elif signal_child(self.leader, SIGTERM):
            signal_child(self.leader, SIGCONT)
        else:
            # The process of another user, which cannot pass SIGTERM on to those that are ours.
            self.terminate_rest()

    def terminate_rest(self) -> None:
        """Send SIGTERM and SIGCONT to the processes that the leader left."""
        send_signal(self._members, SIGSTOP)
        _wait_until_stopped({process.pid for process in self._members})
        self.discover(Snapshot())
        send_signal(self._members, SIGTERM)
        send_signal(self._members, SIGCONT)

    def kill_group(self) -> None:
        """Send SIGKILL to the process group, if its id cannot have been reused."""
        if self._leader_start is None and not self._leader_reaped:
            # Before exec the driver may not lead its group yet.
            signal_group(self.leader, SIGKILL) or signal_child(self.leader, SIGKILL)
        elif self._owns_group or self._hidden:
            signal_group(self.leader, SIGKILL)

    def has_hidden_members(self, snapshot: Snapshot) -> bool:
        """Return whether the process group has members that no snapshot shows (SPEC 10.19-10.22).

        Call it when the leader is gone, and reaped if it was our child: a zombie is a member, too. While the
        group has members, its id is not reused. If it has visible zombies, nothing tells whether it has
        hidden members as well: the group is killed then.
        """
        # The first snapshot was taken before the leader was reaped, and shows it.
        just_reaped = self._leader_start is None and not self._leader_reaped
        self._leader_reaped = self._leader_start is None
        exists, permitted = group_exists(self.leader)
        group = [process for process in snapshot.processes.values() if process.group == self.leader]
        visible = [process for process in group if not (just_reaped and process.pid == self.leader)]
        was_hidden, self._hidden = self._hidden, exists and not visible
        if self._hidden and not was_hidden:
            signal_group(self.leader, SIGTERM)
            signal_group(self.leader, SIGCONT)
        self._forbidden = self._hidden and not permitted
        obscured = self._owns_group and visible and all(process.is_zombie for process in visible)
        if obscured and not self._group_swept:
            # A hidden process that was killed may take a while to die.
            self._group_swept = self._still_forking = True
            signal_group(self.leader, SIGKILL)
            return True
        return self._hidden

    def kill_members(self, snapshot: Snapshot) -> bool:
        """Send SIGKILL to all members of a snapshot; return whether any is new."""
        any_new = self.discover(snapshot)
        send_signal(self._living(snapshot), SIGKILL)
        return any_new

    def update_unkillable(self, snapshot: Snapshot) -> None:
        """Record which members SIGKILL does not end.

        Many processes resist for a moment while they die; a stuck one resists in every snapshot.
        """
        alive = self._living(snapshot)
        leader = snapshot.processes.get(self.leader)
        if leader is not None and not leader.is_zombie:
            alive.append(leader)
        elif self._leader_start is None and not self._leader_reaped and leader is None:
            self._forbidden = not signal_child(self.leader, 0)
        unkillable = {process for process in alive if process.is_unkillable()}
        self._unkillable = unkillable if self._unkillable is None else self._unkillable & unkillable

    @property
    def is_unkillable(self) -> bool:
        """Whether a member, or the leader, has resisted in every snapshot since the first SIGKILL."""
        return bool(self._unkillable) or self._forbidden

    def remaining(self, snapshot: Snapshot) -> tuple[bool, list[Process]]:
        """Return whether the leader, the child of another process, is gone, and the other live members."""
        self.discover(snapshot)
        living = self._living(snapshot)
        gone = all(process.pid != self.leader for process in living)
        return gone, [process for process in living if process.pid != self.leader]

    def living(self, snapshot: Snapshot) -> list[Process]:
        """Return the live members, without the leader if it is our child."""
        self.discover(snapshot)
        return self._living(snapshot)

    def names(self, snapshot: Snapshot) -> list[str]:
        """Return names of the live members, for messages."""
        names = [process.name() for process in self.living(snapshot)]
        return [*names, f"a hidden process of process group {self.leader}"] if self._hidden else names

    def _living(self, snapshot: Snapshot) -> list[Process]:
        processes = snapshot.processes
        present = [processes[member.pid] for member in self._members if processes.get(member.pid) == member]
        return [process for process in present if not process.is_zombie]


def discover_members(trees: Iterable[Tree]) -> None:
    """Take snapshots for trees that are about to be stopped until no new member is found, within bounds.

    Their leaders get SIGSTOP before, and SIGCONT by `terminate_leader`.
    """
    pending = list(trees)
    leaders = read_each({tree.leader for tree in pending}, read_process)
    alive = [(tree, leaders.get(tree.leader)) for tree in pending]
    _wait_until_stopped({tree.leader for tree, leader in alive if leader and tree.stop_leader(leader)})
    for _ in range(_FIRST_SNAPSHOTS):
        if not pending:
            return
        snapshot = Snapshot()
        pending = [tree for tree in pending if tree.discover(snapshot)]


def _wait_until_stopped(pids: set[int]) -> None:
    """Wait until processes that got SIGSTOP cannot start another process.

    A process that is in a fork when it gets SIGSTOP starts the other process before it stops.
    """
    began_at = time.monotonic()
    while pids:
        processes = [process for process in read_each(pids, read_process).values() if process is not None]
        seconds = time.monotonic() - began_at
        pids = {
            process.pid
            for process in processes
            if not (process.is_zombie or process.is_stopped)
            and seconds < (_UNINTERRUPTIBLE_WAIT if process.uninterruptible else _FREEZE_WAIT)
            and signal_child(process.pid, 0)
        }
        time.sleep(_FREEZE_POLL_INTERVAL)


def kill_trees(trees: Collection[Tree]) -> None:
    """Send SIGKILL to whole trees, and to what they fork meanwhile, in a bounded time."""
    pending = trees
    for _ in range(_KILL_ROUNDS):
        if not pending:
            break
        for tree in pending:
            tree.kill_group()
        snapshot = Snapshot()
        pending = [tree for tree in pending if tree.kill_members(snapshot)]
    if trees:
        snapshot = Snapshot()
        for tree in trees:
            tree.update_unkillable(snapshot)
