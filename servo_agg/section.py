"""The section `agg` of config.yaml.

Rules (SPEC 11):
- It is optional, as is the file. The rest of the file is the drivers' and not judged: a file without
  the bytes `agg` is not even parsed, and else only the node of that key is constructed.
- Neither the size of the file nor what refers to what in it can cost much time or memory.
- Whatever is wrong is a Fault that names the file, the key and the value as it stands there.
"""

from __future__ import annotations

import os
import sys
from stat import S_ISFIFO

from servo_agg.errors import BadConfiguration, BadEnvironment
from servo_agg.keys import KEYS, nearest

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
    text = _text()
    if SECTION.encode() not in text:
        return {}
    if len(text) > _MOST_PARSED:
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
    loader = None
    try:
        # The one in C is ten times as quick, and files of some hundred KB are seen.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
        return _construct(loader, _the_only(loader), text.decode(), faults)
    except (yaml.YAMLError, RecursionError) as error:
        raise BadConfiguration(f"{FILE} cannot be read as YAML: {_where(error, text)}") from None
    finally:
        if loader is not None:
            loader.dispose()


def _text() -> bytes:
    """Give what the file holds, as UTF-8; nothing when there is none."""
    try:
        # Not to hang, should it be a pipe.
        with open(os.open(FILE, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if S_ISFIFO(os.fstat(file.fileno()).st_mode):
                raise BadConfiguration(f"{FILE} is a pipe, but it must be a file")
            text = file.read(_MOST_LOOKED_AT + 1)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise BadConfiguration(f"{FILE} cannot be read: {os.strerror(error.errno or 0)}") from None
    if text.startswith((b"\xff\xfe", b"\xfe\xff")):
        # As an editor on Windows writes it.
        text = text.decode("utf-16", "replace").encode()
    if len(text) > _MOST_LOOKED_AT:
        raise BadConfiguration(f"{FILE} is longer than {_MOST_LOOKED_AT >> 20} MiB")
    return text


def _find(document: yaml.Node | None) -> yaml.Node | None:
    """Give the node of our section, None when there is none."""
    pairs = document.value if document is not None and isinstance(document.value, list) else []
    found = None
    for pair in pairs:
        # A sequence holds nodes, a mapping pairs of nodes.
        if isinstance(pair, tuple) and pair[0].value == SECTION:
            if found is not None:
                raise BadConfiguration(
                    f"{_place(pair[0])}: here is another section {SECTION}; put all its keys into one"
                )
            found = pair[1]
    return found


def _the_only(loader: yaml.SafeLoader) -> yaml.Node | None:
    """Give the node of our section in the first document; in another one it would be overlooked."""
    section = _find(loader.get_node() if loader.check_node() else None)
    others = []
    try:
        while loader.check_node():
            others.append(_find(loader.get_node()))
    except Exception as error:
        # Further documents are not ours to judge.
        if not hasattr(error, "problem_mark"):
            raise
    for other in others:
        if other is not None:
            raise BadConfiguration(
                f"{_place(other)}: the section {SECTION} stands after a `---`, but only what comes before the"
                " second document is read"
            )
    return section


def _construct(
    loader: yaml.SafeLoader, section: Any, text: str, faults: list[Fault] | None
) -> dict[str, Any]:
    """Construct our section alone, key by key, so that a mistake can be named."""
    if section is None or section.tag == "tag:yaml.org,2002:null":
        return {}
    if section.tag != _MAPPING or not isinstance(section.value, list):
        raise BadConfiguration(
            f"{_place(section)}: the section {SECTION} must hold keys and values, such as `grace: 5`,"
            f" but it is {_shown(section, text)}"
        )
    values: dict[str, Any] = {}
    for key, node in reversed(_pairs(section, set())):
        try:
            _insist_on_one(key, section, text)
            values[_shown(key, text, key=True)] = _value(loader, key, node, text)
        except BadConfiguration as fault:
            if faults is None:
                raise
            faults.append(fault)
    return values


def _insist_on_one(key: yaml.Node, section: yaml.MappingNode, text: str) -> None:
    name = _shown(key, text, key=True)
    alike = [own for own, _ in section.value if _shown(own, text, key=True) == name]
    if key in alike[1:]:
        raise BadConfiguration(
            f"{_place(key)}: {SECTION}.{name} is given a second time; leave one of them out"
        )


def _value(loader: yaml.SafeLoader, key: yaml.Node, node: Any, text: str) -> Any:
    name = _shown(key, text, key=True)
    if name not in KEYS:
        raise BadConfiguration(
            f"{_place(key)}: the section {SECTION} has an unknown key {name!r}"
            f" (value {_shown(node, text)}): {nearest(name)}"
        )
    right, wanted = KEYS[name]
    try:
        value = loader.construct_object(node, deep=True)
    except Exception as error:
        # A tag of one's own is told by YAML. What it takes for a date or a number, and stumbles
        # over in many ways, is a wrong value like any other.
        if hasattr(error, "problem_mark"):
            raise
        value = None
    if not right(value):
        raise BadConfiguration(
            f"{_place(node)}: {SECTION}.{name} is {_shown(node, text)}, but it must be {wanted}"
        )
    return value


def _pairs(section: yaml.MappingNode, seen: set[int]) -> list[tuple[yaml.Node, yaml.Node]]:
    """Give the keys and values of a mapping and of all that it merges (`<<`), those that count most first.

    Each mapping is looked at once, however often it is merged: that may be more often than there is time for.
    """
    seen.add(id(section))
    own = [pair for pair in section.value if pair[0].tag != _MERGE]
    pairs = own[::-1]
    for key, value in section.value:
        if key.tag == _MERGE:
            for merged in value.value if value.tag == _SEQUENCE else [value]:
                if merged.tag != _MAPPING:
                    raise BadConfiguration(
                        f"{FILE}, line {key.start_mark.line + 1}: << merges mappings, and nothing else"
                    )
                if id(merged) not in seen:
                    pairs += _pairs(merged, seen)
    return pairs


def _shown(node: yaml.Node, text: str, *, key: bool = False) -> str:
    """Give a value as it stands in the file, bounded; a text that is no key as such, in quotes."""
    shown = " ".join(text[node.start_mark.index : node.end_mark.index].split())
    if isinstance(node.value, str):
        shown = node.value
    shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
    if node.tag == "tag:yaml.org,2002:str" and not key:
        return f"the text {shown!r}"
    return shown if shown or key else "empty"


def _place(node: yaml.Node) -> str:
    return f"{FILE}, line {node.start_mark.line + 1}"


def _where(error: Exception, text: bytes) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it is nested too deep"
    if mark is not None:
        lines = text.decode("utf-8", "replace").splitlines()
        there = f": {lines[mark.line].rstrip()[:_SHOWN]!r}" if mark.line < len(lines) else ""
        return f"{problem} (line {mark.line + 1}, column {mark.column + 1}{there})"
    position = getattr(error, "position", None)
    # Of a character, or of a byte: whoever mends it looks at the line.
    line = None if position is None else text.count(b"\n", 0, position) + 1
    return str(problem) if line is None else f"{problem} (line {line})"


_MOST_LOOKED_AT = 64 << 20
_MOST_PARSED = 1 << 20
"""Bytes of a file that is looked at, and of one that is parsed."""

_MAPPING = "tag:yaml.org,2002:map"
_SEQUENCE = "tag:yaml.org,2002:seq"
_MERGE = "tag:yaml.org,2002:merge"

_SHOWN = 80
"""Characters of a wrong value that a message shows."""
