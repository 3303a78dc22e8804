"""SPEC 4, 5, 8, 13: decoding lines of any bytes, and encoding messages."""

from __future__ import annotations

import json
import time
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from servo_agg.protocol import messages as protocol
from servo_agg.protocol.messages import (
    LINE_LIMIT,
    TEXT_LIMIT,
    Malformed,
    Progress,
    Reply,
    clause,
    decode,
    encode,
    parse_object,
    quote,
    to_text,
    truncate,
    truncate_word,
)
from tests.support.outputs import (
    documents,
    fragments,
    keyed,
    nearly_correct,
    objects,
    plain,
    texts,
    valid_lines,
    values,
)

MIB = 1 << 20


# What a line is (SPEC 4.2, 4.6).


@pytest.mark.parametrize(
    ("line", "kind", "content"),
    [
        (b'{"progress":5}', Progress, {"progress": 5}),
        (b'{"progress":null,"message":"m"}', Progress, {"progress": None, "message": "m"}),
        (b'{"progress":5,"status":"ok"}', Reply, {"progress": 5, "status": "ok"}),
        (b'{"progress":5,"status":null}', Reply, {"progress": 5, "status": None}),
        (b'{"status":"failed"}', Reply, {"status": "failed"}),
        (b'{"error":"e","class":"c"}', Reply, {"error": "e", "class": "c"}),
        (b"{}", Reply, {}),
        (b' \t{"a": 1} \r', Reply, {"a": 1}),
        (b'{"a":"\\ud800"}', Reply, {"a": "\ud800"}),
        (b'{"a":"\xc3\xa9"}', Reply, {"a": "\xe9"}),
        (b'{"a":"\xef\xbb\xbf"}', Reply, {"a": "\ufeff"}),
        (b'{"a":1e308}', Reply, {"a": 1e308}),
        (b'{"a":1e-999}', Reply, {"a": 0.0}),
        (b'{"a":"NaN"}', Reply, {"a": "NaN"}),
        (b'{"a":"' + b"[{" * 5000 + b'"}', Reply, {"a": "[{" * 5000}),
        (b'{"a":"\\"' + b"[" * 5000 + b'\\\\"}', Reply, {"a": '"' + "[" * 5000 + "\\"}),
        (b'{"a":[' + b"{}," * 5000 + b"[]]}", Reply, {"a": [*([{}] * 5000), []]}),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_an_object_is_progress_or_a_reply(line: bytes, kind: type, content: dict[str, Any]) -> None:
    message = decode(line, unique_keys=True)
    assert not isinstance(message, Malformed)
    assert (type(message), message.body) == (kind, content)


@pytest.mark.parametrize("progress", [True, False, None, "50", [50], {"a": 50}])
def test_a_progress_that_is_not_a_number_has_no_percentage(progress: object) -> None:
    message = decode(json.dumps({"progress": progress}).encode(), unique_keys=True)
    assert isinstance(message, Progress)
    assert message.percent is None


NOT_JSON = "is not JSON"
TOO_DEEP = "is nested more than 400 levels deep"
OUT_OF_RANGE = "contains a number that is out of range"
BYTE_ORDER_MARK = "begins with a byte order mark"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"warning: the disk is full", NOT_JSON),
        (b'\x1b[32m{"a":1}\x1b[0m', NOT_JSON),
        (b'{"a":1', f"{NOT_JSON} from character 7 on"),
        (b'{"a":1}}', f"{NOT_JSON} from character 8 on"),
        (b'{"a":1}{"b":2}', f"{NOT_JSON} from character 8 on"),
        (b'{"a":1} done', f"{NOT_JSON} from character 9 on"),
        (b'{"a":1}\x00', f"{NOT_JSON} from character 8 on"),
        (b"{'a': 1}", f"{NOT_JSON} from character 2 on"),
        (b'{"a":"\x1b[31mred"}', f"{NOT_JSON} from character 7 on"),
        (b'{"a":"b\nc"}', f"{NOT_JSON} from character 8 on"),
        (b'{"a":\x001}', f"{NOT_JSON} from character 6 on"),
        (b'{"a":"' + b"x" * 200 + b'",level:1}', f"{NOT_JSON} from character 209 on"),
        (b'{"a":{"b":1,"b":2},"c":}', f"{NOT_JSON} from character 24 on"),
        (b'[{"a":1}]', "expected a JSON object, got a list"),
        (b'"a"', "expected a JSON object, got a string"),
        (b"100", "expected a JSON object, got a number"),
        (b"true", "expected a JSON object, got a boolean"),
        (b"null", "expected a JSON object, got null"),
        (b'{"a":"\xff"}', "is not UTF-8"),
        (b'{"a":"caf\xe9"}', "is not UTF-8"),
        (b'{"a":"\xed\xa0\x80"}', "is not UTF-8"),
        (b'{"a":"\xc0\xaf"}', "is not UTF-8"),
        ('{"a":1}'.encode("utf-16"), "is not UTF-8"),
        (b"\x80\xff\x01\xfe\x7f", "is not UTF-8"),
        (b'\xef\xbb\xbf{"a":1}', BYTE_ORDER_MARK),
        (b' \xef\xbb\xbf{"a":1}', NOT_JSON),
        (b'{"a":NaN}', "contains NaN, which is not a JSON number"),
        (b'{"a":Infinity}', "contains Infinity, which is not a JSON number"),
        (b'{"a":[-Infinity]}', "contains -Infinity, which is not a JSON number"),
        (b'{"a":1e999}', OUT_OF_RANGE),
        (b'{"a":-1e999}', OUT_OF_RANGE),
        (b'{"a":' + b"[" * 400 + b"]" * 400 + b"}", TOO_DEEP),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, TOO_DEEP),
        (b"[" * 1_000_000, TOO_DEEP),
        (b" " * 10 + b"x" * LINE_LIMIT, "is longer than 4 MiB"),
        (b'{"a":{"x y":1,"b":2,"x y":1}}', "has the key a.'x y' twice"),
        (b'{"a":[1,{"b":1,"\\u0062":2,"b":3}]}', "has the key a[1].b 3 times"),
        (b'{"a":{"b":1,"b":2},"c":1,"c":2}', "has the key c twice"),
        (b'{"a":' * 398 + b'{"b":1,"b":2}' + b"}" * 398, "has the key a" + ".a" * 397 + ".b twice"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_anything_else_is_malformed_for_this_reason_with_the_start_of_the_line(
    line: bytes, reason: str
) -> None:
    message = decode(line, unique_keys=True)
    assert isinstance(message, Malformed)
    assert message.reason == clause("printed a line that", ValueError(f"{reason}: {quote(line)}"))
    assert message.reason.isprintable()


def test_the_deepest_line_that_is_parsed_can_be_encoded_again() -> None:
    line = b'{"a":' + b"[" * 399 + b"]" * 399 + b"}\n"
    message = decode(line, unique_keys=True)
    assert isinstance(message, Reply)
    assert encode(message.body) == line


@pytest.mark.parametrize("digits", [4300, 4301, 100_000])
def test_a_whole_number_keeps_all_its_digits_or_is_malformed(digits: int) -> None:
    line = b'{"a":' + b"7" * digits + b"}\n"
    message = decode(line, unique_keys=True)
    if isinstance(message, Malformed):
        # Newer interpreters have their own limit, whose message names their settings.
        assert digits > 4300
        assert "digits" in message.reason
        assert "sys" not in message.reason
    else:
        assert encode(message.body) == line


@given(st.binary(max_size=200) | documents | fragments | nearly_correct)
@example(b'{"a":1e999}')
@example(b'{"a":' + b"7" * 4301 + b"}")
@example(b'{"a":' * 100_000)
def test_decode_never_raises_and_its_result_can_be_encoded_again(line: bytes) -> None:
    message = decode(line, unique_keys=True)
    if isinstance(message, Malformed):
        assert message.reason.isprintable()
        return
    assert isinstance(message, (Progress, Reply))
    again = encode(message.body)
    assert again.isascii()
    assert again.find(b"\n") == len(again) - 1
    assert plain(decode(again, unique_keys=True)) == plain(message)


@given(st.binary(max_size=200) | documents | fragments | nearly_correct)
def test_parse_object_returns_an_object_or_raises_a_sentence(document: bytes) -> None:
    problem = None
    try:
        content = parse_object(document)
    except ValueError as error:
        problem = error
    if problem is None:
        assert repr(content) == repr(json.loads(document))
    else:
        # Messages of its subclasses (UnicodeDecodeError, JSONDecodeError) are about Python.
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
    message = decode(deep.encode(), unique_keys=True)
    if 1 + around + depth_of(value) > protocol.DEPTH_LIMIT:
        assert isinstance(message, Malformed)
        assert "nested more than 400 levels" in message.reason
    else:
        assert isinstance(message, Reply)


NESTED = {
    "opening": "[" * LINE_LIMIT,
    "ever-deeper": "".join("[" * depth + "]" * depth for depth in range(2_047)),
    "wide": "[]" * (LINE_LIMIT // 2),
    "between-strings": '[]""' * (LINE_LIMIT // 4),
    "escapes": '"' + '\\"' * (LINE_LIMIT // 2),
}
"""Texts of 4 MiB, the most that is parsed."""


@pytest.mark.parametrize("shape", NESTED)
def test_the_depth_of_a_line_is_found_in_a_time_that_its_length_limits(shape: str) -> None:
    start = time.process_time()
    protocol._depth(NESTED[shape])  # noqa: SLF001 - `decode` would need the parser's time, too
    # Measured: 0.2 s; a loop over the brackets in Python took 1.1 s.
    assert time.process_time() - start < 0.9


@given(valid_lines)
def test_a_valid_line_is_progress_exactly_when_it_has_progress_and_no_status(line: bytes) -> None:
    content = json.loads(line)
    message = decode(line, unique_keys=True)
    assert not isinstance(message, Malformed)
    assert isinstance(message, Progress) == ("progress" in content and "status" not in content)
    assert repr(message.body) == repr(content)


# Messages to bytes (SPEC 5.1).


@given(objects | keyed)
@example({"a": "\ud800", "\udfff": "\U0001f600\x7f\x00\u2028\n"})
@example({"a": 10**4000, "b": -(10**4000), "c": 5e-324, "d": 1.7976931348623157e308, "e": -0.0})
def test_an_object_becomes_one_compact_ascii_line_that_decodes_to_the_same(content: dict[str, Any]) -> None:
    line = encode(content)
    assert line.isascii()
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert line[:-1].decode() == json.dumps(content, separators=(",", ":"))
    message = decode(line, unique_keys=True)
    assert not isinstance(message, Malformed)
    assert repr(message.body) == repr(content)


# Words for people (SPEC 8.7, 13.2).


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a text", "a text"),
        (["one", 2, ["three"], None], "one; 2; three"),
        (["one"], "one"),
        *(([], ""), (None, ""), (7, "7"), (True, "true")),
        ({"a": "caf\xe9"}, '{"a":"caf\\u00e9"}'),
    ],
)
def test_a_value_that_should_be_a_text_becomes_one(value: Any, text: str) -> None:
    assert to_text(value) == text


@given(values)
def test_any_value_becomes_a_text(value: Any) -> None:
    text = to_text(value)
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
        (b"", "''"),
        (b"  warning \r\n", "'warning'"),
        (b"a" * 80, "'" + "a" * 80 + "'"),
        (b"a" * 81, "'" + "a" * 80 + "'..."),
        (b"\x1b[31m\xff", "'\\x1b[31m\\xff'"),
        (b"\xc3\xa9 \\xff", "'\u00e9 \\\\xff'"),
        (b"a" * 79 + b"\xc3\xa9", "'" + "a" * 79 + "'..."),
    ],
)
def test_a_quote_is_the_start_of_the_line(line: bytes, text: str) -> None:
    assert quote(line) == text


@given(text=texts, size=st.integers(0, 4), limit=st.integers(60, 200))
@example(text="\u20ac", size=4, limit=61)
@example(text="\ud800\udc00x", size=4, limit=100)
def test_a_truncated_message_is_bounded_and_keeps_its_start(text: str, size: int, limit: int) -> None:
    text = text * 30**size if len(text) * 30**size < 10_000 else text
    with patch.object(protocol, "TEXT_LIMIT", limit):
        clipped = truncate(text)
    whole = len(text.encode("utf-8", "surrogatepass"))
    assert len(clipped.encode("utf-8", "surrogatepass")) <= limit
    if whole <= limit:
        assert clipped == text
    else:
        # The message says what was cut, and has nearly the maximum length.
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
    assert truncate(fits) == fits
    assert len(truncate(fits + character).encode("utf-8", "surrogatepass")) <= TEXT_LIMIT


def test_a_word_has_at_most_1_kib() -> None:
    assert truncate_word("x" * 1024) == "x" * 1024
    assert len(truncate_word("x" * 1025)) == 1024
