"""The configuration of a run: environment variables, section `agg` and the listing of adjust.d.

Rules (SPEC 2, 3, 9):
- All of it is read once, by `read_config`.
- What is wrong is a UserError that names the file or variable, and the value.
"""

from __future__ import annotations

import os
import sys

from servo_agg.drivers.timeouts import driver_timeout
from servo_agg.errors import BadConfiguration, BadEnvironment, BadInput, MissingAdjustD, resource_error
from servo_agg.processes.start_token import START_TOKEN, join_links, running_links

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from servo_agg.errors import UserError

TIMEOUT = "OPTUNE_IO_TIMEOUT"

VERBOSE_STDERR = "OPTUNE_VERBOSE_STDERR"

STDERR_WORDS = ("all", "minimal", "none")
"""The values of OPTUNE_VERBOSE_STDERR (SPEC 13.9)."""

_MAX_NESTED = 8
"""Aggregators inside one another. With more, an aggregator is assumed to run itself endlessly."""


class Listing:
    """The names of the files in adjust.d, grouped by kind (SPEC 2); each group is sorted as bytes.

    drivers         the files that are run
    not_executable  regular files without the executable flag
    leftovers       executable files that are not drivers because of their names, such as backup copies
    documents       executable files that are not drivers because of their names and contents
    unreachable     what cannot be followed or examined, each name with the reason
    """

    def __init__(self) -> None:
        self.drivers: list[str] = []
        self.not_executable: list[str] = []
        self.leftovers: list[str] = []
        self.documents: list[str] = []
        self.unreachable: dict[str, str] = {}

    def sort(self) -> None:
        """Sort the names as bytes."""
        for names in (self.drivers, self.not_executable, self.leftovers, self.documents):
            names.sort(key=os.fsencode)
        self.unreachable = {
            name: self.unreachable[name] for name in sorted(self.unreachable, key=os.fsencode)
        }


class Config:
    """The configuration of a run, which does not change once the drivers are selected.

    directory       path of the servo directory
    listing         what adjust.d holds
    drivers         names of the drivers, in driver order
    environment     the environment of drivers, without the token of their start
    limit           I in seconds: how long a driver may be silent in an adjust, and all drivers together may
                    take otherwise; None without limit (SPEC 9.4)
    short_grace     seconds from SIGTERM to SIGKILL in a query, an info or after a timeout
    grace           seconds from SIGTERM to SIGKILL otherwise
    cancel_grace    seconds that a driver has to end after it was canceled
    stderr          `all`, `minimal` or `none`: how much of a failed driver's stderr is shown (SPEC 13.9)
    parallel        how many drivers may be queried at once
    serial          names of the drivers of which only one at a time may be queried
    complete        names of the drivers that get all their settings in each adjust
    unmatched       patterns that match no driver, as pairs of the key in section `agg` and the pattern
    on_failure      `continue` or `stop`
    log             path of the file to which each run appends what happened to the drivers, None without one
    """

    def __init__(
        self,
        directory: str,
        listing: Listing,
        environment: dict[str, str],
        *,
        section: Mapping[str, Any],
        io_timeout: float | None,
        stderr: str,
    ) -> None:
        """Fill in defaults.

        `section` is section `agg`; `io_timeout` is T in seconds, None or 0 if it is unlimited.
        """
        self.directory = directory
        self.listing = listing
        self.drivers = listing.drivers
        self.environment = environment
        self.limit, self.short_grace = driver_timeout(io_timeout or None)
        self.stderr = stderr
        self.parallel: int = section.get("parallel", 32)
        self.grace: float = section.get("grace", 30)
        self.cancel_grace: float = section.get("cancel_grace", 300)
        self.on_failure: str = section.get("on_failure", "continue")
        self.log: str | None = section.get("log")
        self.serial, unmatched_serial = _matching(section.get("serial", ()), self.drivers)
        self.complete, unmatched_complete = _matching(section.get("complete", ()), self.drivers)
        self.unmatched = [
            *(("serial", pattern) for pattern in unmatched_serial),
            *(("complete", pattern) for pattern in unmatched_complete),
        ]

    def select_drivers(self, patterns: Sequence[str]) -> None:
        """Leave only the drivers that match one of the patterns of `--only`. Raises BadInput (SPEC 14.24)."""
        selected, unmatched = _matching(patterns, self.drivers)
        if unmatched:
            known = ", ".join(self.drivers) or "none"
            raise BadInput(f"--only matches no driver (drivers: {known}): {quoted_value(unmatched[0])}")
        self.drivers = [name for name in self.drivers if name in selected]


def read_config(environment: Mapping[str, str], errors: list[UserError] | None = None) -> Config:
    """Return the configuration of the current directory, which is the servo directory.

    Raises MissingAdjustD, BadEnvironment or BadConfiguration. With `errors`, which only a check gives,
    mistakes in variables and section `agg` are appended there instead, and defaults are used.
    """
    outer = running_links(environment.get(START_TOKEN))
    if len(outer) >= _MAX_NESTED:
        raise BadEnvironment(
            f"{_MAX_NESTED} aggregators run inside one another; a driver of this servo directory seems to"
            " start this adjust again: check which directory the scripts in adjust.d change to"
        )
    io_timeout = None
    try:
        io_timeout = _io_timeout(environment)
    except BadEnvironment as error:
        _raise_or_append(error, errors)
    try:
        directory = os.getcwd()
    except OSError:
        raise MissingAdjustD(
            "the current directory, which must be the servo directory, no longer exists"
        ) from None
    listing = _list_adjust_d(directory)
    section = _read_section(errors)
    if not environment.get(TIMEOUT, "").strip():
        io_timeout = section.get("io_timeout")
    # Any other word means `none`, as for the agent: a mistyped word must not reveal what should be hidden.
    stderr = environment.get(VERBOSE_STDERR) or "all"
    unusable = _colon_error(directory)
    if unusable is not None:
        _raise_or_append(unusable, errors)
    return Config(
        directory,
        listing,
        {**_driver_environment(environment, directory), START_TOKEN: join_links(outer)},
        section=section,
        io_timeout=io_timeout,
        stderr=stderr if stderr in STDERR_WORDS else "none",
    )


def _raise_or_append(error: UserError, errors: list[UserError] | None) -> None:
    if errors is None:
        raise error
    errors.append(error)


# The listing of adjust.d (SPEC 2.1-2.6).

_LEFTOVERS = ("~", ".bak", ".swp", ".orig", ".rej", ".rpmsave", ".rpmnew", ".rpmorig")
"""Endings of the files that editors, patch and package managers leave next to a file, with its mode."""

_DOCUMENTS = ("README", "LICENSE", ".md", ".txt", ".rst", ".csv", ".json", ".yaml", ".yml", ".ini", ".conf")
"""Endings of the names of documents. A file with such a name can still be a program."""


def _list_adjust_d(directory: str) -> Listing:
    """Return what adjust.d holds. Raises MissingAdjustD or BadEnvironment."""
    path = os.path.join(directory, "adjust.d")
    listing = Listing()
    try:
        with os.scandir("adjust.d") as entries:
            for entry in entries:
                _classify(entry, listing)
    except FileNotFoundError:
        if os.path.islink("adjust.d"):
            raise MissingAdjustD(
                f"{path} is a link to {os.readlink('adjust.d')}, which does not exist"
            ) from None
        raise MissingAdjustD(
            f"{path} does not exist; run adjust in the servo directory, which holds adjust.d"
        ) from None
    except NotADirectoryError:
        raise MissingAdjustD(f"{path} must be a directory that holds the drivers") from None
    except OSError as error:
        cause = resource_error(error)
        if cause is not None:
            raise BadEnvironment(f"cannot read {path}: {cause}") from None
        raise MissingAdjustD(f"cannot read {path}: {os.strerror(error.errno or 0)}") from None
    if not os.access("adjust.d", os.X_OK):
        from shlex import quote  # noqa: PLC0415 - needed only for this error

        quoted = quote(path)
        raise MissingAdjustD(
            f"cannot run the files in {path}: this user has no execute permission on the directory; run:"
            f" chmod +x {quoted}",
            f"chmod +x {quoted}",
        )
    listing.sort()
    return listing


def _classify(entry: os.DirEntry[str], listing: Listing) -> None:
    """Add an entry of adjust.d to the listing, unless it is irrelevant."""
    leftover = entry.name.startswith(".") or entry.name.endswith(_LEFTOVERS) or ".dpkg-" in entry.name
    try:
        regular = entry.is_file()
        if not regular and not leftover and entry.is_symlink():
            # `is_file` is False for a dangling link as for a link to a directory; `stat` raises.
            entry.stat()
    except OSError as error:
        if not leftover:
            listing.unreachable[entry.name] = _why_unreachable(entry, error)
        return
    if not regular:
        return
    if not os.access(entry.path, os.X_OK):
        if not leftover:
            listing.not_executable.append(entry.name)
    elif leftover:
        listing.leftovers.append(entry.name)
    elif entry.name.endswith(_DOCUMENTS) and not _is_program(entry.path):
        listing.documents.append(entry.name)
    else:
        listing.drivers.append(entry.name)


def _is_program(path: str) -> bool:
    """Return whether the system may be able to run a file, by its first bytes."""
    try:
        with open(path, "rb") as file:
            return file.read(4).startswith((b"#!", b"\x7fELF"))
    except OSError:
        # A program need not be readable.
        return True


def _why_unreachable(entry: os.DirEntry[str], error: OSError) -> str:
    try:
        target = os.readlink(entry.path)
    except OSError:
        return f"cannot be examined: {os.strerror(error.errno or 0)}"
    if isinstance(error, FileNotFoundError):
        return f"is a link to {target}, which does not exist"
    return f"is a link to {target}, which cannot be followed: {os.strerror(error.errno or 0)}"


# Section `agg` (SPEC 11).


def _read_section(errors: list[UserError] | None) -> dict[str, Any]:
    """Return section `agg` of config.yaml, {} without one. `errors`: see `read_config`."""
    if not os.path.lexists("config.yaml"):
        return {}
    from servo_agg import config_file  # noqa: PLC0415 - without the file there is nothing to read

    try:
        return config_file.read_section(errors)
    except (BadConfiguration, BadEnvironment) as error:
        _raise_or_append(error, errors)
        return {}


def _matching(patterns: Sequence[str], names: Sequence[str]) -> tuple[frozenset[str], list[str]]:
    """Return the names that match one of the patterns, and the patterns that match none."""
    if not patterns:
        return frozenset(), []
    from fnmatch import fnmatchcase  # noqa: PLC0415 - needs re, which a query without patterns does not

    matched: set[str] = set()
    unmatched = []
    for pattern in dict.fromkeys(patterns):
        found = [name for name in names if fnmatchcase(name, pattern)]
        if not found:
            unmatched.append(pattern)
        matched.update(found)
    return frozenset(matched), unmatched


# Environment variables (SPEC 3.8, 9.1, 13.9).

_SHOWN = 80
"""Characters of a wrong value that a message shows."""


def environment_timeout(environment: Mapping[str, str]) -> float | None:
    """Return the seconds of OPTUNE_IO_TIMEOUT; None if it is unlimited, missing or wrong."""
    return _decimal(environment.get(TIMEOUT, "").strip()) or None


def _io_timeout(environment: Mapping[str, str]) -> float | None:
    """Return T in seconds, 0 if it is unlimited. Raises BadEnvironment."""
    text = environment.get(TIMEOUT, "").strip()
    seconds = _decimal(text) if text else 0.0
    if seconds is None:
        value = environment[TIMEOUT]
        raise BadEnvironment(
            f"the environment variable {TIMEOUT} must be a decimal number of seconds, such as 30 or 2.5 (0 or"
            f" empty: unlimited), got {quoted_value(value)}"
        )
    return seconds


def quoted_value(value: str) -> str:
    """Return a wrong value as a message quotes it."""
    return repr(value[:_SHOWN]) + ("..." if len(value) > _SHOWN else "")


def _decimal(text: str) -> float | None:
    """Return the value of a decimal number; None if the text is not one."""
    whole, point, fraction = text.partition(".")
    digits = whole + fraction
    if not (digits.isascii() and digits.isdigit() and whole) or (point and not fraction):
        return None
    seconds = float(text)
    # A number that is too small must not become 0, which means unlimited (SPEC 9.3).
    return None if seconds == float("inf") or (not seconds and digits.strip("0")) else seconds


_LIBRARY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "driverlib")


def _colon_error(directory: str) -> BadEnvironment | None:
    """Return an error if PYTHONPATH cannot name a directory from which drivers may import, else None."""
    cannot = "cannot be in PYTHONPATH, since its path contains a colon"
    if os.pathsep in _LIBRARY:
        return BadEnvironment(
            f"drivers cannot import the library of servo-agg: {os.path.dirname(_LIBRARY)} {cannot}; install"
            " servo-agg elsewhere"
        )
    own = _modules() if os.pathsep in directory else []
    if own:
        return BadEnvironment(
            f"drivers cannot import {own[0]} of the servo directory: {directory} {cannot}; rename the"
            " directory, or mount it elsewhere"
        )
    return None


def _modules() -> list[str]:
    """Return what Python could import from the current directory."""
    try:
        names = sorted(os.listdir("."))
    except OSError:
        # A directory that may not be read can still be entered.
        names = [name for name in ("adjust.py", "util.py") if os.path.exists(name)]
    packages = [name for name in names if os.path.exists(os.path.join(name, "__init__.py"))]
    return [name for name in names if name.endswith((".py", ".pyc", ".so"))] + packages


def _driver_environment(environment: Mapping[str, str], directory: str) -> dict[str, str]:
    """Return the environment of drivers, without the token of their start (SPEC 3.8)."""
    # In PYTHONPATH, a path with a colon would be two paths.
    own, library = ("" if os.pathsep in path else path for path in (directory, _LIBRARY))
    paths = [own, environment.get("PYTHONPATH", ""), library]
    changes = {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    if not environment.get("PYTHONUNBUFFERED"):
        changes["PYTHONUNBUFFERED"] = "1"
    text = environment.get(TIMEOUT, "").strip()
    seconds = _decimal(text)
    if seconds is not None and seconds > 1 and not text.partition(".")[2].strip("0"):
        # From the text, since a float has only 17 digits.
        changes[TIMEOUT] = str(int(text.partition(".")[0].lstrip("0")) - 1)
    # A variable without a name cannot be passed on.
    inherited = {name: value for name, value in environment.items() if name}
    if inherited.get(_LOCALE) in _COERCED:
        _restore_locale(inherited)
    return {**inherited, **changes}


_LOCALE = "LC_CTYPE"
_COERCED = frozenset(("C.UTF-8", "C.utf8", "UTF-8"))
"""The values that Python itself may give to LC_CTYPE."""


def _restore_locale(environment: dict[str, str]) -> None:
    """Undo what Python did to LC_CTYPE when it found the locale C (PEP 538)."""
    try:
        with open("/proc/self/environ", "rb") as initial:
            variables = initial.read().split(b"\0")
    except OSError:
        # Python also turns its UTF-8 mode on when it finds the locale C.
        if sys.flags.utf8_mode and not environment.get("PYTHONUTF8"):
            del environment[_LOCALE]
        return
    name = _LOCALE.encode() + b"="
    before = next((variable[len(name) :] for variable in variables if variable.startswith(name)), None)
    if before is None:
        del environment[_LOCALE]
    else:
        environment[_LOCALE] = os.fsdecode(before)
