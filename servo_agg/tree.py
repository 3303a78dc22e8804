"""The processes that belong to a driver, and their end.

Rules (SPEC 10):
- A driver's tree is its descendants and every process in its session, which holds its process group.
- Who was a member once stays one, by pid and start time, whatever becomes of its parent.
- What bears the mark of this start in its environment and was not there at the first look left the
  session while we looked: it is a member too. What had left session and descent before is a daemon
  that the driver meant to leave, and is spared.
- The leader must not be reaped before its tree has ended: until then its pid, and so its process
  group and session, cannot be anyone else's.
- `killpg` comes first: it works when there is no descriptor left to read /proc with.
- Without psutil only the session is known. An adjust insists on psutil, a query does without.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Protocol

    class _Process(Protocol):
        """What we need of a process; psutil.Process has it."""

        @property
        def pid(self) -> int: ...
        def ppid(self) -> int: ...
        def send_signal(self, sig: int) -> None: ...
        def is_running(self) -> bool: ...
        def status(self) -> str: ...
        def name(self) -> str: ...
        def environ(self) -> dict[str, str]: ...


MARK = "SERVO_AGG_START"
"""The variable whose value is unique to each start of a driver (SPEC 3)."""

_ROUNDS = 50
"""How often `kill` looks again in one go at a tree that goes on forking; the next call goes on."""


class _Bare:
    """A process known by its pid and session only: all there is without psutil."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._session = os.getsid(pid)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bare) and (self.pid, self._session) == (other.pid, other._session)

    def __hash__(self) -> int:
        return hash((self.pid, self._session))

    def ppid(self) -> int:
        return 0

    def send_signal(self, sig: int) -> None:
        if self.is_running():
            os.kill(self.pid, sig)

    def is_running(self) -> bool:
        return os.getsid(self.pid) == self._session

    def status(self) -> str:
        with open(f"/proc/{self.pid}/stat", "rb") as stat:
            return "zombie" if stat.read().rpartition(b")")[2].split()[0] == b"Z" else "running"

    def name(self) -> str:
        with open(f"/proc/{self.pid}/comm") as comm:
            return comm.read().strip()

    def environ(self) -> dict[str, str]:
        with open(f"/proc/{self.pid}/environ", "rb") as environ:
            pairs = (pair.partition(b"=") for pair in environ.read().split(b"\0"))
            return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def _all_processes() -> Iterator[_Process]:
    """Give every process there is, one that can be signalled without hitting a reused pid."""
    try:
        import psutil  # noqa: PLC0415 - 14 ms that only a stop needs
    except ImportError:
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    yield _Bare(int(entry))
                except OSError:
                    continue
    else:
        # Not process_iter: its cache may hold a process whose pid has been given to another.
        for pid in psutil.pids():
            try:
                yield psutil.Process(pid)
            except psutil.Error:
                continue


def _gone() -> tuple[type[BaseException], ...]:
    """Give the exceptions by which a process says that it is no more, or not ours to touch."""
    try:
        import psutil  # noqa: PLC0415 - as above
    except ImportError:
        return (OSError,)
    return (psutil.Error, OSError)


class Table:
    """All processes at one moment: read once, looked at for several trees."""

    def __init__(self) -> None:
        self.rows: dict[int, tuple[_Process, int, int]] = {}
        gone = _gone()
        try:
            for process in _all_processes():
                try:
                    self.rows[process.pid] = (process, process.ppid(), os.getsid(process.pid))
                except gone:
                    continue
        except gone:
            # No descriptor left, or no /proc: killpg must do.
            return


class Tree:
    """The processes of one started driver, from the moment at which it is to be stopped."""

    def __init__(self, leader: int, mark: str, born: int | None = None) -> None:
        """Take the pid of the driver and the value of MARK in its environment.

        Without `born` the driver is our child and not yet reaped, so that its pid is its own. Else
        it is another's, and the pid is its own only as long as its start time is `born` (0: unknown).
        """
        self._leader = leader
        self._mark = mark
        self._born = born
        self._members: set[_Process] = set()
        self._bystanders: set[_Process] | None = None

    def look(self, table: Table | None = None) -> bool:
        """Take in all members that there are now; tell whether any is new."""
        rows = (table or Table()).rows
        before = len(self._members)
        pids = {pid for pid, (process, _, _) in rows.items() if process in self._members}
        if self._born is None:
            pids.add(self._leader)
        if self._owns_its_pid():
            pids |= {pid for pid, (_, _, session) in rows.items() if session == self._leader}
        if self._bystanders is not None:
            pids |= {
                pid for pid, (process, _, _) in rows.items() if pid not in pids and self._bears_mark(process)
            }
        children: dict[int, list[int]] = {}
        for pid, (_, parent, _) in rows.items():
            children.setdefault(parent, []).append(pid)
        fresh = list(pids)
        while fresh:
            fresh = [child for pid in fresh for child in children.get(pid, ()) if child not in pids]
            pids.update(fresh)
        ours = {os.getpid()} if self._born is not None else {os.getpid(), self._leader}
        self._members |= {rows[pid][0] for pid in pids - ours if pid in rows}
        if self._bystanders is None:
            self._bystanders = {row[0] for row in rows.values()}
        return len(self._members) > before

    def _owns_its_pid(self) -> bool:
        """Whether the leader's pid is not someone else's by now; then neither is the session.

        The system gives no pid away while it still names a session.
        """
        if not self._born:
            return True
        now = born(self._leader)
        return now in (0, self._born)

    def _bears_mark(self, process: _Process) -> bool:
        if self._bystanders is None or process in self._bystanders:
            return False
        self._bystanders.add(process)
        return _mark_of(process) == self._mark

    def ask_leader(self) -> None:
        """Send SIGTERM and SIGCONT to the leader: one that is stopped must be woken to obey."""
        for number in (signal.SIGTERM, signal.SIGCONT):
            self._signal_leader(number)

    def _signal_leader(self, number: int) -> None:
        if self._born is not None:
            _send([member for member in self._members if member.pid == self._leader], number)
            return
        try:
            os.kill(self._leader, number)
        except OSError:
            return

    def ask_rest(self) -> None:
        """Send SIGTERM and SIGCONT to what the leader left behind."""
        _send(self._members, signal.SIGTERM)
        _send(self._members, signal.SIGCONT)

    def kill(self) -> None:
        """Send SIGKILL to the whole tree, and to whom it forks meanwhile until no one new is found."""
        for _ in range(_ROUNDS):
            if self._born is None:
                try:
                    os.killpg(self._leader, signal.SIGKILL)
                except OSError:
                    # The group is empty but for the leader, or not ours any more.
                    self._signal_leader(signal.SIGKILL)
            kill_all(self._members)
            if not self.look():
                return

    def living(self) -> list[str]:
        """Name the members, our own child the leader aside, that are alive: `NAME (pid N)`."""
        return sorted(f"{name} (pid {pid})" for pid, name in self._alive())

    def remains(self) -> tuple[bool, list[str]]:
        """Tell whether the leader, another's child, is gone, and name what else is left."""
        alive = dict(self._alive())
        if not alive:
            self.look()
            alive = dict(self._alive())
        gone = self._leader not in alive
        return gone, [name for pid, name in alive.items() if pid != self._leader]

    def _alive(self) -> Iterator[tuple[int, str]]:
        gone = _gone()
        for member in self._members:
            try:
                # A zombie holds nothing and does nothing: it is dead.
                if member.is_running() and member.status() != "zombie":
                    yield member.pid, member.name()
            except gone:
                continue


def born(pid: int) -> int:
    """Give a process' start time in clock ticks since the boot; 0 where that cannot be known."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return int(stat.read().rpartition(b")")[2].split()[19])
    except OSError:
        return 0


def bearing(marks: set[str]) -> list[_Process]:
    """Give all processes whose environment has MARK with one of these values."""
    return [process for process in _all_processes() if _mark_of(process) in marks]


def _mark_of(process: _Process) -> str | None:
    try:
        return process.environ().get(MARK)
    except _gone():
        return None


def kill_all(members: Iterable[_Process]) -> None:
    """Send SIGKILL to each of them that still is the process that it was."""
    _send(members, signal.SIGKILL)


def _send(members: Iterable[_Process], number: int) -> None:
    gone = _gone()
    for member in members:
        try:
            member.send_signal(number)
        except gone:
            continue
