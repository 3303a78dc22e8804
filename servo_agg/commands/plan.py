"""The command `--plan`: show what an adjust with the same input would give each driver.

Rules (SPEC 14.18-14.20):
- The requests are made by the function that an adjust uses, so the plan shows what that would do.
- A value outside the range or list that the driver described is marked. Only the driver may refuse it.
"""

from __future__ import annotations

from servo_agg.commands.adjust import read_request, refuse_without_drivers, requests_of
from servo_agg.commands.query import Result, query_drivers, stopped_query_result
from servo_agg.output.tables import display_width, escape_unprintable, table, truncate_middle, wrap
from servo_agg.protocol.limits import violation
from servo_agg.protocol.messages import parse_value, to_json
from servo_agg.protocol.outcome import failure_result
from servo_agg.protocol.routing import unmatched_request
from servo_agg.protocol.settings import dotted_path, iter_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from servo_agg.commands.query import Context

    Object = dict[str, Any]


def plan(
    context: Context,
    application: str,
    stdin: bytes,
    assignments: Sequence[str],
    *,
    json: bool,
    width: int | None,
) -> Result:
    """Query, route, and return what each driver would be given (SPEC 14.18).

    `stdin` and `assignments` are as for an adjust. With `json` the result is `{"status": "ok", "application":
    APP, "drivers": [{"driver", "input", "settings": [{"component", "setting", "from", "to", "limits",
    "wrong"}]}], "skipped": [NAME, ...]}`, with null for `component` and `wrong` where there is none.
    Otherwise it is text, at most `width` columns wide if possible. If a value is wrong, the status is
    `failed` and the exit status 1. Raises BadInput, UnknownSettings or Conflict.
    """
    request = None if assignments else read_request(stdin)
    context.requested = unmatched_request(assignments) if request is None else request
    if not context.config.drivers:
        refuse_without_drivers(context, request, assignments)
    queried = query_drivers(context, application, context.loop.now())
    if queried.cause:
        return stopped_query_result(context, queried.cause, queried.outcomes)
    if queried.failures:
        return Result(failure_result(queried.failures), 1)
    requests = requests_of(context, queried, request, assignments)
    described = dict(iter_settings(queried.merged()[0]))
    drivers: list[Object] = []
    for name in context.config.drivers:
        if name in requests:
            settings = [
                _change(path, described.get(path), setting) for path, setting in iter_settings(requests[name])
            ]
            drivers.append({"driver": name, "input": requests[name], "settings": settings})
    skipped = [name for name in context.config.drivers if name not in requests]
    wrong = [change for driver in drivers for change in driver["settings"] if change["wrong"]]
    failure = _failure(wrong) if wrong else None
    status = 1 if wrong else 0
    if json:
        final = {
            "status": "failed" if wrong else "ok",
            "application": application,
            "drivers": drivers,
            "skipped": skipped,
        }
        return Result(final, status, failure)
    return Result("\n".join(_lines(drivers, skipped, width)), status, failure)


def _failure(wrong: Sequence[Object]) -> Object:
    """Return what the log says of a plan with values that are wrong."""
    names = (dotted_path((change["component"], change["setting"])) for change in wrong)
    message = "\n".join(f"{name}: {change['wrong']}" for name, change in zip(names, wrong))
    return {"status": "failed", "reason": "wrong-values", "message": message}


def _change(path: tuple[str | None, str], described: Any, setting: Any) -> Object:
    present = described if isinstance(described, dict) else {}
    wanted = setting.get("value") if isinstance(setting, dict) else setting
    return {
        "component": path[0],
        "setting": path[1],
        "from": present.get("value"),
        "to": wanted,
        "limits": {key: present[key] for key in ("min", "max", "step", "values") if key in present},
        "wrong": violation(present, wanted) if _has_value(setting) else 'expected {"value": ...}',
    }


def _has_value(setting: Any) -> bool:
    return isinstance(setting, dict) and "value" in setting


def _shown(value: Any) -> str:
    """Return a value as text; a string is quoted only if it would read as another value."""
    if isinstance(value, str) and value and value == escape_unprintable(value) and value.strip() == value:
        try:
            parse_value(value)
        except ValueError:
            return value
    return to_json(value)


_VALUES = 6
"""Values of a list that the text of a plan shows; its JSON has all of them."""


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
            escape_unprintable(dotted_path((change["component"], change["setting"]))),
            _shown(change["from"]),
            _shown(change["to"]),
            _limits(change["limits"]),
        ]
        for driver in drivers
        for change in driver["settings"]
    ]
    settings = iter(_setting_lines(rows, width))
    lines = []
    for number, driver in enumerate(drivers, 1):
        lines.append(f"{number}. {escape_unprintable(driver['driver'])}")
        for change in driver["settings"]:
            lines += [f"  {line}" for line in next(settings)]
            if change["wrong"]:
                lines += wrap(escape_unprintable(change["wrong"]), width, "    ! ", "      ")
        others = [
            f"{escape_unprintable(key)} {to_json(value)}" for key, value in _other_keys(driver["input"])
        ]
        if others:
            text = f"  with {'; '.join(others)}"
            lines.append(text if width is None else truncate_middle(text, width))
    if not drivers:
        lines += wrap("nothing to adjust: no driver would be run", width, "", "    ")
    if skipped:
        names = ", ".join(map(escape_unprintable, skipped))
        lines += wrap(f"drivers not run (the input has no setting for them): {names}", width, "", "    ")
    return lines


def _setting_lines(rows: Sequence[Sequence[str]], width: int | None) -> list[list[str]]:
    """Return the lines of each setting: one in columns, or one for each part if that is too wide."""
    lines = table([[name, f"{before} -> {after}", limits] for name, before, after, limits in rows])
    if width is None or max(map(display_width, lines), default=0) <= width - 2:
        return [[line] for line in lines]
    return [
        [
            name,
            f"  {before}",
            f"  -> {after}",
            *(wrap(escape_unprintable(limits), width - 2, "  ", "   ") if limits else []),
        ]
        for name, before, after, limits in rows
    ]


def _other_keys(request: Object) -> list[tuple[str, Any]]:
    """Return the paths and values that a driver gets besides its settings."""
    application = request["application"]
    found = [(key, value) for key, value in request.items() if key != "application"]
    found += [
        (f"application.{key}", application[key])
        for key in application
        if key not in ("components", "settings")
    ]
    for name, component in application["components"].items():
        found += [(f"{name}.{key}", value) for key, value in component.items() if key != "settings"]
    return found
