"""Find and check section `agg` in the text of config.yaml (SPEC 11.1-11.10).

The rest of the file belongs to the drivers: it must be YAML, but nothing else is expected of it. Neither the
depth of the file nor the number of references in it can cost much time or memory.
"""

from __future__ import annotations

import re

import yaml

from servo_agg.config_composer import (
    MAX_DEPTH,
    UNDEFINED,
    NotMappingError,
    TooDeepError,
    compose_documents,
    pairs_with_merged,
)
from servo_agg.config_nesting import blank_deep_nesting
from servo_agg.config_schema import FILE, KEYS, SECTION, key_hint
from servo_agg.config_syntax import explain_syntax_error
from servo_agg.errors import BadConfiguration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from servo_agg.errors import UserError

_TEXT = "tag:yaml.org,2002:str"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")

_MAX_DIGITS = 100
"""Digits of the longest number that is converted."""

_MAX_MISTAKES = 20
"""The number of mistakes that a check reports."""

_SHOWN = 80
"""Characters of a wrong value that a message shows."""

_MAX_PATTERN = 1000
"""Characters of the longest name pattern: the time to translate one grows with its square (SPEC 11.14)."""

_MAX_SOURCE = 1000
"""Characters of the file that are read for a value."""


def parse_section(text: str, errors: list[UserError] | None) -> dict[str, Any]:
    """Return the values of section `agg`, checked; {} if there is none. Raises BadConfiguration.

    With `errors`, a mistake in a key is appended there instead, and the key is left out.
    """
    try:
        return _parse(text, text, errors)
    except (yaml.YAMLError, TooDeepError) as error:
        refusal = error
    shallow = blank_deep_nesting(text)
    if shallow != text:
        try:
            return _parse(shallow, text, errors)
        except (yaml.YAMLError, TooDeepError) as error:
            refusal = error
    raise _syntax_error(refusal, text)


def _parse(text: str, shown: str, errors: list[UserError] | None) -> dict[str, Any]:
    """Parse a text; messages quote `shown`, which has the same lines and columns."""
    # The loader in C is ten times as fast, and some files have several hundred KB.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        pair = _find_section(loader)
        return {} if pair is None else _Section(loader, *pair, shown).values(errors)
    except NotMappingError as error:
        if error.merged.tag == UNDEFINED:
            raise _undefined_error(error.merged) from None
        raise BadConfiguration(
            f"{_place(error.key)}: << merges only mappings; give it a mapping, such as *NAME"
        ) from None
    finally:
        loader.dispose()


def _find_section(loader: yaml.SafeLoader) -> tuple[yaml.Node, yaml.Node] | None:
    """Return key and value of the section; refuse one in a further document, which would be ignored."""
    documents = compose_documents(loader, SECTION)
    section = _find_in_document(next(documents, None))
    others = []
    try:
        for document in documents:
            others.append(_find_in_document(document))  # noqa: PERF401 - those before an error count
    except (yaml.YAMLError, TooDeepError, NotMappingError):
        # Errors in further documents do not matter: only the first is used.
        pass
    for other in others:
        if other is not None:
            raise BadConfiguration(
                f"{_place(other[1])}: the section {SECTION} is in the second document, after a `---`; move it"
                " into the first"
            )
    return section


def _find_in_document(document: yaml.MappingNode | None) -> tuple[yaml.Node, yaml.Node] | None:
    """Return key and value of the section in one document, None if it has none."""
    for pairs in () if document is None else pairs_with_merged(document):
        found = [pair for pair in pairs if pair[0].value == SECTION]
        if len(found) > 1:
            raise BadConfiguration(
                f"{_place(found[1][0])}: a second section {SECTION}; put all keys into one section"
            )
        if found:
            return found[0]
    return None


class _Section:
    """The nodes of the section, whose values are constructed key by key.

    _start, _end  where the section is in the text; what it merges (`<<`) may be elsewhere
    """

    def __init__(self, loader: yaml.SafeLoader, key: yaml.Node, node: yaml.Node, text: str) -> None:
        self._loader = loader
        self._node = node
        self._text = text
        self._start = key.end_mark.index
        self._end = node.end_mark.index

    def values(self, errors: list[UserError] | None) -> dict[str, Any]:
        """Return the values, checked. Raises BadConfiguration; `errors`: see `parse_section`."""
        mistakes: list[UserError] = []
        values: dict[str, Any] = {}
        for name, (key, value) in self._pairs(mistakes).items():
            # Nobody reads more, and finding the nearest key for each takes time.
            if len(mistakes) >= (1 if errors is None else _MAX_MISTAKES):
                break
            try:
                values[name] = self._value(name, key, value)
            except BadConfiguration as error:
                mistakes.append(error)
        if mistakes and errors is None:
            raise mistakes[0]
        if errors is not None:
            errors += mistakes[:_MAX_MISTAKES]
        return values

    def _pairs(self, mistakes: list[UserError]) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Return key and value by name, merged ones too; add keys that are given twice to `mistakes`."""
        node: Any = self._node
        if node.tag == UNDEFINED:
            raise _undefined_error(node)
        if node.tag == "tag:yaml.org,2002:null":
            return {}
        if node.tag != "tag:yaml.org,2002:map" or not isinstance(node.value, list):
            shown = f", got {self._shown(node)}" if self._holds(node) else ""
            raise BadConfiguration(
                f"{_place(node)}: the section {SECTION} must hold keys with values, such as `grace: 5`{shown}"
            )
        own, *merged = pairs_with_merged(node)
        pairs: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in own:
            name = self._name(key)
            if name not in KEYS and self._holds(node) and not self._holds(key):
                mistakes.append(
                    BadConfiguration(
                        f"{_place(node)}: an alias (*NAME) in section {SECTION} stands for an unknown key;"
                        f" {key_hint('')}"
                    )
                )
            elif pairs.setdefault(name, (key, value))[0] is not key:
                mistakes.append(
                    BadConfiguration(
                        f"{_place(key)}: {SECTION}.{_shortened(name)} is set twice; remove one of the two"
                    )
                )
        for others in merged:
            for key, value in reversed(others):
                pairs.setdefault(self._name(key), (key, value))
        return pairs

    def _value(self, name: str, key: yaml.Node, node: yaml.Node) -> Any:
        if name not in KEYS:
            shown = f" (value {self._shown(node)})" if self._holds(node) else ""
            raise BadConfiguration(
                f"{_place(key)}: unknown key {_shortened(name)!r}{shown} in section {SECTION};"
                f" {key_hint(_shortened(name))}"
            )
        if node.tag == UNDEFINED:
            raise _undefined_error(node)
        is_valid, expected = KEYS[name]
        value = self._constructed(node)
        if not is_valid(value):
            raise BadConfiguration(
                f"{_place(node)}: {SECTION}.{name} is {self._shown(node)}, expected {expected}"
            )
        for pattern in value if isinstance(value, list) else ():
            if len(pattern) > _MAX_PATTERN:
                raise BadConfiguration(
                    f"{_place(node)}: a pattern of {SECTION}.{name} is longer than {_MAX_PATTERN} characters;"
                    f" shorten it: {_shortened(pattern)!r}"
                )
            reversed_ = _reversed_range(pattern)
            if reversed_:
                raise BadConfiguration(
                    f"{_place(node)}: in a pattern of {SECTION}.{name} the range {reversed_!r} is reversed;"
                    f" write {reversed_[::-1]!r}: {_shortened(pattern)!r}"
                )
        return value

    def _constructed(self, node: yaml.Node) -> Any:
        """Return a number, a string or a list of strings; None for anything else, which no key may have."""
        if isinstance(node.value, str):
            if node.tag == _TEXT:
                return node.value
            # No longer number is valid, and one in base 60 takes time that grows with its square.
            if node.tag not in _NUMBERS or len(node.value) > _MAX_DIGITS:
                return None
            try:
                return self._loader.construct_object(node)
            except (ValueError, LookupError, ArithmeticError):
                return None
        if node.tag != "tag:yaml.org,2002:seq":
            return None
        items = [item.value if getattr(item, "tag", None) == _TEXT else None for item in node.value]
        return items if all(isinstance(item, str) for item in items) else None

    def _name(self, key: yaml.Node) -> str:
        return key.value if isinstance(key.value, str) else self._source(key)

    def _shown(self, node: yaml.Node) -> str:
        """Return a value as it is written in the file, shortened; a string in quotes."""
        if node.tag == _TEXT and isinstance(node.value, str):
            return f"the string {_shortened(node.value)!r}"
        return _shortened(self._source(node)) or "empty"

    def _source(self, node: yaml.Node) -> str:
        start = node.start_mark.index
        return " ".join(self._text[start : min(node.end_mark.index, start + _MAX_SOURCE)].split())

    def _holds(self, node: yaml.Node) -> bool:
        """Return whether a value is in the section itself, not in a part that belongs to drivers."""
        return self._start <= node.start_mark.index <= self._end


def _reversed_range(pattern: str) -> str:
    """Return the first reversed range of a name pattern, as in `[z-a]`; "" without one."""
    for letters in re.findall(r"\[!?(\]?[^\]]*)\]", pattern):
        at = 0
        while at < len(letters):
            first, dash, last = letters[at], letters[at + 1 : at + 2], letters[at + 2 : at + 3]
            if dash == "-" and last:
                if first > last:
                    return f"{first}-{last}"
                at += 2
            at += 1
    return ""


def _undefined_error(alias: yaml.Node) -> BadConfiguration:
    line, column = alias.start_mark.line + 1, alias.start_mark.column + 1
    return BadConfiguration(
        f"{FILE}, line {line}, column {column}: this alias (*NAME) has no anchor (&NAME) above it; define the"
        " anchor, or remove the alias"
    )


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _place(node: yaml.Node) -> str:
    return f"{FILE}, line {node.start_mark.line + 1}"


def _syntax_error(error: Exception, text: str) -> BadConfiguration:
    place, outer = (
        None if mark is None else (mark.line, mark.column)
        for mark in (getattr(error, "problem_mark", None), getattr(error, "context_mark", None))
    )
    if isinstance(error, TooDeepError) and place is not None:
        return BadConfiguration(
            f"{FILE}, line {place[0] + 1}: nested more than {MAX_DEPTH} levels deep; reduce the nesting"
        )
    # Only the error about control characters has no position.
    return BadConfiguration(explain_syntax_error(text, place or outer, outer))
