"""Judges what a driver printed and replied in one call. Pure."""

from __future__ import annotations

from servo_agg.commands import conformance_rules as rules
from servo_agg.output.tables import pluralize, truncate_middle
from servo_agg.protocol.limits import identity, is_number
from servo_agg.protocol.messages import Progress, to_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from servo_agg.commands.conformance_rules import Verdicts
    from servo_agg.protocol.messages import Message
    from servo_agg.protocol.outcome import Outcome

_DONE = 100
"""Percent at the end of an adjust."""

_SHOWN = 60
"""Columns that are shown of a value."""

_MIN_REST = 0.5
"""Seconds that an adjust must still take when it gets a signal: a shorter one may end before it reacts."""

_SLOW = 1.0
"""Seconds after which a driver whose first progress comes at its end is taken to buffer its output."""

_AT_END = 0.1
"""Seconds: output that comes within them comes at once."""

_ROUNDING = 1e-6
"""Part of a number by which a query may show it differently."""


class Adjust:
    """One adjust of the driver, as it was seen. Moments are in seconds of the event loop.

    Of its messages only what the rules need is kept: a driver may print progress without end.

    outcome      the verdict of the supervisor
    began_at, ended_at  when it was started and had ended
    pid          its process, which has ended
    signaled_at  when it was canceled or stopped, None if it had ended before
    too_long     whether it was stopped because it took too long
    output_at    when its last message arrived
    progress_count  how many progress messages it printed
    progress_at  when the first of them arrived
    first_percent  the percentage in it, None if that is not a number
    out_of_range  how the first progress that is not a number from 0 to 100 appears, "" if there is none
    backwards    how its progress went back for the first time, "" if it did not
    """

    def __init__(self, now: float) -> None:
        self.outcome: Outcome
        self.began_at = self.ended_at = self.output_at = self.progress_at = now
        self.pid = 0
        self.signaled_at: float | None = None
        self.too_long = False
        self.progress_count = 0
        self.first_percent: float | None = None
        self.out_of_range = ""
        self.backwards = ""
        self._percent = 0.0

    def add(self, message: Message, now: float) -> None:
        """Take note of a message that has just arrived."""
        self.output_at = now
        if not isinstance(message, Progress):
            return
        percent = message.percent
        if not self.progress_count:
            self.progress_at, self.first_percent = now, percent
        self.progress_count += 1
        if not self.out_of_range and (percent is None or not 0 <= percent <= _DONE):
            self.out_of_range = truncate_middle(to_json(message.body["progress"]), _SHOWN)
        if percent is not None:
            clamped = min(max(percent, 0), _DONE)
            if clamped < self._percent and not self.backwards:
                self.backwards = f"{self._percent:g} back to {clamped:g}"
            self._percent = max(clamped, self._percent)

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended_at - self.began_at

    @property
    def says_ok(self) -> bool:
        """Whether it replied `ok`, whatever its exit status."""
        return self.outcome.facts.failure is None and self.outcome.body.get("status") == "ok"


def judge_progress(verdicts: Verdicts, adjust: Adjust) -> None:
    """Record the verdicts on the rules about progress."""
    if not adjust.progress_count:
        verdicts.skip([rules.RANGE, rules.ORDER, rules.TIMING], "it printed no progress")
        return
    if adjust.out_of_range:
        what = f"printed progress {adjust.out_of_range}"
        verdicts.record_failure(rules.RANGE, what, "print a number from 0 to 100, without quotes")
    else:
        verdicts.record_pass(rules.RANGE, pluralize(adjust.progress_count, "progress line"))
    if adjust.backwards:
        what = f"progress went from {adjust.backwards}"
        verdicts.record_failure(rules.ORDER, what, "print the same or a larger number than before")
    else:
        verdicts.record_pass(rules.ORDER)
    _judge_timing(verdicts, adjust)


def _judge_timing(verdicts: Verdicts, adjust: Adjust) -> None:
    seconds = adjust.output_at - adjust.began_at
    if seconds <= _SLOW:
        verdicts.skip([rules.TIMING], f"it took {seconds:.1f} s: only more than {_SLOW:g} s would show it")
    elif adjust.output_at - adjust.progress_at >= _AT_END:
        what = f"the first line after {adjust.progress_at - adjust.began_at:.1f} s"
        verdicts.record_pass(rules.TIMING, what)
    elif adjust.first_percent is not None and adjust.first_percent >= _DONE:
        verdicts.skip([rules.TIMING], "its only progress is that of the end")
    else:
        what = f"all of its output came within the last {_AT_END:g} s of {seconds:.1f} s"
        verdicts.record_failure(rules.TIMING, what, rules.TIMING_REMEDY)


def is_short(normal: Adjust, adjust: Adjust) -> bool:
    """Return whether an adjust that got a signal may have been at its end. `normal`: one without a signal."""
    signaled_after = (adjust.signaled_at or adjust.began_at) - adjust.began_at
    return normal.seconds - signaled_after < _MIN_REST


def is_equal(value: Any, other: Any) -> bool:
    """Return whether two values of a setting are the same, but for the rounding of a number."""
    if is_number(value) and is_number(other):
        return abs(value - other) <= _ROUNDING * max(abs(value), abs(other))
    return identity(value) == identity(other)


def adjust_failure(outcome: Outcome) -> str:
    """Return why an adjust with a reply has failed."""
    if outcome.facts.exit_code == 0 and outcome.body.get("message") is None and "status" in outcome.body:
        return f"replied the status {shown(outcome.body['status'])}; a success has the status ok"
    return outcome.message


def cause_of(outcome: Outcome) -> str:
    """Return the message of an outcome, which says in what it failed."""
    return outcome.message if outcome.facts.option else f"on an adjust: {outcome.message}"


def unexplained(outcome: Outcome) -> str:
    """Return what is wrong with the reply of a driver that has refused a value, "" if nothing is."""
    body = outcome.body
    if not body:
        return f"gave no reply ({outcome.message})"
    for key in ("status", "reason", "message"):
        word = body.get(key)
        if not isinstance(word, str) or not word.strip():
            return f"its reply has no `{key}`"
    if outcome.facts.exit_code == 0:
        return f"replied {outcome.status} but exited with status 0"
    return ""


def shown(value: Any) -> str:
    """Return a value for a sentence: a string as it is, anything else as JSON; at most _SHOWN columns."""
    return truncate_middle(value if isinstance(value, str) else to_json(value), _SHOWN)
