"""All processes there are: who they are, and signals that hit no one else.

Rules (SPEC 10):
- A process is known by pid and start time, and both are compared before each signal, which psutil sends.
- All of them are looked at in one pass, with one read each: a stop must not take longer on a machine
  that runs thousands. Where there is no /proc, psutil tells the same at greater cost.
- What cannot be read, since it is gone or another's or no descriptor is left, is passed over.
- A process lives as long as one of its threads does: where only the main one has ended, the system calls it
  a zombie, and shows its environment at the others.
"""

from __future__ import annotations

import os

from servo_agg.signals import SIGKILL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MARK = "SERVO_AGG_START"
"""The variable whose value is unique to each start of a driver (SPEC 3)."""

_LINK = "."


_EXITING = 0x4
"""PF_EXITING among the flags of a process in Linux."""


class Process:
    """A process at the moment of a look. Two are the same when pid and start time are.

    born     its start time, in units that only serve to compare; 0 where that cannot be known
    parent   pid of its parent
    session  number of its session
    dead     whether it is a zombie: it holds nothing and does nothing any more
    headless whether its main thread has ended, and others live on
    waiting  whether it is in a wait that no signal ends, as for a file server that is gone
    """

    __slots__ = ("_marks", "born", "dead", "headless", "parent", "pid", "session", "waiting")

    def __init__(
        self,
        pid: int,
        born: int,
        parent: int,
        session: int,
        *,
        dead: bool,
        waiting: bool,
        headless: bool = False,
    ) -> None:
        self.pid = pid
        self.born = born
        self.parent = parent
        self.session = session
        self.dead = dead
        self.waiting = waiting
        self.headless = headless
        self._marks: set[str] | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Process) and (self.pid, self.born) == (other.pid, other.born)

    def __hash__(self) -> int:
        return hash((self.pid, self.born))

    def marks(self) -> set[str] | None:
        """Give the marks in its environment, those of aggregators around us too; None: cannot be told now.

        Read once, however many ask: with sixty trees to stop that is most of the time.
        """
        if self._marks is None:
            value = self._mark()
            self._marks = None if value is None else set(value.split(_LINK))
        return self._marks

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
        directories = [f"/proc/{self.pid}"]
        if self.headless:
            threads = os.listdir(f"/proc/{self.pid}/task")
            directories = [f"/proc/{self.pid}/task/{thread}" for thread in threads]
        for directory in directories:
            try:
                with open(f"{directory}/environ", "rb") as environ:
                    text = environ.read()
            except (ProcessLookupError, FileNotFoundError):
                if not self.headless:
                    raise
            else:
                if text:
                    return text
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


def look() -> dict[int, Process]:
    """Give all processes by pid."""
    try:
        pids = os.listdir("/proc")
    except OSError:
        return _look_by_psutil()
    found = (_read(int(pid)) for pid in pids if pid.isdigit())
    return {process.pid: process for process in found if process is not None} or _look_by_psutil()


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
        int(fields[3]),
        dead=zombie and not headless,
        # One that is already on its way out may wait a little too, as for its memory to be given back.
        waiting=fields[0] == b"D" and not int(fields[6]) & _EXITING,
        headless=headless,
    )


def _look_by_psutil() -> dict[int, Process]:
    return {process.pid: process for process in _all_by_psutil()}


def _all_by_psutil() -> Iterator[Process]:
    try:
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
    """Give all living processes whose environment has one of these marks."""
    return [process for process in look().values() if not process.dead and marks & (process.marks() or set())]


def depth(value: str | None) -> int:
    """Count the aggregators around us, by the value of MARK in our environment."""
    return 1 + value.count(_LINK) if value else 0


def chained(outer: str | None, mark: str) -> str:
    """Give the value of MARK for a driver: what an aggregator around us has started stays known as its."""
    return f"{outer}{_LINK}{mark}" if outer else mark


def kill_all(processes: Iterable[Process]) -> None:
    """Send SIGKILL to each of them that still is the process that it was."""
    send(processes, SIGKILL)


def send(processes: Iterable[Process], number: int) -> None:
    """Send a signal to each of them that still is the process that it was.

    psutil looks once more, at the moment of sending, whether the pid has been given to another.
    Without it, which only a query does, the look before has to do.
    """
    signal_one, gone = _sender()
    for process in processes:
        if born(process.pid) in (0, process.born):
            try:
                signal_one(process.pid, number)
            except gone:
                continue


def _sender() -> tuple[Callable[[int, int], None], tuple[type[BaseException], ...]]:
    try:
        import psutil  # noqa: PLC0415 - 14 ms that only a stop is worth
    except (ImportError, OSError):
        return os.kill, (OSError,)
    return (lambda pid, number: psutil.Process(pid).send_signal(number)), (psutil.Error, OSError)
