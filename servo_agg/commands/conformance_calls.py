"""Runs one driver for its test, and takes note of what it does (SPEC 14.46, 14.47)."""

from __future__ import annotations

from servo_agg.drivers.process import DriverCall
from servo_agg.drivers.timeouts import CHECK_TIMEOUT
from servo_agg.output.tables import truncate_middle
from servo_agg.protocol.messages import Progress, encode, to_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Literal

    from servo_agg.commands.query import Context
    from servo_agg.drivers.run import DriverRun, PhaseOptions
    from servo_agg.protocol.messages import Message
    from servo_agg.protocol.outcome import Outcome

    Object = dict[str, Any]
    Interruption = Literal["SIGUSR1", "SIGTERM"]

_MAX_LIMITS = 20
"""An adjust may take this many times the time for which a driver may be silent."""

DONE = 100
"""Percent at the end of an adjust."""

SHOWN = 60
"""Columns that are shown of a value."""


class Ended(Exception):
    """No further step is possible: the run is to end, or a process survives SIGKILL."""


class Adjust:
    """One adjust of the driver, as it was seen. Moments are in seconds of the event loop.

    Of its messages only what the rules need is kept: a driver may print progress without end.

    outcome      the verdict of the supervisor
    began_at, ended_at  when it was started and had ended
    pid          its process, which has ended
    signaled_at  when it was canceled or stopped, None if it had ended before
    too_long     whether it was stopped because it took too long
    output_at    when its last message arrived
    progress_count  how many progress messages it printed
    progress_at  when the first of them arrived
    first_percent  the percentage in it, None if that is not a number
    out_of_range  how the first progress that is not a number from 0 to 100 appears, "" if there is none
    backwards    how its progress went back for the first time, "" if it did not
    """

    def __init__(self, now: float) -> None:
        self.outcome: Outcome
        self.began_at = self.ended_at = self.output_at = self.progress_at = now
        self.pid = 0
        self.signaled_at: float | None = None
        self.too_long = False
        self.progress_count = 0
        self.first_percent: float | None = None
        self.out_of_range = ""
        self.backwards = ""
        self._percent = 0.0

    def add(self, message: Message, now: float) -> None:
        """Take note of a message that has just arrived."""
        self.output_at = now
        if not isinstance(message, Progress):
            return
        percent = message.percent
        if not self.progress_count:
            self.progress_at, self.first_percent = now, percent
        self.progress_count += 1
        if not self.out_of_range and (percent is None or not 0 <= percent <= DONE):
            self.out_of_range = truncate_middle(to_json(message.body["progress"]), SHOWN)
        if percent is not None:
            clamped = min(max(percent, 0), DONE)
            if clamped < self._percent and not self.backwards:
                self.backwards = f"{self._percent:g} back to {clamped:g}"
            self._percent = max(clamped, self._percent)

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended_at - self.began_at

    @property
    def says_ok(self) -> bool:
        """Whether it replied `ok`, whatever its exit status."""
        return self.outcome.facts.failure is None and self.outcome.body.get("status") == "ok"


class TestedDriver:
    """A driver that is run alone, any number of times.

    name, application  as on the command line
    limit     seconds for which it may be silent in an adjust, and in which it must answer otherwise
    outcomes  of the last run, if that ended the test
    """

    def __init__(self, context: Context, name: str, application: str) -> None:
        self.name = name
        self.application = application
        self.limit = CHECK_TIMEOUT if context.config.limit is None else context.config.limit
        self.outcomes: list[Outcome] = []
        self._context = context

    def ask(self, phase: Literal["info", "query"]) -> Outcome:
        """Call the driver with `--info` or `--query`. Raises Ended."""
        context = self._context
        options = context.phase_options(phase, context.loop.now(), checking=True)
        return self._run(DriverCall(self.name, [f"--{phase}", self.application]), options)

    def adjust(
        self,
        request: Object,
        signal: Interruption | None = None,
        after: float | None = None,
    ) -> Adjust:
        """Adjust the driver.

        With `signal` it is canceled or stopped once it has printed progress, or after `after` seconds if that
        is not None. Raises Ended.
        """
        loop = self._context.loop
        adjust = Adjust(loop.now())
        latest = adjust.began_at + _MAX_LIMITS * self.limit

        def on_messages(_: str, messages: Sequence[Message]) -> None:
            for message in messages:
                adjust.add(message, loop.now())

        def wants_stop(run: DriverRun, now: float) -> bool:
            adjust.pid = run.process.pid
            if run.exited or loop.cause:
                return False
            if now >= latest:
                adjust.too_long = True
                return True
            if signal is None or adjust.signaled_at is not None:
                return run.cancel_expired(now)
            if not (adjust.progress_count or (after is not None and now >= adjust.began_at + after)):
                return False
            adjust.signaled_at = now
            if signal == "SIGUSR1":
                run.cancel(now, is_aggregator=False)
            return signal == "SIGTERM"

        options = self._context.phase_options(
            "adjust", adjust.began_at, checking=True, on_messages=on_messages, wants_stop=wants_stop
        )
        adjust.outcome = self._run(DriverCall(self.name, [self.application], encode(request)), options)
        adjust.ended_at = loop.now()
        return adjust

    def _run(self, call: DriverCall, options: PhaseOptions) -> Outcome:
        context = self._context
        if not context.loop.poll():
            self.outcomes = context.supervisor.run([call], options)
        if context.loop.cause or not self.outcomes:
            raise Ended
        return self.outcomes.pop()
