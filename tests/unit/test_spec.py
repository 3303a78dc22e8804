"""docs/SPEC.md can be cited: its rules are numbered and short, and every citation names one that exists."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support.servo import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHAPTERS = 14

MAX_WORDS = 60
"""Words in a rule or in a cell of a table. A longer rule must be split."""

SPEC = REPOSITORY / "docs" / "SPEC.md"

CITING = (
    *("servo_agg", "tests", "benchmarks", "docs", ".ci"),
    *("adjust", "README.md", "CONTRIBUTING.md", "SECURITY.md"),
)
"""Files and directories whose citations are checked."""

NUMBER = r"\d+(?:\.\d+)?"

CITATION = re.compile(rf"SPEC\s+({NUMBER}(?:(?:,\s+|\s+and\s+|\s+to\s+|-){NUMBER})*)")
"""`SPEC 8`, `SPEC 8.3`, `SPEC 8.3, 9 and 10.2`, `SPEC 8.3-8.5`."""

REFERENCE = re.compile(rf"\b(?:rules?|chapters?)\s+({NUMBER}(?:(?:,\s+|\s+and\s+|\s+to\s+){NUMBER})*)")
"""How the SPEC refers to its own rules and chapters."""


def paragraphs() -> list[str]:
    """Return the paragraphs of the SPEC, tables and headings included."""
    return SPEC.read_text(encoding="utf-8").strip().split("\n\n")


def rules() -> dict[str, str]:
    """Return the text of each rule by its number, `8.3`."""
    found = [re.fullmatch(r"\*\*(\d+\.\d+)\*\* (.+)", text, re.DOTALL) for text in paragraphs()]
    numbered = [(match[1], match[2]) for match in found if match is not None]
    assert len(dict(numbered)) == len(numbered)
    return dict(numbered)


def chapters() -> list[int]:
    """Return the numbers of the chapters, in order."""
    return [int(match) for match in re.findall(r"^## (\d+)\. \S", "\n\n".join(paragraphs()), re.MULTILINE)]


def cells() -> Iterator[str]:
    """Yield the cells of all tables."""
    for text in paragraphs():
        if text.startswith("|"):
            for row in text.split("\n"):
                yield from re.split(r"(?<!\\)\|", row)


def citing_files() -> list[Path]:
    """Return the files whose citations are checked."""
    found = [REPOSITORY / name for name in CITING]
    found += [path for directory in found if directory.is_dir() for path in directory.rglob("*")]
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]


def unknown_numbers(text: str, citation: re.Pattern[str], known: set[str]) -> list[str]:
    """Return the numbers that a text cites and that are not known."""
    cited = [number for match in citation.findall(text) for number in re.findall(NUMBER, match)]
    return [number for number in cited if number not in known]


@pytest.fixture(scope="module")
def known() -> set[str]:
    return {*rules(), *map(str, chapters())}


def test_chapters_are_numbered_from_1_to_14() -> None:
    assert chapters() == list(range(1, CHAPTERS + 1))


def test_rules_of_each_chapter_are_numbered_from_1_without_gaps() -> None:
    chapter, expected = 0, 1
    for text in paragraphs():
        heading = re.match(r"## (\d+)\. ", text)
        if heading is not None:
            chapter, expected = int(heading[1]), 1
        elif text.startswith("**"):
            assert text.startswith(f"**{chapter}.{expected}** ")
            expected += 1
    assert len(rules()) > CHAPTERS


def test_only_rules_tables_headings_and_notes_are_paragraphs() -> None:
    others = [text for text in paragraphs() if not re.match(r"\*\*\d+\.\d+\*\* |\||#+ |\*Note\.\* ", text)]
    assert others == []


def test_tables_follow_rules() -> None:
    texts = paragraphs()
    pairs = zip(texts, texts[1:])
    assert [table for before, table in pairs if table.startswith("|") and not before.startswith("**")] == []


def test_no_rule_has_more_than_60_words() -> None:
    lengths = {number: len(text.split()) for number, text in rules().items()}
    assert {number: length for number, length in lengths.items() if length > MAX_WORDS} == {}


def test_no_cell_of_a_table_has_more_than_60_words() -> None:
    assert [cell for cell in cells() if len(cell.split()) > MAX_WORDS] == []


def test_the_spec_refers_to_rules_that_exist(known: set[str]) -> None:
    assert unknown_numbers(SPEC.read_text(encoding="utf-8"), REFERENCE, known) == []


def test_every_citation_names_a_chapter_or_rule_that_exists(known: set[str]) -> None:
    files = citing_files()
    wrong = {
        str(path.relative_to(REPOSITORY)): numbers
        for path in files
        if (numbers := unknown_numbers(path.read_text("utf-8", "replace"), CITATION, known))
    }
    assert len(files) > len(CITING)
    assert wrong == {}


@pytest.mark.parametrize(
    ("cited", "unknown"),
    [
        ("8.3", []),
        ("8.3, 9 and 10.2): 77.7", []),
        ("15", ["15"]),
        ("8.0 to 8.99", ["8.0", "8.99"]),
        ("7.1-7.999", ["7.999"]),
    ],
)
def test_a_citation_can_be_a_list(known: set[str], cited: str, unknown: list[str]) -> None:
    assert unknown_numbers(f"as SPEC {cited}", CITATION, known) == unknown
