"""The keys that the section `agg` may have, and what is right for each. Pure (SPEC 11)."""

from __future__ import annotations

from servo_agg.errors import near

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

_MOST_SECONDS = 10**9
"""Seconds beyond which a number is no time any more."""


def _is_seconds(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= _MOST_SECONDS


def _is_patterns(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and value != "" and "\0" not in value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_policy(value: Any) -> bool:
    return value in ("continue", "stop")


_SECONDS = (_is_seconds, "a number of seconds, from 0 to a billion")

KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "parallel": (_is_count, "a whole number, 1 or more"),
    "serial": (_is_patterns, "a list of name patterns, such as ['k8s-*']"),
    "io_timeout": _SECONDS,
    "grace": _SECONDS,
    "cancel_grace": _SECONDS,
    "on_failure": (_is_policy, "continue or stop"),
    "log": (_is_path, "the path of a file"),
    "complete": (_is_patterns, "a list of name patterns, such as ['k8s-*']"),
}
"""For each key of the section: is this value right, and what would be."""


def nearest(key: str) -> str:
    """Say which key was meant, or which there are."""
    meant = near(key, KEYS)
    return f"did you mean {meant[0]!r}?" if meant else f"the keys are {', '.join(KEYS)}"


def reversed_range(pattern: str) -> str:
    """Give the first range of a name pattern that is the wrong way round, as in `[z-a]`; "" without one."""
    import re  # noqa: PLC0415 - only a pattern needs it, which PyYAML has read

    for letters in re.findall(r"\[!?(\]?[^\]]*)\]", pattern):
        at = 0
        while at < len(letters):
            first, dash, last = letters[at], letters[at + 1 : at + 2], letters[at + 2 : at + 3]
            if dash == "-" and last:
                if first > last:
                    return f"{first}-{last}"
                at += 2
            at += 1
    return ""
