"""The report of a check: its problems, and the text that a person reads. Pure.

Rules (SPEC 14.8-14.11):
- A problem says what is wrong and what to do. Lines are wrapped to the width of the terminal. A command in
  them is continued with a backslash, so that it can be copied.
- A long description is shortened to its beginning and its end.
"""

from __future__ import annotations

from servo_agg.output.tables import escape_unprintable, pluralize, table, truncate_middle, wrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Object = dict[str, Any]


class Problem:
    """A problem that a check found.

    drivers  the drivers concerned; empty if it concerns none in particular
    verdict  what the table says of these drivers, a word or two
    what     what is wrong, one line or more
    remedy   what to do
    commands the commands in `remedy`, in order
    """

    __slots__ = ("commands", "drivers", "remedy", "verdict", "what")

    def __init__(self, drivers: Sequence[str], verdict: str, what: str, remedy: str, *commands: str) -> None:
        self.drivers = drivers
        self.verdict = verdict
        self.what = what
        self.remedy = remedy
        self.commands = commands


class Remark:
    """A remark of a check: its text, and the commands in it, in order."""

    __slots__ = ("commands", "text")

    def __init__(self, text: str, *commands: str) -> None:
        self.text = text
        self.commands = commands


_HEADINGS = ("driver", "version", "cancel", "seconds", "settings", "verdict")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


_INDENT = "    "


def report_text(
    rows: Sequence[Object],
    problems: Sequence[Problem],
    remarks: Sequence[Remark],
    width: int | None,
    *,
    color: bool,
) -> str:
    """Return the text of a check: table of drivers, problems with remedies, remarks (SPEC 14.8-14.11).

    `rows`: see `check`. The text is at most `width` columns wide, if possible. With `color` a row is green
    if its verdict is `ok`, otherwise red.
    """
    lines = []
    if rows:
        cells = [[_cell(value) for value in row.values()] for row in rows]
        lines = table([list(_HEADINGS), *cells], right=(3, 4), width=width)
        if color:
            lines[1:] = [_colored(line, good=row["verdict"] == "ok") for line, row in zip(lines[1:], rows)]
        lines.append("")
    for number, problem in enumerate(problems, 1):
        who = f"{escape_unprintable(problem.drivers[0])}: " if len(problem.drivers) == 1 else ""
        first, *others = _bounded(problem.what.splitlines() or [""])
        lines += wrap(f"problem {number}: {who}{first}", width, "", _INDENT)
        for line in others:
            lines += wrap(line, width, _INDENT, _INDENT)
        lines += _advice(f"remedy: {problem.remedy}", problem.commands, width, _INDENT)
        lines.append("")
    for remark in remarks:
        lines += _advice(f"remark: {remark.text}", remark.commands, width, "")
    good = sum(1 for row in rows if row["verdict"] == "ok")
    found = pluralize(len(problems), "problem") if problems else "no problem"
    lines += wrap(f"{found} found; {good} of {pluralize(len(rows), 'driver')} ok", width, "", _INDENT)
    return "\n".join(lines)


def _advice(text: str, commands: Sequence[str], width: int | None, indent: str) -> list[str]:
    escaped = [escape_unprintable(command) for command in commands]
    return wrap(escape_unprintable(text), width, indent, indent + _INDENT, escaped)


_HEAD_LINES, _TAIL_LINES = 4, 8
"""Lines that are shown of the beginning and of the end of a longer text."""

_MAX_LINE = 400
"""Columns that are shown of a line of it."""


def _bounded(lines: list[str]) -> list[str]:
    left_out = len(lines) - _HEAD_LINES - _TAIL_LINES
    if left_out > 1:
        lines = [
            *lines[:_HEAD_LINES],
            f"... {left_out} lines omitted; --json shows them ...",
            *lines[-_TAIL_LINES:],
        ]
    return [truncate_middle(escape_unprintable(line), _MAX_LINE) for line in lines]


def _colored(line: str, *, good: bool) -> str:
    return f"\033[{32 if good else 31}m{line}\033[0m"
