"""The command `--check`: ask every driver, and report all problems with what to do (SPEC 14).

A problem does not end the check, not even a mistake in our own configuration.
"""

from __future__ import annotations

from shlex import quote

from servo_agg.commands.adjust import require_psutil
from servo_agg.commands.check_drivers import DriverCheck
from servo_agg.commands.check_permissions import writable_by_all
from servo_agg.commands.check_report import Problem, report_text
from servo_agg.commands.query import (
    QueryResult,
    Result,
    check_description,
    check_info,
    stopped_query_result,
    version_of,
)
from servo_agg.config import STDERR_WORDS, VERBOSE_STDERR, quoted_value
from servo_agg.errors import Conflict, UserError, close_matches
from servo_agg.protocol.settings import iter_settings, join_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from servo_agg.commands.query import Context
    from servo_agg.config import Config
    from servo_agg.protocol.outcome import Outcome

    Object = dict[str, Any]

_REMEDY = "correct it: until then every operation fails"


def check(
    context: Context,
    application: str | None,
    errors: Sequence[UserError],
    *,
    json: bool,
    width: int | None,
    colour: bool,
) -> Result:
    """Ask all drivers for their info and, given an application, for their settings (SPEC 14).

    `errors` are those of environment and configuration. With `json` the result is `{"status": "ok" |
    "failed", "directory", "application", "drivers": [{"driver", "version", "has_cancel", "seconds",
    "settings", "verdict"}], "problems": [{"drivers": [NAME, ...], "what", "remedy"}], "remarks":
    [TEXT, ...]}`, with null for what is unknown. Otherwise it is text whose table is at most `width` columns
    wide, if possible. The exit status is 1 if there is a problem.
    """
    config = context.config
    problems = [Problem((), "", str(error), _REMEDY) for error in errors]
    driver_check = DriverCheck(context, application)
    infos = driver_check.ask("info", check_info)
    asks_settings = application is not None and not context.loop.cause
    queries = driver_check.ask("query", check_description) if asks_settings else {}
    if context.loop.cause:
        return stopped_query_result(context, context.loop.cause, [*{**infos, **queries}.values()])
    problems += driver_check.problems
    problems += _conflict_problems([outcome for outcome in queries.values() if outcome.ok])
    problems += _environment_problems(config)
    problems += _directory_problems(context)
    problems += _listing_problems(context)
    problems += _pattern_problems(context)
    remarks = _remarks(context, application, drivers_fail=bool(driver_check.problems))
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
        return Result(final, status)
    return Result(report_text(rows, problems, remarks, width, colour=colour), status)


def _conflict_problems(outcomes: list[Outcome]) -> list[Problem]:
    try:
        QueryResult(outcomes, None).merged()
    except Conflict as conflict:
        shared: dict[tuple[str, ...], list[str]] = {}
        for path, names in conflict.owners.items():
            shared.setdefault(tuple(names), []).append(path)
        return [
            Problem(
                names,
                "conflict",
                f"only one driver may describe a setting, but {join_names(names)} describe"
                f" {join_names(paths)}",
                "let one of them describe each: give the component another name in the others, or have them"
                " describe less",
            )
            for names, paths in shared.items()
        ]
    return []


def _environment_problems(config: Config) -> list[Problem]:
    value = config.environment.get(VERBOSE_STDERR) or "all"
    if value in STDERR_WORDS:
        return []
    near = close_matches(value, STDERR_WORDS)
    what = (
        f"the environment variable {VERBOSE_STDERR} is {quoted_value(value)}, none of"
        f" {join_names(STDERR_WORDS)}: it counts as none, so that no message shows the stderr of a failed"
        " driver"
    )
    hint = f" (did you mean {near[0]}?)" if near else ""
    return [Problem((), "", what, f"set it to one of these, or unset it, which means all{hint}")]


def _directory_problems(context: Context) -> list[Problem]:
    config = context.config
    problems = writable_by_all(config)
    try:
        require_psutil()
    except UserError as error:
        problems.append(Problem((), "", str(error), "install it as said: until then every adjust fails"))
    return problems


def _listing_problems(context: Context) -> list[Problem]:
    config = context.config
    problems = []
    if config.listing.unreachable:
        names = "; ".join(f"adjust.d/{name} {why}" for name, why in config.listing.unreachable.items())
        problems.append(Problem((), "", names, "mend what cannot be followed, or take it away"))
    scripts = [name for name in config.listing.not_executable if _is_script(f"adjust.d/{name}")]
    if scripts and config.drivers:
        what = f"{join_names(scripts)}: has a #! line but is not executable, so it is not run"
        paths = " ".join(quote(f"adjust.d/{name}") for name in scripts)
        problems.append(
            Problem((), "", what, f"chmod +x {paths}; or move what is not a driver out of adjust.d")
        )
    data = [name for name in config.drivers if _is_data(f"adjust.d/{name}")]
    if data and not config.listing.not_executable:
        what = (
            "every file in adjust.d is executable, as on a volume that gives all files the same mode, and so"
            f" what has no #! line is taken for a driver: {join_names(data)}"
        )
        remedy = (
            "write a #! line where one is missing; move what is no driver out of adjust.d, or let its name"
            " begin with a dot"
        )
        problems.append(Problem((), "", what, remedy))
    if not config.drivers:
        files = " ".join(quote(f"adjust.d/{name}") for name in config.listing.not_executable)
        or_else = f", or make executable what is there: chmod +x {files}" if files else ""
        what = f"there is no driver in {config.directory}/adjust.d"
        problems.append(Problem((), "", what, f"put executable files there{or_else}"))
    return problems


def _is_script(path: str) -> bool:
    """Return whether a file begins with a #! line."""
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return False


def _is_data(path: str) -> bool:
    """Return whether a file is clearly no program: empty, or text without a #! line."""
    try:
        with open(path, "rb") as file:
            content = file.read(4096)
    except OSError:
        return False
    return not content.startswith(b"#!") and b"\0" not in content


def _pattern_problems(context: Context) -> list[Problem]:
    if not context.config.drivers:
        return []
    return [
        Problem(
            (),
            "",
            f"config.yaml: agg.{key} has the pattern {pattern!r}, which matches no driver",
            f"correct it, or leave it out; the drivers are {join_names(context.config.drivers)}",
        )
        for key, pattern in context.config.unmatched
    ]


def _remarks(context: Context, application: str | None, *, drivers_fail: bool) -> list[str]:
    config = context.config
    remarks = []
    if drivers_fail:
        path = quote(config.environment["PYTHONPATH"])
        remarks.append(
            f"before you run a driver by hand, give it what it finds here: export PYTHONPATH={path}"
        )
    data = [name for name in config.listing.not_executable if not _is_script(f"adjust.d/{name}")]
    if config.drivers and data:
        remarks.append(
            f"passed over, since not executable: {join_names(data)};"
            " should one be a driver: chmod +x adjust.d/NAME"
        )
    if config.listing.leftovers:
        remarks.append(
            "passed over although executable, since named like a backup copy or hidden:"
            f" {join_names(config.listing.leftovers)}; should one be a driver, give it another name"
        )
    if config.listing.documents:
        remarks.append(
            "passed over although executable, since named like a document and without a #! line:"
            f" {join_names(config.listing.documents)}"
        )
    if config.drivers and application is None:
        remarks.append("settings were not asked for; adjust --check APP asks for them too")
    return remarks


def _row(name: str, info: Outcome | None, query: Outcome | None, problems: list[Problem]) -> Object:
    """Return a row of the table; None stands for what is unknown."""
    told = info is not None and info.ok
    last = query or info
    started = last is not None and last.facts.failure != "cannot-start"
    verdicts = [problem.verdict for problem in problems if name in problem.drivers]
    return {
        "driver": name,
        "version": version_of(info) if info is not None and told else None,
        "has_cancel": info.body.get("has_cancel") is True if info is not None and told else None,
        "seconds": round(last.facts.seconds, 3) if last is not None and started else None,
        "settings": sum(1 for _ in iter_settings(query.body)) if query is not None and query.ok else None,
        "verdict": ", ".join(dict.fromkeys(verdicts)) or "ok",
    }
