"""The watchdog: a process that stops the drivers if we are killed; the spawn table that it shares with us.

Rules (SPEC 10.53-10.65):
- The spawn table holds the drivers that run now. A driver is announced before it is started, gets its pid
  after, and is removed when it has been reaped. Writing a record needs no system call and wakes nobody.
- The watchdog is forked before the first thread, in a session of its own. The signals that end us are blocked
  at that moment, and stay blocked in it. Of our descriptors it keeps its end of a pipe and the locks, nothing
  that the agent waits for.
- It sleeps until we have ended, which it learns by a pidfd, or where there is none by the pipe: a driver that
  is being started holds a copy of the other end until its program is executed. Then it stops, as we would,
  each driver in the spawn table, and the processes of drivers that we were stopping.
- A driver that was started, but whose pid we could not record any more, is found by its start token and by
  the pipe that is its stdout.
- A driver that had exited with status 0 before we ended has left its processes on purpose. The exit status
  can only be read while we have not reaped it, so the watchdog looks once a second. One that is first seen to
  have exited after our end may have done so because of that: only what has left its session is spared.
- A driver that we were stopping leaves nothing on purpose, even if it exits with 0.
- A driver is not its child, and can be reaped at any time: pid and start time are compared before each
  signal.
- At our normal end it is killed: there is nothing to watch.
"""

from __future__ import annotations

import mmap
import os
import select
import time

from servo_agg._compat import SIGCONT, SIGKILL
from servo_agg.drivers.timeouts import StopSequence
from servo_agg.processes.snapshot import exit_code, read_process, start_time, take_snapshot
from servo_agg.processes.start_token import processes_with_tokens
from servo_agg.processes.tree import (
    Snapshot,
    Tree,
    discover_members,
    kill_trees,
    send_signal,
    signal_child,
)
from servo_agg.threads import Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import NoReturn

    from servo_agg.drivers.timeouts import Step
    from servo_agg.processes.snapshot import Process

CAPACITY = 4096
"""Drivers in the spawn table."""

MEMBER_CAPACITY = 1 << 16
"""Other processes of drivers that are being stopped. What exceeds that is not recorded."""

_FREE, _ANNOUNCED, _STARTED, _STOPPING = range(4)

_STATE, _TOKEN, _GRACE, _INODE, _PID, _START_TIME, _RECORD_SIZE = range(7)
"""Positions in a record, and its size, in words of 64 bits. The grace is in microseconds."""

_OWNER, _MEMBER_PID, _MEMBER_START_TIME, _MEMBER_SIZE = range(4)
"""The same for a member. Its owner is the slot of the driver + 1, 0 if the entry is free."""


class SpawnRecord:
    """A start of a driver.

    slot        where it stands in the table
    token       its start token
    grace       seconds from SIGTERM to SIGKILL
    inode       inode of the pipe that is its stdout
    pid         None until it is known
    start_time  in the unit of `processes.snapshot.Process`, 0 until it is known
    stopping    whether we are stopping it
    """

    __slots__ = ("grace", "inode", "pid", "slot", "start_time", "stopping", "token")

    def __init__(
        self,
        slot: int,
        token: str,
        grace: float,
        inode: int,
        pid: int | None,
        start_time: int,
        *,
        stopping: bool,
    ) -> None:
        self.slot = slot
        self.token = token
        self.grace = grace
        self.inode = inode
        self.pid = pid
        self.start_time = start_time
        self.stopping = stopping


class SpawnTable:
    """Records in shared memory, written by one process and read by another.

    The word that makes a record valid is written last, so no torn record is ever read.
    """

    def __init__(self) -> None:
        self._words = _shared_words(CAPACITY * _RECORD_SIZE)
        self._members = _shared_words(MEMBER_CAPACITY * _MEMBER_SIZE)
        self._unused = iter(range(CAPACITY))
        self._free: list[int] = []
        self._unused_members = iter(range(MEMBER_CAPACITY))
        self._free_members: list[int] = []
        self._members_of: dict[int, list[int]] = {}

    def announce(self, token: str, grace: float, inode: int) -> int:
        """Record that a driver is about to be started; return its slot. `token` has 16 hexadecimal digits."""
        slot = self._free.pop() if self._free else next(self._unused)
        at = slot * _RECORD_SIZE
        self._words[at + _TOKEN] = int(token, 16)
        self._words[at + _GRACE] = int(grace * 1e6)
        self._words[at + _INODE] = inode
        self._words[at + _START_TIME] = 0
        self._words[at + _STATE] = _ANNOUNCED
        return slot

    def set_pid(self, slot: int, pid: int) -> None:
        """Record the pid of an announced driver."""
        at = slot * _RECORD_SIZE
        self._words[at + _PID] = pid
        self._words[at + _STATE] = _STARTED

    def set_start_time(self, slot: int, start_time: int) -> None:
        """Record the start time of a driver whose pid is recorded."""
        self._words[slot * _RECORD_SIZE + _START_TIME] = start_time

    def set_stopping(self, slot: int) -> None:
        """Record that we begin to stop a driver whose pid is recorded."""
        self._words[slot * _RECORD_SIZE + _STATE] = _STOPPING

    def add_members(self, slot: int, members: Iterable[tuple[int, int]]) -> None:
        """Record other processes of a driver that is being stopped, as `(pid, start time)`."""
        for pid, started in members:
            entry = self._free_members.pop() if self._free_members else next(self._unused_members, None)
            if entry is None:
                return
            at = entry * _MEMBER_SIZE
            self._members[at + _MEMBER_PID] = pid
            self._members[at + _MEMBER_START_TIME] = started
            self._members[at + _OWNER] = slot + 1
            self._members_of.setdefault(slot, []).append(entry)

    def remove(self, slot: int) -> None:
        """Remove a driver that was reaped or could not be started, and its members."""
        self._words[slot * _RECORD_SIZE + _STATE] = _FREE
        for entry in self._members_of.pop(slot, ()):
            self._members[entry * _MEMBER_SIZE + _OWNER] = 0
            self._free_members.append(entry)
        self._free.append(slot)

    def records(self) -> list[SpawnRecord]:
        """Return all records."""
        states = self._words[_STATE::_RECORD_SIZE].tolist()
        return [self._record(slot) for slot, state in enumerate(states) if state != _FREE]

    def _record(self, slot: int) -> SpawnRecord:
        at = slot * _RECORD_SIZE
        state, token, grace, inode, pid, start_time = self._words[at : at + _RECORD_SIZE]
        known = pid if state in (_STARTED, _STOPPING) else None
        return SpawnRecord(
            slot, f"{token:016x}", grace / 1e6, inode, known, start_time, stopping=state == _STOPPING
        )

    def members(self) -> dict[int, list[tuple[int, int]]]:
        """Return the recorded members, as `(pid, start time)`, by the slot of their driver."""
        found: dict[int, list[tuple[int, int]]] = {}
        for entry, owner in enumerate(self._members[_OWNER::_MEMBER_SIZE].tolist()):
            if owner:
                at = entry * _MEMBER_SIZE
                member = self._members[at + _MEMBER_PID], self._members[at + _MEMBER_START_TIME]
                found.setdefault(owner - 1, []).append(member)
        return found


def _shared_words(count: int) -> memoryview[int]:
    return memoryview(mmap.mmap(-1, count * 8)).cast("Q")


_CHECK_INTERVAL = 1.0
"""Seconds between two looks at the drivers while we are alive."""

_SWEEP_INTERVAL = 0.2
"""Seconds between two searches for drivers whose pid is unknown."""

_QUIET_FACTOR = 5
"""How many times longer than we the watchdog looks for remaining processes: nobody waits for it."""

_POLL_INTERVAL = 0.02
"""Seconds between two snapshots of trees that are being stopped."""


class Watchdog:
    """The watchdog, seen from the process that it watches.

    line      a descriptor with POLLERR once the watchdog has exited: time to reap it
    released  whether it ended because we released it
    """

    def __init__(self, pid: int, line: int) -> None:
        self.line = line
        self.released = False
        self._pid = pid
        self._reaped = False
        self._lock = Lock()

    def release(self) -> None:
        """End it: no driver runs, and none will be started. What is still in the spawn table is not stopped.

        It gets SIGKILL, which nothing can delay, and has exited by the time it is reaped: it takes 1 ms.
        """
        with self._lock:
            self.released = True
            if not self._reaped:
                os.kill(self._pid, SIGKILL)

    def is_alive(self) -> bool:
        """Return whether it runs; reap it if it has exited."""
        with self._lock:
            self._reaped = self._reaped or os.waitpid(self._pid, os.WNOHANG)[0] != 0
            return not self._reaped

    def reap(self) -> None:
        """Wait until it has exited, unless it was reaped before."""
        with self._lock:
            if not self._reaped:
                os.waitpid(self._pid, 0)
                self._reaped = True


def start_watchdog(spawn_table: SpawnTable, keep: Iterable[int]) -> Watchdog:
    """Fork the watchdog. `keep`: descriptors that it holds until no driver is alive. Raises OSError."""
    watched = os.getpid()
    ours, line = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(line)
        _watch(watched, ours, keep, spawn_table)
    os.close(ours)
    return Watchdog(pid, line)


def _watch(watched: int, line: int, keep: Iterable[int], spawn_table: SpawnTable) -> NoReturn:
    """Run the watchdog. This must never return into the program, not even after an error."""
    try:
        _detach(line, keep)
        finished = _wait(watched, line, spawn_table)
        records = [record for record in spawn_table.records() if record.token not in finished]
        _stop_all(records, spawn_table.members())
    finally:
        os._exit(0)


def _detach(line: int, keep: Iterable[int]) -> None:
    os.setsid()
    kept = {line, *keep}
    for descriptor in (0, 1, 2):
        # Its end of the pipe is the only thing that surely exists: /dev/null may be missing.
        os.dup2(line, descriptor)
    for descriptor in open_descriptors():
        if descriptor not in kept:
            try:
                os.close(descriptor)
            except OSError:
                continue


def _wait(watched: int, line: int, spawn_table: SpawnTable) -> set[str]:
    """Sleep until the watched process has ended; return the tokens of drivers that exited with 0 before."""
    waiting = select.poll()
    waiting.register(line, 0)
    # Linux before 5.3, macOS, sandboxes that forbid the call: the pipe must do.
    try:
        waiting.register(os.pidfd_open(watched), select.POLLIN)
    except (AttributeError, OSError):
        waiting.register(line, 0)
    finished: set[str] = set()
    announced: set[str] = set()
    while not waiting.poll(_CHECK_INTERVAL * 1000):
        if os.getppid() != watched:
            break
        records = spawn_table.records()
        finished = {record.token for record in records if record.token in finished or _has_finished(record)}
        pending = {record.token for record in records if record.pid is None}
        if pending & announced:
            _continue_stopped_starts(watched, records)
        announced = pending
    return finished


def _has_finished(record: SpawnRecord) -> bool:
    """Return whether a driver has exited with status 0, and not because we were stopping it."""
    if record.pid is None or record.stopping:
        return False
    return exit_code(record.pid, record.start_time) == 0


def _continue_stopped_starts(watched: int, records: list[SpawnRecord]) -> None:
    """Send SIGCONT to a child that was stopped before it executed the driver's program.

    A SIGSTOP to our process group that hits the child right before it gets its own session is followed by no
    SIGCONT, and we wait for the child, unable to run any thread.
    """
    known = {record.pid for record in records}
    for process in take_snapshot().values():
        if process.parent == watched and process.is_stopped and process.pid not in known:
            signal_child(process.pid, SIGCONT)


def _living(members: list[tuple[int, int]]) -> list[Process]:
    known = set(members)
    found = (read_process(pid) for pid, _ in members)
    return [
        process for process in found if process is not None and (process.pid, process.start_time) in known
    ]


class _TreeStop:
    """The stop of one tree."""

    def __init__(self, tree: Tree, grace: float) -> None:
        self.tree = tree
        self._sequence = StopSequence(time.monotonic(), grace)

    def advance(self, snapshot: Snapshot) -> Step:
        """Take the next step, except killing; return it."""
        leader_exited, remaining = self.tree.remaining(snapshot)
        step = self._sequence.advance(
            time.monotonic(),
            leader_exited=leader_exited,
            members_left=bool(remaining) or (leader_exited and self.tree.has_hidden_members(snapshot)),
            quiet_period=_QUIET_FACTOR * self.tree.quiet_period,
        )
        if step == "terminate-rest":
            self.tree.terminate_rest()
        return step


def _stop_all(records: list[SpawnRecord], members: dict[int, list[tuple[int, int]]]) -> None:
    """Stop the drivers of these records; `members`: see SpawnTable."""
    started = [record for record in records if record.pid is not None]
    trees = [
        Tree(
            record.pid or 0,
            record.token,
            leader_start=record.start_time,
            spare_daemons=_has_finished(record),
            members=_living(members.get(record.slot, [])),
        )
        for record in started
    ]
    discover_members(trees)
    for tree in trees:
        tree.terminate_leader()
    stops = [_TreeStop(tree, record.grace) for tree, record in zip(trees, started)]
    unknown = [record for record in records if record.pid is None]
    empty_sweeps = 0 if unknown else 2
    next_sweep = 0.0
    while stops or empty_sweeps < 2:  # noqa: PLR2004 - two in a row
        if empty_sweeps < 2 and time.monotonic() >= next_sweep:  # noqa: PLR2004 - as above
            found = _processes_of(unknown)
            send_signal(found, SIGKILL)
            empty_sweeps = 0 if found else empty_sweeps + 1
            next_sweep = time.monotonic() + _SWEEP_INTERVAL
        snapshot = Snapshot()
        steps = [(stop, stop.advance(snapshot)) for stop in stops]
        kill_trees([stop.tree for stop, step in steps if step == "kill"])
        stops = [stop for stop, step in steps if step not in ("finished", "give-up")]
        time.sleep(_POLL_INTERVAL)


def _processes_of(records: list[SpawnRecord]) -> list[Process]:
    """Return the processes of drivers whose pid is unknown.

    They have the start token, or an end of the pipe that is the driver's stdout, or are in the session of
    such a process, or descend from it.
    """
    with_token = processes_with_tokens({record.token for record in records})
    pipes = {f"pipe:[{record.inode}]" for record in records}
    snapshot = Snapshot()
    processes = snapshot.processes
    # A pid may have been reused since the other look.
    found = {process.pid for process in with_token if processes.get(process.pid) == process}
    found |= {
        pid
        for pid, process in processes.items()
        if pid != os.getpid() and _holds_any(pid, pipes) and start_time(pid) == process.start_time
    }
    sessions = {processes[pid].session for pid in found if pid in processes}
    # Our own session is not theirs: a driver is in ours until it gets its own.
    sessions -= {os.getsid(0), 0}
    leaders = {pid for pid in found if pid in processes and processes[pid].session == pid}
    found |= {pid for pid, process in processes.items() if process.session in sessions & leaders}
    found = snapshot.with_descendants(found)
    return [processes[pid] for pid in found if pid in processes and not processes[pid].is_zombie]


def _holds_any(pid: int, pipes: set[str]) -> bool:
    """Return whether a process has one of these pipes open."""
    directory = f"/proc/{pid}/fd"
    try:
        return any(_target(f"{directory}/{descriptor}") in pipes for descriptor in os.listdir(directory))
    except OSError:
        return False


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


_MAX_TRIED = 1024
"""Descriptors that are tried if nothing lists the open ones: the soft limit of most systems."""


def open_descriptors() -> list[int]:
    """Return the open descriptors of this process above 2, as far as known; some may be closed by now.

    To try all possible ones takes a minute if `ulimit -n` is a billion.
    """
    for directory in ("/dev/fd", "/proc/self/fd"):
        try:
            return [int(name) for name in os.listdir(directory) if int(name) > 2]  # noqa: PLR2004 - as above
        except OSError:
            continue
    return list(range(3, min(os.sysconf("SC_OPEN_MAX"), _MAX_TRIED)))
