"""The keys of section `agg`, and which values they may have. Pure (SPEC 11.13, 11.14)."""

from __future__ import annotations

from servo_agg.errors import close_matches

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

FILE = "config.yaml"
SECTION = "agg"

_MAX_SECONDS = 10**9
"""Seconds of the longest time that can be configured."""


def _is_seconds(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= _MAX_SECONDS


def _is_patterns(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and value != "" and "\0" not in value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_policy(value: Any) -> bool:
    return value in ("continue", "stop")


_SECONDS = (_is_seconds, "a number of seconds from 0 to a billion")

KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "parallel": (_is_count, "a whole number of 1 or more"),
    "serial": (_is_patterns, "a list of name patterns, such as ['k8s-*']"),
    "io_timeout": _SECONDS,
    "grace": _SECONDS,
    "cancel_grace": _SECONDS,
    "on_failure": (_is_policy, "continue or stop"),
    "log": (_is_path, "the path of a file"),
    "complete": (_is_patterns, "a list of name patterns, such as ['k8s-*']"),
}
"""For each key: a function that returns whether a value is valid, and the description of a valid value."""


def key_hint(key: str) -> str:
    """Return the known key nearest to an unknown one, or all known keys if none is near."""
    near = close_matches(key, KEYS)
    return f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(KEYS)}"
