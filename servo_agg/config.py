"""The edge where the world is read, once: environment, section `agg`, the listing of adjust.d.

Rules (SPEC 2, 3, 9):
- Drivers are the executable regular files of `./adjust.d`, in the order of their names as bytes. What an
  editor or a package manager leaves there, hidden files and documents are none, whatever their flags.
- Whatever is wrong is a Fault that names the file or variable, and the value.
"""

from __future__ import annotations

import os
import sys

from servo_agg.errors import BadConfiguration, BadEnvironment, NoAdjustD, lack
from servo_agg.lifecycle import extent
from servo_agg.processes import MARK, chain, still_around_us

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from servo_agg.errors import Fault

TIMEOUT = "OPTUNE_IO_TIMEOUT"

VERBOSE_STDERR = "OPTUNE_VERBOSE_STDERR"

STDERR_WORDS = ("all", "minimal", "none")
"""The values of OPTUNE_VERBOSE_STDERR (SPEC 13)."""

_LOCALE = "LC_CTYPE"
_COERCED = frozenset(("C.UTF-8", "C.utf8", "UTF-8"))
"""The values that Python itself may give to LC_CTYPE."""

_DEEPEST = 8
"""Aggregators inside one another: more are taken for one that runs itself, for ever."""

_SHOWN = 80
"""Characters of a wrong value that a message shows."""


class Config:
    """All that the surroundings tell us; not changed after it was made.

    directory       the servo directory
    drivers         names in driver order
    passed_over     names of regular files in adjust.d without the executable flag
    leftovers       names of executable files there that are no drivers because of their names
    documents       names of executable files there that are documents and no programs
    unreachable     names of what is there and cannot be followed or looked at, each with the reason in words
    environment     what drivers get, their mark aside
    limit           I, the seconds that a driver may be silent, None for ever (SPEC 9)
    short_grace     seconds from SIGTERM to SIGKILL in a query, an info or after a timeout
    grace           the same otherwise
    cancel_grace    seconds that a driver has to end after it was cancelled
    stderr          `all`, `minimal` or `none`: what of a failed driver's stderr is shown (SPEC 13)
    parallel        how many drivers may be queried at once
    serial          names of drivers of which only one at a time may be queried
    complete        names of drivers that want all their settings in each adjust
    on_failure      `continue` or `stop`
    unmatched       patterns that match no driver, each as key of the section `agg` and pattern
    log             path of the file to which each run appends what became of the drivers, or None
    """

    __slots__ = (
        "cancel_grace",
        "complete",
        "directory",
        "documents",
        "drivers",
        "environment",
        "grace",
        "leftovers",
        "limit",
        "log",
        "on_failure",
        "parallel",
        "passed_over",
        "serial",
        "short_grace",
        "stderr",
        "unmatched",
        "unreachable",
    )

    def __init__(self, environment: Mapping[str, str], faults: list[Fault] | None = None) -> None:
        """Read the current directory. Raises NoAdjustD, BadEnvironment or BadConfiguration.

        With `faults`, which a check gives, the latter two are put there, and the defaults hold.
        """
        outer = still_around_us(environment.get(MARK))
        if len(outer) >= _DEEPEST:
            raise BadEnvironment(
                f"aggregators run inside one another, {_DEEPEST} deep: a driver of this servo directory seems"
                " to lead back to it; see where the scripts in adjust.d change to"
            )
        limit = None
        try:
            limit = _io_timeout(environment)
        except BadEnvironment as fault:
            if faults is None:
                raise
            faults.append(fault)
        try:
            self.directory = os.getcwd()
        except OSError:
            raise NoAdjustD(
                "the current directory, which must be the servo directory, does not exist any more"
            ) from None
        self.drivers: list[str] = []
        self.passed_over: list[str] = []
        self.leftovers: list[str] = []
        self.documents: list[str] = []
        self.unreachable: dict[str, str] = {}
        self._discover()
        settings = _section(faults)
        self.parallel: int = settings.get("parallel", 32)
        self.on_failure: str = settings.get("on_failure", "continue")
        self.grace: float = settings.get("grace", 30)
        self.cancel_grace: float = settings.get("cancel_grace", 300)
        self.log: str | None = settings.get("log")
        self.unmatched: list[tuple[str, str]] = []
        self.serial = self._matching("serial", settings)
        self.complete = self._matching("complete", settings)
        if not environment.get(TIMEOUT, "").strip():
            limit = settings.get("io_timeout")
        self.limit, self.short_grace = extent(limit or None)
        # As the agent has it: a mistyped word must not send to its backend what nobody asked for.
        how = environment.get(VERBOSE_STDERR) or "all"
        self.stderr = how if how in STDERR_WORDS else "none"
        _judge_places(self.directory, faults)
        self.environment = {**_for_drivers(environment, self.directory), MARK: chain(outer)}

    def _discover(self) -> None:
        """List adjust.d. Raises NoAdjustD or BadEnvironment."""
        path = os.path.join(self.directory, "adjust.d")
        try:
            with os.scandir("adjust.d") as entries:
                for entry in entries:
                    self._sort_in(entry)
        except FileNotFoundError:
            if os.path.islink("adjust.d"):
                raise NoAdjustD(
                    f"{path} is a link to {os.readlink('adjust.d')}, which does not exist"
                ) from None
            raise NoAdjustD(
                f"there is no {path}: run this in the servo directory, which holds adjust.d"
            ) from None
        except NotADirectoryError:
            raise NoAdjustD(f"{path} is no directory: it must be one that holds the drivers") from None
        except OSError as error:
            words = lack(error)
            if words is not None:
                raise BadEnvironment(f"{path} cannot be read: {words}") from None
            raise NoAdjustD(f"{path} cannot be read: {os.strerror(error.errno or 0)}") from None
        if not os.access("adjust.d", os.X_OK):
            raise NoAdjustD(
                f"{path} can be listed but not entered: its files cannot be run without the flag x of it"
            )
        for names in (self.drivers, self.passed_over, self.leftovers, self.documents):
            names.sort(key=os.fsencode)
        self.unreachable = dict(sorted(self.unreachable.items(), key=lambda item: os.fsencode(item[0])))

    def _sort_in(self, entry: os.DirEntry[str]) -> None:
        leftover = entry.name.startswith(".") or entry.name.endswith(_LEFTOVERS) or ".dpkg-" in entry.name
        try:
            regular = entry.is_file()
            if not regular and not leftover and entry.is_symlink():
                # Of a link to nowhere `is_file` says no more than of one to a directory.
                entry.stat()
        except OSError as error:
            if not leftover:
                self.unreachable[entry.name] = _why_unreachable(entry, error)
            return
        if not regular:
            return
        if not os.access(entry.path, os.X_OK):
            if not leftover:
                self.passed_over.append(entry.name)
        elif leftover:
            self.leftovers.append(entry.name)
        elif entry.name.endswith(_DOCUMENTS) and not _is_program(entry.path):
            self.documents.append(entry.name)
        else:
            self.drivers.append(entry.name)

    def _matching(self, key: str, settings: Mapping[str, Any]) -> frozenset[str]:
        """Return the drivers that match the patterns under a key; note the patterns that match none."""
        if not settings.get(key):
            return frozenset()
        from fnmatch import fnmatchcase  # noqa: PLC0415 - needs re, which a query without patterns does not

        matched: set[str] = set()
        for pattern in dict.fromkeys(settings[key]):
            found = [name for name in self.drivers if fnmatchcase(name, pattern)]
            if not found:
                self.unmatched.append((key, pattern))
            matched.update(found)
        return frozenset(matched)


def _section(faults: list[Fault] | None) -> dict[str, Any]:
    """Return what the section `agg` holds; `faults` as in Config."""
    if not os.path.lexists("config.yaml"):
        return {}
    from servo_agg import section  # noqa: PLC0415 - without the file there is nothing to read

    try:
        return section.read(faults)
    except (BadConfiguration, BadEnvironment) as fault:
        if faults is None:
            raise
        faults.append(fault)
        return {}


def _io_timeout(environment: Mapping[str, str]) -> float | None:
    text = environment.get(TIMEOUT, "").strip()
    seconds = _decimal(text) if text else 0.0
    if seconds is None:
        value = environment[TIMEOUT]
        raise BadEnvironment(
            f"the environment variable {TIMEOUT} is {shown(value)}: it must be a plain decimal"
            " number of seconds, such as 30 or 2.5 (0 or empty: unlimited)"
        )
    return seconds


def shown(value: str) -> str:
    """Return a wrong value as a message quotes it."""
    return repr(value[:_SHOWN]) + ("..." if len(value) > _SHOWN else "")


def _decimal(text: str) -> float | None:
    whole, point, fraction = text.partition(".")
    digits = whole + fraction
    if not (digits.isascii() and digits.isdigit() and whole) or (point and not fraction):
        return None
    seconds = float(text)
    # Too small a number must not become 0, which is unlimited (SPEC 9).
    return None if seconds == float("inf") or (not seconds and digits.strip("0")) else seconds


_LEFTOVERS = ("~", ".bak", ".swp", ".orig", ".rej", ".rpmsave", ".rpmnew", ".rpmorig")
"""How names end of what editors, patch and package managers leave beside a file, with the flags of that."""

_DOCUMENTS = ("README", "LICENSE", ".md", ".txt", ".rst", ".csv", ".json", ".yaml", ".yml", ".ini", ".conf")
"""How names end of what is no program, unless its content says that it is one."""


def _is_program(path: str) -> bool:
    """Tell whether the system may be able to run a file, by its first bytes."""
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
        return f"cannot be looked at: {os.strerror(error.errno or 0)}"
    if isinstance(error, FileNotFoundError):
        return f"is a link to {target}, which does not exist"
    return f"is a link to {target}, which cannot be followed: {os.strerror(error.errno or 0)}"


_LIBRARY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "driverlib")


def _judge_places(directory: str, faults: list[Fault] | None) -> None:
    """Raise BadEnvironment if PYTHONPATH cannot name a place from which drivers may want to import.

    With `faults` it is put there.
    """
    cannot = "and PYTHONPATH cannot name a directory with a colon in it"
    fault = None
    if os.pathsep in _LIBRARY:
        fault = BadEnvironment(
            f"servo-agg lies in {os.path.dirname(_LIBRARY)}, {cannot}: drivers could not import its library."
            " Move or install it where there is no colon in the path"
        )
    elif os.pathsep in directory:
        own = _modules()
        if own:
            fault = BadEnvironment(
                f"the servo directory is {directory}, {cannot}: drivers could not import {own[0]} of it."
                " Rename the directory, or mount it where there is no colon in the path"
            )
    if fault is not None:
        if faults is None:
            raise fault
        faults.append(fault)


def _modules() -> list[str]:
    """Return what Python could import from the current directory."""
    try:
        names = sorted(os.listdir("."))
    except OSError:
        # It may be entered all the same.
        names = [name for name in ("adjust.py", "util.py") if os.path.exists(name)]
    packages = [name for name in names if os.path.exists(os.path.join(name, "__init__.py"))]
    return [name for name in names if name.endswith((".py", ".pyc", ".so"))] + packages


def _for_drivers(environment: Mapping[str, str], directory: str) -> dict[str, str]:
    # With a colon in it, it would be taken for two, of which one may be anybody's.
    own, library = ("" if os.pathsep in place else place for place in (directory, _LIBRARY))
    paths = [own, environment.get("PYTHONPATH", ""), library]
    ours = {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    if not environment.get("PYTHONUNBUFFERED"):
        ours["PYTHONUNBUFFERED"] = "1"
    text = environment.get(TIMEOUT, "").strip()
    seconds = _decimal(text)
    if seconds is not None and seconds > 1 and not text.partition(".")[2].strip("0"):
        # Not by way of the number, which has 17 digits at most.
        ours[TIMEOUT] = str(int(text.partition(".")[0].lstrip("0")) - 1)
    # A variable without a name, which nobody could look up, cannot be handed on.
    theirs = {name: value for name, value in environment.items() if name}
    if theirs.get(_LOCALE) in _COERCED:
        _restore_locale(theirs)
    return {**theirs, **ours}


def _restore_locale(environment: dict[str, str]) -> None:
    """Take back what Python did to LC_CTYPE when it found the locale C (PEP 538)."""
    try:
        with open("/proc/self/environ", "rb") as initial:
            variables = initial.read().split(b"\0")
    except OSError:
        # Python also turns its UTF-8 mode on when it finds the locale C.
        if sys.flags.utf8_mode and not environment.get("PYTHONUTF8"):
            del environment[_LOCALE]
        return
    name = _LOCALE.encode() + b"="
    before = next((one[len(name) :] for one in variables if one.startswith(name)), None)
    if before is None:
        del environment[_LOCALE]
    else:
        environment[_LOCALE] = os.fsdecode(before)
