"""The commands `--query`, `--info`, `--version`; the context and result of all commands (SPEC 5, 6)."""

from __future__ import annotations

import os

from servo_agg import VERSION
from servo_agg._compat import signal_number
from servo_agg.drivers.events import AGENT_GONE, CANCEL
from servo_agg.drivers.process import DriverCall
from servo_agg.drivers.run import PhaseOptions
from servo_agg.drivers.timeouts import timeouts_for
from servo_agg.errors import SchemaError
from servo_agg.protocol.messages import to_text, truncate, truncate_word
from servo_agg.protocol.outcome import driver_table, failure_lines, failure_result
from servo_agg.protocol.settings import merge_descriptions, normalize_description

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from servo_agg.config import Config
    from servo_agg.drivers.events import EventLoop
    from servo_agg.drivers.run import ChooseAction
    from servo_agg.drivers.supervisor import Supervisor
    from servo_agg.protocol.messages import Message
    from servo_agg.protocol.outcome import Outcome, Phase
    from servo_agg.protocol.settings import Owners

    Object = dict[str, Any]


class Result:
    """How a run ended.

    final     the final object, or a text for people
    status    the exit status
    failure   the `status`, `reason` and `message` of a failure for the log, if `final` does not have them
    commands  the commands in the message of `final`, in order
    """

    __slots__ = ("commands", "failure", "final", "status")

    def __init__(
        self,
        final: Object | str,
        status: int,
        failure: Object | None = None,
        commands: Sequence[str] = (),
    ) -> None:
        self.final = final
        self.status = status
        self.failure = failure
        self.commands = commands

    def summary(self) -> Object:
        """Return `status`, `reason` and `message` of the run; those of a success may be missing."""
        if self.failure is not None:
            return self.failure
        final = self.final if isinstance(self.final, dict) else {}
        return {key: final[key] for key in ("status", "reason", "message") if isinstance(final.get(key), str)}


class Context:
    """What a command works with.

    config          the configuration
    supervisor      runs drivers
    loop            waits for events, and knows why the run must end
    started         when this program started, on the clock of `loop`
    send            `send(*objects)` sends objects to the agent, one per line
    warn            `warn(line, *commands)` writes a line to stderr; `commands`: those in it, in order
    debug           `debug(line)` writes a line to stderr with `-v`
    locks           descriptors of what an adjust must lock, see `servo_agg.lock`
    watchdog_alive  `watchdog_alive()` returns whether the watchdog runs
    requested       the input of an adjust or plan, None if there is none. With `--set`, the names and values
                    are not matched with what is described until the query has ended
    """

    def __init__(
        self,
        config: Config,
        supervisor: Supervisor,
        loop: EventLoop,
        *,
        started: float,
        send: Callable[..., None],
        warn: Callable[..., None],
        debug: Callable[[str], None],
        locks: Sequence[int],
        watchdog_alive: Callable[[], bool],
    ) -> None:
        self.config = config
        self.supervisor = supervisor
        self.loop = loop
        self.started = started
        self.send = send
        self.warn = warn
        self.debug = debug
        self.locks = locks
        self.watchdog_alive = watchdog_alive
        self.requested: Object | None = None

    def phase_options(
        self,
        phase: Phase,
        now: float,
        *,
        checking: bool = False,
        fail_fast: bool = False,
        on_messages: Callable[[str, Sequence[Message]], None] | None = None,
        validate: Callable[[Outcome], None] | None = None,
        choose_action: ChooseAction | None = None,
    ) -> PhaseOptions:
        """Return how drivers are run in a phase that begins at `now` (SPEC 6.1, 7.18, 9.5, 9.7).

        `checking`: see `timeouts_for`. The others: see PhaseOptions.
        """
        config = self.config
        adjusting = phase == "adjust"
        return PhaseOptions(
            phase,
            timeouts_for(
                phase,
                now,
                limit=config.limit,
                short_grace=config.short_grace,
                grace=config.grace,
                cancel_grace=config.cancel_grace,
                checking=checking,
            ),
            max_parallel=1 if adjusting else config.parallel,
            serial=() if adjusting else config.serial,
            fail_fast=fail_fast,
            on_messages=on_messages,
            validate=validate,
            choose_action=choose_action,
        )


def warn_about_drivers(context: Context) -> None:
    """Warn of links in adjust.d that cannot be followed, and of an adjust.d without drivers (SPEC 2.11)."""
    config = context.config
    for name, reason in config.listing.unreachable.items():
        context.warn(f"warning: adjust.d/{name} {reason}")
    if not config.drivers:
        context.warn(f"warning: no driver in {config.directory}/adjust.d ({_why_no_driver(config)})")


def _why_no_driver(config: Config) -> str:
    listing = config.listing
    not_executable, named = len(listing.not_executable), len(listing.leftovers) + len(listing.documents)
    parts = []
    if not_executable:
        noexec = os.statvfs("adjust.d").f_flag & os.ST_NOEXEC
        cause = "the file system is mounted noexec" if noexec else "to make a script a driver: chmod +x FILE"
        parts.append(f"{_files(not_executable)} ignored, not executable; {cause}")
    if named:
        parts.append(f"{_files(named)} ignored because of {'its name' if named == 1 else 'their names'}")
    return "; ".join(parts) or "adjust.d is empty"


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def stopped_result(
    cause: str, outcomes: Sequence[Outcome] = (), more: Object | None = None, *, unkillable: bool = False
) -> Result:
    """Return the result of a run that was ended by a signal, a cancel or the end of the agent (SPEC 5, 10).

    `cause` is what `EventLoop.cause` says. `outcomes` are of the drivers that were run in the phase that was
    ended; the message names those that had not answered. `more` is added to the final object. `unkillable`:
    something else survived.
    """
    status = "terminated"
    if cause == CANCEL:
        status, summary, consequence = "canceled", "canceled by SIGUSR1", "no further driver was started"
    elif cause == AGENT_GONE:
        summary, consequence = "the agent has closed stdout", "no further driver was started"
    else:
        summary = f"terminated by {cause}"
        survived = unkillable or any(outcome.reason == "unkillable" for outcome in outcomes)
        stopped = "all drivers were stopped" if outcomes else "no driver was running"
        consequence = "" if survived else stopped
    pending = [_pending_text(outcome) for outcome in outcomes if outcome.stopped_for_other]
    # A driver that was stopped in a query has nothing to say; of an adjust it says what it has done.
    failures = [
        outcome
        for outcome in outcomes
        if not outcome.ok and not (outcome.stopped_for_other and outcome.facts.option)
    ]
    first_line = "; ".join(filter(None, [summary, *pending, consequence]))
    message = truncate("\n".join([first_line, *([failure_lines(failures)] if failures else [])]))
    final = {**(more or {}), "status": status, "reason": cause, "message": message}
    return Result(final, exit_status(cause))


def _pending_text(outcome: Outcome) -> str:
    name, facts = outcome.name, outcome.facts
    if facts.option:
        return f"{name} had not answered {facts.option} for {facts.seconds_before_stop:.1f} s"
    return f"{name} had not finished its adjust after {facts.seconds_before_stop:.1f} s"


def stopped_query_result(context: Context, cause: str, outcomes: Sequence[Outcome]) -> Result:
    """Return the result of a run that was ended while drivers were asked (SPEC 5.33, 10.41, 10.47).

    `outcomes` are of the drivers that were asked. In `drivers` of the final object a driver that had answered
    has the status `answered`, and one that was not asked `not-started`.
    """
    answered = {outcome.name: outcome.facts.seconds for outcome in outcomes if outcome.ok}
    others: Object = {
        name: (
            {"status": "answered", "seconds": round(answered[name], 3)}
            if name in answered
            else {"status": "not-started"}
        )
        for name in context.config.drivers
    }
    table = driver_table([outcome for outcome in outcomes if not outcome.ok], others)
    return stopped_result(cause, outcomes, {"drivers": table})


def exit_status(cause: str | None) -> int:
    """Return the exit status of a run that was ended by `cause`, None if stdout failed (SPEC 5.29)."""
    return 1 if cause in (None, CANCEL, AGENT_GONE) else 128 + signal_number(cause)


class QueryResult:
    """What a query of all drivers gave.

    outcomes  one for each driver that was started, in driver order
    cause     why the run must end, None if it is not
    failures  the outcomes of drivers that failed by themselves
    """

    def __init__(self, outcomes: list[Outcome], cause: str | None) -> None:
        self.outcomes = outcomes
        self.cause = cause
        self.failures = [outcome for outcome in outcomes if not (outcome.ok or outcome.stopped_for_other)]

    def merged(self) -> tuple[Object, Owners]:
        """Return the merged description, and which driver owns which setting. Raises Conflict."""
        return merge_descriptions((outcome.name, outcome.body) for outcome in self.outcomes)


def query_drivers(context: Context, application: str, now: float) -> QueryResult:
    """Query all drivers; their time counts from `now` (SPEC 6.1, 9.7)."""
    outcomes = context.supervisor.run(
        [DriverCall(name, ["--query", application]) for name in context.config.drivers],
        context.phase_options("query", now, fail_fast=True, validate=check_description),
    )
    return QueryResult(outcomes, context.loop.cause)


def check_description(outcome: Outcome) -> None:
    """Fail an outcome whose reply is not a description; wrap a reply without `application` (SPEC 4.11)."""
    try:
        outcome.body = normalize_description(outcome.body)
    except SchemaError as error:
        outcome.fail("malformed", f"its reply is not a description: {error}")


def query(context: Context, application: str) -> Result:
    """Return all descriptions as one (SPEC 6.3-6.5). Raises Conflict."""
    queried = query_drivers(context, application, context.started)
    if queried.cause:
        return stopped_query_result(context, queried.cause, queried.outcomes)
    if queried.failures:
        return Result(failure_result(queried.failures), 1)
    return Result(queried.merged()[0], 0)


def info(context: Context, application: str | None) -> Result:
    """Return what the drivers are; the exit status is 0 even if some of them fail (SPEC 5.11)."""
    outcomes = _run_info(context, application)
    if context.loop.cause:
        return stopped_query_result(context, context.loop.cause, outcomes)
    drivers: Object = {}
    for outcome in outcomes:
        entry: Object = {
            "version": version_of(outcome) or "unknown",
            "has_cancel": outcome.ok and outcome.body.get("has_cancel") is True,
        }
        if not outcome.ok:
            entry["message"] = truncate(outcome.message)
        elif "drivers" in outcome.body:
            entry["drivers"] = outcome.body["drivers"]
        drivers[outcome.name] = entry
    return Result({"version": version_line(outcomes), "has_cancel": True, "drivers": drivers}, 0)


def version(context: Context, application: str | None) -> Result:
    """Return a line of text with all versions; the exit status is 1 if a driver fails (SPEC 5.6)."""
    outcomes = _run_info(context, application)
    if context.loop.cause:
        return stopped_query_result(context, context.loop.cause, outcomes)
    failures = [outcome for outcome in outcomes if not outcome.ok]
    if failures:
        context.warn(failure_lines(failures))
        return Result(version_line(outcomes), 1, failure_result(failures))
    return Result(version_line(outcomes), 0)


def _run_info(context: Context, application: str | None) -> list[Outcome]:
    arguments = ["--info"] if application is None else ["--info", application]
    return context.supervisor.run(
        [DriverCall(name, arguments) for name in context.config.drivers],
        context.phase_options("info", context.started, validate=check_info),
    )


def check_info(outcome: Outcome) -> None:
    """Fail an outcome whose reply has no version (SPEC 4.14)."""
    if not version_of(outcome):
        outcome.fail("malformed", "its reply has no version")


def version_of(outcome: Outcome) -> str:
    """Return the version in a driver's reply, on one line; "" if there is none."""
    text = to_text(outcome.body.get("version")) if outcome.ok else ""
    return truncate_word(" ".join(text.split()))


def version_line(outcomes: Sequence[Outcome]) -> str:
    """Return the version of this program with those of the drivers (SPEC 5.5)."""
    return f"aggregator {VERSION} ({', '.join(version_of(outcome) or 'unknown' for outcome in outcomes)})"
