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
from servo_agg.description import settings_in
from servo_agg.errors import Conflict, Fault
from servo_agg.lifecycle import Limits
from servo_agg.operations import Answer, Asked, ended, examine_info, examine_query, version_of
from servo_agg.running import Job, Phase
from servo_agg.tables import plain, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from servo_agg.operations import Run
    from servo_agg.report import Outcome

    Object = dict[str, Any]

PATIENCE = 30.0
"""Seconds in which a driver must answer, where OPTUNE_IO_TIMEOUT does not ask for less."""


class Problem:
    """Something that is wrong: with which driver (None: with none in particular), what, and what to do."""

    __slots__ = ("driver", "remedy", "what")

    def __init__(self, driver: str | None, what: str, remedy: str) -> None:
        self.driver = driver
        self.what = what
        self.remedy = remedy


class _Findings:
    """What is known of one driver."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.info: Outcome | None = None
        self.query: Outcome | None = None
        self.verdict = "ok"

    def row(self) -> Object:
        told = self.info is not None and self.info.ok
        last = self.query or self.info
        known = self.query is not None and self.query.ok
        return {
            "driver": self.name,
            "version": version_of(self.info) if self.info is not None and told else None,
            "has_cancel": self.info.reply.get("has_cancel") is True
            if self.info is not None and told
            else None,
            "seconds": None if last is None else round(last.ending.seconds, 3),
            "settings": sum(1 for _ in settings_in(self.query.reply))
            if self.query is not None and known
            else None,
            "verdict": self.verdict,
        }


def check(
    run: Run, application: str | None, faults: Sequence[Fault], *, json: bool, width: int | None, colour: bool
) -> Answer:
    """Ask all drivers for their info and, given an application, their settings; tell what is wrong.

    `faults` are those of environment and configuration. With `json` the answer is `{"status": "ok" |
    "failed", "directory", "application", "drivers": [{"driver", "version", "has_cancel", "seconds",
    "settings", "verdict"}], "problems": [{"driver", "what", "remedy"}], "remarks": [TEXT, ...]}`, null
    standing for what is not known; else it is text, at most `width` places wide where that can be.
    The exit status is 1 when there is a problem (SPEC 14).
    """
    config = run.config
    problems = [Problem(None, str(fault), "") for fault in faults]
    findings = {name: _Findings(name) for name in config.drivers}
    for name, outcome in _ask(run, "info", application, examine_info, problems, findings).items():
        findings[name].info = outcome
    if application is not None:
        queries = _ask(run, "query", application, examine_query, problems, findings)
        for name, outcome in queries.items():
            findings[name].query = outcome
        problems += _conflicts([outcome for outcome in queries.values() if outcome.ok])
    if run.supervisor.cause:
        return ended(run.supervisor.cause)
    problems += _of_the_directory(run)
    remarks = [
        f"adjust.d/{name} is passed over, since it is not executable; if it is a driver:"
        f" chmod +x {quote('adjust.d/' + name)}"
        for name in config.passed_over
    ]
    if not config.drivers:
        problems.append(Problem(None, "there is no driver in adjust.d", " ".join(remarks)))
    rows = [finding.row() for finding in findings.values()]
    if json:
        final = {
            "status": "failed" if problems else "ok",
            "directory": config.directory,
            "application": application,
            "drivers": rows,
            "problems": [
                {"driver": problem.driver, "what": problem.what, "remedy": problem.remedy}
                for problem in problems
            ],
            "remarks": remarks,
        }
        return Answer(final, 1 if problems else 0)
    return Answer("\n".join(_lines(rows, problems, remarks, width, colour)), 1 if problems else 0)


def _ask(
    run: Run,
    phase: str,
    application: str | None,
    examine: Callable[[Outcome], None],
    problems: list[Problem],
    findings: dict[str, _Findings],
) -> dict[str, Outcome]:
    """Ask all drivers; those that fail once more, each alone. Gives the outcomes by name."""
    arguments = [f"--{phase}"] if application is None else [f"--{phase}", application]
    jobs = [Job(name, arguments) for name in run.config.drivers]
    outcomes = {outcome.name: outcome for outcome in _drive(run, phase, jobs, examine)}
    for job in jobs:
        outcome = outcomes.get(job.name)
        if outcome is None or outcome.ok or run.supervisor.cause:
            continue
        alone = outcome.ending.trouble != "cannot-start" and len(jobs) > 1
        again = _drive(run, phase, [job], examine) if alone else []
        if any(second.ok for second in again):
            outcomes[job.name] = again[0]
            problem = Problem(
                job.name,
                f"fails when it is asked beside the others ({outcome.message}), but answers alone",
                f"let it be asked alone: in config.yaml, section agg, serial: [{job.name}, ...]"
                " with those that it can't be beside",
            )
            findings[job.name].verdict = "alone only"
        else:
            problem = Problem(job.name, outcome.message, _remedy(job, outcome))
            findings[job.name].verdict = outcome.reason
        problems.append(problem)
    return outcomes


def _drive(run: Run, phase: str, jobs: list[Job], examine: Callable[[Outcome], None]) -> list[Outcome]:
    config = run.config
    seconds = PATIENCE if config.limit is None else min(PATIENCE, config.limit)
    limits = Limits(
        grace=config.short_grace,
        short_grace=config.short_grace,
        until=run.supervisor.now() + seconds,
        allowance=seconds,
    )
    return run.supervisor.drive(
        jobs, Phase(phase, limits, together=config.parallel, apart=config.serial, examine=examine)
    )


def _remedy(job: Job, outcome: Outcome) -> str:
    if outcome.ending.trouble == "cannot-start":
        return "it must be a program that can be started: ./adjust.d/NAME"
    by_hand = " ".join(quote(word) for word in (f"adjust.d/{job.name}", *job.arguments))
    what = {
        "timeout": "see what it waits for, or whether it only needs longer",
        "malformed": "see what it prints: only JSON objects may go to its stdout",
    }.get(outcome.reason, "see what it says")
    return f"run it by hand: {by_hand}; {what}"


def _conflicts(outcomes: list[Outcome]) -> list[Problem]:
    try:
        Asked(outcomes, None).merged()
    except Conflict as conflict:
        remedy = (
            "let one of them describe it only: give the others other components, or select what they describe"
        )
        return [Problem(None, str(conflict), remedy)]
    return []


def _of_the_directory(run: Run) -> list[Problem]:
    problems = []
    for path in ("adjust.d", *(f"adjust.d/{name}" for name in run.config.drivers)):
        try:
            mode = os.stat(path).st_mode
        except OSError:
            continue
        if mode & stat.S_IWOTH:
            problems.append(
                Problem(
                    None,
                    f"{path} may be written by everybody on this machine, and what it holds is run as us",
                    f"chmod o-w {quote(path)}",
                )
            )
    try:
        insist_on_psutil()
    except Fault as fault:
        problems.append(Problem(None, str(fault), ""))
    return problems


_HEADS = ("driver", "version", "cancel", "seconds", "settings", "verdict")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _lines(
    rows: list[Object], problems: list[Problem], remarks: list[str], width: int | None, colour: bool
) -> list[str]:
    lines = []
    if rows:
        cells = [[_cell(value) for value in row.values()] for row in rows]
        lines = table([list(_HEADS), *cells], right=(3, 4), width=width)
        if colour:
            lines[1:] = [_coloured(line, good=row["verdict"] == "ok") for line, row in zip(lines[1:], rows)]
        lines.append("")
    for problem in problems:
        who = "" if problem.driver is None else f"{plain(problem.driver)}: "
        first, *more = (plain(line) for line in problem.what.splitlines() or [""])
        lines.append(f"problem: {who}{first}")
        lines += [f"    {line}" for line in more]
        if problem.remedy:
            lines.append(f"    to do: {plain(problem.remedy)}")
    lines += [f"remark: {plain(remark)}" for remark in remarks]
    count = len(problems)
    lines.append("no problem found" if not count else f"{count} problem{'s' if count > 1 else ''} found")
    return lines


def _coloured(line: str, *, good: bool) -> str:
    return f"\033[{32 if good else 31}m{line}\033[0m"
