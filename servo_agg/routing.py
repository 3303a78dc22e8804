"""One request to a request for each owner, what is missing filled in; `--set` to a request. Pure.

Rules (SPEC 7, 11, 14):
- A request is split so that each owner gets its settings; what is no setting goes to all who run,
  other keys of a component to those that get a setting of it.
- What nobody describes is an error that names all of it.
- Nothing here changes what it is given.
"""

from __future__ import annotations

from servo_agg.description import in_words, path_of, settings_in, united
from servo_agg.errors import BadInput, UnknownSettings, near
from servo_agg.protocol import GivenTwice, named, value_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from typing import Any

    from servo_agg.description import Owners, Place

    Object = dict[str, Any]


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
    places: dict[str, list[Place]] = {}
    for place in described:
        places.setdefault(path_of(place), []).append(place)
    longest = max(map(len, places), default=0)
    application: Object = {"components": {}}
    done: set[Place] = set()
    unknown: list[str] = []
    for choice in choices:
        path = _meant(choice[: longest + 1], places)
        if path is None:
            unknown.append(choice)
            continue
        place = _the_only(choice, places[path])
        if place in done:
            raise BadInput(f"--set gives {path} more than once")
        done.add(place)
        text = choice[len(path) + 1 :]
        present = described[place].get("value") if isinstance(described[place], dict) else None
        try:
            value = text if isinstance(present, str) else _value_or_text(text)
        except GivenTwice as error:
            raise BadInput(f"--set {path}: in its value {error}") from None
        _put(application, place, {"value": value})
    if unknown:
        raise UnknownSettings("; ".join(_not_described(choice, places) for choice in unknown))
    return {"application": application}


def _meant(choice: str, paths: Mapping[str, object]) -> str | None:
    """Give the longest path with which the choice begins, None when it is nobody's."""
    ends = (end for end, letter in enumerate(choice) if letter == "=")
    return max((choice[:end] for end in ends if choice[:end] in paths), key=len, default=None)


def _the_only(choice: str, places: list[Place]) -> Place:
    if len(places) > 1:
        words = " and ".join(f"{setting!r} of {_owner_in_words(component)}" for component, setting in places)
        raise BadInput(f"--set {choice} may mean {words}: give it on stdin instead")
    return places[0]


def _not_described(choice: str, paths: Mapping[str, object]) -> str:
    path = choice.partition("=")[0]
    meant = near(path, paths, at_most=3)
    hint = f"; did you mean {' or '.join(meant)}?" if meant else ""
    return f"--set {choice}: no driver describes a setting {path}{hint}"


def _owner_in_words(component: str | None) -> str:
    return "the application" if component is None else f"component {component!r}"


def _value_or_text(text: str) -> Any:
    try:
        return value_of(text)
    except GivenTwice:
        raise
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
            yield in_words((component, setting))
    for component, settings in strangers.items():
        yield f"component {named(component)} (settings: {', '.join(map(named, settings))})"
