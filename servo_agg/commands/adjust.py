"""The command APP, an adjust: query, route, then adjust each driver concerned, one after another.

Rules (SPEC 7, 8, 10):
- An error of the caller or the operator is raised as a UserError before any driver is adjusted.
- Only one adjust runs in a servo directory; it holds the lock until this process and the watchdog have ended.
- Two drivers are never alive at once.
"""

from __future__ import annotations

from servo_agg.commands.query import Result, query_drivers, stopped_query_result, stopped_result
from servo_agg.drivers.process import DriverCall
from servo_agg.errors import (
    BadEnvironment,
    BadInput,
    Busy,
    SchemaError,
    UnknownSettings,
    install_command,
    resource_error,
)
from servo_agg.lock import LOCK_FILE, holder, is_lock_file, locked_path, try_lock
from servo_agg.processes.by_psutil import load_psutil
from servo_agg.protocol.messages import Progress, Reply, clause, encode, parse_object
from servo_agg.protocol.outcome import driver_table, failure_result, merge_replies
from servo_agg.protocol.progress import OverallProgress
from servo_agg.protocol.routing import (
    fill_missing,
    refuse_misplaced_settings,
    request_from_assignments,
    route,
    unmatched_request,
)
from servo_agg.protocol.settings import validate_shape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from servo_agg.commands.query import Context, QueryResult
    from servo_agg.protocol.messages import Message
    from servo_agg.protocol.outcome import Outcome

    Object = dict[str, Any]

_LOCK_WAIT = 10.0
"""Seconds that another adjust is waited for, at most the limit I (SPEC 10.67)."""

_LOCK_POLL_INTERVAL = 0.05
"""Seconds between two attempts to take the lock."""

_PSUTIL_WAIT = 5.0
"""Seconds that psutil may take to load after the query."""


def read_request(stdin: bytes) -> Object:
    """Return the request that was read from stdin. Raises BadInput (SPEC 7.1, 7.2)."""
    if not stdin or stdin.isspace():
        raise BadInput('the input is empty; expected {"application": {...}} on stdin')
    try:
        request = parse_object(stdin, expected="a JSON object on stdin")
    except ValueError as error:
        raise BadInput(clause("the input", error)) from None
    if "application" not in request:
        raise BadInput('the input has no "application"; expected {"application": {...}}')
    try:
        validate_shape(request)
        refuse_misplaced_settings(request)
    except SchemaError as error:
        raise BadInput(f"in the input, {error}") from None
    return request


def require_psutil() -> None:
    """Import psutil. Raises BadEnvironment (SPEC 5.22)."""
    try:
        load_psutil()
    except Exception as error:  # noqa: BLE001 - without enough memory it may fail with any error
        command = f"{install_command()} --upgrade psutil"
        raise BadEnvironment(
            "the Python package psutil, which an adjust needs to stop drivers with all their processes, is"
            f" missing or broken ({resource_error(error) or error}); install psutil: {command}",
            command,
        ) from None


def require_watchdog(context: Context) -> None:
    """Check that the watchdog runs. Raises BadEnvironment (SPEC 5)."""
    if not context.watchdog_alive():
        raise BadEnvironment(
            "the watchdog process, which would stop the drivers if servo-agg were killed, has exited; nothing"
            " was changed; find out what killed it, for example with dmesg (out of memory?)"
        )


def requests_of(
    context: Context, queried: QueryResult, request: Object | None, assignments: Sequence[str]
) -> dict[str, Object]:
    """Return the input of each driver that has something to adjust, as `{driver: request}` (SPEC 7.7, 11.13).

    `request` is the input of the adjust. If it is None, the input is made of `assignments`, the values of
    `--set`. Raises BadInput, UnknownSettings or Conflict.
    """
    description, owners = queried.merged()
    if request is None:
        request = request_from_assignments(assignments, description)
        context.requested = request
    requests = route(request, owners)
    complete = requests.keys() & context.config.complete
    wanted = {path for path, name in owners.items() if name in complete}
    return route(fill_missing(request, description, wanted), owners) if wanted else requests


def adjust(context: Context, application: str, stdin: bytes, assignments: Sequence[str]) -> Result:
    """Query all drivers, then adjust each driver concerned, one after another (SPEC 7, 8).

    `assignments`, the values of `--set`, replace the input `stdin` if there are any (SPEC 14.21). Raises
    BadInput, UnknownSettings, Conflict, Busy or BadEnvironment before any driver is adjusted.
    """
    request = None if assignments else read_request(stdin)
    context.requested = unmatched_request(assignments) if request is None else request
    config = context.config
    if not config.drivers:
        refuse_without_drivers(context, request, assignments)
        return Result({"status": "ok", "reason": "no-drivers"}, 0)
    take_lock(context)
    if context.loop.cause:
        return stopped_result(context.loop.cause)
    count = len(config.drivers)
    context.send({"progress": 0, "message": f"querying {count} driver{'s' if count > 1 else ''}"})
    # The import takes as long as a query, or hangs with a file server.
    importing = context.loop.start_work(require_psutil)
    queried = query_drivers(context, application, context.loop.now())
    cause = context.loop.wait_for_work(importing, _PSUTIL_WAIT)
    not_started = {name: {"status": "not-started"} for name in config.drivers}
    if cause:
        return stopped_query_result(context, cause, queried.outcomes)
    require_psutil()
    require_watchdog(context)
    if queried.failures:
        return Result(
            {**failure_result(queried.failures), "drivers": driver_table(queried.failures, not_started)}, 1
        )
    requests = requests_of(context, queried, request, assignments)
    if not requests:
        return Result({"status": "ok", "reason": "no-settings-to-adjust"}, 0)
    outcomes = _adjust_drivers(context, application, requests)
    others = {name: {"status": "not-started" if name in requests else "skipped"} for name in config.drivers}
    return _result(context, outcomes, driver_table(outcomes, others))


def take_lock(context: Context) -> None:
    """Take the lock of the servo directory, waiting a while for another adjust (SPEC 10.66, 10.67).

    It is held until this process and the watchdog have ended. Return early if the adjust must end. Raises
    Busy, and BadEnvironment where there is nothing that we may lock.
    """
    directory, loop = context.config.directory, context.loop
    if not context.locks:
        raise BadEnvironment(
            f"cannot lock {directory} against another adjust: neither this directory nor its adjust.d can be"
            " opened; allow the agent's user to read one of them"
        )
    limit = context.config.limit
    wait = _LOCK_WAIT if limit is None else min(_LOCK_WAIT, limit)
    deadline = loop.now() + wait
    errors: list[str] = []
    has_lock_file = False
    for descriptor in context.locks:
        try:
            locked = _wait_for_lock(context, descriptor, deadline)
        except OSError as error:
            errors.append(error.strerror or "unknown")
            continue
        if loop.cause:
            return
        if locked:
            has_lock_file |= is_lock_file(descriptor)
        elif has_lock_file:
            # Any user who may read the directory can hold this lock: it must not prevent an adjust.
            from shlex import quote  # noqa: PLC0415 - needed only for this warning

            path = locked_path(descriptor, directory)
            command = f"fuser -v {quote(path)}"
            context.warn(
                f"warning: another process holds a lock on {path}, but not on the file {LOCK_FILE};"
                f" waited {wait:g} s and continued without this lock; to find the process, run as root:"
                f" {command}",
                command,
            )
        else:
            pid = holder(descriptor)
            process = "" if pid is None else f" (process {pid})"
            raise Busy(f"another adjust{process} is running in {directory}; waited {wait:g} s for its end")
    if len(errors) == len(context.locks):
        context.debug(
            f"the adjust runs without a lock: the file system of {directory} does not support locks"
            f" ({errors[0]})"
        )


def _wait_for_lock(context: Context, descriptor: int, deadline: float) -> bool:
    """Return whether a lock could be taken before `deadline`. Raises OSError where there are no locks."""
    while not context.loop.cause:
        if try_lock(descriptor):
            return True
        if context.loop.now() >= deadline:
            return False
        context.loop.pause(_LOCK_POLL_INTERVAL)
    return False


def refuse_without_drivers(context: Context, request: Object | None, assignments: Sequence[str]) -> None:
    """Raise UnknownSettings if there are settings to adjust; name the files that are not executable (SPEC 2).

    `request` and `assignments`: see `requests_of`.
    """
    try:
        route(request_from_assignments(assignments, {}) if request is None else request, {})
    except UnknownSettings as error:
        names = ", ".join(context.config.listing.not_executable)
        remedy = f"; to make the files there drivers, use chmod +x: {names}" if names else ""
        raise UnknownSettings(f"{error}: no driver in {context.config.directory}/adjust.d{remedy}") from None


def _adjust_drivers(context: Context, application: str, requests: Mapping[str, Object]) -> list[Outcome]:
    """Adjust the drivers in order; return the outcomes of those that were started."""
    config, supervisor = context.config, context.supervisor
    progress = OverallProgress(len(requests))

    def on_messages(name: str, messages: Sequence[Message]) -> None:
        context.send(
            *(
                progress.advance(name, message)
                if isinstance(message, Progress)
                else progress.format_line(name, "printed malformed output; stopping it")
                for message in messages
                if not isinstance(message, Reply)
            )
        )

    options = context.phase_options("adjust", context.loop.now(), on_messages=on_messages)
    outcomes: list[Outcome] = []
    for name in config.drivers:
        if name not in requests:
            continue
        failed = any(not outcome.ok for outcome in outcomes)
        if context.loop.poll() or supervisor.unkillable or (failed and config.on_failure == "stop"):
            break
        context.send(progress.format_line(name, "starting"))
        # Encoded one at a time: all inputs together can be much longer than our own.
        for outcome in supervisor.run([DriverCall(name, [application], encode(requests[name]))], options):
            outcomes.append(outcome)
            progress.end_driver()
            context.send(
                progress.format_line(name, "done" if outcome.ok else f"{outcome.status} ({outcome.reason})")
            )
    return outcomes


def _result(context: Context, outcomes: list[Outcome], table: Object) -> Result:
    more = merge_replies(outcomes)
    if context.loop.cause:
        unkillable = context.supervisor.unkillable
        return stopped_result(context.loop.cause, outcomes, {**more, "drivers": table}, unkillable=unkillable)
    failures = [outcome for outcome in outcomes if not outcome.ok]
    if failures:
        return Result({**more, **failure_result(failures), "drivers": table}, 1)
    return Result({"status": "ok", "reason": "success", **more, "drivers": table}, 0)
