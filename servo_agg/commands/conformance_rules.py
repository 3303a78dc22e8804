"""The rules of a conformance test, the verdict on each, and the report (SPEC 14.41, 14.42, 14.49). Pure.

Rules:
- The verdict on a rule is its first failure, else its first pass, else `not-tested`.
- A failure says what was seen and what to do.
"""

from __future__ import annotations

from servo_agg.output.tables import GAP, display_width, escape_unprintable, table, truncate_middle, wrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, Literal

    Object = dict[str, Any]
    Verdict = Literal["pass", "fail", "not-tested"]

INFO = "answers --info"
QUERY = "answers --query"
DESCRIPTION = "describes valid settings"
STDOUT = "prints JSON objects only"
EXIT = "exits with the right status"
ADJUST = "accepts its present values"
RANGE = "prints progress from 0 to 100"
ORDER = "never decreases its progress"
TIMING = "does not buffer its progress"
PROCESSES = "leaves no process running"
REFUSAL = "refuses a value out of range"
EXPLANATION = "explains what it refuses"
CANCEL = "ends when canceled"
TERMINATION = "ends on SIGTERM"
RECOVERY = "accepts another adjust"

RULES = (
    INFO,
    QUERY,
    DESCRIPTION,
    STDOUT,
    EXIT,
    ADJUST,
    RANGE,
    ORDER,
    TIMING,
    PROCESSES,
    REFUSAL,
    EXPLANATION,
    CANCEL,
    TERMINATION,
    RECOVERY,
)

ADJUSTING = RULES[RULES.index(ADJUST) :]
"""The rules that need an adjust."""

STDOUT_REMEDY = (
    "print each JSON object on one line, in UTF-8; send everything else to stderr, including the output of"
    " commands that the driver runs (`>&2`)"
)

NO_REPLY_REMEDY = (
    "fix the error that stderr shows; a driver that fails must print a reply before it exits:"
    ' {"status": "failed", "reason": "WORD", "message": "SENTENCE"}'
)

EXIT_REMEDY = "exit with status 0 if the reply has the status ok, otherwise with another status"

INFO_REMEDY = 'answer {"version": "1.0", "has_cancel": false}'

QUERY_REMEDY = (
    'answer {"application": {"components": {"NAME": {"settings": {"NAME": {"value": 4, "type": "range",'
    ' "min": 1, "max": 8, "step": 1}}}}}}'
)

CAUSE_REMEDY = "fix the cause that the message names"

DURATION_REMEDY = "limit the time of an adjust: when it takes too long, end it and report a failure"

EFFECT_REMEDY = "apply the value from the input, and make --query report the value in effect"

TIMING_REMEDY = "flush stdout after each line, and print progress before and during each wait"

SERVICE_COMMAND = "setsid SERVICE </dev/null >/dev/null 2>&1 &"

PROCESSES_REMEDY = (
    "wait for all processes that the driver starts; if a service must keep running, start it in its own"
    f" session: {SERVICE_COMMAND}"
)

EXPLANATION_REMEDY = (
    'answer {"status": "rejected", "reason": "out-of-range", "message": "SENTENCE"} and exit with status 1'
)

REFUSAL_REMEDY = (
    "compare each value with its range or list before anything is changed; if a value is not in it,"
    f" {EXPLANATION_REMEDY}"
)

CANCEL_REMEDY = (
    'on SIGUSR1 end the adjust: answer {"status": "canceled", "reason": "SIGUSR1", "message": "SENTENCE"}'
    " and exit with status 1"
)

HANDLER_REMEDY = f"{CANCEL_REMEDY}; or answer --info with `has_cancel` false"

TERMINATION_REMEDY = "exit on SIGTERM, and end all processes that the driver has started"

RECOVERY_REMEDY = "at the start of an adjust, remove what an earlier one may have left, such as a lock file"


class RuleResult:
    """The verdict on a rule.

    rule      one of RULES
    verdict   `pass`, `fail` or `not-tested`
    what      what was seen, or why it was not tested; "" if there is nothing to say
    remedy    what to do about a failure, else ""
    commands  the commands in `remedy`, in order
    """

    __slots__ = ("commands", "remedy", "rule", "verdict", "what")

    def __init__(self, rule: str, verdict: Verdict, what: str, remedy: str = "", *commands: str) -> None:
        self.rule = rule
        self.verdict = verdict
        self.what = what
        self.remedy = remedy
        self.commands = commands

    def as_object(self) -> Object:
        """Return the JSON object of this verdict: `{"rule", "verdict", "what", "remedy"}` (SPEC 14.49)."""
        return {
            "rule": self.rule,
            "verdict": self.verdict,
            "what": self.what or None,
            "remedy": self.remedy or None,
        }


class RuleResults:
    """The verdicts on all rules, as far as they are known."""

    def __init__(self) -> None:
        self._known: dict[str, RuleResult] = {}

    def __iter__(self) -> Iterator[RuleResult]:
        """Iterate over the verdicts in the order of RULES."""
        return (self._known.get(rule, RuleResult(rule, "not-tested", "")) for rule in RULES)

    def record_pass(self, rule: str, what: str = "") -> None:
        """Record that the driver kept a rule, unless it has broken it before."""
        if rule not in self._known or self._known[rule].verdict == "not-tested":
            self._known[rule] = RuleResult(rule, "pass", what)

    def record_failure(self, rule: str, what: str, remedy: str, *commands: str) -> None:
        """Record that the driver broke a rule, unless an earlier failure is known. See RuleResult."""
        if rule not in self._known or self._known[rule].verdict != "fail":
            self._known[rule] = RuleResult(rule, "fail", what, remedy, *commands)

    def record_not_tested(self, rules: Sequence[str], why: str) -> None:
        """Record why rules are not tested. Rules that passed or failed keep their verdict."""
        for rule in rules:
            self._known.setdefault(rule, RuleResult(rule, "not-tested", why))

    def has_passed(self, rule: str) -> bool:
        """Return whether the verdict on a rule is `pass`."""
        return rule in self._known and self._known[rule].verdict == "pass"


_LABELS = {"pass": "pass", "fail": "FAIL", "not-tested": "not tested"}

_MAX_TEXT = 600
"""Columns of a text in the table: a driver's stderr may be long. With --json texts are complete."""

_MIN_TEXT_COLUMNS = 30
"""Least width of the last column. On a narrower terminal its texts have lines of their own."""

_INDENT = "    "


def report_text(results: RuleResults, width: int | None) -> str:
    """Return a table of rules and verdicts, with remedies, and a line that counts the verdicts (SPEC 14.41).

    With `width` lines are wrapped to it, as far as words permit.
    """
    rule_width = max(map(display_width, RULES))
    label_width = max(map(display_width, _LABELS.values()))
    text_width = None if width is None else width - rule_width - label_width - 2 * len(GAP)
    rows = [["rule", "verdict", "what was seen, and the remedy"]]
    for result in results:
        texts = [text for text in (_shortened(result.what), _remedy_text(result)) if text]
        head = [result.rule, _LABELS[result.verdict]]
        if text_width is not None and text_width < _MIN_TEXT_COLUMNS:
            rows.append([*head, ""])
            rows += [
                [line] for text in texts for line in wrap(text, width, _INDENT, _INDENT, result.commands)
            ]
            continue
        lines = [line for text in texts for line in wrap(text, text_width, "", "", result.commands)] or [""]
        rows += [[*(head if number == 0 else ["", ""]), line] for number, line in enumerate(lines)]
    if text_width is not None and text_width < _MIN_TEXT_COLUMNS:
        rows[0][2] = ""
    aligned = iter(table([row for row in rows if len(row) > 1]))
    words = [result.verdict for result in results]
    passed, failed, not_tested = (words.count(word) for word in ("pass", "fail", "not-tested"))
    return "\n".join(
        [
            *(next(aligned) if len(row) > 1 else row[0] for row in rows),
            "",
            f"{passed} passed, {failed} failed, {not_tested} not tested",
        ]
    )


def _remedy_text(result: RuleResult) -> str:
    """Return the remedy as the table shows it, "" if there is none; no command in it is changed."""
    text = f"remedy: {result.remedy}" if result.remedy else ""
    for command in result.commands:
        if command not in _shortened(text):
            text = text.replace(command, "the command that --json shows")
    return _shortened(text)


def _shortened(text: str) -> str:
    return truncate_middle(escape_unprintable("; ".join(text.splitlines())), _MAX_TEXT)
