"""What can happen: the events that workers, outlets and main put into the inbox.

Rules:
- An event is a fact, not an order; the coordinator alone decides what follows from it.
- A driver is named by its pid, which is its own until the coordinator reaps it.
"""

from __future__ import annotations

AGENT_GONE = "agent-gone"
"""The cause of an end that is no signal: nobody reads our stdout any more."""

CANCEL = "SIGUSR1"
"""The signal by which the agent cancels, and by which we tell a driver of it (SPEC 10)."""


class Output:
    """A block of a driver's stdout."""

    __slots__ = ("block", "pid")

    def __init__(self, pid: int, block: bytes) -> None:
        self.pid = pid
        self.block = block


class Closed:
    """A driver's stdout is at its end; `cut`: because we stopped reading it."""

    __slots__ = ("cut", "pid")

    def __init__(self, pid: int, *, cut: bool) -> None:
        self.pid = pid
        self.cut = cut


class Exited:
    """A driver has exited; it has not been reaped."""

    __slots__ = ("pid",)

    def __init__(self, pid: int) -> None:
        self.pid = pid


class Ended:
    """We are to end, or to cancel. `cause`: the name of a signal, CANCEL too, or AGENT_GONE."""

    __slots__ = ("cause",)

    def __init__(self, cause: str) -> None:
        self.cause = cause


class Given:
    """Our stdin is at its end. `text` is what it held; `fault`, where not empty, why that is no input."""

    __slots__ = ("fault", "text")

    def __init__(self, text: bytes, fault: str = "") -> None:
        self.text = text
        self.fault = fault


class Woken:
    """An outlet has news."""
