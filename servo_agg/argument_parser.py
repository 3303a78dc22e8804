"""Parse the command lines that people write, by argparse (SPEC 5.30, 14.3-14.6).

All messages and the help text are our own: those of argparse differ from one version of Python to another.
"""

from __future__ import annotations

from argparse import Action, ArgumentParser
from typing import TYPE_CHECKING

from servo_agg.arguments import Arguments
from servo_agg.errors import UsageError, close_matches

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence
    from typing import Any, NoReturn

    from servo_agg.arguments import Operation

USAGE = """\
usage: adjust [OPTION ...] [--plan] APP < SETTINGS
       adjust [OPTION ...] (--query | --test-driver NAME) APP
       adjust [OPTION ...] (--info | --version | --check) [APP]
"""
"""Shown before the error of a wrong command line, and at the top of the help."""

HELP = f"""\
{USAGE}
Runs every executable file in ./adjust.d as a driver, and merges the answers.

  APP                   adjust this application: read its settings from stdin
  --query APP           print all settings of all drivers (also: --describe)
  --info [APP]          print the drivers' versions (-V, --version: as one line)
  --check [APP]         ask every driver; report problems and how to fix them
  --plan APP            print what an adjust would change, and change nothing
  --test-driver NAME APP  test a driver: adjust it, and say what is wrong

  --set COMPONENT.SETTING=VALUE  use this value instead of stdin; repeatable
  --only PATTERN        select drivers (query, info, check, plan); repeatable
  --read-only           with --test-driver: do not adjust the driver
  --json                print JSON (--check, --plan, --test-driver, --timings)
  --timings             print how long each driver took, on stderr at the end
  -v, --verbose         print each step and the drivers' stderr on stderr
  -h, --help            print this text

Example: adjust demo --set web.cpu=4 --timings
Exit status: 0 ok, 1 failure, problem or cancel, 2 wrong usage, 128+n signal n.
"""

_OPERATIONS: dict[str, Operation] = {
    "--info": "info",
    "--query": "query",
    "--describe": "query",
    "--version": "version",
    "-V": "version",
    "--check": "check",
    "--plan": "plan",
    "--test-driver": "test-driver",
}

_FLAGS = ("-v", "--verbose", "--json", "--read-only", "--timings", "-h", "--help")

_SHOWN = 80
"""Characters of a wrong word that a message shows."""


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


_ARGUMENT_COUNTS: dict[str, int | None] = {"-V": 0, "--test-driver": None}
"""`nargs` of the operations whose argument is not optional: 0 for no argument, None for exactly one."""


class _OperationAction(Action):
    """Append an option to `operations`, and its argument to `drivers` (--test-driver) or `words` (others)."""

    def __call__(
        self, _: ArgumentParser, namespace: Namespace, values: Any, option_string: str | None = None
    ) -> None:
        namespace.operations = [*namespace.operations, option_string]
        if option_string == "--test-driver":
            namespace.drivers = [*namespace.drivers, values]
            return
        # For an option without an argument, argparse passes a list.
        if isinstance(values, str):
            namespace.words = [*namespace.words, values]


def parse_arguments(arguments: Sequence[str]) -> Arguments:
    """Return the meaning of a command line, `sys.argv` without the program. Raises UsageError."""
    # Versions of argparse disagree on how often `--` counts.
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    options, words = arguments[:end], arguments[end + 1 :]
    if "-h" in options or "--help" in options:
        return Arguments("help")
    try:
        found, rest = _parser().parse_known_args(options)
    except UsageError:
        raise _option_error(options) from None
    applications = [*found.words, *found.plain]
    # What argparse takes for an argument can begin with a dash, too: `-`, `-1`, `-a b`.
    if any(word.startswith("-") for word in (*rest, *(word for word in applications if word in options))):
        raise _option_error(options)
    if found.help:
        return Arguments("help")
    operations = found.operations or [""]
    if len({_OPERATIONS.get(option) for option in operations}) > 1:
        raise UsageError(f"only one operation is allowed, got {', '.join(dict.fromkeys(operations))}")
    for assignment in found.set:
        if assignment.find("=") < 1:
            raise UsageError(_VALUE_ERRORS["--set"])
    parsed = Arguments(
        _OPERATIONS.get(operations[0], "adjust"),
        _application([*applications, *rest, *words]),
        assignments=found.set,
        only=found.only,
        driver=_driver(found.drivers),
        read_only=found.read_only,
        json=found.json,
        timings=found.timings,
        verbose=found.verbose,
    )
    _check_combination(parsed)
    return parsed


def _parser() -> ArgumentParser:
    parser = _Parser(prog="adjust", add_help=False, allow_abbrev=False)
    parser.set_defaults(operations=[], words=[], drivers=[])
    for option in _OPERATIONS:
        parser.add_argument(
            option, dest="operations", action=_OperationAction, nargs=_ARGUMENT_COUNTS.get(option, "?")
        )
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--read-only", action="store_true")
    parser.add_argument("--timings", action="store_true")
    parser.add_argument("-v", "--verbose", action="store_true")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("plain", nargs="*")
    return parser


def _option_error(options: Sequence[str]) -> UsageError:
    """Return what is wrong with words before `--` that argparse refuses."""
    known = {*_OPERATIONS, *_FLAGS, *_VALUE_ERRORS}
    for word in options:
        name, equals, _ = word.partition("=")
        if name in (*_FLAGS, "-V") and equals:
            return UsageError(f"{name} takes no value, got {_quoted(word)}")
        if word.startswith("-") and name not in known and not _are_flags(word):
            hint = _suggestion(word) or " (APP must not begin with a dash)"
            return UsageError(f"unknown option {_quoted(word)}{hint}")
    # Otherwise an option that needs a value has none, or one that begins with a dash.
    names = [word.partition("=")[0] for word in options]
    return UsageError(next(error for name, error in _VALUE_ERRORS.items() if name in names))


def _are_flags(word: str) -> bool:
    """Return whether a word joins options of one letter, as in `-vh`."""
    return len(word) > 1 and all(f"-{letter}" in (*_FLAGS, "-V") for letter in word[1:])


_VALUE_ERRORS = {
    "--set": "--set needs COMPONENT.SETTING=VALUE, such as --set web.cpu=4",
    "--test-driver": "--test-driver needs the name of a driver and APP, such as --test-driver 01web demo",
    "--only": "--only needs a pattern of driver names, such as --only '01*'",
}
"""The options that need a value, and the error if it is missing or wrong."""


def _application(words: Sequence[str]) -> str | None:
    """Return the only one of `words`, None if there is none. Raises UsageError."""
    for word in words:
        if word.startswith("-"):
            raise UsageError(f"APP must not begin with a dash, got {_quoted(word)}{_suggestion(word)}")
    if len(words) > 1:
        raise UsageError(
            f"only one APP is allowed, got {len(words)} (put a name with spaces in quotes):"
            f" {_quoted(' '.join(words))}"
        )
    if words and not words[0]:
        raise UsageError("APP is empty; check that the variable it comes from is set")
    return words[0] if words else None


def _driver(names: Sequence[str]) -> str | None:
    """Return the name given with `--test-driver`, None without it. Raises UsageError."""
    if len(names) > 1:
        raise UsageError(f"only one --test-driver is allowed, got {len(names)}: {_quoted(' '.join(names))}")
    if "" in names:
        raise UsageError(_VALUE_ERRORS["--test-driver"])
    return names[0] if names else None


def _check_combination(arguments: Arguments) -> None:
    operation = arguments.operation
    if arguments.application is None and operation in ("query", "adjust", "plan", "test-driver"):
        raise UsageError("APP, the name of the application, is missing")
    if arguments.assignments and operation not in ("adjust", "plan"):
        raise UsageError("--set is allowed only with an adjust or --plan")
    if arguments.only and operation in ("adjust", "version", "test-driver"):
        raise UsageError("--only is allowed only with --query, --info, --check or --plan")
    if arguments.read_only and operation != "test-driver":
        raise UsageError("--read-only is allowed only with --test-driver")
    if arguments.json and operation not in ("check", "plan", "test-driver") and not arguments.timings:
        raise UsageError(
            "--json is allowed only with --check, --plan, --test-driver or --timings; --query, --info and an"
            " adjust print JSON without it"
        )


def _suggestion(word: str) -> str:
    # Without the dashes, which would make all options similar to each other.
    known = {option.lstrip("-"): option for option in (*_OPERATIONS, *_FLAGS, *_VALUE_ERRORS)}
    meant = close_matches(word.lstrip("-"), known)
    return f": did you mean {known[meant[0]]}?" if meant else ""


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
