"""The rules of a test of one driver, the verdict on each, and the report. Pure.

Rules (SPEC 14):
- Each rule has one verdict. The first failure decides; a rule that nothing was found out about is not tested.
- A failure says what was seen and what to do.
"""

from __future__ import annotations

from servo_agg.output.tables import display_width, escape_unprintable, table, truncate_middle, wrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, Literal

    Object = dict[str, Any]
    Kind = Literal["pass", "fail", "not-tested"]

INFO = "answers --info"
QUERY = "answers --query"
DESCRIPTION = "describes its settings well"
STDOUT = "prints JSON objects only"
EXIT = "exits with the right status"
ADJUST = "accepts its present values"
RANGE = "progress is from 0 to 100"
ORDER = "progress never goes back"
TIMING = "progress comes while it works"
LEFTOVERS = "leaves no process running"
REFUSAL = "refuses a value out of range"
EXPLANATION = "explains what it refuses"
CANCEL = "ends on a cancel"
TERMINATION = "ends on SIGTERM"
RECOVERY = "can be adjusted afterwards"

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
    LEFTOVERS,
    REFUSAL,
    EXPLANATION,
    CANCEL,
    TERMINATION,
    RECOVERY,
)

ADJUSTING = RULES[RULES.index(ADJUST) :]
"""The rules that need an adjust."""

STDOUT_REMEDY = (
    "print each JSON object on one line, in UTF-8; send everything else to stderr, also what the commands"
    " that it runs print (`>&2`)"
)

NO_REPLY_REMEDY = (
    "fix what stderr shows; when it fails, it must say so before it exits:"
    ' {"status": "failed", "reason": "WORD", "message": "SENTENCE"}'
)

INFO_REMEDY = 'answer {"version": "1.0", "has_cancel": false}'

QUERY_REMEDY = (
    'answer {"application": {"components": {"NAME": {"settings": {"NAME": {"value": 4, "type": "range",'
    ' "min": 1, "max": 8, "step": 1}}}}}}'
)

EFFECT_REMEDY = "put the value of the input into effect, and let --query answer with what is in effect"

TIMING_REMEDY = "flush stdout after each line, and print progress before and while it waits"

LEFTOVER_REMEDY = (
    "wait for what it starts; let a service leave the session: setsid SERVICE </dev/null >/dev/null 2>&1 &"
)

EXPLANATION_REMEDY = (
    'answer {"status": "rejected", "reason": "out-of-range", "message": "SENTENCE"} and exit with 1'
)

REFUSAL_REMEDY = f"compare each value with its range or list before anything is changed; {EXPLANATION_REMEDY}"

CANCEL_REMEDY = (
    'on SIGUSR1 end the adjust: answer {"status": "canceled", "reason": "SIGUSR1", "message": "SENTENCE"}'
    " and exit with 1"
)

HANDLER_REMEDY = f"{CANCEL_REMEDY}; or answer --info with `has_cancel` false"

TERMINATION_REMEDY = "end on SIGTERM, and end the processes that it has started"

RECOVERY_REMEDY = "remove what an earlier run may have left, such as a lock file, before it works"


class Verdict:
    """The verdict on a rule.

    rule    one of RULES
    kind    `pass`, `fail` or `not-tested`
    what    what was seen, or why it was not tested; "" if there is nothing to say
    remedy  what to do about a failure, else ""
    """

    __slots__ = ("kind", "remedy", "rule", "what")

    def __init__(self, rule: str, kind: Kind, what: str, remedy: str = "") -> None:
        self.rule = rule
        self.kind = kind
        self.what = what
        self.remedy = remedy

    def as_object(self) -> Object:
        """Return it as it stands in the JSON of a test."""
        return {
            "rule": self.rule,
            "verdict": self.kind,
            "what": self.what or None,
            "remedy": self.remedy or None,
        }


class Verdicts:
    """The verdicts on all rules, as far as they are known."""

    def __init__(self) -> None:
        self._known: dict[str, Verdict] = {}

    def __iter__(self) -> Iterator[Verdict]:
        """Iterate over the verdicts in the order of RULES."""
        return (self._known.get(rule, Verdict(rule, "not-tested", "")) for rule in RULES)

    def record_pass(self, rule: str, what: str = "") -> None:
        """Record that a driver keeps a rule, as far as it was seen."""
        if rule not in self._known or self._known[rule].kind == "not-tested":
            self._known[rule] = Verdict(rule, "pass", what)

    def record_failure(self, rule: str, what: str, remedy: str) -> None:
        """Record that a driver breaks a rule."""
        if rule not in self._known or self._known[rule].kind != "fail":
            self._known[rule] = Verdict(rule, "fail", what, remedy)

    def skip(self, rules: Sequence[str], why: str) -> None:
        """Record why rules are not tested, unless their verdicts are known."""
        for rule in rules:
            self._known.setdefault(rule, Verdict(rule, "not-tested", why))

    def has_passed(self, rule: str) -> bool:
        """Return whether the driver keeps a rule."""
        return rule in self._known and self._known[rule].kind == "pass"


_WORDS = {"pass": "pass", "fail": "FAIL", "not-tested": "not tested"}

_MAX_TEXT = 600
"""Columns that are shown of what was seen: a driver's stderr may be long. With --json all of it is shown."""

_MIN_COLUMN = 30
"""Columns that the last column of the table needs; on a narrower terminal its texts have their own lines."""

_INDENT = "    "


def report_text(verdicts: Verdicts, width: int | None) -> str:
    """Return a table of rule, verdict and remedy, and a line that counts the verdicts (SPEC 14).

    With `width` lines are wrapped to it, as far as words permit.
    """
    rule_width = max(map(display_width, RULES))
    before = rule_width + len("not tested") + 4
    column = None if width is None else width - before
    rows = [["rule", "verdict", "what was seen, and the remedy"]]
    for verdict in verdicts:
        texts = [verdict.what, f"remedy: {verdict.remedy}" if verdict.remedy else ""]
        texts = [_shortened(text) for text in texts if text]
        head = [verdict.rule, _WORDS[verdict.kind]]
        if column is not None and column < _MIN_COLUMN:
            rows.append([*head, ""])
            rows += [[line] for text in texts for line in wrap(text, width, _INDENT, _INDENT)]
            continue
        lines = [line for text in texts for line in wrap(text, column, "", "")] or [""]
        rows += [[*(head if number == 0 else ["", ""]), line] for number, line in enumerate(lines)]
    if column is not None and column < _MIN_COLUMN:
        rows[0][2] = ""
    aligned = iter(table([row for row in rows if len(row) > 1]))
    kinds = [verdict.kind for verdict in verdicts]
    passed, failed, skipped = (kinds.count(kind) for kind in ("pass", "fail", "not-tested"))
    return "\n".join(
        [
            *(next(aligned) if len(row) > 1 else row[0] for row in rows),
            "",
            f"{passed} passed, {failed} failed, {skipped} not tested",
        ]
    )


def _shortened(text: str) -> str:
    return truncate_middle(escape_unprintable("; ".join(text.splitlines())), _MAX_TEXT)
