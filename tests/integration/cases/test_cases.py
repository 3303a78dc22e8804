"""SPEC 2, 4, 5, 7, 8, 9, 11, 13: bad input gets the message that the table has for it, word by word."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from servo_agg.protocol.messages import TEXT_LIMIT
from tests.integration.cases.case import final_of, lines_of, message_of, normalized, run_case
from tests.integration.cases.table import CASES

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.cases.case import Case

WRONG_USAGE = 2
BEFORE_ANY_DRIVER = ("bad-input", "bad-environment", "bad-configuration", "no-adjust-d")
BEFORE_ANY_ADJUST = (*BEFORE_ANY_DRIVER, "unknown-settings", "conflict")

PYTHON_WORDS = re.compile(r"Traceback|\b[A-Z]\w*(?:Error|Exception|Warning)\b|<class|object at 0x")
"""Words of Python that a message must not show."""


def names() -> list[str]:
    """Return a name for each case, short enough for a directory."""
    return [f"{number}-{str(case)[:60]!a}" for number, case in enumerate(CASES)]


@pytest.mark.parametrize("case", CASES, ids=names())
def test_bad_input_gets_this_message(case: Case, tmp_path: Path) -> None:
    completed, servo = run_case(case, tmp_path)
    stderr = completed.stderr.decode("ascii")
    lines = lines_of(completed)

    # With -v the order of the lines of several threads varies.
    ordered = sorted if "-v" in case.words else list
    assert ordered(normalized(stderr, servo).splitlines()) == ordered(case.stderr.splitlines())
    assert completed.returncode == case.code
    if case.final is not None:
        whole = lines if case.progress is None else lines[-1:]
        assert normalized("\n".join(whole), servo) == case.final.rstrip("\n")
    else:
        final = final_of(lines)
        assert lines == [json.dumps(json.loads(line), separators=(",", ":")) for line in lines]
        assert normalized(message_of(final), servo) == case.message
        assert len(final.get("message", "").encode("utf-8", "surrogatepass")) <= TEXT_LIMIT
        if case.reason:
            assert (final["status"], final["reason"]) == (case.status, case.reason)
    if case.progress is not None:
        assert lines[0].startswith('{"progress":0,"message":"querying ')
        assert lines[1] == '{"progress":0,"message":"driver: starting"}'
        assert lines[2:-1] == list(case.progress)

    words_of_python = set(PYTHON_WORDS.findall(completed.stdout.decode("ascii") + stderr))
    if words_of_python:
        # Only then: some inputs are very long.
        put_in = f"{case.driver} {case.others} {case.words} {case.stdin} {case.config}"
        assert words_of_python <= set(PYTHON_WORDS.findall(put_in))
    ran = {path.name for path in servo.path.glob("ran.*")}
    # A missing psutil is found while the drivers are queried.
    if case.code == WRONG_USAGE or (case.reason in BEFORE_ANY_DRIVER and "psutil" not in case.message):
        assert ran == set()
    if case.reason in BEFORE_ANY_ADJUST:
        assert "ran.adjust" not in ran


def test_each_case_has_a_name_of_its_own() -> None:
    assert len({str(case) for case in CASES}) == len(CASES)
