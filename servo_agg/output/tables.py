"""Tables and bars as lines of text.

Rules (SPEC 14.40):
- Columns are aligned by their width on a terminal: an East Asian character takes two places, an accent none.
- Control characters in the texts of drivers are escaped.
- With a width, no line is wider, as far as it can be made narrower. Without one nothing is cut.
"""

from __future__ import annotations

from unicodedata import category, east_asian_width

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from servo_agg.protocol.outcome import PhaseRecord


def escape_unprintable(text: str) -> str:
    """Return text with every unprintable character escaped, line ends too."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def escape_non_ascii(text: str) -> str:
    """Return text with every character escaped that is unprintable or not ASCII (SPEC 5.3, 5.4)."""
    return escape_unprintable(text).encode("ascii", "backslashreplace").decode()


def pluralize(number: int, noun: str) -> str:
    """Return a number with its noun: `1 driver`, `3 drivers`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


_ZERO_WIDTH = ("Mn", "Me")
"""Categories of the characters that are drawn onto the one before them."""


def display_width(text: str) -> int:
    """Return the places that a printable text takes on a terminal."""
    return sum(
        0 if category(character) in _ZERO_WIDTH else 2 if east_asian_width(character) in "WF" else 1
        for character in text
    )


def truncate_middle(text: str, width: int) -> str:
    """Return text shortened to `width` places, with `..` in its middle for what is left out."""
    if display_width(text) <= width:
        return text
    left = width - 2
    head, tail = "", ""
    # Characters are taken from the start and the end in turn.
    for turn in range(len(text)):
        from_end = turn % 2
        character = text[-(turn // 2) - 1] if from_end else text[turn // 2]
        left -= display_width(character)
        if left < 0:
            break
        if from_end:
            tail = character + tail
        else:
            head += character
    return f"{head}..{tail}"


def wrap(
    text: str, width: int | None, first_prefix: str, next_prefix: str, commands: Sequence[str] = ()
) -> list[str]:
    """Break a printable text between words into lines of at most `width` places.

    A word that is wider stays whole. `first_prefix` begins the first line, `next_prefix` the others.
    `commands` are parts of the text that a shell must be able to run: they are broken only between arguments,
    and such a line ends with a backslash.
    """
    if width is None:
        return [first_prefix + text]
    (first_word, _), *others = words = list(_words(text, commands))
    lines = []
    line = first_prefix + first_word
    columns = display_width(line)
    for (_, line_end), (word, next_line_end) in zip(words, others):
        word_columns = display_width(word)
        if columns + 1 + word_columns + len(next_line_end) > width:
            lines.append(line + line_end)
            line, columns = next_prefix + word, display_width(next_prefix) + word_columns
        else:
            line += f" {word}"
            columns += 1 + word_columns
    return [*lines, line]


_CONTINUATION = " \\"
"""How a line of a command ends that goes on in the next line."""


def _words(text: str, commands: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the words of a text, each with what a line must end with that is broken after it."""
    rest = text
    for command in commands:
        before, found, rest = rest.partition(command)
        if not found:
            rest = before
            continue
        before_words = before.split(" ")
        after, space, rest = rest.partition(" ")
        arguments = _argument_list(command)
        arguments[0] = before_words.pop() + arguments[0]
        arguments[-1] += after
        yield from ((word, "") for word in before_words)
        yield from ((word, _CONTINUATION) for word in arguments[:-1])
        yield arguments[-1], ""
        if not space:
            return
    yield from ((word, "") for word in rest.split(" "))


def _argument_list(command: str) -> list[str]:
    """Return the arguments of a command as they are written; blanks in quotes do not separate."""
    arguments = [""]
    quote = ""
    for character in command:
        if character == " " and not quote:
            arguments.append("")
            continue
        if character in "'\"":
            quote = "" if quote == character else quote or character
        arguments[-1] += character
    return arguments


def _pad(text: str, width: int, *, right: bool) -> str:
    blanks = " " * (width - display_width(text))
    return blanks + text if right else text + blanks


GAP = "  "
"""What stands between two columns."""

_MIN_COLUMN = 12
"""Places that a column keeps when a table is too wide."""


def table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), width: int | None = None) -> list[str]:
    """Return rows of equal length as lines. `right`: the indexes of the right-aligned columns."""
    cells = [[escape_unprintable(cell) for cell in row] for row in rows]
    widths = [max(map(display_width, column)) for column in zip(*cells)]
    if width is not None:
        widths = [min(column_width, max(width, _MIN_COLUMN)) for column_width in widths]
        surplus = sum(widths) + len(GAP) * (len(widths) - 1) - width
        while surplus > 0 and max(widths) > _MIN_COLUMN:
            # The widest column is narrowed first.
            widths[widths.index(max(widths))] -= 1
            surplus -= 1
    return [
        GAP.join(
            _pad(truncate_middle(cell, widths[column]), widths[column], right=column in right)
            for column, cell in enumerate(row)
        ).rstrip()
        for row in cells
    ]


_MIN_AXIS = 24
"""Places of the shortest time axis."""

_DEFAULT_WIDTH = 100
"""Places of a line of the timings where the width of the terminal is not known."""


def timing_chart(
    records: Sequence[PhaseRecord], total: float, *, width: int | None, escape: Callable[[str], str]
) -> list[str]:
    """Return lines with a bar for each record on a common time axis of `total` seconds (SPEC 14.26).

    `escape` returns a text as it can be shown.
    """
    if not records:
        return [f"total {total:.3f} s; no driver was run"]
    # By name as well: the drivers of a query often start in the same millisecond.
    ordered = sorted(records, key=lambda record: (record.start, record.driver))
    rows = [
        [
            escape(record.driver),
            record.phase,
            f"{record.seconds:.3f}",
            escape(record.status),
        ]
        for record in ordered
    ]
    width = width or _DEFAULT_WIDTH
    labels = table(
        [["driver", "phase", "seconds", "status"], *rows], right=(2,), width=width - _MIN_AXIS - len(GAP)
    )
    label_width = max(map(display_width, labels))
    axis_width = max(_MIN_AXIS, width - label_width - len(GAP))
    axis = "0 s" + f"{total:.3f} s".rjust(axis_width - 3)
    lines = [_pad(labels[0], label_width, right=False) + GAP + axis]
    for label, record in zip(labels[1:], ordered):
        start = min(axis_width - 1, int(axis_width * record.start / total)) if total else 0
        length = round(axis_width * record.seconds / total) if total else 1
        bar = " " * start + "=" * max(1, min(axis_width - start, length))
        lines.append(_pad(label, label_width, right=False) + GAP + bar)
    sequential = _sequential_seconds(ordered, total)
    lines.append(f"total {total:.3f} s; {sequential:.3f} s if the drivers ran one after another")
    return lines


def timing_object(records: Sequence[PhaseRecord], total: float) -> dict[str, Any]:
    """Return what `timing_chart` shows, as the object that `--timings --json` prints (SPEC 14.39)."""
    ordered = sorted(records, key=lambda record: (record.start, record.driver))
    return {
        "total": round(total, 3),
        "sequential": round(_sequential_seconds(ordered, total), 3),
        "records": [
            {
                "driver": record.driver,
                "phase": record.phase,
                "start": record.start,
                "seconds": record.seconds,
                "status": record.status,
            }
            for record in ordered
        ],
    }


def _sequential_seconds(ordered: Sequence[PhaseRecord], total: float) -> float:
    """Return how long the run would have taken with one driver at a time. `ordered`: by their start."""
    busy = until = 0.0
    for record in ordered:
        end = record.start + record.seconds
        busy += max(0.0, end - max(until, record.start))
        until = max(until, end)
    return max(0.0, total - busy) + sum(record.seconds for record in ordered)


def progress_bar(percent: int, message: str, activity: str, width: int) -> str:
    """Return a line of at most `width` places that shows the progress of an adjust.

    `message`: the last message; `activity`: what is waited for, "" if there is nothing to say. Both must be
    printable.
    """
    bar_width = max(4, min(30, width // 3))
    done = bar_width * percent // 100
    bar = f"[{'#' * done}{'.' * (bar_width - done)}] {percent:3d} %  "
    end = f", {activity}" if activity else ""
    left = max(2, width - len(bar) - display_width(end))
    return _truncate(bar + truncate_middle(message, left) + end, width)


def _truncate(text: str, width: int) -> str:
    """Return the beginning of a text, at most `width` places."""
    for index, character in enumerate(text):
        width -= display_width(character)
        if width < 0:
            return text[:index]
    return text
