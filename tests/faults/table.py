"""The table of faults and moments, and what SPEC 5 and 10 promise for each cell.

A fault that is a driver's own has only the moments at which that driver lives. Which cells run always, and
which only with --full, is said at the end.
"""

from __future__ import annotations

import functools
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tests.faults.stage import FIRST, SECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.stage import Stage

LONG = 600.0
"""A grace that no cell may wait for."""


@dataclass(frozen=True)
class Moment:
    """When it happens. `prepare` is called before the run; `reach` returns when the moment has come."""

    name: str
    reach: Callable[[Stage], None]
    gates: tuple[tuple[str, str], ...] = ()
    """Drivers, each with the phase, that wait there."""
    halt: str = ""
    """Where the program itself is halted."""
    adjusting: str | None = None
    """The driver that is being adjusted, or is as soon as the program goes on."""
    patient: bool = False


def _halted(stage: Stage) -> None:
    stage.await_mark("halt.reached")


def _waiting_for_the_lock(stage: Stage) -> None:
    stage.await_mark("halt.reached")
    stage.go_on()


def _at(name: str, phase: str) -> Callable[[Stage], None]:
    return lambda stage: stage.await_driver(name, phase)


def _querying(stage: Stage) -> None:
    for name in (FIRST, SECOND):
        stage.await_driver(name, "query")


def _not_yet_noted(stage: Stage) -> None:
    stage.await_mark("halt.reached")
    stage.await_driver(FIRST, "adjust")


def _in_the_grace(stage: Stage) -> None:
    stage.await_driver(FIRST, "adjust")
    stage.send(signal.SIGTERM)
    wait_for = f"{FIRST}.adjust.grace"
    stage.await_made(wait_for)


def _writing_the_final_object(stage: Stage) -> None:
    stage.note("bulk")
    stage.await_driver(SECOND, "adjust")
    stage.running.stop_reading()
    stage.release()
    # All progress together would have room in the pipe.
    stage.await_blocked()


IN_QUERY = (FIRST, "query")
START = Moment("start", _halted, (IN_QUERY,), "os.fork")
LOCK = Moment("lock", _waiting_for_the_lock, (IN_QUERY,), "fcntl.flock")
BEFORE = Moment("before", _halted, (IN_QUERY,), f"os.posix_spawn adjust.d/{FIRST} query")
QUERY = Moment("query", _querying, (IN_QUERY, (SECOND, "query")))
ANSWERED = Moment(
    "answered", _halted, ((FIRST, "adjust"),), f"os.posix_spawn adjust.d/{FIRST} adjust", adjusting=FIRST
)
NOTING = Moment(
    "noting", _not_yet_noted, ((FIRST, "adjust"),), f"open adjust.d/{FIRST} adjust", adjusting=FIRST
)
IN_FIRST = Moment("first", _at(FIRST, "adjust"), ((FIRST, "adjust"),), adjusting=FIRST)
BETWEEN = Moment(
    "between", _halted, ((SECOND, "adjust"),), f"os.posix_spawn adjust.d/{SECOND} adjust", adjusting=SECOND
)
IN_SECOND = Moment("second", _at(SECOND, "adjust"), ((SECOND, "adjust"),), adjusting=SECOND)
GRACE = Moment("grace", _in_the_grace, ((FIRST, "adjust"),), patient=True)
FINAL = Moment("final", _writing_the_final_object, ((SECOND, "adjust"),))

MOMENTS = (START, LOCK, BEFORE, QUERY, ANSWERED, NOTING, IN_FIRST, BETWEEN, IN_SECOND, GRACE, FINAL)


class Verdict(NamedTuple):
    """What is to come of a cell."""

    code: int
    said: tuple[str, str] | None
    """Status and reason of the one final object; None: stdout could not take one, or we were killed."""


@dataclass(frozen=True)
class Fault:
    """What happens, and what is promised then. `grace` is None where none is to be waited for."""

    name: str
    strike: Callable[[Stage, Moment], None]
    verdict: Callable[[Moment], Verdict]
    grace: float | None = None
    kills_us: bool = False
    io_timeout: str | None = None


OK = Verdict(0, ("ok", "success"))
TERMINATED = Verdict(128 + signal.SIGTERM, ("terminated", "SIGTERM"))
KILLED = Verdict(-signal.SIGKILL, None)


def _unless(verdict: Verdict, *, grace: Verdict, final: Verdict) -> Callable[[Moment], Verdict]:
    return lambda moment: grace if moment is GRACE else final if moment is FINAL else verdict


def _end_by(number: int, stage: Stage, _: Moment) -> None:
    stage.send(number)
    stage.go_on()


def _ending(number: signal.Signals) -> Fault:
    verdict = Verdict(128 + number, ("terminated", number.name))
    # In the grace of a first signal a second one only ends that grace.
    promised = _unless(verdict, grace=TERMINATED, final=Verdict(verdict.code, None))
    return Fault(number.name, functools.partial(_end_by, number), promised)


def _cancel(stage: Stage, moment: Moment) -> None:
    stage.send(signal.SIGUSR1)
    stage.go_on()
    if moment.adjusting:
        # It says that it cannot be cancelled, and so may finish.
        stage.await_asked(moment.adjusting)
        stage.release()
    elif moment in (GRACE, FINAL):
        stage.release()
        stage.running.resume_reading()


def _kill(stage: Stage, _: Moment) -> None:
    stage.send(signal.SIGKILL)


def _stop_and_kill(stage: Stage, _: Moment) -> None:
    stage.pause()
    stage.send(signal.SIGKILL)


def _stop_and_continue(stage: Stage, _: Moment) -> None:
    stage.pause()
    stage.release()
    stage.send(signal.SIGCONT)
    stage.running.resume_reading()


def _close_stdout(stage: Stage, _: Moment) -> None:
    stage.running.close_stdout()
    stage.part(_)


def _die(stage: Stage, moment: Moment) -> None:
    stage.running.close_pipes()
    stage.part(moment)


def _stop_reading(stage: Stage, _: Moment) -> None:
    stage.note("flood")
    stage.running.stop_reading()
    stage.release()
    stage.await_blocked()


def _read_no_more(stage: Stage, moment: Moment) -> None:
    _stop_reading(stage, moment)
    stage.send(signal.SIGTERM)


def _read_late(stage: Stage, moment: Moment) -> None:
    _stop_reading(stage, moment)
    stage.running.resume_reading()


AGENT_GONE = _unless(Verdict(1, None), grace=Verdict(TERMINATED.code, None), final=Verdict(1, None))

SIGTERM = _ending(signal.SIGTERM)
SIGKILL = Fault("SIGKILL", _kill, lambda _: KILLED, grace=0.3, kills_us=True)

DONE_TO_US = (
    SIGTERM,
    _ending(signal.SIGINT),
    _ending(signal.SIGHUP),
    Fault(
        "SIGUSR1",
        _cancel,
        _unless(Verdict(1, ("canceled", "SIGUSR1")), grace=TERMINATED, final=OK),
    ),
    SIGKILL,
    Fault("SIGSTOP-SIGKILL", _stop_and_kill, lambda _: KILLED, grace=0.3, kills_us=True),
    Fault("SIGSTOP-SIGCONT", _stop_and_continue, _unless(OK, grace=TERMINATED, final=OK)),
)
DONE_BY_THE_AGENT = (
    Fault("agent-closes-stdout", _close_stdout, AGENT_GONE),
    Fault("agent-dies", _die, AGENT_GONE),
    Fault("agent-reads-no-more", _read_no_more, lambda _: Verdict(TERMINATED.code, None)),
    Fault(
        "agent-reads-late",
        _read_late,
        _unless(OK, grace=Verdict(TERMINATED.code, None), final=OK),
    ),
)
