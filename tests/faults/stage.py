"""The stage of a fault: a servo directory of badly behaved drivers, an agent, an init, and their state.

Nothing here depends on time: a driver reports through a file that it has reached the point in question, and
waits at a FIFO; an audit hook (halt/sitecustomize.py) halts the program at a place in its own code.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.agent import Agent, Running
from tests.support.locks import held_as_by_adjust
from tests.support.processes import (
    MARK,
    DeadlineError,
    Marked,
    ProcessId,
    blocked_on_write,
    children,
    start_time,
    state,
    twice_in_a_row,
    wait_until,
)
from tests.support.servo import ServoDirectory

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from typing_extensions import Self

HERE = Path(__file__).resolve().parent
DRIVER = (HERE / "driver.sh").read_text(encoding="utf-8")

FIRST, SECOND = "01first", "02second"
NAMES = (FIRST, SECOND)

GRACE = 0.3
"""Seconds of `grace`, unless the cell sets another."""

STEP_TIMEOUT = 30.0
"""Seconds after which a step of a cell has failed."""

_PR_SET_CHILD_SUBREAPER = 36


def allowed(seconds: float) -> float:
    """Return the time limit of a promise in seconds, longer on an overloaded machine."""
    # The load average lags behind, and the number of runnable processes varies: at least 2.
    words = Path("/proc/loadavg").read_text(encoding="ascii").split()
    load = max(float(words[0]), float(words[3].partition("/")[0]))
    return seconds * min(5.0, max(2.0, load / (os.cpu_count() or 1)))


class Init:
    """Makes this process an init: orphans become its children, which `reap` reaps."""

    def __enter__(self) -> Self:
        self._adopt(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._adopt(0)
        self.reap()

    def reap(self, sparing: Iterable[int] = ()) -> None:
        """Reap all dead children, except those that other code waits for."""
        for pid in set(children(os.getpid())) - set(sparing):
            if state(pid) == "Z":
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    @staticmethod
    def _adopt(whether: int) -> None:
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, whether, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")


@dataclass(frozen=True)
class RunResult:
    """The result of a run."""

    code: int
    finals: list[dict[str, Any]]
    """The complete lines of stdout that were not progress."""
    seconds: float
    """From the last action of the test to the exit."""

    @property
    def status_and_reason(self) -> tuple[object, object]:
        """Status and reason of the final object."""
        (final,) = self.finals
        return final.get("status"), final.get("reason")


class Stage:
    """One run of an adjust with the drivers 01first and 02second, and all that a test does to it."""

    def __init__(self, parent: Path, init: Init) -> None:
        self.servo = ServoDirectory(parent)
        self.marked = Marked(os.environ[MARK])
        self.env: dict[str, str | None] = {}
        self._init = init
        self._faults = self.servo.path / "faults"
        self._faults.mkdir()
        self._gates: dict[str, int] = {}
        self._lock = contextlib.ExitStack()
        self._running: Running | None = None
        self._acted_at = 0.0
        self.all_processes: list[ProcessId] = []
        self.our_children: list[ProcessId] = []
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

    def shape(
        self, name: str, phase: str, shape: str, *, gate: bool = True, survives_sigterm: bool = False
    ) -> None:
        """Set what a driver does in a phase: see driver.sh."""
        at = f"{name}.{phase}"
        (self._faults / f"{at}.shape").write_text(f"{shape}\n", encoding="ascii")
        if gate:
            self._make_gate(f"{at}.gate")
        if survives_sigterm:
            self.set_mark(f"{at}.patient")

    def halt(self, place: str) -> None:
        """Halt the program at a place: see halt/sitecustomize.py."""
        self.env |= {"FAULTS_HALT": place, "PYTHONPATH": str(HERE / "halt")}
        self._make_gate("halt")

    def lock(self) -> None:
        """Hold the lock of the servo directory, as another adjust would."""
        self._lock.enter_context(held_as_by_adjust(self.servo.path))

    def set_mark(self, mark: str) -> None:
        """Make the file faults/MARK."""
        (self._faults / mark).touch()

    def start(self) -> None:
        """Start the adjust."""
        agent = Agent(self.servo.path, env={**self.servo.env, **self.env}, calls_info=False)
        request: Mapping[str, Any] = self.servo.request(*(f"{name}.cpu" for name in NAMES))
        self._running = agent.start_adjust("app", request, reader="block")
        self._acted_at = time.monotonic()

    # During the run.

    @property
    def running(self) -> Running:
        """The run as the agent sees it."""
        assert self._running is not None
        return self._running

    @property
    def exited(self) -> bool:
        """Whether the program has exited."""
        return self.running.operation.returncode is not None

    def await_mark(self, mark: str) -> str:
        """Wait until the file faults/MARK is not empty; return its content."""
        path = self._faults / mark

        def is_set() -> bool:
            return path.exists() and path.stat().st_size > 0

        wait_until(lambda: is_set() or self.exited, STEP_TIMEOUT, f"faults/{mark}")
        assert is_set(), f"the program ended before faults/{mark}: {self.running.operation.summary()}"
        return path.read_text(encoding="ascii").strip()

    def await_driver(self, name: str, phase: str) -> None:
        """Wait until a driver and all its processes exist, and it waits at its gate."""
        self.await_mark(f"{name}.{phase}.reached")
        if (self._faults / f"{name}.{phase}.shape").read_text(encoding="ascii") == "stopped\n":
            leader = int(self.await_mark(f"{name}.{phase}.leader"))
            wait_until(lambda: state(leader) == "T", STEP_TIMEOUT, "stop of the leader")

    def await_info(self, name: str) -> None:
        """Wait until the --info of a driver was started."""
        path = self._faults / f"{name}.info.asked"
        wait_until(path.exists, STEP_TIMEOUT, f"{name} --info")

    def await_blocked(self) -> None:
        """Wait until the program's stdout is full, or it has ended."""
        wait_until(lambda: blocked_on_write(self.running.pid) or self.exited, STEP_TIMEOUT, "a full stdout")

    def record_processes(self) -> None:
        """Record which processes exist. No child of the program may be a zombie."""
        program = self.running.pid
        wait_until(
            lambda: not [pid for pid in children(program) if state(pid) == "Z"],
            STEP_TIMEOUT,
            "reaping by the program",
        )
        self.our_children = [ProcessId(pid, start_time(pid)) for pid in children(program)]
        self.all_processes = [
            ProcessId(pid, start_time(pid)) for pid in self.marked.living() if pid != program
        ]
        self._acted_at = time.monotonic()

    def send(self, number: int) -> None:
        """Send the program a signal."""
        self._acted_at = time.monotonic()
        self.running.send_signal(number)

    def pause(self) -> None:
        """Stop the program by SIGSTOP."""
        self.send(signal.SIGSTOP)
        wait_until(lambda: state(self.running.pid) == "T", STEP_TIMEOUT, "the stop of the program")

    def resume_program(self) -> None:
        """Continue the program from where it was halted."""
        self._open_gate("halt")
        self._acted_at = time.monotonic()

    def release(self) -> None:
        """Continue the program, the drivers, and the processes that wait for the lock."""
        self.unlock()
        for gate in self._gates:
            self._open_gate(gate)
        self._acted_at = time.monotonic()

    def unlock(self) -> None:
        """Release the lock."""
        self._lock.close()

    # After the run.

    def end(self) -> RunResult:
        """Wait for the exit, and read the rest of the output."""
        wait_until(lambda: self.exited, STEP_TIMEOUT, f"exit: {self.running.operation.summary()}")
        seconds = time.monotonic() - self._acted_at
        self.running.resume_reading()
        operation = self.running.finish(STEP_TIMEOUT)
        whole = [line for _, line in operation.lines if line.endswith(b"\n")]
        messages = [json.loads(line) for line in whole]
        finals = [message for message in messages if "progress" not in message]
        if finals:
            assert messages[-1] is finals[-1], operation.summary()
        return RunResult(operation.wait(), finals, seconds)

    def services(self) -> set[int]:
        """Return the pids of the services that drivers left on purpose."""
        return {int(path.read_text(encoding="ascii")) for path in self._faults.glob("*.service")}

    def survivors(self) -> dict[int, str]:
        """Return the living processes of the run, with command lines."""
        self._reap()
        return self.marked.living()

    def await_no_process(self, deadline: float, what: str, *, sparing: Collection[int] = ()) -> None:
        """Wait until no process of the run is alive, except those in `sparing`."""
        all_gone = twice_in_a_row(lambda: not set(self.survivors()) - set(sparing))
        try:
            wait_until(all_gone, deadline, what)
        except DeadlineError as error:
            raise DeadlineError(f"{error}: {self.survivors()}") from None

    def remaining(self, processes: Iterable[ProcessId], *, sparing: Collection[int] = ()) -> list[ProcessId]:
        """Return which of the processes still exist, as zombies too, after the init has reaped its own."""
        self._reap()
        return [process for process in processes if process.exists and process.pid not in sparing]

    def _reap(self) -> None:
        self._init.reap([] if self._running is None else [self._running.pid])

    def end_services(self) -> None:
        """End the services that drivers have left."""
        for pid in self.services() & set(self.marked.living()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _make_gate(self, name: str) -> None:
        os.mkfifo(self._faults / name)
        # Open it for reading too: then the open does not block, and the FIFO keeps the line until it is read.
        self._gates[name] = os.open(self._faults / name, os.O_RDWR)

    def _open_gate(self, name: str) -> None:
        if name in self._gates:
            os.write(self._gates[name], b"\n")
