r"""A case of bad input, how to run it, and what of its result varies from run to run.

Texts stand for bytes: a byte that is not UTF-8 is written as its surrogate, `\udcff` for FF.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from servo_agg.argument_parser import USAGE
from tests.support.servo import REPOSITORY, ServoDirectory, on_stderr

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.support.servo import Completed

REQUEST = '{"application":{"components":{"web":{"settings":{"cpu":{"value":4}}}}}}'

OK = '{"status":"ok"}'


def says(*lines: str) -> str:
    """Return the sh command that prints these lines."""
    return "printf '%s\\n' " + " ".join(shlex.quote(line) for line in lines)


INFO = says('{"version":"1.0","has_cancel":false}')
QUERY = says('{"application":{"components":{"web":{"settings":{"cpu":{"value":2}}}}}}')


def driver(*, info: str = INFO, query: str = QUERY, adjust: str = says(OK)) -> str:
    """Return the source of a driver that runs these sh commands, and creates the file `ran.PHASE`."""
    return (
        "#!/bin/sh\ncase $1 in\n"
        f"--info) : >ran.info\n{info} ;;\n"
        f"--query) : >ran.query\n{query} ;;\n"
        f"*) : >ran.adjust\n{adjust} ;;\nesac\n"
    )


@dataclass(frozen=True)
class Case:
    """One case: the input, and the expected output."""

    title: str

    # The input.
    driver: str | None = driver()
    """Source of the driver `driver`, which has the setting web.cpu by default."""
    others: Mapping[str, str] = field(default_factory=dict)
    """Sources of further drivers by name."""
    words: Sequence[str] = ("app",)
    stdin: str = REQUEST
    env: Mapping[str, str] = field(default_factory=dict)
    config: str | None = None
    """Content of config.yaml."""
    before: str = ""
    """Shell commands that run in the servo directory before ./adjust."""
    onto: str = ""
    """Redirections of the shell."""

    # The output.
    code: int = 1
    status: str = "failed"
    reason: str = ""
    message: str = ""
    """Of the final object; for --info a line `NAME: MESSAGE` for each driver that failed."""
    final: str | None = None
    """The whole stdout where it is not a failure; only the last line of it where there is `progress`."""
    progress: Sequence[str] | None = None
    """The lines between `driver: starting` and the last one, where they matter."""
    stderr: str = ""

    chapter: str = ""
    """The chapters of SPEC that it tests."""

    def __str__(self) -> str:
        return f"{self.chapter}: {self.title}"


def chapter(name: str, *cases: Case) -> tuple[Case, ...]:
    """Return the cases, assigned to a chapter of SPEC."""
    return tuple(replace(case, chapter=name) for case in cases)


def failure(title: str, reason: str, message: str, **more: Any) -> Case:
    """Return the case of a run that fails with this reason and message."""
    return Case(title, reason=reason, message=message, **more)


def on_adjust(title: str, script: str, reason: str, message: str, **more: Any) -> Case:
    """Return the case of a driver that runs `script` on an adjust, and fails with this message."""
    return failure(title, reason, f"driver: failed: {message}", **{"driver": driver(adjust=script), **more})


def on_query(title: str, script: str, reason: str, message: str, **more: Any) -> Case:
    """Return the case of a driver that runs `script` on a query, and fails with this message."""
    return failure(
        title,
        reason,
        f"driver: failed: {message}",
        driver=driver(query=script),
        words=("--query", "app"),
        **more,
    )


def on_info(title: str, script: str, message: str, **more: Any) -> Case:
    """Return the case of a driver that runs `script` on an info, and is explained by this message."""
    return Case(
        title,
        driver=driver(info=script),
        words=("--info", "app"),
        code=0,
        message=f"driver: {message}",
        **more,
    )


def cannot_start(title: str, source: str, message: str, **more: Any) -> Case:
    """Return the case of a driver with this source, which cannot be started for a query."""
    message = f"driver: failed: on --query: cannot be started: {message}"
    return failure(title, "cannot-start", message, driver=source, words=("--query", "app"), **more)


def usage(title: str, message: str, *words: str) -> Case:
    """Return the case of a command line that is refused with this message."""
    return Case(title, words=words, code=2, final="", stderr=f"{USAGE}adjust: {message}\n")


def run_case(case: Case, parent: Path) -> tuple[Completed, ServoDirectory]:
    """Run the real `./adjust` in a servo directory of its own below `parent`."""
    servo = ServoDirectory(parent)
    sources = {**({} if case.driver is None else {"driver": case.driver}), **case.others}
    for name, source in sources.items():
        path = servo.drivers / name
        path.write_bytes(_bytes(source))
        path.chmod(0o755)
    if case.config is not None:
        (servo.path / "config.yaml").write_bytes(_bytes(case.config))
    shell = ["/bin/sh", "-c", f'{case.before}\nexec ./adjust "$@" {case.onto}', "sh"]
    return servo.run(*case.words, input=_bytes(case.stdin), env=case.env, command=shell), servo


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def message_of(final: Mapping[str, Any]) -> str:
    """Return the message of a final object: see `Case.message`."""
    if "message" in final:
        return str(final["message"])
    messages = {name: entry.get("message") for name, entry in final.get("drivers", {}).items()}
    return "\n".join(f"{name}: {message}" for name, message in messages.items() if message is not None)


def normalized(text: str, servo: ServoDirectory) -> str:
    """Return the text with placeholders for paths, process ids and measured times."""
    # In this order: the interpreter may lie in the repository.
    for shown in (str, on_stderr):
        python = re.escape(shown(Path(sys.executable).parent)) + r"/python[\d.]*"
        # A path with spaces is quoted.
        text = re.sub(f"'{python}'|{python}", "<python>", text)
        text = text.replace(shown(servo.path), "<servo>").replace(shown(REPOSITORY), "<repository>")
    text = re.sub(r"(?m)^\[\d+\.\d{3}\] ", "[s] ", text)
    text = re.sub(r"(started as process) \d+", r"\1 <pid>", text)
    text = re.sub(r'("seconds":)[\d.e-]+', r"\1<seconds>", text)
    return re.sub(r"(silent for|finished its adjust after) [\d.]+ s", r"\1 <seconds> s", text)


def lines_of(completed: Completed) -> list[str]:
    """Return the lines of stdout, which must be ASCII and whole."""
    *lines, rest = completed.stdout.decode("ascii").split("\n")
    assert rest == "", completed
    return lines


def final_of(lines: Sequence[str]) -> dict[str, Any]:
    """Return the last line, which must be the only object that is not progress."""
    *before, last = (json.loads(line) for line in lines)
    assert all("progress" in message for message in before), lines
    assert isinstance(last, dict), lines
    assert "progress" not in last, lines
    return last
