"""What people look at: lines on stderr for those who asked, and a failed driver's stderr.

Rules (SPEC 4, 5, 13):
- stderr is ASCII, since the agent decodes it strictly.
- A driver's stderr is shown live, each line after its name, on a terminal or with `-v`. What finds
  no room because nobody reads is not shown; drivers never wait for it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from servo_agg.outlet import Outlet

_LINE = 4096


class Console:
    """Says things to a person, each as whole lines, through the outlet of stderr."""

    def __init__(self, outlet: Outlet, *, verbose: bool) -> None:
        self._outlet = outlet
        self._verbose = verbose
        self._partial: dict[str, bytes] = {}

    def say(self, text: str) -> None:
        """Say a line to whoever reads stderr."""
        self._outlet.put(text.encode("ascii", "backslashreplace") + b"\n")

    def note(self, text: str) -> None:
        """Say a line to those who asked for details."""
        if self._verbose:
            self.say(text)

    def show(self, name: str, block: bytes | None) -> None:
        """Show what a driver wrote to its stderr, None being its end. Called from its worker; never waits."""
        *lines, rest = (self._partial.pop(name, b"") + (block or b"")).split(b"\n")
        if rest and (block is None or len(rest) > _LINE):
            lines.append(rest)
        elif rest:
            self._partial[name] = rest
        for line in lines:
            if not self._outlet.full:
                self.say(f"{name}: {line.decode('utf-8', 'replace')}")


def shortened(text: str, how: str) -> str:
    """Give what `OPTUNE_VERBOSE_STDERR` leaves of a failed driver's stderr (SPEC 13)."""
    text = text.rstrip()
    if how == "none":
        return ""
    return "\n".join(text.splitlines()[:2]) if how == "minimal" else text
