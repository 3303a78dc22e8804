"""The stories of version, info and query, and what they share with that of an adjust.

Rules (SPEC 5, 6):
- A story gives its Answer: the one final object (or, for the version, a line) and the exit status.
- What is the caller's or the operator's fault is raised as a Fault.
- Each is one `drive` of all drivers. What judges and merges their replies is imported where it is
  wanted, which is after they have been started.
"""

from __future__ import annotations

import os

from servo_agg import VERSION
from servo_agg.errors import Misshapen
from servo_agg.events import AGENT_GONE, CANCEL
from servo_agg.lifecycle import Limits
from servo_agg.phase import Job, Phase
from servo_agg.protocol import as_text, clip, clip_word
from servo_agg.signals import number_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, Callable

    from servo_agg.config import Config
    from servo_agg.description import Owners
    from servo_agg.listener import Listener
    from servo_agg.report import Outcome
    from servo_agg.supervisor import Supervisor

    Object = dict[str, Any]

INPUT_LIMIT = 16 << 20
"""Bytes of an adjust's input (SPEC 7.1)."""

ENDLESS = 1 << 30
"""Bytes after which stdin counts as endless and is read no further (SPEC 5)."""


class Answer:
    """The end of a run: the final object, or a text for people, and the exit status."""

    __slots__ = ("final", "status")

    def __init__(self, final: Object | str, status: int) -> None:
        self.final = final
        self.status = status


class Run:
    """What a story needs: the surroundings, who runs drivers, who hears, and ways to speak.

    say   sends objects to the agent, each as a line
    tell  says a line to whoever reads stderr
    note  says a line to a person who asked for details
    locks descriptors of the directories that an adjust must lock, in this order
    guarded  returns whether the guardian is there
    """

    def __init__(
        self,
        config: Config,
        supervisor: Supervisor,
        listener: Listener,
        *,
        started: float,
        say: Callable[..., None],
        tell: Callable[[str], None],
        note: Callable[[str], None],
        locks: Sequence[int],
        guarded: Callable[[], bool],
    ) -> None:
        """Take the surroundings; `started` is our own start, in the listener's time."""
        self.config = config
        self.supervisor = supervisor
        self.listener = listener
        self.started = started
        self.say = say
        self.tell = tell
        self.note = note
        self.locks = locks
        self.guarded = guarded
        for name, why in config.unreachable.items():
            tell(f"warning: adjust.d/{name} {why}")
        if not config.drivers:
            tell(f"warning: no driver in {config.directory}/adjust.d ({_passed_over(config)})")

    def together(self, name: str, since: float, **more: Any) -> Phase:
        """Give the phase `query` or `info` that began at `since` (SPEC 6, 9)."""
        config = self.config
        return Phase(
            name,
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


def _passed_over(config: Config) -> str:
    count, others = len(config.passed_over), len(config.leftovers) + len(config.documents)
    noexec = os.statvfs("adjust.d").f_flag & os.ST_NOEXEC
    right = ", since the file system is mounted noexec" if noexec else ""
    named = f", {_files(others)} because of the name" if others else ""
    remedy = "; chmod +x makes a file a driver" if count and not noexec else ""
    return (
        f"{_files(count)} passed over for lack of the executable flag, or of our right to use it{right}"
        f"{named}{remedy}"
    )


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def ended(cause: str, outcomes: Sequence[Outcome] = (), more: Object | None = None) -> Answer:
    """Give the answer of a run that a signal, a cancel or the agent's end has ended (SPEC 5, 10).

    `outcomes` are of the drivers that were adjusted, or of those that could not be killed in another phase;
    `more` is what else the final object is to hold.
    """
    from servo_agg import report

    said = "terminated"
    if cause == CANCEL:
        said, words = "canceled", "canceled by SIGUSR1; no further driver was started"
    elif cause == AGENT_GONE:
        words = "the agent has closed our output; no further driver was started"
    elif any(outcome.reason == "unkillable" for outcome in outcomes):
        words = f"ended by {cause}"
    else:
        words = f"ended by {cause}; all drivers were stopped"
    hurt = [outcome for outcome in outcomes if not outcome.ok]
    message = clip("\n".join([words, *([report.lines_of(hurt)] if hurt else [])]))
    final = {**(more or {}), "status": said, "reason": cause, "message": message}
    return Answer(final, exit_status(cause))


def survivors(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return the outcomes of drivers that could not be killed."""
    return [outcome for outcome in outcomes if outcome.reason == "unkillable"]


def exit_status(cause: str | None) -> int:
    """Give the exit status of a run that did not come to its own end (SPEC 5)."""
    return 1 if cause in (None, CANCEL, AGENT_GONE) else 128 + number_of(cause)


def _ask_info(run: Run, application: str | None) -> list[Outcome]:
    arguments = ["--info"] if application is None else ["--info", application]
    return run.supervisor.drive(
        [Job(name, arguments) for name in run.config.drivers],
        run.together("info", run.started, examine=examine_info),
    )


def _version_text(outcomes: Sequence[Outcome]) -> str:
    return f"aggregator {VERSION} ({', '.join(version_of(outcome) or 'unknown' for outcome in outcomes)})"


def version_of(outcome: Outcome) -> str:
    """Give the version that a driver told, on one line; empty when it told none."""
    said = as_text(outcome.reply.get("version")) if outcome.ok else ""
    return clip_word(" ".join(said.split()))


def version(run: Run, application: str | None) -> Answer:
    """Answer `--version`: a line of text, exit status 1 when a driver did not tell (SPEC 5)."""
    outcomes = _ask_info(run, application)
    if run.listener.cause:
        return ended(run.listener.cause, survivors(outcomes))
    failures = [outcome for outcome in outcomes if not outcome.ok]
    if failures:
        from servo_agg import report

        run.tell(report.lines_of(failures))
    return Answer(_version_text(outcomes), 1 if failures else 0)


def examine_info(outcome: Outcome) -> None:
    """Make a failure of an info without a version (SPEC 4)."""
    if not version_of(outcome):
        outcome.fail("malformed", "its answer has no version")


def info(run: Run, application: str | None) -> Answer:
    """Answer `--info`: exit status 0 even when a driver does not tell (SPEC 5)."""
    outcomes = _ask_info(run, application)
    if run.listener.cause:
        return ended(run.listener.cause, survivors(outcomes))
    table: Object = {}
    for outcome in outcomes:
        entry: Object = {
            "version": version_of(outcome) or "unknown",
            "has_cancel": outcome.ok and outcome.reply.get("has_cancel") is True,
        }
        if not outcome.ok:
            entry["message"] = clip(outcome.message)
        elif "drivers" in outcome.reply:
            entry["drivers"] = outcome.reply["drivers"]
        table[outcome.name] = entry
    return Answer({"version": _version_text(outcomes), "has_cancel": True, "drivers": table}, 0)


class Asked:
    """The end of a query: a failure's answer, or the merged description and the owners."""

    def __init__(self, outcomes: list[Outcome], cause: str | None) -> None:
        self.outcomes = outcomes
        self.cause = cause
        self.failures = [outcome for outcome in outcomes if not (outcome.ok or outcome.blameless)]

    def merged(self) -> tuple[Object, Owners]:
        """Give the merged description and the owners. Raises Conflict."""
        from servo_agg.description import merge

        return merge((outcome.name, outcome.reply) for outcome in self.outcomes)


def examine_query(outcome: Outcome) -> None:
    """Have the reply be a description, wrapped where it was not, or make a failure of it (SPEC 4)."""
    from servo_agg.description import describe

    try:
        outcome.reply = describe(outcome.reply)
    except Misshapen as error:
        outcome.fail("malformed", f"its answer is no description: {error}")


def ask(run: Run, application: str, since: float) -> Asked:
    """Query all drivers; their time counts from `since` (SPEC 6, 9)."""
    outcomes = run.supervisor.drive(
        [Job(name, ["--query", application]) for name in run.config.drivers],
        run.together("query", since, all_or_none=True, examine=examine_query),
    )
    return Asked(outcomes, run.listener.cause)


def query(run: Run, application: str) -> Answer:
    """Answer `--query`: all descriptions as one (SPEC 6). Raises Conflict."""
    asked = ask(run, application, run.started)
    if asked.cause:
        return ended(asked.cause, survivors(asked.outcomes))
    if asked.failures:
        from servo_agg import report

        return Answer(report.failure(asked.failures), 1)
    return Answer(asked.merged()[0], 0)
