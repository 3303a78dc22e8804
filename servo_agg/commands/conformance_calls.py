"""Runs one driver for its test, and records what it does (SPEC 14.46, 14.47)."""

from __future__ import annotations

from servo_agg.commands.conformance_judgment import ObservedAdjust
from servo_agg.drivers.process import DriverCall
from servo_agg.drivers.timeouts import CHECK_TIMEOUT
from servo_agg.protocol.messages import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Literal

    from servo_agg.commands.query import Context
    from servo_agg.drivers.run import DriverRun, PhaseOptions
    from servo_agg.protocol.messages import Message
    from servo_agg.protocol.outcome import Outcome

    Object = dict[str, Any]
    TestSignal = Literal["SIGUSR1", "SIGTERM"]

_ADJUST_TIME_FACTOR = 20
"""An adjust is stopped after this many times the limit of its silence."""


class TestEnded(Exception):
    """No further call is possible: the run must end, or a process survived SIGKILL."""


class TestedDriver:
    """A driver that is run alone, any number of times.

    name          its name in adjust.d
    application   APP
    adjust_limit  seconds for which it may be silent in an adjust
    query_limit   seconds for which it may be silent in --info and --query
    outcomes      the outcomes of the call that ended the test, else empty
    """

    def __init__(self, context: Context, name: str, application: str) -> None:
        self.name = name
        self.application = application
        self.adjust_limit = CHECK_TIMEOUT if context.config.limit is None else context.config.limit
        self.query_limit = min(self.adjust_limit, CHECK_TIMEOUT)
        self.outcomes: list[Outcome] = []
        self._context = context

    def ask(self, phase: Literal["info", "query"]) -> Outcome:
        """Call the driver with `--info` or `--query`. Raises TestEnded."""
        context = self._context
        options = context.phase_options(phase, context.loop.now(), checking=True)
        return self._run(DriverCall(self.name, [f"--{phase}", self.application]), options)

    def adjust(
        self,
        request: Object,
        signal: TestSignal | None = None,
        after: float | None = None,
    ) -> ObservedAdjust:
        """Adjust the driver with the input `request`, the object that it reads from stdin.

        With `signal` it is canceled or stopped once it has printed progress, or after `after` seconds if that
        is not None. Raises TestEnded.
        """
        loop = self._context.loop
        adjust = ObservedAdjust(loop.now())
        deadline = adjust.began_at + _ADJUST_TIME_FACTOR * self.adjust_limit

        def on_messages(_: str, messages: Sequence[Message]) -> None:
            for message in messages:
                adjust.add(message, loop.now())

        def choose_action(run: DriverRun, now: float) -> Literal["cancel", "stop"] | None:
            adjust.pid = run.process.pid
            if run.exited:
                return None
            if now >= deadline:
                adjust.took_too_long = True
                return "stop"
            if signal is None or adjust.signaled_at is not None:
                return None
            if not (adjust.progress_count or (after is not None and now >= adjust.began_at + after)):
                return None
            adjust.signaled_at = now
            return "cancel" if signal == "SIGUSR1" else "stop"

        options = self._context.phase_options(
            "adjust", adjust.began_at, checking=True, on_messages=on_messages, choose_action=choose_action
        )
        adjust.outcome = self._run(DriverCall(self.name, [self.application], encode(request)), options)
        adjust.ended_at = loop.now()
        return adjust

    def _run(self, call: DriverCall, options: PhaseOptions) -> Outcome:
        context = self._context
        if not context.loop.poll():
            self.outcomes = context.supervisor.run([call], options)
        if context.loop.cause or not self.outcomes:
            raise TestEnded
        return self.outcomes.pop()
