"""Find what is wrong with the settings that a driver describes, and with its answer to `--info`.

Rules (SPEC 14.38):
- A query passes descriptions on as they are. Only a check and a conformance test show the findings.
- `type`, `step` and `unit` are optional. What a description has must be right.
- What cannot be judged because of another finding is not reported.
"""

from __future__ import annotations

from servo_agg.errors import close_matches
from servo_agg.protocol.limits import exact, identity, is_number, violation
from servo_agg.protocol.messages import json_type, quoted_name, to_json, to_text, truncate
from servo_agg.protocol.settings import iter_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from servo_agg.protocol.messages import JsonObject
    from servo_agg.protocol.settings import Description, SettingPath

_TYPES = ("range", "enum")

_SHARES = 1024
"""A value is quoted up to this part of the longest message."""


class Finding:
    """Something that is wrong with an answer.

    path    what is wrong: a setting (`web.cpu`, `application-level cpu`), a component (`web`), `application`,
            or `--info`
    what    what is wrong with it
    remedy  what is expected
    """

    __slots__ = ("path", "remedy", "what")

    def __init__(self, path: str, what: str, remedy: str) -> None:
        self.path = path
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


def lint_info(body: JsonObject) -> Iterator[Finding]:
    """Yield what is wrong with a reply to `--info`."""
    if "version" not in body:
        yield Finding("--info", "has no `version`", 'add it, for example `"version": "1.0"`')
    elif not to_text(body["version"]).strip():
        yield Finding("--info", "`version` is empty", 'set it, for example to `"1.0"`')
    has_cancel = body.get("has_cancel", False)
    if not isinstance(has_cancel, bool):
        yield Finding(
            "--info",
            f"`has_cancel` is {_named(has_cancel)}",
            "set it to true if the driver handles SIGUSR1, otherwise to false",
        )


def lint_description(description: Description) -> Iterator[Finding]:
    """Yield what is wrong with the settings of a normalized description, and with the keys around them."""
    application = description["application"]
    yield from _lint_keys("application", application, ("components", "settings"))
    for name, component in application.get("components", {}).items():
        yield from _lint_keys(quoted_name(name), component, ("settings",))
    for path, setting in iter_settings(description):
        yield from lint_setting(setting_name(path), setting)


def _lint_keys(path: str, parent: JsonObject, expected: Sequence[str]) -> Iterator[Finding]:
    """Yield a finding for each key that looks like a misspelled `expected` one, or is a misplaced setting."""
    missing = [key for key in expected if key not in parent]
    for key, value in parent.items():
        if key in expected or not isinstance(value, dict):
            continue
        near = close_matches(key, missing)
        if near:
            yield Finding(path, f"has `{quoted_name(key)}`, which is not read", f"rename it to `{near[0]}`")
        elif "value" in value and "settings" in missing:
            what = f"has the setting {quoted_name(key)} outside of `settings`"
            yield Finding(path, what, 'move it into `"settings":{...}`')


def setting_name(path: SettingPath) -> str:
    """Return the name of a setting for a finding: `web.cpu`, or `application-level cpu`."""
    component, setting = path
    if component is None:
        return f"application-level {quoted_name(setting)}"
    return f"{quoted_name(component)}.{quoted_name(setting)}"


def lint_setting(path: str, setting: Any) -> Iterator[Finding]:
    """Yield what is wrong with one setting, which may be any JSON value."""
    if not isinstance(setting, dict):
        yield Finding(path, f"is {_named(setting)}", 'describe it as an object, such as `{"value": 4}`')
        return
    if "value" not in setting:
        yield Finding(path, "has no `value`", "add its present value as `value`")
    kind = setting.get("type")
    if "type" in setting and kind not in _TYPES:
        yield Finding(
            path,
            f"`type` is {_named(kind)}",
            "set it to `range` (with `min`, `max`, `step`) or `enum` (with `values`), or leave it out",
        )
    problems = [*_lint_range(path, setting), *_lint_values(path, setting)]
    yield from problems
    if "value" in setting and not problems:
        yield from _lint_value(path, setting)


def _lint_range(path: str, setting: JsonObject) -> Iterator[Finding]:
    limits = {key: setting[key] for key in ("min", "max", "step") if key in setting}
    for key, limit in limits.items():
        if not is_number(limit):
            yield Finding(path, f"`{key}` is {_named(limit)}", f"set `{key}` to a number")
    if setting.get("type") == "range":
        for key in ("min", "max"):
            if key not in limits:
                yield Finding(path, f"is a range without `{key}`", f"add `{key}`, a number")
    least, most, step = (limits.get(key) for key in ("min", "max", "step"))
    if is_number(least) and is_number(most) and least > most:
        what = f"`min` {_shown(least)} is above `max` {_shown(most)}"
        yield Finding(path, what, "set `min` to the lower end of the range, and `max` to the upper one")
    if is_number(step) and step <= 0:
        yield Finding(path, f"`step` is {_shown(step)}", "set `step` to a number above 0, or leave it out")
    elif is_number(step) and is_number(least) and is_number(most) and _exceeds(step, least, most):
        what = f"`step` {_shown(step)} is larger than the range {_shown(least)}..{_shown(most)}"
        yield Finding(path, what, "set `step` to the distance between two neighboring values")


def _exceeds(step: float, least: float, most: float) -> bool:
    # A range of one value needs no step.
    return least < most and exact(step) > exact(most) - exact(least)


def _lint_values(path: str, setting: JsonObject) -> Iterator[Finding]:
    if "values" not in setting:
        if setting.get("type") == "enum":
            yield Finding(path, "is an enum without `values`", "add `values`, the list of all its values")
        return
    values = setting["values"]
    if not isinstance(values, list):
        yield Finding(path, f"`values` is {_named(values)}", "set `values` to the list of all its values")
    elif not values:
        yield Finding(path, "`values` is empty", "list all its values, including the present one")
    else:
        seen = set()
        for value in values:
            key = identity(value)
            if key in seen:
                yield Finding(path, f"`values` has {_shown(value)} more than once", "list each value once")
                return
            seen.add(key)


def _lint_value(path: str, setting: JsonObject) -> Iterator[Finding]:
    value = setting["value"]
    if violation(setting, value) is None:
        return
    values = setting.get("values")
    if isinstance(values, list):
        what = f"`value` {_shown(value)} is not among its `values`"
        remedy = "add the present value to the list, or correct `value`"
    elif not is_number(value):
        what = f"`value` is {_named(value)}"
        remedy = "set `value` to a number, since the setting has a range"
    else:
        what = f"`value` {_shown(value)} is {violation(setting, value)}"
        remedy = "correct `value`, or describe a range and step that include it"
    yield Finding(path, what, remedy)


def _shown(value: Any) -> str:
    """Return a value for a sentence: a scalar as JSON, anything else by its type."""
    return json_type(value) if isinstance(value, (list, dict)) else truncate(to_json(value), _SHARES)


def _named(value: Any) -> str:
    """Return a value for a sentence, like `_shown`, but name the type of a string."""
    return f"the string {_shown(value)}" if isinstance(value, str) else _shown(value)
