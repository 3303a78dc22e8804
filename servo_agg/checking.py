"""The story of a check: ask every driver, and say all that is wrong and what to do.

Rules (SPEC 14):
- Nothing found keeps us from looking on; what is wrong with our own configuration is a finding too.
"""

from __future__ import annotations

from shlex import quote

from servo_agg.adjusting import insist_on_psutil
from servo_agg.asking import Asking
from servo_agg.config import STDERR_WORDS, VERBOSE_STDERR, shown
from servo_agg.description import listed, settings_in
from servo_agg.errors import Conflict, Fault, near
from servo_agg.findings import Problem, text_of
from servo_agg.operations import Answer, Asked, ended, examine_info, examine_query, survivors, version_of
from servo_agg.permissions import writable_by_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from servo_agg.config import Config
    from servo_agg.operations import Run
    from servo_agg.report import Outcome

    Object = dict[str, Any]

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
    asking = Asking(run, application)
    infos = asking.ask("info", examine_info)
    queries = {} if application is None else asking.ask("query", examine_query)
    if run.listener.cause:
        return ended(run.listener.cause, survivors([*infos.values(), *queries.values()]))
    problems += asking.problems
    problems += _conflicts([outcome for outcome in queries.values() if outcome.ok])
    problems += _of_the_environment(config)
    problems += _of_the_directory(run)
    problems += _of_the_listing(run)
    problems += _of_the_configuration(run)
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


def _of_the_environment(config: Config) -> list[Problem]:
    how = config.environment.get(VERBOSE_STDERR) or "all"
    if how in STDERR_WORDS:
        return []
    meant = near(how, STDERR_WORDS)
    what = (
        f"the environment variable {VERBOSE_STDERR} is {shown(how)}, none of"
        f" {listed(STDERR_WORDS)}: it counts as none, so that no message shows the stderr of a failed driver"
    )
    hint = f" (did you mean {meant[0]}?)" if meant else ""
    return [Problem((), "", what, f"set it to one of these, or unset it, which means all{hint}")]


def _of_the_directory(run: Run) -> list[Problem]:
    config = run.config
    problems = writable_by_all(config)
    try:
        insist_on_psutil()
    except Fault as fault:
        problems.append(Problem((), "", str(fault), "install it as said: until then every adjust fails"))
    return problems


def _of_the_listing(run: Run) -> list[Problem]:
    config = run.config
    problems = []
    if config.unreachable:
        names = "; ".join(f"adjust.d/{name} {why}" for name, why in config.unreachable.items())
        problems.append(Problem((), "", names, "mend what cannot be followed, or take it away"))
    data = [name for name in config.drivers if _is_data(f"adjust.d/{name}")]
    if data and not config.passed_over:
        what = (
            "every file in adjust.d is executable, as on a volume that gives all files the same mode, and so"
            f" what has no #! line is taken for a driver: {listed(data)}"
        )
        remedy = (
            "write a #! line where one is missing; move what is no driver out of adjust.d, or let its name"
            " begin with a dot"
        )
        problems.append(Problem((), "", what, remedy))
    if not config.drivers:
        files = " ".join(quote(f"adjust.d/{name}") for name in config.passed_over)
        or_else = f", or make executable what is there: chmod +x {files}" if files else ""
        what = f"there is no driver in {config.directory}/adjust.d"
        problems.append(Problem((), "", what, f"put executable files there{or_else}"))
    return problems


def _is_data(path: str) -> bool:
    """Tell whether a file is evidently no program: a text, or nothing, without a #! line."""
    try:
        with open(path, "rb") as file:
            content = file.read(4096)
    except OSError:
        return False
    return not content.startswith(b"#!") and b"\0" not in content


def _of_the_configuration(run: Run) -> list[Problem]:
    if not run.config.drivers:
        return []
    return [
        Problem(
            (),
            "",
            f"config.yaml: agg.{key} has the pattern {pattern!r}, which matches no driver",
            f"correct it, or leave it out; the drivers are {listed(run.config.drivers)}",
        )
        for key, pattern in run.config.unmatched
    ]


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
    if config.leftovers:
        remarks.append(
            "passed over although executable, since named like a backup copy or hidden:"
            f" {listed(config.leftovers)}; should one be a driver, give it another name"
        )
    if config.documents:
        remarks.append(
            "passed over although executable, since named like a document and without a #! line:"
            f" {listed(config.documents)}"
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
