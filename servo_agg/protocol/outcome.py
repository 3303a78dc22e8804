"""The verdict on one driver, and the final object for all of them.

Rules (SPEC 4, 7.22-7.29, 13):
- A driver has succeeded when it exited with status 0 and its reply says so. Every other end is a failure with
  a status, a reason and a message.
- A failure never has the status `ok`, and its reason is never null.
- Of several failures, `rejected` decides before `aborted`, and that before the first in driver order.
"""

from __future__ import annotations

from servo_agg.protocol.messages import json_type, to_text, truncate, truncate_word
from servo_agg.protocol.settings import deep_merge, without_driver_keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Literal

    from servo_agg.protocol.messages import JsonObject, Reply

    # Failures that we detect, in spite of any reply; each is the `reason` of its outcome (SPEC 13.5).
    Failure = Literal["timeout", "malformed", "cannot-start", "unkillable"]
    Phase = Literal["info", "query", "adjust"]


class RunFacts:
    """What is known of a driver run that has ended.

    exit_code     exit status; None if it was killed by a signal or never ran
    killed_by     name of the signal that killed it, else None
    failure       the failure that we detected, else None
    failure_text  what happened, which follows the driver's name in a sentence
    stop_cause    why we stopped it through no fault of its own: the name of the signal that ends us,
                  `agent-gone`, `failure` for that of another driver, or `requested` by a test; else None
    seconds       from its start to its end
    seconds_before_stop  from its start until we began to stop it, 0 if it was not stopped
    signals_sent  names of the signals that we sent it, each once, without the SIGCONT that follows a SIGTERM
    stderr        the part of its stderr that belongs in the message
    option        the option that it was called with (`--query`, `--info`); "" in an adjust
    hint          what else may explain a failure; "" if nothing
    """

    __slots__ = (
        "exit_code",
        "failure",
        "failure_text",
        "hint",
        "killed_by",
        "option",
        "seconds",
        "seconds_before_stop",
        "signals_sent",
        "stderr",
        "stop_cause",
    )

    def __init__(self) -> None:
        self.exit_code: int | None = None
        self.killed_by: str | None = None
        self.failure: Failure | None = None
        self.failure_text = ""
        self.stop_cause: str | None = None
        self.seconds = 0.0
        self.seconds_before_stop = 0.0
        self.signals_sent: list[str] = []
        self.stderr = ""
        self.option = ""
        self.hint = ""

    def add_signal(self, name: str) -> None:
        """Record a signal that we sent to the driver."""
        if name not in self.signals_sent:
            self.signals_sent.append(name)


class Outcome:
    """The verdict on one driver (SPEC 4.15-4.19).

    name     the driver
    ok       whether it succeeded
    status, reason, message  as in the final object
    body     the object that it replied, {} without a reply; after a query its description
    facts    what the verdict is based on
    """

    __slots__ = ("body", "facts", "message", "name", "ok", "reason", "status")

    def __init__(self, name: str, reply: Reply | None, facts: RunFacts, *, adjusting: bool) -> None:
        """Judge a run. When `adjusting`, a reply must have a status to succeed."""
        self.name = name
        self.body: JsonObject = {} if reply is None else reply.body
        self.facts = facts
        if reply is not None and _has_succeeded(reply, facts, adjusting=adjusting):
            self.ok = True
            self.status = "ok"
            self.reason = truncate_word(reply.reason) or "success"
            self.message = reply.message
            return
        self.ok = False
        failed_status = _failed_status(reply)
        self.status = truncate_word(failed_status) if failed_status and facts.failure is None else "failed"
        self.reason = truncate_word(self._failure_reason(reply, failed_status))
        self.message = self._format_message(self._facts_in_words(reply, adjusting=adjusting))

    @property
    def stopped_for_other(self) -> bool:
        """Whether it failed only because we stopped it through no fault of its own (SPEC 6.8)."""
        return not self.ok and self.facts.stop_cause is not None and self.facts.failure is None

    def fail(self, reason: Failure, failure_text: str) -> None:
        """Turn a success into a failure: the content of the reply is wrong."""
        self.ok = False
        self.status = "failed"
        self.reason = reason
        self.message = self._format_message([failure_text])

    def _failure_reason(self, reply: Reply | None, failed_status: str) -> str:
        facts = self.facts
        if facts.failure is not None:
            return facts.failure
        reason = self.body.get("reason")
        # The reason in a reply that says "ok" would explain a success, not this failure.
        if isinstance(reason, str) and reason.strip() and (failed_status or "status" not in self.body):
            return reason
        if facts.killed_by is not None:
            return "signal"
        if facts.exit_code != 0:
            return "exit-status"
        return "no-reply" if reply is None else "unknown"

    def _facts_in_words(self, reply: Reply | None, *, adjusting: bool) -> list[str]:
        facts = self.facts
        if facts.failure is not None:
            return [facts.failure_text]
        words = []
        replied_ok = "replied ok but " if reply is not None and reply.status == "ok" else ""
        if facts.stop_cause is not None:
            words.append("was stopped")
            if facts.killed_by == "SIGKILL":
                words.append("did not exit after SIGTERM and was killed by SIGKILL")
        elif facts.killed_by is not None:
            words.append(f"{replied_ok}was killed by {facts.killed_by}")
        elif facts.exit_code:
            words.append(f"{replied_ok}exited with status {facts.exit_code}")
        if reply is None:
            words.append("gave no reply")
        elif "status" not in reply.body:
            words += ["its reply has no status"] if adjusting else []
        elif reply.status is None:
            words.append(f'the "status" in its reply must be a string, got {json_type(reply.body["status"])}')
        elif reply.status != "ok" and _resembles_ok(reply.status):
            words.append(f'the "status" in its reply must be "ok", got {reply.status!r}')
        return [*words, facts.hint] if facts.hint else words

    def _format_message(self, words: list[str]) -> str:
        """Return the driver's own message, then what we know, then its stderr."""
        facts = self.facts
        own = (to_text(self.body.get("message")) or to_text(self.body.get("error"))).strip()
        known = ", ".join(words) or ("" if own else "failed without a message")
        known = ": ".join(part for part in (facts.option and f"on {facts.option}", known) if part)
        sentence = f"{own} ({known})" if own and known else own or known
        return f"{sentence}; stderr: {facts.stderr}" if facts.stderr else sentence


def _has_succeeded(reply: Reply, facts: RunFacts, *, adjusting: bool) -> bool:
    if facts.failure is not None or facts.exit_code != 0:
        return False
    return reply.status == "ok" or ("status" not in reply.body and not adjusting)


def _failed_status(reply: Reply | None) -> str:
    """Return the status of a reply that says that the driver failed; "" if it does not say so."""
    if reply is None or reply.status is None or _resembles_ok(reply.status):
        return ""
    return reply.status


def _resembles_ok(status: str) -> bool:
    """Return whether a failure with this status would look like a success: "ok" in any case, or blank."""
    return status.strip().lower() in ("", "ok")


class PhaseRecord:
    """One phase of one driver.

    driver   its name
    phase    what it was run for
    start    seconds from the start of our run to its start
    seconds  from its start to its end
    status, reason, message  as in SPEC 7.23
    exit     its exit status, the name of the signal that killed it, None if it did not run
    signals_sent    see RunFacts
    """

    __slots__ = (
        "driver",
        "exit",
        "message",
        "phase",
        "reason",
        "seconds",
        "signals_sent",
        "start",
        "status",
    )

    def __init__(self, phase: Phase, start: float, outcome: Outcome) -> None:
        self.driver = outcome.name
        self.phase = phase
        # Rounded as in the log, so that the timings and the log show the same.
        self.start = round(start, 3)
        self.seconds = round(outcome.facts.seconds, 3)
        self.status = outcome.status
        self.reason = outcome.reason
        self.message = outcome.message
        facts = outcome.facts
        self.exit: int | str | None = facts.exit_code if facts.killed_by is None else facts.killed_by
        self.signals_sent = facts.signals_sent


def failure_lines(failures: Sequence[Outcome]) -> str:
    """Return a line `NAME: STATUS: MESSAGE` for each failure, all with the same limit (SPEC 7.27)."""
    lines = (f"{outcome.name}: {outcome.status}: {outcome.message}" for outcome in failures)
    # One share more than there are lines: the newlines between them count too.
    shares = 1 if len(failures) == 1 else len(failures) + 1
    return "\n".join(truncate(line, shares) for line in lines)


def failure_result(failures: Sequence[Outcome]) -> JsonObject:
    """Return the final object for one or more failures in driver order (SPEC 7.25-7.27)."""
    decisive = failures[0]
    for status in ("aborted", "rejected"):
        decisive = next((outcome for outcome in failures if outcome.status == status), decisive)
    return {
        "status": decisive.status,
        "reason": decisive.reason,
        "message": truncate(failure_lines(failures)),
    }


def driver_table(outcomes: Sequence[Outcome], without_outcome: Mapping[str, JsonObject]) -> JsonObject:
    """Return the object `drivers` of the final object of an adjust (SPEC 7.23, 7.28).

    `without_outcome` has every driver in driver order, with its entry for the case that it has no outcome.
    """
    table: JsonObject = dict(without_outcome)
    for outcome in outcomes:
        entry: JsonObject = {
            "status": outcome.status,
            "reason": outcome.reason,
            "seconds": round(outcome.facts.seconds, 3),
        }
        if not outcome.ok:
            # All of them together must fit into a line that an aggregator around us accepts.
            entry["message"] = truncate(outcome.message, len(outcomes))
        if "drivers" in outcome.body:
            entry["drivers"] = outcome.body["drivers"]
        table[outcome.name] = entry
    return table


def merge_replies(outcomes: Iterable[Outcome]) -> JsonObject:
    """Merge the replies, without the keys that are about the drivers themselves (SPEC 7.24, 7.29)."""
    return deep_merge(without_driver_keys(outcome.body) for outcome in outcomes)
