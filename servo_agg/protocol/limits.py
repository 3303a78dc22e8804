"""Whether a value matches what a driver has described: its range and steps, or its list.

Rules (SPEC 14.19, 14.38):
- Steps are exact decimal arithmetic, with a tolerance for values that were computed in binary floats.
- As in JSON, `true` is not 1, but 1.0 is.
"""

from __future__ import annotations

from fractions import Fraction

from servo_agg.protocol.messages import json_type, to_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable
    from typing import Any, TypeGuard

    from servo_agg.protocol.messages import JsonObject

_NEGLIGIBLE = Fraction(1, 10**6)
"""Part of a step by which a value may be off, since it may have been computed in floats."""


def is_number(value: Any) -> TypeGuard[int | float]:
    """Return whether a JSON value is a number, which a boolean is not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def exact(number: float) -> Fraction:
    """Return a number as it is written in JSON, without a rounding error."""
    return Fraction(to_json(number))


def identity(value: Any) -> Hashable:
    """Return what two JSON values have in common exactly if they are equal."""
    scalar = value is None or isinstance(value, (str, int, float))
    return json_type(value), value if scalar else to_json(value)


def violation(described: JsonObject, value: Any) -> str | None:
    """Return how a value violates what the driver described, None if it does not."""
    values = described.get("values")
    if isinstance(values, list):
        wanted = identity(value)
        return None if any(identity(one) == wanted for one in values) else "not in its list of values"
    if not any(is_number(described.get(key)) for key in ("min", "max")):
        return None
    return _range_violation(described, value) if is_number(value) else "not a number"


def _range_violation(described: JsonObject, value: float) -> str | None:
    least, most, step = (described.get(key) for key in ("min", "max", "step"))
    if is_number(least) and value < least:
        return f"below its minimum {to_json(least)}"
    if is_number(most) and value > most:
        return f"above its maximum {to_json(most)}"
    if is_number(step) and step > 0 and is_number(least):
        # In decimal, 0.7 is six steps of 0.1 from 0.1. In floats it is not, and they can overflow.
        steps = (exact(value) - exact(least)) / exact(step)
        if abs(steps - round(steps)) > _NEGLIGIBLE:
            return f"between its steps of {to_json(step)}"
    return None


def values_outside(described: JsonObject) -> list[Any]:
    """Return values that violate a description: above its maximum, below its minimum, or not in its list.

    Return an empty list if there is none, or if floats are not precise enough.
    """
    values = described.get("values")
    if isinstance(values, list) and values:
        return [_value_not_among(values)]
    least, most, step = (described.get(key) for key in ("min", "max", "step"))
    distance = step if is_number(step) and step > 0 else 1
    outside = [(_sum(most, distance), most)] if is_number(most) else []
    outside += [(_sum(least, -distance), least)] if is_number(least) else []
    return [
        value for value, limit in outside if violation(described, value) and not _is_same_float(value, limit)
    ]


def _is_same_float(number: float, other: float) -> bool:
    """Return whether a driver that computes in floats cannot tell two numbers apart."""
    try:
        return float(number) == float(other)
    except OverflowError:
        return True


def _value_not_among(values: list[Any]) -> Any:
    numbers = [value for value in values if is_number(value)]
    if len(numbers) == len(values):
        return int(max(numbers)) + 1
    text = "not-in-its-list"
    while text in values:
        text += "-"
    return text


def _sum(number: float, distance: float) -> float:
    # Exact: in binary, 0.7 + 0.1 would be shown as 0.7999999999999999.
    total = exact(number) + exact(distance)
    try:
        return int(total) if total.denominator == 1 else float(total)
    except OverflowError:
        # A whole number that is too large for a float, and a step with a fraction.
        return int(total) + (1 if distance > 0 else -1)
