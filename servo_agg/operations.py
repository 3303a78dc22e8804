"""The stories: version, info, query, adjust. Each is short, over `drive` and `say`.

Rules (SPEC 5, 6, 7, 8):
- A story gives its Answer: the one final object (or, for the version, a line) and the exit status.
- What is the caller's fault is raised as a Fault, before any driver is adjusted.
- A query is one `drive` of all drivers, an adjust besides one for each that has settings, in order.
"""

from __future__ import annotations

import signal

from servo_agg import VERSION, report
from servo_agg.config import INSTALL, Config
from servo_agg.description import check_shape, describe, merge, route
from servo_agg.errors import BadEnvironment, BadInput, Busy, Misshapen, UnknownSettings
from servo_agg.events import AGENT_GONE, CANCEL
from servo_agg.lifecycle import Limits
from servo_agg.protocol import Malformed, Progress, as_text, clip, encode, parse
from servo_agg.running import Job, Phase

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Callable

    from servo_agg.description import Owners
    from servo_agg.protocol import Message
    from servo_agg.report import Outcome
    from servo_agg.supervisor import Supervisor

    Object = dict[str, Any]

INPUT_LIMIT = 16 << 20
"""Bytes of an adjust's input (SPEC 7.1)."""


_LOCK_PATIENCE = 10.0
_LOCK_GLANCE = 0.05


class Answer:
    """The end of a run: what goes to stdout, and the exit status."""

    __slots__ = ("status", "text")

    def __init__(self, final: Object | str, status: int) -> None:
        self.text = (
            encode(final) if isinstance(final, dict) else final.encode("ascii", "backslashreplace") + b"\n"
        )
        self.status = status


class Run:
    """What a story needs: the surroundings, the supervisor, and ways to speak.

    say   sends an object to the agent
    tell  says a line to whoever reads stderr
    note  says a line to a person who asked for details
    lock  a descriptor of the servo directory on which to lock it; None if there is none
    """

    def __init__(
        self,
        config: Config,
        supervisor: Supervisor,
        *,
        started: float,
        say: Callable[[Object], None],
        tell: Callable[[str], None],
        note: Callable[[str], None],
        lock: int | None,
    ) -> None:
        """Take the surroundings; `started` is our own start, in the supervisor's time."""
        self.config = config
        self.supervisor = supervisor
        self.started = started
        self.say = say
        self.tell = tell
        self.note = note
        self.lock = lock
        if not config.drivers:
            without = len(config.passed_over)
            tell(f"warning: no driver in {config.directory}/adjust.d ({_passed_over(without)})")

    def together(self, since: float, **more: Any) -> Phase:
        """Give the phase of a query or info that began at `since` (SPEC 6, 9)."""
        config = self.config
        return Phase(
            Limits(
                grace=config.short_grace,
                short_grace=config.short_grace,
                until=None if config.limit is None else since + config.limit,
                allowance=config.limit,
            ),
            together=config.parallel,
            apart=config.serial,
            **more,
        )


def _passed_over(count: int) -> str:
    files = "1 file" if count == 1 else f"{count} files"
    return f"{files} passed over for lack of the executable flag"


def ended(cause: str, more: Object | None = None) -> Answer:
    """Give the answer of a run that a signal or the agent's end has ended (SPEC 5, 10).

    `more`: what else the final object is to hold.
    """
    said, status = "terminated", 1
    if cause == CANCEL:
        said, words = "canceled", "canceled by SIGUSR1; no further driver was started"
    elif cause == AGENT_GONE:
        words = "the agent has closed our output; all drivers were stopped"
    else:
        words, status = f"ended by {cause}; all drivers were stopped", 128 + signal.Signals[cause]
    return Answer({**(more or {}), "status": said, "reason": cause, "message": words}, status)


def _ask_info(run: Run, application: str | None) -> list[Outcome]:
    arguments = ["--info"] if application is None else ["--info", application]
    return run.supervisor.drive(
        [Job(name, arguments) for name in run.config.drivers],
        run.together(run.started, examine=_examine_info),
    )


def _version_text(outcomes: Sequence[Outcome]) -> str:
    return f"aggregator {VERSION} ({', '.join(_version_of(outcome) or 'unknown' for outcome in outcomes)})"


def _version_of(outcome: Outcome) -> str:
    """Give the version that a driver told, on one line; empty when it told none."""
    said = as_text(outcome.reply.get("version")) if outcome.ok else ""
    return " ".join(said.split())


def version(run: Run) -> Answer:
    """Answer `--version`: a line of text, exit status 1 when a driver did not tell (SPEC 5)."""
    outcomes = _ask_info(run, None)
    if run.supervisor.cause:
        return ended(run.supervisor.cause)
    failures = [outcome for outcome in outcomes if not outcome.ok]
    if failures:
        run.tell(report.lines_of(failures))
    return Answer(_version_text(outcomes), 1 if failures else 0)


def _examine_info(outcome: Outcome) -> None:
    if not _version_of(outcome):
        outcome.fail("malformed", "its answer to --info has no version")


def info(run: Run, application: str | None) -> Answer:
    """Answer `--info`: exit status 0 even when a driver does not tell (SPEC 5)."""
    outcomes = _ask_info(run, application)
    if run.supervisor.cause:
        return ended(run.supervisor.cause)
    table: Object = {}
    for outcome in outcomes:
        entry: Object = {
            "version": _version_of(outcome) or "unknown",
            "has_cancel": outcome.ok and outcome.reply.get("has_cancel") is True,
        }
        if not outcome.ok:
            entry["message"] = clip(outcome.message)
        elif "drivers" in outcome.reply:
            entry["drivers"] = outcome.reply["drivers"]
        table[outcome.name] = entry
    return Answer({"version": _version_text(outcomes), "has_cancel": True, "drivers": table}, 0)


class _Asked:
    """The end of a query: a failure's answer, or the merged description and the owners."""

    def __init__(self, outcomes: list[Outcome], cause: str | None) -> None:
        self.outcomes = outcomes
        self.cause = cause
        self.failures = [outcome for outcome in outcomes if not (outcome.ok or outcome.blameless)]

    def merged(self) -> tuple[Object, Owners]:
        """Give the merged description and the owners. Raises Conflict."""
        return merge((outcome.name, describe(outcome.reply)) for outcome in self.outcomes)


def _examine(outcome: Outcome) -> None:
    try:
        describe(outcome.reply)
    except Misshapen as error:
        outcome.fail("malformed", f"its answer to --query is no description: {error}")


def _ask(run: Run, application: str, since: float) -> _Asked:
    outcomes = run.supervisor.drive(
        [Job(name, ["--query", application]) for name in run.config.drivers],
        run.together(since, all_or_none=True, examine=_examine),
    )
    return _Asked(outcomes, run.supervisor.cause)


def query(run: Run, application: str) -> Answer:
    """Answer `--query`: all descriptions as one (SPEC 6). Raises Conflict."""
    asked = _ask(run, application, run.started)
    if asked.cause:
        return ended(asked.cause)
    if asked.failures:
        return Answer(report.failure(asked.failures), 1)
    return Answer(asked.merged()[0], 0)


def read_request(given: bytes | None) -> Object:
    """Give the request that stdin held, None having been too much. Raises BadInput (SPEC 7.1)."""
    if given is None:
        raise BadInput("the input is longer than 16 MiB")
    if not given or given.isspace():
        raise BadInput('the input is empty: an adjust reads {"application": {...}} from stdin')
    try:
        request = parse(given)
    except ValueError as error:
        raise BadInput(f"the input is not one JSON object: {error}") from None
    if "application" not in request:
        raise BadInput('the input has no "application"')
    try:
        check_shape(request)
    except Misshapen as error:
        raise BadInput(f"the input is wrong: {error}") from None
    return request


def insist_on_psutil() -> None:
    """Import psutil while there are descriptors to do so. Raises BadEnvironment (SPEC 5)."""
    try:
        import psutil  # noqa: F401, PLC0415 - 14 ms that a query is spared
    except ImportError:
        raise BadEnvironment(
            "an adjust needs the Python package psutil, to stop drivers with all their children."
            f" Install it: {INSTALL}psutil"
        ) from None


def adjust(run: Run, application: str, given: bytes | None) -> Answer:
    """Adjust: query, route, then each driver concerned, one after another (SPEC 7, 8).

    Raises BadInput, UnknownSettings, Conflict, Busy or BadEnvironment before any driver is adjusted.
    """
    request = read_request(given)
    insist_on_psutil()
    config = run.config
    if not config.drivers:
        return _without_drivers(run, request)
    _lock(run)
    if run.supervisor.cause:
        return ended(run.supervisor.cause)
    count = len(config.drivers)
    run.say({"progress": 0, "message": f"querying {count} driver{'s' if count > 1 else ''}"})
    asked = _ask(run, application, run.supervisor.now())
    not_started = {name: {"status": "not-started"} for name in config.drivers}
    if asked.cause:
        return ended(asked.cause, {"drivers": not_started})
    if asked.failures:
        return Answer(
            {**report.failure(asked.failures), "drivers": report.drivers(asked.failures, not_started)}, 1
        )
    requests = route(request, asked.merged()[1])
    if not requests:
        return Answer({"status": "ok", "reason": "no-settings-to-adjust"}, 0)
    jobs = [Job(name, [application], encode(requests[name])) for name in config.drivers if name in requests]
    outcomes = _in_turn(run, jobs)
    others = {name: {"status": "not-started" if name in requests else "skipped"} for name in config.drivers}
    return _conclude(run, outcomes, report.drivers(outcomes, others))


def _lock(run: Run) -> None:
    """Take the lock of the servo directory, waiting for another adjust a while (SPEC 10).

    Raises Busy. It is held until this process and its guardian have ended.
    """
    import fcntl  # noqa: PLC0415 - only an adjust takes the lock

    limit = run.config.limit
    patience = _LOCK_PATIENCE if limit is None else min(_LOCK_PATIENCE, limit)
    until = run.supervisor.now() + patience
    while run.lock is not None and not run.supervisor.cause:
        try:
            fcntl.flock(run.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if run.supervisor.now() >= until:
                raise Busy(
                    f"another adjust is running in {run.config.directory}; waited {patience:g} s for its end"
                ) from None
            run.supervisor.pause(_LOCK_GLANCE)
        except OSError as error:
            run.note(
                f"no lock is taken: the file system of {run.config.directory} knows none ({error.strerror})"
            )
            return
        else:
            return


def _without_drivers(run: Run, request: Object) -> Answer:
    try:
        route(request, {})
    except UnknownSettings as error:
        names = ", ".join(run.config.passed_over) or "none"
        raise UnknownSettings(
            f"{error}: there is no driver in {run.config.directory}/adjust.d"
            f" (files without the executable flag: {names})"
        ) from None
    return Answer({"status": "ok", "reason": "no-drivers"}, 0)


def _in_turn(run: Run, jobs: Sequence[Job]) -> list[Outcome]:
    config, supervisor = run.config, run.supervisor
    course = report.Course(len(jobs))

    def hear(name: str, message: Message) -> None:
        if isinstance(message, Progress):
            run.say(course.advance(name, message.content))
        elif isinstance(message, Malformed):
            run.say(course.line(name, "its output is malformed; stopping it"))

    limit = config.limit
    limits = Limits(
        # Whoever is stopped for malformed output was just heard of; so are we, if that ends in time.
        grace=config.grace if limit is None else min(config.grace, limit),
        short_grace=config.short_grace,
        cancel_grace=config.cancel_grace,
        silence=limit,
    )
    phase = Phase(limits, adjusting=True, hear=hear)
    outcomes: list[Outcome] = []
    for job in jobs:
        failed = any(not outcome.ok for outcome in outcomes)
        if supervisor.cause or supervisor.unkillable or (failed and config.on_failure == "stop"):
            break
        run.say(course.line(job.name, "starting"))
        for outcome in supervisor.drive([job], phase):
            outcomes.append(outcome)
            course.end()
            run.say(course.line(job.name, "done" if outcome.ok else f"{outcome.status} ({outcome.reason})"))
    return outcomes


def _conclude(run: Run, outcomes: list[Outcome], table: Object) -> Answer:
    more = report.what_they_said(outcomes)
    if run.supervisor.cause:
        return ended(run.supervisor.cause, {**more, "drivers": table})
    failures = [outcome for outcome in outcomes if not outcome.ok]
    if failures:
        return Answer({**more, **report.failure(failures), "drivers": table}, 1)
    return Answer({"status": "ok", "reason": "success", **more, "drivers": table}, 0)
