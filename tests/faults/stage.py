"""Where faults happen: a servo directory of misbehaving drivers, an agent, an init, and what is seen of all.

Nothing here happens "after a while": a driver says through a file that it has come to the point, and waits at
a FIFO; the program is halted at a place of its own by an audit hook (halt/sitecustomize.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.agent import Agent, Running
from tests.processes import MARK, DeadlineError, Marked, wait_until
from tests.servo import ServoDirectory

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from typing_extensions import Self

HERE = Path(__file__).resolve().parent
DRIVER = (HERE / "driver.sh").read_text(encoding="utf-8")

FIRST, SECOND = "01first", "02second"
NAMES = (FIRST, SECOND)

GRACE = 0.3
"""Seconds of `grace`, where the cell does not say otherwise."""

PATIENCE = 20.0
"""Seconds after which a step of a cell has failed."""

_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Known:
    """A process that is not mistaken for a later one with its pid."""

    pid: int
    born: str

    @property
    def there(self) -> bool:
        """Whether it exists, be it as a zombie."""
        return self.born != "" and born(self.pid) == self.born


def allowed(seconds: float) -> float:
    """Return the seconds that a promise gets here: it is one of a machine that is not overloaded."""
    # The mean of a minute lags behind, and who is runnable at this instant is chance; hence the least of 2.
    words = Path("/proc/loadavg").read_text(encoding="ascii").split()
    load = max(float(words[0]), float(words[3].partition("/")[0]))
    return seconds * min(5.0, max(2.0, load / (os.cpu_count() or 1)))


def stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on, none when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def state(pid: int) -> str:
    """Return the letter of its state, "" when there is no such process."""
    return "".join(stat(pid)[:1])


def born(pid: int) -> str:
    """Return when it was started, "" when there is no such process."""
    return "".join(stat(pid)[19:20])


def children(parent: int) -> list[int]:
    """Return the children of `parent`, zombies too."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in pids if stat(pid)[1:2] == [str(parent)]]


def blocked(pid: int) -> bool:
    """Whether a thread of `pid` hangs in a write to a pipe."""
    with contextlib.suppress(OSError):
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return any("pipe_write" in (task / "wchan").read_text(encoding="ascii") for task in tasks)
    return False


class Init:
    """What makes of this process an init: orphans become its children, and it reaps them when asked to."""

    def __enter__(self) -> Self:
        self._adopt(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._adopt(0)
        self.reap()

    def reap(self, sparing: Iterable[int] = ()) -> None:
        """Reap all dead children, but for those that somebody else waits for."""
        for pid in set(children(os.getpid())) - set(sparing):
            if state(pid) == "Z":
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    @staticmethod
    def _adopt(whether: int) -> None:
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, whether, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")


class _Brisk(Agent):
    """An agent that does not ask `--info` first: that is another run, and no concern of ours."""

    def info(self, app: str, *, deadline: float = PATIENCE) -> dict[str, Any]:  # noqa: ARG002 - as inherited
        return {"has_cancel": True}


@dataclass(frozen=True)
class Ended:
    """How a run has ended."""

    code: int
    finals: list[dict[str, Any]]
    """The lines of stdout that were whole and no progress."""
    seconds: float
    """From the last deed to the exit."""

    @property
    def said(self) -> tuple[object, object]:
        """Status and reason of the final object."""
        (final,) = self.finals
        return final.get("status"), final.get("reason")


class Stage:
    """One run of an adjust, the drivers 01first and 02second, and all that can be done to it."""

    def __init__(self, parent: Path, init: Init) -> None:
        self.servo = ServoDirectory(parent)
        self.marked = Marked(os.environ[MARK])
        self.env: dict[str, str | None] = {}
        self._init = init
        self._faults = self.servo.path / "faults"
        self._faults.mkdir()
        self._gates: dict[str, int] = {}
        self._lock: int | None = None
        self._running: Running | None = None
        self._struck = 0.0
        self.family: list[Known] = []
        self.ours: list[Known] = []
        for name in NAMES:
            self.servo.add_script(name, DRIVER)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._running is not None:
            self._running.kill()
        self.end_services()
        for gate in self._gates.values():
            os.close(gate)
        self.unlock()
        self._gates.clear()

    # Before the run.

    def grace(self, seconds: float) -> None:
        """Configure the seconds from SIGTERM to SIGKILL."""
        self.servo.configure(f"agg: {{grace: {seconds}}}")

    def shape(self, name: str, phase: str, shape: str, *, gate: bool = True, patient: bool = False) -> None:
        """Say what a driver is in a phase: see driver.sh."""
        at = f"{name}.{phase}"
        (self._faults / f"{at}.shape").write_text(f"{shape}\n", encoding="ascii")
        if gate:
            self._make_gate(f"{at}.gate")
        if patient:
            self.note(f"{at}.patient")

    def halt(self, place: str) -> None:
        """Halt the program at a place: see halt/sitecustomize.py."""
        self.env |= {"FAULTS_HALT": place, "PYTHONPATH": str(HERE / "halt")}
        self._make_gate("halt")

    def lock(self) -> None:
        """Hold the lock of the servo directory, as another adjust would."""
        self._lock = os.open(self.servo.path, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def note(self, mark: str) -> None:
        """Make the file faults/MARK."""
        (self._faults / mark).touch()

    def begin(self) -> None:
        """Start the adjust."""
        agent = _Brisk(self.servo.path, env={**self.servo.env, **self.env})
        request: Mapping[str, Any] = self.servo.request(*(f"{name}.cpu" for name in NAMES))
        self._running = agent.start_adjust("app", request, reader="block")
        self._struck = time.monotonic()

    # During the run.

    @property
    def running(self) -> Running:
        """The run as the agent sees it."""
        assert self._running is not None
        return self._running

    @property
    def exited(self) -> bool:
        """Whether the program has."""
        return self.running.operation.returncode is not None

    def await_mark(self, mark: str) -> str:
        """Wait until there is something in the file faults/MARK; give that."""
        path = self._faults / mark

        def made() -> bool:
            return path.exists() and path.stat().st_size > 0

        wait_until(lambda: made() or self.exited, PATIENCE, f"faults/{mark}")
        assert made(), f"the program ended before faults/{mark}: {self.running.operation.told()}"
        return path.read_text(encoding="ascii").strip()

    def await_driver(self, name: str, phase: str) -> None:
        """Wait until a driver and all its processes are there, and it waits at its gate."""
        self.await_mark(f"{name}.{phase}.reached")
        if (self._faults / f"{name}.{phase}.shape").read_text(encoding="ascii") == "stopped\n":
            leader = int(self.await_mark(f"{name}.{phase}.leader"))
            wait_until(lambda: state(leader) == "T", PATIENCE, "stop of the leader")

    def await_asked(self, name: str) -> None:
        """Wait until a driver has been asked whether it can be cancelled."""
        path = self._faults / f"{name}.info.asked"
        wait_until(path.exists, PATIENCE, f"{name} --info")

    def await_blocked(self) -> None:
        """Wait until the program's stdout is full, or it has ended."""
        wait_until(lambda: blocked(self.running.pid) or self.exited, PATIENCE, "our stdout being full")

    def look(self) -> None:
        """Take down who is there. None of our children may be a zombie."""
        us = self.running.pid
        wait_until(
            lambda: not [pid for pid in children(us) if state(pid) == "Z"], PATIENCE, "reaping by the program"
        )
        self.ours = [Known(pid, born(pid)) for pid in children(us)]
        self.family = [Known(pid, born(pid)) for pid in self.marked.living() if pid != us]
        self._struck = time.monotonic()

    def send(self, number: int) -> None:
        """Send the program a signal."""
        self._struck = time.monotonic()
        self.running.send_signal(number)

    def pause(self) -> None:
        """Stop the program by SIGSTOP."""
        self.send(signal.SIGSTOP)
        wait_until(lambda: state(self.running.pid) == "T", PATIENCE, "our stop")

    def go_on(self) -> None:
        """Let the program go on from where it was halted."""
        self._open_gate("halt")
        self._struck = time.monotonic()

    def release(self) -> None:
        """Let all go on: the program, the drivers, and whoever waits for the lock."""
        self.unlock()
        for gate in self._gates:
            self._open_gate(gate)
        self._struck = time.monotonic()

    def unlock(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # After it.

    def end(self) -> Ended:
        """Wait for the exit, and read what is left to be read."""
        wait_until(lambda: self.exited, PATIENCE, f"our exit: {self.running.operation.told()}")
        seconds = time.monotonic() - self._struck
        self.running.resume_reading()
        operation = self.running.finish(PATIENCE)
        whole = [line for _, line in operation.lines if line.endswith(b"\n")]
        messages = [json.loads(line) for line in whole]
        finals = [message for message in messages if "progress" not in message]
        if finals:
            assert messages[-1] is finals[-1], operation.told()
        return Ended(operation.wait(), finals, seconds)

    def services(self) -> set[int]:
        """Return the pids of what drivers meant to leave."""
        return {int(path.read_text(encoding="ascii")) for path in self._faults.glob("*.service")}

    def survivors(self) -> dict[int, str]:
        """Return what of the run is alive, with command lines."""
        self._reap()
        return self.marked.living()

    def await_nothing(self, deadline: float, what: str, *, sparing: Collection[int] = ()) -> None:
        """Wait until nothing of the run is alive, but for some processes."""
        quiet = 0

        def nothing() -> bool:
            # The environment of a process looks empty for an instant while it executes another program.
            nonlocal quiet
            quiet = 0 if set(self.survivors()) - set(sparing) else quiet + 1
            return quiet > 1

        try:
            wait_until(nothing, deadline, what)
        except DeadlineError as error:
            raise DeadlineError(f"{error}: {self.survivors()}") from None

    def zombies(self, known: Iterable[Known], *, sparing: Collection[int] = ()) -> list[Known]:
        """Return which of the known processes still exist, after an init has reaped its own."""
        self._reap()
        return [process for process in known if process.there and process.pid not in sparing]

    def _reap(self) -> None:
        self._init.reap([] if self._running is None else [self._running.pid])

    def end_services(self) -> None:
        """End what drivers have left."""
        for pid in self.services() & set(self.marked.living()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _make_gate(self, name: str) -> None:
        os.mkfifo(self._faults / name)
        # Open for reading too: nobody's open waits, and what is written waits for who comes.
        self._gates[name] = os.open(self._faults / name, os.O_RDWR)

    def _open_gate(self, name: str) -> None:
        if name in self._gates:
            os.write(self._gates[name], b"\n")
