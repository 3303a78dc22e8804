"""Descriptions and requests: their shape, and many descriptions merged into one.

Rules (SPEC 4, 6, 7):
- A description is `{"application": {"components": {C: {"settings": {S: {...}}}}, "settings": {...}}}`. A
  driver may add other keys. Old drivers omit the key `application`.
- Each setting has one owner. Everything else is merged deeply; of several leaves the later driver's is kept.
- No function changes its arguments.
"""

from __future__ import annotations

from servo_agg.errors import Conflict, SchemaError
from servo_agg.protocol.messages import json_type, quoted_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any, Optional

    from servo_agg.protocol.messages import JsonObject

    Description = JsonObject
    Request = JsonObject
    # The name of a component, None for the settings of the application itself, and the name of a setting.
    SettingPath = tuple[Optional[str], str]
    # The name of the driver that describes each setting.
    Owners = dict[SettingPath, str]

_DRIVER_KEYS = frozenset(("status", "reason", "message", "error", "class", "progress", "drivers"))
"""Top-level keys of a reply that are about the driver itself (SPEC 6.6)."""


# Names for people.


def dotted_path(path: SettingPath) -> str:
    """Return the name of a setting: `web.cpu`, or `cpu` for one of the application itself."""
    component, setting = path
    return setting if component is None else f"{component}.{setting}"


def format_setting(path: SettingPath) -> str:
    """Return the name of a setting for a sentence: `setting web.cpu`, `setting cpu of the application`."""
    name = ".".join(quoted_name(name) for name in path if name is not None)
    return f"setting {name}" + (" of the application" if path[0] is None else "")


def join_names(names: Sequence[str], word: str = "and") -> str:
    """Return one or more names as a list in a sentence: `a, b and c`."""
    return f" {word} ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


# The shape of descriptions and requests.


def validate_shape(body: Description | Request) -> None:
    """Check that `application`, its components and all `settings` are objects where they are present.

    Raises SchemaError with the path and what is there instead (SPEC 4.13, 7.1).
    """
    application = _object_at(body, "application", "application")
    _object_at(application, "settings", "application.settings")
    components = _object_at(application, "components", "application.components")
    for name in components:
        path = f"application.components.{quoted_name(name)}"
        _object_at(_object_at(components, name, path), "settings", f"{path}.settings")


def _object_at(parent: JsonObject, key: str, path: str) -> JsonObject:
    """Return `parent[key]`, `{}` if it is absent. Raises SchemaError if it is not an object."""
    value = parent.get(key, {})
    if not isinstance(value, dict):
        raise SchemaError(f"{path} must be an object, got {json_type(value)}")
    return value


def normalize_description(body: JsonObject) -> Description:
    """Return the description in a query reply, with the key `application` and without the driver's own keys.

    Raises SchemaError when the reply has no description, or one of the wrong shape (SPEC 4.11, 4.13).
    """
    description = without_driver_keys(body)
    if "application" not in description:
        if "components" not in description and "settings" not in description:
            raise SchemaError('"application", "components" and "settings" are missing')
        description = {"application": description}
    validate_shape(description)
    return description


def without_driver_keys(body: JsonObject) -> JsonObject:
    """Return a reply without the top-level keys that are about the driver itself (SPEC 6.6)."""
    return {key: value for key, value in body.items() if key not in _DRIVER_KEYS}


def iter_settings(body: Description | Request) -> Iterator[tuple[SettingPath, Any]]:
    """Yield the path and value of each setting, those of the application itself first."""
    application = body.get("application", {})
    for setting, value in application.get("settings", {}).items():
        yield (None, setting), value
    for name, component in application.get("components", {}).items():
        for setting, value in component.get("settings", {}).items():
            yield (name, setting), value


def values_by_name(request: Request) -> JsonObject:
    """Return the settings that a request asks for, as `{"web.cpu": 4}`."""
    return {
        dotted_path(path): setting.get("value") if isinstance(setting, dict) else setting
        for path, setting in iter_settings(request)
        if setting is not None
    }


# Merging.


def deep_merge(parts: Iterable[JsonObject]) -> JsonObject:
    """Merge objects deeply. Where several have a leaf, the last one's is kept (SPEC 6.5)."""
    merged: JsonObject = {}
    for part in parts:
        _merge_into(merged, part)
    return merged


def _merge_into(target: JsonObject, source: JsonObject) -> JsonObject:
    for key, value in source.items():
        if isinstance(value, dict):
            present = target.get(key)
            # Every target is an object made here, so the parts are not changed.
            target[key] = _merge_into(present if isinstance(present, dict) else {}, value)
        else:
            target[key] = value
    return target


def merge_descriptions(descriptions: Iterable[tuple[str, Description]]) -> tuple[Description, Owners]:
    """Merge `(driver, description)` pairs, in driver order, into one description; return it and the owners.

    The merged description always has `application.components`. Raises Conflict that lists every setting
    that several drivers describe, each with all of them (SPEC 6.4).
    """
    pairs = list(descriptions)
    owners: dict[SettingPath, list[str]] = {}
    for driver, description in pairs:
        for path, _ in iter_settings(description):
            owners.setdefault(path, []).append(driver)
    shared = {path: drivers for path, drivers in owners.items() if len(drivers) > 1}
    if shared:
        raise Conflict(
            "only one driver may describe a setting, but "
            + "; ".join(
                f"{format_setting(path)} is described by {join_names(drivers)}"
                for path, drivers in shared.items()
            ),
            {dotted_path(path): drivers for path, drivers in shared.items()},
        )
    merged = deep_merge([{"application": {"components": {}}}, *(description for _, description in pairs)])
    return merged, {path: drivers[0] for path, drivers in owners.items()}
