"""The overall progress of an adjust. Pure.

Rules (SPEC 8):
- Each driver that runs counts the same; whole numbers, rounded down, never back, 99 at most before the
  last one is done.
- A line holds what the driver's message held, with the overall progress, and with its name in the text.
"""

from __future__ import annotations

from servo_agg.protocol import as_text, clip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Object = dict[str, Any]


class Course:
    """The overall progress of an adjust of `count` drivers, one after another (SPEC 8)."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._done = 0
        # The running driver's progress as an exact fraction, 0 to 100: (numerator, denominator).
        self._at = (0, 1)
        self._said: object = None
        self._total = self._reckon()

    def total(self) -> int:
        """Give the overall progress in percent, 0 to 100."""
        return self._total

    def _reckon(self) -> int:
        if self._done == self._count:
            return 100
        numerator, denominator = self._at
        return min(99, (100 * self._done * denominator + numerator) // (self._count * denominator))

    def line(self, name: str, text: str, content: Object | None = None) -> Object:
        """Give the line that tells the agent of a driver's message `content`, or of ours."""
        message = f"{name}: {text}" if text else name
        return {**(content or {}), "progress": self._total, "message": clip(message)}

    def advance(self, name: str, content: Object) -> Object:
        """Take in a driver's progress message and give the line for the agent."""
        said = content["progress"]
        # Most lines of a driver that says many repeat the number of the one before.
        if said is not self._said:
            self._said = said
            if isinstance(said, (int, float)) and not isinstance(said, bool):
                numerator, denominator = min(max(said, 0), 100).as_integer_ratio()
                if numerator * self._at[1] > self._at[0] * denominator:
                    self._at = (numerator, denominator)
                    self._total = self._reckon()
        return self.line(name, as_text(content.get("message")), content)

    def end(self) -> None:
        """Take in that the running driver has ended, failed or not."""
        self._done += 1
        self._at = (0, 1)
        self._said = None
        self._total = self._reckon()
