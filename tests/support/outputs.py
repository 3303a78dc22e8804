"""Strategies for what a driver may write: JSON values, nearly correct lines, whole outputs.

Examples must be cheap, since a test may draw a hundred thousand of them: a text of several pieces is drawn as
bytes, and each byte selects a piece.
"""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from servo_agg.protocol.messages import Malformed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from servo_agg.protocol.messages import Message


def _joined(text: str) -> str:
    """Join pairs of surrogates, as every JSON parser does; single ones remain."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


texts = st.text(st.characters(codec=None, exclude_categories=()), max_size=8).map(_joined)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(texts, values, max_size=3)
keyed = st.fixed_dictionaries({}, optional={"progress": values, "status": values, "message": values})
valid_lines = (objects | keyed).map(lambda content: json.dumps(content).encode())

TOKENS = (
    *(bytes([byte]) for byte in b" \t\r\n\x0b\x00{}[],:\"'\\0-.eE"),
    b'"a":',
    b'"progress":',
    b'"status":"ok"',
    b"{}",
    b'"\\ud800"',
    b'"\\udc00\\ud800\\udc00"',
    b'"\\u00"',
    b"\xed\xa0\x80",
    b"\xff",
    b"\xc3\xa9",
    b"\xef\xbb\xbf",
    b"1",
    b"-0",
    b"1e5",
    b"1e999",
    b"5e-324",
    b"7" * 4300,
    b"-" + b"7" * 4301,
    b"null",
    b"true",
    b"NaN",
    b"-Infinity",
)

VALID = (
    b"{}",
    b'{"progress":1}',
    b'{"progress":null,"message":["a","b"],"stage":"\\ud83d\\ude00"}',
    b'{"status":"ok"}',
    b'{"status":"failed","message":"using the non-selected value"}',
    b'{"progress":1,"status":null}',
    b'{"a":1,"a":2}',
    b' {"a" : [ 1.0e5, -0, -0.0, 5e-324, true ] }\t',
    b'{"a":"\\ud800"}',
    b'{"\\udc00":"\\ud800\\udc00"}',
    '{"\xe9":"\u20ac\U0001f600\u2028"}'.encode(),
    b'{"application":{"components":{"web":{"settings":{"cpu":{"value":2}}}}}}',
    b'{\r\n "application": {\r\n  "components": {}\r\n }\r\n}',
    b'{\n\n"a":\n[\n{}\n]\n}',
    b'{"a":' + b"7" * 4300 + b"}",
    *(
        b'{"a":' + opening * depth + b"1" + closing * depth + b"}"
        for depth, (opening, closing) in itertools.product(
            (1, 20, 398), ((b"[", b"]"), (b'{"":', b"}"), (b"[{},\n", b"]"))
        )
    ),
)
INVALID = (
    b"",
    b" ",
    b"\t\x0b",
    b"warning: low disk",
    b"[]",
    b"null",
    b"1",
    b'"a"',
    b"NaN",
    b'{"a":NaN}',
    b'{"a":-Infinity}',
    b'{"a":1e999}',
    b'{"a":"\xff"}',
    b'{"a":"\xed\xa0\x80"}',
    b'\xef\xbb\xbf{"a":1}',
    b"\xff\xfe{\x00}\x00",
    b"{'a': 1}",
    b'{"a":1,}',
    b'{"a":1}{"b":2}',
    b'{"a":' + b"7" * 4301 + b"}",
    b'{"a":' + b"[" * 400 + b"]" * 400 + b"}",
    b'{"a":' + b'{"":' * 5000,
    b"[" * 5000,
)

documents = st.sampled_from(VALID) | valid_lines
fragments = st.sampled_from(INVALID + VALID)

_LINES = tuple(
    line + end for end, line in itertools.product((b"\n", b"\r\n", b"\n\n", b""), VALID + INVALID[:-4])
)


def _picked(pieces: Sequence[bytes], picks: bytes) -> bytes:
    return b"".join(pieces[pick % len(pieces)] for pick in picks)


def _damaged(picks: bytes) -> bytes:
    """Replace a few bytes of a document by a token; the picks select document, place, count and token."""
    document_pick, at, length, token_pick = picks
    document = VALID[document_pick % len(VALID)]
    start = at % (len(document) + 1)
    return document[:start] + TOKENS[token_pick % len(TOKENS)] + document[start + length % 4 :]


damaged = st.binary(min_size=4, max_size=4).map(_damaged)
nearly_correct = st.binary(max_size=10).map(lambda picks: _picked(TOKENS, picks)) | damaged
streams = (
    st.binary(max_size=80)
    | st.binary(max_size=6).map(lambda picks: _picked(_LINES, picks))
    | st.tuples(st.binary(max_size=4), damaged, st.binary(max_size=4)).map(
        lambda parts: _picked(_LINES, parts[0]) + parts[1] + b"\n" + _picked(_LINES, parts[2])
    )
    | st.lists(valid_lines | fragments, max_size=4).map(b"\n".join)
)
"""Whole outputs of a driver."""

cuts = st.binary(max_size=12).map(lambda sizes: list(itertools.accumulate(sizes)))
"""Places at which to cut an output for `blocks_of`."""


def blocks_of(stream: bytes, places: Sequence[int]) -> list[bytes]:
    """Cut a stream at these places; equal places make an empty block."""
    edges = [0, *sorted(min(place, len(stream)) for place in places), len(stream)]
    return [stream[start:end] for start, end in zip(edges, edges[1:])]


def plain(message: Message) -> tuple[str, str]:
    """Return a message in a form that can be compared; `repr` distinguishes 1, 1.0 and True."""
    if isinstance(message, Malformed):
        return "Malformed", message.reason
    return type(message).__name__, repr(message.body)
