"""All processes there are: who they are, and signals that hit no one else.

Rules (SPEC 10):
- A process is known by pid and start time, and both are compared before each signal, which psutil sends.
- All of them are looked at in one pass, with one read each: a stop must not take longer on a machine
  that runs thousands. Where there is no /proc, psutil tells the same at greater cost.
- What cannot be read, since it is gone or another's or no descriptor is left, is passed over.
- A read of a file of /proc may block for ever, as of a process that hangs in exec on a dead file server. All
  of them are done in threads that can be left behind: see `each`.
- A /proc of another pid namespace numbers processes otherwise than the system calls do: it is not looked at.
- A process lives as long as one of its threads does: where only the main one has ended, the system calls it
  a zombie, and shows its environment at the others.
"""

from __future__ import annotations

import io
import mmap
import os
import sys
import time

from servo_agg import ROOM
from servo_agg.signals import SIGKILL
from servo_agg.threads import Bell, Lock, start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TypeVar

    T = TypeVar("T")

MARK = "SERVO_AGG_START"
"""The variable whose value is unique to each start of a driver (SPEC 3)."""

_LINK = "."

_EXITING = 0x4
"""PF_EXITING among the flags of a process in Linux."""


class Process:
    """A process at the moment of a look. Two are the same when pid and start time are.

    born     its start time, in units that only serve to compare; 0 where that cannot be known
    parent   pid of its parent
    group    number of its process group
    session  number of its session
    dead     whether it is a zombie: it holds nothing and does nothing any more
    headless whether its main thread has ended, and others live on
    waiting  whether it is in a wait that no signal ends, as for a file server that is gone
    """

    __slots__ = ("_marks", "born", "dead", "group", "headless", "parent", "pid", "session", "waiting")

    def __init__(
        self,
        pid: int,
        born: int,
        parent: int,
        group: int,
        session: int,
        *,
        dead: bool,
        waiting: bool,
        headless: bool = False,
    ) -> None:
        self.pid = pid
        self.born = born
        self.parent = parent
        self.group = group
        self.session = session
        self.dead = dead
        self.waiting = waiting
        self.headless = headless
        self._marks: set[str] | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Process) and (self.pid, self.born) == (other.pid, other.born)

    def __hash__(self) -> int:
        return hash((self.pid, self.born))

    @property
    def marks(self) -> set[str] | None:
        """The marks in its environment, those of aggregators around us too; None: not known."""
        return self._marks

    def read_marks(self) -> None:
        """Read its marks, unless they are known: for many trees that takes most of the time of a stop."""
        if self._marks is None:
            value = self._mark()
            self._marks = None if value is None else {link.partition("-")[0] for link in value.split(_LINK)}

    def _mark(self) -> str | None:
        """Give the value of MARK in its environment, or ""; None when it cannot be told now.

        While a process executes another program its environment looks empty for an instant.
        """
        wanted = MARK.encode() + b"="
        try:
            text = self._environment()
        except PermissionError:
            return ""
        except OSError:
            return None if os.path.exists("/proc/self/environ") else _mark_by_psutil(self.pid)
        pairs = text.split(b"\0")
        none = "" if text else None
        return next((os.fsdecode(pair[len(wanted) :]) for pair in pairs if pair.startswith(wanted)), none)

    def _environment(self) -> bytes:
        if not self.headless:
            return _read_environment(f"/proc/{self.pid}")
        denied: PermissionError | None = None
        for thread in os.listdir(f"/proc/{self.pid}/task"):
            # The environment of a thread that has ended, as the main one has, is gone, empty, or root's.
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

    def beyond_us(self) -> bool:
        """Tell whether SIGKILL will not end it for now: it waits for a device, or is another user's."""
        try:
            os.kill(self.pid, 0)
        except PermissionError:
            return True
        except OSError:
            return False
        return self.waiting

    def name(self) -> str:
        """Name it for a person: `NAME (pid N)`."""
        try:
            with open(f"/proc/{self.pid}/comm", encoding="utf-8", errors="replace") as comm:
                return f"{comm.read().strip()} (pid {self.pid})"
        except OSError:
            return f"pid {self.pid}"


def _read_environment(directory: str) -> bytes:
    with open(f"{directory}/environ", "rb") as environ:
        return environ.read()


_STALLED = 0.25
"""Seconds without any progress after which reads of /proc are given up (SPEC 10)."""

_TURN = 0.01
"""Seconds without progress after which another thread goes on with the rest."""

_READERS = 16
"""Threads of one look at most."""

_blocked: set[int] = set()
"""Pids whose files block those who read them: left out until the read has ended."""

_latest: dict[int, Process] = {}
"""What the latest look has shown, which is what is known of the blocked ones."""


class _Reader:
    """A thread that does `work` for pids that it shares with other readers."""

    def __init__(self, pids: Iterator[int], work: Callable[[int], T], done: dict[int, T], bell: Bell) -> None:
        self.pid = 0
        self.ended = False
        self.abandoned = False
        self._pids = pids
        self._work = work
        self._done = done
        self._bell = bell

    def run(self) -> None:
        try:
            # `next` of a list's iterator is atomic, so each pid has one reader.
            for pid in self._pids:
                if self.abandoned:
                    break
                self.pid = pid
                self._done[pid] = self._work(pid)
                self.pid = 0
                _blocked.discard(pid)
        finally:
            self.ended = True
            self._bell.ring()


def each(pids: Iterable[int], work: Callable[[int], T]) -> dict[int, T]:
    """Return `work(pid)` for each pid, those aside with which it blocks (SPEC 10).

    Reads of /proc that make no progress for 0.25 s are given up, and their pids are left out from then on
    until the read has ended. `work` must not raise.
    """
    asked = [pid for pid in pids if pid not in _blocked]
    if not asked:
        return {}
    remaining = iter(asked)
    done: dict[int, T] = {}
    bell = Bell()
    readers: list[_Reader] = []
    count = -1
    stalled_at, turns = 0.0, 0
    while not (readers and all(reader.ended for reader in readers)):
        if len(done) > count:
            count, stalled_at, turns = len(done), time.monotonic(), 0
        elif turns * _TURN >= _STALLED and time.monotonic() >= stalled_at + _STALLED:
            # Both: of a pause of the whole process, in which nobody had a turn, nothing follows.
            for reader in readers:
                reader.abandoned = True
                if reader.pid and not reader.ended:
                    _blocked.add(reader.pid)
            break
        if not readers or (turns and len(readers) < _READERS):
            reader = _Reader(remaining, work, done, bell)
            readers.append(reader)
            try:
                start(reader.run)
            except OSError:
                # No thread can be had: better a look that may block than none.
                reader.run()
        turns += not bell.wait(_TURN)
    return dict(done)


def look() -> dict[int, Process]:
    """Return all processes by pid; {} where none can be seen."""
    global _latest  # noqa: PLW0603 - there is one machine to look at
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return _look_by_psutil()
    if pids and not _proc_is_ours():
        return {}
    read = each(pids, _read)
    found = {pid: process for pid, process in read.items() if process is not None}
    found.update({pid: _latest[pid] for pid in pids if pid not in read and pid in _latest})
    _latest = found
    return found or _look_by_psutil()


def _proc_is_ours() -> bool:
    """Return whether the pids of /proc are those of our own pid namespace."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


def _read(pid: int) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as stat:
            # The name, in parentheses, may itself hold blanks and parentheses.
            fields = stat.read(1024).rpartition(b")")[2].split()
    except OSError:
        return None
    # Fields of proc(5) from the third on: state, parent, group, session; flags the 9th, the number of threads
    # the 20th, start time the 22nd.
    if len(fields) < 20:  # noqa: PLR2004 - as above
        return None
    zombie = fields[0] in (b"Z", b"X")
    headless = zombie and int(fields[17]) > 1
    return Process(
        pid,
        int(fields[19]),
        int(fields[1]),
        int(fields[2]),
        int(fields[3]),
        dead=zombie and not headless,
        # One that is already on its way out may wait a little too, as for its memory to be given back.
        waiting=fields[0] == b"D" and not int(fields[6]) & _EXITING,
        headless=headless,
    )


def _look_by_psutil() -> dict[int, Process]:
    return {process.pid: process for process in _all_by_psutil()}


_loading = Lock()


_LOADING = 1.0
"""Seconds in which another thread, that is loading psutil, must have finished: it may hang."""


def load_psutil() -> None:
    """Import psutil. Raises what that raises, which is not ImportError alone."""
    if not _loading.acquire(timeout=_LOADING):
        raise ImportError("it takes too long to load")
    stderr, sys.stderr = sys.stderr, io.StringIO()
    try:
        # As for our own modules: see ROOM.
        mmap.mmap(-1, ROOM).close()
        # Where /proc is missing, older versions print a traceback and go on.
        import psutil  # noqa: F401, PLC0415 - as below
    finally:
        sys.stderr = stderr
        _loading.release()


def _all_by_psutil() -> Iterator[Process]:
    try:
        load_psutil()
        import psutil  # noqa: PLC0415 - needed only where there is no /proc, or to send signals
    except (ImportError, OSError):
        return
    try:
        for process in psutil.process_iter():
            try:
                with process.oneshot():
                    yield Process(
                        process.pid,
                        int(process.create_time() * 100),
                        process.ppid(),
                        os.getpgid(process.pid),
                        os.getsid(process.pid),
                        dead=process.status() == psutil.STATUS_ZOMBIE,
                        waiting=process.status() == psutil.STATUS_DISK_SLEEP,
                    )
            except (psutil.Error, OSError):
                continue
    except (psutil.Error, OSError, IndexError):
        # The last is how it stumbles over a /proc that is not mounted.
        return


def _mark_by_psutil(pid: int) -> str | None:
    try:
        load_psutil()
        import psutil  # noqa: PLC0415 - as above
    except (ImportError, OSError):
        return None
    try:
        return psutil.Process(pid).environ().get(MARK, "")
    except (psutil.Error, OSError):
        return None


def born(pid: int) -> int:
    """Give a process' start time as Process has it; 0 where that cannot be known."""
    process = _read(pid)
    return 0 if process is None else process.born


def bearing(marks: set[str]) -> list[Process]:
    """Return all living processes whose environment has one of these marks."""
    rows = look().values()
    read_marks(rows)
    return [process for process in rows if not process.dead and marks & (process.marks or set())]


def read_marks(processes: Iterable[Process]) -> None:
    """Read the marks of those that live, as far as they are not known and do not block."""
    unread = {process.pid: process for process in processes if not process.dead and process.marks is None}
    each(unread, lambda pid: unread[pid].read_marks())


def still_around_us(value: str | None) -> list[str]:
    """Return the links of a value of MARK whose aggregators still run.

    A daemon inherits the links of aggregators that have ended long ago: these say nothing of where it runs.
    """
    return [link for link in value.split(_LINK) if _runs(link)] if value else []


def chain(links: Iterable[str]) -> str:
    """Return the value of MARK that has these links."""
    return _LINK.join(links)


def chained(outer: str | None, mark: str) -> str:
    """Return the value of MARK for a driver: what an aggregator around us has started stays known as its.

    Each link is `MARK-PID-BORN-SPACE`, the latter three telling which aggregator made the start.
    """
    link = "-".join((mark, *map(str, _ourselves())))
    return chain((outer, link)) if outer else link


_us: list[tuple[int, int, int]] = []


def _ourselves() -> tuple[int, int, int]:
    """Return our pid, our start time, and the number of our pid namespace; the latter two 0 if unknown."""
    if not _us:
        known = _proc_is_ours()
        try:
            space = os.stat("/proc/self/ns/pid").st_ino if known else 0
        except OSError:
            space = 0
        _us.append((os.getpid(), born(os.getpid()) if known else 0, space))
    return _us[0]


def _runs(link: str) -> bool:
    """Return whether the aggregator that made a link still runs; True in doubt."""
    numbers = link.split("-")[1:]
    if len(numbers) != 3 or not all(word.isdecimal() for word in numbers):  # noqa: PLR2004 - see `chained`
        return True
    pid, its_birth, its_space = map(int, numbers)
    _, our_birth, our_space = _ourselves()
    if its_space != our_space:
        return True
    process = _read(pid) if our_birth and its_birth else None
    if process is not None:
        return process.born == its_birth and not process.dead
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def kill_all(processes: Iterable[Process]) -> None:
    """Send SIGKILL to each of them that still is the process that it was."""
    send(processes, SIGKILL)


def send(processes: Iterable[Process], number: int) -> None:
    """Send a signal to each of them that still is the process that it was.

    psutil looks once more, at the moment of sending, whether the pid has been given to another. Without it,
    which only a query does, the look before has to do. One whose files block cannot be looked at: it gets the
    signal.
    """
    targets = {process.pid: process for process in processes}
    deliver = _deliverer()
    over = False

    def deliver_if_same(pid: int) -> None:
        # A second SIGTERM, by a thread that was left behind, would say more than the first.
        if born(pid) in (0, targets[pid].born) and not over:
            deliver(pid, number)

    done = each(targets, deliver_if_same)
    over = True
    for pid in targets.keys() - done.keys():
        signal_child(pid, number)


def _deliverer() -> Callable[[int, int], object]:
    try:
        load_psutil()
        import psutil  # noqa: PLC0415 - 14 ms that only a stop is worth
    except Exception:  # noqa: BLE001 - without memory enough it fails in whatever way
        return signal_child

    def deliver(pid: int, number: int) -> None:
        try:
            psutil.Process(pid).send_signal(number)
        except psutil.NoSuchProcess:
            return
        except Exception:  # noqa: BLE001 - it stumbles over much that a hardened /proc lacks
            signal_child(pid, number)

    return deliver


def signal_child(pid: int, number: int) -> bool:
    """Send a signal to a process whose pid is known to be its own; return whether that was possible.

    It is not possible when the process runs as another user, as after `exec sudo`, or is gone.
    """
    try:
        os.kill(pid, number)
    except OSError:
        return False
    return True


def signal_group(group: int, number: int) -> bool:
    """Send a signal to a process group; return whether any of its processes could be sent it."""
    try:
        os.killpg(group, number)
    except OSError:
        return False
    return True


def group_exists(group: int) -> tuple[bool, bool]:
    """Return whether a process group has members, zombies too, and whether we may signal any of them."""
    try:
        os.killpg(group, 0)
    except PermissionError:
        return True, False
    except OSError:
        return False, False
    return True, True


def open_descriptors() -> list[int]:
    """Return the descriptors of this process above 2, as far as they can be known; some may be closed by now.

    To try all there might be takes a minute where `ulimit -n` is a billion.
    """
    for directory in ("/dev/fd", "/proc/self/fd"):
        try:
            return [int(name) for name in os.listdir(directory) if int(name) > 2]  # noqa: PLR2004 - as above
        except OSError:
            continue
    return list(range(3, min(os.sysconf("SC_OPEN_MAX"), _DESCRIPTORS_TRIED)))


_DESCRIPTORS_TRIED = 1024
"""Descriptors that are tried where nothing tells which are open: the soft limit of most systems."""
