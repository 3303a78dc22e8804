"""The command line: what may be asked of us, and how (SPEC 5, 14)."""

from __future__ import annotations

from servo_agg.errors import WrongUsage, near

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

USAGE = """\
usage: adjust APP < settings     adjust: {"application": {...}} on stdin; progress and result on stdout
       adjust --query APP        all settings of all drivers, as one application (also: --describe)
       adjust --info [APP]       what the drivers are
       adjust --version [APP]    the same as a line of text

Runs every executable file of ./adjust.d, a driver each, and answers as one. To be called in the servo
directory, which holds adjust.d. APP, the name of the application, is passed on to the drivers; it must
not begin with a dash.

For people:
       adjust --check [APP]      ask every driver, say what is wrong and what to do; with APP query them too
       adjust --plan APP         what an adjust with the same input would give each driver; changes nothing

  --set COMPONENT.SETTING=VALUE  with an adjust or --plan, as often as needed: stdin is not read then
  --json                         with --check or --plan: one JSON object instead of text
  --timings                      with anything: at the end, on stderr, which driver took how long
  -v, --verbose                  with anything: on stderr starts, exits, warnings, the drivers' stderr
  -h, --help                     this text

Examples:
       adjust --check demo
       adjust --plan demo --set web.cpu=4 --set web.inst_type=m5.large
       adjust demo --set web.cpu=4 --timings

Exit status: 0 success, 1 failure or a problem found, 2 wrong usage, 128+n ended by signal n.
"""

_OPERATIONS = {
    "--info": "info",
    "--query": "query",
    "--describe": "query",
    "--version": "version",
    "--check": "check",
    "--plan": "plan",
}


_FLAGS = {"-v": "verbose", "--verbose": "verbose", "--json": "json", "--timings": "timings"}


class Call:
    """What the command line asks for.

    operation    `info`, `query`, `version`, `adjust`, `check`, `plan` or `help`
    application  APP, None if it is not given
    choices      what `--set` gives, each `COMPONENT.SETTING=VALUE`, in order
    json         whether a check or plan is to be one JSON object
    timings      whether to show at the end what took how long
    verbose      whether to say what happens
    """

    __slots__ = ("application", "choices", "json", "operation", "timings", "verbose")

    def __init__(self, arguments: Sequence[str]) -> None:
        """Read the arguments. Raises WrongUsage."""
        self.verbose = self.json = self.timings = False
        self.choices: list[str] = []
        operations: list[str] = []
        plain: list[str] = []
        rest = list(arguments)
        while rest:
            word = rest.pop(0)
            if word == "--":
                plain += rest
                break
            if word in ("-h", "--help"):
                operations = ["help"]
                break
            if word in _FLAGS:
                setattr(self, _FLAGS[word], True)
            elif word == "--set" or word.startswith("--set="):
                self.choices.append(_choice(word, rest))
            elif word in _OPERATIONS:
                operations.append(word)
            elif word.startswith("-"):
                hint = _near(word) or " (an APP must not begin with a dash)"
                raise WrongUsage(f"unknown option {_quote(word)}{hint}")
            else:
                plain.append(word)
        if len({_OPERATIONS.get(word) for word in operations}) > 1:
            raise WrongUsage(f"one at a time of {', '.join(dict.fromkeys(operations))}")
        self.operation = _OPERATIONS.get(operations[0], "help") if operations else "adjust"
        self.application = _application(plain)
        self._judge()

    @property
    def for_people(self) -> bool:
        """Whether the answer is text for people, and so a failure a sentence on stderr (SPEC 5, 14)."""
        return self.operation in ("check", "plan") and not self.json

    @property
    def reads_stdin(self) -> bool:
        """Whether settings are to come on stdin."""
        return self.operation in ("adjust", "plan") and not self.choices

    def _judge(self) -> None:
        if self.operation == "help":
            return
        if self.application is None and self.operation in ("query", "adjust", "plan"):
            raise WrongUsage("APP is missing: the name of the application, which is passed on to the drivers")
        if self.choices and self.operation not in ("adjust", "plan"):
            raise WrongUsage("--set goes with --plan or an adjust only")
        if self.json and self.operation not in ("check", "plan"):
            raise WrongUsage("--json goes with --check or --plan only: all else answers in JSON anyway")


def _application(words: Sequence[str]) -> str | None:
    """Return the only one of `words`, None if there is none. Raises WrongUsage."""
    for word in words:
        if word.startswith("-"):
            raise WrongUsage(f"an APP must not begin with a dash, but {_quote(word)} does{_near(word)}")
    if len(words) > 1:
        raise WrongUsage(
            f"one APP only, but {len(words)} are given: {_quote(' '.join(words))};"
            " a name with blanks needs quotes"
        )
    if words and not words[0]:
        raise WrongUsage("APP is empty: is the variable set that it comes from?")
    return words[0] if words else None


def _near(word: str) -> str:
    # A dash alone is near to -v by its length, not by what was meant.
    meant = [] if word == "-" else near(word, [*_OPERATIONS, *_FLAGS, "--set", "--help"])
    return f": did you mean {meant[0]}?" if meant else ""


def _choice(word: str, rest: list[str]) -> str:
    choice = word[len("--set=") :] if "=" in word else rest.pop(0) if rest else ""
    if choice.find("=") < 1:
        raise WrongUsage("--set needs COMPONENT.SETTING=VALUE, such as --set web.cpu=4")
    return choice


def _quote(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


_SHOWN = 80
"""Characters of a wrong word that a message shows."""
