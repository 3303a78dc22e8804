"""The edge where the world is read, once: environment, section `agg`, the listing of adjust.d.

Rules (SPEC 2, 3, 9):
- Drivers are the executable regular files of `./adjust.d`, in the order of their names as bytes.
- Whatever is wrong is a Fault that names the file or variable, and the value.
"""

from __future__ import annotations

import os

from servo_agg.errors import BadConfiguration, BadEnvironment, NoAdjustD, lack
from servo_agg.lifecycle import extent
from servo_agg.processes import MARK, depth

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from servo_agg.errors import Fault

TIMEOUT = "OPTUNE_IO_TIMEOUT"

VERBOSE_STDERR = "OPTUNE_VERBOSE_STDERR"

STDERR_WORDS = ("all", "minimal", "none")
"""The values of OPTUNE_VERBOSE_STDERR (SPEC 13)."""

_DEEPEST = 8
"""Aggregators inside one another: more are taken for one that runs itself, for ever."""

_SHOWN = 80
"""Characters of a wrong value that a message shows."""


class Config:
    """All that the surroundings tell us; not changed after it was made.

    directory       the servo directory
    drivers         names in driver order
    passed_over     names of regular files in adjust.d without the executable flag
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
    log             path of the file to which each run appends what became of the drivers, or None
    """

    __slots__ = (
        "cancel_grace",
        "complete",
        "directory",
        "drivers",
        "environment",
        "grace",
        "limit",
        "log",
        "on_failure",
        "parallel",
        "passed_over",
        "serial",
        "short_grace",
        "stderr",
    )

    def __init__(self, environment: Mapping[str, str], faults: list[Fault] | None = None) -> None:
        """Read the current directory. Raises NoAdjustD, BadEnvironment or BadConfiguration.

        With `faults`, which a check gives, the latter two are put there, and the defaults hold.
        """
        if depth(environment.get(MARK)) >= _DEEPEST:
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
        self.drivers, self.passed_over = _discover(self.directory)
        settings: dict[str, Any] = {}
        try:
            if os.path.lexists("config.yaml"):
                from servo_agg import section  # noqa: PLC0415 - without the file there is nothing to read

                settings = section.read(faults)
        except (BadConfiguration, BadEnvironment) as fault:
            if faults is None:
                raise
            faults.append(fault)
        self.parallel: int = settings.get("parallel", 32)
        self.on_failure: str = settings.get("on_failure", "continue")
        self.grace: float = settings.get("grace", 30)
        self.cancel_grace: float = settings.get("cancel_grace", 300)
        self.log: str | None = settings.get("log")
        self.serial = _matching(self.drivers, settings.get("serial", []))
        self.complete = _matching(self.drivers, settings.get("complete", []))
        if not environment.get(TIMEOUT, "").strip():
            limit = settings.get("io_timeout")
        self.limit, self.short_grace = extent(limit or None)
        # As the agent has it: a mistyped word must not send to its backend what nobody asked for.
        how = environment.get(VERBOSE_STDERR) or "all"
        self.stderr = how if how in STDERR_WORDS else "none"
        self.environment = _for_drivers(environment, self.directory)


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


def _discover(directory: str) -> tuple[list[str], list[str]]:
    path = os.path.join(directory, "adjust.d")
    drivers: list[str] = []
    passed_over: list[str] = []
    try:
        with os.scandir("adjust.d") as entries:
            for entry in entries:
                try:
                    regular = entry.is_file()
                except OSError:
                    continue
                if regular:
                    (drivers if os.access(entry.path, os.X_OK) else passed_over).append(entry.name)
    except FileNotFoundError:
        if os.path.islink("adjust.d"):
            raise NoAdjustD(f"{path} is a link to {os.readlink('adjust.d')}, which does not exist") from None
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
    return sorted(drivers, key=os.fsencode), sorted(passed_over, key=os.fsencode)


def _for_drivers(environment: Mapping[str, str], directory: str) -> dict[str, str]:
    library = os.path.join(os.path.dirname(os.path.abspath(__file__)), "driverlib")
    paths = [directory, environment.get("PYTHONPATH", ""), library]
    ours = {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    if not environment.get("PYTHONUNBUFFERED"):
        ours["PYTHONUNBUFFERED"] = "1"
    text = environment.get(TIMEOUT, "").strip()
    seconds = _decimal(text)
    if seconds is not None and seconds > 1 and not text.partition(".")[2].strip("0"):
        # Not by way of the number, which has 17 digits at most.
        ours[TIMEOUT] = str(int(text.partition(".")[0].lstrip("0")) - 1)
    # A variable without a name, which nobody could look up, cannot be handed on.
    return {**{name: value for name, value in environment.items() if name}, **ours}


def _matching(drivers: list[str], patterns: list[str]) -> frozenset[str]:
    if not patterns:
        return frozenset()
    from fnmatch import fnmatchcase  # noqa: PLC0415 - needs re, which a query without patterns does not

    return frozenset(name for name in drivers if any(fnmatchcase(name, pattern) for pattern in patterns))
