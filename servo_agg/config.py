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
    try:
        import yaml  # noqa: PLC0415 - 14 ms that only a section `agg` is worth
    except ImportError:
        raise BadEnvironment(
            f"{FILE} has a section {SECTION}, which cannot be read without the Python package PyYAML."
            f" Install it: {INSTALL}PyYAML"
        ) from None
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        document = loader.get_node() if loader.check_node() else None
        return _construct(loader, _find(document))
    except (yaml.YAMLError, RecursionError) as error:
        raise BadConfiguration(f"{FILE} cannot be read as YAML: {_where(error)}") from None
    finally:
        if loader is not None:
            loader.dispose()


def _find(document: yaml.Node | None) -> yaml.Node | None:
    """Give the node of our section, None when there is none."""
    pairs = document.value if document is not None and isinstance(document.value, list) else []
    found = None
    for pair in pairs:
        # A sequence holds nodes, a mapping pairs of nodes.
        if isinstance(pair, tuple) and pair[0].value == SECTION:
            found = pair[1]
    return found


def _construct(loader: yaml.SafeLoader, section: Any) -> dict[str, Any]:
    """Construct our section alone, key by key, so that a mistake can be named."""
    if section is None or section.tag == "tag:yaml.org,2002:null":
        return {}
    if section.tag != "tag:yaml.org,2002:map" or not isinstance(section.value, list):
        raise BadConfiguration(
            f"{FILE}: the section {SECTION} must hold keys and values, not {_shown(section)}"
        )
    loader.flatten_mapping(section)
    values: dict[str, Any] = {}
    for key, node in section.value:
        name = _shown(key)
        _check_key(name, _shown(node))
        right, wanted = _KEYS[name]
        try:
            value = loader.construct_object(node, deep=True)
        except Exception as error:
            # A tag of one's own is told by YAML. What it takes for a date or a number, and stumbles
            # over in many ways, is a wrong value like any other.
            if hasattr(error, "problem_mark"):
                raise
            value = None
        if not right(value):
            raise BadConfiguration(
                f"{FILE}, line {node.start_mark.line + 1}: {SECTION}.{name} is {_shown(node)},"
                f" but it must be {wanted}"
            )
        values[name] = value
    return values


def _shown(node: yaml.Node) -> str:
    """Give a value as it stands in the file, bounded."""
    if isinstance(node.value, str):
        text = node.value
        return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
    mark = node.start_mark
    if mark.buffer is None:
        return f"a list or mapping (line {mark.line + 1})"
    text = mark.buffer[mark.pointer : node.end_mark.pointer].strip()
    return " ".join(text.split())[:_SHOWN]


def _where(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it is nested too deep"
    if mark is not None:
        return f"{problem} (line {mark.line + 1}, column {mark.column + 1})"
    position = getattr(error, "position", None)
    return f"{problem} (position {position})" if position is not None else str(problem)


_SHOWN = 80
"""Characters of a wrong value that a message shows."""

_LONGEST = 10**9
"""Seconds beyond which a number is no time any more."""


def _is_seconds(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= _LONGEST


def _is_patterns(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_policy(value: Any) -> bool:
    return value in ("continue", "stop")


_SECONDS = (_is_seconds, "a number of seconds, from 0 to a billion")

_KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "parallel": (_is_count, "a whole number, 1 or more"),
    "serial": (_is_patterns, "a list of name patterns, such as ['k8s-*']"),
    "io_timeout": _SECONDS,
    "grace": _SECONDS,
    "cancel_grace": _SECONDS,
    "on_failure": (_is_policy, "continue or stop"),
}
"""For each key of the section: is this value right, and what would be."""


def _check_key(key: str, value: str) -> None:
    if key in _KEYS:
        return
    from difflib import get_close_matches  # noqa: PLC0415 - only a mistake needs it

    near = get_close_matches(key, _KEYS, n=1, cutoff=0)[0]
    raise BadConfiguration(
        f"{FILE}: the section {SECTION} has an unknown key {key!r} (value {value}): did you mean {near!r}?"
    )
