"""The command `--check`: ask every driver, and report all problems with what to do (SPEC 14.7-14.17).

A problem does not end the check, not even a mistake in our own configuration.
"""

from __future__ import annotations

from shlex import quote

from servo_agg.commands.adjust import require_psutil
from servo_agg.commands.check_drivers import DriverCheck
from servo_agg.commands.check_permissions import writable_by_all
from servo_agg.commands.check_report import Problem, Remark, report_text
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
from servo_agg.output.tables import pluralize
from servo_agg.protocol.lint import lint_description, lint_info
from servo_agg.protocol.settings import iter_settings, join_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from servo_agg.commands.query import Context
    from servo_agg.config import Config
    from servo_agg.protocol.outcome import Outcome

    Object = dict[str, Any]


def check(
    context: Context,
    application: str | None,
    errors: Sequence[UserError],
    *,
    drain_log: Callable[[], str],
    json: bool,
    width: int | None,
    color: bool,
) -> Result:
    """Ask all drivers for their info and, given an application, for their settings (SPEC 14.7).

    `errors` are those of environment and configuration. `drain_log()` returns why the log cannot be
    written, "" if it can.

    With `json` the result is `{"status": "ok" | "failed", "directory", "application", "drivers": [{"driver",
    "version", "has_cancel", "seconds", "settings", "verdict"}], "problems": [{"drivers": [NAME, ...], "what",
    "remedy"}], "remarks": [TEXT, ...]}`, with null for what is unknown. Otherwise it is text, at most `width`
    columns wide if possible. The exit status is 1 if there is a problem.
    """
    config = context.config
    problems = [_error_problem(error) for error in errors]
    driver_check = DriverCheck(context, application)
    infos = driver_check.ask("info", check_info)
    asks_settings = application is not None and not context.loop.cause
    queries = driver_check.ask("query", check_description) if asks_settings else {}
    if context.loop.cause:
        return stopped_query_result(context, context.loop.cause, [*{**infos, **queries}.values()])
    problems += driver_check.problems
    problems += _description_problems(infos, queries)
    problems += _conflict_problems([outcome for outcome in queries.values() if outcome.ok])
    problems += _environment_problems(config)
    problems += _directory_problems(context)
    problems += _listing_problems(context)
    problems += _pattern_problems(context)
    problems += _log_problems(drain_log())
    remarks = _remarks(context, application, drivers_fail=bool(driver_check.problems))
    rows = [_row(name, infos.get(name), queries.get(name), problems) for name in config.drivers]
    status = 1 if problems else 0
    failure = _failure(problems) if problems else None
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
            "remarks": [remark.text for remark in remarks],
        }
        return Result(final, status, failure)
    return Result(report_text(rows, problems, remarks, width, color=color), status, failure)


def _failure(problems: Sequence[Problem]) -> Object:
    """Return what the log says of a check that found problems."""
    whats = (": ".join(filter(None, [", ".join(problem.drivers), problem.what])) for problem in problems)
    message = "\n".join([f"{pluralize(len(problems), 'problem')} found", *whats])
    return {"status": "failed", "reason": "problems", "message": message}


def _description_problems(infos: Mapping[str, Outcome], queries: Mapping[str, Outcome]) -> list[Problem]:
    """Return a problem for each finding in the answers of the drivers that have not failed."""
    found = [(name, lint_info(outcome.body)) for name, outcome in infos.items() if outcome.ok]
    found += [(name, lint_description(outcome.body)) for name, outcome in queries.items() if outcome.ok]
    return [
        Problem((name,), "description", str(finding), finding.remedy)
        for name, findings in found
        for finding in findings
    ]


def _error_problem(error: UserError) -> Problem:
    """Return the problem of an error that ends every operation other than a check."""
    # If PyYAML is missing, the message itself ends with the remedy.
    what, found, command = str(error).partition("; install PyYAML: ")
    if not found:
        return Problem((), "", what, "fix this; every operation fails until then")
    return Problem((), "", what, f"install PyYAML: {command}; every operation fails until then", command)


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
                "rename the component in all but one of them, or remove the setting from their descriptions",
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
        f"the environment variable {VERBOSE_STDERR} must be {join_names(STDERR_WORDS, 'or')} (any other word"
        ' is treated as "none": messages do not show the stderr of a failed driver), got'
        f" {quoted_value(value)}"
    )
    hint = f" (did you mean {near[0]}?)" if near else ""
    remedy = f'set {VERBOSE_STDERR} to one of these words{hint}, or unset it to get the default, "all"'
    return [Problem((), "", what, remedy)]


def _directory_problems(context: Context) -> list[Problem]:
    config = context.config
    problems = writable_by_all(config)
    try:
        require_psutil()
    except UserError as error:
        what = str(error).partition("; install psutil: ")[0]
        (command,) = error.commands
        remedy = f"install psutil: {command}; every adjust fails until then"
        problems.append(Problem((), "", what, remedy, command))
    return problems


def _listing_problems(context: Context) -> list[Problem]:
    config = context.config
    problems = []
    if config.listing.unreachable:
        names = "; ".join(f"adjust.d/{name} {why}" for name, why in config.listing.unreachable.items())
        problems.append(Problem((), "", names, "fix or remove these entries"))
    scripts = [name for name in config.listing.not_executable if _is_script(f"adjust.d/{name}")]
    if scripts and config.drivers:
        what = f"scripts that are not run as drivers, because they are not executable: {join_names(scripts)}"
        command = _chmod(scripts)
        remedy = f"{command}; or move what is not a driver out of adjust.d"
        problems.append(Problem((), "", what, remedy, command))
    data = [name for name in config.drivers if _is_data(f"adjust.d/{name}")]
    if data and not config.listing.not_executable:
        what = (
            "every file in adjust.d is executable (the volume may force one mode on all files), so these"
            f" files without a #! line are run as drivers: {join_names(data)}"
        )
        remedy = (
            "add a #! line where it is missing; move what is not a driver out of adjust.d, or give it a name"
            " that begins with a dot"
        )
        problems.append(Problem((), "", what, remedy))
    if not config.drivers:
        what = f"no driver in {config.directory}/adjust.d"
        commands = [_chmod(config.listing.not_executable)] if config.listing.not_executable else []
        or_else = "".join(f", or make the files there executable: {command}" for command in commands)
        problems.append(Problem((), "", what, f"add executable files{or_else}", *commands))
    return problems


def _chmod(names: Sequence[str]) -> str:
    return f"chmod +x {' '.join(quote(f'adjust.d/{name}') for name in names)}"


def _is_script(path: str) -> bool:
    """Return whether a file begins with a #! line."""
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return False


def _is_data(path: str) -> bool:
    """Return whether a file is clearly not a program: empty, or text without a #! line."""
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
            f"config.yaml: a pattern of agg.{key} matches no driver: {pattern!r}",
            f"fix or remove it; the drivers are {join_names(context.config.drivers)}",
        )
        for key, pattern in context.config.unmatched
    ]


def _log_problems(what: str) -> list[Problem]:
    remedy = "as agg.log in config.yaml, name a file that the agent's user may write to"
    return [Problem((), "", what, remedy)] if what else []


def _remarks(context: Context, application: str | None, *, drivers_fail: bool) -> list[Remark]:
    config = context.config
    remarks = []
    if drivers_fail:
        command = f"export PYTHONPATH={quote(config.environment['PYTHONPATH'])}"
        text = f"to run a driver by hand, first set its module path: {command}"
        remarks.append(Remark(text, command))
    data = [name for name in config.listing.not_executable if not _is_script(f"adjust.d/{name}")]
    if config.drivers and data:
        command = "chmod +x adjust.d/NAME"
        text = (
            f"ignored (not executable): {join_names(data)}; to make a script a driver, add a #! line and run:"
            f" {command}"
        )
        remarks.append(Remark(text, command))
    if config.listing.leftovers:
        names = join_names(config.listing.leftovers)
        text = f"ignored (named like a backup copy or hidden): {names}; to make one a driver, rename it"
        remarks.append(Remark(text))
    if config.listing.documents:
        names = join_names(config.listing.documents)
        remarks.append(Remark(f"ignored (named like a document, and without a #! line): {names}"))
    if config.drivers and application is None:
        command = "./adjust --check APP"
        remarks.append(Remark(f"settings were not checked; to check them, run: {command}", command))
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
