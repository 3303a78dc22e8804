"""The overall progress of an adjust.

Rules (SPEC 8):
- Each driver that runs counts the same. The total is a whole number, rounded down, never goes back, and is at
  most 99 before the last driver has ended.
- A line for the agent has all keys of the driver's message, the total as its progress, and the driver's name
  before the text.
"""

from __future__ import annotations

from servo_agg.protocol.messages import truncate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from servo_agg.protocol.messages import JsonObject, Progress


class OverallProgress:
    """The overall progress of an adjust that runs `count` drivers one after another (SPEC 8.1-8.4).

    percent  the total, 0 to 100
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._ended = 0
        # The progress of the running driver in percent, as an exact fraction: (numerator, denominator).
        self._current = (0, 1)
        self._last_percent: float | None = None
        self.percent = self._total()

    def _total(self) -> int:
        if self._ended == self._count:
            return 100
        numerator, denominator = self._current
        return min(99, (100 * self._ended * denominator + numerator) // (self._count * denominator))

    def format_line(self, name: str, text: str, body: JsonObject | None = None) -> JsonObject:
        """Return the line for the agent about a driver. `body`: the driver's message that it passes on."""
        message = f"{name}: {text}" if text else name
        return {**(body or {}), "progress": self.percent, "message": truncate(message)}

    def advance(self, name: str, message: Progress) -> JsonObject:
        """Count a message of the running driver; return its line for the agent."""
        # Most messages of a driver that writes many repeat the number of the one before.
        if message.percent is not None and message.percent != self._last_percent:
            self._last_percent = message.percent
            numerator, denominator = min(max(message.percent, 0), 100).as_integer_ratio()
            if numerator * self._current[1] > self._current[0] * denominator:
                self._current = (numerator, denominator)
                self.percent = self._total()
        return self.format_line(name, message.text, message.body)

    def end_driver(self) -> None:
        """Count the running driver as done, whether it failed or not."""
        self._ended += 1
        self._current = (0, 1)
        self._last_percent = None
        self.percent = self._total()
