"""Tables and bars for people: lined up by what a terminal shows (SPEC 14.8, 14.26)."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING
from unicodedata import category

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from servo_agg.output.tables import (
    display_width,
    escape_non_ascii,
    escape_unprintable,
    pluralize,
    progress_bar,
    table,
    timing_chart,
    truncate_middle,
    wrap,
)
from servo_agg.protocol.messages import Reply
from servo_agg.protocol.outcome import Outcome, PhaseRecord, RunFacts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from servo_agg.protocol.outcome import Phase

TEXTS = st.text(st.one_of(st.characters(), st.sampled_from("aé名ｱ\u0301\u200d\x1b\n\ud800")), max_size=40)
PLAIN = TEXTS.map(escape_unprintable)


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("", 0),
        ("web.cpu", 7),
        ("größe", 5),
        ("gro\u0308ße", 5),
        ("名前", 4),
        ("ｱ", 1),
        ("👩", 2),
        ("☁\ufe0f", 1),
    ],
)
def test_a_text_has_the_width_that_a_terminal_gives_it(text: str, width: int) -> None:
    assert display_width(text) == width


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("größe 名前 👩", "größe 名前 👩"),
        ("e\u0301", "e\u0301"),
        ("a\tb\r\n", "a\\tb\\r\\n"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\u202eevil", "\\u202eevil"),
        ("\ud800", "\\ud800"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
        ("\u2028", "\\u2028"),
    ],
)
def test_unprintable_characters_are_escaped(text: str, spelled: str) -> None:
    assert escape_unprintable(text) == spelled


@given(TEXTS)
def test_an_escaped_text_cannot_move_the_cursor(text: str) -> None:
    assert not any(category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in escape_unprintable(text))
    assert escape_unprintable(escape_unprintable(text)) == escape_unprintable(text)
    assert escape_non_ascii(text).isascii()
    assert escape_non_ascii(text).isprintable()


@pytest.mark.parametrize(
    ("text", "width", "short"),
    [
        ("k8s-adjust-canary", 17, "k8s-adjust-canary"),
        ("k8s-adjust-canary", 12, "k8s-a..anary"),
        ("名前名前名前", 7, "名..前"),
        ("abc", 2, ".."),
    ],
)
def test_a_long_text_keeps_both_ends(text: str, width: int, short: str) -> None:
    assert truncate_middle(text, width) == short


@given(PLAIN, st.integers(2, 50))
def test_a_truncated_text_has_at_most_the_given_width(text: str, width: int) -> None:
    short = truncate_middle(text, width)
    assert display_width(short) <= width
    if display_width(text) <= width:
        assert short == text
    else:
        # The text itself may contain dots too.
        cuts = [place for place in range(len(short)) if short.startswith("..", place)]
        assert any(text.startswith(short[:cut]) and text.endswith(short[cut + 2 :]) for cut in cuts)


def test_columns_line_up() -> None:
    rows = [["driver", "seconds", "verdict"], ["größe", "0.1", "ok"], ["名前", "12.5", "a\nb"], ["x", "", ""]]
    assert table(rows, right=(1,)) == [
        "driver  seconds  verdict",
        "größe       0.1  ok",
        "名前       12.5  a\\nb",
        "x",
    ]


def rows_of(columns: int) -> st.SearchStrategy[list[list[str]]]:
    return st.lists(st.lists(TEXTS, min_size=columns, max_size=columns), min_size=1, max_size=5)


def last_column_starts(lines: Sequence[str], rows: Sequence[Sequence[str]]) -> set[int]:
    """Return the positions at which the last column begins, of the rows where it is not empty."""
    return {display_width(line) - display_width(row[-1]) for line, row in zip(lines, rows) if row[-1].strip()}


@given(st.integers(1, 4).flatmap(rows_of))
def test_a_table_without_a_width_shows_everything_and_lines_up(rows: list[list[str]]) -> None:
    marked = [[*row, "|"] for row in rows]
    lines = table(marked)
    assert len(last_column_starts(lines, marked)) == 1
    for line, row in zip(lines, marked):
        assert all(escape_unprintable(cell) in line for cell in row)


@given(st.integers(1, 4).flatmap(rows_of), st.integers(1, 300))
def test_a_table_with_a_width_is_not_wider_where_that_is_possible(rows: list[list[str]], width: int) -> None:
    marked = [[*row, "|"] for row in rows]
    lines = table(marked, width=width)
    assert len(last_column_starts(lines, marked)) == 1
    assert max(map(display_width, lines)) <= max(width, 4 * (12 + 2) + 1)
    whole = table(marked)
    if max(map(display_width, whole)) <= width:
        assert lines == whole


def test_the_widest_column_is_shortened() -> None:
    rows = [["a" * 40, "b" * 15, "2 -> 4"]]
    assert table(rows, width=50) == ["a" * 12 + ".." + "a" * 11 + "  " + "b" * 15 + "  2 -> 4"]


def test_a_huge_cell_takes_no_time() -> None:
    assert display_width(table([["x" * 1_000_000, "y"]], width=80)[0]) == 80


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("one two three", None, ["- one two three"]),
        ("one two three", 9, ["- one two", "  three"]),
        ("one two three", 3, ["- one", "  two", "  three"]),
        ("名前 名前", 7, ["- 名前", "  名前"]),
        ("", 5, ["- "]),
    ],
)
def test_text_is_wrapped_between_words(text: str, width: int | None, lines: list[str]) -> None:
    assert wrap(text, width, "- ", "  ") == lines


@given(PLAIN, st.integers(1, 60))
def test_wrapping_loses_nothing(text: str, width: int) -> None:
    lines = wrap(text, width, "- ", "  ")
    assert " ".join(line[2:] for line in lines) == text
    assert all(display_width(line) <= width or " " not in line[2:] for line in lines)


COMMAND = "chmod o-w 'a b' c"


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (None, ["- fix: chmod o-w 'a b' c; or not"]),
        (40, ["- fix: chmod o-w 'a b' c; or not"]),
        (26, ["- fix: chmod o-w 'a b' c;", "  or not"]),
        (22, ["- fix: chmod o-w \\", "  'a b' c; or not"]),
        (14, ["- fix: chmod \\", "  o-w 'a b' c;", "  or not"]),
        (5, ["- fix:", "  chmod \\", "  o-w \\", "  'a b' \\", "  c;", "  or", "  not"]),
    ],
)
def test_a_command_is_broken_so_that_a_shell_can_run_it(width: int | None, lines: list[str]) -> None:
    assert wrap(f"fix: {COMMAND}; or not", width, "- ", "  ", [COMMAND]) == lines


@given(st.lists(PLAIN, min_size=1, max_size=6), st.integers(1, 60))
def test_the_arguments_of_a_wrapped_command_are_the_same(words: list[str], width: int) -> None:
    command = " ".join(map(shlex.quote, words))
    text = f"run: {command}"
    assume(text.index(command) == len("run: "))  # for example, not `: :`, which begins at the colon
    lines = wrap(text, width, "", "  ", [command])
    script = "\n".join(lines).removeprefix("run:")
    # The first line may break after the colon.
    assert shlex.split(script.replace("\\\n", "")) == words
    assert "\n" not in script.replace("\\\n", "").strip()


def test_a_count_has_the_singular_or_plural() -> None:
    assert [pluralize(number, "driver") for number in (0, 1, 2)] == ["0 drivers", "1 driver", "2 drivers"]


def record(driver: str, phase: Phase, start: float, seconds: float) -> PhaseRecord:
    ending = RunFacts()
    ending.exit_code = 0
    ending.seconds = seconds
    return PhaseRecord(
        phase, start, Outcome(driver, Reply.from_body({"status": "ok"}), ending, adjusting=True)
    )


def test_bars_share_one_axis() -> None:
    records = [
        record("02b", "query", 0.1, 0.1),
        record("01a", "query", 0.1, 0.4),
        record("größe", "adjust", 0.5, 0.5),
    ]
    assert timing_chart(records, 1.0, width=60, escape=escape_unprintable) == [
        "driver  phase   seconds  status  0 s                 1.000 s",
        "01a     query     0.400  ok        ===========",
        "02b     query     0.100  ok        ===",
        "größe   adjust    0.500  ok                   ==============",
        "total 1.000 s; 1.100 s if the drivers ran one after another",
    ]
    assert timing_chart(records, 1.0, width=60, escape=escape_non_ascii) == [
        r"driver       phase   seconds  status  0 s              1.000 s",
        r"01a          query     0.400  ok        ==========",
        r"02b          query     0.100  ok        ==",
        r"gr\xf6\xdfe  adjust    0.500  ok                  ============",
        r"total 1.000 s; 1.100 s if the drivers ran one after another",
    ]


@given(
    st.lists(st.tuples(TEXTS, st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=8),
    st.integers(1, 250),
    st.floats(0, 5),
)
def test_bars_stay_within_the_axis(drivers: list[tuple[str, float, float]], width: int, rest: float) -> None:
    records = [record(name, "query", start, seconds) for name, start, seconds in drivers]
    total = max(record.start + record.seconds for record in records) + rest
    head, *bars, last = timing_chart(records, total, width=width, escape=escape_unprintable)
    assert len(bars) == len(records)
    assert all(display_width(line) <= len(head) for line in bars)
    assert len(head) <= max(width, 90)
    assert all(line.endswith("=") for line in bars)
    in_turn = float(last.split()[3])
    assert in_turn >= sum(record.seconds for record in records) - 0.001
    one_at_a_time = max(record.seconds for record in records)
    assert in_turn >= one_at_a_time - 0.001


def test_without_a_driver_there_are_no_bars() -> None:
    assert timing_chart([], 0.25, width=80, escape=escape_non_ascii) == ["total 0.250 s; no driver was run"]


@pytest.mark.parametrize(
    ("percent", "activity", "width", "line"),
    [
        (0, "", 40, "[.............]   0 %  01a: starting"),
        (50, "", 40, "[######.......]  50 %  01a: starting"),
        (100, "", 40, "[#############] 100 %  01a: starting"),
        (50, "", 20, "[###...]  50 %  0..g"),
        (50, "12 s", 50, "[########........]  50 %  01a: starting, 12 s"),
        (50, "12 s", 40, "[######.......]  50 %  01a: ..ting, 12 s"),
        (50, "waiting for 名前", 20, "[###...]  50 %  .., "),
    ],
)
def test_a_progress_bar_shows_the_percentage(percent: int, activity: str, width: int, line: str) -> None:
    assert progress_bar(percent, "01a: starting", activity, width) == line


@given(st.integers(0, 100), PLAIN, PLAIN, st.integers(1, 250))
def test_a_bar_is_one_line_that_fits(percent: int, text: str, activity: str, width: int) -> None:
    line = progress_bar(percent, text, activity, width)
    assert display_width(line) <= width
    assert line.isprintable()
    if width >= 20:
        assert f"{percent:3d} %" in line
