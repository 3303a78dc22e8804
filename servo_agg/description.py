"""Many descriptions to one and a table of owners; one request to a request per owner. Pure.

Rules (SPEC 4, 6, 7):
- A description is `{"application": {"components": {C: {"settings": {S: {...}}}}, "settings": {...}}}`
  and whatever else a driver adds; old drivers leave the wrapper out.
- Each setting has one owner. Everything else merges deeply, the later driver's leaf stands.
- A request is split so that each owner gets its settings; what is no setting goes to all who run,
  other keys of a component to those that get a setting of it.
- Nothing here changes what it is given.
"""

from __future__ import annotations

from servo_agg.errors import BadInput, Conflict, Misshapen, UnknownSettings, near
from servo_agg.protocol import kind, value_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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


def _named(name: str) -> str:
    """Give a name; in quotes where it could be misread, or not be seen at all."""
    plain = name and name.isprintable() and not any(character in _MISREAD for character in name)
    return name if plain else repr(name)


_MISREAD = frozenset(" ,;:()'\"")


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
        path = f"application.components.{_named(name)}"
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
    named = list(descriptions)
    owners: dict[Place, list[str]] = {}
    for driver, description in named:
        for place, _ in settings_in(description):
            owners.setdefault(place, []).append(driver)
    shared = {place: names for place, names in owners.items() if len(names) > 1}
    if shared:
        raise Conflict(
            "each setting must be described by one driver only, but "
            + "; ".join(
                f"{_in_words(place)} is described by {listed(names)}" for place, names in shared.items()
            ),
            {path_of(place): names for place, names in shared.items()},
        )
    merged = united([{"application": {"components": {}}}, *(description for _, description in named)])
    return merged, {place: names[0] for place, names in owners.items()}


def _in_words(place: Place) -> str:
    path = ".".join(_named(name) for name in place if name is not None)
    return f"setting {path}" + (" of the application" if place[0] is None else "")


def listed(names: Sequence[str]) -> str:
    """Name several, at least one, in a sentence."""
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def route(request: Object, owners: Owners) -> dict[str, Object]:
    """Split a request, whose shape has been checked, into one request for each owner concerned.

    Gives `{driver: request}`; a driver that gets no setting is not in it. A setting that is null
    counts as not given. Raises UnknownSettings that lists all that nobody described (SPEC 7.3-7.5).
    """
    given = [(place, value) for place, value in settings_in(request) if value is not None]
    unknown = [place for place, _ in given if place not in owners]
    if unknown:
        described = {component for component, _ in owners}
        hint = " (adjust --query shows what is described)" if owners else ""
        raise UnknownSettings("no driver describes " + "; ".join(_unknown(unknown, described)) + hint)
    application = request.get("application", {})
    common = {key: value for key, value in application.items() if key not in ("components", "settings")}
    requests: dict[str, Object] = {}
    for (component, setting), value in given:
        owner = owners[component, setting]
        if owner not in requests:
            requests[owner] = {**request, "application": {**common, "components": {}}}
        share = requests[owner]["application"]
        if component is not None:
            whole = application["components"][component]
            share = share["components"].setdefault(component, {**whole, "settings": {}})
        share.setdefault("settings", {})[setting] = value
    return requests


def completed(request: Object, description: Object, places: Collection[Place]) -> Object:
    """Fill in, from a description, those settings that the request lacks or has as null (SPEC 11).

    Of the described settings those at `places` are meant; one that is described without a value stays out.
    """
    missing: Object = {"components": {}}
    given = {place for place, setting in settings_in(request) if setting is not None}
    for place, setting in settings_in(description):
        if place in places and place not in given and isinstance(setting, dict) and "value" in setting:
            _put(missing, place, {"value": setting["value"]})
    return united([request, {"application": missing}])


def chosen(choices: Sequence[str], description: Object) -> Object:
    """Make a request of what `--set` gives, each `COMPONENT.SETTING=VALUE` (SPEC 14).

    Names may hold dots and `=`: what counts is which setting is described. A value stays text where the
    present one is text; else it is JSON if it can be read as such. Raises UnknownSettings or BadInput.
    """
    described = dict(settings_in(description))
    named: dict[str, list[Place]] = {}
    for place in described:
        named.setdefault(path_of(place), []).append(place)
    longest = max(map(len, named), default=0)
    application: Object = {"components": {}}
    done: set[Place] = set()
    unknown: list[str] = []
    for choice in choices:
        path = _meant(choice[: longest + 1], named)
        if path is None:
            unknown.append(choice)
            continue
        place = _the_only(choice, named[path])
        if place in done:
            raise BadInput(f"--set gives {path} more than once")
        done.add(place)
        text = choice[len(path) + 1 :]
        present = described[place].get("value") if isinstance(described[place], dict) else None
        _put(application, place, {"value": text if isinstance(present, str) else _value_or_text(text)})
    if unknown:
        raise UnknownSettings("; ".join(_not_described(choice, named) for choice in unknown))
    return {"application": application}


def _meant(choice: str, named: Mapping[str, object]) -> str | None:
    """Give the longest path with which the choice begins, None when it is nobody's."""
    ends = (end for end, letter in enumerate(choice) if letter == "=")
    return max((choice[:end] for end in ends if choice[:end] in named), key=len, default=None)


def _the_only(choice: str, places: list[Place]) -> Place:
    if len(places) > 1:
        words = " and ".join(f"{setting!r} of {_owner_in_words(component)}" for component, setting in places)
        raise BadInput(f"--set {choice} may mean {words}: give it on stdin instead")
    return places[0]


def _not_described(choice: str, named: Mapping[str, object]) -> str:
    path = choice.partition("=")[0]
    meant = near(path, named, at_most=3)
    hint = f"; did you mean {' or '.join(meant)}?" if meant else ""
    return f"--set {choice}: no driver describes a setting {path}{hint}"


def _owner_in_words(component: str | None) -> str:
    return "the application" if component is None else f"component {component!r}"


def _value_or_text(text: str) -> Any:
    try:
        return value_of(text)
    except ValueError:
        return text


def _put(application: Object, place: Place, setting: Object) -> None:
    component, name = place
    share = application if component is None else application["components"].setdefault(component, {})
    share.setdefault("settings", {})[name] = setting


def _unknown(places: list[Place], described: set[str | None]) -> Iterator[str]:
    strangers: dict[str, list[str]] = {}
    for component, setting in places:
        if component is not None and component not in described:
            strangers.setdefault(component, []).append(setting)
        else:
            yield _in_words((component, setting))
    for component, settings in strangers.items():
        yield f"component {_named(component)} (settings: {', '.join(map(_named, settings))})"
