"""What is to be run: a driver with its arguments, and the terms that hold for all drivers of a phase."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from servo_agg.lifecycle import Limits
    from servo_agg.protocol import Message
    from servo_agg.report import Outcome


class Job:
    """A driver to be run: its name, its arguments, and what it is given on stdin (None: nothing)."""

    __slots__ = ("arguments", "given", "name")

    def __init__(self, name: str, arguments: Sequence[str], given: bytes | None = None) -> None:
        self.name = name
        self.arguments = arguments
        self.given = given


class Phase:
    """How the drivers of one call of `drive` are run and judged.

    name         `info`, `query` or `adjust`; when they are adjusted there are no whole documents,
                 malformed output stops at once, and a reply needs a status
    limits       deadlines and graces
    together     how many may run at once
    apart        names of those of which only one at a time may run
    all_or_none  once one has failed, no other is begun, and those that run have RESPITE
    hear         is told of a driver's messages, those that came together at once: `hear(name, messages)`
    examine      looks into a successful outcome and may make it a failure
    """

    __slots__ = ("all_or_none", "apart", "examine", "hear", "limits", "name", "together")

    def __init__(
        self,
        name: str,
        limits: Limits,
        *,
        together: int = 1,
        apart: Collection[str] = (),
        all_or_none: bool = False,
        hear: Callable[[str, Sequence[Message]], None] | None = None,
        examine: Callable[[Outcome], None] | None = None,
    ) -> None:
        self.name = name
        self.limits = limits
        self.together = together
        self.apart = apart
        self.all_or_none = all_or_none
        self.hear = hear
        self.examine = examine

    @property
    def adjusting(self) -> bool:
        """Whether the drivers are adjusted."""
        return self.name == "adjust"
