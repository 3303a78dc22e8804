"""Replace what is nested too deeply for PyYAML by blanks. Pure (SPEC 11.2).

Parsers of YAML refuse deep nesting, or take time that grows with its square. Section `agg` is never that
deep, so what is replaced belongs to the drivers. This scans only lines and brackets.
"""

from __future__ import annotations

import re

_MAX_BRACKETS = 80
"""Nested `[` and `{` that are left in the text."""

_MAX_COLUMNS = 50
"""Nested columns of indentation that are left. A column may hold two levels, a list in a mapping."""


def blank_deep_nesting(text: str) -> str:
    """Return the text with blanks for what is nested too deeply; the rest keeps its line and column."""
    spans: list[tuple[int, int]] = []
    columns: list[int] = []
    hidden: int | None = None
    whole = _IN_BRACKETS.match(text) is not None
    start = 0
    while start < len(text):
        end = _line_end(text, start)
        line = _LINE.match(text, start)
        if line is None:
            start = end
            continue
        indent = len(line["indent"])
        if hidden is not None and indent >= hidden:
            spans.append((start, end))
            start = end
            continue
        hidden = _enter_columns(columns, indent, line["marks"])
        if hidden is not None:
            spans.append((start + hidden, end))
            start = end
            continue
        place = line.end()
        while (found := _OPENING.search(text, place, end)) and found[0] in ("[", "{"):
            place = _after_brackets(text, found.start(), spans, whole=whole)
            end = max(end, _line_end(text, place - 1))
        start = end
    return _blanked(text, spans) if spans else text


def _line_end(text: str, place: int) -> int:
    return text.find("\n", place) + 1 or len(text)


def _enter_columns(columns: list[int], indent: int, marks: str) -> int | None:
    """Add the columns at which a line opens a level; return the one that is too deep, None if none is.

    `marks` are the `- `, `? ` and `: ` between the indentation of the line and its content.
    """
    while columns and columns[-1] > indent:
        columns.pop()
    for column in (indent, *(indent + mark.end() for mark in _MARK.finditer(marks))):
        if not columns or columns[-1] < column:
            if len(columns) == _MAX_COLUMNS:
                return column
            columns.append(column)
    return None


def _after_brackets(text: str, start: int, spans: list[tuple[int, int]], *, whole: bool) -> int:
    """Return the index after the bracket that closes the one at `start`; add to `spans` what is too deep.

    `whole` says that brackets enclose the whole text. If not, a key at the beginning of a line is outside of
    all brackets, so that what looked like an opening bracket was part of a string.
    """
    depth = 0
    deep = start
    end = len(text)
    for token in _TOKEN.finditer(text, start):
        first = token[0][:1]
        if first in ("[", "{"):
            depth += 1
            if depth == _MAX_BRACKETS:
                deep = token.end()
        elif first in ("]", "}"):
            if depth == _MAX_BRACKETS:
                spans.append((deep, token.start()))
            depth -= 1
            if not depth:
                return token.start() + 1
        elif token["key"] and not whole:
            end = token.start()
            break
    if depth >= _MAX_BRACKETS:
        spans.append((deep, end))
    return end


def _blanked(text: str, spans: list[tuple[int, int]]) -> str:
    parts = []
    place = 0
    for start, end in spans:
        parts += [text[place:start], _NO_LINE_BREAK.sub(" ", text[start:end])]
        place = end
    return "".join([*parts, text[place:]])


_LINE = re.compile(r"(?P<indent> *)(?P<marks>(?:[-?:][ \t]+)*)(?=[^\s#])")
_MARK = re.compile(r"[-?:][ \t]+")
_OPENING = re.compile(r"[\[{]|(?<!\S)#")
_IN_BRACKETS = re.compile(r"(?:[ \t]*(?:[#%].*)?\r?\n)*(?:---)?\s*[\[{]")
_NO_LINE_BREAK = re.compile(r"[^\r\n]")
_TOKEN = re.compile(
    r"""
      (?P<key> ^ ["']? \w [^\s,\[\]{}]* : (?=\s) )
    | [\[{]
    | [\]}] (?: \s* : )?
    | " [^"\\]* (?: \\. [^"\\]* )* " (?: \s* : )?
    | ' [^']* (?: '' [^']* )* ' (?: \s* : )?
    | (?<! \S ) \# [^\n]*
    | [^\s\[\]{},"'\#] [^\s\[\]{},]*
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
