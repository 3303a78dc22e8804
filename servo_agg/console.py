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

from servo_agg import threads
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
        self._bar: tuple[int, str] | None = None
        self._drawn = 0
        self._drawn_at = 0.0
        # Drivers' workers say things, too.
        self._lock = threads.Lock()

    def say(self, text: str) -> None:
        """Say a line to whoever reads stderr."""
        with self._lock:
            self._outlet.put(self._erasing() + printable(text) + b"\n" + self._drawing())

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
        if not self._shows_bar:
            return
        with self._lock:
            moved = self._bar is None or self._bar[0] != percent
            if moved or now >= self._drawn_at + _REDRAW:
                self._bar, self._drawn_at = (percent, text), now
                self._outlet.put(self._erasing() + self._drawing())

    def end_bar(self) -> None:
        """Leave the bar as it is."""
        with self._lock:
            if self._bar is not None:
                self._bar = None
                self._drawn = 0
                self._outlet.put(b"\n")

    def _erasing(self) -> bytes:
        # Blanks rather than a control sequence: any terminal knows them. No more than it has places now.
        return b"\r" + b" " * min(self._drawn, _room()) + b"\r" if self._drawn else b""

    def _drawing(self) -> bytes:
        if self._bar is None:
            return b""
        from servo_agg.tables import progress_bar  # noqa: PLC0415 - only people at a terminal need it

        bar = progress_bar(*self._bar, _room()).encode("ascii")
        self._drawn = len(bar)
        return bar


def _room() -> int:
    # One place less than there is: a terminal that fills its last place may begin a new line.
    return (width_of(2) or 80) - 1


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
