r"""What a case of bad input is, how it is played, and what of its outcome varies from run to run.

Texts stand for bytes: what is no UTF-8 is written as its surrogate, `\udcff` for the byte FF.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.servo import REPOSITORY, ServoDirectory, on_stderr

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.servo import Completed

REQUEST = '{"application":{"components":{"web":{"settings":{"cpu":{"value":4}}}}}}'

OK = '{"status":"ok"}'


def says(*lines: str) -> str:
    """Give the sh command that prints these lines."""
    return "printf '%s\\n' " + " ".join(shlex.quote(line) for line in lines)


INFO = says('{"version":"1.0","has_cancel":false}')
QUERY = says('{"application":{"components":{"web":{"settings":{"cpu":{"value":2}}}}}}')


def driver(*, info: str = INFO, query: str = QUERY, adjust: str = says(OK)) -> str:
    """Give the source of a driver that runs these sh commands; what it was asked is noted as `ran.PHASE`."""
    return (
        "#!/bin/sh\ncase $1 in\n"
        f"--info) : >ran.info\n{info} ;;\n"
        f"--query) : >ran.query\n{query} ;;\n"
        f"*) : >ran.adjust\n{adjust} ;;\nesac\n"
    )


@dataclass(frozen=True)
class Case:
    """What is put in, and what a person gets."""

    section: str
    title: str

    # What is put in.
    driver: str | None = driver()
    """Source of the driver `driver`, which has the setting web.cpu unless told otherwise."""
    others: Mapping[str, str] = field(default_factory=dict)
    """Sources of further drivers by name."""
    words: Sequence[str] = ("app",)
    stdin: str = REQUEST
    env: Mapping[str, str] = field(default_factory=dict)
    config: str | None = None
    """What stands in config.yaml."""
    before: str = ""
    """What the shell does in the servo directory before it becomes ./adjust."""
    onto: str = ""
    """Redirections of the shell."""

    # What comes of it.
    code: int = 1
    status: str = "failed"
    reason: str = ""
    message: str = ""
    """Of the final object; for --info a line `NAME: MESSAGE` for each driver that did not tell."""
    final: str | None = None
    """The whole stdout where it is no failure; only the last line of it where there is `progress`."""
    progress: Sequence[str] | None = None
    """The lines that come between `driver: starting` and the last one, where they are what matters."""
    stderr: str = ""

    def __str__(self) -> str:
        return f"{self.section}: {self.title}"


def play(case: Case, parent: Path) -> tuple[Completed, ServoDirectory]:
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
    """Give what a final object says to a person: see `Case.message`."""
    if "message" in final:
        return str(final["message"])
    told = {name: entry.get("message") for name, entry in final.get("drivers", {}).items()}
    return "\n".join(f"{name}: {message}" for name, message in told.items() if message is not None)


def without_what_varies(text: str, servo: ServoDirectory) -> str:
    """Put placeholders for paths, process ids, times that were measured, and the words of others."""
    # In this order: the interpreter may lie in the repository.
    for shown in (str, on_stderr):
        python = re.escape(shown(Path(sys.executable).parent)) + r"/python[\d.]*"
        text = re.sub(python, "<python>", text)
        text = text.replace(shown(servo.path), "<servo>").replace(shown(REPOSITORY), "<repository>")
    text = re.sub(r"(started as process) \d+", r"\1 <pid>", text)
    # What the parser of YAML says is another's, and changes with its version.
    text = re.sub(r"(cannot be read as YAML: ).*?( \(line \d+, column)", r"\1<words>\2", text)
    text = re.sub(r'("seconds":)[\d.e-]+', r"\1<seconds>", text)
    return re.sub(r"(silent for) [\d.]+ s", r"\1 <seconds> s", text)


def lines_of(completed: Completed) -> list[str]:
    """Give the lines of stdout, which must be ASCII and whole."""
    *lines, rest = completed.stdout.decode("ascii").split("\n")
    assert rest == "", completed
    return lines


def final_of(lines: Sequence[str]) -> dict[str, Any]:
    """Give the last line, which must be the only object that is no progress."""
    *before, last = (json.loads(line) for line in lines)
    assert all("progress" in message for message in before), lines
    assert isinstance(last, dict), lines
    assert "progress" not in last, lines
    return last
