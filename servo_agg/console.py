"""What people look at on stderr: lines for those who asked, a failed driver's stderr, the progress bar.

Rules (SPEC 4, 5, 13, 14):
- stderr is ASCII, since the agent decodes it strictly, and gives a terminal no orders.
- A driver's stderr is shown live, each line after its name, on a terminal or with `-v`. What finds
  no room because nobody reads is not shown, notes included; drivers never wait for it.
- The bar is always the last line: what else is said comes before it.
"""

from __future__ import annotations

import os
import time

from servo_agg.protocol import as_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from servo_agg.outlet import Outlet

    Object = dict[str, Any]

_LINE = 4096

_REDRAW = 0.1
"""Seconds between two drawings of a bar that has not moved."""

_ORDERS = {number: repr(chr(number))[1:-1] for number in (*range(32), 127) if chr(number) not in "\t\n"}
"""What a terminal would take for an order, and what we show instead."""


def printable(text: str) -> bytes:
    """Turn text into ASCII of which a terminal obeys nothing but tabs and newlines (SPEC 5)."""
    return text.translate(_ORDERS).encode("ascii", "backslashreplace")


class Console:
    """Says things to a person, each as whole lines, through the outlet of stderr."""

    def __init__(self, outlet: Outlet, *, verbose: bool, bar: bool) -> None:
        """`verbose`: notes are wanted; `bar`: progress is to be shown by a bar."""
        self._outlet = outlet
        self._verbose = verbose
        self._partial: dict[str, bytes] = {}
        self._shows_bar = bar
        self._bar = b""
        self._drawn_at = 0.0
        self._percent = -1

    def say(self, text: str) -> None:
        """Say a line to whoever reads stderr."""
        line = printable(text) + b"\n"
        bar = self._bar
        # In one go, since drivers' workers say things too.
        self._outlet.put(_erasing(bar) + line + bar)

    def note(self, text: str, content: Object | None = None) -> None:
        """Say a line to those who asked for details: `text`, then `content` as JSON."""
        if self._verbose and not self._outlet.full:
            self.say(text + as_text(content))

    def show(self, name: str, block: bytes | None) -> None:
        """Show what a driver wrote to its stderr, None being its end. Called from its worker; never waits."""
        *lines, rest = (self._partial.pop(name, b"") + (block or b"")).split(b"\n")
        if rest and (block is None or len(rest) > _LINE):
            lines.append(rest)
        elif rest:
            self._partial[name] = rest
        for line in lines:
            if not self._outlet.full:
                text = line.decode("utf-8", "replace").rstrip("\r")
                self.say(f"{name}: {text}")

    def progress(self, percent: int, text: str) -> None:
        """Show how far an adjust has come, where a bar is wanted."""
        now = time.monotonic()
        if not self._shows_bar or (percent == self._percent and now < self._drawn_at + _REDRAW):
            return
        from servo_agg.tables import progress_bar  # noqa: PLC0415 - only people at a terminal need it

        # One place less than there is: a terminal that fills its last place may begin a new line.
        bar = b"\r" + progress_bar(percent, text, (width_of(2) or 80) - 1).encode("ascii", "backslashreplace")
        self._percent, self._drawn_at = percent, now
        before, self._bar = self._bar, bar
        self._outlet.put(_erasing(before) + bar)

    def end_bar(self) -> None:
        """Leave the bar as it is."""
        if self._bar:
            self._bar = b""
            self._outlet.put(b"\n")


def _erasing(bar: bytes) -> bytes:
    # Blanks rather than a control sequence: any terminal knows them.
    return b"\r" + b" " * (len(bar) - 1) + b"\r" if bar else b""


def width_of(descriptor: int) -> int | None:
    """Give the columns of the terminal behind a descriptor, None when it is none or does not tell."""
    try:
        return os.get_terminal_size(descriptor).columns or None
    except OSError:
        return None


def wants_colour(descriptor: int) -> bool:
    """Tell whether colour may be shown: on a terminal that knows it, to someone who did not refuse it."""
    refused = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
    return os.isatty(descriptor) and not refused


def shortened(text: str, how: str) -> str:
    """Give what `OPTUNE_VERBOSE_STDERR` leaves of a failed driver's stderr (SPEC 13)."""
    text = text.rstrip()
    if how == "none":
        return ""
    return "\n".join(text.splitlines()[:2]) if how == "minimal" else text
