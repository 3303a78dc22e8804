"""What is the caller's or the operator's fault; each kind knows its status and its reason (SPEC 13).

A fault is raised where it is found and turned into the final object in one place, `coordinator`.
Its message is a sentence for a person: who, what happened, and what to do where that is known.
"""

from __future__ import annotations

import errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class Fault(Exception):
    """A refusal that is ours to explain. `str(fault)` is the message of the final object."""

    status = "failed"
    reason = "unknown"


class BadInput(Fault):
    """What came on stdin is no request (SPEC 7.1)."""

    reason = "bad-input"


class BadEnvironment(Fault):
    """A variable, the interpreter or an installed package does not serve (SPEC 5, 9)."""

    reason = "bad-environment"


class BadConfiguration(Fault):
    """The section `agg` of config.yaml is wrong (SPEC 11)."""

    reason = "bad-configuration"


class NoAdjustD(Fault):
    """The servo directory has no readable `adjust.d` (SPEC 2)."""

    reason = "no-adjust-d"


class UnknownSettings(Fault):
    """The input names settings that no driver described (SPEC 7.3)."""

    reason = "unknown-settings"


class Conflict(Fault):
    """Two drivers describe the same setting (SPEC 6). `owners`: path of each such setting to all of them."""

    reason = "conflict"

    def __init__(self, sentence: str, owners: dict[str, list[str]]) -> None:
        super().__init__(sentence)
        self.owners = owners


class Busy(Fault):
    """Another adjust holds the servo directory (SPEC 10)."""

    reason = "busy"


def near(word: str, known: Iterable[str], at_most: int = 1) -> list[str]:
    """Give the known words that come nearest to a mistaken one, whatever their case; [] when none is near."""
    from difflib import get_close_matches  # noqa: PLC0415 - only a mistake needs it

    cased: dict[str, list[str]] = {}
    for one in known:
        cased.setdefault(one.casefold(), []).append(one)
    found = get_close_matches(word.casefold(), cased, n=at_most)
    return [one for folded in found for one in cased[folded]][:at_most]


def lack(error: BaseException) -> str | None:
    """Say in words which means of the machine an error tells the lack of; None when it tells none."""
    # The other is what comes of it at times when there is no memory for an error of the right kind.
    if isinstance(error, (MemoryError, SystemError)):
        return _LACKS[errno.ENOMEM]
    return _LACKS.get(error.errno or 0) if isinstance(error, OSError) else None


_LACKS = {
    errno.EMFILE: "this process has too many open files (see ulimit -n, or lower `parallel`)",
    errno.ENFILE: "the system has too many open files",
    errno.EAGAIN: "there are too many processes or threads (see ulimit -u and -v, or lower `parallel`)",
    errno.ENOMEM: "there is not enough memory (see ulimit -v)",
}


class Misshapen(Exception):
    """A JSON value is not the object that it must be; `str(error)` is a path and what stands there."""


class CannotStart(Exception):
    """A driver could not be started; `str(error)` says why in words (SPEC 13)."""


class WrongUsage(Exception):
    """The command line makes no sense; `str(error)` says why (exit status 2, SPEC 5)."""
