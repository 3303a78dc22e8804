"""How a check asks the drivers, and what is wrong with what they answer.

Rules (SPEC 14):
- All drivers are asked, whoever fails, and none is waited for longer than PATIENCE.
- A driver that fails beside the others is asked again alone: it may be one that must be.
"""

from __future__ import annotations

from shlex import quote

from servo_agg.findings import Problem
from servo_agg.lifecycle import Limits
from servo_agg.phase import Job, Phase
from servo_agg.protocol import as_text
from servo_agg.tables import counted, plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from servo_agg.operations import Run
    from servo_agg.report import Outcome

    Object = dict[str, Any]

PATIENCE = 30.0
"""Seconds in which a driver must answer, where OPTUNE_IO_TIMEOUT does not ask for less."""


class Asking:
    """Asks all drivers.

    problems  what is wrong with their answers: added to whenever they are asked
    """

    def __init__(self, run: Run, application: str | None) -> None:
        self.problems: list[Problem] = []
        self._run = run
        self._application = application
        self._told: set[tuple[str, str]] = set()
        config = run.config
        self._ever_beside = config.parallel > 1 and not config.serial >= set(config.drivers)

    def ask(self, phase: str, examine: Callable[[Outcome], None]) -> dict[str, Outcome]:
        """Ask all drivers; those that fail once more, each alone. Gives the outcomes by name."""
        run = self._run
        arguments = [f"--{phase}"] if self._application is None else [f"--{phase}", self._application]
        jobs = [Job(name, arguments) for name in run.config.drivers]
        if jobs:
            run.tell(f"asking {counted(len(jobs), 'driver')}: {' '.join(map(plain, arguments))}")
        outcomes = {outcome.name: outcome for outcome in self._drive(phase, jobs, examine)}
        for job in jobs:
            outcome = outcomes.get(job.name)
            if outcome is None:
                self._add(phase, job.name, "not asked", "was not asked any more", "mend the others first")
            elif not (outcome.ok or run.listener.cause):
                outcomes[job.name] = self._look_into(phase, job, outcome, jobs, examine)
        for name, outcome in outcomes.items():
            self._look_inside(name, outcome.reply, "")
        return outcomes

    def _look_inside(self, name: str, reply: Object, path: str) -> None:
        """Add the drivers of an aggregator inside that fail: it succeeds, to be heard, even so (SPEC 5)."""
        inner = reply.get("drivers")
        for driver, entry in inner.items() if isinstance(inner, dict) else ():
            if not isinstance(entry, dict):
                continue
            if entry.get("message"):
                what = f"{path}{driver}, a driver inside it, fails: {as_text(entry['message'])}"
                self._add(
                    "info",
                    name,
                    "driver inside",
                    what,
                    "run adjust --check in the directory that it leads to",
                )
            self._look_inside(name, entry, f"{path}{driver}: ")

    def _look_into(
        self,
        phase: str,
        job: Job,
        outcome: Outcome,
        jobs: list[Job],
        examine: Callable[[Outcome], None],
    ) -> Outcome:
        """Find out whether a driver that failed does so alone, too; give what holds of it."""
        again: list[Outcome] = []
        if len(jobs) > 1 and outcome.ending.trouble != "cannot-start":
            self._run.tell(f"{plain(job.name)}: {plain(outcome.reason)}; asking it again, alone")
            again = self._drive(phase, [job], examine)
        if not (again and again[0].ok):
            self._add(phase, job.name, outcome.reason, outcome.message, _remedy(job, outcome))
            return outcome
        # Of several that are in each other's way it may be another one that fails next.
        if self._ever_beside and not all(beside.ok for beside in self._drive(phase, jobs, examine)):
            what = f"fails when it is asked beside the others, but answers alone: {outcome.message}"
            self._add(phase, job.name, "alone only", what, _ALONE)
        else:
            what = f"failed when it was asked first, but not the second time: {outcome.message}"
            self._add(phase, job.name, "unsteady", what, f"run it by hand, a few times: {_command(job)}")
        return again[0]

    def _add(self, phase: str, name: str, verdict: str, what: str, remedy: str) -> None:
        # What fails in each phase for the same cause is one problem.
        told = (name, what.replace(f"on --{phase}: ", ""))
        if told not in self._told:
            self._told.add(told)
            self.problems.append(Problem((name,), verdict, what, remedy))

    def _drive(self, phase: str, jobs: list[Job], examine: Callable[[Outcome], None]) -> list[Outcome]:
        config, supervisor = self._run.config, self._run.supervisor
        limit, short = config.limit, config.short_grace
        now = self._run.listener.now()
        if limit is not None and limit <= PATIENCE:
            # As in earnest: all drivers have it together.
            limits = Limits(grace=short, short_grace=short, until=now + limit, allowance=limit)
        else:
            # Each has its time; the other bound is for one that talks on and on.
            until = now + (limit or PATIENCE * len(jobs))
            limits = Limits(grace=short, short_grace=short, until=until, silence=PATIENCE)
        return supervisor.drive(
            jobs, Phase(phase, limits, together=config.parallel, apart=config.serial, examine=examine)
        )


_ALONE = (
    'in config.yaml, section agg, serial: ["*"] has them asked one at a time; rather than * give the names of'
    " those that are in each other's way, if you know them. If it only needs longer beside them, raise"
    " OPTUNE_IO_TIMEOUT"
)


def _command(job: Job) -> str:
    return " ".join(quote(word) for word in (f"adjust.d/{job.name}", *job.arguments))


def _remedy(job: Job, outcome: Outcome) -> str:
    if outcome.ending.trouble == "cannot-start":
        return f"once that is mended, this must start it: {_command(job)}"
    what = {
        "timeout": "see what it waits for, or whether it only needs longer",
        "malformed": "see what it prints: only JSON objects may go to its stdout",
    }.get(outcome.reason, "see what it says")
    return f"run it by hand: {_command(job)}; {what}"
