"""Text on stderr: warnings, details for `-v`, the drivers' stderr, the status line.

Rules (SPEC 4, 5, 13, 14):
- stderr is ASCII, since the agent decodes it strictly. On a terminal that speaks UTF-8 it is UTF-8, and lines
  are wrapped between words, except those of drivers. It contains no control sequences for a terminal.
- On a terminal or with `-v`, a driver's stderr is shown as it comes, each line after the driver's name.
  While the writer is full, neither this nor the lines of `-v` are shown: a driver never waits for a reader of
  our stderr.
- The status line shows the progress of an adjust in a bar, and the driver that is waited for. It is always
  the last line: other lines are inserted above it.
"""

from __future__ import annotations

import os
import sys
import time

from servo_agg import threads
from servo_agg.protocol.messages import to_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from servo_agg.output.writer import Writer
    from servo_agg.protocol.messages import JsonObject

_ESCAPES = {number: repr(chr(number))[1:-1] for number in (*range(32), 127) if chr(number) not in "\t\n"}
"""What is shown in place of control characters."""


def encode_printable(text: str, *, utf8: bool = False) -> bytes:
    """Return text in which tabs and newlines are the only control characters (SPEC 5.3, 5.4).

    It is ASCII, or with `utf8` UTF-8, in which no other character is unprintable either.
    """
    if not utf8 or text.isascii():
        return text.translate(_ESCAPES).encode("ascii", "backslashreplace")
    from servo_agg.output.tables import escape_unprintable  # noqa: PLC0415 - needed only on a terminal

    lines = ("\t".join(map(escape_unprintable, line.split("\t"))) for line in text.split("\n"))
    return "\n".join(lines).encode()


def is_utf8_terminal(descriptor: int) -> bool:
    """Return whether a descriptor is a terminal, in a locale whose encoding is UTF-8."""
    # As for stdout: Python takes UTF-8 if the locale is C.
    encoding = sys.stdout.encoding.lower().replace("_", "-") if sys.stdout is not None else ""
    return encoding in ("utf-8", "utf8") and os.isatty(descriptor)


_INDENT = "    "
"""What begins the further lines of a text that is wrapped."""

_REDRAW_INTERVAL = 0.1
"""Seconds between two drawings of a status line whose percentage has not changed."""


class Console:
    """Writes lines and the status line to stderr. Its methods may be called from any thread."""

    def __init__(self, writer: Writer, *, started: float, verbose: bool, has_status_line: bool) -> None:
        """Create a console.

        `started`: when this program started, in monotonic seconds; `verbose`: show the details of `debug`;
        `has_status_line`: show the status line.
        """
        self._writer = writer
        self._started = started
        self._verbose = verbose
        self._has_status_line = has_status_line
        self._on_terminal = os.isatty(2)
        self._utf8 = is_utf8_terminal(2)
        self._percent: int | None = None
        self._message = ""
        self._activity = ""
        self._urgent = False
        # The content of the status line, and its columns, when it was last drawn.
        self._drawn = ""
        self._drawn_width = 0
        self._drawn_at = 0.0
        self._lock = threads.Lock()

    def warn(self, text: str, *commands: str) -> None:
        """Show a text for people, wrapped to the width of a terminal. `commands`: those in it, in order."""
        if self._on_terminal:
            from servo_agg.output.tables import wrap  # noqa: PLC0415 - needed only on a terminal

            width = terminal_width(2)
            lines = (self.escape(line.expandtabs()) for line in text.split("\n"))
            escaped = [self.escape(command) for command in commands]
            text = "\n".join("\n".join(wrap(line, width, "", _INDENT, escaped)) for line in lines)
        self.show(text)

    def show(self, text: str) -> None:
        """Show lines as they are."""
        with self._lock:
            line = encode_printable(text, utf8=self._utf8) + b"\n"
            self._writer.write(self._erase() + line + self._draw())

    def escape(self, text: str) -> str:
        """Return a text of one line as it can be shown here."""
        from servo_agg.output.tables import escape_non_ascii, escape_unprintable  # noqa: PLC0415 - not for the agent

        return escape_unprintable(text) if self._utf8 else escape_non_ascii(text)

    def debug(self, text: str, body: JsonObject | None = None) -> None:
        """With `-v`, show a line: the seconds since our start, `text`, then `body` as JSON."""
        if self._verbose and not self._writer.full:
            self.show(f"[{time.monotonic() - self._started:.3f}] {text}{to_text(body)}")

    def show_stderr(self, name: str, line: bytes) -> None:
        """Show a line that a driver wrote to its stderr. Called from the driver's worker."""
        if not self._writer.full:
            text = line.decode("utf-8", "replace").rstrip("\r")
            self.show(f"{name}: {text}")

    def progress(self, percent: int, text: str) -> None:
        """Show the progress of an adjust in the status line."""
        if self._has_status_line:
            with self._lock:
                changed = self._percent != percent
                self._percent, self._message = percent, text
                self._redraw(at_once=changed)

    def show_activity(self, text: str, *, urgent: bool) -> None:
        """Show in the status line what is waited for; if it is `urgent`, in place of the bar.

        Without a status line, show the first text that is urgent as a line.

        Call this every `_REDRAW_INTERVAL` seconds, even with the same text: the line follows the width of the
        terminal, and is drawn again each second, since a shell may have written to the line.
        """
        announced = self._urgent
        with self._lock:
            self._activity, self._urgent = text, urgent
            if self._has_status_line:
                self._redraw(at_once=urgent and not announced)
        if urgent and not (announced or self._has_status_line):
            self.warn(text)

    def end_status_line(self) -> None:
        """Leave the bar as it is, with the last message; remove a status line without one."""
        with self._lock:
            self._activity, self._urgent = "", False
            end = b"\n" if self._percent is not None else b""
            if self._drawn:
                self._writer.write(self._erase() + self._draw() + end)
            self._has_status_line = False
            self._percent, self._message, self._drawn = None, "", ""

    def _redraw(self, *, at_once: bool) -> None:
        elapsed = time.monotonic() - self._drawn_at
        if at_once or elapsed >= _REDRAW_INTERVAL:
            line = self._status_line()
            if line != self._drawn or (line and elapsed >= 1):
                self._drawn_at = time.monotonic()
                self._writer.write(self._erase() + self._draw())

    def _erase(self) -> bytes:
        # Blanks, not a control sequence: every terminal knows them. Not more than its present width.
        blanks = b" " * min(self._drawn_width, _line_limit())
        return b"\r" + blanks + b"\r" if self._drawn_width else b""

    def _draw(self) -> bytes:
        self._drawn = self._status_line()
        if not self._drawn:
            self._drawn_width = 0
            return b""
        from servo_agg.output.tables import display_width  # noqa: PLC0415 - needed only on a terminal

        self._drawn_width = display_width(self._drawn)
        return self._drawn.encode()

    def _status_line(self) -> str:
        """Return the present status line, "" if there is nothing to show."""
        if not self._has_status_line or (self._percent is None and not self._activity):
            return ""
        from servo_agg.output.tables import progress_bar, truncate_middle  # noqa: PLC0415 - needed only on a terminal

        width, activity = _line_limit(), self.escape(self._activity)
        if self._percent is None or self._urgent:
            return truncate_middle(activity, width)
        return progress_bar(self._percent, self.escape(self._message), activity, width)


def _line_limit() -> int:
    # One column is left free: a terminal whose last column is filled may begin a new line.
    return (terminal_width(2) or 80) - 1


def terminal_width(descriptor: int) -> int | None:
    """Return the columns of a terminal; None if it is not a terminal or does not say."""
    try:
        return os.get_terminal_size(descriptor).columns or None
    except OSError:
        return None


def supports_color(descriptor: int) -> bool:
    """Return whether to show color: on a terminal that supports it, unless NO_COLOR is set."""
    refused = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
    return os.isatty(descriptor) and not refused


def shorten_stderr(text: str, mode: str) -> str:
    """Return the part of a failed driver's stderr that OPTUNE_VERBOSE_STDERR selects (SPEC 13.9)."""
    text = text.rstrip()
    if mode == "none":
        return ""
    return "\n".join(text.splitlines()[:2]) if mode == "minimal" else text
