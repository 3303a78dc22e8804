"""SPEC 4, 5, 8, 13: bytes to messages and back, whatever the bytes are and in whatever blocks they come."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from servo_agg import protocol
from servo_agg.protocol import (
    LINE_LIMIT,
    TEXT_LIMIT,
    Decoder,
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
    blocks_of,
    cuts,
    documents,
    fragments,
    keyed,
    nearly_right,
    objects,
    streams,
    texts,
    valid_lines,
    values,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from servo_agg.protocol import Message

MIB = 1 << 20


def messages_of(blocks: Iterable[bytes], *, document: bool) -> list[Message]:
    decoder = Decoder(document=document)
    found: list[Message] = []
    for block in blocks:
        found += decoder.feed(block)
    return found + decoder.end()


def plain(message: Message) -> tuple[str, Any]:
    """Make a message comparable; `repr` tells 1 from 1.0 and from True."""
    if isinstance(message, Malformed):
        return "Malformed", message.why
    return type(message).__name__, repr(message.content)


def kinds(messages: Iterable[Message]) -> list[str]:
    return [type(message).__name__ for message in messages]


def contents(messages: Iterable[Message]) -> list[Any]:
    return [None if isinstance(message, Malformed) else message.content for message in messages]


def by_the_contract(stream: bytes, *, document: bool) -> list[tuple[str, Any]]:
    """Say what SPEC 4 makes of a whole output: line by line, and if that fails as one document."""
    lines = [line for line in stream.split(b"\n") if line.strip()]
    found = [plain(decode(line)) for line in lines]
    bad = [index for index, (kind, _) in enumerate(found) if kind == "Malformed"]
    if not bad:
        return found
    whole = plain(decode(stream[stream.index(lines[0]) :]))
    if document and (whole[0] != "Malformed" or bad[0] == 0):
        return [whole]
    return found[: bad[0] + 1]


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
    message = decode(line)
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
    message = decode(line)
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
    ],
)
def test_what_is_wrong_is_said_in_words(line: bytes, words: str) -> None:
    message = decode(line)
    assert isinstance(message, Malformed)
    assert words in message.why


@pytest.mark.parametrize("depth", [10, 100, 300, 399, 400, 401, 500, 990, 1000, 1010, 3000])
def test_what_is_not_too_deep_to_parse_is_not_too_deep_to_say_again(depth: int) -> None:
    line = b'{"a":' + b"[" * depth + b"]" * depth + b"}\n"
    message = decode(line)
    # The object around them is a level, too.
    if depth + 1 <= 400:
        assert isinstance(message, Reply)
        assert encode(message.content) == line
    else:
        assert isinstance(message, Malformed)


@pytest.mark.parametrize("digits", [4300, 4301, 100_000])
def test_a_whole_number_is_either_taken_with_all_its_digits_or_malformed(digits: int) -> None:
    line = b'{"a":' + b"7" * digits + b"}\n"
    message = decode(line)
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
    message = decode(line)
    if isinstance(message, Malformed):
        assert message.why.isprintable()
        return
    assert isinstance(message, (Progress, Reply))
    again = encode(message.content)
    assert again.isascii()
    assert again.find(b"\n") == len(again) - 1
    assert plain(decode(again)) == plain(message)


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
    message = decode(deep.encode())
    if 1 + around + depth_of(value) > protocol.DEPTH_LIMIT:
        assert isinstance(message, Malformed)
        assert "nested more than 400 levels" in message.why
    else:
        assert isinstance(message, Reply)


@given(valid_lines)
def test_a_valid_line_is_progress_exactly_when_it_has_progress_and_no_status(line: bytes) -> None:
    content = json.loads(line)
    message = decode(line)
    assert not isinstance(message, Malformed)
    assert isinstance(message, Progress) == ("progress" in content and "status" not in content)
    assert repr(message.content) == repr(content)


# A whole output (SPEC 4).


@pytest.mark.parametrize("document", [False, True], ids=["lines", "document"])
@given(stream=streams, places=cuts)
@example(stream=b'{"a":1}\r\n\r\n{"a":2}\r\n', places=[8, 9, 10])
@example(stream=b'\n\n{\n"a":1\n}\n\n', places=[2, 4, 4])
@example(stream=b"\xef\xbb\xbf{}\n{}", places=[1, 2])
@example(stream=b"{}\nx\n{}\n", places=[4, 5])
def test_the_same_bytes_give_the_same_messages_in_whatever_blocks(
    stream: bytes, places: list[int], *, document: bool
) -> None:
    at_once = list(map(plain, messages_of([stream], document=document)))
    assert list(map(plain, messages_of(blocks_of(stream, places), document=document))) == at_once
    # Byte by byte, as far as that may make a difference: in the midst of a long line it makes none.
    single = [stream[index : index + 1] for index in range(min(len(stream), 500))]
    assert list(map(plain, messages_of([*single, stream[500:]], document=document))) == at_once


@pytest.mark.parametrize("document", [False, True], ids=["lines", "document"])
@given(stream=streams, places=cuts)
@example(stream=b'{\n"a":1\n}', places=[3])
@example(stream=b'{"a":1}\n{\n}', places=[])
@example(stream=b'{\n}\n{"a":1}\n', places=[])
def test_a_whole_output_is_read_by_the_contract(stream: bytes, places: list[int], *, document: bool) -> None:
    found = messages_of(blocks_of(stream, places), document=document)
    assert list(map(plain, found)) == by_the_contract(stream, document=document)


@pytest.mark.parametrize("document", [False, True], ids=["lines", "document"])
@given(stream=streams, places=cuts)
@example(stream=b'{"a":1}', places=[])
@example(stream=b'{"a":1}\n{"b"', places=[3])
@example(stream=b'{\n"a":', places=[])
def test_where_we_stopped_reading_only_a_torn_last_line_is_missing(
    stream: bytes, places: list[int], *, document: bool
) -> None:
    decoder = Decoder(document=document)
    found = [message for block in blocks_of(stream, places) for message in decoder.feed(block)]
    found += decoder.end(cut=True)
    wanted = by_the_contract(stream, document=document)
    whole_lines = by_the_contract(stream.rpartition(b"\n")[0], document=False)
    if wanted and "Malformed" in dict(wanted[-1:]) and "Malformed" not in dict(whole_lines):
        wanted.pop()
    assert list(map(plain, found)) == wanted


@pytest.mark.parametrize("document", [False, True], ids=["lines", "document"])
@given(
    lines=st.lists(
        valid_lines | (fragments | nearly_right).filter(bytes.strip) | st.just(b"x" * 300), max_size=5
    ),
    places=cuts,
    sizes=st.lists(st.integers(250, 260), max_size=3),
)
def test_near_the_limit_too_the_blocks_make_no_difference(
    lines: list[bytes], places: list[int], sizes: list[int], *, document: bool
) -> None:
    stream = b"\n".join([*lines, *(b'{"a":"' + b"x" * (size - 8) + b'"}' for size in sizes)])
    with patch.object(protocol, "LINE_LIMIT", 256):
        at_once = list(map(plain, messages_of([stream], document=document)))
        assert list(map(plain, messages_of(blocks_of(stream, places), document=document))) == at_once


@pytest.mark.parametrize("document", [False, True], ids=["lines", "document"])
@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        pytest.param(b"", [], id="nothing"),
        pytest.param(b"\n \r\n\t\n  ", [], id="blank-lines"),
        pytest.param(b'{"a":1}\n', [{"a": 1}], id="a-line"),
        pytest.param(b'{"a":1}', [{"a": 1}], id="last-line-without-newline"),
        pytest.param(b'{"a":1}\r\n\r\n{"a":2}\r\n', [{"a": 1}, {"a": 2}], id="crlf"),
        pytest.param(b'{"a":1}\n\n{"a":2}', [{"a": 1}, {"a": 2}], id="blank-between-and-none-at-the-end"),
        pytest.param(b'{"a":1}\r', [{"a": 1}], id="carriage-return-without-newline"),
        pytest.param(b'{"a":\r1}\n', [{"a": 1}], id="carriage-return-inside"),
        pytest.param(b'{"a":1}\nx', [{"a": 1}, None], id="malformed-last-line"),
        pytest.param(b'{"a":1}\n{\n}\n', [{"a": 1}, None], id="pretty-printed-after-a-line"),
        pytest.param(b'{"a":1}\nx\n{"a":2}\n', [{"a": 1}, None], id="nothing-after-malformed"),
        pytest.param(b"x\ny\n", [None], id="malformed-once"),
        pytest.param(b'{\n"a":NaN\n}', [None], id="pretty-printed-nan"),
        pytest.param(b"[\n{}\n]", [None], id="pretty-printed-list"),
        pytest.param(b'\xef\xbb\xbf{\n"a":1\n}', [None], id="pretty-printed-with-byte-order-mark"),
    ],
)
def test_output_of_a_driver(stream: bytes, expected: list[Any], *, document: bool) -> None:
    assert contents(messages_of([stream], document=document)) == expected


PRETTY = b'\r\n{\r\n  "application": {\r\n    "components": {}\r\n  },\n\n  "status": "ok"\n}'


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n \n"], ids=["bare", "newline", "blank-lines"])
def test_a_pretty_printed_answer_is_one_reply_where_a_document_is_allowed(end: bytes) -> None:
    messages = messages_of(blocks_of(PRETTY + end, [1, 3, 17, 40]), document=True)
    assert contents(messages) == [{"application": {"components": {}}, "status": "ok"}]
    assert kinds(messages) == ["Reply"]


def test_a_pretty_printed_answer_is_malformed_where_it_is_not() -> None:
    decoder = Decoder(document=False)
    # Told with the first bad line, not at the end: the driver is stopped at once (SPEC 4).
    assert kinds(decoder.feed(b"{\n")) == ["Malformed"]
    assert not decoder.feed(PRETTY)
    assert not decoder.end()


def test_a_message_is_given_as_soon_as_its_line_ends() -> None:
    decoder = Decoder(document=False)
    assert not decoder.feed(b'{"progress"')
    assert kinds(decoder.feed(b':1}\n{"status"')) == ["Progress"]
    assert kinds(decoder.feed(b':"ok"}\n')) == ["Reply"]
    assert not decoder.end()


def test_where_a_document_is_allowed_lines_are_still_given_at_once() -> None:
    decoder = Decoder(document=True)
    assert kinds(decoder.feed(b'{"progress":1}\n')) == ["Progress"]
    assert kinds(decoder.feed(b"{\n")) == ["Malformed"]


def test_an_answer_that_is_no_document_either_is_quoted_from_its_first_bad_line_on() -> None:
    messages = messages_of([b"\nTraceback (most recent call last):\n{}\n"], document=True)
    assert kinds(messages) == ["Malformed"]
    assert isinstance(messages[0], Malformed)
    assert messages[0].why == "it is no JSON: 'Traceback (most recent call last):\\n{}'"


def test_what_we_did_not_read_to_its_end_is_no_fault() -> None:
    decoder = Decoder(document=False)
    assert contents(decoder.feed(b'{"a":1}\n{"b"')) == [{"a": 1}]
    assert not decoder.end(cut=True)


def test_a_last_line_that_is_whole_counts_though_we_stopped_reading() -> None:
    decoder = Decoder(document=False)
    assert not decoder.feed(b'{"a":1}')
    assert contents(decoder.end(cut=True)) == [{"a": 1}]


# The limit of 4 MiB (SPEC 4).


def _padded(size: int) -> bytes:
    return b'{"a":"' + b"x" * (size - 8) + b'"}'


@pytest.mark.parametrize("document", [False, True], ids=["lines", "document"])
@pytest.mark.parametrize("end", [b"", b"\n"], ids=["bare", "newline"])
@pytest.mark.parametrize(
    ("size", "kind"),
    [
        pytest.param(4 * MIB, "Reply", id="4-MiB"),
        pytest.param(4 * MIB + 1, "Malformed", id="one-more"),
        pytest.param(9 * MIB, "Malformed", id="far-more"),
    ],
)
def test_a_line_may_have_4_mib(size: int, kind: str, end: bytes, *, document: bool) -> None:
    stream = _padded(size) + end
    assert kinds(messages_of([stream], document=document)) == [kind]
    blocks = blocks_of(stream, range(0, len(stream), 1 << 16))
    assert kinds(messages_of(blocks, document=document)) == [kind]


@pytest.mark.parametrize(
    ("size", "kind"),
    [pytest.param(4 * MIB, "Reply", id="4-MiB"), pytest.param(4 * MIB + 1, "Malformed", id="one-more")],
)
def test_a_document_may_have_4_mib(size: int, kind: str) -> None:
    stream = b"{\n" + _padded(size - 1)[1:]
    assert len(stream) == size
    assert kinds(messages_of([stream], document=True)) == [kind]
    assert kinds(messages_of(blocks_of(stream, range(0, size, 1 << 16)), document=True)) == [kind]


def test_a_line_that_is_too_long_is_told_before_it_ends() -> None:
    decoder = Decoder(document=False)
    assert not decoder.feed(b"{" * LINE_LIMIT)
    assert kinds(decoder.feed(b"{")) == ["Malformed"]
    assert not decoder.feed(b"{" * LINE_LIMIT)
    assert not decoder.end()


def test_a_document_that_is_too_long_is_told_before_it_ends() -> None:
    decoder = Decoder(document=True)
    assert not decoder.feed(b"{\n")
    assert kinds(decoder.feed(b"\n" * LINE_LIMIT)) == ["Malformed"]


@pytest.mark.parametrize("document", [False, True], ids=["lines", "document"])
def test_white_space_beyond_the_limit_gives_the_same_in_whatever_blocks(*, document: bool) -> None:
    stream = b" " * (LINE_LIMIT + 1) + b'\n{"a":1}\n'
    at_once = kinds(messages_of([stream], document=document))
    assert at_once == ["Malformed"]
    assert kinds(messages_of([stream[:-9], stream[-9:]], document=document)) == at_once


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
    message = decode(line)
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
    # A byte is at most five characters, `\\xff`; then the quotes and the dots.
    assert len(text) <= 80 * 5 + 5


@pytest.mark.parametrize(
    ("line", "text"),
    [
        pytest.param(b"", "''", id="nothing"),
        pytest.param(b"  warning \r\n", "'warning'", id="stripped"),
        pytest.param(b"a" * 80, "'" + "a" * 80 + "'", id="80-bytes"),
        pytest.param(b"a" * 81, "'" + "a" * 80 + "'...", id="81-bytes"),
        pytest.param(b"\x1b[31m\xff", "'\\x1b[31m\\\\xff'", id="unprintable"),
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
