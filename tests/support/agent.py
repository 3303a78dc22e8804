"""A fake of the Optune agent.

Like the real one it calls `--info` before every operation, writes its input in pieces, reads output line by
line with one system call per byte, answers progress with SIGUSR1 when told to cancel, and times out after
OPTUNE_IO_TIMEOUT. Unlike the real one it starts its child in a session of its own, so that a failing test can
be cleaned up, and all of its waits have a deadline.

    agent = Agent(directory)
    operation = agent.adjust("app", request, on_progress=lambda message: "cancel")
    with agent.start_adjust("app", request) as running:
        running.wait_for_line(lambda message: message.get("progress") == 50)
        running.send_signal(signal.SIGTERM)
        operation = running.finish()
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import selectors
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, cast

from tests.support.processes import DeadlineError, environment, kill_session, wait_until
from tests.support.schemas import assert_output_matches

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Literal

    from typing_extensions import Self

    Reader = Literal["byte", "block"]
    OnProgress = Callable[[dict[str, Any]], Literal["cancel"] | None]

DEADLINE = 60.0
"""Seconds after which a test has failed. The real agent has no such limit."""

COMMAND_TIMEOUT = 30.0
"""Seconds in which the fake agent must carry out a command of the test during a run."""

LINGER = 3.0
"""Seconds from the end of both pipes to SIGKILL."""

PIECE = 4096
"""Bytes written to stdin, and read from stderr, at a time."""

BLOCK = 65536
"""Bytes read at a time by the reader "block"."""


class AgentError(Exception):
    """`--info` failed, and with it the operation that it precedes."""

    def __init__(self, why: str, argv: list[str], completed: tuple[int, bytes, bytes]) -> None:
        """Keep the exit status and all that was printed."""
        self.why = why
        self.argv = argv
        self.returncode, self.stdout, self.stderr = completed
        super().__init__(
            f"{' '.join(argv)}: {why} (exit status {self.returncode})\n"
            f"stdout: {self.stdout!r}\nstderr: {self.stderr!r}"
        )


@dataclass
class Operation:
    """What the agent knows about one run of the program; updated during the run."""

    argv: list[str]
    process: subprocess.Popen[bytes] = field(repr=False)
    words: Sequence[str] | None = field(default=None, repr=False)
    """The arguments in `argv` if the program is ours, whose output must match its schemas."""
    started: float = field(default_factory=time.monotonic, repr=False)
    last_reply: dict[str, Any] | None = None
    """The last line that was not progress, None before there is one."""
    progress: list[dict[str, Any]] = field(default_factory=list)
    lines: list[tuple[float, bytes]] = field(default_factory=list)
    """Every line of stdout, blank ones and newlines included, each with the seconds from the start."""
    seconds: float = 0.0
    """From the start to the exit and the end of both pipes, or until the agent gave up."""
    longest_silence: float = 0.0
    """The most seconds without a byte on either pipe, from the start until both were at their end."""
    signals: list[tuple[float, int]] = field(default_factory=list)
    """Signals sent by the agent, not by the test, each with the seconds from the start."""
    timed_out: bool = False
    protocol_error: str | None = None
    stderr_so_far: bytearray = field(default_factory=bytearray, repr=False)

    @property
    def reply(self) -> dict[str, Any]:
        """The last line that was not progress; there must be one."""
        assert self.last_reply is not None, self.summary()
        return self.last_reply

    @property
    def stderr(self) -> bytes:
        """All of stderr."""
        return bytes(self.stderr_so_far)

    @property
    def returncode(self) -> int | None:
        """The exit status, -n for signal n, None while the program runs."""
        return self.process.returncode

    @property
    def gave_up(self) -> bool:
        """Whether the agent stopped listening before the program had ended."""
        return self.timed_out or self.protocol_error is not None

    @property
    def ok(self) -> bool:
        """Whether the agent reports success. It looks only at `status`, not at the exit status."""
        return (
            not self.gave_up and self.last_reply is not None and self.last_reply.get("status", "ok") == "ok"
        )

    @property
    def stderr_text(self) -> str:
        """Stderr as the agent would quote it; raises UnicodeDecodeError where it would."""
        whole = self.stderr
        return "\n".join(whole[at : at + PIECE].decode("ascii") for at in range(0, len(whole), PIECE))

    def wait(self, deadline: float = DEADLINE) -> int:
        """Return the exit status, once the program has ended, which may be after the agent gave up."""
        wait_until(lambda: self.process.returncode is not None, deadline, f"exit of {self.summary()}")
        return cast("int", self.process.returncode)

    def summary(self) -> str:
        """Return what helps to understand a failed test."""
        lines = "".join(f"\n  {when:8.3f} s {line!r}" for when, line in self.lines[-20:])
        left_out = f"\n  ({len(self.lines) - 20} earlier lines)" if len(self.lines) > 20 else ""
        return (
            f"{' '.join(self.argv)}\nexit status {self.returncode}, timed out: {self.timed_out}, "
            f"protocol error: {self.protocol_error}\n"
            f"stdout:{left_out}{lines}\nstderr: {self.stderr[-2000:]!r}"
        )


@dataclass(frozen=True)
class Behavior:
    """How the agent behaves in one run."""

    stdin: bytes = b""
    has_cancel: bool = False
    io_timeout: float | None = None
    on_progress: OnProgress | None = None
    reader: Reader = "byte"


class Running:
    """A run in progress. A thread acts as the agent; the test may observe the run and intervene.

    The context manager kills the session of the program at its end, if the program still runs or the test has
    failed. Processes left by a program that ended by itself are not killed: `no_process_left` must find them.
    """

    def __init__(self, operation: Operation, behavior: Behavior) -> None:
        self.operation = operation
        self._behavior = behavior
        self._process = operation.process
        self._stdin, self._stdout, self._stderr = (
            cast("IO[bytes]", pipe)
            for pipe in (self._process.stdin, self._process.stdout, self._process.stderr)
        )
        self._unsent = memoryview(behavior.stdin)
        self._line = bytearray()
        self._last_byte_at = self._timeout_from = operation.started
        self._canceled = False
        self._disconnected = False
        self._reading = True
        self._failure: BaseException | None = None
        self._messages: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._over = False
        self._exited = threading.Event()
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._selector = selectors.DefaultSelector()
        self._wakeup_reader, self._wakeup_writer = os.pipe()
        self._waiter = threading.Thread(target=self._await_exit, daemon=True)
        self._thread = threading.Thread(target=self._communicate, daemon=True)
        self._waiter.start()
        self._thread.start()

    @property
    def pid(self) -> int:
        """The process id of the program, which is also the id of its session."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None or not self._exited.is_set():
            self.kill()
        self._thread.join(DEADLINE)

    def wait_for_line(
        self, predicate: Callable[[dict[str, Any]], bool], deadline: float = 30.0
    ) -> dict[str, Any]:
        """Return the first message, past or to come, that satisfies `predicate`."""
        end = time.monotonic() + deadline
        seen = 0
        while True:
            with self._changed:
                self._await_messages(seen, end)
                fresh, over = self._messages[seen:], self._over
            seen += len(fresh)
            for message in fresh:
                if predicate(message):
                    return message
            if over and not fresh:
                raise AssertionError(f"the program printed no such line:\n{self.operation.summary()}")
            if time.monotonic() >= end:
                raise DeadlineError(f"no such line within {deadline:g} s:\n{self.operation.summary()}")

    def send_signal(self, number: int) -> None:
        """Send the program a signal that the agent would not."""
        # Another thread may be reaping it at this moment.
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def stop_reading(self) -> None:
        """Stop reading, like an agent that waits for the answer to an HTTP request.

        The time for OPTUNE_IO_TIMEOUT does not run meanwhile. Must not be called from `on_progress`.
        """
        self._command(lambda: self._set_reading(reading=False))

    def resume_reading(self) -> None:
        """Undo `stop_reading`."""
        self._command(lambda: self._set_reading(reading=True))

    def close_stdout(self) -> None:
        """Close our end of the program's stdout; from now on the agent neither times out nor kills."""
        self._command(lambda: self._disconnect(self._stdout))

    def close_pipes(self) -> None:
        """Close our ends of all pipes, as the death of the agent does."""
        self._command(lambda: self._disconnect(self._stdin, self._stdout, self._stderr))

    def finish(self, deadline: float = DEADLINE) -> Operation:
        """Return the result, once the program has ended or the agent has given up."""
        end = time.monotonic() + deadline
        with self._changed:
            done = self._changed.wait_for(lambda: self._over, deadline)
        if done and not self.operation.gave_up:
            done = self._exited.wait(max(0.0, end - time.monotonic()))
        if self._failure is not None:
            raise self._failure
        if not done:
            raise DeadlineError(f"not over within {deadline:g} s: {self.operation.summary()}")
        operation = self.operation
        if operation.words is not None:
            assert_output_matches(
                operation.words, [line for _, line in operation.lines], operation.returncode
            )
        return operation

    def kill(self) -> None:
        """SIGKILL the program's whole session and wait for its end, if it has not ended yet."""
        self._disconnected = True
        kill_session(self.pid)
        self._exited.wait(DEADLINE)
        if self._thread is not threading.current_thread():
            # A process that left the session may hold the pipes and keep the thread waiting for their end.
            self.close_pipes()

    def _await_messages(self, seen: int, end: float) -> None:
        """Wait until there are more than `seen` messages or no more can come, at most until `end`."""
        left = max(0.0, end - time.monotonic())
        self._changed.wait_for(lambda: len(self._messages) > seen or self._over, left)

    def _await_exit(self) -> None:
        self._process.wait()
        self._done()
        self._exited.set()

    def _done(self) -> None:
        """Record the time; the last call counts, at the exit or at the end of the pipes."""
        with self._changed:
            if not self.operation.gave_up:
                self.operation.seconds = self._since_start()

    def _since_start(self) -> float:
        return time.monotonic() - self.operation.started

    def _command(self, action: Callable[[], None]) -> None:
        """Run `action` in the thread that owns the pipes, and wait until it is done."""
        done = threading.Event()

        def do() -> None:
            action()
            done.set()

        with self._changed:
            if self._over:
                return
            self._commands.put(do)
            os.write(self._wakeup_writer, b"!")
        wait_until(lambda: done.is_set() or self._over, COMMAND_TIMEOUT, "the reaction of the fake agent")

    def _communicate(self) -> None:
        """Act as the agent until the program closes its output, times out, or breaks the protocol."""
        try:
            self._open()
            while not (self._stdout.closed and self._stderr.closed):
                self._handle_events()
            self._done()
            if not (self.operation.gave_up or self._disconnected) and not self._exited.wait(LINGER):
                self._signal(signal.SIGKILL)
        except BaseException as error:  # noqa: BLE001 - `finish` raises it in the test
            self._failure = error
            kill_session(self.pid)
        finally:
            for pipe in (self._stdin, self._stdout, self._stderr):
                pipe.close()
            with self._changed:
                self._over = True
                self._selector.close()
                os.close(self._wakeup_reader)
                os.close(self._wakeup_writer)
                self._changed.notify_all()

    def _open(self) -> None:
        for pipe in (self._stdin, self._stdout, self._stderr):
            os.set_blocking(pipe.fileno(), False)
        self._selector.register(self._wakeup_reader, selectors.EVENT_READ, self._run_command)
        self._set_reading(reading=True)
        if self._unsent:
            self._selector.register(self._stdin, selectors.EVENT_WRITE, self._write)
        else:
            self._stdin.close()

    def _handle_events(self) -> None:
        """Wait for an event or for the agent's timeout."""
        left = None
        if self._behavior.io_timeout and self._reading and not self._disconnected:
            left = max(0.0, self._timeout_from + self._behavior.io_timeout - time.monotonic())
        events = self._selector.select(left)
        if not events and left is not None:
            self.operation.timed_out = True
            self._signal(signal.SIGTERM)
            self._give_up()
        for key, _ in events:
            key.data()

    def _run_command(self) -> None:
        if not self._commands.empty():
            os.read(self._wakeup_reader, 1)
            self._commands.get()()

    def _set_reading(self, *, reading: bool) -> None:
        for pipe, read in ((self._stdout, self._read_stdout), (self._stderr, self._read_stderr)):
            if pipe.closed:
                continue
            registered = pipe in self._selector.get_map()
            if reading and not registered:
                self._selector.register(pipe, selectors.EVENT_READ, read)
            elif registered and not reading:
                self._selector.unregister(pipe)
        self._reading = reading
        self._timeout_from = time.monotonic()

    def _write(self) -> None:
        if self._stdin.closed:
            return
        try:
            self._unsent = self._unsent[os.write(self._stdin.fileno(), self._unsent[:PIECE]) :]
        except BrokenPipeError:
            self.operation.protocol_error = f"stdin was closed with {len(self._unsent)} bytes unread"
            self._give_up()
            return
        if not self._unsent:
            self._drop(self._stdin)

    def _read_stdout(self) -> None:
        size = 1 if self._behavior.reader == "byte" else BLOCK
        while not self._stdout.closed and self._reading:
            data = self._read(self._stdout, size)
            if data is None:
                return
            if not data:
                self._drop(self._stdout)
                if self._line:
                    self._handle_line(bytes(self._line))
                return
            self._line += data
            if b"\n" in data:
                *whole, self._line = _split(self._line)
                for line in whole:
                    if not self.operation.gave_up:
                        self._handle_line(bytes(line))
                return

    def _read_stderr(self) -> None:
        if not self._stderr.closed:
            data = self._read(self._stderr, PIECE)
            if data:
                self.operation.stderr_so_far += data
            elif data is not None:
                self._drop(self._stderr)

    def _read(self, pipe: IO[bytes], size: int) -> bytes | None:
        """Return the bytes that are there, b"" at the end, None when there are none yet."""
        try:
            data = os.read(pipe.fileno(), size)
        except BlockingIOError:
            return None
        self._end_silence()
        return data

    def _end_silence(self) -> None:
        now = time.monotonic()
        self.operation.longest_silence = max(self.operation.longest_silence, now - self._last_byte_at)
        self._last_byte_at = self._timeout_from = now

    def _handle_line(self, line: bytes) -> None:
        self.operation.lines.append((self._since_start(), line))
        if not line.strip():
            return
        try:
            message = json.loads(line.decode())
        except ValueError as error:
            self._fail_protocol(f"not JSON: {line[:200]!r}: {error}")
            return
        if not isinstance(message, dict):
            self._fail_protocol(f"not an object: {line[:200]!r}")
            return
        if "progress" in message:
            self.operation.progress.append(message)
        else:
            self.operation.last_reply = message
        with self._changed:
            self._messages.append(message)
            self._changed.notify_all()
        if "progress" in message:
            self._report_progress(message)

    def _report_progress(self, message: dict[str, Any]) -> None:
        if self._behavior.on_progress is not None:
            answer = self._behavior.on_progress(message)
            self._timeout_from = time.monotonic()
            self._canceled = self._canceled or answer == "cancel"
        if self._canceled:
            self._signal(signal.SIGUSR1 if self._behavior.has_cancel else signal.SIGKILL)

    def _fail_protocol(self, error: str) -> None:
        self.operation.protocol_error = error
        self._signal(signal.SIGTERM)
        self._give_up()

    def _give_up(self) -> None:
        """Stop listening and close the pipes, as the real agent does."""
        self._end_silence()
        self.operation.seconds = self._since_start()
        for pipe in (self._stdin, self._stdout, self._stderr):
            self._drop(pipe)

    def _disconnect(self, *pipes: IO[bytes]) -> None:
        self._disconnected = True
        for pipe in pipes:
            self._drop(pipe)

    def _drop(self, pipe: IO[bytes]) -> None:
        if not pipe.closed:
            if pipe in self._selector.get_map():
                self._selector.unregister(pipe)
            pipe.close()

    def _signal(self, number: int) -> None:
        self.operation.signals.append((self._since_start(), number))
        self.send_signal(number)


class Agent:
    """Runs the program of one servo directory. Leaving the context kills programs that the agent gave up.

    `env` is laid over the environment that the tests give every child; None removes a variable. `io_timeout`
    in seconds is the agent's timeout and becomes OPTUNE_IO_TIMEOUT; None means no limit and leaves the
    variable to `env`. `calls_info`: whether it calls `--info` before an adjust, as the real agent does.
    Without it the agent cannot cancel. `is_ours`: whether the program is this project's, so that all JSON on
    its stdout must match the schemas of docs/schemas.
    """

    def __init__(
        self,
        directory: Path,
        command: Sequence[str] = ("./adjust",),
        *,
        env: Mapping[str, str | None] | None = None,
        io_timeout: float | None = None,
        calls_info: bool = True,
        is_ours: bool = True,
    ) -> None:
        self.directory = directory
        self.command = list(command)
        self.env = dict(env or {})
        self.io_timeout = io_timeout
        self.calls_info = calls_info
        self.is_ours = is_ours
        if io_timeout is not None:
            self.env["OPTUNE_IO_TIMEOUT"] = f"{io_timeout:g}"
        self._given_up: list[Running] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the programs, with their sessions, that were given up and still run."""
        while self._given_up:
            self._given_up.pop().kill()

    def info(self, app: str, *, deadline: float = DEADLINE) -> dict[str, Any]:
        """Call `--info`, as before every operation; all of stdout must be one object with `has_cancel`."""
        argv = [*self.command, "--info", app]
        with self._popen(argv, subprocess.DEVNULL) as process:
            try:
                stdout, stderr = process.communicate(timeout=deadline)
            except subprocess.TimeoutExpired as error:
                raise DeadlineError(f"{' '.join(argv)} took longer than {deadline:g} s") from error
            finally:
                if process.returncode is None:
                    kill_session(process.pid)
        completed = (process.returncode, stdout, stderr)
        if self.is_ours:
            assert_output_matches(
                argv[len(self.command) :], stdout.splitlines(keepends=True), process.returncode
            )
        if process.returncode != 0:
            raise AgentError("it failed", argv, completed)
        try:
            answer = json.loads(stdout.decode())
        except ValueError as error:
            raise AgentError("its output is not one JSON document", argv, completed) from error
        if not isinstance(answer, dict) or "has_cancel" not in answer:
            raise AgentError("its answer has no has_cancel", argv, completed)
        return answer

    def describe(self, app: str, *, deadline: float = DEADLINE) -> Operation:
        """Query the settings."""
        return self._finish(self.start_describe(app), deadline)

    def adjust(
        self,
        app: str,
        request: Mapping[str, Any] | bytes,
        *,
        on_progress: OnProgress | None = None,
        reader: Reader = "byte",
        deadline: float = DEADLINE,
    ) -> Operation:
        """Adjust. `request` may be bytes, for input that the real agent would not send.

        When the agent gives up this returns at once; `Operation.wait` waits for the program.
        """
        running = self.start_adjust(app, request, on_progress=on_progress, reader=reader)
        return self._finish(running, deadline)

    def start_describe(self, app: str) -> Running:
        """Start a query; the result is a context manager."""
        self.info(app)
        return self._start(["--query", app], Behavior(io_timeout=self.io_timeout))

    def start_adjust(
        self,
        app: str,
        request: Mapping[str, Any] | bytes,
        *,
        on_progress: OnProgress | None = None,
        reader: Reader = "byte",
    ) -> Running:
        """Start an adjust; the result is a context manager.

        `on_progress` is the HTTP POST that the real agent makes for each progress line: nothing is read until
        it returns, and once it has returned "cancel" each progress line is answered with a signal. Raise
        ValueError if it is given and the agent does not call `--info`, which says how to cancel.
        """
        if on_progress is not None and not self.calls_info:
            raise ValueError("on_progress needs calls_info: only --info says how to cancel")
        stdin = request if isinstance(request, bytes) else json.dumps(request).encode()
        has_cancel = self.calls_info and bool(self.info(app)["has_cancel"])
        return self._start([app], Behavior(stdin, has_cancel, self.io_timeout, on_progress, reader))

    def _start(self, arguments: list[str], behavior: Behavior) -> Running:
        argv = [*self.command, *arguments]
        words = arguments if self.is_ours else None
        started = time.monotonic()
        return Running(Operation(argv, self._popen(argv, subprocess.PIPE), words, started), behavior)

    def _popen(self, argv: list[str], stdin: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            argv,
            bufsize=0,
            cwd=self.directory,
            env=environment(self.env),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def _finish(self, running: Running, deadline: float) -> Operation:
        try:
            operation = running.finish(deadline)
        except BaseException:
            running.kill()
            raise
        if operation.gave_up:
            self._given_up.append(running)
        return operation


def _split(data: bytearray) -> list[bytearray]:
    """Split at newlines only, and keep them; the last piece is what has no newline yet."""
    *whole, rest = data.split(b"\n")
    return [*(line + b"\n" for line in whole), rest]
