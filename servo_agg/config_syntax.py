"""Explain why the text of config.yaml is not valid YAML. Pure (SPEC 11).

The messages of PyYAML are not used: they describe its parser, and differ from one version to another. The
cause is found in the text at the two positions that an error has, which all versions report:
- `place`: where the parser stopped
- `outer`: where the part begins that it was reading, if it reports that

A line is quoted only if it is in section `agg`: the rest of the file may contain passwords.
"""

from __future__ import annotations

import re

from servo_agg.config_schema import FILE, SECTION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    Place = tuple[int, int]

_SHOWN = 80
"""Characters of a line that a message shows."""


class _Stop:
    """Where the parser stopped.

    lines      the text
    number     index of the line
    column     index in the line
    before     what precedes it in the line
    character  what stands there; "" at the end of a line
    outer      where the part begins that the parser was reading; None if that is not known, or the same place
    opening    what stands there; "" without `outer`
    """

    def __init__(self, lines: Sequence[str], place: Place, outer: Place | None) -> None:
        self.lines = lines
        self.number, self.column = place
        # The end of the text may be on a line after the last one.
        line = lines[self.number] if self.number < len(lines) else ""
        self.before = line[: self.column]
        self.character = line[self.column : self.column + 1]
        self.outer = None if outer == place else outer
        self.opening = ""
        if self.outer is not None and self.outer[0] < len(lines):
            self.opening = lines[self.outer[0]][self.outer[1] : self.outer[1] + 1]


def explain_syntax_error(text: str, place: Place | None, outer: Place | None) -> str:
    """Return a message that says where and, if that can be told, why a text is not YAML.

    `place` and `outer` are indexes of line and column. Without `place` the text has a control character.
    """
    if place is None:
        found = _CONTROL_CHARACTER.search(text)
        line = text.count("\n", 0, found.start() if found else 0) + 1
        return f"{FILE} is not valid YAML: line {line} has a control character; remove it"
    stop = _Stop(_LINE_BREAK.split(text), place, outer)
    lines, number = stop.lines, stop.number
    if not stop.before.strip() and number < len(lines) and _TAB.match(lines[number]):
        return f"{FILE} is not valid YAML: line {number + 1} is indented with a tab; YAML needs spaces"
    blamed, cause = _cause(stop)
    if cause and _is_in_section(lines, blamed):
        return f"{FILE} is not valid YAML: line {blamed + 1} {cause}: {_quoted(lines[blamed])}"
    where = f"{FILE} is not valid YAML at line {number + 1}, column {stop.column + 1}"
    if stop.outer is not None and stop.outer[0] < number:
        where += f", in the part that starts at line {stop.outer[0] + 1}"
    shown = number < len(lines) and lines[number].strip() and _is_in_section(lines, number)
    return f"{where}: {_quoted(lines[number])}" if shown else where


def _cause(stop: _Stop) -> tuple[int, str]:
    """Return the index of the line that is wrong, and what is wrong with it; "" if that cannot be told."""
    if stop.outer is None:
        cause = _unquoted_value(stop)
        if cause:
            return stop.number, cause
        return _unexpected_colon(stop) if stop.character == ":" else (stop.number, "")
    if stop.opening and stop.opening in "\"'[{":
        if stop.opening == '"' and stop.character and "\\" in (stop.character, stop.before[-1:]):
            return stop.number, "has an unknown escape sequence in double quotes; use single quotes"
        if not _is_closed(stop.lines, stop.outer):
            return stop.outer[0], f"has a {stop.opening} that is not closed; {_CLOSE[stop.opening]}"
    cause = _unquoted_value(stop) or _text_after_value(stop)
    if not cause and not stop.lines[stop.outer[0]][: stop.outer[1]].strip():
        # The part begins its line.
        missing = _missing_colon(stop.lines[stop.outer[0]])
        if missing and stop.outer[0] < stop.number:
            return stop.outer[0], missing
        if not stop.before.strip() and stop.character and stop.column not in _indentations(stop):
            cause = f"is indented differently from the lines above it; {_INDENT_EQUALLY}"
    return stop.number, cause


def _unquoted_value(stop: _Stop) -> str:
    """Return what is wrong with a value that begins with a character of special meaning, "" if it is not."""
    first = stop.character if stop.character and stop.character in "@`%" else ""
    if stop.opening and stop.opening in "*&!|>" and stop.outer is not None:
        is_word = stop.outer[0] == stop.number and " " not in stop.before[stop.outer[1] :]
        first = first or (stop.opening if is_word else "")
    if first:
        return f"has a value that begins with {first}; put it in quotes"
    if stop.character == "\t":
        return "has a tab before the value; YAML needs a space"
    if stop.character == "-" and stop.outer is None and stop.before.rstrip().endswith(":"):
        return "has a list item after a key; write the list in brackets, such as ['k8s-*']"
    return ""


def _text_after_value(stop: _Stop) -> str:
    """Return what is wrong if a value in quotes or in a list does not end where it should, else ""."""
    if stop.character and stop.character not in ":,]}\"'" and _AFTER_QUOTE.search(stop.before):
        return "has text after a closing quote; put the whole value in quotes"
    if stop.opening and stop.opening in "[{" and stop.outer is not None:
        read = [*stop.lines[: stop.number], stop.before]
        return "" if _is_closed(read, stop.outer) else f"needs a comma or quotes at column {stop.column + 1}"
    return ""


def _unexpected_colon(stop: _Stop) -> tuple[int, str]:
    """Return the wrong line, and what is wrong with it, where a colon is not allowed; "" if unknown."""
    lines, number = stop.lines, stop.number
    if _COLON.search(stop.before):
        return number, "has a second colon; put the value in quotes, or each key on its own line"
    last = next((index for index in reversed(range(number)) if _CONTENT.match(lines[index])), None)
    if last is None:
        return number, ""
    missing = _missing_colon(lines[last])
    if missing:
        return last, missing
    deeper = _indentation(lines[number]) > _indentation(lines[last])
    if deeper and _VALUE.search(lines[last]):
        return number, f"is indented more than line {last + 1}, which already has a value; {_REMOVE_VALUE}"
    return number, ""


def _missing_colon(line: str) -> str:
    """Return what is wrong with a line that should be `KEY: VALUE`, "" if it may be that."""
    if _COLON.search(line):
        return ""
    if _NO_SPACE.match(line):
        return "has no space after the colon; write KEY: VALUE"
    return "has no colon after the key; write KEY: VALUE" if _NO_COLON.match(line) else ""


def _is_closed(lines: Sequence[str], opening: Place) -> bool:
    """Return whether the quote or bracket at `opening` is closed by one of its kind."""
    number, column = opening
    text = "\n".join([lines[number][column:], *lines[number + 1 :]])
    if text[0] in "\"'":
        return _QUOTED.match(text) is not None
    brackets: list[str] = []
    for token in _TOKEN.findall(text):
        if token in ("[", "{"):
            brackets.append(token)
        elif token in ("]", "}"):
            if _CLOSED_BY[brackets.pop()] != token:
                return False
            if not brackets:
                return True
        elif token in ("'", '"'):
            return False
    return False


_CLOSED_BY = {"[": "]", "{": "}"}


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _indentations(stop: _Stop) -> list[int]:
    """Return the columns at which a line can continue a list or mapping of the lines above it."""
    columns: list[int] = []
    for line in stop.lines[: stop.number]:
        if _CONTENT.match(line):
            column = _indentation(line)
            while columns and columns[-1] > column:
                columns.pop()
            if column not in columns:
                columns.append(column)
    return columns


def _is_in_section(lines: Sequence[str], number: int) -> bool:
    """Return whether a line belongs to our section, by the last line up to it that is not indented."""
    for line in reversed(lines[: number + 1]):
        if line and line[0] not in " \t#-]},":
            return re.split(r"[:\s]", line.replace("'", "").replace('"', ""), maxsplit=1)[0] == SECTION
    return False


def _quoted(line: str) -> str:
    return repr(line.rstrip()[:_SHOWN])


_CLOSE_OR_QUOTE = "close it, or put the value in quotes"
_CLOSE = {'"': "close it", "'": "close it", "[": _CLOSE_OR_QUOTE, "{": _CLOSE_OR_QUOTE}
_INDENT_EQUALLY = "indent all entries of a mapping or list equally"
_REMOVE_VALUE = "indent both lines equally, or remove that value"

_LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
_CONTROL_CHARACTER = re.compile("[^\t\n\r -~\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAB = re.compile(" *\t")
_CONTENT = re.compile(r"\s*[^\s#]")
_COLON = re.compile(r":(?=\s|$)")
_VALUE = re.compile(r":\s+[^\s#]")
_NO_SPACE = re.compile(r" *[\w-]+:\S")
_NO_COLON = re.compile(r" *\w[\w-]*(?=\s|=|$)")
_AFTER_QUOTE = re.compile(r"""("[^"]+"|'[^']+')\s*$""")
_QUOTED = re.compile(r"""(?s:"(?:[^"\\]|\\.)*"|'(?:[^']|'')*')""")
_TOKEN = re.compile(
    r"""(?s:"(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|["'\[\]{}]|(?<!\S)#[^\n]*|[^\s\[\]{},"'][^\s\[\]{},]*)"""
)
