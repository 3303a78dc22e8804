"""The edge: arguments, streams, signals, threads, exit status. Everything else is told what it needs.

Rules (SPEC 5, 10, 14):
- Main starts the coordinator and from then on only watches: for signals, and for the agent's end.
- The coordinator does the work and is the only one to speak; its last word is the final object.
- Every Fault becomes a final object here, and so does a mistake of our own, without a traceback.
- Where a thread cannot be started, or has ended by an error, main itself says the last word.
- We leave by os._exit: no thread that hangs in a read or write can keep us.
"""

from __future__ import annotations

from servo_agg import signals

# Until main has its handlers these wait: none of them may end us without a last word.
HEEDED = (signals.SIGTERM, signals.SIGINT, signals.SIGHUP, signals.SIGUSR1)
signals.pthread_sigmask(signals.SIG_BLOCK, HEEDED)

import gc  # noqa: E402 - the signals above must be blocked before anything that takes time
import os  # noqa: E402 - as above
import select  # noqa: E402 - as above
import sys  # noqa: E402 - as above

from servo_agg import STARTED, operations, threads  # noqa: E402 - as above
from servo_agg.arguments import USAGE, Call  # noqa: E402 - as above
from servo_agg.config import Config  # noqa: E402 - as above
from servo_agg.console import Console, printable, shortened, wants_colour, width_of  # noqa: E402 - as above
from servo_agg.errors import BadInput, Fault, WrongUsage, lack  # noqa: E402 - as above
from servo_agg.events import AGENT_GONE, Ended, Given, Woken  # noqa: E402 - as above
from servo_agg.guardian import Guardian  # noqa: E402 - as above
from servo_agg.inbox import Inbox  # noqa: E402 - as above
from servo_agg.ledger import Ledger  # noqa: E402 - as above
from servo_agg.operations import Answer, Run  # noqa: E402 - as above
from servo_agg.outlet import Outlet  # noqa: E402 - as above
from servo_agg.protocol import clip, encode  # noqa: E402 - as above
from servo_agg.supervisor import Supervisor  # noqa: E402 - as above

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from servo_agg.history import History

_HINT = (
    'adjust: waiting for settings on stdin, {"application":{"components":{COMPONENT:{"settings":{SETTING:'
    '{"value":VALUE}}}}}}, and its end (Ctrl-D); or give them by --set COMPONENT.SETTING=VALUE'
)

_FINISHED = 0
_BEREFT = 255
"""What is written where the interpreter writes the numbers of signals: by the coordinator at its end, and
by any thread that ends by an error."""

_FAREWELL = 250
"""Milliseconds that stdout has to take a last word of main."""


class Coordinator:
    """The thread that does the work of one call, and all it owns.

    status  the exit status
    astray  whether an error ended the work, which may have left drivers behind
    inbox   where it is told what happens
    """

    def __init__(
        self, call: Call, finished: int, ledger: Ledger, guardian: Guardian, lock: int | None
    ) -> None:
        """Take `finished`, a descriptor on which main is told of the end, and `lock`: see Run."""
        self.status = 1
        self.astray = False
        self.inbox = Inbox()
        self._call = call
        self._finished = finished
        self._guardian = guardian
        self._lock = lock
        self._out = Outlet(1, self._wake)
        self._err = Outlet(2, self._wake)
        self._history: History | None = None
        self._console = Console(
            self._err,
            verbose=call.verbose,
            bar=call.operation == "adjust" and os.isatty(2) and not os.isatty(1),
        )
        self._supervisor = Supervisor(
            self.inbox,
            self._out,
            ledger,
            note=self._console.note,
            show=self._console.show if call.verbose or os.isatty(2) else None,
        )

    def _wake(self) -> None:
        self.inbox.put(Woken())

    def start(self) -> None:
        """Start to work, in threads. Raises OSError or MemoryError when there cannot be as many."""
        self._out.begin()
        if self._call.reads_stdin:
            # Read first of all, whatever else is wrong: the agent does not survive a stdin closed early.
            threads.start(self._read_stdin)
        threads.start(self._run)

    def _run(self) -> None:
        """Work, say the last word, and tell main."""
        answer = self._answer()
        if not self.astray:
            self._guardian.release()
        self._console.end_bar()
        self._put(answer.final)
        self.status = answer.status
        if not self._supervisor.flush():
            self.status = operations.exit_status(self._supervisor.ended)
        if self._out.trouble:
            self._console.say(f"adjust: stdout cannot take the answer: {self._out.trouble}")
        if self._history is not None:
            self._look_back(self._history)
        self._err.drain(0.25)
        os.write(self._finished, bytes([_FINISHED]))

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
            from servo_agg.tables import timings  # noqa: PLC0415 - only for people who asked

            total = self._supervisor.now() - STARTED
            for line in timings(history.records, total, width=width_of(2)):
                self._console.say(line)

    def _answer(self) -> Answer:
        try:
            return self._work()
        except Fault as fault:
            if self._supervisor.cause is not None:
                return operations.ended(self._supervisor.cause)
            return Answer({"status": fault.status, "reason": fault.reason, "message": clip(str(fault))}, 1)
        except Exception as error:  # noqa: BLE001 - whatever it is, the agent must be told in its own way
            self.astray = True
            return Answer(_confess(error, self._console.note), 1)

    def _work(self) -> Answer:
        call, supervisor = self._call, self._supervisor
        given = None
        if call.timings:
            self._begin_history()
        if call.reads_stdin:
            if os.isatty(0):
                self._console.say(_HINT)
            given = supervisor.receive()
        if supervisor.cause is not None:
            return operations.ended(supervisor.cause)
        faults: list[Fault] | None = [] if call.operation == "check" else None
        config = Config(os.environ, faults)
        if config.log is not None:
            self._begin_history().write_to(config.log, self._console.say)
        supervisor.environment = config.environment
        supervisor.shorten = lambda text: shortened(text, config.stderr)
        run = Run(
            config,
            supervisor,
            started=STARTED,
            say=self._say,
            # Of a check the answer holds it all; what is told meanwhile is for who waits for it.
            tell=self._console.say if faults is None or os.isatty(2) else self._console.note,
            note=self._console.note,
            lock=self._lock,
        )
        if faults is not None:
            return self._check(run, faults)
        return self._story(run, given)

    def _story(self, run: Run, given: Given | None) -> Answer:
        call = self._call
        if call.operation == "version":
            return operations.version(run)
        if call.operation == "info":
            return operations.info(run, call.application)
        application = call.application or ""
        if call.operation == "query":
            return operations.query(run, application)
        if given is not None and given.fault:
            raise BadInput(given.fault)
        text = b"" if given is None else given.text
        if call.operation == "plan":
            from servo_agg.planning import plan  # noqa: PLC0415 - only for people

            return plan(run, application, text, call.choices, json=call.json, width=width_of(1))
        from servo_agg.adjusting import adjust  # noqa: PLC0415 - not on the way of a query

        return adjust(run, application, text, call.choices)

    def _check(self, run: Run, faults: list[Fault]) -> Answer:
        from servo_agg.checking import check  # noqa: PLC0415 - only for people

        call = self._call
        return check(run, call.application, faults, json=call.json, width=width_of(1), colour=wants_colour(1))

    def _begin_history(self) -> History:
        if self._history is None:
            from servo_agg.history import History  # noqa: PLC0415 - only where timings or a log are wanted

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
            while size < operations.ENDLESS and (block := os.read(0, 64 << 10)):
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


def _confess(error: BaseException, note: Callable[[str], object]) -> dict[str, str]:
    """Give the final object of a run that an error has ended; a mistake of ours is noted in full."""
    words = lack(error)
    if words is not None:
        return {"status": "failed", "reason": "bad-environment", "message": f"servo-agg cannot work: {words}"}
    import traceback  # noqa: PLC0415 - only a mistake of ours needs it

    for line in "".join(traceback.format_exception(type(error), error, error.__traceback__)).splitlines():
        note(line)
    words = "a mistake in servo-agg itself; please report it, with what `-v` shows on stderr"
    return {"status": "failed", "reason": "internal", "message": words}


def _secure_descriptors() -> None:
    """See to it that 0, 1 and 2 are open and that drivers get no other of ours.

    Without a stdout nothing is run, and we exit with status 1 (SPEC 5).
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            if descriptor == 1:
                _explain(2, "adjust: there is no stdout to answer on; nothing was run\n")
                os._exit(1)
            os.open(os.devnull, os.O_RDWR)
    try:
        inherited = [int(name) for name in os.listdir("/dev/fd")]
    except OSError:
        inherited = list(range(256))
    for descriptor in inherited:
        if descriptor > 2:  # noqa: PLR2004 - the three that are checked above
            try:
                os.set_inheritable(descriptor, False)
            except OSError:
                continue


def _heed_signals() -> tuple[int, int]:
    """Have the signals that end or cancel us written to a pipe; give its two ends.

    A SIGINT or SIGHUP that was ignored when we were started (nohup) stays ignored (SPEC 10).
    """
    noticed, notice = os.pipe()
    os.set_blocking(notice, False)
    signals.set_wakeup_fd(notice, warn_on_full_buffer=False)
    for number in HEEDED:
        if number in (signals.SIGTERM, signals.SIGUSR1) or signals.getsignal(number) != signals.SIG_IGN:
            signals.signal(number, lambda *_: None)
    signals.pthread_sigmask(signals.SIG_UNBLOCK, HEEDED)
    # Ignored, it would have the kernel reap our drivers, and their exit status would be lost.
    signals.signal(signals.SIGCHLD, signals.SIG_DFL)
    return noticed, notice


def _watch(coordinator: Coordinator, guardian: Guardian, noticed: int, bereft: list[BaseException]) -> int:
    """Tell the coordinator of signals and of the agent's end until it has finished; give its status.

    The guardian is reaped when it has gone. Raises the first error by which a thread has ended, which is
    then in `bereft`.
    """
    watched = select.poll()
    watched.register(noticed, select.POLLIN)
    # No event asked for: what is told all the same is that nobody reads any more.
    watched.register(1, 0)
    watched.register(guardian.line, 0)
    while True:
        for descriptor, _ in watched.poll():
            if descriptor == 1:
                watched.unregister(1)
                coordinator.inbox.put(Ended(AGENT_GONE))
                continue
            if descriptor == guardian.line:
                watched.unregister(guardian.line)
                guardian.reap()
                continue
            for number in os.read(noticed, 64):
                if number == _BEREFT:
                    raise bereft[0]
                if number == _FINISHED:
                    return coordinator.status
                coordinator.inbox.put(Ended(signals.name_of(number)))


def main() -> NoReturn:
    """Be the program: `./adjust`, `servo-agg`, `python -m servo_agg` (SPEC 5, 14)."""
    # Little of what we make is cyclic. Looking for what is takes a third of the time of a large reply.
    gc.set_threshold(100_000)
    _secure_descriptors()
    try:
        call = Call(sys.argv[1:])
    except WrongUsage as error:
        _explain(2, f"adjust: {error}\n\n{USAGE}")
        os._exit(2)
    if call.operation == "help":
        os._exit(0 if _explain(1, USAGE) else 1)
    guardian = None
    bereft: list[BaseException] = []
    try:
        ledger = Ledger()
        lock = _directory() if call.operation == "adjust" else None
        guardian = Guardian(ledger, [] if lock is None else [lock])
        noticed, notice = _heed_signals()

        def miss(error: BaseException) -> None:
            bereft.append(error)
            os.write(notice, bytes([_BEREFT]))

        threads.mourn(miss)
        coordinator = Coordinator(call, notice, ledger, guardian, lock)
        coordinator.start()
        status = _watch(coordinator, guardian, noticed, bereft)
        astray = coordinator.astray
    except Exception as error:  # noqa: BLE001 - whatever it is, the agent must be told in its own way
        status = _say_last(call, error)
        astray = True
    # Not released, the guardian stops the drivers that are left.
    if guardian is not None and not (astray and ledger.starts()):
        guardian.release()
        guardian.reap()
    os._exit(status)


def _say_last(call: Call, error: Exception) -> int:
    """Say the last word from here, since there is no coordinator who could; give the exit status.

    Stdin is read to its end before, unless a signal comes.
    """
    final = _confess(error, lambda line: _explain(2, f"{line}\n") if call.verbose else None)
    came: list[int] = []

    def interrupt(number: int, _: object) -> None:
        came.append(number)
        for other in HEEDED:
            signals.signal(other, signals.SIG_IGN)
        # The only way out of a read.
        raise InterruptedError

    try:
        for number in HEEDED:
            if signals.getsignal(number) != signals.SIG_IGN:
                signals.signal(number, interrupt)
        signals.pthread_sigmask(signals.SIG_UNBLOCK, HEEDED)
        size = 0
        while call.reads_stdin and size < operations.ENDLESS and (block := os.read(0, 4 << 10)):
            size += len(block)
    except (OSError, MemoryError):
        pass
    if call.for_people:
        _explain(2, f"adjust: {final['message']}\n")
    else:
        writable = select.poll()
        writable.register(1, select.POLLOUT)
        if writable.poll(_FAREWELL):
            _explain(1, encode(final).decode())
    return 128 + came[0] if came else 1


def _explain(descriptor: int, text: str) -> bool:
    """Write to a person, who may have gone; tell whether it could be written, having said why not."""
    try:
        os.write(descriptor, printable(text))
    except OSError as error:
        if descriptor == 1 and not isinstance(error, BrokenPipeError):
            _explain(2, f"adjust: stdout cannot take the answer: {os.strerror(error.errno or 0)}\n")
        return False
    return True


def _directory() -> int | None:
    """Open the servo directory for its lock, which the guardian is to hold too (SPEC 10)."""
    try:
        return os.open(".", os.O_RDONLY)
    except OSError:
        return None
