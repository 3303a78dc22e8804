"""The meaning of a command line (SPEC 5, 14).

The forms that the agent uses are recognized here. All others are parsed by `argument_parser`, which is not
imported for the agent: argparse takes 4 ms.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    Operation = Literal["info", "query", "version", "adjust", "check", "plan", "test-driver", "help"]

_AGENT_OPERATIONS: dict[str, Operation] = {
    "--info": "info",
    "--query": "query",
    "--describe": "query",
    "--version": "version",
}


class Arguments:
    """The meaning of a command line.

    operation    what to do
    application  APP, None if it is not given
    assignments  the values of `--set`, each `COMPONENT.SETTING=VALUE`, in order
    only         the values of `--only`: patterns of the names of the drivers that are asked; empty: all
    driver       the driver that `--test-driver` names, else None
    read_only    whether that driver must not be adjusted
    json         whether a check, plan, test or `timings` prints one JSON object
    timings      whether to show at the end how long each driver took
    verbose      whether to show each step
    """

    __slots__ = (
        "application",
        "assignments",
        "driver",
        "json",
        "only",
        "operation",
        "read_only",
        "timings",
        "verbose",
    )

    def __init__(
        self,
        operation: Operation,
        application: str | None = None,
        *,
        assignments: Sequence[str] = (),
        only: Sequence[str] = (),
        driver: str | None = None,
        read_only: bool = False,
        json: bool = False,
        timings: bool = False,
        verbose: bool = False,
    ) -> None:
        self.operation = operation
        self.application = application
        self.assignments = assignments
        self.only = only
        self.driver = driver
        self.read_only = read_only
        self.json = json
        self.timings = timings
        self.verbose = verbose

    @property
    def for_people(self) -> bool:
        """Whether the answer is text for people, so that a failure is a sentence on stderr (SPEC 14.30)."""
        return self.operation in ("check", "plan", "test-driver") and not self.json

    @property
    def adjusts(self) -> bool:
        """Whether drivers may be adjusted, which needs the lock (SPEC 14.47, 14.48)."""
        return self.operation == "adjust" or (self.operation == "test-driver" and not self.read_only)

    @property
    def reads_stdin(self) -> bool:
        """Whether settings are read from stdin."""
        return self.operation in ("adjust", "plan") and not self.assignments

    @property
    def meant_option(self) -> str | None:
        """The option that was probably meant if APP is the word of one: `--help` for `adjust help`."""
        return f"--{self.application}" if self.application in _OPTION_WORDS else None


_OPTION_WORDS = ("help", "version", "info", "query", "describe", "check", "plan")


def parse_agent_arguments(words: Sequence[str]) -> Arguments | None:
    """Return the meaning of a command line in one of the agent's forms, None if it has another form."""
    if len(words) == 1 and _is_application(words[0]):
        return Arguments("adjust", words[0])
    if words and words[0] in _AGENT_OPERATIONS:
        operation = _AGENT_OPERATIONS[words[0]]
        if len(words) == 1 and operation != "query":
            return Arguments(operation)
        if len(words) == 2 and _is_application(words[1]):  # noqa: PLR2004 - an option and APP
            return Arguments(operation, words[1])
    return None


def _is_application(word: str) -> bool:
    return word != "" and not word.startswith("-")
