"""Fuzz the decoder: see README.md. The first byte is the mode, the second the size of the blocks."""

from __future__ import annotations

import atheris

from tests.fuzz.engine import fuzz

with atheris.instrument_imports(include=["servo_agg"]):
    from servo_agg.protocol.messages import Malformed, decode, encode
    from tests.support.outputs import blocks_of, plain
    from tests.unit.test_decoder import expected_messages, messages_of


def check(data: bytes) -> None:
    """Check that any blocks are decoded as SPEC 4 says, and that the messages can be encoded again."""
    mode, size, stream = data[:1], (data[1:2] or b"\1")[0], data[2:]
    document = mode > b"\x7f"
    blocks = blocks_of(stream, range(0, len(stream), size or len(stream) + 1))
    found = messages_of(blocks, document=document)
    assert list(map(plain, found)) == expected_messages(stream, document=document, unique=document)
    for message in found:
        if not isinstance(message, Malformed):
            line = encode(message.body)
            assert line.isascii()
            assert line.find(b"\n") == len(line) - 1
            assert plain(decode(line, unique_keys=True)) == plain(message)


if __name__ == "__main__":
    fuzz(lambda _: check, "Fuzz the decoder.")
