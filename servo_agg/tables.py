"""Tables and bars for people, as lines of text. Pure.

Rules (SPEC 14):
- Columns line up by what a terminal shows: a letter of East Asia takes two places, an accent none.
- Whatever a driver says is shown without control characters: they are spelled out.
- With a width nothing is wider than that, as far as it can be made narrower; without one nothing is cut.
"""

from __future__ import annotations

from unicodedata import category, east_asian_width

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from servo_agg.report import Record

_GAP = "  "

_PLACELESS = ("Mn", "Me")
"""Categories of what is put on the letter before it."""

_LEAST = 12
"""Places that a column keeps when a table is too wide."""


def plain(text: str) -> str:
    """Spell out what is no printable character, line ends too."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def counted(number: int, thing: str) -> str:
    """Say how many there are: `1 driver`, `3 drivers`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def places(text: str) -> int:
    """Count the places that a printable text takes on a terminal."""
    return sum(
        0 if category(character) in _PLACELESS else 2 if east_asian_width(character) in "WF" else 1
        for character in text
    )


def fitted(text: str, width: int) -> str:
    """Shorten a text to so many places, two dots in its middle standing for what is left out."""
    if places(text) <= width:
        return text
    room = width - 2
    head, tail = "", ""
    for turn in range(len(text)):
        letter = text[-(turn // 2) - 1] if turn % 2 else text[turn // 2]
        room -= places(letter)
        if room < 0:
            break
        if turn % 2:
            tail = letter + tail
        else:
            head += letter
    return f"{head}..{tail}"


def wrapped(text: str, width: int | None, first: str, then: str) -> list[str]:
    """Break a printable text between words into lines, none wider if its words aren't.

    The first begins with `first`, the others with `then`.
    """
    start, *words = text.split(" ")
    lines = []
    line = first + start
    for word in words:
        if width is not None and places(line) + 1 + places(word) > width:
            lines.append(line)
            line = then + word
        else:
            line += f" {word}"
    return [*lines, line]


def ascii_only(text: str) -> str:
    """Spell out, as `plain` does, whatever is not ASCII: for stderr (SPEC 5)."""
    return plain(text).encode("ascii", "backslashreplace").decode()


def _filled(text: str, width: int, *, right: bool) -> str:
    blanks = " " * (width - places(text))
    return blanks + text if right else text + blanks


def table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), width: int | None = None) -> list[str]:
    """Lay out rows of equal length. `right`: the numbers of columns to be set flush right."""
    cells = [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(places, column)) for column in zip(*cells)]
    if width is not None:
        widths = [min(room, max(width, _LEAST)) for room in widths]
        surplus = sum(widths) + len(_GAP) * (len(widths) - 1) - width
        while surplus > 0 and max(widths) > _LEAST:
            # The widest gives way first.
            widths[widths.index(max(widths))] -= 1
            surplus -= 1
    return [
        _GAP.join(
            _filled(fitted(cell, widths[column]), widths[column], right=column in right)
            for column, cell in enumerate(row)
        ).rstrip()
        for row in cells
    ]


_BAR = 24
"""Places of the shortest time axis."""


def timings(records: Sequence[Record], total: float, *, width: int | None) -> list[str]:
    """Draw a bar for each record on a common time axis, `total` seconds long (SPEC 14)."""
    if not records:
        return [f"total {total:.3f} s; no driver was run"]
    # Drivers of a query start in the order of their names, often in the same millisecond.
    ordered = sorted(records, key=lambda record: (record.start, record.driver))
    rows = [
        [ascii_only(record.driver), record.phase, f"{record.seconds:.3f}", ascii_only(record.status)]
        for record in ordered
    ]
    left = table(
        [["driver", "phase", "seconds", "status"], *rows], right=(2,), width=(width or 100) - _BAR - len(_GAP)
    )
    margin = max(map(places, left))
    room = max(_BAR, (width or 100) - margin - len(_GAP))
    axis = "0 s" + f"{total:.3f} s".rjust(room - 3)
    lines = [_filled(left[0], margin, right=False) + _GAP + axis]
    for line, record in zip(left[1:], ordered):
        begin = min(room - 1, int(room * record.start / total)) if total else 0
        length = max(1, min(room - begin, round(room * record.seconds / total) if total else 1))
        lines.append(_filled(line, margin, right=False) + _GAP + " " * begin + "=" * length)
    in_turn = _alone(ordered, total) + sum(record.seconds for record in ordered)
    lines.append(f"total {total:.3f} s; one after another it would have been {in_turn:.3f} s")
    return lines


def _alone(ordered: Sequence[Record], total: float) -> float:
    """Give the seconds of a run in which no driver ran; `ordered` by start."""
    busy = until = 0.0
    for record in ordered:
        end = record.start + record.seconds
        busy += max(0.0, end - max(until, record.start))
        until = max(until, end)
    return max(0.0, total - busy)


def progress_bar(percent: int, text: str, width: int) -> str:
    """Give one line, as wide as `width` at most, that shows how far an adjust has come."""
    room = max(4, min(30, width // 3))
    done = room * percent // 100
    bar = f"[{'#' * done}{'.' * (room - done)}] {percent:3d} %  "
    return (bar + fitted(ascii_only(text), max(2, width - len(bar))))[:width]
