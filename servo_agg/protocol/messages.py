"""JSON lines to messages and back; the stream decoder.

Rules (SPEC 4, 5, 8, 13):
- An object with `progress` and without `status` is a Progress, any other object is a Reply, anything else is
  Malformed. `decode` accepts any bytes and never raises.
- A driver's output is split at newlines. Blank lines are ignored. A last line without a newline counts.
- Where a document is allowed (query, info), output from the first line that does not parse on is kept, up to
  4 MiB, and parsed as one document at the end. This applies only as long as no line was a message: after one,
  the whole output cannot be a single document.
- After a Malformed nothing more is decoded: nothing that follows can make the driver succeed.
- The same bytes give the same messages, however they are split into blocks.
- What we write is ASCII, one object per line. Texts are bounded.
"""

from __future__ import annotations

from codecs import getincrementaldecoder

from servo_agg._compat import json_encoder, json_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional, Union

    JsonObject = dict[str, Any]
    Message = Union["Progress", "Reply", "Malformed"]

    # The last key or index of a path, after the path to the value around it; None is the outermost value.
    JsonPath = Optional[tuple["JsonPath", Union[str, int]]]


class Progress:
    """A message with `progress` and without `status`.

    percent  `progress` if it is a number, else None
    text     `message` as text
    body     the whole object: what goes to the agent keeps its keys and their order (SPEC 8.6)
    """

    __slots__ = ("body", "percent", "text")

    def __init__(self, percent: float | None, text: str, body: JsonObject) -> None:
        self.percent = percent
        self.text = text
        self.body = body

    @classmethod
    def from_body(cls, body: JsonObject) -> Progress:
        """Return the message that an object with `progress` makes."""
        percent = body["progress"]
        # By type: a bool is an int, too.
        number = percent if type(percent) in (int, float) else None
        return cls(number, to_text(body.get("message")), body)


class Reply:
    """Any other object. The last one that a driver writes counts.

    status   `status` if it is a text, else None
    reason   `reason` as text
    message  `message` as text
    body     the whole object
    """

    __slots__ = ("body", "message", "reason", "status")

    def __init__(self, status: str | None, reason: str, message: str, body: JsonObject) -> None:
        self.status = status
        self.reason = reason
        self.message = message
        self.body = body

    @classmethod
    def from_body(cls, body: JsonObject) -> Reply:
        """Return the message that an object makes."""
        status = body.get("status")
        return cls(
            status if isinstance(status, str) else None,
            to_text(body.get("reason")),
            to_text(body.get("message")),
            body,
        )


class Malformed:
    """Output that is not a message. `reason` says what the driver did wrong."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason


# Reading.


class DuplicateKey(ValueError):
    """An object has a key more than once. `str(error)` gives the path of the key (SPEC 4.6)."""


class _InvalidNumber(ValueError):
    """Python's parser accepts a number that JSON, or one of its readers, does not."""


def _reject_constant(name: str) -> float:
    raise _InvalidNumber(f"contains {name}, which is not a JSON number")


def _finite_float(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise _InvalidNumber("contains a number that is out of range")
    return number


def _unique_object(pairs: list[tuple[str, Any]]) -> JsonObject:
    # Called for each object: the path of a duplicate key is found later, where there is one.
    made = dict(pairs)
    if len(made) < len(pairs):
        raise DuplicateKey
    return made


class _Pairs(list[tuple[str, object]]):
    """An object as it was written: a key may occur more than once."""


_scan = json_scanner(parse_float=_finite_float, parse_constant=_reject_constant)
_scan_unique = json_scanner(
    parse_float=_finite_float, parse_constant=_reject_constant, object_pairs_hook=_unique_object
)
_scan_pairs = json_scanner(
    parse_float=_finite_float, parse_constant=_reject_constant, object_pairs_hook=_Pairs
)

LINE_LIMIT = 4 << 20
"""Bytes of a line, and of a whole document (SPEC 4.5, 4.6)."""


def decode(line: bytes, *, unique_keys: bool) -> Message:
    """Return the message that a line makes, which must not be blank. `unique_keys`: see `parse_object`.

    Never raises (SPEC 4.2, 4.6).
    """
    if len(line) > LINE_LIMIT:
        return Malformed(f"printed a line that is longer than 4 MiB: {quote(line)}")
    try:
        body = parse_object(line, unique_keys=unique_keys)
    except ValueError as error:
        return Malformed(clause("printed a line that", error))
    if "progress" in body and "status" not in body:
        return Progress.from_body(body)
    return Reply.from_body(body)


def clause(subject: str, error: ValueError) -> str:
    """Return a sentence about an error of `parse_object`: `the input is not JSON: 'hello'`."""
    text = str(error)
    return text if text.startswith("expected ") else f"{subject} {text}"


def parse_object(document: bytes, *, unique_keys: bool = True, expected: str = "a JSON object") -> JsonObject:
    """Parse one JSON object.

    With `unique_keys`, an object in it that has a key twice is an error. `expected` is what an error calls
    the object. Raises ValueError whose text is a predicate, `is not JSON: 'hello'`, or begins with
    "expected": see `clause` (SPEC 4.6).
    """
    try:
        text = document.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"is not UTF-8: {quote(document)}") from None
    try:
        value = parse_value(text, unique_keys=unique_keys)
    except ValueError as error:
        raise ValueError(f"{error}: {quote(document)}") from None
    if not isinstance(value, dict):
        raise ValueError(  # noqa: TRY004 - callers expect one type for all errors
            f"expected {expected}, got {json_type(value)}: {quote(document)}"
        )
    return value


_WHITE_SPACE = " \t\r\n"
"""White space in JSON."""

DEPTH_LIMIT = 400
"""Levels of nesting that we accept (SPEC 4.6). The parser's own limit depends on the version of Python, and a
value that we parse must also be merged and encoded without reaching the recursion limit."""


def parse_value(text: str, *, unique_keys: bool = True) -> Any:
    """Parse one JSON value. `unique_keys`: see `parse_object`.

    Raises ValueError whose text is a predicate, such as `is not JSON` (SPEC 4.6).
    """
    if text.startswith("\ufeff"):
        raise ValueError("begins with a byte order mark")
    # Nearly every line has too few brackets to be nested too deeply: counting them is cheap.
    if text.count("{") + text.count("[") > DEPTH_LIMIT and _depth(text) > DEPTH_LIMIT:
        raise ValueError(f"is nested more than {DEPTH_LIMIT} levels deep")
    try:
        text = text.strip(_WHITE_SPACE)
        try:
            value, end = (_scan_unique if unique_keys else _scan)(text, 0)
        except DuplicateKey:
            raise DuplicateKey(_duplicate_key_text(_scan_pairs(text, 0)[0])) from None
    except (_InvalidNumber, DuplicateKey):
        raise
    except (StopIteration, SystemError, ImportError, ValueError) as error:
        # A plain ValueError comes from Python 3.11 and later, for a huge integer; its text is about settings
        # of the interpreter. The other types depend on the version: a JSONDecodeError, or what is raised
        # where the module `json` cannot be imported.
        if type(error) is ValueError:
            raise ValueError("contains a whole number with too many digits") from None
        raise ValueError(_syntax_error_text(text)) from None
    if end < len(text):
        raise ValueError(_syntax_error_text(text))
    return value


_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_BRACKETS_TO_STEPS = bytes.maketrans(b"[]{}", b"\x01\xff\x01\xff")
"""An opening bracket to +1, a closing one to -1, as signed bytes."""


def _depth(text: str) -> int:
    """Return the levels of nesting of a JSON text; brackets in strings do not count.

    The time is always proportional to the length, and no loop over the characters is in Python.
    """
    from itertools import accumulate  # noqa: PLC0415 - needed only for a line with many brackets

    unescaped = text.encode("utf-8", "surrogatepass").replace(b"\\\\", b"").replace(b'\\"', b"")
    # Every second piece between quotes is a string.
    outside_strings = b"".join(unescaped.split(b'"')[::2])
    steps = memoryview(outside_strings.translate(_BRACKETS_TO_STEPS, _NO_BRACKETS)).cast("b")
    return max(accumulate(steps), default=0)


# Texts of errors.

_QUOTE_LIMIT = 80
"""Bytes of a line, or characters of a key, that an error quotes."""


def quote(line: bytes) -> str:
    """Return the start of a line, at most 80 bytes of it, printable and in quotes."""
    line = line.strip()
    start = line[:_QUOTE_LIMIT]
    try:
        # A UTF-8 character that the cut has truncated is dropped.
        quoted = repr(getincrementaldecoder("utf-8")().decode(start, final=start == line))
    except UnicodeDecodeError:
        # The repr of bytes shows which of them are not UTF-8.
        quoted = repr(start)[1:]
    return quoted + ("..." if len(line) > _QUOTE_LIMIT else "")


_MISLEADING = frozenset(" ,;:()'\"")


def quoted_name(name: str) -> str:
    """Return a name as it is shown in a sentence: in quotes where it could be misread or not be seen."""
    clear = name and name.isprintable() and not any(character in _MISLEADING for character in name)
    return name if clear else repr(name)


def json_type(value: object) -> str:
    """Return the JSON type of a value with its article: `a list`, `null`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "a list" if isinstance(value, list) else "an object"


def _syntax_error_text(text: str) -> str:
    """Return a predicate that gives the position at which a text stops being JSON."""
    position = 0
    try:
        from json import loads  # noqa: PLC0415 - slow to import, and needed only for a mistake

        loads(text)
    except (ImportError, OSError, ValueError) as error:
        # The import fails where no descriptor is left.
        position = getattr(error, "pos", 0)
    return f"is not JSON from character {position + 1} on" if position else "is not JSON"


def _duplicate_key_text(value: object) -> str:
    """Return a predicate about the first of the outermost keys that occur more than once; "" without one.

    `value` has objects as _Pairs.
    """
    stack: list[tuple[object, JsonPath]] = [(value, None)]
    while stack:
        value, path = stack.pop()
        children: list[tuple[object, JsonPath]] = []
        if isinstance(value, _Pairs):
            keys = [key for key, _ in value]
            key = _first_duplicate(keys)
            if key is not None:
                count = keys.count(key)
                times = "twice" if count == 2 else f"{count} times"  # noqa: PLR2004 - "twice" is two
                return f"has the key {_path_text((path, key))} {times}"
            children = [(child, (path, key)) for key, child in value]
        elif isinstance(value, list):
            children = [(child, (path, index)) for index, child in enumerate(value)]
        stack.extend(reversed(children))
    return ""


def _first_duplicate(keys: list[str]) -> str | None:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            return key
        seen.add(key)
    return None


def _path_text(path: JsonPath) -> str:
    parts: list[str] = []
    while path is not None:
        path, part = path
        if isinstance(part, str):
            shown = part if len(part) <= _QUOTE_LIMIT else part[:_QUOTE_LIMIT] + "..."
            parts.append(f".{quoted_name(shown)}")
        else:
            parts.append(f"[{part}]")
    return "".join(reversed(parts)).removeprefix(".")


# Writing.

to_json = json_encoder()
"""Write any JSON value in ASCII on one line, without white space."""


def encode(body: JsonObject) -> bytes:
    """Return an object as one ASCII line, newline included (SPEC 5.1)."""
    return to_json(body).encode("ascii") + b"\n"


def to_text(value: object) -> str:
    """Return a JSON value that should be a text as text: a list is joined with `; ` (SPEC 8.7)."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "; ".join(filter(None, map(to_text, value)))
    return "" if value is None else to_json(value)


TEXT_LIMIT = 256 << 10
"""Bytes of a `message` that we write, as UTF-8 (SPEC 13.2)."""


def truncate(text: str, shares: int = 1) -> str:
    """Limit a message to 256 KiB divided by `shares`. A truncated one ends with its full size (SPEC 13.2)."""
    limit = TEXT_LIMIT // shares
    # A character has at most four bytes.
    if len(text) <= limit // 4:
        return text
    encoded = text.encode("utf-8", "surrogatepass")
    if len(encoded) <= limit:
        return text
    mark = f" ... ({len(encoded)} bytes in all)"
    return encoded[: max(0, limit - len(mark))].decode("utf-8", "ignore") + mark


def truncate_word(text: str) -> str:
    """Limit a status, a reason or a version to 1 KiB (SPEC 13.2)."""
    return truncate(text, TEXT_LIMIT >> 10)


_BLANK_PREFIX_LIMIT = 64
"""Bytes of an incomplete line that are checked with each block for whether all of them are white space."""


def _is_blank(line: bytes) -> bool:
    # White space beyond the limit is a line that is too long, however it is split into blocks.
    return not line or (line.isspace() and len(line) <= LINE_LIMIT)


class Decoder:
    """Decodes the output of one driver. Holds at most one line or document."""

    def __init__(self, *, document: bool) -> None:
        """`document`: the whole output may be one document over several lines (query, info)."""
        self._document_allowed = document
        # A driver that is changing something must not be stopped for a duplicate key.
        self._unique_keys = document
        # What follows the last newline or, once there was an error, the document so far. One bytearray, since
        # with a list of blocks output that comes byte by byte would take an object for each byte.
        self._pending = bytearray()
        self._collecting_document = False
        self._ended = False

    def feed(self, block: bytes) -> list[Message]:
        """Return the messages that this block completes."""
        if self._ended:
            return []
        messages: list[Message] = []
        if not self._collecting_document:
            if (
                block.isspace()
                and len(self._pending) <= _BLANK_PREFIX_LIMIT
                and len(self._pending) + len(block) <= LINE_LIMIT
            ):
                block = self._drop_blank_lines(block)
            *lines, block = block.split(b"\n")
            for number, piece in enumerate(lines):
                line = self._take_pending(piece) if self._pending else piece
                if _is_blank(line):
                    continue
                message = decode(line, unique_keys=self._unique_keys)
                if not isinstance(message, Malformed):
                    self._document_allowed = False
                    messages.append(message)
                elif self._document_allowed:
                    self._collecting_document = True
                    block = b"\n".join([line, *lines[number + 1 :], block])
                    break
                else:
                    self._ended = True
                    return [*messages, message]
        self._pending += block
        if len(self._pending) > LINE_LIMIT:
            self._ended = True
            messages.append(decode(self._take_pending(), unique_keys=self._unique_keys))
        return messages

    def end(self, *, cut: bool = False) -> list[Message]:
        """Return the message that the end of output completes: an unfinished line or the document.

        `cut`: we stopped reading before the end, so a last line that does not parse is not an error.
        """
        rest = self._take_pending()
        if self._ended or _is_blank(rest):
            return []
        self._ended = True
        message = decode(rest, unique_keys=self._unique_keys)
        if cut and not self._collecting_document and isinstance(message, Malformed):
            return []
        return [message]

    def _drop_blank_lines(self, block: bytes) -> bytes:
        """Return what follows the last newline of a block of white space.

        This makes a flood of blank lines cheap: they are not split and looked at one by one.
        """
        end = block.rfind(b"\n") + 1
        if end and not self._pending.strip():
            self._take_pending()
            return block[end:]
        return block

    def _take_pending(self, piece: bytes = b"") -> bytes:
        """Return and clear what is pending, followed by `piece`."""
        self._pending += piece
        whole = bytes(self._pending)
        self._pending = bytearray()
        return whole
