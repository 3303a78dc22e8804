"""A driver's output, in whatever blocks it comes, to messages. Pure.

Rules (SPEC 4):
- Output is split at newlines; blank lines are nothing; a last line without a newline counts.
- Where a whole document is allowed (query, info), output whose first line does not parse is kept,
  up to 4 MiB, and tried as one document at its end. Only the first line needs to be looked at for
  that: after a line that is an object by itself, the whole can be no single document.
- After a Malformed nothing more is decoded: the driver has failed, whatever follows.
- The same bytes give the same messages, in whatever blocks they come.
"""

from __future__ import annotations

from servo_agg.protocol import LINE_LIMIT, Malformed, decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from servo_agg.protocol import Message

_BLANK = 64
"""Bytes of a begun line that are looked at again and again, whether they are blank."""


def _is_blank(line: bytes) -> bool:
    # White space beyond the limit is too long a line in whatever blocks it comes.
    return not line or (line.isspace() and len(line) <= LINE_LIMIT)


class Decoder:
    """Takes a driver's output in blocks and gives its messages; holds at most one line or document."""

    def __init__(self, *, document: bool) -> None:
        """`document`: the whole output may be one pretty-printed document (query, info)."""
        self._document = document
        # A driver that changes something must not be stopped for a key that it says twice.
        self._unique = document
        self._rest: list[bytes] = []
        self._size = 0
        self._first: Malformed | None = None
        self._over = False

    def feed(self, block: bytes) -> list[Message]:
        """Give the messages that end in this block."""
        if self._over:
            return []
        messages: list[Message] = []
        if self._first is None:
            if block.isspace() and self._size <= _BLANK and self._size + len(block) <= LINE_LIMIT:
                block = self._without_blank_lines(block)
            *lines, block = block.split(b"\n")
            for number, piece in enumerate(lines):
                line = self._take(piece) if self._rest else piece
                if _is_blank(line):
                    continue
                message = decode(line, unique=self._unique)
                if not isinstance(message, Malformed):
                    self._document = False
                    messages.append(message)
                elif self._document:
                    self._first = message
                    block = b"\n".join([line, *lines[number + 1 :], block])
                    break
                else:
                    self._over = True
                    return [*messages, message]
        self._keep(block)
        if self._size > LINE_LIMIT:
            self._over = True
            messages.append(decode(self._take(), unique=self._unique))
        return messages

    def end(self, *, cut: bool = False) -> list[Message]:
        """Give what the end of output completes: a last line without a newline, or the document.

        `cut`: it was we who stopped reading; a torn last line is then nobody's fault.
        """
        rest = self._take()
        if self._over or _is_blank(rest):
            return []
        self._over = True
        message = decode(rest, unique=self._unique)
        return [] if cut and self._first is None and isinstance(message, Malformed) else [message]

    def _without_blank_lines(self, block: bytes) -> bytes:
        """Leave of a block of white space what follows its last line: a flood of blank lines costs little."""
        end = block.rfind(b"\n") + 1
        if end and not b"".join(self._rest).strip():
            self._take()
            return block[end:]
        return block

    def _keep(self, piece: bytes) -> None:
        self._rest.append(piece)
        self._size += len(piece)

    def _take(self, piece: bytes = b"") -> bytes:
        if not self._rest:
            return piece
        self._rest.append(piece)
        whole = b"".join(self._rest)
        self._rest = []
        self._size = 0
        return whole
