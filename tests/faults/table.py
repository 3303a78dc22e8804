"""The table of faults and moments, and what SPEC 5, 9 and 10 promise for each cell.

A fault that is a driver's own has only the moments at which that driver lives. At the end stands which cells
run always; the others run with --full.
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


class Verdict(NamedTuple):
    """What is to come of a cell."""

    code: int
    said: tuple[str, str] | None
    """Status and reason of the one final object; None: stdout could not take one, or we were killed."""


OK = Verdict(0, ("ok", "success"))
TERMINATED = Verdict(128 + signal.SIGTERM, ("terminated", "SIGTERM"))
KILLED = Verdict(-signal.SIGKILL, None)
TIMED_OUT = Verdict(1, ("failed", "timeout"))
AGENT_GONE = Verdict(1, None)


# Moments.


@dataclass(frozen=True)
class Moment:
    """When it happens. `reach` returns when the moment has come."""

    name: str
    reach: Callable[[Stage], None]
    gates: tuple[tuple[str, str], ...]
    """Drivers, each with its phase, that wait there if they come so far."""
    halt: str = ""
    """Where the program itself is halted: see halt/sitecustomize.py."""
    adjusting: str | None = None
    """The driver that is being adjusted, or is as soon as the program goes on."""


def _halted(stage: Stage) -> None:
    stage.await_mark("halt.reached")


def _waiting_for_the_lock(stage: Stage) -> None:
    stage.await_mark("halt.reached")
    stage.go_on()


def _querying(stage: Stage) -> None:
    for name in (FIRST, SECOND):
        stage.await_driver(name, "query")


def _adjusting(name: str, stage: Stage) -> None:
    stage.await_driver(name, "adjust")


def _not_yet_noted(stage: Stage) -> None:
    stage.await_mark("halt.reached")
    stage.await_driver(FIRST, "adjust")


def _in_the_grace(stage: Stage) -> None:
    stage.await_driver(FIRST, "adjust")
    stage.send(signal.SIGTERM)
    stage.await_mark(f"{FIRST}.adjust.grace")
    # Not waited for: what comes within a tenth of a second of the first signal is no second one. That time
    # runs from when the program has read the signal, however late; the driver has heard of it after that.
    time.sleep(0.12)


def _writing_the_final_object(stage: Stage) -> None:
    stage.note("bulk")
    stage.await_driver(SECOND, "adjust")
    stage.running.stop_reading()
    stage.release()
    # All the progress would have room in the pipe: what blocks is the final object.
    stage.await_blocked()


_QUERIED = ((FIRST, "query"),)
_IN_FIRST = ((FIRST, "adjust"),)
_IN_SECOND = ((SECOND, "adjust"),)

START = Moment("start", _halted, _QUERIED, "os.fork")
LOCK = Moment("lock", _waiting_for_the_lock, _QUERIED, "fcntl.flock")
BEFORE = Moment("before", _halted, _QUERIED, f"os.posix_spawn adjust.d/{FIRST} query")
QUERY = Moment("query", _querying, (*_QUERIED, (SECOND, "query")))
ANSWERED = Moment("answered", _halted, _IN_FIRST, f"os.posix_spawn adjust.d/{FIRST} adjust", FIRST)
NOTING = Moment("noting", _not_yet_noted, _IN_FIRST, f"spawned adjust.d/{FIRST} adjust", FIRST)
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
    """What happens at the moment, and what is promised then."""

    name: str
    strike: Callable[[Stage, Moment], None]
    verdict: Callable[[Moment], Verdict]
    silence: bool = False
    """Whether it is the driver's own silence, for longer than OPTUNE_IO_TIMEOUT allows."""

    @property
    def kills_us(self) -> bool:
        """Whether the guardian has to see to the drivers."""
        return self.verdict(FIRST_ADJUST) == KILLED


def _signal(number: int, stage: Stage, _: Moment) -> None:
    stage.send(number)
    stage.go_on()


def _cancel(stage: Stage, moment: Moment) -> None:
    stage.send(signal.SIGUSR1)
    stage.go_on()
    if moment.adjusting:
        # It says that it cannot be cancelled, and so it may finish.
        stage.await_asked(moment.adjusting)
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
    stage.go_on()
    if moment.adjusting:
        # Like a cancel: the driver may finish, or ends when it has been told.
        stage.await_asked(moment.adjusting)
    if moment.adjusting or moment is GRACE:
        stage.release()


def _stop_reading(stage: Stage) -> None:
    stage.note("flood")
    stage.running.stop_reading()
    stage.release()
    stage.await_blocked()


def _read_no_more(stage: Stage, _: Moment) -> None:
    _stop_reading(stage)
    stage.send(signal.SIGTERM)


def _read_late(stage: Stage, _: Moment) -> None:
    _stop_reading(stage)
    stage.running.resume_reading()


def _nothing(_stage: Stage, _: Moment) -> None:
    return


def _unless(verdict: Verdict, *, grace: Verdict, final: Verdict) -> Callable[[Moment], Verdict]:
    return lambda moment: grace if moment is GRACE else final if moment is FINAL else verdict


def _always(verdict: Verdict) -> Callable[[Moment], Verdict]:
    return lambda _: verdict


def _ending(number: signal.Signals) -> Fault:
    verdict = Verdict(128 + number, ("terminated", number.name))
    # In the grace of a first signal a second one only ends that grace.
    promised = _unless(verdict, grace=TERMINATED, final=Verdict(verdict.code, None))
    return Fault(number.name, functools.partial(_signal, number), promised)


SIGTERM = _ending(signal.SIGTERM)
SIGKILL = Fault("SIGKILL", functools.partial(_signal, signal.SIGKILL), _always(KILLED))
TIMEOUT = Fault("timeout", _nothing, _always(TIMED_OUT), silence=True)

_unheard = Verdict(TERMINATED.code, None)
_gone = _unless(AGENT_GONE, grace=_unheard, final=AGENT_GONE)
_canceled = Verdict(1, ("canceled", "SIGUSR1"))

LOSSES = (
    Fault("agent-closes-stdout", functools.partial(_leave, dying=False), _gone),
    Fault("agent-dies", functools.partial(_leave, dying=True), _gone),
)
"""How we can lose the agent."""

DONE_TO_US = (
    SIGTERM,
    _ending(signal.SIGINT),
    _ending(signal.SIGHUP),
    Fault("SIGUSR1", _cancel, _unless(_canceled, grace=TERMINATED, final=OK)),
    SIGKILL,
    Fault("SIGSTOP-SIGKILL", _stop_and_kill, _always(KILLED)),
    Fault("SIGSTOP-SIGCONT", _stop_and_continue, _unless(OK, grace=TERMINATED, final=OK)),
    *LOSSES,
    Fault("agent-reads-no-more", _read_no_more, _always(_unheard)),
    Fault("agent-reads-late", _read_late, _unless(OK, grace=_unheard, final=OK)),
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
"""What a driver can be while somebody else ends the run: see driver.sh."""

RESTORING = ("finishing", "cancelable")
"""Drivers that must not be cut short when the agent is lost: see driver.sh."""

RESTORE = 5.0
"""Seconds that these take to leave the application as it must be."""

DEEDS = {
    "group": Verdict(1, ("failed", "signal")),
    "parent-KILL": KILLED,
    "parent-TERM": TERMINATED,
    "holder": OK,
    "closer": OK,
    "daemon": OK,
}
"""What a driver does to itself and to us, and what comes of it."""


# Cells.


@dataclass(frozen=True)
class Cell:
    """A fault at a moment, and what the driver is that waits there."""

    fault: Fault
    moment: Moment
    shape: str
    deed: bool = False
    """The driver itself does it as soon as it is there; nobody waits for anybody."""

    @property
    def name(self) -> str:
        """What the cell is called by pytest."""
        return f"{self.shape}-{self.fault.name}-{self.moment.name}"

    @property
    def verdict(self) -> Verdict:
        """What is to come of it."""
        return self.fault.verdict(self.moment)

    @property
    def grace(self) -> float:
        """The grace to configure: one that nobody can wait for where the fault is to cut it short."""
        if self.moment is not GRACE:
            return 0.3
        return 4.0 if self.fault.kills_us else 600.0

    @property
    def io_timeout(self) -> int | None:
        """OPTUNE_IO_TIMEOUT, if it is to matter: long enough for the driver to become what it is to be."""
        if not self.fault.silence:
            return None
        return 10 if self.shape in {"wide", "deep"} else 4

    @property
    def seconds(self) -> float:
        """How long it may take, besides what we need ourselves."""
        if self.shape in RESTORING:
            return RESTORE
        # A timeout: the silence of T - 1, and the short grace.
        return self.grace if self.io_timeout is None else self.io_timeout - 0.5

    @property
    def finishes(self) -> bool:
        """Whether the driver is let go on, though we do not exit with 0."""
        polite = self.fault.name == "SIGUSR1" or self.fault in LOSSES
        return self.moment is FINAL or (polite and self.moment.adjusting is not None)


def cells() -> Iterator[Cell]:
    """Give all cells of the table."""
    for fault, moment in product(DONE_TO_US, MOMENTS):
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
    for shape, verdict in DEEDS.items():
        for moment in (QUERY, FIRST_ADJUST, SECOND_ADJUST):
            yield Cell(Fault("deed", _nothing, _always(verdict)), moment, shape, deed=True)


QUICK = {
    *(f"tree-SIGTERM-{moment.name}" for moment in MOMENTS),
    *(f"tree-{fault.name}-first" for fault in DONE_TO_US),
    *(f"tree-SIGKILL-{moment}" for moment in ("start", "query", "noting")),
    *(f"{shape}-SIGTERM-first" for shape in ("stopped", "forking", "session", "orphan")),
    "session-SIGKILL-first",
    *(f"{shape}-agent-dies-first" for shape in RESTORING),
    "parent-KILL-deed-first",
}
"""The cells that run always."""
