"""Servo directories for tests, with the repository's `adjust` and drivers of tests/support/drivers.

The settings of a driver are documented at its top and in drivers/behave.sh.

servo = ServoDirectory(tmp_path)
servo.add("01ec2asg", "plain", component="web")
servo.add("02winec2", "slow", seconds=2)
completed = servo.adjust("web.cpu", "02winec2.cpu")
with servo.start("--query", "app") as program:
    program.send_signal(signal.SIGTERM)
    completed = program.finish()
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
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Protocol, TypedDict, TypeVar, cast

from tests.support.agent import Agent
from tests.support.processes import DeadlineError, environment, kill_session, wait_until
from tests.support.schemas import assert_matches, assert_output_matches

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from tests.support.agent import Reader, Running

REPOSITORY = Path(__file__).resolve().parent.parent.parent

DRIVERS = REPOSITORY / "tests" / "support" / "drivers"

DEADLINE = 60.0
"""Seconds after which a run of `./adjust` has failed the test."""


def on_stderr(text: object) -> str:
    """Return a text as stderr shows it, which is ASCII (SPEC 5.3)."""
    return str(text).encode("ascii", "backslashreplace").decode()


class Waitable(Protocol):
    """A run that may go on after the agent stopped listening, such as an `Operation`."""

    def wait(self) -> object:
        """Wait for its end."""


W = TypeVar("W", bound=Waitable)


def retry_under_load(run: Callable[[], W], is_good: Callable[[W], bool], tries: int = 4) -> W:
    """Return the first result of `run` that is good, or the last one, so that the test fails.

    For limits with half a second to spare, which a stalled machine misses. Each bad run is awaited
    to its end.
    """
    for _ in range(tries - 1):
        result = run()
        if is_good(result):
            return result
        result.wait()
    return run()


class Event(NamedTuple):
    """A line that a driver added to its log."""

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
    """The result of a finished run of `./adjust`."""

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
        """The progress lines."""
        return [message for message in self.messages if "progress" in message]

    @property
    def reply(self) -> dict[str, Any]:
        """The only line that is not progress; it must be the last one."""
        *before, last = self.messages
        assert all("progress" in message for message in before), before
        assert "progress" not in last, last
        return last


class StartOptions(TypedDict, total=False):
    """How to start `./adjust`."""

    env: Mapping[str, str | None] | None
    """Laid over the environment that the tests give every child; None removes a variable."""
    command: Sequence[str]
    """Runs in place of `./adjust`."""
    prefix: Sequence[str]
    """A program, with its arguments, that runs the command."""
    before: str
    """Shell commands that run before the command."""
    redirect: str
    """Redirections of the command, in the shell's syntax."""
    stdin: int | IO[Any]
    """In place of a pipe, likewise the next two."""
    stdout: int | IO[Any]
    stderr: int | IO[Any]
    pass_fds: Sequence[int]
    umask: int


class Program:
    """A running `./adjust`. The context kills its session at the end if it still runs."""

    def __init__(self, process: subprocess.Popen[bytes], words: Sequence[str], started: float) -> None:
        """Create one. `words`: its arguments; `started`: a moment before its start, in monotonic seconds."""
        self.process = process
        self._words = words
        self._started = started

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.process.poll() is None:
                kill_session(self.pid)
        finally:
            self.process.__exit__(kind, error, trace)

    @property
    def pid(self) -> int:
        """Its process id, which is that of its session too."""
        return self.process.pid

    @property
    def stdout(self) -> IO[bytes]:
        """Our end of its stdout."""
        return cast("IO[bytes]", self.process.stdout)

    def write(self, data: bytes) -> None:
        """Write to its stdin; raises BrokenPipeError if it closes that before it has read all."""
        stdin = cast("IO[bytes]", self.process.stdin)
        stdin.write(data)
        stdin.flush()

    def close_stdin(self) -> None:
        """Close our end of its stdin."""
        cast("IO[bytes]", self.process.stdin).close()
        self.process.stdin = None

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def finish(self, data: bytes = b"", timeout: float = DEADLINE) -> Completed:
        """Write `data`, close stdin, and return the result once it has exited and its pipes are closed.

        All JSON on stdout must match the schemas of docs/schemas.
        """
        try:
            stdout, stderr = self.process.communicate(data, timeout)
        except subprocess.TimeoutExpired as error:
            output = f"stdout: {error.stdout!r}\nstderr: {error.stderr!r}"
            raise DeadlineError(f"{self.process.args!r} took more than {timeout:g} s\n{output}") from error
        seconds = time.monotonic() - self._started
        assert_output_matches(self._words, (stdout or b"").splitlines(keepends=True), self.process.returncode)
        return Completed(self.process.returncode, stdout or b"", stderr or b"", seconds)


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
        """Write `source`, without its common indentation, as the driver `name`; no `#!` line is added."""
        path = self.drivers / name
        path.write_text(textwrap.dedent(source), encoding="utf-8")
        path.chmod(0o755)
        return path

    def configure(self, yaml_text: str) -> None:
        """Write config.yaml."""
        (self.path / "config.yaml").write_text(textwrap.dedent(yaml_text), encoding="utf-8")

    def agent(
        self,
        *,
        env: Mapping[str, str | None] | None = None,
        io_timeout: float | None = None,
        calls_info: bool = True,
    ) -> Agent:
        """Return an agent of this directory; see `Agent`."""
        return Agent(self.path, env={**self.env, **(env or {})}, io_timeout=io_timeout, calls_info=calls_info)

    def start(
        self,
        *args: str,
        input: bytes | Mapping[str, Any] | None = b"",  # noqa: A002 - the name that subprocess.run has for it
        **options: Unpack[StartOptions],
    ) -> Program:
        """Start `./adjust` with `args`, in a session of its own.

        `input`, which must fit into a pipe, is written to stdin, an object as JSON. With None stdin stays
        open for the test.
        """
        words = list(options.get("command", ("./adjust",)))
        if "before" in options or "redirect" in options:
            script = (
                f'{options.get("before", "")}\nexec {shlex.join(words)} "$@" {options.get("redirect", "")}'
            )
            words = ["/bin/sh", "-c", script, "sh"]
        started = time.monotonic()
        program = Program(
            subprocess.Popen(
                [*options.get("prefix", ()), *words, *args],
                cwd=self.path,
                env=environment(self.env, options.get("env") or {}),
                stdin=options.get("stdin", subprocess.PIPE),
                stdout=options.get("stdout", subprocess.PIPE),
                stderr=options.get("stderr", subprocess.PIPE),
                pass_fds=options.get("pass_fds", ()),
                umask=options.get("umask", -1),
                start_new_session=True,
            ),
            args,
            started,
        )
        if input is not None and program.process.stdin is not None:
            program.write(_encoded(input))
            program.close_stdin()
        return program

    def run(
        self,
        *args: str,
        input: bytes | Mapping[str, Any] = b"",  # noqa: A002 - as above
        timeout: float = DEADLINE,
        **options: Unpack[StartOptions],
    ) -> Completed:
        """Run `./adjust` with `args` until it has exited and its pipes are closed."""
        with self.start(*args, input=None, **options) as program:
            return program.finish(_encoded(input), timeout)

    def adjust(self, *settings: str, **options: Unpack[StartOptions]) -> Completed:
        """Run an adjust that sets each `COMPONENT.SETTING` to 4."""
        return self.run("app", input=self.request(*settings), **options)

    def start_adjust(
        self,
        *settings: str,
        env: Mapping[str, str | None] | None = None,
        io_timeout: float | None = None,
        reader: Reader = "byte",
    ) -> Running:
        """Start an adjust like `adjust`, without an `--info` before it. To cancel it, send SIGUSR1."""
        agent = self.agent(env=env, io_timeout=io_timeout, calls_info=False)
        return agent.start_adjust("app", self.request(*settings), reader=reader)

    def log(self, *, phase: str | None = None) -> list[Event]:
        """Return what the sh drivers have logged, in order."""
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
        """Return what the `echo` driver `name` was given in `phase`; its input must match its schema."""
        text = (self.path / "echo.d" / f"{name}.{phase}.json").read_text(encoding="utf-8")
        found: dict[str, Any] = json.loads(text)
        if phase == "adjust":
            assert_matches("adjust-input", json.loads(found["stdin"]))
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
    """Return the complete lines of a file that may not exist yet and may grow."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return text.split("\n")[:-1]


def _encoded(content: bytes | Mapping[str, Any]) -> bytes:
    return content if isinstance(content, bytes) else json.dumps(content).encode()


def _shell(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
