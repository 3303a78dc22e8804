"""The command line: what may be asked of us, and how (SPEC 5, 14)."""

from __future__ import annotations

from servo_agg.errors import WrongUsage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

USAGE = """\
usage: adjust --info [APP]       what the drivers are
       adjust --query APP        their settings, as one application (also: --describe)
       adjust APP < settings     adjust: {"application": {...}} on stdin, progress and result on stdout
       adjust --version

Runs every driver in ./adjust.d and answers as one. APP is passed on to the drivers.

  -v, --verbose   say on stderr what happens: starts, exits, warnings, the drivers' stderr
  -h, --help      this text
"""

_OPERATIONS = {"--info": "info", "--query": "query", "--describe": "query", "--version": "version"}


class Call:
    """What the command line asks for."""

    __slots__ = ("application", "operation", "verbose")

    def __init__(self, arguments: Sequence[str]) -> None:
        """Read the arguments; `operation` is `info`, `query`, `version`, `adjust` or `help`.

        Raises WrongUsage.
        """
        self.verbose = False
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
            if word in ("-v", "--verbose"):
                self.verbose = True
            elif word in _OPERATIONS:
                operations.append(_OPERATIONS[word])
            elif word.startswith("-") and word != "-" and not (operations and not plain):
                raise WrongUsage(f"unknown option {word}")
            else:
                # Right after --query or --info even an APP that begins with a dash is one.
                plain.append(word)
        if len(set(operations)) > 1:
            raise WrongUsage("one of --info, --query, --describe and --version only")
        self.operation = operations[0] if operations else "adjust"
        if len(plain) > 1:
            raise WrongUsage(f"one APP only, but {len(plain)} are given: {' '.join(plain)}")
        self.application = plain[0] if plain else None
        if self.application is None and self.operation in ("query", "adjust"):
            raise WrongUsage("APP is missing: the name of the application, which is passed on to the drivers")
