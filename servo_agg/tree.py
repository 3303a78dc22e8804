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
        return {}


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

    def __init__(self, leader: int, mark: str) -> None:
        """`leader`: pid of the driver, not yet reaped; `mark`: the value of MARK in its environment."""
        self._leader = leader
        self._mark = mark
        self._members: set[_Process] = set()
        self._bystanders: set[_Process] | None = None

    def look(self, table: Table | None = None) -> bool:
        """Take in all members that there are now; tell whether any is new."""
        rows = (table or Table()).rows
        known = {member.pid for member in self._members}
        before = len(self._members)
        pids = {self._leader} | {pid for pid, (process, _, _) in rows.items() if process in self._members}
        pids |= {pid for pid, (_, _, session) in rows.items() if session == self._leader}
        children: dict[int, list[int]] = {}
        for pid, (_, parent, _) in rows.items():
            children.setdefault(parent, []).append(pid)
        if self._bystanders is not None:
            strangers = (row[0] for pid, row in rows.items() if pid not in pids and pid not in known)
            pids |= {process.pid for process in strangers if self._bears_mark(process)}
        fresh = list(pids)
        while fresh:
            fresh = [child for pid in fresh for child in children.get(pid, ()) if child not in pids]
            pids.update(fresh)
        pids.discard(os.getpid())
        self._members |= {rows[pid][0] for pid in pids if pid in rows and pid != self._leader}
        if self._bystanders is None:
            self._bystanders = {row[0] for row in rows.values()}
        return len(self._members) > before

    def _bears_mark(self, process: _Process) -> bool:
        if self._bystanders is None or process in self._bystanders:
            return False
        self._bystanders.add(process)
        try:
            return process.environ().get(MARK) == self._mark
        except _gone():
            return False

    def ask_leader(self) -> None:
        """Send SIGTERM and SIGCONT to the leader: one that is stopped must be woken to obey."""
        for number in (signal.SIGTERM, signal.SIGCONT):
            self._signal_leader(number)

    def _signal_leader(self, number: int) -> None:
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
            try:
                os.killpg(self._leader, signal.SIGKILL)
            except OSError:
                # The group is empty but for the leader, or not ours any more.
                self._signal_leader(signal.SIGKILL)
            _send(self._members, signal.SIGKILL)
            if not self.look():
                return

    def living(self) -> list[str]:
        """Name the members, the leader aside, that are alive: `NAME (pid N)`. Zombies are dead."""
        alive = []
        gone = _gone()
        for member in self._members:
            try:
                if member.is_running() and member.status() != "zombie":
                    alive.append(f"{member.name()} (pid {member.pid})")
            except gone:
                continue
        return sorted(alive)


def _send(members: Iterable[_Process], number: int) -> None:
    gone = _gone()
    for member in members:
        try:
            member.send_signal(number)
        except gone:
            continue
