"""Print every case with the message for it: `python -m tests.integration.cases [WORD]`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tests.integration.cases.table import CASES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.cases.case import Case

LONGEST = 600


def outcome(case: Case) -> Iterator[str]:
    """Return the lines that show the result of a case."""
    yield from (f"stdout: {line}" for line in case.progress or ())
    if case.final is not None:
        yield f"stdout: {case.final}"
    else:
        yield f"{case.status}, {case.reason}: {case.message}" if case.reason else case.message
    if case.stderr:
        yield f"stderr: {case.stderr.rstrip()}"


def shown(text: str) -> str:
    """Return the text with a long middle cut out and control characters escaped."""
    if len(text) > LONGEST:
        half = LONGEST // 2
        text = f"{text[:half]} [{len(text) - LONGEST} characters] {text[-half:]}"
    plain = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
    return plain.replace("\n", "\n        ")


def main() -> None:
    """Print all cases, or those in which the given word occurs."""
    word = " ".join(sys.argv[1:])
    for case in CASES:
        lines = [f"{case}  (exit {case.code})", *(f"    {shown(line)}" for line in outcome(case))]
        if any(word in line for line in lines):
            sys.stdout.write("\n".join(lines) + "\n")


main()
