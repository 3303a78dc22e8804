"""The table of faults and moments, and what SPEC 5, 9 and 10 promise for each cell.

A fault caused by a driver has only the moments at which that driver runs. QUICK, at the end, lists the cells
that always run; the others run with --full.
"""

from __future__ import annotations

import functools
import signal
import time
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from tests.faults.stage import FIRST, SECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.stage import Stage


class Expected(NamedTuple):
    """The result that a cell must have."""

    code: int
    status_and_reason: tuple[str, str] | None
    """Of the final object; None if there is none: stdout cannot be written, or the program was killed."""


OK = Expected(0, ("ok", "success"))
TERMINATED = Expected(128 + signal.SIGTERM, ("terminated", "SIGTERM"))
KILLED = Expected(-signal.SIGKILL, None)
TIMED_OUT = Expected(1, ("failed", "timeout"))
AGENT_GONE = Expected(1, None)


# Moments.


@dataclass(frozen=True)
class Moment:
    """When a fault happens. `reach` returns when the moment has come."""

    name: str
    reach: Callable[[Stage], None]
    gates: tuple[tuple[str, str], ...]
    """Drivers, each with its phase, that wait at a gate if they are started."""
    halt: str = ""
    """Where the program itself is halted: see halt/sitecustomize.py."""
    adjusting: str | None = None
    """The driver that is adjusted now, or when the program continues."""


def _halted(stage: Stage) -> None:
    stage.await_mark("halt.reached")


def _waiting_for_the_lock(stage: Stage) -> None:
    stage.await_mark("halt.reached")
    stage.resume_program()


def _querying(stage: Stage) -> None:
    for name in (FIRST, SECOND):
        stage.await_driver(name, "query")


def _adjusting(name: str, stage: Stage) -> None:
    stage.await_driver(name, "adjust")


def _not_yet_recorded(stage: Stage) -> None:
    stage.await_mark("halt.reached")
    stage.await_driver(FIRST, "adjust")


def _in_the_grace(stage: Stage) -> None:
    stage.await_driver(FIRST, "adjust")
    stage.send(signal.SIGTERM)
    stage.await_mark(f"{FIRST}.adjust.grace")
    # A signal within 0.1 s of the first one is not a second one. That time starts when the program reads the
    # signal, before the driver gets its SIGTERM, so that there is no event to wait for.
    time.sleep(0.12)


def _writing_the_final_object(stage: Stage) -> None:
    stage.set_mark("bulk")
    stage.await_driver(SECOND, "adjust")
    stage.running.stop_reading()
    stage.release()
    # The progress fits into the pipe: it is the final object that blocks.
    stage.await_blocked()


_QUERIED = ((FIRST, "query"),)
_IN_FIRST = ((FIRST, "adjust"),)
_IN_SECOND = ((SECOND, "adjust"),)

START = Moment("start", _halted, _QUERIED, "os.fork")
LOCK = Moment("lock", _waiting_for_the_lock, _QUERIED, "fcntl.flock")
BEFORE = Moment("before", _halted, _QUERIED, f"os.posix_spawn adjust.d/{FIRST} query")
QUERY = Moment("query", _querying, (*_QUERIED, (SECOND, "query")))
ANSWERED = Moment("answered", _halted, _IN_FIRST, f"os.posix_spawn adjust.d/{FIRST} adjust", FIRST)
NOTING = Moment("noting", _not_yet_recorded, _IN_FIRST, f"spawned adjust.d/{FIRST} adjust", FIRST)
FIRST_ADJUST = Moment("first", functools.partial(_adjusting, FIRST), _IN_FIRST, adjusting=FIRST)
BETWEEN = Moment("between", _halted, _IN_SECOND, f"os.posix_spawn adjust.d/{SECOND} adjust", SECOND)
SECOND_ADJUST = Moment("second", functools.partial(_adjusting, SECOND), _IN_SECOND, adjusting=SECOND)
GRACE = Moment("grace", _in_the_grace, _IN_FIRST)
FINAL = Moment("final", _writing_the_final_object, _IN_SECOND)

MOMENTS = (
    START,
    LOCK,
    BEFORE,
    QUERY,
    ANSWERED,
    NOTING,
    FIRST_ADJUST,
    BETWEEN,
    SECOND_ADJUST,
    GRACE,
    FINAL,
)


# Faults.


@dataclass(frozen=True)
class Fault:
    """What happens at the moment, and what is promised for it."""

    name: str
    inject: Callable[[Stage, Moment], None]
    expected: Callable[[Moment], Expected]
    silence: bool = False
    """Whether the driver is silent for longer than OPTUNE_IO_TIMEOUT allows."""

    @property
    def kills_program(self) -> bool:
        """Whether the watchdog has to stop the drivers."""
        return self.expected(FIRST_ADJUST) == KILLED


def _signal(number: int, stage: Stage, _: Moment) -> None:
    stage.send(number)
    stage.resume_program()


def _cancel(stage: Stage, moment: Moment) -> None:
    stage.send(signal.SIGUSR1)
    stage.resume_program()
    if moment.adjusting:
        # It replies that it cannot be canceled, so it may finish.
        stage.await_info(moment.adjusting)
    if moment.adjusting or moment in {GRACE, FINAL}:
        stage.release()
        stage.running.resume_reading()


def _stop_and_kill(stage: Stage, _: Moment) -> None:
    stage.pause()
    stage.send(signal.SIGKILL)


def _stop_and_continue(stage: Stage, _: Moment) -> None:
    stage.pause()
    stage.release()
    stage.send(signal.SIGCONT)
    stage.running.resume_reading()


def _leave(stage: Stage, moment: Moment, *, dying: bool) -> None:
    if dying:
        stage.running.close_pipes()
    else:
        stage.running.close_stdout()
    stage.resume_program()
    if moment.adjusting:
        # As on a cancel, the driver may finish, or ends when it gets the signal.
        stage.await_info(moment.adjusting)
    if moment.adjusting or moment is GRACE:
        stage.release()


def _stop_reading(stage: Stage) -> None:
    stage.set_mark("flood")
    stage.running.stop_reading()
    stage.release()
    stage.await_blocked()


def _never_read_again(stage: Stage, _: Moment) -> None:
    _stop_reading(stage)
    stage.send(signal.SIGTERM)


def _read_late(stage: Stage, _: Moment) -> None:
    _stop_reading(stage)
    stage.running.resume_reading()


def _nothing(_stage: Stage, _: Moment) -> None:
    return


def _unless(expected: Expected, *, grace: Expected, final: Expected) -> Callable[[Moment], Expected]:
    return lambda moment: grace if moment is GRACE else final if moment is FINAL else expected


def _always(expected: Expected) -> Callable[[Moment], Expected]:
    return lambda _: expected


def _ending(number: signal.Signals) -> Fault:
    expected = Expected(128 + number, ("terminated", number.name))
    # A second signal only ends the grace of the first one.
    promised = _unless(expected, grace=TERMINATED, final=Expected(expected.code, None))
    return Fault(number.name, functools.partial(_signal, number), promised)


SIGTERM = _ending(signal.SIGTERM)
SIGKILL = Fault("SIGKILL", functools.partial(_signal, signal.SIGKILL), _always(KILLED))
TIMEOUT = Fault("timeout", _nothing, _always(TIMED_OUT), silence=True)

_no_answer = Expected(TERMINATED.code, None)
_gone = _unless(AGENT_GONE, grace=_no_answer, final=AGENT_GONE)
_canceled = Expected(1, ("canceled", "SIGUSR1"))

LOSSES = (
    Fault("agent-closes-stdout", functools.partial(_leave, dying=False), _gone),
    Fault("agent-dies", functools.partial(_leave, dying=True), _gone),
)
"""Ways to lose the agent."""

EXTERNAL_FAULTS = (
    SIGTERM,
    _ending(signal.SIGINT),
    _ending(signal.SIGHUP),
    Fault("SIGUSR1", _cancel, _unless(_canceled, grace=TERMINATED, final=OK)),
    SIGKILL,
    Fault("SIGSTOP-SIGKILL", _stop_and_kill, _always(KILLED)),
    Fault("SIGSTOP-SIGCONT", _stop_and_continue, _unless(OK, grace=TERMINATED, final=OK)),
    *LOSSES,
    Fault("agent-never-reads-again", _never_read_again, _always(_no_answer)),
    Fault("agent-reads-late", _read_late, _unless(OK, grace=_no_answer, final=OK)),
)

SHAPES = (
    "tree",
    "stubborn",
    "stopped",
    "forking",
    "wide",
    "deep",
    "session",
    "orphan",
    "holder",
    "closer",
    "daemon",
)
"""What drivers do while the run is ended from outside: see driver.sh."""

RESTORING = ("finishing", "cancelable")
"""Drivers that must not be stopped early when the agent is lost: see driver.sh."""

RESTORE = 2.0
"""Seconds that these take to restore the application."""

DRIVER_FAULTS = {
    "group": Expected(1, ("failed", "signal")),
    "parent-KILL": KILLED,
    "parent-TERM": TERMINATED,
    "holder": OK,
    "closer": OK,
    "daemon": OK,
}
"""What a driver does to itself and to the program, and the expected result."""


# Cells.


@dataclass(frozen=True)
class Cell:
    """A fault at a moment, and the shape of the driver that waits there."""

    fault: Fault
    moment: Moment
    shape: str
    by_driver: bool = False
    """Whether the driver causes the fault itself, as soon as it runs."""

    @property
    def name(self) -> str:
        """Its name for pytest."""
        return f"{self.shape}-{self.fault.name}-{self.moment.name}"

    @property
    def expected(self) -> Expected:
        """The result that it must have."""
        return self.fault.expected(self.moment)

    @property
    def grace(self) -> float:
        """The grace to configure: very long where the fault must end it early."""
        if self.moment is not GRACE:
            return 0.3
        return 4.0 if self.fault.kills_program else 600.0

    @property
    def io_timeout(self) -> int | None:
        """OPTUNE_IO_TIMEOUT, where it matters: long enough for the driver to start its processes."""
        if not self.fault.silence:
            return None
        return 10 if self.shape in {"wide", "deep"} else 4

    @property
    def seconds(self) -> float:
        """How long it may take, besides what the program needs itself."""
        if self.shape in RESTORING:
            return RESTORE
        # A timeout: the silence of T - 1, and the short grace.
        return self.grace if self.io_timeout is None else self.io_timeout - 0.5

    @property
    def finishes(self) -> bool:
        """Whether the driver may finish, though the exit status is not 0."""
        waits_for_driver = self.fault.name == "SIGUSR1" or self.fault in LOSSES
        return self.moment is FINAL or (waits_for_driver and self.moment.adjusting is not None)


def cells() -> Iterator[Cell]:
    """Return all cells of the table."""
    for fault, moment in product(EXTERNAL_FAULTS, MOMENTS):
        yield Cell(fault, moment, "tree")
    for shape in SHAPES:
        for moment in (QUERY, FIRST_ADJUST, SECOND_ADJUST, GRACE):
            if shape != "tree":
                yield Cell(SIGTERM, moment, shape)
                yield Cell(SIGKILL, moment, shape)
        for moment in (QUERY, FIRST_ADJUST, SECOND_ADJUST):
            yield Cell(TIMEOUT, moment, shape)
    for shape, fault, moment in product(RESTORING, LOSSES, (FIRST_ADJUST, SECOND_ADJUST)):
        yield Cell(fault, moment, shape)
    for shape, expected in DRIVER_FAULTS.items():
        for moment in (QUERY, FIRST_ADJUST, SECOND_ADJUST):
            yield Cell(Fault("self", _nothing, _always(expected)), moment, shape, by_driver=True)


QUICK = {
    *(f"tree-SIGTERM-{moment.name}" for moment in MOMENTS if moment not in (BETWEEN, SECOND_ADJUST)),
    *(f"tree-{fault.name}-first" for fault in EXTERNAL_FAULTS),
    *(f"tree-SIGKILL-{moment}" for moment in ("start", "query", "noting")),
    *(f"{shape}-SIGTERM-first" for shape in ("stopped", "forking", "session", "orphan", "daemon")),
    "session-SIGKILL-first",
    "stubborn-timeout-first",
    *(f"{shape}-agent-dies-first" for shape in RESTORING),
    "parent-KILL-self-first",
}
"""The cells that run without --full."""
