"""The story of an adjust: query, route, then each driver concerned, one after another.

Rules (SPEC 7, 8, 10):
- Whatever speaks against it is found, and raised as a Fault, before any driver is adjusted.
- One adjust at a time in a servo directory; the lock is held until we and our guardian have ended.
- Each driver is one `drive` of its own; two are never alive at once.
"""

from __future__ import annotations

from servo_agg import report
from servo_agg.course import Course
from servo_agg.description import check_shape
from servo_agg.errors import BadEnvironment, BadInput, Busy, Misshapen, UnknownSettings, lack
from servo_agg.lifecycle import Limits
from servo_agg.operations import Answer, ask, ended, survivors
from servo_agg.phase import Job, Phase
from servo_agg.processes import load_psutil
from servo_agg.protocol import Progress, Reply, encode, parse
from servo_agg.routing import chosen, completed, route
from servo_agg.section import INSTALL
from servo_agg.threads import Bell, start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from servo_agg.operations import Asked, Run
    from servo_agg.protocol import Message
    from servo_agg.report import Outcome

    Object = dict[str, Any]

_LOCK_PATIENCE = 10.0
_LOCK_GLANCE = 0.05

_LOAD_PATIENCE = 5.0
"""Seconds that psutil may take to load after the query."""

_TURN = 0.001
"""Seconds of a wait in which signals are noticed."""


def read_request(given: bytes) -> Object:
    """Give the request that stdin held. Raises BadInput (SPEC 7.1)."""
    if not given or given.isspace():
        raise BadInput('the input is empty: an adjust reads {"application": {...}} from stdin')
    try:
        request = parse(given)
    except ValueError as error:
        raise BadInput(f"the input is malformed: {error}") from None
    if "application" not in request:
        raise BadInput('the input has no "application": an adjust reads {"application": {...}} from stdin')
    try:
        check_shape(request)
    except Misshapen as error:
        raise BadInput(f"the input is malformed: {error}") from None
    return request


def _import_psutil() -> Bell:
    """Import psutil while the drivers are queried: it takes as long. Returns what rings at its end."""
    done = Bell()

    def work() -> None:
        try:
            insist_on_psutil()
        except Exception:  # noqa: BLE001 - who needs it insists once more, and tells
            return
        finally:
            done.ring()

    start(work)
    return done


def _await(imported: Bell, run: Run) -> str | None:
    """Wait for psutil, which a file server may keep from us for ever; return what ends us meanwhile."""
    until = run.listener.now() + _LOAD_PATIENCE
    while not (imported.wait(_LOCK_GLANCE) or run.listener.cause or run.listener.now() >= until):
        run.listener.pause(_TURN)
    return run.listener.cause


def insist_on_psutil() -> None:
    """Import psutil while there are descriptors to do so. Raises BadEnvironment (SPEC 5)."""
    try:
        load_psutil()
    except Exception as error:  # noqa: BLE001 - without memory enough it fails in whatever way
        raise BadEnvironment(
            "an adjust needs the Python package psutil, to stop drivers with all their children."
            f" It is missing or broken ({lack(error) or error}); install it: {INSTALL}--upgrade psutil"
        ) from None


def requests_of(run: Run, asked: Asked, request: Object | None, choices: Sequence[str]) -> dict[str, Object]:
    """Give what each driver is to be given: `{driver: request}` (SPEC 7, 11, 14).

    `request` is the input of the adjust; when it is None, `choices` say it: see `chosen`.
    Raises BadInput, UnknownSettings or Conflict.
    """
    description, owners = asked.merged()
    if request is None:
        request = chosen(choices, description)
    requests = route(request, owners)
    wanting = {place for place, name in owners.items() if name in requests and name in run.config.complete}
    return route(completed(request, description, wanting), owners) if wanting else requests


def adjust(run: Run, application: str, given: bytes, choices: Sequence[str]) -> Answer:
    """Adjust: query, route, then each driver concerned, one after another (SPEC 7, 8).

    `choices`, from `--set`, stand for the input `given` where there are any (SPEC 14). Raises BadInput,
    UnknownSettings, Conflict, Busy or BadEnvironment before any driver is adjusted.
    """
    request = None if choices else read_request(given)
    config = run.config
    if not config.drivers:
        refuse_without_drivers(run, request, choices)
        return Answer({"status": "ok", "reason": "no-drivers"}, 0)
    _lock(run)
    if run.listener.cause:
        return ended(run.listener.cause)
    count = len(config.drivers)
    run.say({"progress": 0, "message": f"querying {count} driver{'s' if count > 1 else ''}"})
    imported = _import_psutil()
    asked = ask(run, application, run.listener.now())
    not_started = {name: {"status": "not-started"} for name in config.drivers}
    cause = asked.cause or _await(imported, run)
    if cause:
        return ended(cause, survivors(asked.outcomes), {"drivers": not_started})
    insist_on_psutil()
    if not run.guarded():
        raise BadEnvironment(
            "an adjust needs the guardian process, which stops the drivers if servo-agg is killed, but it"
            " has ended. Nothing was changed. Find out what kills processes here, such as a lack of memory"
        )
    if asked.failures:
        return Answer(
            {**report.failure(asked.failures), "drivers": report.drivers(asked.failures, not_started)}, 1
        )
    requests = requests_of(run, asked, request, choices)
    if not requests:
        return Answer({"status": "ok", "reason": "no-settings-to-adjust"}, 0)
    outcomes = _in_turn(run, application, requests)
    others = {name: {"status": "not-started" if name in requests else "skipped"} for name in config.drivers}
    return _conclude(run, outcomes, report.drivers(outcomes, others))


def _lock(run: Run) -> None:
    """Take the lock of the servo directory, waiting for another adjust a while (SPEC 10).

    Raises Busy, and BadEnvironment where there is nothing that we may lock. It is held until this process
    and its guardian have ended.
    """
    if not run.locks:
        raise BadEnvironment(
            f"neither {run.config.directory} nor its adjust.d may be opened, so that no lock can be taken"
            " against another adjust: let this user read one of them"
        )
    limit = run.config.limit
    patience = _LOCK_PATIENCE if limit is None else min(_LOCK_PATIENCE, limit)
    until = run.listener.now() + patience
    faults = [_lock_one(run, descriptor, until, patience) for descriptor in run.locks]
    if all(faults):
        run.note(f"no lock is taken: the file system of {run.config.directory} knows none ({faults[0]})")


def _lock_one(run: Run, descriptor: int, until: float, patience: float) -> str:
    """Lock one directory, unless we are to end; return why its file system cannot, "" when it can."""
    import fcntl  # noqa: PLC0415 - only an adjust takes the lock

    while not run.listener.cause:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if run.listener.now() >= until:
                raise Busy(
                    f"another adjust is running in {run.config.directory}; waited {patience:g} s for its end"
                ) from None
            run.listener.pause(_LOCK_GLANCE)
        except OSError as error:
            return error.strerror or "unknown"
        else:
            break
    return ""


def refuse_without_drivers(run: Run, request: Object | None, choices: Sequence[str]) -> None:
    """Raise UnknownSettings, naming the files passed over, if there are any settings to adjust (SPEC 2).

    `request` and `choices`: see `requests_of`.
    """
    try:
        route(chosen(choices, {}) if request is None else request, {})
    except UnknownSettings as error:
        names = ", ".join(run.config.passed_over)
        remedy = f"; chmod +x makes drivers of the files there: {names}" if names else ""
        raise UnknownSettings(
            f"{error}: there is no driver in {run.config.directory}/adjust.d{remedy}"
        ) from None


def _in_turn(run: Run, application: str, requests: Mapping[str, Object]) -> list[Outcome]:
    config, supervisor = run.config, run.supervisor
    course = Course(len(requests))

    def hear(name: str, messages: Sequence[Message]) -> None:
        run.say(
            *(
                course.advance(name, message.content)
                if isinstance(message, Progress)
                else course.line(name, "its output is malformed; stopping it")
                for message in messages
                if not isinstance(message, Reply)
            )
        )

    limits = Limits(
        grace=config.grace,
        short_grace=config.short_grace,
        cancel_grace=config.cancel_grace,
        silence=config.limit,
    )
    phase = Phase("adjust", limits, hear=hear)
    outcomes: list[Outcome] = []
    for name in config.drivers:
        if name not in requests:
            continue
        failed = any(not outcome.ok for outcome in outcomes)
        if run.listener.cause or supervisor.unkillable or (failed and config.on_failure == "stop"):
            break
        run.say(course.line(name, "starting"))
        # Encoded in its turn: all the inputs together can be many times what we were given.
        for outcome in supervisor.drive([Job(name, [application], encode(requests[name]))], phase):
            outcomes.append(outcome)
            course.end()
            run.say(course.line(name, "done" if outcome.ok else f"{outcome.status} ({outcome.reason})"))
    return outcomes


def _conclude(run: Run, outcomes: list[Outcome], table: Object) -> Answer:
    more = report.what_they_said(outcomes)
    if run.listener.cause:
        return ended(run.listener.cause, outcomes, {**more, "drivers": table})
    failures = [outcome for outcome in outcomes if not outcome.ok]
    if failures:
        return Answer({**more, **report.failure(failures), "drivers": table}, 1)
    return Answer({"status": "ok", "reason": "success", **more, "drivers": table}, 0)
