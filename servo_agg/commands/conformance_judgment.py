"""Judges what a driver printed and replied in one call (SPEC 14.42). Pure."""

from __future__ import annotations

from servo_agg.commands import conformance_rules as rules
from servo_agg.output.tables import pluralize, truncate_middle
from servo_agg.protocol.limits import identity, is_number
from servo_agg.protocol.messages import Progress, to_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from servo_agg.commands.conformance_rules import RuleResults
    from servo_agg.protocol.messages import Message
    from servo_agg.protocol.outcome import Outcome

_DONE = 100
"""Percent at the end of an adjust."""

_MAX_VALUE_COLUMNS = 60
"""Columns of a value in a message; the middle of a longer one is left out."""

_MIN_REMAINING = 0.5
"""Seconds that an adjust must still need when it gets a signal.

If less remains, the adjust may end before the driver handles the signal.
"""

_MIN_TIMED = 1.0
"""Seconds that an adjust must take before the timing of its progress is judged."""

_END_WINDOW = 0.1
"""Seconds before the last message. If all output arrives within them, the driver buffers it."""

_ROUNDING_TOLERANCE = 1e-6
"""Relative difference of two numbers that counts as rounding."""


class ObservedAdjust:
    """One adjust of the driver, as it was seen. Times are in seconds of the event loop.

    Only what the rules need is kept of its messages: a driver may print progress without end.

    outcome            see Outcome
    began_at, ended_at  when the driver was started, and when it had ended
    pid                its process, which has ended
    signaled_at        when it was canceled or stopped, None if it had ended before
    took_too_long      whether it was stopped because it took too long
    last_message_at    when its last message arrived
    progress_count     how many progress messages it printed
    first_progress_at  when the first of them arrived
    first_percent      the percentage in it, None if that is not a number
    out_of_range       the JSON of the first progress that is not a number from 0 to 100, "" if there is none
    backwards          how its progress first went back, as `60 back to 40`, "" if it did not
    """

    def __init__(self, now: float) -> None:
        self.outcome: Outcome
        self.began_at = self.ended_at = self.last_message_at = self.first_progress_at = now
        self.pid = 0
        self.signaled_at: float | None = None
        self.took_too_long = False
        self.progress_count = 0
        self.first_percent: float | None = None
        self.out_of_range = ""
        self.backwards = ""
        self._percent = 0.0

    def add(self, message: Message, now: float) -> None:
        """Record a message that has just arrived."""
        self.last_message_at = now
        if not isinstance(message, Progress):
            return
        percent = message.percent
        if not self.progress_count:
            self.first_progress_at, self.first_percent = now, percent
        self.progress_count += 1
        if not self.out_of_range and (percent is None or not 0 <= percent <= _DONE):
            self.out_of_range = truncate_middle(to_json(message.body["progress"]), _MAX_VALUE_COLUMNS)
        if percent is not None:
            clamped = min(max(percent, 0), _DONE)
            if clamped < self._percent and not self.backwards:
                self.backwards = f"{self._percent:g} back to {clamped:g}"
            self._percent = max(clamped, self._percent)

    @property
    def seconds(self) -> float:
        """How long the adjust took."""
        return self.ended_at - self.began_at

    @property
    def says_ok(self) -> bool:
        """Whether the driver replied `ok`, whatever its exit status."""
        return self.outcome.facts.failure is None and self.outcome.body.get("status") == "ok"


def judge_progress(results: RuleResults, adjust: ObservedAdjust) -> None:
    """Record the verdicts on the rules about progress."""
    if not adjust.progress_count:
        results.record_not_tested([rules.RANGE, rules.ORDER, rules.TIMING], "it printed no progress")
        return
    if adjust.out_of_range:
        what = f"printed progress {adjust.out_of_range}"
        results.record_failure(rules.RANGE, what, "print a number from 0 to 100, without quotes")
    else:
        results.record_pass(rules.RANGE, pluralize(adjust.progress_count, "progress line"))
    if adjust.backwards:
        what = f"progress went from {adjust.backwards}"
        results.record_failure(rules.ORDER, what, "print the same or a larger number than before")
    else:
        results.record_pass(rules.ORDER)
    _judge_timing(results, adjust)


def _judge_timing(results: RuleResults, adjust: ObservedAdjust) -> None:
    seconds = adjust.last_message_at - adjust.began_at
    if seconds <= _MIN_TIMED:
        results.record_not_tested(
            [rules.TIMING], f"the adjust took {seconds:.1f} s; this rule needs more than {_MIN_TIMED:g} s"
        )
    elif adjust.last_message_at - adjust.first_progress_at >= _END_WINDOW:
        what = f"the first line after {adjust.first_progress_at - adjust.began_at:.1f} s"
        results.record_pass(rules.TIMING, what)
    elif adjust.first_percent is not None and adjust.first_percent >= _DONE:
        results.record_not_tested([rules.TIMING], f"its only progress is the final {_DONE}")
    else:
        what = f"all of its output came within the last {_END_WINDOW:g} s of {seconds:.1f} s"
        results.record_failure(rules.TIMING, what, rules.TIMING_REMEDY)


def may_have_been_ending(normal: ObservedAdjust, adjust: ObservedAdjust) -> bool:
    """Return whether an adjust may have been about to end when it got a signal. `normal`: one without it."""
    signaled_after = (adjust.signaled_at or adjust.began_at) - adjust.began_at
    return normal.seconds - signaled_after < _MIN_REMAINING


def is_equal(value: Any, other: Any) -> bool:
    """Return whether two values of a setting are equal, except for the rounding of a number."""
    if is_number(value) and is_number(other):
        return abs(value - other) <= _ROUNDING_TOLERANCE * max(abs(value), abs(other))
    return identity(value) == identity(other)


def adjust_failure(outcome: Outcome) -> str:
    """Return why an adjust with a reply has failed."""
    if outcome.facts.exit_code == 0 and outcome.body.get("message") is None and "status" in outcome.body:
        return f"replied the status {format_value(outcome.body['status'])}; a success has the status ok"
    return outcome.message


def message_with_call(outcome: Outcome) -> str:
    """Return the message of an outcome, with the call in which it failed."""
    return outcome.message if outcome.facts.option else f"in an adjust: {outcome.message}"


def explanation_problem(outcome: Outcome) -> str:
    """Return what is wrong with the reply to a refused or canceled adjust, "" if nothing is."""
    body = outcome.body
    if not body:
        return outcome.message
    for key in ("status", "reason", "message"):
        word = body.get(key)
        if not isinstance(word, str) or not word.strip():
            return f"`{key}` of its reply is missing, blank or not text"
    if outcome.facts.exit_code == 0:
        return f"replied {outcome.status} but exited with status 0"
    return ""


def format_value(value: Any) -> str:
    """Return a value for a message: a string unchanged, anything else as JSON; shortened if it is long."""
    return truncate_middle(value if isinstance(value, str) else to_json(value), _MAX_VALUE_COLUMNS)
