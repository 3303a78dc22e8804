"""Many descriptions to one and a table of owners; what shape descriptions and requests have. Pure.

Rules (SPEC 4, 6, 7):
- A description is `{"application": {"components": {C: {"settings": {S: {...}}}}, "settings": {...}}}`
  and whatever else a driver adds; old drivers leave the wrapper out.
- Each setting has one owner. Everything else merges deeply, the later driver's leaf stands.
- Nothing here changes what it is given.
"""

from __future__ import annotations

from servo_agg.errors import Conflict, Misshapen
from servo_agg.protocol import kind, named

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any, Optional

    Object = dict[str, Any]
    # A component's name, None for the settings of the application itself, and a setting's name.
    Place = tuple[Optional[str], str]
    Owners = dict[Place, str]

_OWN = frozenset(("status", "reason", "message", "error", "class", "progress", "drivers"))
"""Top-level keys in which a driver speaks of itself (SPEC 6)."""


def path_of(place: Place) -> str:
    """Name a setting for a person: `web.cpu`, or `cpu` for one of the application itself."""
    component, setting = place
    return setting if component is None else f"{component}.{setting}"


def _object(holder: Object, key: str, path: str) -> Object:
    """Give `holder[key]`, `{}` if it is absent. Raises Misshapen if it is no object."""
    value = holder.get(key, {})
    if not isinstance(value, dict):
        raise Misshapen(f"{path} is {kind(value)}, not an object")
    return value


def check_shape(content: Object) -> None:
    """Check that `application`, its components and all `settings` are objects where they are given.

    Raises Misshapen, naming the path and what stands there (SPEC 4, 7.1).
    """
    application = _object(content, "application", "application")
    _object(application, "settings", "application.settings")
    components = _object(application, "components", "application.components")
    for name in components:
        path = f"application.components.{named(name)}"
        _object(_object(components, name, path), "settings", f"{path}.settings")


def describe(reply: Object) -> Object:
    """Make a driver's query reply a description: wrapped, its words about itself left out (SPEC 4, 6).

    Raises Misshapen when it holds no description, or one of the wrong shape.
    """
    said = without_own(reply)
    if "application" not in said:
        if "components" not in said and "settings" not in said:
            raise Misshapen('it has neither "application" nor "components" nor "settings"')
        said = {"application": said}
    check_shape(said)
    return said


def without_own(reply: Object) -> Object:
    """Leave out the top-level keys in which a driver speaks of itself (SPEC 6)."""
    return {key: value for key, value in reply.items() if key not in _OWN}


def settings_in(content: Object) -> Iterator[tuple[Place, Any]]:
    """Give each setting of a description or request, application-level ones first, with its place."""
    application = content.get("application", {})
    for setting, value in application.get("settings", {}).items():
        yield (None, setting), value
    for name, component in application.get("components", {}).items():
        for setting, value in component.get("settings", {}).items():
            yield (name, setting), value


def united(parts: Iterable[Object]) -> Object:
    """Merge objects deeply; where two give a leaf, the later one's stands (SPEC 6)."""
    whole: Object = {}
    for part in parts:
        _lay(whole, part)
    return whole


def _lay(under: Object, over: Object) -> Object:
    for key, value in over.items():
        if isinstance(value, dict):
            below = under.get(key)
            # Every object that we merge into is one made here, so the parts stay as they are.
            under[key] = _lay(below if isinstance(below, dict) else {}, value)
        else:
            under[key] = value
    return under


def merge(descriptions: Iterable[tuple[str, Object]]) -> tuple[Object, Owners]:
    """Merge `(driver, description)` pairs, given in driver order, into one and a table of owners.

    The merged description always has `application.components`. Raises Conflict that lists every
    setting that more than one driver describes, with all of them (SPEC 6).
    """
    described = list(descriptions)
    owners: dict[Place, list[str]] = {}
    for driver, description in described:
        for place, _ in settings_in(description):
            owners.setdefault(place, []).append(driver)
    shared = {place: names for place, names in owners.items() if len(names) > 1}
    if shared:
        raise Conflict(
            "each setting must be described by one driver only, but "
            + "; ".join(
                f"{in_words(place)} is described by {listed(names)}" for place, names in shared.items()
            ),
            {path_of(place): names for place, names in shared.items()},
        )
    merged = united([{"application": {"components": {}}}, *(description for _, description in described)])
    return merged, {place: names[0] for place, names in owners.items()}


def in_words(place: Place) -> str:
    """Name a setting in a sentence: `setting web.cpu`, `setting cpu of the application`."""
    path = ".".join(named(name) for name in place if name is not None)
    return f"setting {path}" + (" of the application" if place[0] is None else "")


def listed(names: Sequence[str]) -> str:
    """Name several, at least one, in a sentence."""
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
