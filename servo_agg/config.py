"""The edge where the world is read, once: environment, config.yaml, the listing of adjust.d.

Rules (SPEC 2, 3, 9, 11):
- Drivers are the executable regular files of `./adjust.d`, in the order of their names as bytes.
- The section `agg` of config.yaml is optional, as is the file. The rest of the file is the drivers':
  a file without the bytes `agg` is not even parsed, and else only that section is constructed.
- Whatever is wrong is a Fault that names the file or variable, the key and the value.
"""

from __future__ import annotations

import os
import sys

from servo_agg.errors import BadConfiguration, BadEnvironment, NoAdjustD
from servo_agg.lifecycle import extent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Callable

    import yaml

FILE = "config.yaml"
SECTION = "agg"
TIMEOUT = "OPTUNE_IO_TIMEOUT"

INSTALL = f"{sys.executable} -m pip install "
"""The command that installs a package, its name to be added."""


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
    on_failure      `continue` or `stop`
    """

    __slots__ = (
        "cancel_grace",
        "directory",
        "drivers",
        "environment",
        "grace",
        "limit",
        "on_failure",
        "parallel",
        "passed_over",
        "serial",
        "short_grace",
        "stderr",
    )

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Read the current directory. Raises NoAdjustD, BadEnvironment or BadConfiguration."""
        limit = _io_timeout(environment)
        try:
            self.directory = os.getcwd()
        except OSError:
            raise NoAdjustD(
                "the current directory, which must be the servo directory, does not exist any more"
            ) from None
        self.drivers, self.passed_over = _discover(self.directory)
        section = _section()
        self.parallel: int = section.get("parallel", 32)
        self.on_failure: str = section.get("on_failure", "continue")
        self.grace: float = section.get("grace", 3)
        self.cancel_grace: float = section.get("cancel_grace", 300)
        self.serial = _matching(self.drivers, section.get("serial", []))
        if not environment.get(TIMEOUT, "").strip():
            limit = section.get("io_timeout")
        self.limit, self.short_grace = extent(limit or None)
        self.stderr = environment.get("OPTUNE_VERBOSE_STDERR") or "all"
        self.environment = _for_drivers(environment, self.directory)


def _io_timeout(environment: Mapping[str, str]) -> float | None:
    text = environment.get(TIMEOUT, "").strip()
    seconds = _decimal(text) if text else 0.0
    if seconds is None:
        raise BadEnvironment(
            f"the environment variable {TIMEOUT} is {environment[TIMEOUT]!r}: it must be a plain decimal"
            " number of seconds, such as 30 or 2.5 (0 or empty: unlimited)"
        )
    return seconds


def _decimal(text: str) -> float | None:
    whole, point, fraction = text.partition(".")
    digits = whole + fraction
    if not (digits.isascii() and digits.isdigit() and whole) or (point and not fraction):
        return None
    seconds = float(text)
    return None if seconds == float("inf") else seconds


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
        raise NoAdjustD(
            f"there is no {path}: run this in the servo directory, which holds adjust.d"
        ) from None
    except NotADirectoryError:
        raise NoAdjustD(f"{path} is no directory: it must be one that holds the drivers") from None
    except OSError as error:
        raise NoAdjustD(f"{path} cannot be read: {os.strerror(error.errno or 0)}") from None
    return sorted(drivers, key=os.fsencode), sorted(passed_over, key=os.fsencode)


def _for_drivers(environment: Mapping[str, str], directory: str) -> dict[str, str]:
    library = os.path.join(os.path.dirname(os.path.abspath(__file__)), "driverlib")
    paths = [directory, environment.get("PYTHONPATH", ""), library]
    ours = {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    if not environment.get("PYTHONUNBUFFERED"):
        ours["PYTHONUNBUFFERED"] = "1"
    seconds = _decimal(environment.get(TIMEOUT, "").strip())
    if seconds is not None and seconds > 1 and seconds.is_integer():
        ours[TIMEOUT] = str(int(seconds) - 1)
    return {**environment, **ours}


def _matching(drivers: list[str], patterns: list[str]) -> frozenset[str]:
    if not patterns:
        return frozenset()
    from fnmatch import fnmatchcase  # noqa: PLC0415 - needs re, which a query without patterns does not

    return frozenset(name for name in drivers if any(fnmatchcase(name, pattern) for pattern in patterns))


def _section() -> dict[str, Any]:
    """Give the section `agg`, checked; {} when there is none (SPEC 11)."""
    try:
        with open(FILE, "rb") as file:
            text = file.read()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise BadConfiguration(f"{FILE} cannot be read: {os.strerror(error.errno or 0)}") from None
    if SECTION.encode() not in text:
        return {}
    section = _construct(text)
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise BadConfiguration(
            f"{FILE}: the section {SECTION} must hold keys and values, but it is {section!r}"
        )
    for key, value in section.items():
        _check(key, value)
    return section


def _construct(text: bytes) -> object:
    try:
        import yaml  # noqa: PLC0415 - 14 ms that only a section `agg` is worth
    except ImportError:
        raise BadEnvironment(
            f"{FILE} has a section {SECTION}, which cannot be read without the Python package PyYAML."
            f" Install it: {INSTALL}PyYAML"
        ) from None
    loader = yaml.SafeLoader(text)
    try:
        document = loader.get_node() if loader.check_node() else None
        node = _value(document)
        return loader.construct_document(node) if node is not None else None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadConfiguration(f"{FILE} cannot be read as YAML: {_where(error)}") from None
    finally:
        loader.dispose()


def _value(document: yaml.Node | None) -> yaml.Node | None:
    pairs = document.value if document is not None and isinstance(document.value, list) else []
    found = None
    for pair in pairs:
        # A sequence holds nodes, a mapping pairs of nodes.
        if isinstance(pair, tuple) and pair[0].value == SECTION:
            found = pair[1]
    return found


def _where(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it is nested too deep"
    return f"{problem} (line {mark.line + 1}, column {mark.column + 1})" if mark else str(problem)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_seconds(value: Any) -> bool:
    return _is_number(value) and 0 <= value < float("inf")


def _is_patterns(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_policy(value: Any) -> bool:
    return value in ("continue", "stop")


_KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "parallel": (_is_count, "a whole number, 1 or more"),
    "serial": (_is_patterns, "a list of name patterns, such as ['k8s-*']"),
    "io_timeout": (_is_seconds, "a number of seconds, 0 or more"),
    "grace": (_is_seconds, "a number of seconds, 0 or more"),
    "cancel_grace": (_is_seconds, "a number of seconds, 0 or more"),
    "on_failure": (_is_policy, "continue or stop"),
}
"""For each key of the section: is this value right, and what would be."""


def _check(key: Any, value: Any) -> None:
    if key not in _KEYS:
        from difflib import get_close_matches  # noqa: PLC0415 - only a mistake needs it

        near = get_close_matches(str(key), _KEYS, n=1, cutoff=0)[0]
        raise BadConfiguration(
            f"{FILE}: the section {SECTION} has an unknown key {key!r} (value {value!r}):"
            f" did you mean {near!r}?"
        )
    right, wanted = _KEYS[key]
    if not right(value):
        raise BadConfiguration(f"{FILE}: {SECTION}.{key} is {value!r}, but it must be {wanted}")
