"""One request to a request for each driver, missing settings filled in; `--set` to a request.

Rules (SPEC 7, 11, 14):
- A request is split so that each owner gets its settings. What is not a setting goes to all drivers that
  run, other keys of a component to the drivers that get a setting of it.
- Settings that no driver describes are an error that names all of them.
- No function changes its arguments.
"""

from __future__ import annotations

from servo_agg.errors import BadInput, UnknownSettings, close_matches
from servo_agg.protocol.messages import DuplicateKey, clause, parse_value, quoted_name, to_json
from servo_agg.protocol.settings import deep_merge, dotted_path, format_setting, iter_settings, join_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from typing import Any

    from servo_agg.protocol.messages import JsonObject
    from servo_agg.protocol.settings import Description, Owners, Request, SettingPath


def route(request: Request, owners: Owners) -> dict[str, Request]:
    """Split a request of valid shape into one for each driver that gets a setting: `{driver: request}`.

    A setting that is null counts as absent. Raises UnknownSettings that lists all settings that no driver
    describes (SPEC 7.7-7.17).
    """
    requested = [(path, value) for path, value in iter_settings(request) if value is not None]
    unknown = [path for path, _ in requested if path not in owners]
    if unknown:
        described = {component for component, _ in owners}
        hint = " (./adjust --query shows what is described)" if owners else ""
        sentence = "no driver describes " + "; ".join(_format_unknown(unknown, described))
        raise UnknownSettings(sentence + _meant(unknown, owners) + hint)
    application = request.get("application", {})
    refuse_misplaced_settings(request, owners)
    common = {key: value for key, value in application.items() if key not in ("components", "settings")}
    requests: dict[str, Request] = {}
    for (component, setting), value in requested:
        owner = owners[component, setting]
        if owner not in requests:
            requests[owner] = {**request, "application": {**common, "components": {}}}
        part = requests[owner]["application"]
        if component is not None:
            whole = application["components"][component]
            part = part["components"].setdefault(component, {**whole, "settings": {}})
        part.setdefault("settings", {})[setting] = value
    return requests


_MAX_MEANT = 5
"""Unknown settings for which near ones are searched: each search takes milliseconds."""


def _meant(unknown: list[SettingPath], owners: Owners) -> str:
    """Return a question that names the described settings that are near to unknown ones; "" without any."""
    near = [dotted_path(path) for one in unknown[:_MAX_MEANT] for path in _near_settings(one, owners)]
    return f"; did you mean {join_names(list(dict.fromkeys(near)))}?" if near else ""


def _near_settings(path: SettingPath, owners: Owners) -> list[SettingPath]:
    component, name = path
    components = {component for component, _ in owners}
    nearest = [component]
    if component is not None and component not in components:
        nearest = [*close_matches(component, [other for other in components if other is not None])]
    found: list[SettingPath] = []
    for candidate in nearest:
        settings = [setting for owner, setting in owners if owner == candidate]
        found += [(candidate, setting) for setting in close_matches(name, settings)]
    return found


def refuse_misplaced_settings(request: Request, owners: Collection[SettingPath] = ()) -> None:
    """Raise BadInput if a component holds settings without the level `settings` (SPEC 7.3, 7.4).

    What counts as such is an object with a `value`, and what has the name of a setting of `owners`.
    """
    for name, component in request.get("application", {}).get("components", {}).items():
        for key, value in component.items() if "settings" not in component else ():
            if (name, key) in owners or (isinstance(value, dict) and "value" in value):
                path = f"application.components.{quoted_name(name)}"
                setting = f'{to_json(key)}: {{"value": ...}}'
                raise BadInput(
                    f'{path} has no "settings": expected {{"settings": {{{setting}}}}}, got {{{setting}}}'
                )


def _format_unknown(paths: list[SettingPath], described: set[str | None]) -> Iterator[str]:
    """Yield the unknown settings for a sentence; those of an unknown component together."""
    by_component: dict[str, list[str]] = {}
    for component, setting in paths:
        if component is not None and component not in described:
            by_component.setdefault(component, []).append(setting)
        else:
            yield format_setting((component, setting))
    for component, settings in by_component.items():
        yield f"component {quoted_name(component)} (settings: {', '.join(map(quoted_name, settings))})"


def fill_missing(request: Request, description: Description, paths: Collection[SettingPath]) -> Request:
    """Return a request with those settings at `paths` filled in that it lacks or has as null (SPEC 11.13).

    The values are those of the description; a setting that is described without a value is not filled in.
    """
    missing: JsonObject = {"components": {}}
    present = {path for path, setting in iter_settings(request) if setting is not None}
    for path, setting in iter_settings(description):
        if path in paths and path not in present and isinstance(setting, dict) and "value" in setting:
            _set(missing, path, {"value": setting["value"]})
    return deep_merge([request, {"application": missing}])


def request_from_assignments(assignments: Sequence[str], description: Description) -> Request:
    """Return the request that `--set` gives, each assignment as `COMPONENT.SETTING=VALUE` (SPEC 14.21-14.23).

    Names may contain dots and `=`: the longest name that is described counts. A value stays text if the
    present value is text. Otherwise it is JSON if it can be parsed as JSON.

    Raises UnknownSettings or BadInput.
    """
    described = dict(iter_settings(description))
    paths_by_name: dict[str, list[SettingPath]] = {}
    for path in described:
        paths_by_name.setdefault(dotted_path(path), []).append(path)
    longest = max(map(len, paths_by_name), default=0)
    application: JsonObject = {"components": {}}
    assigned: set[SettingPath] = set()
    unknown: list[str] = []
    for assignment in assignments:
        name = _longest_described(assignment[: longest + 1], paths_by_name)
        if name is None:
            unknown.append(assignment)
            continue
        path = _single_path(assignment, paths_by_name[name])
        if path in assigned:
            raise BadInput(f"--set gives {name} more than once")
        assigned.add(path)
        text = assignment[len(name) + 1 :]
        present = described[path].get("value") if isinstance(described[path], dict) else None
        try:
            value = text if isinstance(present, str) else _value_or_text(text)
        except DuplicateKey as error:
            raise BadInput(f"--set {name}: {clause('the value', error)}") from None
        _set(application, path, {"value": value})
    if unknown:
        raise UnknownSettings(
            "; ".join(_not_described_text(assignment, paths_by_name) for assignment in unknown)
        )
    return {"application": application}


def unmatched_request(assignments: Sequence[str]) -> Request:
    """Return the request of `--set` for the log, before the query has shown which settings exist.

    The name of each setting ends at the first `=`. A dot in it does not separate a component.
    """
    settings: JsonObject = {}
    for assignment in assignments:
        name, _, text = assignment.partition("=")
        try:
            settings[name] = {"value": parse_value(text)}
        except ValueError:
            settings[name] = {"value": text}
    return {"application": {"settings": settings}}


def _longest_described(assignment: str, paths_by_name: Mapping[str, object]) -> str | None:
    """Return the longest described name before a `=` of an assignment; None when there is none."""
    ends = (end for end, character in enumerate(assignment) if character == "=")
    return max((assignment[:end] for end in ends if assignment[:end] in paths_by_name), key=len, default=None)


def _single_path(assignment: str, paths: list[SettingPath]) -> SettingPath:
    if len(paths) > 1:
        words = ", or ".join(f"{setting!r} of {_component_text(component)}" for component, setting in paths)
        raise BadInput(f"--set {assignment} is ambiguous: {words}; give the setting on stdin instead")
    return paths[0]


def _component_text(component: str | None) -> str:
    return "the application" if component is None else f"component {component!r}"


def _not_described_text(assignment: str, paths_by_name: Mapping[str, object]) -> str:
    name = assignment.partition("=")[0]
    matches = close_matches(name, paths_by_name, limit=3)
    hint = f"; did you mean {' or '.join(matches)}?" if matches else ""
    return f"--set {assignment}: no driver describes a setting {name}{hint}"


def _value_or_text(text: str) -> Any:
    try:
        return parse_value(text)
    except DuplicateKey:
        raise
    except ValueError:
        return text


def _set(application: JsonObject, path: SettingPath, setting: JsonObject) -> None:
    component, name = path
    part = application if component is None else application["components"].setdefault(component, {})
    part.setdefault("settings", {})[name] = setting
