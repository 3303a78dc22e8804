"""Text on stderr: warnings, details for `-v`, the drivers' stderr, the progress bar.

Rules (SPEC 4, 5, 13, 14):
- stderr is ASCII, since the agent decodes it strictly, and contains no control sequences for a terminal.
- On a terminal or with `-v`, a driver's stderr is shown as it comes, each line behind the driver's name.
  While the writer is full neither that nor the details of `-v` are shown: a driver never waits for a reader
  of our stderr.
- The progress bar is always the last line: other lines are inserted above it.
"""

from __future__ import annotations

import os
import time

from servo_agg import threads
from servo_agg.protocol.messages import to_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from servo_agg.output.writer import Writer
    from servo_agg.protocol.messages import JsonObject

_ESCAPES = {number: repr(chr(number))[1:-1] for number in (*range(32), 127) if chr(number) not in "\t\n"}
"""What is shown in place of control characters."""


def encode_printable(text: str) -> bytes:
    """Return text as ASCII in which tabs and newlines are the only control characters (SPEC 5)."""
    return text.translate(_ESCAPES).encode("ascii", "backslashreplace")


_LINE_LIMIT = 4096
"""Bytes of an incomplete line of a driver's stderr that are held back."""

_REDRAW_INTERVAL = 0.1
"""Seconds between two drawings of a bar whose percentage has not changed."""


class Console:
    """Writes lines and the progress bar to stderr. Its methods may be called from any thread."""

    def __init__(self, writer: Writer, *, verbose: bool, bar: bool) -> None:
        """`verbose`: show the details of `debug`; `bar`: show the progress bar."""
        self._writer = writer
        self._verbose = verbose
        self._shows_bar = bar
        # The incomplete last line of each driver's stderr.
        self._incomplete: dict[str, bytes] = {}
        self._bar: tuple[int, str] | None = None
        self._bar_width = 0
        self._drawn_at = 0.0
        self._lock = threads.Lock()

    def warn(self, text: str) -> None:
        """Show a line."""
        with self._lock:
            self._writer.write(self._erase_bar() + encode_printable(text) + b"\n" + self._draw_bar())

    def debug(self, text: str, body: JsonObject | None = None) -> None:
        """With `-v`, show a line: `text`, then `body` as JSON."""
        if self._verbose and not self._writer.full:
            self.warn(text + to_text(body))

    def show_stderr(self, name: str, block: bytes | None) -> None:
        """Show what a driver wrote to its stderr; None is its end. Called from the driver's worker."""
        *lines, rest = (self._incomplete.pop(name, b"") + (block or b"")).split(b"\n")
        if rest and (block is None or len(rest) > _LINE_LIMIT):
            lines.append(rest)
        elif rest:
            self._incomplete[name] = rest
        for line in lines:
            if not self._writer.full:
                text = line.decode("utf-8", "replace").rstrip("\r")
                self.warn(f"{name}: {text}")

    def progress(self, percent: int, text: str) -> None:
        """Show the progress of an adjust in the bar, if there is to be one."""
        if not self._shows_bar:
            return
        now = time.monotonic()
        with self._lock:
            changed = self._bar is None or self._bar[0] != percent
            if changed or now >= self._drawn_at + _REDRAW_INTERVAL:
                self._bar, self._drawn_at = (percent, text), now
                self._writer.write(self._erase_bar() + self._draw_bar())

    def end_bar(self) -> None:
        """Leave the bar as it is; later lines are shown below it."""
        with self._lock:
            if self._bar is not None:
                self._bar = None
                self._bar_width = 0
                self._writer.write(b"\n")

    def _erase_bar(self) -> bytes:
        # Blanks, not a control sequence: every terminal knows them. Not more than its present width.
        blanks = b" " * min(self._bar_width, _bar_limit())
        return b"\r" + blanks + b"\r" if self._bar_width else b""

    def _draw_bar(self) -> bytes:
        if self._bar is None:
            return b""
        from servo_agg.output.tables import progress_bar  # noqa: PLC0415 - needed only at a terminal

        bar = progress_bar(*self._bar, _bar_limit()).encode("ascii")
        self._bar_width = len(bar)
        return bar


def _bar_limit() -> int:
    # One column is left free: a terminal whose last column is filled may begin a new line.
    return (terminal_width(2) or 80) - 1


def terminal_width(descriptor: int) -> int | None:
    """Return the columns of a terminal; None if it is not a terminal or does not say."""
    try:
        return os.get_terminal_size(descriptor).columns or None
    except OSError:
        return None


def supports_colour(descriptor: int) -> bool:
    """Return whether to show colour: on a terminal that has it, unless NO_COLOR is set."""
    refused = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
    return os.isatty(descriptor) and not refused


def shorten_stderr(text: str, mode: str) -> str:
    """Return the part of a failed driver's stderr that OPTUNE_VERBOSE_STDERR selects (SPEC 13)."""
    text = text.rstrip()
    if mode == "none":
        return ""
    return "\n".join(text.splitlines()[:2]) if mode == "minimal" else text
