"""The section `agg` of config.yaml.

Rules (SPEC 11):
- It is optional, as is the file. The rest of the file is the drivers' and not judged: a file without
  the bytes `agg` is not even parsed, and else only the node of that key is constructed.
- Neither the size or depth of the file nor what refers to what in it can cost much time or memory.
- Whatever is wrong is a Fault that names the file, the key and the value as it stands there. What lies
  outside of the section is not quoted: it may be a password.
"""

from __future__ import annotations

import os
import sys
from stat import S_ISFIFO

from servo_agg.errors import BadConfiguration, BadEnvironment
from servo_agg.keys import KEYS, nearest, reversed_range

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import yaml

    from servo_agg.errors import Fault

FILE = "config.yaml"
SECTION = "agg"

INSTALL = f"{sys.executable} -m pip install "
"""The command that installs a package, its name to be added."""


def read(faults: list[Fault] | None = None) -> dict[str, Any]:
    """Give the section `agg`, checked; {} when there is none (SPEC 11).

    Raises BadConfiguration or BadEnvironment; with `faults` each mistake in it is put there instead, and
    its key left out.
    """
    content = _content()
    if SECTION.encode() not in content:
        return {}
    if len(content) > _MOST_PARSED:
        raise BadConfiguration(
            f"{FILE} may have a section {SECTION}, since the word occurs in it, but is longer than"
            f" {_MOST_PARSED >> 20} MiB: what is not configuration must be in another file"
        )
    try:
        import yaml  # noqa: PLC0415 - 14 ms that only a section `agg` is worth
    except ImportError:
        raise BadEnvironment(
            f"{FILE} may have a section {SECTION}, since the word occurs in it: it cannot be read without the"
            " Python package PyYAML."
            f" Install it: {INSTALL}PyYAML"
        ) from None
    from servo_agg.nodes import TooDeep  # noqa: PLC0415 - needs PyYAML

    try:
        text = content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadConfiguration(f"{FILE} cannot be read as YAML: it is not UTF-8 (line {line})") from None
    try:
        return _read_text(text, text, faults)
    except (yaml.YAMLError, TooDeep) as error:
        from servo_agg.nesting import flattened  # noqa: PLC0415 - hardly ever needed

        refusal = error
        flat = flattened(text)
    if flat != text:
        try:
            return _read_text(flat, text, faults)
        except (yaml.YAMLError, TooDeep) as error:
            refusal = error
    raise BadConfiguration(f"{FILE} cannot be read as YAML: {_explanation(refusal, text)}")


def _content() -> bytes:
    """Return what the file holds, as UTF-8; nothing when there is none."""
    try:
        # Not to hang, should it be a pipe.
        with open(os.open(FILE, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if S_ISFIFO(os.fstat(file.fileno()).st_mode):
                raise BadConfiguration(f"{FILE} is a pipe, but it must be a file")
            content = file.read(_MOST_LOOKED_AT + 1)
    except FileNotFoundError:
        if os.path.islink(FILE):
            raise BadConfiguration(f"{FILE} is a link to {os.readlink(FILE)}, which does not exist") from None
        return b""
    except OSError as error:
        raise BadConfiguration(f"{FILE} cannot be read: {os.strerror(error.errno or 0)}") from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        # As an editor on Windows writes it.
        content = content.decode("utf-16", "replace").encode()
    if len(content) > _MOST_LOOKED_AT:
        raise BadConfiguration(f"{FILE} is longer than {_MOST_LOOKED_AT >> 20} MiB")
    return content


def _read_text(text: str, shown: str, faults: list[Fault] | None) -> dict[str, Any]:
    """Return the section of a text; messages quote `shown`, of which `text` is a copy with blanks in it."""
    import yaml  # noqa: PLC0415 - as above

    from servo_agg.nodes import NoMapping  # noqa: PLC0415 - needs PyYAML

    # The one in C is ten times as quick, and files of some hundred KB are seen.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        pair = _the_only(loader)
        return {} if pair is None else _Section(loader, *pair, shown).values(faults)
    except NoMapping as error:
        if _is_undefined(error.merged):
            raise _undefined(error.merged) from None
        raise BadConfiguration(f"{_place(error.key)}: << merges mappings, and nothing else") from None
    finally:
        loader.dispose()


def _the_only(loader: yaml.SafeLoader) -> tuple[yaml.Node, yaml.Node] | None:
    """Return key and value of our section in the first document; in another one it would be overlooked."""
    import yaml  # noqa: PLC0415 - as above

    from servo_agg.nodes import NoMapping, TooDeep, documents  # noqa: PLC0415 - needs PyYAML

    found = documents(loader, SECTION)
    section = _find(next(found, None))
    others = []
    try:
        for document in found:
            others.append(_find(document))  # noqa: PERF401 - what comes before an error counts
    except (yaml.YAMLError, TooDeep, NoMapping):
        # Further documents are not ours to judge.
        pass
    for other in others:
        if other is not None:
            raise BadConfiguration(
                f"{_place(other[1])}: the section {SECTION} stands after a `---`, but only what comes before"
                " the second document is read"
            )
    return section


def _find(document: yaml.MappingNode | None) -> tuple[yaml.Node, yaml.Node] | None:
    """Return key and value of our section, None when there is none."""
    from servo_agg.nodes import with_merged  # noqa: PLC0415 - needs PyYAML

    for pairs in () if document is None else with_merged(document):
        ours = [pair for pair in pairs if pair[0].value == SECTION]
        if len(ours) > 1:
            raise BadConfiguration(
                f"{_place(ours[1][0])}: here is another section {SECTION}; put all its keys into one"
            )
        if ours:
            return ours[0]
    return None


class _Section:
    """The section as it stands in the file, of which the values are constructed key by key.

    _start, _end  what of the text is its own; what it merges may lie outside
    """

    def __init__(self, loader: yaml.SafeLoader, key: yaml.Node, node: yaml.Node, text: str) -> None:
        self._loader = loader
        self._node = node
        self._text = text
        self._start = key.end_mark.index
        self._end = node.end_mark.index

    def values(self, faults: list[Fault] | None) -> dict[str, Any]:
        """Return them, checked. Raises BadConfiguration; `faults`: see `read`."""
        mistakes: list[Fault] = []
        values: dict[str, Any] = {}
        for name, (key, value) in self._pairs(mistakes).items():
            # More would be of no use to anybody, and the nearest key is looked for in each.
            if len(mistakes) >= (1 if faults is None else _MOST_MISTAKES):
                break
            try:
                values[name] = self._value(name, key, value)
            except BadConfiguration as fault:
                mistakes.append(fault)
        if mistakes and faults is None:
            raise mistakes[0]
        if faults is not None:
            faults += mistakes[:_MOST_MISTAKES]
        return values

    def _pairs(self, mistakes: list[Fault]) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Return key and value by name, merged ones too; put a key that is given twice in `mistakes`."""
        from servo_agg.nodes import with_merged  # noqa: PLC0415 - needs PyYAML

        node: Any = self._node
        if _is_undefined(node):
            raise _undefined(node)
        if node.tag == "tag:yaml.org,2002:null":
            return {}
        if node.tag != "tag:yaml.org,2002:map" or not isinstance(node.value, list):
            shown = f", but it is {self._shown(node)}" if self._holds(node) else ""
            raise BadConfiguration(
                f"{_place(node)}: the section {SECTION} must hold keys and values, such as `grace: 5`{shown}"
            )
        own, *merged = with_merged(node)
        pairs: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in own:
            name = self._name(key)
            if pairs.setdefault(name, (key, value))[0] is not key:
                mistakes.append(
                    BadConfiguration(
                        f"{_place(key)}: {SECTION}.{_cut(name)} is given a second time; leave one of them out"
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
                f"{_place(key)}: the section {SECTION} has an unknown key {_cut(name)!r}{shown}:"
                f" {nearest(_cut(name))}"
            )
        if _is_undefined(node):
            raise _undefined(node)
        right, wanted = KEYS[name]
        value = self._constructed(node)
        if not right(value):
            raise BadConfiguration(
                f"{_place(node)}: {SECTION}.{name} is {self._shown(node)}, but it must be {wanted}"
            )
        for pattern in value if isinstance(value, list) else ():
            letters = reversed_range(pattern)
            if letters:
                raise BadConfiguration(
                    f"{_place(node)}: {SECTION}.{name} has the pattern {_cut(pattern)!r}, in which the range"
                    f" {letters!r} is the wrong way round"
                )
        return value

    def _constructed(self, node: yaml.Node) -> Any:
        """Return a number, a text or a list of texts; None for anything else, which no key may have."""
        if isinstance(node.value, str):
            if node.tag == _TEXT:
                return node.value
            # Of more digits, no number is right; and in base 60 they take time by the square.
            if node.tag not in _NUMBERS or len(node.value) > _MOST_DIGITS:
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
        """Return a value as it stands in the file, bounded; a text as such, in quotes."""
        if node.tag == _TEXT:
            return f"the text {_cut(node.value)!r}"
        return _cut(self._source(node)) or "empty"

    def _source(self, node: yaml.Node) -> str:
        start = node.start_mark.index
        return " ".join(self._text[start : min(node.end_mark.index, start + _LOOKED_AT)].split())

    def _holds(self, node: yaml.Node) -> bool:
        """Tell whether a value stands in the section itself, and not in a part of the drivers'."""
        return self._start <= node.start_mark.index <= self._end


def _is_undefined(node: yaml.Node) -> bool:
    from servo_agg.nodes import UNDEFINED  # noqa: PLC0415 - needs PyYAML

    return node.tag == UNDEFINED


def _undefined(alias: yaml.Node) -> BadConfiguration:
    line, column = alias.start_mark.line + 1, alias.start_mark.column + 1
    return BadConfiguration(
        f"{FILE}, line {line}, column {column}: the alias has no anchor of its name before it"
    )


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _place(node: yaml.Node) -> str:
    return f"{FILE}, line {node.start_mark.line + 1}"


def _explanation(error: Exception, text: str) -> str:
    """Say where a text is no YAML, and what the parser says of it if that is in our section."""
    import re  # noqa: PLC0415 - PyYAML has imported it

    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:
        # Only what is no text at all has no mark.
        found = re.search("[^\t\n\r -~\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", text)
        line = text.count("\n", 0, found.start() if found else 0) + 1
        return f"a control character stands there (line {line})"
    lines = re.split("\r\n|[\r\n\x85\u2028\u2029]", text)
    place = f"line {mark.line + 1}, column {mark.column + 1}"
    outer = getattr(error, "context_mark", None)
    begun = (
        f", in what begins in line {outer.line + 1}" if outer is not None and outer.line < mark.line else ""
    )
    if not _is_ours(lines, mark.line):
        return f"see {place}{begun}"
    there = lines[mark.line].rstrip() if mark.line < len(lines) else ""
    quoted = f": {there[:_SHOWN]!r}" if there else ""
    return f"{getattr(error, 'problem', error)} ({place}{quoted}{begun})"


def _is_ours(lines: list[str], number: int) -> bool:
    """Tell whether a line belongs to our section, by the last line before it that is not indented."""
    for line in reversed(lines[: number + 1]):
        if line and line[0] not in " \t#-]},":
            return line.replace("'", "").replace('"', "").partition(":")[0].rstrip() == SECTION
    return False


_MOST_LOOKED_AT = 64 << 20
_MOST_PARSED = 1 << 20
"""Bytes of a file that is looked at, and of one that is parsed."""

_TEXT = "tag:yaml.org,2002:str"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")

_MOST_DIGITS = 100
_MOST_MISTAKES = 20

_SHOWN = 80
"""Characters of a wrong value that a message shows."""

_LOOKED_AT = 1000
"""Characters of the file that are looked at for them."""
