"""Ask the drivers for a check, and find what is wrong with their answers.

Rules (SPEC 14.7, 14.14-14.16):
- All drivers are asked, even if some fail.
- A driver that fails among the others is asked again alone: it may be one that belongs under `serial`.
- A check takes twice the limit I and 5 s at most: a driver that did not answer in time is not asked again,
  and all the second attempts together are limited.
"""

from __future__ import annotations

import os
import re
from shlex import quote

from servo_agg.commands.check_report import Problem
from servo_agg.drivers.process import DriverCall
from servo_agg.output.tables import escape_unprintable, pluralize
from servo_agg.protocol.messages import to_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal

    from servo_agg.commands.query import Context
    from servo_agg.protocol.outcome import Outcome

    Object = dict[str, Any]
    CheckPhase = Literal["info", "query"]


_SECOND_ATTEMPTS = 3.0
"""Seconds that all second attempts of a check take together, without the stop of the last one."""


class DriverCheck:
    """Asks all drivers, in one phase after another.

    problems  what was wrong with their answers so far
    """

    def __init__(self, context: Context, application: str | None) -> None:
        self.problems: list[Problem] = []
        self._context = context
        self._application = application
        self._reported: set[tuple[str, str]] = set()
        # The drivers that did not answer in time.
        self._silent: set[str] = set()
        self._seconds_left = _SECOND_ATTEMPTS
        config = context.config
        self._parallel = config.parallel > 1 and not config.serial >= set(config.drivers)

    def ask(self, phase: CheckPhase, validate: Callable[[Outcome], None]) -> dict[str, Outcome]:
        """Ask all drivers, and those that fail again, each alone; return the outcomes by name."""
        context = self._context
        arguments = [f"--{phase}"] if self._application is None else [f"--{phase}", self._application]
        calls = [DriverCall(name, arguments) for name in context.config.drivers if name not in self._silent]
        if calls:
            context.warn(
                f"asking {pluralize(len(calls), 'driver')}: {' '.join(map(escape_unprintable, arguments))}"
            )
        outcomes = {outcome.name: outcome for outcome in self._run(phase, calls, validate)}
        self._silent |= {name for name, outcome in outcomes.items() if outcome.facts.failure == "timeout"}
        answering = [call for call in calls if call.name not in self._silent]
        for call in calls:
            outcome = outcomes.get(call.name)
            if outcome is None:
                what = "was not asked, because a process of another driver could not be killed"
                self._add(phase, call.name, "not asked", what, "fix the problem of that driver first")
            elif not (outcome.ok or context.loop.cause):
                outcomes[call.name] = self._ask_again(phase, call, outcome, answering, validate)
        for name, outcome in outcomes.items():
            self._add_inner_problems(name, outcome.body, "")
        return outcomes

    def _add_inner_problems(self, name: str, reply: Object, path: str) -> None:
        """Add a problem for each failing driver of an inner aggregator: its own info succeeds (SPEC 5.11)."""
        inner = reply.get("drivers")
        for driver, entry in inner.items() if isinstance(inner, dict) else ():
            if not isinstance(entry, dict):
                continue
            if entry.get("message"):
                what = f"its inner driver {path}{driver} fails: {to_text(entry['message'])}"
                remedy = "run ./adjust --check in the inner servo directory"
                self._add("info", name, "inner driver", what, remedy)
            self._add_inner_problems(name, entry, f"{path}{driver}: ")

    def _ask_again(
        self,
        phase: CheckPhase,
        call: DriverCall,
        outcome: Outcome,
        calls: list[DriverCall],
        validate: Callable[[Outcome], None],
    ) -> Outcome:
        """Ask a driver that failed again, alone; add a problem and return the outcome that counts."""
        again: list[Outcome] = []
        if len(calls) > 1 and call in calls and outcome.facts.failure != "cannot-start":
            self._context.warn(
                f"{escape_unprintable(call.name)}: {escape_unprintable(outcome.reason)};"
                " asking it again, alone"
            )
            again = self._run_again(phase, [call], validate)
        if not (again and again[0].ok):
            self._add(phase, call.name, outcome.reason, outcome.message, *_remedy(call, outcome))
            return outcome
        # If drivers disturb one another, a different one may fail the next time.
        if self._parallel and not all(beside.ok for beside in self._run_again(phase, calls, validate)):
            what = (
                f"fails when asked together with the others, but answers when asked alone: {outcome.message}"
            )
            self._add(phase, call.name, "alone only", what, _SERIAL_REMEDY)
        else:
            what = f"failed the first time it was asked, but answered the second time: {outcome.message}"
            command = _command(call)
            self._add(phase, call.name, "unsteady", what, f"run it by hand several times: {command}", command)
        return again[0]

    def _add(
        self, phase: CheckPhase, name: str, verdict: str, what: str, remedy: str, *commands: str
    ) -> None:
        # The same failure in both phases is one problem.
        reported = (name, what.replace(f"on --{phase}: ", ""))
        if reported not in self._reported:
            self._reported.add(reported)
            self.problems.append(Problem((name,), verdict, what, remedy, *commands))

    def _run(
        self,
        phase: CheckPhase,
        calls: list[DriverCall],
        validate: Callable[[Outcome], None],
        seconds: float | None = None,
    ) -> list[Outcome]:
        """Run drivers; return their outcomes. `seconds`: a limit for all of them."""
        context = self._context
        now = context.loop.now()
        options = context.phase_options(phase, now, checking=True, validate=validate)
        if seconds is not None:
            options.timeouts.end_by(now + seconds)
        return context.supervisor.run(calls, options)

    def _run_again(
        self, phase: CheckPhase, calls: list[DriverCall], validate: Callable[[Outcome], None]
    ) -> list[Outcome]:
        """Run drivers a second time; return their outcomes, none if there is no time left for that."""
        if self._seconds_left <= 0:
            return []
        began_at = self._context.loop.now()
        outcomes = self._run(phase, calls, validate, self._seconds_left)
        self._seconds_left -= self._context.loop.now() - began_at
        return outcomes


_SERIAL_REMEDY = (
    'ask the drivers one at a time: set serial: ["*"] in section agg of config.yaml, or list only the drivers'
    " that disturb one another; if this driver is only slower while others run, raise OPTUNE_IO_TIMEOUT"
    " instead"
)


def _command(call: DriverCall) -> str:
    return " ".join(quote(word) for word in (f"adjust.d/{call.name}", *call.arguments))


def _remedy(call: DriverCall, outcome: Outcome) -> tuple[str, ...]:
    """Return what to do about a failure, then the commands in it."""
    command = _command(call)
    if outcome.facts.failure == "cannot-start":
        return f"fix that, then verify with: {command}", command
    module = _MISSING_MODULE.search(outcome.facts.stderr) or _MISSING_MODULE.search(_own_message(outcome))
    if module is not None:
        return _module_remedy(f"adjust.d/{call.name}", module[1].partition(".")[0])
    hint = {
        "timeout": "; find out what it waits for, or raise OPTUNE_IO_TIMEOUT",
        "no-reply": "; it must print a JSON object on stdout",
        "malformed": "; only JSON objects may go to its stdout",
    }.get(outcome.reason, "")
    return f"run it by hand: {command}{hint}", command


_MISSING_MODULE = re.compile(r"No module named '(\w+(?:\.\w+)*)'\s*\Z")
"""The end of what a Python program says that cannot import a module."""


def _own_message(outcome: Outcome) -> str:
    """Return the message of a driver that reports an exception in its reply, as the driver library does."""
    return to_text(outcome.body.get("message"))


_PACKAGES = {
    "MySQLdb": "mysqlclient",
    "dateutil": "python-dateutil",
    "googleapiclient": "google-api-python-client",
    "yaml": "PyYAML",
}
"""The packages of the modules that have another name."""


def _module_remedy(path: str, module: str) -> tuple[str, ...]:
    """Return how to install a module that the driver at `path` lacks, then the commands in it."""
    if module == _ENCODERS:
        return (f"put the directory {_ENCODERS} into the servo directory",)
    package = _PACKAGES.get(module, module)
    interpreter = _python_of(path)
    if interpreter is None:
        return (f"install {package} for the Python interpreter that it uses",)
    command = f"{quote(interpreter)} -m pip install {package}"
    return f"install {package} for {interpreter}: {command}", command


_ENCODERS = "encoders"
"""The module that the driver library imports if a setting has an encoder."""

_MAX_FIRST_LINE = 256
"""Bytes of a `#!` line that the system reads."""


def _python_of(path: str) -> str | None:
    """Return the Python interpreter that the `#!` line of a file names; None if it names none."""
    try:
        with open(path, "rb") as file:
            line = os.fsdecode(file.readline(_MAX_FIRST_LINE))
    except OSError:
        return None
    if not line.startswith("#!"):
        return None
    words = line[2:].split()
    if words and os.path.basename(words[0]) == "env":
        words = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
    is_python = bool(words) and os.path.basename(words[0]).startswith(("python", "pypy"))
    return words[0] if is_python else None
