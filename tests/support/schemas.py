"""The schemas of docs/schemas, and a check of all JSON that a run of the program prints on stdout."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from referencing import Registry, Resource

from servo_agg.argument_parser import parse_arguments
from servo_agg.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from servo_agg.arguments import Arguments

DIRECTORY = Path(__file__).resolve().parent.parent.parent / "docs" / "schemas"


@functools.cache
def schemas() -> dict[str, dict[str, Any]]:
    """Return all schemas by the names of their files without `.json`."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(DIRECTORY.glob("*.json"))
    }


@functools.cache
def _registry() -> Registry[Any]:
    resources = ((f"{name}.json", Resource.from_contents(schema)) for name, schema in schemas().items())
    return Registry().with_resources(resources)


@functools.cache
def validator(name: str) -> Draft202012Validator:
    """Return the validator of a schema, `agg-final`, or of a part of one, `agg-final#/$defs/failure`."""
    file, _, definition = name.partition("#")
    return Draft202012Validator({"$ref": f"{file}.json#{definition}"}, registry=_registry())


def mismatch(name: str, instance: object) -> str | None:
    """Return why a value does not match a schema, None if it does. `name`: see `validator`."""
    # This is much faster than collecting the errors.
    if validator(name).is_valid(instance):
        return None
    error = best_match(validator(name).iter_errors(instance))
    return f"{error.json_path}: {error.message[:500]}" if error is not None else "unknown"


def assert_matches(name: str, instance: object) -> None:
    """Fail the test if a value does not match a schema. `name`: see `validator`."""
    why = mismatch(name, instance)
    assert why is None, f"does not match {name}: {why}\n{json.dumps(instance)[:2000]}"


def assert_driver_output_matches(words: Sequence[str], messages: Iterable[dict[str, Any]]) -> None:
    """Fail the test if a message that a driver with these arguments printed does not match its schema."""
    kinds = {"--info": "driver-info", "--query": "driver-query"}
    for message in messages:
        if "progress" in message and "status" not in message:
            assert_matches("progress", message)
        elif message.get("status", "ok") == "ok" and words[0] in kinds:
            assert_matches(kinds[words[0]], message)
        else:
            assert_matches("driver-reply", message)


def assert_output_matches(words: Sequence[str], lines: Iterable[bytes], returncode: int | None) -> None:
    """Fail the test if a line that `./adjust` with these arguments printed does not match its schema.

    `lines` end with their newlines; one that has none is not checked, since the program was killed while it
    wrote it, or the test reads the rest. `returncode` is None if it is not known.
    """
    arguments = _parsed(tuple(words))
    if arguments is None:
        return
    prints_text = arguments.for_people or arguments.operation in ("version", "help")
    # A flood repeats its lines.
    for line in dict.fromkeys(lines):
        if line.endswith(b"\n") and not (prints_text and not line.startswith(b"{")):
            message = json.loads(line)
            assert_matches(_schema_of(arguments, message, returncode), message)


@functools.cache
def _parsed(words: tuple[str, ...]) -> Arguments | None:
    """Return parsed arguments, None if they are wrong. Most runs have the same few, and parsing is slow."""
    try:
        return parse_arguments(words)
    except UsageError:
        return None


def _schema_of(arguments: Arguments, message: dict[str, Any], returncode: int | None) -> str:
    operation = arguments.operation
    if operation == "adjust":
        return "agg-progress" if "progress" in message and "status" not in message else "agg-final"
    if operation in ("query", "info") and (returncode == 0 or "status" not in message):
        return f"agg-{operation}"
    # The result of a check, plan or test has a status as a failure has, but no reason.
    if operation in ("check", "plan", "test-driver") and (returncode == 0 or "reason" not in message):
        return f"agg-{operation}"
    return "agg-final#/$defs/failure"
