"""The coordinator: the thread that does the work of one call, and is the only one to speak.

Rules (SPEC 5, 14):
- Its last word is the final object; for people a text, or a sentence on stderr.
- Every Fault becomes a final object here, and so does a mistake of our own, without a traceback.
- What a query has no use for is imported where it is wanted.
"""

from __future__ import annotations

import os
import select
import sys
import time

from servo_agg import STARTED, operations, threads
from servo_agg.config import Config
from servo_agg.console import Console, printable, shortened, wants_colour, width_of
from servo_agg.errors import BadInput, Fault, lack
from servo_agg.events import Given, Woken
from servo_agg.inbox import Inbox
from servo_agg.listener import Listener
from servo_agg.operations import Answer, Run
from servo_agg.outlet import Outlet
from servo_agg.protocol import clip, encode
from servo_agg.supervisor import Supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from servo_agg.arguments import Call
    from servo_agg.guardian import Guardian
    from servo_agg.history import History
    from servo_agg.ledger import Ledger

_HINT = (
    'adjust: waiting for settings on stdin, {"application":{"components":{COMPONENT:{"settings":{SETTING:'
    '{"value":VALUE}}}}}}, and its end (Ctrl-D); or give them by --set COMPONENT.SETTING=VALUE'
)


class Coordinator:
    """The thread that does the work of one call, and all it owns.

    status     the exit status
    astray     whether an error ended the work, which may have left drivers behind
    last_word  to be acquired, without waiting, by whoever means to say the last word
    inbox      where it is told what happens
    """

    def __init__(
        self,
        call: Call,
        ledger: Ledger,
        guardian: Guardian,
        locks: list[int],
        finish: Callable[[], object],
    ) -> None:
        """Take what to do; `locks`: see Run; `finish` is called when all is done and said."""
        self.status = 1
        self.astray = False
        self.last_word = threads.Lock()
        self.inbox = Inbox()
        self._call = call
        self._finish = finish
        self._guardian = guardian
        self._locks = locks
        self._out = Outlet(1, self._wake)
        self._err = Outlet(2, self._wake)
        self._history: History | None = None
        self._console = Console(
            self._err,
            verbose=call.verbose,
            bar=call.operation == "adjust" and os.isatty(2) and not os.isatty(1),
        )
        self._listener = Listener(self.inbox, self._out)
        self._supervisor = Supervisor(
            self.inbox,
            self._listener,
            ledger,
            note=self._console.note,
            show=self._console.show if call.verbose or os.isatty(2) else None,
        )

    def _wake(self) -> None:
        self.inbox.put(Woken())

    def warn_unguarded(self) -> None:
        """Warn that the guardian has ended before us."""
        self._console.say(
            "warning: the guardian process has ended: if servo-agg is killed now, the drivers go on"
        )

    def start(self) -> None:
        """Start to work, in threads. Raises OSError or MemoryError when there cannot be as many."""
        self._out.begin()
        if self._call.reads_stdin:
            # Read first of all, whatever else is wrong: the agent does not survive a stdin closed early.
            threads.start(self._read_stdin)
        threads.start(self._run, threads.DEEP_STACK)

    def _run(self) -> None:
        """Work, say the last word, and tell main."""
        answer = self._answer()
        if not self.last_word.acquire(blocking=False):
            return
        if not self.astray:
            self._guardian.release()
        self._console.end_bar()
        self._put(answer.final)
        self.status = answer.status
        if not self._listener.flush():
            self.status = operations.exit_status(self._listener.ended)
        if self._out.trouble:
            self._console.say(f"adjust: stdout cannot take the answer: {self._out.trouble}")
        if self._history is not None:
            self._look_back(self._history)
        self._err.drain(0.25)
        self._finish()

    def _put(self, final: dict[str, Any] | str) -> None:
        if isinstance(final, str):
            # Text for people has had its control characters spelled out, and may show any letter.
            people = self._call.for_people
            text = final.encode(sys.stdout.encoding, "backslashreplace") if people else printable(final)
            self._out.put(text + b"\n")
        elif self._call.for_people:
            self._console.say(f"adjust: {final['message']}")
        else:
            self._out.put(encode(final))

    def _look_back(self, history: History) -> None:
        history.close(self._console.say)
        if self._call.timings:
            from servo_agg.tables import timings

            total = time.monotonic() - STARTED
            for line in timings(history.records, total, width=width_of(2)):
                self._console.say(line)

    def _answer(self) -> Answer:
        try:
            return self._work()
        except Fault as fault:
            if self._listener.cause is not None:
                return operations.ended(self._listener.cause)
            return Answer({"status": fault.status, "reason": fault.reason, "message": clip(str(fault))}, 1)
        except Exception as error:  # noqa: BLE001 - whatever it is, the agent must be told in its own way
            self.astray = True
            return Answer(confess(error, self._console.note), 1)

    def _work(self) -> Answer:
        call, supervisor, listener = self._call, self._supervisor, self._listener
        given = None
        if call.timings:
            self._begin_history()
        if call.reads_stdin:
            if os.isatty(0):
                self._console.say(_HINT)
            given = listener.receive()
        if listener.cause is not None:
            return operations.ended(listener.cause)
        faults: list[Fault] | None = [] if call.operation == "check" else None
        config = Config(os.environ, faults)
        if config.log is not None:
            self._begin_history().write_to(config.log)
        supervisor.environment = config.environment
        supervisor.shorten = lambda text: shortened(text, config.stderr)
        run = Run(
            config,
            supervisor,
            listener,
            started=STARTED,
            say=self._say,
            # Of a check the answer holds it all; what is told meanwhile is for who waits for it.
            tell=self._console.say if faults is None or os.isatty(2) else self._console.note,
            note=self._console.note,
            locks=self._locks,
            guarded=self._guardian.lives,
        )
        if faults is not None:
            return self._check(run, faults)
        return self._story(run, given)

    def _story(self, run: Run, given: Given | None) -> Answer:
        call = self._call
        if call.operation == "version":
            return operations.version(run, call.application)
        if call.operation == "info":
            return operations.info(run, call.application)
        application = call.application or ""
        if call.operation == "query":
            return operations.query(run, application)
        if given is not None and given.fault:
            raise BadInput(given.fault)
        text = b"" if given is None else given.text
        if call.operation == "plan":
            from servo_agg.planning import plan

            return plan(run, application, text, call.choices, json=call.json, width=width_of(1))
        from servo_agg.adjusting import adjust

        return adjust(run, application, text, call.choices)

    def _check(self, run: Run, faults: list[Fault]) -> Answer:
        from servo_agg.checking import check

        call = self._call
        return check(run, call.application, faults, json=call.json, width=width_of(1), colour=wants_colour(1))

    def _begin_history(self) -> History:
        if self._call.timings:
            # What shows them at the end must not be missing then.
            import servo_agg.tables  # noqa: F401
        if self._history is None:
            from servo_agg.history import History

            self._history = History(self._call.application, STARTED)
            self._supervisor.remember = self._history.remember
        return self._history

    def _say(self, *contents: dict[str, Any]) -> None:
        if contents:
            self._out.put(b"".join(map(encode, contents)))
            self._console.progress(contents[-1]["progress"], contents[-1]["message"])

    def _read_stdin(self) -> None:
        blocks: list[bytes] = []
        size = 0
        fault = ""
        try:
            while size < operations.ENDLESS and (block := read_stdin(64 << 10)):
                size += len(block)
                # What is too much is read all the same, and not kept.
                if size <= operations.INPUT_LIMIT:
                    blocks.append(block)
                else:
                    blocks.clear()
                    fault = "the input is longer than 16 MiB"
        except OSError as error:
            fault = f"stdin cannot be read: {os.strerror(error.errno or 0)}"
        self.inbox.put(Given(b"".join(blocks), fault))


def read_stdin(size: int) -> bytes:
    """Wait for a block of stdin; empty at its end. Raises OSError when it cannot be read."""
    while True:
        try:
            return os.read(0, size)
        except BlockingIOError:
            # Whoever started us made it non-blocking, for all who share it.
            readable = select.poll()
            readable.register(0, select.POLLIN)
            readable.poll()


def confess(error: BaseException, note: Callable[[str], object]) -> dict[str, str]:
    """Give the final object of a run that an error has ended; a mistake of ours is noted in full."""
    words = lack(error)
    if words is None and _is_changed(error):
        words = (
            "its files, or those of Python, were changed or removed while it ran, as by an upgrade;"
            " see that the installation is whole, and run it again"
        )
    if words is not None:
        return {"status": "failed", "reason": "bad-environment", "message": f"servo-agg cannot work: {words}"}
    for line in _trace(error):
        note(line)
    words = "a mistake in servo-agg itself; please report it, with what `-v` shows on stderr"
    return {"status": "failed", "reason": "internal", "message": words}


def _is_changed(error: BaseException) -> bool:
    """Tell whether an error may come of an installation that is no more what it was when we began."""
    ours = os.path.dirname(os.path.abspath(__file__))
    read = error.filename if isinstance(error, OSError) else None
    if isinstance(error, ImportError) or (isinstance(read, str) and read.startswith(ours)):
        return True
    # Newer files than we are: what was loaded before and after the change does not fit together.
    began_at = time.time() - (time.monotonic() - STARTED)
    try:
        place = os.stat(ours)
        # One that was renamed into its place is newer itself, unlike one into which a cache was written.
        renamed = place.st_ctime > began_at and place.st_ctime != place.st_mtime
        with os.scandir(ours) as files:
            return renamed or any(
                file.name.endswith(".py") and file.stat().st_ctime > began_at for file in files
            )
    except OSError:
        return True


def _trace(error: BaseException) -> list[str]:
    try:
        import traceback
    except ImportError:
        return [repr(error)]
    return "".join(traceback.format_exception(type(error), error, error.__traceback__)).splitlines()
