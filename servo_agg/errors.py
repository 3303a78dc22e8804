"""Errors that users see: each class has the status and reason of its final object (SPEC 13.6).

An error is raised where it is found. `coordinator` turns it into the final object, in one place.
Its message is for people: what is wrong, where, and what to do if that is known.
"""

from __future__ import annotations

import errno
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class UserError(Exception):
    """The run cannot go on. `str(error)` is the message of the final object.

    commands  the commands in the message, in order
    """

    status = "failed"
    reason = "unknown"

    def __init__(self, message: str, *commands: str) -> None:
        super().__init__(message)
        self.commands = commands


class BadInput(UserError):
    """stdin does not hold a request (SPEC 7.2)."""

    reason = "bad-input"


class BadEnvironment(UserError):
    """An environment variable, the interpreter or an installed package cannot be used (SPEC 5.22, 9.3)."""

    reason = "bad-environment"


class BadConfiguration(UserError):
    """The section `agg` of config.yaml is wrong (SPEC 11.9)."""

    reason = "bad-configuration"


class MissingAdjustD(UserError):
    """The servo directory has no readable `adjust.d` (SPEC 2.10)."""

    reason = "no-adjust-d"


class UnknownSettings(UserError):
    """The request names settings that no driver describes (SPEC 7.8)."""

    reason = "unknown-settings"


class Conflict(UserError):
    """Several drivers describe the same setting (SPEC 6.4).

    owners  the dotted path of each such setting, with the names of all drivers that describe it
    """

    reason = "conflict"

    def __init__(self, sentence: str, owners: dict[str, list[str]]) -> None:
        super().__init__(sentence)
        self.owners = owners


class Busy(UserError):
    """Another adjust holds the lock of the servo directory (SPEC 10.67)."""

    reason = "busy"


class SchemaError(Exception):
    """A JSON value is not the object that it must be. `str(error)` has its path and what it is instead."""


class StartError(Exception):
    """A driver cannot be started. `str(error)` is the cause (SPEC 13.3)."""


class UsageError(Exception):
    """The command line is wrong. `str(error)` is the cause (exit status 2, SPEC 5.30)."""


def install_command() -> str:
    """Return the command that installs a package for our interpreter, without the name of the package."""
    from shlex import quote  # noqa: PLC0415 - needed only for a mistake

    return f"{quote(sys.executable)} -m pip install"


_MIN_SIMILARITY = 0.7
"""Ratio of `difflib` from which a word is near to another one."""


def close_matches(word: str, known: Iterable[str], limit: int = 1) -> list[str]:
    """Return the known words nearest to a misspelled one, ignoring case; [] if none is near."""
    from difflib import get_close_matches  # noqa: PLC0415 - needed only for a mistake

    by_folded: dict[str, list[str]] = {}
    for candidate in known:
        by_folded.setdefault(candidate.casefold(), []).append(candidate)
    matches = get_close_matches(word.casefold(), by_folded, n=limit, cutoff=_MIN_SIMILARITY)
    return [candidate for match in matches for candidate in by_folded[match]][:limit]


_RESOURCE_ERRORS = {
    errno.EMFILE: "too many open files (raise ulimit -n, or lower `parallel`)",
    errno.ENFILE: "the system has too many open files",
    errno.EAGAIN: "too many processes or threads (raise ulimit -u and -v, or lower `parallel`)",
    errno.ENOMEM: "out of memory (see ulimit -v)",
}


def resource_error(error: BaseException) -> str | None:
    """Return the resource that was exhausted, and what to do; None if an error has another cause."""
    # Without memory for the right exception the interpreter may raise SystemError.
    if isinstance(error, (MemoryError, SystemError)):
        return _RESOURCE_ERRORS[errno.ENOMEM]
    return _RESOURCE_ERRORS.get(error.errno or 0) if isinstance(error, OSError) else None
