"""SPEC 4, 5, 8, 13: a line to a message and back, whatever its bytes are."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from servo_agg import protocol
from servo_agg.protocol import (
    LINE_LIMIT,
    TEXT_LIMIT,
    Malformed,
    Progress,
    Reply,
    as_text,
    clip,
    decode,
    encode,
    parse,
    quote,
)
from tests.outputs import (
    documents,
    fragments,
    keyed,
    nearly_right,
    objects,
    plain,
    texts,
    valid_lines,
    values,
)

MIB = 1 << 20


# What a line is (SPEC 4).


@pytest.mark.parametrize(
    ("line", "kind", "content"),
    [
        pytest.param(b'{"progress":5}', Progress, {"progress": 5}, id="progress"),
        pytest.param(
            b'{"progress":null,"message":"m"}', Progress, {"progress": None, "message": "m"}, id="null"
        ),
        pytest.param(
            b'{"progress":5,"status":"ok"}', Reply, {"progress": 5, "status": "ok"}, id="progress-and-status"
        ),
        pytest.param(
            b'{"progress":5,"status":null}',
            Reply,
            {"progress": 5, "status": None},
            id="progress-and-null-status",
        ),
        pytest.param(b'{"status":"failed"}', Reply, {"status": "failed"}, id="warning"),
        pytest.param(b'{"error":"e","class":"c"}', Reply, {"error": "e", "class": "c"}, id="no-status"),
        pytest.param(b"{}", Reply, {}, id="empty"),
        pytest.param(b' \t{"a": 1} \r', Reply, {"a": 1}, id="surrounded-by-white-space"),
        pytest.param(b'{"a":"\\ud800"}', Reply, {"a": "\ud800"}, id="lone-surrogate"),
        pytest.param(b'{"a":"\xc3\xa9"}', Reply, {"a": "\xe9"}, id="utf-8"),
        pytest.param(b'{"a":"\xef\xbb\xbf"}', Reply, {"a": "\ufeff"}, id="byte-order-mark-inside-a-text"),
        pytest.param(b'{"a":1e308}', Reply, {"a": 1e308}, id="large-number"),
        pytest.param(b'{"a":1e-999}', Reply, {"a": 0.0}, id="tiny-number"),
        pytest.param(b'{"a":"NaN"}', Reply, {"a": "NaN"}, id="nan-as-a-text"),
        pytest.param(b'{"a":"' + b"[{" * 5000 + b'"}', Reply, {"a": "[{" * 5000}, id="brackets-in-a-text"),
        pytest.param(
            b'{"a":"\\"' + b"[" * 5000 + b'\\\\"}',
            Reply,
            {"a": '"' + "[" * 5000 + "\\"},
            id="escapes-in-a-text",
        ),
        pytest.param(
            b'{"a":[' + b"{}," * 5000 + b"[]]}", Reply, {"a": [*([{}] * 5000), []]}, id="many-but-not-deep"
        ),
    ],
)
def test_an_object_is_progress_or_a_reply(line: bytes, kind: type, content: dict[str, Any]) -> None:
    message = decode(line, unique=True)
    assert not isinstance(message, Malformed)
    assert (type(message), message.content) == (kind, content)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"warning: the disk is full", id="text"),
        pytest.param(b'{"a":1', id="torn"),
        pytest.param(b'{"a":1}}', id="too-much"),
        pytest.param(b'{"a":1}{"b":2}', id="two-on-one-line"),
        pytest.param(b"{'a': 1}", id="python"),
        pytest.param(b'{"a":1,}', id="trailing-comma"),
        pytest.param(b'{"a":"\x01"}', id="control-character"),
        pytest.param(b'{"a":\x001}', id="nul"),
        pytest.param(b"[1]", id="list"),
        pytest.param(b"null", id="null"),
        pytest.param(b"true", id="boolean"),
        pytest.param(b"1", id="number"),
        pytest.param(b'"a"', id="text-value"),
        pytest.param(b'{"a":"\xff"}', id="not-utf-8"),
        pytest.param(b'{"a":"\xe9"}', id="latin-1"),
        pytest.param(b'{"a":"\xed\xa0\x80"}', id="surrogate-in-bytes"),
        pytest.param(b'{"a":"\xc0\xaf"}', id="overlong"),
        pytest.param('{"a":1}'.encode("utf-16"), id="utf-16"),
        pytest.param(b'\xef\xbb\xbf{"a":1}', id="byte-order-mark"),
        pytest.param(b' \xef\xbb\xbf{"a":1}', id="byte-order-mark-after-a-blank"),
        pytest.param(b'{"a":NaN}', id="nan"),
        pytest.param(b'{"a":Infinity}', id="infinity"),
        pytest.param(b'{"a":[-Infinity]}', id="minus-infinity"),
        pytest.param(b'{"a":1e999}', id="too-large-a-number"),
        pytest.param(b'{"a":-1e999}', id="too-large-a-negative-number"),
        pytest.param(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="too-deep"),
        pytest.param(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, id="too-deep-in-objects"),
        pytest.param(b"[" * 1_000_000, id="too-deep-and-torn"),
    ],
)
def test_anything_else_is_malformed_and_the_start_of_the_line_is_quoted(line: bytes) -> None:
    message = decode(line, unique=True)
    assert isinstance(message, Malformed)
    assert quote(line) in message.why
    assert message.why.isprintable()
    assert "Error" not in message.why


@pytest.mark.parametrize(
    ("line", "words"),
    [
        pytest.param(b'{"a":"\xff"}', "UTF-8", id="encoding"),
        pytest.param(b"\xef\xbb\xbf{}", "byte order mark", id="byte-order-mark"),
        pytest.param(b'{"a":NaN}', "NaN", id="nan"),
        pytest.param(b"[" * 5000, "deep", id="depth"),
        pytest.param(b"[1]", "list", id="list"),
        pytest.param(b"hello", "JSON", id="text"),
        pytest.param(b" " * 10 + b"x" * LINE_LIMIT, "4 MiB", id="length"),
        pytest.param(b'{"a":{"x y":1,"b":2,"x y":1}}', "a.'x y' is given twice: ", id="key-twice"),
        pytest.param(b'{"a":[1,{"b":1,"\\u0062":2,"b":3}]}', "a[1].b is given 3 times", id="in-a-list"),
        pytest.param(b'{"a":{"b":1,"b":2},"c":1,"c":2}', "c is given twice", id="outermost-first"),
        pytest.param(b'{"a":{"b":1,"b":2},"c":}', "no JSON from character 24", id="twice-and-torn"),
        pytest.param(b'{"a":' * 398 + b'{"b":1,"b":2}' + b"}" * 398, ".a.a.b is given twice", id="deep"),
    ],
)
def test_what_is_wrong_is_said_in_words(line: bytes, words: str) -> None:
    message = decode(line, unique=True)
    assert isinstance(message, Malformed)
    assert words in message.why


@pytest.mark.parametrize("depth", [10, 100, 300, 399, 400, 401, 500, 990, 1000, 1010, 3000])
def test_what_is_not_too_deep_to_parse_is_not_too_deep_to_say_again(depth: int) -> None:
    line = b'{"a":' + b"[" * depth + b"]" * depth + b"}\n"
    message = decode(line, unique=True)
    # The object around them is a level, too.
    if depth + 1 <= 400:
        assert isinstance(message, Reply)
        assert encode(message.content) == line
    else:
        assert isinstance(message, Malformed)


@pytest.mark.parametrize("digits", [4300, 4301, 100_000])
def test_a_whole_number_is_either_taken_with_all_its_digits_or_malformed(digits: int) -> None:
    line = b'{"a":' + b"7" * digits + b"}\n"
    message = decode(line, unique=True)
    if isinstance(message, Malformed):
        # Newer interpreters have a limit of their own, and speak of their settings.
        assert digits > 4300
        assert "digits" in message.why
        assert "sys" not in message.why
    else:
        assert encode(message.content) == line


@given(st.binary(max_size=200) | documents | fragments | nearly_right)
@example(b'{"a":1e999}')
@example(b'{"a":' + b"7" * 4301 + b"}")
@example(b'{"a":' * 100_000)
def test_decode_never_raises_and_what_it_gives_can_be_said_again(line: bytes) -> None:
    message = decode(line, unique=True)
    if isinstance(message, Malformed):
        assert message.why.isprintable()
        return
    assert isinstance(message, (Progress, Reply))
    again = encode(message.content)
    assert again.isascii()
    assert again.find(b"\n") == len(again) - 1
    assert plain(decode(again, unique=True)) == plain(message)


@given(st.binary(max_size=200) | documents | fragments | nearly_right)
def test_parse_gives_an_object_or_raises_a_sentence(document: bytes) -> None:
    problem = None
    try:
        content = parse(document)
    except ValueError as error:
        problem = error
    if problem is None:
        assert repr(content) == repr(json.loads(document))
    else:
        # Its kinds (a UnicodeDecodeError, a JSONDecodeError) would speak of Python.
        assert type(problem) is ValueError
        assert str(problem).isprintable()


def depth_of(value: Any) -> int:
    if isinstance(value, (dict, list)):
        return 1 + max(map(depth_of, value.values() if isinstance(value, dict) else value), default=0)
    return 0


@given(value=values, around=st.integers(0, 2 * protocol.DEPTH_LIMIT))
@example(value=[], around=protocol.DEPTH_LIMIT - 2)
@example(value=[], around=protocol.DEPTH_LIMIT - 1)
@example(value=["[{", '"[', "\\"], around=protocol.DEPTH_LIMIT - 2)
def test_the_limit_of_nesting_is_exact_whatever_stands_beside_it(value: Any, around: int) -> None:
    # Broad enough that the levels are really counted, and deep at its end only.
    broad: list[Any] = [[]] * protocol.DEPTH_LIMIT
    text = json.dumps({"broad": broad, "deep": value})
    deep = text[:-1].replace('"deep": ', '"deep": ' + "[" * around, 1) + "]" * around + "}"
    message = decode(deep.encode(), unique=True)
    if 1 + around + depth_of(value) > protocol.DEPTH_LIMIT:
        assert isinstance(message, Malformed)
        assert "nested more than 400 levels" in message.why
    else:
        assert isinstance(message, Reply)


@given(valid_lines)
def test_a_valid_line_is_progress_exactly_when_it_has_progress_and_no_status(line: bytes) -> None:
    content = json.loads(line)
    message = decode(line, unique=True)
    assert not isinstance(message, Malformed)
    assert isinstance(message, Progress) == ("progress" in content and "status" not in content)
    assert repr(message.content) == repr(content)


# Messages to bytes (SPEC 5).


@given(objects | keyed)
@example({"a": "\ud800", "\udfff": "\U0001f600\x7f\x00\u2028\n"})
@example({"a": 10**4000, "b": -(10**4000), "c": 5e-324, "d": 1.7976931348623157e308, "e": -0.0})
def test_an_object_becomes_one_compact_ascii_line_that_decodes_to_the_same(content: dict[str, Any]) -> None:
    line = encode(content)
    assert line.isascii()
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert line[:-1].decode() == json.dumps(content, separators=(",", ":"))
    message = decode(line, unique=True)
    assert not isinstance(message, Malformed)
    assert repr(message.content) == repr(content)


# Words for people (SPEC 8, 13).


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param("a text", "a text", id="text"),
        pytest.param(["one", "two", "three"], "one; two; three", id="list"),
        pytest.param(["one"], "one", id="list-of-one"),
        pytest.param([], "", id="empty-list"),
        pytest.param(None, "", id="nothing"),
        pytest.param(7, "7", id="number"),
        pytest.param(True, "true", id="boolean"),
    ],
)
def test_what_should_have_been_a_text_becomes_one(value: Any, text: str) -> None:
    assert as_text(value) == text


@given(values)
def test_any_value_becomes_a_text(value: Any) -> None:
    text = as_text(value)
    assert isinstance(text, str)
    if isinstance(value, str):
        assert text == value


@given(st.binary(max_size=300))
def test_a_quote_is_printable_and_bounded(line: bytes) -> None:
    text = quote(line)
    assert text.isprintable()
    # A byte is at most four characters, `\xff`; then the quotes and the dots.
    assert len(text) <= 80 * 4 + 5


@pytest.mark.parametrize(
    ("line", "text"),
    [
        pytest.param(b"", "''", id="nothing"),
        pytest.param(b"  warning \r\n", "'warning'", id="stripped"),
        pytest.param(b"a" * 80, "'" + "a" * 80 + "'", id="80-bytes"),
        pytest.param(b"a" * 81, "'" + "a" * 80 + "'...", id="81-bytes"),
        pytest.param(b"\x1b[31m\xff", "'\\x1b[31m\\xff'", id="unprintable"),
        pytest.param(b"\xc3\xa9 \\xff", "'\u00e9 \\\\xff'", id="what-only-looks-like-a-byte"),
        pytest.param(b"a" * 79 + b"\xc3\xa9", "'" + "a" * 79 + "'...", id="cut-within-a-letter"),
    ],
)
def test_a_quote_is_the_start_of_the_line(line: bytes, text: str) -> None:
    assert quote(line) == text


@given(text=texts, size=st.integers(0, 4), limit=st.integers(60, 200))
@example(text="\u20ac", size=4, limit=61)
@example(text="\ud800\udc00x", size=4, limit=100)
def test_a_clipped_message_is_bounded_and_keeps_its_start(text: str, size: int, limit: int) -> None:
    text = text * 30**size if len(text) * 30**size < 10_000 else text
    with patch.object(protocol, "TEXT_LIMIT", limit):
        clipped = clip(text)
    whole = len(text.encode("utf-8", "surrogatepass"))
    assert len(clipped.encode("utf-8", "surrogatepass")) <= limit
    if whole <= limit:
        assert clipped == text
    else:
        # What was cut is told, and the rest is nearly all that there is room for.
        assert str(whole) in clipped
        if text.encode("utf-8", "ignore").decode() == text:
            start = clipped[: clipped.rindex(" ... (")]
            assert text.startswith(start)
            assert len(start.encode()) > limit - 40


@pytest.mark.parametrize("character", ["x", "\xe9", "\u20ac", "\U0001f600", "\ud800"])
def test_a_message_has_at_most_256_kib(character: str) -> None:
    assert TEXT_LIMIT == 256 << 10
    size = len(character.encode("utf-8", "surrogatepass"))
    fits = character * (TEXT_LIMIT // size)
    assert clip(fits) == fits
    assert len(clip(fits + character).encode("utf-8", "surrogatepass")) <= TEXT_LIMIT
