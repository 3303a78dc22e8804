"""One pass over all processes: their identities and their relations.

Rules (SPEC 10):
- A process is identified by pid and start time.
- One read per process: a stop must stay fast on a machine that runs thousands. Without /proc, psutil
  provides the same at a higher cost.
- A process that cannot be read (it has exited, belongs to another user, no descriptor is free) is skipped.
- A read of a file in /proc can block forever, for example while that process hangs in exec on a dead file
  server. All such reads happen in threads that can be abandoned: see `read_each`.
- The /proc of another pid namespace has other pids than our system calls: it is not used.
- A process is alive while any of its threads is. If only the main thread has exited, the kernel reports a
  zombie, and the environment must be read from another thread.
"""

from __future__ import annotations

import os
import time

from servo_agg.threads import Notifier, start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TypeVar

    T = TypeVar("T")

_EXITING = 0x4
"""PF_EXITING in the flags of a Linux process."""


class Process:
    """A process at the time of a snapshot. Two are equal if pid and start time are.

    start_time  in units that serve only for comparison; 0 if unknown
    parent      pid of its parent
    group       process group id
    session     session id
    is_zombie   it holds nothing and does nothing any more
    main_thread_exited  its main thread has exited, other threads are alive
    is_stopped  all its threads were stopped by a signal such as SIGSTOP
    uninterruptible  it is in a wait that no signal ends, for example for a dead file server
    tokens      start tokens in its environment, those of enclosing aggregators included; None until
                `start_token.read_tokens` has read them
    """

    __slots__ = (
        "group",
        "is_stopped",
        "is_zombie",
        "main_thread_exited",
        "parent",
        "pid",
        "session",
        "start_time",
        "tokens",
        "uninterruptible",
    )

    def __init__(
        self,
        pid: int,
        start_time: int,
        parent: int,
        group: int,
        session: int,
        *,
        is_zombie: bool,
        uninterruptible: bool,
        is_stopped: bool = False,
        main_thread_exited: bool = False,
    ) -> None:
        self.pid = pid
        self.start_time = start_time
        self.parent = parent
        self.group = group
        self.session = session
        self.is_zombie = is_zombie
        self.uninterruptible = uninterruptible
        self.is_stopped = is_stopped
        self.main_thread_exited = main_thread_exited
        self.tokens: set[str] | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Process) and (self.pid, self.start_time) == (other.pid, other.start_time)

    def __hash__(self) -> int:
        return hash((self.pid, self.start_time))

    def variable(self, name: str) -> str | None:
        """Return the value of a variable in its environment, "" if there is none, None if unknown.

        While a process executes another program, its environment appears empty for an instant.
        """
        wanted = name.encode() + b"="
        try:
            text = self._environment()
        except PermissionError:
            return ""
        except OSError:
            return None if os.path.exists("/proc/self/environ") else _variable_by_psutil(self.pid, name)
        pairs = text.split(b"\0")
        default = "" if text else None
        return next((os.fsdecode(pair[len(wanted) :]) for pair in pairs if pair.startswith(wanted)), default)

    def _environment(self) -> bytes:
        if not self.main_thread_exited:
            return _read_environment(f"/proc/{self.pid}")
        denied: PermissionError | None = None
        for thread in os.listdir(f"/proc/{self.pid}/task"):
            # The environment of an exited thread, such as the main one, is missing, empty, or root's.
            try:
                text = _read_environment(f"/proc/{self.pid}/task/{thread}")
            except (ProcessLookupError, FileNotFoundError):
                continue
            except PermissionError as error:
                denied = error if int(thread) != self.pid else denied
                continue
            if text:
                return text
        if denied:
            raise denied
        return b""

    def is_unkillable(self) -> bool:
        """Return whether SIGKILL does not end it for now: it waits for a device, or is another user's."""
        try:
            os.kill(self.pid, 0)
        except PermissionError:
            return True
        except OSError:
            return False
        return self.uninterruptible

    def name(self) -> str:
        """Return `NAME (pid N)`, for messages."""
        try:
            with open(f"/proc/{self.pid}/comm", encoding="utf-8", errors="replace") as comm:
                return f"{comm.read().strip()} (pid {self.pid})"
        except OSError:
            return f"pid {self.pid}"


def _read_environment(directory: str) -> bytes:
    with open(f"{directory}/environ", "rb") as environ:
        return environ.read()


_STALL_TIMEOUT = 0.25
"""Seconds without any progress after which reads of /proc are abandoned (SPEC 10.24)."""

_NEXT_READER_DELAY = 0.01
"""Seconds without progress after which another thread continues with the rest."""

_MAX_READERS = 16
"""Threads of one pass."""

_blocked: set[int] = set()
"""Pids whose files block the reader: skipped until that read has returned."""

_latest: dict[int, Process] = {}
"""The latest snapshot: what is known about the blocked ones."""


class _Reader:
    """A thread that does `work` for pids from an iterator that it shares with other readers."""

    def __init__(
        self, pids: Iterator[int], work: Callable[[int], T], done: dict[int, T], notifier: Notifier
    ) -> None:
        self.pid = 0
        self.ended = False
        self.abandoned = False
        self._pids = pids
        self._work = work
        self._done = done
        self._notifier = notifier

    def run(self) -> None:
        try:
            # `next` of a list iterator is atomic, so each pid has one reader.
            for pid in self._pids:
                if self.abandoned:
                    break
                self.pid = pid
                self._done[pid] = self._work(pid)
                self.pid = 0
                _blocked.discard(pid)
        finally:
            self.ended = True
            self._notifier.notify()


def read_each(pids: Iterable[int], work: Callable[[int], T]) -> dict[int, T]:
    """Return `{pid: work(pid)}`, without the pids whose work blocks (SPEC 10.24, 10.25).

    Work that makes no progress for 0.25 s is abandoned, and its pid is skipped until the work has returned.
    `work` must not raise.
    """
    wanted = [pid for pid in pids if pid not in _blocked]
    if not wanted:
        return {}
    remaining = iter(wanted)
    done: dict[int, T] = {}
    notifier = Notifier()
    readers: list[_Reader] = []
    count = -1
    stalled_at, idle_waits = 0.0, 0
    while not (readers and all(reader.ended for reader in readers)):
        if len(done) > count:
            count, stalled_at, idle_waits = len(done), time.monotonic(), 0
        elif (
            idle_waits * _NEXT_READER_DELAY >= _STALL_TIMEOUT
            and time.monotonic() >= stalled_at + _STALL_TIMEOUT
        ):
            # Both conditions: a suspension of this whole process is not a stall.
            for reader in readers:
                reader.abandoned = True
                pid = reader.pid
                if pid:
                    _blocked.add(pid)
                    if reader.pid != pid:
                        # The work has returned meanwhile, perhaps before the pid was added.
                        _blocked.discard(pid)
            break
        if not readers or (idle_waits and len(readers) < _MAX_READERS):
            reader = _Reader(remaining, work, done, notifier)
            readers.append(reader)
            try:
                start(reader.run)
            except OSError:
                # No thread is available: a pass that may block is better than none.
                reader.run()
        idle_waits += not notifier.wait(_NEXT_READER_DELAY)
    return dict(done)


def take_snapshot() -> dict[int, Process]:
    """Return all processes by pid; {} if none can be seen."""
    global _latest  # noqa: PLW0603 - there is one machine
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return _snapshot_by_psutil()
    if pids and not shows_our_pids():
        return {}
    read = read_each(pids, read_process)
    found = {pid: process for pid, process in read.items() if process is not None}
    found.update({pid: _latest[pid] for pid in pids if pid not in read and pid in _latest})
    _latest = found
    return found or _snapshot_by_psutil()


def shows_our_pids() -> bool:
    """Return whether /proc belongs to our own pid namespace."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


def _read_stat(pid: int, thread: str = "") -> list[bytes]:
    """Return the fields of `stat` in /proc from the third on, of a process or of one of its threads.

    [] if it cannot be read.
    """
    directory = f"/proc/{pid}/task/{thread}" if thread else f"/proc/{pid}"
    try:
        with open(f"{directory}/stat", "rb", buffering=0) as stat:
            # The name, in parentheses, may itself contain blanks and parentheses.
            return stat.read(1024).rpartition(b")")[2].split()
    except OSError:
        return []


def read_process(pid: int) -> Process | None:
    """Return the process with this pid, None if it cannot be read."""
    fields = _read_stat(pid)
    # The fields of proc(5) from the third on: state, parent, group, session; the 9th is flags, the 20th the
    # number of threads, the 22nd the start time.
    if len(fields) < 20:  # noqa: PLR2004 - as above
        return None
    zombie = fields[0] in (b"Z", b"X")
    main_thread_exited = zombie and int(fields[17]) > 1
    return Process(
        pid,
        int(fields[19]),
        int(fields[1]),
        int(fields[2]),
        int(fields[3]),
        is_zombie=zombie and not main_thread_exited,
        # An exiting process may also wait for a moment, for example while its memory is freed.
        uninterruptible=fields[0] == b"D" and not int(fields[6]) & _EXITING,
        is_stopped=fields[0] == b"T" and _all_threads_stopped(pid),
        main_thread_exited=main_thread_exited,
    )


def _all_threads_stopped(pid: int) -> bool:
    """Return whether all threads are stopped: each of them stops by itself, and may be in a fork."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return True
    # A thread that has exited meanwhile has no file.
    return all(_read_stat(pid, thread)[:1] in ([b"T"], []) for thread in threads)


def exit_code(pid: int, started: int) -> int | None:
    """Return the wait status of a process that has exited and was not reaped, None for others.

    `started`: its start time, 0 if unknown.
    """
    fields = _read_stat(pid)
    if len(fields) < 50 or fields[0] != b"Z":  # noqa: PLR2004 - the 52nd field of proc(5) is the wait status
        return None
    try:
        # The kernel shows 0 in place of the status of a process that we may not trace.
        if os.geteuid() not in (0, os.stat(f"/proc/{pid}").st_uid):
            return None
    except OSError:
        return None
    return int(fields[49]) if not started or int(fields[19]) == started else None


def start_time(pid: int) -> int:
    """Return the start time of a process, in the unit of `Process`; 0 if unknown."""
    process = read_process(pid)
    return 0 if process is None else process.start_time


def _snapshot_by_psutil() -> dict[int, Process]:
    try:
        from servo_agg.processes import by_psutil  # noqa: PLC0415 - needed only without /proc
    except (ImportError, OSError):
        # No descriptor is free, which may be why /proc could not be read.
        return {}
    return {fields["pid"]: Process(**fields) for fields in by_psutil.processes()}


def _variable_by_psutil(pid: int, name: str) -> str | None:
    try:
        from servo_agg.processes import by_psutil  # noqa: PLC0415 - as above
    except (ImportError, OSError):
        return None
    return by_psutil.variable(pid, name)
