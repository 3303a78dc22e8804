"""The story of a plan: what an adjust with the same input would give each driver; nothing is adjusted.

Rules (SPEC 14):
- The requests are made by the very function that an adjust uses, so that the plan is what it would do.
- A value outside the range or list that the driver described is marked; it is for the driver to refuse.
"""

from __future__ import annotations

from fractions import Fraction

from servo_agg import report
from servo_agg.adjusting import read_request, refuse_without_drivers, requests_of
from servo_agg.description import path_of, settings_in
from servo_agg.operations import Answer, ask, ended, survivors
from servo_agg.protocol import compact, kind, value_of
from servo_agg.tables import fitted, places, plain, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TypeGuard

    from servo_agg.operations import Run

    Object = dict[str, Any]


def plan(
    run: Run, application: str, given: bytes, choices: Sequence[str], *, json: bool, width: int | None
) -> Answer:
    """Query, route, and tell what each driver would be given (SPEC 14).

    `given` and `choices` are as for an adjust. With `json` the answer is `{"status": "ok", "application":
    APP, "drivers": [{"driver", "input", "settings": [{"component", "setting", "from", "to", "limits",
    "wrong"}]}], "skipped": [NAME, ...]}`, `component` and `wrong` being null where there is none; else
    it is text, at most `width` places wide where that can be. Raises what an adjust raises before it
    adjusts.
    """
    request = None if choices else read_request(given)
    if not run.config.drivers:
        refuse_without_drivers(run, request, choices)
    asked = ask(run, application, run.listener.now())
    if asked.cause:
        return ended(asked.cause, survivors(asked.outcomes))
    if asked.failures:
        return Answer(report.failure(asked.failures), 1)
    requests = requests_of(run, asked, request, choices)
    described = dict(settings_in(asked.merged()[0]))
    drivers: list[Object] = []
    for name in run.config.drivers:
        if name in requests:
            settings = [
                _change(place, described.get(place), setting)
                for place, setting in settings_in(requests[name])
            ]
            drivers.append({"driver": name, "input": requests[name], "settings": settings})
    skipped = [name for name in run.config.drivers if name not in requests]
    if json:
        final = {"status": "ok", "application": application, "drivers": drivers, "skipped": skipped}
        return Answer(final, 0)
    return Answer("\n".join(_lines(drivers, skipped, width)), 0)


def _change(place: tuple[str | None, str], described: Any, setting: Any) -> Object:
    present = described if isinstance(described, dict) else {}
    wanted = setting.get("value") if isinstance(setting, dict) else setting
    return {
        "component": place[0],
        "setting": place[1],
        "from": present.get("value"),
        "to": wanted,
        "limits": {key: present[key] for key in ("min", "max", "step", "values") if key in present},
        "wrong": _wrong(present, wanted) if _has_value(setting) else "no object with a value",
    }


def _has_value(setting: Any) -> bool:
    return isinstance(setting, dict) and "value" in setting


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _wrong(described: Object, value: Any) -> str | None:
    """Say what is wrong with a value by what the driver described, None if nothing is."""
    values = described.get("values")
    if isinstance(values, list):
        # As JSON, where true is not 1; that 1.0 is 1, too, is said by the comparison.
        fits = any(value == one and kind(value) == kind(one) for one in values)
        return None if fits else "not in its list"
    if not any(_is_number(described.get(key)) for key in ("min", "max")):
        return None
    return _off_range(described, value) if _is_number(value) else "no number"


def _off_range(described: Object, value: float) -> str | None:
    least, most, step = (described.get(key) for key in ("min", "max", "step"))
    if _is_number(least) and value < least:
        return f"below its minimum {compact(least)}"
    if _is_number(most) and value > most:
        return f"above its maximum {compact(most)}"
    if _is_number(step) and step > 0 and _is_number(least):
        # By what is written: 0.7 is six steps of 0.1 from 0.1. Floats would say otherwise, and overflow.
        steps = (_exact(value) - _exact(least)) / _exact(step)
        if abs(steps - round(steps)) > _NEGLIGIBLE:
            return f"between its steps of {compact(step)}"
    return None


_NEGLIGIBLE = Fraction(1, 10**6)
"""The part of a step by which a value that was computed may be off."""


def _exact(number: float) -> Fraction:
    return Fraction(compact(number))


def _shown(value: Any) -> str:
    """Show a value as a person writes it; a text that could be mistaken for another value in quotes."""
    if isinstance(value, str) and value and value == plain(value) and value.strip() == value:
        try:
            value_of(value)
        except ValueError:
            return value
    return compact(value)


_VALUES = 6
"""Values of an enumeration that the text of a plan shows; its JSON has all."""


def _limits(limits: Object) -> str:
    if "values" in limits:
        values = limits["values"] if isinstance(limits["values"], list) else [limits["values"]]
        shown = [_shown(value) for value in values[:_VALUES]]
        if len(values) > _VALUES:
            shown.append(f"... {len(values) - _VALUES} more")
        return f"({', '.join(shown)})"
    if not limits:
        return ""
    least, most = (_shown(limits[key]) if key in limits else "" for key in ("min", "max"))
    step = f" step {_shown(limits['step'])}" if "step" in limits else ""
    return f"({least}..{most}{step})"


def _lines(drivers: Sequence[Object], skipped: Sequence[str], width: int | None) -> list[str]:
    rows = [
        [
            plain(path_of((change["component"], change["setting"]))),
            _shown(change["from"]),
            _shown(change["to"]),
            _limits(change["limits"]),
        ]
        for driver in drivers
        for change in driver["settings"]
    ]
    laid_out = iter(_laid_out(rows, width))
    lines = []
    for number, driver in enumerate(drivers, 1):
        lines.append(f"{number}. {plain(driver['driver'])}")
        for change in driver["settings"]:
            lines += [f"  {line}" for line in next(laid_out)]
            if change["wrong"]:
                lines.append(f"    ! {change['wrong']}")
        others = [_other(key, value) for key, value in _beside(driver["input"])]
        if others:
            text = f"  with {'; '.join(others)}"
            lines.append(text if width is None else fitted(text, width))
    if not drivers:
        lines.append("nothing to adjust: no driver would be run")
    if skipped:
        lines.append(f"not run, since nothing of theirs is in the input: {', '.join(map(plain, skipped))}")
    return lines


def _laid_out(rows: Sequence[Sequence[str]], width: int | None) -> list[list[str]]:
    """Give the lines of each setting: one in columns, or one for each part where the columns don't fit."""
    lines = table([[name, f"{before} -> {after}", limits] for name, before, after, limits in rows])
    if width is None or max(map(places, lines), default=0) <= width - 2:
        return [[line] for line in lines]
    return [
        [name, f"  {before}", f"  -> {after}", *([f"  {limits}"] if limits else [])]
        for name, before, after, limits in rows
    ]


def _beside(request: Object) -> list[tuple[str, Any]]:
    """Give what a driver gets beside its settings."""
    application = request["application"]
    found = [(key, value) for key, value in request.items() if key != "application"]
    found += [(f"application.{key}", application[key]) for key in application if key not in _SETTINGS]
    for name, component in application["components"].items():
        found += [(f"{name}.{key}", value) for key, value in component.items() if key != "settings"]
    return found


_SETTINGS = ("components", "settings")


def _other(key: str, value: Any) -> str:
    return f"{plain(key)} {compact(value)}"
