"""What a check found: its problems, and the text that a person reads.

Rules (SPEC 14):
- A problem says what is wrong and what to do; a remedy is never broken, so that it can be copied.
- What is long is bounded: its begin and its end are shown.
"""

from __future__ import annotations

from servo_agg.tables import counted, fitted, plain, table, wrapped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Object = dict[str, Any]


class Problem:
    """Something that is wrong.

    drivers  with which of them; empty: with none in particular
    verdict  what the table says of these, in a word or two
    what     what is wrong, one line or more
    remedy   what to do
    """

    __slots__ = ("drivers", "remedy", "verdict", "what")

    def __init__(self, drivers: Sequence[str], verdict: str, what: str, remedy: str) -> None:
        self.drivers = drivers
        self.verdict = verdict
        self.what = what
        self.remedy = remedy


_HEADS = ("driver", "version", "cancel", "seconds", "settings", "verdict")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def text_of(
    rows: Sequence[Object],
    problems: Sequence[Problem],
    remarks: Sequence[str],
    width: int | None,
    *,
    colour: bool,
) -> str:
    """Give what a check found as text: the table of drivers, each problem with its remedy, the remarks.

    `rows`: see `check`. The table is at most `width` places wide where that can be; problems are wrapped
    to it, remedies are not. With `colour` a row is green or red, which its verdict says, too (SPEC 14).
    """
    lines = []
    if rows:
        cells = [[_cell(value) for value in row.values()] for row in rows]
        lines = table([list(_HEADS), *cells], right=(3, 4), width=width)
        if colour:
            lines[1:] = [_coloured(line, good=row["verdict"] == "ok") for line, row in zip(lines[1:], rows)]
        lines.append("")
    for number, problem in enumerate(problems, 1):
        who = f"{plain(problem.drivers[0])}: " if len(problem.drivers) == 1 else ""
        start = f"problem {number}: {who}"
        for line in _bounded(problem.what.splitlines() or [""]):
            lines += wrapped(line, width, start, _INDENT)
            start = _INDENT
        # Not wrapped, so that a command can be copied from it.
        lines += [f"{_INDENT}to do: {plain(problem.remedy)}", ""]
    lines += [f"remark: {plain(remark)}" for remark in remarks]
    good = sum(1 for row in rows if row["verdict"] == "ok")
    found = counted(len(problems), "problem") if problems else "no problem"
    lines.append(f"{found} found; {good} of {counted(len(rows), 'driver')} ok")
    return "\n".join(lines)


_INDENT = "    "

_HEAD, _TAIL = 4, 8
"""Lines that are shown of the begin and of the end of what is longer than both."""

_LONGEST = 400
"""Places that are shown of a line of it."""


def _bounded(lines: list[str]) -> list[str]:
    left_out = len(lines) - _HEAD - _TAIL
    if left_out > 1:
        lines = [*lines[:_HEAD], f"... {left_out} lines left out, --json has them ...", *lines[-_TAIL:]]
    return [fitted(plain(line), _LONGEST) for line in lines]


def _coloured(line: str, *, good: bool) -> str:
    return f"\033[{32 if good else 31}m{line}\033[0m"
