"""The coordinator: the thread that runs one command and decides what is written to stdout.

Rules (SPEC 5, 14):
- The last line is the final object. For people it is a text, or a sentence on stderr.
- Every UserError becomes a final object here, and so does an error of our own, without a traceback.
- Modules that a query does not need are imported where they are used.
"""

from __future__ import annotations

import os
import select
import sys
import time

from servo_agg import STARTED, threads
from servo_agg.commands import query
from servo_agg.commands.query import (
    Context,
    Result,
    exit_status,
    stopped_result,
    warn_about_drivers,
)
from servo_agg.config import environment_timeout, read_config
from servo_agg.drivers.events import AGENT_GONE, EventLoop, StdinRead, Wakeup
from servo_agg.drivers.supervisor import Supervisor
from servo_agg.drivers.timeouts import driver_timeout
from servo_agg.errors import BadConfiguration, BadInput, MissingAdjustD, UserError, resource_error
from servo_agg.output.console import (
    Console,
    encode_printable,
    is_utf8_terminal,
    shorten_stderr,
    supports_color,
    terminal_width,
)
from servo_agg.output.writer import Writer
from servo_agg.protocol.messages import encode, to_json, truncate
from servo_agg.protocol.settings import values_by_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from servo_agg.arguments import Arguments
    from servo_agg.config import Config
    from servo_agg.drivers.events import EventQueue
    from servo_agg.drivers.watchdog import SpawnTable, Watchdog
    from servo_agg.output.run_log import RunLog

INPUT_LIMIT = 16 << 20
"""Bytes of the longest input of an adjust (SPEC 7.1)."""

STDIN_LIMIT = 1 << 30
"""Bytes after which stdin counts as endless and is not read any further (SPEC 5.16)."""

_HINT = (
    'adjust: waiting for settings on stdin: {"application":{"components":{COMPONENT:{"settings":{SETTING:'
    '{"value":VALUE}}}}}}; press Ctrl-D to end the input, or use --set COMPONENT.SETTING=VALUE instead'
)


class Coordinator:
    """The thread that runs one command, and what belongs to it.

    status           the exit status
    crashed          whether an error of our own ended the command, which may have left drivers running
    final_line_lock  a thread must acquire it, without waiting, before it writes the final line
    queue            the events that the thread waits for
    """

    def __init__(
        self,
        arguments: Arguments,
        queue: EventQueue,
        spawn_table: SpawnTable,
        watchdog: Watchdog,
        locks: list[int],
        finish: Callable[[], object],
    ) -> None:
        """`locks`: see Context. `finish` is called when everything is done and written."""
        self.status = 1
        self.crashed = False
        self.final_line_lock = threads.Lock()
        self.queue = queue
        self._arguments = arguments
        self._finish = finish
        self._watchdog = watchdog
        self._locks = locks
        self._stdout = Writer(1, self._wake)
        # If both are the same pipe (2>&1), two writers would write into each other's lines.
        shared = os.path.samestat(os.fstat(1), os.fstat(2))
        self._stderr = self._stdout if shared else Writer(2, self._wake)
        self._run_log: RunLog | None = None
        self._context: Context | None = None
        on_terminal = os.isatty(2)
        self._console = Console(
            self._stderr,
            started=STARTED,
            verbose=arguments.verbose,
            # Where the progress lines of an adjust are on the terminal too, they show what happens.
            has_status_line=on_terminal and not (arguments.operation == "adjust" and os.isatty(1)),
        )
        # A check or test shows the stderr of a driver that fails in its result.
        shows_stderr = arguments.verbose or (
            on_terminal and arguments.operation not in ("check", "test-driver")
        )
        self._loop = EventLoop(self.queue, self._stdout)
        self._supervisor = Supervisor(
            self.queue,
            self._loop,
            spawn_table,
            debug=self._console.debug,
            show_stderr=self._console.show_stderr if shows_stderr else None,
        )
        if on_terminal:
            # Imported now: no module may be imported while a driver is being adjusted (SPEC 5.26).
            import servo_agg.output.status_line
            import servo_agg.output.tables  # noqa: F401

            self._loop.on_wait = self._show_activity

    def _wake(self) -> None:
        self.queue.put(Wakeup())

    def warn_watchdog_gone(self) -> None:
        """Warn that the watchdog has ended before us."""
        self._console.warn(
            "warning: the watchdog process has exited: if servo-agg is killed now, the drivers go on running"
        )

    def _show_activity(self) -> None:
        """Show on a terminal which drivers are waited for or being stopped (SPEC 14.35-14.37)."""
        from servo_agg.output.status_line import Activity, stopping_text, waiting_text

        now, moment = self._loop.now(), time.monotonic()
        activities = [
            Activity(run.call.name, run.facts.option, moment - run.began_at, run.seconds_until_kill(now))
            for run in self._supervisor.running
        ]
        stopping = stopping_text(activities) if self._loop.shutdown.signal is not None else ""
        self._console.show_activity(stopping or waiting_text(activities), urgent=bool(stopping))

    def start(self) -> None:
        """Start the threads. Raises OSError or MemoryError if one cannot be started."""
        self._stdout.start()
        if self._arguments.reads_stdin:
            # Before anything can fail: the agent does not survive a stdin that is closed early.
            threads.start(self._read_stdin)
        threads.start(self._run)

    def _run(self) -> None:
        """Run the command, write the final line, and notify the main thread."""
        result = self._final_result()
        if not self.final_line_lock.acquire(blocking=False):
            return
        if not self.crashed:
            self._watchdog.release()
        self._console.end_status_line()
        if os.isatty(1):
            # It must be gone from a terminal that shows both before the answer is written.
            self._stderr.drain(0.25)
        self._write_result(result)
        self.status = result.status
        written = self._loop.flush()
        if not written:
            self.status = exit_status(self._loop.shutdown.signal)
        if self._stdout.error:
            self._console.warn(f"adjust: cannot write the answer to stdout: {self._stdout.error}")
        if self._run_log is not None:
            self._finish_run_log(self._run_log, result, written=written)
        self._stderr.drain(0.25)
        self._finish()

    def _write_result(self, result: Result) -> None:
        final = result.final
        if isinstance(final, str):
            if self._arguments.for_people:
                # Its control characters are escaped already, and it may contain any letter.
                text = final.encode(sys.stdout.encoding, "backslashreplace")
            else:
                text = encode_printable(final, utf8=is_utf8_terminal(1))
            self._stdout.write(text + b"\n")
        elif self._arguments.for_people:
            self._console.warn(f"adjust: {final['message']}", *result.commands)
        else:
            self._stdout.write(encode(final))

    def _finish_run_log(self, run_log: RunLog, result: Result, *, written: bool) -> None:
        arguments = self._arguments
        requested = None if self._context is None else self._context.requested
        settings = None if requested is None else values_by_name(requested)
        summary = result.summary() if written or result.status else self._unwritten_summary()
        run_log.record_run(arguments.operation, summary, self.status, settings)
        run_log.close(self._console.warn)
        if arguments.timings:
            from servo_agg.output.tables import timing_chart, timing_object

            total, width = time.monotonic() - STARTED, terminal_width(2)
            if arguments.json:
                self._console.show(to_json(timing_object(run_log.records, total)))
                return
            for line in timing_chart(run_log.records, total, width=width, escape=self._console.escape):
                self._console.show(line)

    def _unwritten_summary(self) -> dict[str, str]:
        """Return what the log says of a success whose answer could not be written to stdout (SPEC 5.36)."""
        return {
            "status": "terminated",
            "reason": self._loop.shutdown.signal or AGENT_GONE,
            "message": f"cannot write the answer to stdout: {self._stdout.error or 'nobody reads it'}",
        }

    def _final_result(self) -> Result:
        try:
            return self._run_command()
        except UserError as error:
            if self._loop.cause is not None:
                return stopped_result(self._loop.cause)
            if isinstance(error, MissingAdjustD) and self._arguments.operation == "version":
                # Whoever asks for the version need not be in a servo directory.
                self._console.warn(f"warning: {error}", *error.commands)
                return Result(query.version_line([]), 0)
            final = {"status": error.status, "reason": error.reason, "message": truncate(str(error))}
            return Result(final, 1, commands=error.commands)
        except Exception as error:  # noqa: BLE001 - the agent needs a final object after any error
            self.crashed = True
            return Result(internal_error_result(error, self._console.debug), 1)

    def _run_command(self) -> Result:
        arguments, supervisor, loop = self._arguments, self._supervisor, self._loop
        stdin = None
        if arguments.timings:
            self._start_run_log()
        if arguments.reads_stdin:
            if os.isatty(0):
                option = arguments.meant_option
                self._console.warn(_HINT + (f"; did you mean adjust {option}?" if option else ""))
            stdin = loop.wait_for_stdin()
        if loop.cause is not None:
            return stopped_result(loop.cause)
        errors: list[UserError] | None = [] if arguments.operation == "check" else None
        config = self._read_config(errors)
        if config is None:
            return stopped_result(loop.cause or "")
        if config.log is not None:
            self._start_run_log().write_to(config.log)
        if arguments.only:
            config.select_drivers(arguments.only)
        supervisor.environment = config.environment
        supervisor.shorten_stderr = lambda text: shorten_stderr(text, config.stderr)
        self._context = context = Context(
            config,
            supervisor,
            loop,
            started=STARTED,
            send=self._send,
            # The result of a check contains all warnings. Only a terminal shows them earlier, too.
            warn=self._console.warn
            if errors is None or os.isatty(2)
            else lambda line, *_: self._console.debug(line),
            debug=self._console.debug,
            locks=self._locks,
            watchdog_alive=self._watchdog.is_alive,
        )
        warn_about_drivers(context)
        if errors is not None:
            return self._check(context, errors)
        return self._dispatch(context, stdin)

    def _read_config(self, errors: list[UserError] | None) -> Config | None:
        """Return the configuration, None if the run must end before. `errors`: see `read_config`."""
        if not os.path.lexists("config.yaml"):
            # Reading the rest blocks only where the start of `./adjust` does. A thread takes 0.2 ms.
            return read_config(os.environ, errors)
        seconds = driver_timeout(environment_timeout(os.environ))[0]
        reading = self._loop.start_work(lambda: read_config(os.environ, errors), threads.DEEP_STACK_SIZE)
        cause = self._loop.wait_for_work(reading, seconds)
        if reading.done:
            if reading.error is not None:
                raise reading.error
            config: Config = reading.result
            return config
        if cause is not None:
            return None
        raise BadConfiguration(
            f"cannot read the servo directory within {seconds:g} s; check whether the file system of"
            " config.yaml and adjust.d responds"
        )

    def _dispatch(self, context: Context, stdin: StdinRead | None) -> Result:
        arguments = self._arguments
        if arguments.operation == "version":
            return query.version(context, arguments.application)
        if arguments.operation == "info":
            return query.info(context, arguments.application)
        application = arguments.application or ""
        if arguments.operation == "query":
            return query.query(context, application)
        if arguments.operation == "test-driver":
            from servo_agg.commands.conformance import run_conformance_test

            return run_conformance_test(
                context,
                arguments.driver or "",
                application,
                read_only=arguments.read_only,
                json=arguments.json,
                width=terminal_width(1),
            )
        if stdin is not None and stdin.error:
            raise BadInput(stdin.error)
        text = b"" if stdin is None else stdin.text
        if stdin is not None and arguments.meant_option is not None and not text.strip():
            raise BadInput(f"the input is empty; did you mean adjust {arguments.meant_option}?")
        if arguments.operation == "plan":
            from servo_agg.commands.plan import plan

            return plan(
                context,
                application,
                text,
                arguments.assignments,
                json=arguments.json,
                width=terminal_width(1),
            )
        from servo_agg.commands.adjust import adjust

        return adjust(context, application, text, arguments.assignments)

    def _check(self, context: Context, errors: list[UserError]) -> Result:
        from servo_agg.commands.check import check

        arguments = self._arguments
        return check(
            context,
            arguments.application,
            errors,
            drain_log=(lambda: "") if self._run_log is None else self._run_log.drain,
            json=arguments.json,
            width=terminal_width(1),
            color=supports_color(1),
        )

    def _start_run_log(self) -> RunLog:
        if self._arguments.timings:
            # The module that prints them must not be missing at the end.
            import servo_agg.output.tables  # noqa: F401
        if self._run_log is None:
            from servo_agg.output.run_log import RunLog

            self._run_log = RunLog(self._arguments.application, STARTED)
            self._supervisor.on_phase_end = self._run_log.record
        return self._run_log

    def _send(self, *contents: dict[str, Any]) -> None:
        if contents:
            self._stdout.write(b"".join(map(encode, contents)))
            self._console.progress(contents[-1]["progress"], contents[-1]["message"])

    def _read_stdin(self) -> None:
        blocks: list[bytes] = []
        size = 0
        problem = ""
        try:
            while size < STDIN_LIMIT and (block := read_stdin(64 << 10)):
                size += len(block)
                # Input beyond the limit is read, but not kept.
                if size <= INPUT_LIMIT:
                    blocks.append(block)
                else:
                    blocks.clear()
                    problem = "the input is longer than 16 MiB; check what writes to stdin"
        except OSError as error:
            problem = f"cannot read stdin: {os.strerror(error.errno or 0)}"
        self.queue.put(StdinRead(b"".join(blocks), problem))


def read_stdin(size: int) -> bytes:
    """Return the next block of stdin, empty at its end. Raises OSError if it cannot be read."""
    while True:
        try:
            return os.read(0, size)
        except BlockingIOError:
            # The process that started us made it non-blocking for every process that shares it.
            readable = select.poll()
            readable.register(0, select.POLLIN)
            readable.poll()


def internal_error_result(error: BaseException, debug: Callable[[str], object]) -> dict[str, str]:
    """Return the final object of a run that `error` has ended; show an error of our own by `debug`."""
    cause = resource_error(error)
    if cause is None and _is_changed(error):
        cause = (
            "its files, or those of Python, were changed or removed while it ran, for example by an upgrade;"
            " check that the installation is complete, and run it again"
        )
    if cause is not None:
        return {"status": "failed", "reason": "bad-environment", "message": f"servo-agg cannot run: {cause}"}
    for line in _trace(error):
        debug(line)
    message = (
        f"internal error in servo-agg: {type(error).__name__} at {_place(error)};"
        " please report it with the output of -v"
    )
    return {"status": "failed", "reason": "internal", "message": message}


def _is_changed(error: BaseException) -> bool:
    """Return whether an error may be caused by an installation that has changed since we started."""
    ours = os.path.dirname(os.path.abspath(__file__))
    read = error.filename if isinstance(error, OSError) else None
    if isinstance(error, ImportError) or (isinstance(read, str) and read.startswith(ours)):
        return True
    # Files newer than our start: modules loaded before and after the change do not fit together.
    began_at = time.time() - (time.monotonic() - STARTED)
    try:
        installed = os.stat(ours)
        # A directory that was renamed into place has a newer ctime than mtime; one with a new cache has not.
        renamed = installed.st_ctime > began_at and installed.st_ctime != installed.st_mtime
        return renamed or any(
            name.endswith(".py") and os.stat(os.path.join(directory, name)).st_ctime > began_at
            for directory, _, names in os.walk(ours)
            for name in names
        )
    except OSError:
        return True


def _place(error: BaseException) -> str:
    """Return the last line of our own code in a traceback, as `FILE:LINE`; without one, the last line."""
    package = os.path.dirname(os.path.abspath(__file__))
    places = []
    trace = error.__traceback__
    while trace is not None:
        places.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    # Our own code may have called the standard library, where a place says less.
    ours = [place for place in places if place[0].startswith(package + os.sep)]
    file, line = (ours or places or [("an unknown file", 0)])[-1]
    return f"{file.removeprefix(os.path.dirname(package) + os.sep)}:{line}"


def _trace(error: BaseException) -> list[str]:
    try:
        import traceback
    except ImportError:
        return [repr(error)]
    return "".join(traceback.format_exception(type(error), error, error.__traceback__)).splitlines()
