"""Servo directories for tests: the repository's `adjust`, and drivers of tests/drivers under any name.

What can be set of a driver stands at the top of it and of drivers/behave.sh.

servo = ServoDirectory(tmp_path)
servo.add("01ec2asg", "plain", component="web")
servo.add("02winec2", "slow", seconds=2)
operation = servo.agent(io_timeout=5).adjust("app", servo.request("web.cpu", "02winec2.cpu"))
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from tests.agent import Agent
from tests.processes import DeadlineError, environment, kill_session, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

REPOSITORY = Path(__file__).resolve().parent.parent

DRIVERS = REPOSITORY / "tests" / "drivers"


def on_stderr(text: object) -> str:
    """Return a text as stderr shows it, which is ASCII (SPEC 5)."""
    return str(text).encode("ascii", "backslashreplace").decode()


class Played(Protocol):
    """What comes of a run that may outlive the agent's patience, as an `Operation` does."""

    def wait(self) -> object:
        """Wait for its end."""


P = TypeVar("P", bound=Played)


def in_a_calm_moment(play: Callable[[], P], well: Callable[[P], bool], tries: int = 4) -> P:
    """Return the first result of `play` that is `well`, or the last one; the test judges it.

    A promise that has half a second to spare is one of a machine that does not stand still. The end of each
    run that will not do is waited for.
    """
    for _ in range(tries - 1):
        played = play()
        if well(played):
            return played
        played.wait()
    return play()


class Event(NamedTuple):
    """Something in the life of a driver."""

    what: str
    """start, end, or a signal's name; a driver that was killed has no end."""
    phase: str
    """info, query or adjust."""
    seconds: float
    """Since the boot, to 0.01."""
    pid: int
    name: str


@dataclass(frozen=True)
class Completed:
    """What a finished run of `adjust` has given."""

    returncode: int
    stdout: bytes
    stderr: bytes
    seconds: float

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Every line of stdout, decoded."""
        return [json.loads(line) for line in self.stdout.decode("ascii").splitlines()]

    @property
    def progress(self) -> list[dict[str, Any]]:
        """The lines that are progress."""
        return [message for message in self.messages if "progress" in message]

    @property
    def reply(self) -> dict[str, Any]:
        """The only line that is no progress; it has to be the last one."""
        *before, last = self.messages
        assert all("progress" in message for message in before), before
        assert "progress" not in last, last
        return last


class ServoDirectory:
    """A servo directory below `parent`."""

    def __init__(self, parent: Path, name: str = "servo") -> None:
        self.path = parent / name
        self.drivers = self.path / "adjust.d"
        self.drivers.mkdir(parents=True)
        (self.path / "settings.d").mkdir()
        (self.path / "echo.d").mkdir()
        (self.path / "adjust").symlink_to(REPOSITORY / "adjust")
        shutil.copy(DRIVERS / "behave.sh", self.path)
        self._log = self.path / "driver.log"
        self._pids = self.path / "driver.pids"
        self.env: dict[str, str | None] = {"DRIVER_LOG": str(self._log), "DRIVER_PIDS": str(self._pids)}
        """Laid over the environment of every run."""

    def add(self, name: str, kind: str, **settings: object) -> Path:
        """Put a copy of the driver `kind` there as `name`; `seconds=2` sets its DRIVER_SECONDS to 2."""
        if settings:
            words = {f"DRIVER_{key.upper()}": shlex.quote(_shell(value)) for key, value in settings.items()}
            text = "".join(f"{key}={word}\n" for key, word in words.items())
            (self.path / "settings.d" / name).write_text(text, encoding="utf-8")
        return Path(shutil.copy(DRIVERS / kind, self.drivers / name))

    def add_script(self, name: str, source: str) -> Path:
        """Make a driver `name` of `source`, whose common indentation is taken off; no `#!` line is added."""
        path = self.drivers / name
        path.write_text(textwrap.dedent(source), encoding="utf-8")
        path.chmod(0o755)
        return path

    def configure(self, yaml_text: str) -> None:
        """Write config.yaml."""
        (self.path / "config.yaml").write_text(textwrap.dedent(yaml_text), encoding="utf-8")

    def agent(self, *, env: Mapping[str, str | None] | None = None, io_timeout: float | None = None) -> Agent:
        """Return an agent of this directory."""
        return Agent(self.path, env={**self.env, **(env or {})}, io_timeout=io_timeout)

    def run(
        self,
        *args: str,
        input: bytes = b"",  # noqa: A002 - the name that subprocess.run has for it
        env: Mapping[str, str | None] | None = None,
        timeout: float = 60.0,
        command: Sequence[str] = ("./adjust",),
    ) -> Completed:
        """Run `command` with `args` to its end, which is when it has exited and its pipes are closed."""
        started = time.monotonic()
        with subprocess.Popen(
            [*command, *args],
            cwd=self.path,
            env=environment(self.env, env or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            try:
                stdout, stderr = process.communicate(input, timeout)
            except subprocess.TimeoutExpired as error:
                said = f"stdout: {error.stdout!r}\nstderr: {error.stderr!r}"
                raise DeadlineError(f"adjust {args} took more than {timeout:g} s\n{said}") from error
            finally:
                # The exit of the `with` waits for it.
                if process.returncode is None:
                    kill_session(process.pid)
        return Completed(process.returncode, stdout, stderr, time.monotonic() - started)

    def log(self, *, phase: str | None = None) -> list[Event]:
        """Return what the sh drivers have noted of their lives, as it came."""
        events = []
        for line in _lines(self._log):
            what, in_phase, seconds, pid, name = line.split(" ", 4)
            if phase in {None, in_phase}:
                events.append(Event(what, in_phase, float(seconds), int(pid), name))
        return events

    def pids(self, name: str, *roles: str, deadline: float = 30.0) -> dict[str, int]:
        """Return the processes that driver `name` has recorded by role, once all `roles` are among them.

        The last of each role counts; recorded are leader, child, grandchild and service.
        """

        def recorded() -> dict[str, int]:
            words = (line.split(" ", 2) for line in _lines(self._pids))
            return {role: int(pid) for role, pid, owner in words if owner == name}

        wait_until(lambda: set(roles) <= set(recorded()), deadline, f"{', '.join(roles)} of {name}")
        return recorded()

    def echoed(self, name: str, phase: str) -> dict[str, Any]:
        """Return what the `echo` driver `name` was given in `phase`."""
        text = (self.path / "echo.d" / f"{name}.{phase}.json").read_text(encoding="utf-8")
        found: dict[str, Any] = json.loads(text)
        return found

    @staticmethod
    def request(*settings: str, value: object = 4) -> dict[str, Any]:
        """Return the input of an adjust that sets each `COMPONENT.SETTING` to `value`."""
        components: dict[str, Any] = {}
        for setting in settings:
            component, _, key = setting.rpartition(".")
            components.setdefault(component, {"settings": {}})["settings"][key] = {"value": value}
        return {"application": {"components": components}}


def _lines(path: Path) -> list[str]:
    """Return the whole lines of a file that may not be there yet and may grow."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return text.split("\n")[:-1]


def _shell(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
