"""SPEC 4.1-4.6: decoding the output of a driver, in blocks of any size."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from servo_agg.protocol import messages as protocol
from servo_agg.protocol.messages import LINE_LIMIT, Decoder, Malformed, decode
from tests.support.outputs import blocks_of, cuts, fragments, nearly_correct, plain, streams, valid_lines

if TYPE_CHECKING:
    from collections.abc import Iterable

    from servo_agg.protocol.messages import Message

MIB = 1 << 20


def messages_of(blocks: Iterable[bytes], *, document: bool) -> list[Message]:
    decoder = Decoder(document=document)
    found: list[Message] = []
    for block in blocks:
        found += decoder.feed(block)
    return found + decoder.end()


def kinds(messages: Iterable[Message]) -> list[str]:
    return [type(message).__name__ for message in messages]


def contents(messages: Iterable[Message]) -> list[Any]:
    return [None if isinstance(message, Malformed) else message.body for message in messages]


def expected_messages(stream: bytes, *, document: bool, unique: bool) -> list[tuple[str, str]]:
    """Decode a whole output as SPEC 4.5 says: line by line, or else as one document."""
    lines = [line for line in stream.split(b"\n") if line.strip()]
    found = [plain(decode(line, unique_keys=unique)) for line in lines]
    bad = [index for index, (kind, _) in enumerate(found) if kind == "Malformed"]
    if not bad:
        return found
    whole = plain(decode(stream[stream.index(lines[0]) :], unique_keys=unique))
    if document and (whole[0] != "Malformed" or bad[0] == 0):
        return [whole]
    return found[: bad[0] + 1]


# A whole output (SPEC 4.1-4.6).


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
    # Byte by byte, except in the middle of long lines, where it makes no difference.
    single = [stream[index : index + 1] for index in range(min(len(stream), 500))]
    assert list(map(plain, messages_of([*single, stream[500:]], document=document))) == at_once


@pytest.mark.parametrize("document", [False, True], ids=["lines", "document"])
@given(stream=streams, places=cuts)
@example(stream=b'{\n"a":1\n}', places=[3])
@example(stream=b'{"a":1}\n{\n}', places=[])
@example(stream=b'{\n}\n{"a":1}\n', places=[])
def test_a_whole_output_is_read_by_the_contract(stream: bytes, places: list[int], *, document: bool) -> None:
    found = messages_of(blocks_of(stream, places), document=document)
    assert list(map(plain, found)) == expected_messages(stream, document=document, unique=document)


@pytest.mark.parametrize("document", [False, True], ids=["lines", "document"])
@given(stream=streams, places=cuts)
@example(stream=b'{"a":1}', places=[])
@example(stream=b'{"a":1}\n{"b"', places=[3])
@example(stream=b'{\n"a":', places=[])
def test_when_reading_stops_early_only_an_incomplete_last_line_is_missing(
    stream: bytes, places: list[int], *, document: bool
) -> None:
    decoder = Decoder(document=document)
    found = [message for block in blocks_of(stream, places) for message in decoder.feed(block)]
    found += decoder.end(cut=True)
    wanted = expected_messages(stream, document=document, unique=document)
    whole_lines = expected_messages(stream.rpartition(b"\n")[0], document=False, unique=document)
    if wanted and "Malformed" in dict(wanted[-1:]) and "Malformed" not in dict(whole_lines):
        wanted.pop()
    assert list(map(plain, found)) == wanted


@pytest.mark.parametrize("document", [False, True], ids=["lines", "document"])
@given(
    lines=st.lists(
        valid_lines | (fragments | nearly_correct).filter(bytes.strip) | st.just(b"x" * 300), max_size=5
    ),
    places=cuts,
    sizes=st.lists(st.integers(250, 260), max_size=3),
)
# Later bytes must not change the quote of the start of the line.
@example(lines=[b"\xc3\xa9" + b"7" * 300 + b"\xff"], places=[104, 257], sizes=[])
def test_blocks_make_no_difference_near_the_limit(
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
        (b"", []),
        (b"\n \r\n\t\n  ", []),
        (b'{"a":1}', [{"a": 1}]),
        (b'{"a":1}\r\n\r\n{"a":2}\r\n', [{"a": 1}, {"a": 2}]),
        (b'{"a":1}\r', [{"a": 1}]),
        (b'{"a":\r1}\n', [{"a": 1}]),
        (b'{"a":1}\nx', [{"a": 1}, None]),
        (b'{"a":1}\n{\n}\n', [{"a": 1}, None]),
        (b'{"a":1}\nx\n{"a":2}\n', [{"a": 1}, None]),
        (b'{\n"a":NaN\n}', [None]),
        (b"[\n{}\n]", [None]),
        (b'\xef\xbb\xbf{\n"a":1\n}', [None]),
    ],
)
def test_output_becomes_messages_up_to_the_first_malformed_one(
    stream: bytes, expected: list[Any], *, document: bool
) -> None:
    assert contents(messages_of([stream], document=document)) == expected


PRETTY = b'\r\n{\r\n  "application": {\r\n    "components": {}\r\n  },\n\n  "status": "ok"\n}'


@pytest.mark.parametrize("end", [b"", b"\n\n \n"], ids=["no-newline", "blank-lines"])
def test_a_pretty_printed_answer_is_one_reply_where_a_document_is_allowed(end: bytes) -> None:
    messages = messages_of(blocks_of(PRETTY + end, [1, 3, 17, 40]), document=True)
    assert contents(messages) == [{"application": {"components": {}}, "status": "ok"}]
    assert kinds(messages) == ["Reply"]


def test_a_message_is_returned_as_soon_as_its_line_ends() -> None:
    for document in (False, True):
        decoder = Decoder(document=document)
        assert not decoder.feed(b'{"progress"')
        assert kinds(decoder.feed(b':1}\n{"status"')) == ["Progress"]
        # A malformed line too: on an adjust the driver is stopped at once.
        assert kinds(decoder.feed(b':"ok"}\n{\n')) == ["Reply", "Malformed"]
        assert not decoder.feed(PRETTY)
        assert not decoder.end()


def test_an_answer_that_is_malformed_is_quoted_from_its_first_bad_line_on() -> None:
    (message,) = messages_of([b"\nTraceback (most recent call last):\n{}\n"], document=True)
    assert isinstance(message, Malformed)
    assert message.reason == "printed a line that is not JSON: 'Traceback (most recent call last):\\n{}'"


# The limit of 4 MiB (SPEC 4.5, 4.6).


def _padded(size: int) -> bytes:
    return b'{"a":"' + b"x" * (size - 8) + b'"}'


@pytest.mark.parametrize("document", [False, True], ids=["lines", "document"])
@pytest.mark.parametrize("end", [b"", b"\n"], ids=["bare", "newline"])
@pytest.mark.parametrize(("size", "kind"), [(4 * MIB, "Reply"), (4 * MIB + 1, "Malformed")])
def test_a_line_may_have_4_mib(size: int, kind: str, end: bytes, *, document: bool) -> None:
    stream = _padded(size) + end
    assert kinds(messages_of([stream], document=document)) == [kind]
    blocks = blocks_of(stream, range(0, len(stream), 1 << 16))
    assert kinds(messages_of(blocks, document=document)) == [kind]


@pytest.mark.parametrize(("size", "kind"), [(4 * MIB, "Reply"), (4 * MIB + 1, "Malformed")])
def test_a_document_may_have_4_mib(size: int, kind: str) -> None:
    stream = b"{\n" + _padded(size - 1)[1:]
    assert len(stream) == size
    assert kinds(messages_of([stream], document=True)) == [kind]
    assert kinds(messages_of(blocks_of(stream, range(0, size, 1 << 16)), document=True)) == [kind]


def test_a_line_that_is_too_long_is_malformed_before_it_ends() -> None:
    decoder = Decoder(document=False)
    assert not decoder.feed(b"{" * LINE_LIMIT)
    assert kinds(decoder.feed(b"{")) == ["Malformed"]
    assert not decoder.feed(b"{" * LINE_LIMIT)
    assert not decoder.end()


def test_a_document_that_is_too_long_is_malformed_before_it_ends() -> None:
    decoder = Decoder(document=True)
    assert not decoder.feed(b"{\n")
    assert kinds(decoder.feed(b"\n" * LINE_LIMIT)) == ["Malformed"]


@pytest.mark.parametrize("document", [False, True], ids=["lines", "document"])
def test_white_space_beyond_the_limit_gives_the_same_in_whatever_blocks(*, document: bool) -> None:
    stream = b" " * (LINE_LIMIT + 1) + b'\n{"a":1}\n'
    at_once = kinds(messages_of([stream], document=document))
    assert at_once == ["Malformed"]
    assert kinds(messages_of([stream[:-9], stream[-9:]], document=document)) == at_once


def test_output_that_comes_byte_by_byte_takes_no_object_for_each_byte() -> None:
    size = 64 << 10
    decoder = Decoder(document=False)
    tracemalloc.start()
    for _ in range(size):
        decoder.feed(bytes([ord("x")]))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 2 * size
