"""The story of a check: ask every driver, and say all that is wrong and what to do.

Rules (SPEC 14):
- All drivers are asked, whoever fails, and none is waited for longer than PATIENCE.
- A driver that fails beside the others is asked again alone: it may be one that must be.
- Nothing found keeps us from looking on; what is wrong with our own configuration is a finding too.
"""

from __future__ import annotations

import os
import stat
from shlex import quote

from servo_agg.adjusting import insist_on_psutil
from servo_agg.description import listed, settings_in
from servo_agg.errors import Conflict, Fault
from servo_agg.findings import Problem, text_of
from servo_agg.lifecycle import Limits
from servo_agg.operations import Answer, Asked, ended, examine_info, examine_query, version_of
from servo_agg.phase import Job, Phase
from servo_agg.protocol import as_text
from servo_agg.tables import counted, plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from servo_agg.operations import Run
    from servo_agg.report import Outcome

    Object = dict[str, Any]

PATIENCE = 30.0
"""Seconds in which a driver must answer, where OPTUNE_IO_TIMEOUT does not ask for less."""

_MEND = "correct it: until then every operation fails"


def check(
    run: Run, application: str | None, faults: Sequence[Fault], *, json: bool, width: int | None, colour: bool
) -> Answer:
    """Ask all drivers for their info and, given an application, their settings; tell what is wrong.

    `faults` are those of environment and configuration. With `json` the answer is `{"status": "ok" |
    "failed", "directory", "application", "drivers": [{"driver", "version", "has_cancel", "seconds",
    "settings", "verdict"}], "problems": [{"drivers": [NAME, ...], "what", "remedy"}], "remarks":
    [TEXT, ...]}`, null standing for what is not known; else it is text, its table at most `width` places
    wide where that can be.
    The exit status is 1 when there is a problem (SPEC 14).
    """
    config = run.config
    problems = [Problem((), "", str(fault), _MEND) for fault in faults]
    asking = _Asking(run, application)
    infos = asking.ask("info", examine_info)
    queries = {} if application is None else asking.ask("query", examine_query)
    if run.listener.cause:
        return ended(run.listener.cause)
    problems += asking.problems
    problems += _conflicts([outcome for outcome in queries.values() if outcome.ok])
    problems += _of_the_directory(run)
    remarks = _remarks(run, application, by_hand=bool(asking.problems))
    rows = [_row(name, infos.get(name), queries.get(name), problems) for name in config.drivers]
    status = 1 if problems else 0
    if json:
        final = {
            "status": "failed" if problems else "ok",
            "directory": config.directory,
            "application": application,
            "drivers": rows,
            "problems": [
                {"drivers": list(problem.drivers), "what": problem.what, "remedy": problem.remedy}
                for problem in problems
            ],
            "remarks": remarks,
        }
        return Answer(final, status)
    return Answer(text_of(rows, problems, remarks, width, colour=colour), status)


class _Asking:
    """Asks all drivers, and gathers what is wrong with their answers."""

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


def _conflicts(outcomes: list[Outcome]) -> list[Problem]:
    try:
        Asked(outcomes, None).merged()
    except Conflict as conflict:
        shared: dict[tuple[str, ...], list[str]] = {}
        for path, names in conflict.owners.items():
            shared.setdefault(tuple(names), []).append(path)
        return [
            Problem(
                names,
                "conflict",
                f"only one driver may describe a setting, but {listed(names)} describe {listed(paths)}",
                "let one of them describe each: give the component another name in the others, or have them"
                " describe less",
            )
            for names, paths in shared.items()
        ]
    return []


def _of_the_directory(run: Run) -> list[Problem]:
    config = run.config
    problems = []
    for path, names in (("adjust.d", ()), *((f"adjust.d/{name}", (name,)) for name in config.drivers)):
        try:
            mode = os.stat(path).st_mode
        except OSError:
            continue
        if mode & stat.S_IWOTH:
            what = f"{path} may be written by everybody on this machine, and what it holds is run as us"
            problems.append(Problem(names, "writable", what, f"chmod o-w {quote(path)}"))
    try:
        insist_on_psutil()
    except Fault as fault:
        problems.append(Problem((), "", str(fault), "install it as said: until then every adjust fails"))
    if not config.drivers:
        files = " ".join(quote(f"adjust.d/{name}") for name in config.passed_over)
        or_else = f", or make executable what is there: chmod +x {files}" if files else ""
        what = f"there is no driver in {config.directory}/adjust.d"
        problems.append(Problem((), "", what, f"put executable files there{or_else}"))
    return problems


def _remarks(run: Run, application: str | None, *, by_hand: bool) -> list[str]:
    config = run.config
    remarks = []
    if by_hand:
        path = quote(config.environment["PYTHONPATH"])
        remarks.append(
            f"before you run a driver by hand, give it what it finds here: export PYTHONPATH={path}"
        )
    if config.drivers and config.passed_over:
        remarks.append(
            f"passed over, since not executable: {listed(config.passed_over)};"
            " should one be a driver: chmod +x adjust.d/NAME"
        )
    if config.drivers and application is None:
        remarks.append("settings were not asked for; adjust --check APP asks for them too")
    return remarks


def _row(name: str, info: Outcome | None, query: Outcome | None, problems: list[Problem]) -> Object:
    told = info is not None and info.ok
    last = query or info
    started = last is not None and last.ending.trouble != "cannot-start"
    verdicts = [problem.verdict for problem in problems if name in problem.drivers]
    return {
        "driver": name,
        "version": version_of(info) if info is not None and told else None,
        "has_cancel": info.reply.get("has_cancel") is True if info is not None and told else None,
        "seconds": round(last.ending.seconds, 3) if last is not None and started else None,
        "settings": sum(1 for _ in settings_in(query.reply)) if query is not None and query.ok else None,
        "verdict": ", ".join(dict.fromkeys(verdicts)) or "ok",
    }
