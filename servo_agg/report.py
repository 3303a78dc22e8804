"""What became of one driver, and what we say of all of them. Pure.

Rules (SPEC 4, 7.8, 7.9, 13):
- A driver has succeeded when it exited 0 and its reply says so; every other end is a failure with a
  status, a reason and a sentence.
- A failed driver never counts as `ok`, and its reason is never null.
- Of several failures, `rejected` outranks `aborted` outranks the first in driver order.
"""

from __future__ import annotations

from servo_agg.description import united, without_own
from servo_agg.protocol import as_text, clip, clip_word, kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Object = dict[str, Any]


class Ending:
    """The facts of a driver's end, as the supervisor saw them.

    code     exit status, None if it died of a signal or never ran
    signal   name of the signal that killed it, None otherwise
    trouble  a reason of ours (`timeout`, `malformed`, `cannot-start`, `unkillable`), None otherwise
    words    what the trouble was, as the end of a sentence that begins with the driver's name
    stopped  name of the signal that ended us, or `failure` when another driver's failure ended it:
             then its end is no fault of its own
    seconds  from its start to its end
    signals  names of those that we sent it, each once; SIGCONT, which goes with each SIGTERM, aside
    stderr   what it wrote there and is to be shown, bounded
    asked    the word by which it was asked (`--query`, `--info`), empty when it was adjusted
    hint     what else is known of the cause, empty if nothing is
    """

    __slots__ = (
        "asked",
        "code",
        "hint",
        "seconds",
        "signal",
        "signals",
        "stderr",
        "stopped",
        "trouble",
        "words",
    )

    def __init__(self) -> None:
        self.code: int | None = None
        self.signal: str | None = None
        self.trouble: str | None = None
        self.words = ""
        self.stopped: str | None = None
        self.seconds = 0.0
        self.signals: list[str] = []
        self.stderr = ""
        self.asked = ""
        self.hint = ""

    def sent(self, name: str) -> None:
        """Take in that we sent it a signal."""
        if name not in self.signals:
            self.signals.append(name)


class Outcome:
    """What became of one driver: `status` and `reason` are texts, `ok` is the verdict (SPEC 4)."""

    __slots__ = ("ending", "message", "name", "ok", "reason", "reply", "status")

    def __init__(self, name: str, reply: Object | None, ending: Ending, *, adjusting: bool) -> None:
        """Judge; when `adjusting`, the reply must say `"status":"ok"`, else it need not."""
        self.name = name
        self.reply: Object = reply or {}
        self.ending = ending
        said = self.reply.get("status", None if adjusting else "ok")
        self.ok = ending.trouble is None and ending.code == 0 and reply is not None and said == "ok"
        if self.ok:
            self.status = "ok"
            self.reason = clip_word(as_text(self.reply.get("reason"))) or "success"
            self.message = as_text(self.reply.get("message"))
            return
        failure = said if isinstance(said, str) and not _nearly_ok(said) else ""
        self.status = clip_word(failure) if failure and ending.trouble is None else "failed"
        self.reason = clip_word(self._reason(reply, failure))
        self.message = self._sentence(reply, said)

    @property
    def blameless(self) -> bool:
        """Whether it did not succeed only because it was stopped for another's sake (SPEC 6)."""
        return not self.ok and self.ending.stopped is not None and self.ending.trouble is None

    def fail(self, reason: str, words: str) -> None:
        """Turn a success into a failure that only showed when the reply was looked into."""
        self.ok = False
        self.status = "failed"
        self.reason = reason
        self.message = self._told([words])

    def _reason(self, reply: Object | None, failure: str) -> str:
        ending = self.ending
        if ending.trouble is not None:
            return ending.trouble
        own = (reply or {}).get("reason")
        # The reason of a reply that says "ok" explains a success that did not happen.
        if isinstance(own, str) and own.strip() and (failure or "status" not in (reply or {})):
            return own
        if ending.signal is not None:
            return "signal"
        if ending.code != 0:
            return "exit-status"
        return "no-reply" if reply is None else "unknown"

    def _sentence(self, reply: Object | None, said: object) -> str:
        ending = self.ending
        facts = [ending.words] if ending.trouble is not None else []
        if ending.trouble is None:
            if ending.stopped is not None:
                facts.append("was stopped")
                if ending.signal == "SIGKILL":
                    facts.append("did not end on SIGTERM and was killed by SIGKILL")
            elif ending.signal is not None:
                facts.append(f"killed by {ending.signal}")
            elif ending.code:
                facts.append(f"exited with status {ending.code}")
            if reply is None:
                facts.append("gave no reply")
            elif "status" not in reply and said is None:
                facts.append("its reply has no status")
            elif not isinstance(said, str):
                facts.append(f"the status in its reply is {kind(said)}, not a text")
            elif said != "ok" and _nearly_ok(said):
                facts.append(f'the status in its reply is {said!r}, not "ok"')
            facts += [ending.hint] if ending.hint else []
        return self._told(facts)

    def _told(self, facts: list[str]) -> str:
        """Give the driver's own words, then what we know, then its stderr."""
        ending = self.ending
        own = (as_text(self.reply.get("message")) or as_text(self.reply.get("error"))).strip()
        known = ", ".join(facts) or ("" if own else "gave no message")
        known = ": ".join(part for part in (ending.asked and f"on {ending.asked}", known) if part)
        sentence = f"{own} ({known})" if own and known else own or known
        return f"{sentence}; stderr: {ending.stderr}" if ending.stderr else sentence


def _nearly_ok(status: str) -> bool:
    """Tell whether a status is "ok", or a blank or miswritten one that would mislead a reader."""
    return status.strip().lower() in ("", "ok")


class Record:
    """One phase of one driver.

    driver   its name
    phase    `info`, `query` or `adjust`
    start    seconds from the begin of the run to its start
    seconds  from its start to its end
    status, reason   as in SPEC 7.8
    signals  names of those that we sent it
    """

    __slots__ = ("driver", "phase", "reason", "seconds", "signals", "start", "status")

    def __init__(self, phase: str, start: float, outcome: Outcome) -> None:
        self.driver = outcome.name
        self.phase = phase
        # As precise as the log has it, so that nothing differs from it.
        self.start = round(start, 3)
        self.seconds = round(outcome.ending.seconds, 3)
        self.status = outcome.status
        self.reason = outcome.reason
        self.signals = outcome.ending.signals


def lines_of(failures: Sequence[Outcome]) -> str:
    """Give a line `NAME: STATUS: MESSAGE` for each failure; none is cut for another's length (SPEC 7.9)."""
    lines = (f"{outcome.name}: {outcome.status}: {outcome.message}" for outcome in failures)
    # One share more than there are lines: what joins them counts too.
    shares = 1 if len(failures) == 1 else len(failures) + 1
    return "\n".join(clip(line, shares) for line in lines)


def failure(failures: Sequence[Outcome]) -> Object:
    """Give the final object for failures in driver order, at least one (SPEC 7.9)."""
    decisive = failures[0]
    for status in ("aborted", "rejected"):
        decisive = next((outcome for outcome in failures if outcome.status == status), decisive)
    return {"status": decisive.status, "reason": decisive.reason, "message": clip(lines_of(failures))}


def drivers(outcomes: Sequence[Outcome], others: Object) -> Object:
    """Give the object `drivers` of an adjust's answer (SPEC 7.8).

    `others` has every driver in driver order, with what is said of it unless there is an outcome.
    """
    table: Object = dict(others)
    for outcome in outcomes:
        entry: Object = {
            "status": outcome.status,
            "reason": outcome.reason,
            "seconds": round(outcome.ending.seconds, 3),
        }
        if not outcome.ok:
            # All of them together must fit into a line that an aggregator around us accepts.
            entry["message"] = clip(outcome.message, len(outcomes))
        if "drivers" in outcome.reply:
            entry["drivers"] = outcome.reply["drivers"]
        table[outcome.name] = entry
    return table


def what_they_said(outcomes: Sequence[Outcome]) -> Object:
    """Merge what the replies hold beside the drivers' words about themselves (SPEC 7.8)."""
    return united(without_own(outcome.reply) for outcome in outcomes)
