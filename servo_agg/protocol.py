"""A line to a message and back. Pure; the only room that knows JSON.

Rules (SPEC 4, 5, 8, 13):
- An object with `progress` and without `status` is Progress, any other object is a Reply,
  anything else is Malformed. `decode` is total: no bytes make it raise.
- What we write is ASCII, each object on a line; what is to be text is made text, and bounded.
"""

from __future__ import annotations

# What is right is read and written by what the module `json` itself calls. Its import takes 7 ms, most of
# them for regular expressions, of which only the description of a mistake has need.
from _json import encode_basestring_ascii, make_encoder, make_scanner
from codecs import getincrementaldecoder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Union

    Message = Union["Progress", "Reply", "Malformed"]

LINE_LIMIT = 4 << 20
"""Bytes of a line, and of a whole document (SPEC 4)."""

DEPTH_LIMIT = 400
"""Levels of nesting that we parse: the parser's own limit differs between Python versions, and what
we parse must also be merged and encoded again without coming near the limit of recursion."""

_WHITE = " \t\r\n"
"""What JSON takes for white space."""

_QUOTED = 80

TEXT_LIMIT = 256 << 10
"""Bytes of a `message` of ours, as UTF-8 (SPEC 13)."""


class Progress:
    """A message with `progress` and without `status`; `content` is the whole object."""

    __slots__ = ("content",)

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content


class Reply:
    """Any other object; a driver's last one counts. `content` is the whole object."""

    __slots__ = ("content",)

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content


class Malformed:
    """What is no message. `why` completes the sentence "its output is malformed: ..."."""

    __slots__ = ("why",)

    def __init__(self, why: str) -> None:
        self.why = why


class GivenTwice(ValueError):
    """An object has a key more than once; `str(error)` says which (SPEC 4)."""


class _NoNumber(ValueError):
    """What the parser would take for a number and JSON, or a reader of ours, would not."""


def _refuse_constant(name: str) -> float:
    raise _NoNumber(f"{name} is no JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise _NoNumber("a number in it is out of range")
    return number


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Called for each object that is read: where the key stands is looked for later.
    made = dict(pairs)
    if len(made) < len(pairs):
        raise GivenTwice
    return made


class _Reading:
    """What the scanner is told, as by a json.JSONDecoder."""

    strict = True
    object_hook = None
    object_pairs_hook: Any = None
    parse_float = staticmethod(_finite)
    parse_int = int
    parse_constant = staticmethod(_refuse_constant)


class _ReadingUnique(_Reading):
    object_pairs_hook = staticmethod(_object_of)


class _Pairs(list[tuple[str, object]]):
    """An object as it was written, in which a key may stand more than once."""


class _ReadingPairs(_Reading):
    object_pairs_hook = _Pairs


def _refuse_value(value: object) -> object:
    raise TypeError(f"{value!r} is no JSON value")


# The stub of make_scanner asks for a scanner, where the scanner asks for this.
_read = make_scanner(_Reading)  # type: ignore[arg-type]
_read_unique = make_scanner(_ReadingUnique)  # type: ignore[arg-type]
_read_pairs = make_scanner(_ReadingPairs)  # type: ignore[arg-type]
# In this order: no marks against circles, for what is no JSON value, for text, no indent, the two
# separators; keys are not sorted, none is left out, and no NaN.
_write = make_encoder(None, _refuse_value, encode_basestring_ascii, None, ":", ",", False, False, False)


def compact(value: object) -> str:
    """Write any JSON value in ASCII, on one line."""
    return "".join(_write(value, 0))


def quote(line: bytes) -> str:
    """Give the start of a line, at most 80 bytes of it, printable and in quotes."""
    line = line.strip()
    start = line[:_QUOTED]
    try:
        # A letter that the cut has torn is left out.
        quoted = repr(getincrementaldecoder("utf-8")().decode(start, final=start == line))
    except UnicodeDecodeError:
        # By bytes: which of them is at fault can be seen.
        quoted = repr(start)[1:]
    return quoted + ("..." if len(line) > _QUOTED else "")


def _depth(text: str) -> int:
    """Count the levels of nesting of a JSON text, brackets in strings left out."""
    unescaped = text.encode("utf-8", "surrogatepass").replace(b"\\\\", b"").replace(b'\\"', b"")
    # Each second piece between quotes is a string.
    brackets = b"".join(unescaped.split(b'"')[::2]).translate(_ROUND, _NO_BRACKETS)
    # What is well nested loses its innermost level with each look, all of it in C: to look at each bracket
    # takes a third of the time of the parser.
    left = brackets
    for depth in range(_SHALLOW):
        if not left:
            return depth
        left = left.replace(b"()", b"")
    depth = deepest = 0
    for bracket in brackets:
        depth += 1 if bracket in b"(" else -1
        deepest = max(deepest, depth)
    return deepest


_SHALLOW = 16
"""Levels that hardly a reply exceeds."""

_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ROUND = bytes.maketrans(b"[]{}", b"()()")


def parse(document: bytes, *, unique: bool = True) -> dict[str, Any]:
    """Parse one JSON object, in which no object may have a key twice if they must be `unique`.

    Raises ValueError with what is wrong, in words that complete "... is malformed: " (SPEC 4).
    """
    try:
        text = document.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"it is not UTF-8: {quote(document)}") from None
    try:
        value = value_of(text, unique=unique)
    except ValueError as error:
        raise ValueError(f"{error}: {quote(document)}") from None
    if not isinstance(value, dict):
        raise ValueError(f"it is no object but {kind(value)}: {quote(document)}")  # noqa: TRY004 - one kind
    return value


def value_of(text: str, *, unique: bool = True) -> Any:
    """Read one JSON value; `unique`: see `parse`. Raises ValueError with what is wrong, in words (SPEC 4)."""
    if text.startswith("\ufeff"):
        raise ValueError("it begins with a byte order mark")
    # Two counts in C tell for nearly all lines that they are shallow.
    if text.count("{") + text.count("[") > DEPTH_LIMIT and _depth(text) > DEPTH_LIMIT:
        raise ValueError(f"it is nested more than {DEPTH_LIMIT} levels deep")
    try:
        text = text.strip(_WHITE)
        try:
            value, end = (_read_unique if unique else _read)(text, 0)
        except GivenTwice:
            raise GivenTwice(_twice(_read_pairs(text, 0)[0])) from None
    except (_NoNumber, GivenTwice):
        raise
    except (StopIteration, SystemError, ImportError, ValueError) as error:
        # Newer CPython refuses huge whole numbers in terms of its own settings. The other kinds of error
        # depend on its version: the one of json, or none where that can't be imported.
        if type(error) is ValueError:
            raise ValueError("a whole number in it has too many digits") from None
        raise ValueError(_no_json(text)) from None
    if end < len(text):
        raise ValueError(_no_json(text))
    return value


def _twice(value: object) -> str:
    """Say which key is given more than once, the outermost and first of them, with the path to it."""
    # Each value with its way from the top: the way to the value around it, and its own part.
    waiting: list[tuple[object, Any]] = [(value, None)]
    while waiting:
        value, way = waiting.pop()
        below: list[tuple[object, Any]] = []
        if isinstance(value, _Pairs):
            keys = [key for key, _ in value]
            if len(set(keys)) < len(keys):
                return _told_twice(keys, way)
            below = [(one, (way, key)) for key, one in value]
        elif isinstance(value, list):
            below = [(one, (way, number)) for number, one in enumerate(value)]
        waiting.extend(reversed(below))
    return ""


def _told_twice(keys: list[str], way: object) -> str:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            count = keys.count(key)
            return f"{_path((way, key))} is given {'twice' if count == 2 else f'{count} times'}"  # noqa: PLR2004
        seen.add(key)
    return ""


def _path(way: Any) -> str:
    parts: list[str] = []
    while way is not None:
        way, part = way
        if isinstance(part, str):
            parts.append("." + named(part if len(part) <= _QUOTED else part[:_QUOTED] + "..."))
        else:
            parts.append(f"[{part}]")
    return "".join(reversed(parts)).removeprefix(".")


def _no_json(text: str) -> str:
    """Say from where on a text is no JSON."""
    position = 0
    try:
        from json import loads  # noqa: PLC0415 - slow to import, and only a mistake needs it

        loads(text)
    except (ImportError, OSError, ValueError) as error:
        # There may be no descriptor left to import it.
        position = getattr(error, "pos", 0)
    return f"it is no JSON from character {position + 1} on" if position else "it is no JSON"


def named(name: str) -> str:
    """Give a name; in quotes where it could be misread, or not be seen at all."""
    plain = name and name.isprintable() and not any(character in _MISREAD for character in name)
    return name if plain else repr(name)


_MISREAD = frozenset(" ,;:()'\"")


def kind(value: object) -> str:
    """Name the JSON type of a value, with its article: `a list`, `null`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return "a list" if isinstance(value, list) else "an object"


def decode(line: bytes, *, unique: bool) -> Message:
    """Turn one line, not blank, into a message; `unique`: see `parse`. Never raises (SPEC 4)."""
    if len(line) > LINE_LIMIT:
        return Malformed(f"it is longer than 4 MiB: {quote(line)}")
    try:
        content = parse(line, unique=unique)
    except ValueError as error:
        return Malformed(str(error))
    if "progress" in content and "status" not in content:
        return Progress(content)
    return Reply(content)


def encode(content: dict[str, Any]) -> bytes:
    """Turn an object into one ASCII line, newline included (SPEC 5)."""
    return compact(content).encode("ascii") + b"\n"


def as_text(value: object) -> str:
    """Turn a JSON value that should have been text into text: a list is joined with `; ` (SPEC 8)."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "; ".join(filter(None, map(as_text, value)))
    return "" if value is None else compact(value)


def clip_word(text: str) -> str:
    """Bound what should be a word or two, as a status, a reason or a version, to 1 KiB (SPEC 13)."""
    return clip(text, TEXT_LIMIT >> 10)


def clip(text: str, shares: int = 1) -> str:
    """Bound a message to 256 KiB, or to one of so many shares of that; say what was cut (SPEC 13)."""
    limit = TEXT_LIMIT // shares
    if len(text) <= limit // 4:
        return text
    kept = text.encode("utf-8", "surrogatepass")
    if len(kept) <= limit:
        return text
    mark = f" ... ({len(kept)} bytes in all)"
    return kept[: max(0, limit - len(mark))].decode("utf-8", "ignore") + mark
