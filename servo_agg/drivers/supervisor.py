"""Run these drivers, return an outcome for each.

Rules (SPEC 6, 9, 10):
- A signal that ends us stops all drivers, and no other is started. A cancel, or the end of the agent, stops a
  query. A driver that is being adjusted is canceled if it supports that; otherwise it may finish.
- A driver is serviced when something has happened to it, or its moment has come; the others cost nothing.
"""

from __future__ import annotations

from servo_agg.drivers.events import CANCEL, MAX_WAIT, Exited, Output, OutputClosed
from servo_agg.drivers.process import DriverCall, spawn_driver
from servo_agg.drivers.run import DriverRun, PhaseOptions, not_started, stop_runs
from servo_agg.drivers.timeouts import CANCEL_INFO_TIMEOUT, FAIL_FAST_GRACE, timeouts_for
from servo_agg.drivers.watchdog import CAPACITY
from servo_agg.errors import StartError
from servo_agg.processes.tree import Snapshot, kill_trees

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from servo_agg.drivers.events import EventLoop, EventQueue
    from servo_agg.drivers.run import ChooseAction
    from servo_agg.drivers.watchdog import SpawnTable
    from servo_agg.drivers.worker import ShowStderr
    from servo_agg.protocol.outcome import Outcome, Phase

_RECHECK_INTERVAL = 0.01
"""Seconds until a driver is serviced again whose deadline has passed while its output is unread."""


class _Waiting:
    """Calls that wait to be started, in order. Of the serial ones only one may run at a time."""

    def __init__(self, calls: Iterable[DriverCall], options: PhaseOptions) -> None:
        self._parallel: list[tuple[int, DriverCall]] = []
        self._serial: list[tuple[int, DriverCall]] = []
        for position, call in reversed(list(enumerate(calls))):
            (self._serial if call.name in options.serial else self._parallel).append((position, call))

    def take(self, *, serial_running: bool) -> DriverCall | None:
        """Remove and return the first call that may be started, None if there is none."""
        candidates = [self._parallel] if serial_running else [self._parallel, self._serial]
        ready = [calls for calls in candidates if calls]
        return min(ready, key=lambda calls: calls[-1][0]).pop()[1] if ready else None

    def clear(self) -> list[DriverCall]:
        """Remove and return all calls, in order."""
        left = sorted([*self._parallel, *self._serial], key=lambda entry: entry[0])
        self._parallel.clear()
        self._serial.clear()
        return [call for _, call in left]


class Supervisor:
    """Runs drivers. Only the coordinator may call it.

    unkillable      whether something survived SIGKILL: then no driver is started any more
    environment     what drivers get, without the start token; set it before the first run
    shorten_stderr  returns what is shown of a failed driver's stderr (SPEC 13.9); set it before the first run
    on_phase_end    `on_phase_end(phase, began_at, outcome)` is called at the end of each driver; `began_at`
                    is in monotonic seconds; None: nobody needs it
    """

    def __init__(
        self,
        queue: EventQueue,
        loop: EventLoop,
        spawn_table: SpawnTable,
        *,
        debug: Callable[..., None],
        show_stderr: ShowStderr | None = None,
    ) -> None:
        """`debug(text, content=None)` writes a line if `-v` was given: see Console."""
        self.unkillable = False
        self.environment: Mapping[str, str] = {}
        self.shorten_stderr: Callable[[str], str] = str
        self.on_phase_end: Callable[[Phase, float, Outcome], None] | None = None
        self._queue = queue
        self._loop = loop
        self._spawn_table = spawn_table
        self._debug = debug
        self._show_stderr = show_stderr
        self._runs: dict[int, DriverRun] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._failed = False

    @property
    def running(self) -> list[DriverRun]:
        """The drivers that run, in the order of their start."""
        return list(self._runs.values())

    def run(self, calls: Iterable[DriverCall], options: PhaseOptions) -> list[Outcome]:
        """Run drivers; return an outcome for each that was due to start, in the order of `calls`."""
        calls = list(calls)
        waiting = _Waiting(calls, options)
        stop_at: float | None = None
        self._outcomes = {}
        self._failed = False
        try:
            while True:
                if options.fail_fast and self._failed and stop_at is None:
                    stop_at = self._loop.now() + FAIL_FAST_GRACE
                if self._loop.cause or self.unkillable or stop_at is not None:
                    waiting.clear()
                self._start_waiting(waiting, options)
                if not self._runs:
                    break
                self._apply_shutdown(adjusting=options.adjusting)
                if options.choose_action is not None and self._loop.cause is None:
                    self._apply_actions(options.choose_action)
                if stop_at is not None and self._loop.now() >= stop_at:
                    self._stop(self._runs.values(), "failure")
                # After each end another driver can start: wait only if none has ended.
                if not self._service():
                    self._wait(stop_at)
        finally:
            # Only a crash of our own leaves any.
            for run in self._runs.values():
                run.kill_now()
        return [self._outcomes[call.name] for call in calls if call.name in self._outcomes]

    def _apply_actions(self, choose_action: ChooseAction) -> None:
        now = self._loop.now()
        for run in self.running:
            action = choose_action(run, now)
            if run.exited:
                continue
            if action == "cancel":
                run.cancel(now, is_aggregator=False)
            elif action == "stop" or run.cancel_expired(now):
                self._stop([run], "requested")

    def _start_waiting(self, waiting: _Waiting, options: PhaseOptions) -> None:
        until = options.timeouts.until
        if until is not None and self._loop.now() >= until:
            for call in waiting.clear():
                self._record(not_started(call, options))
        serial_running = any(run.call.name in options.serial for run in self._runs.values())
        while len(self._runs) < min(options.max_parallel, CAPACITY):
            next_call = waiting.take(serial_running=serial_running)
            if next_call is None:
                break
            started = self._start(DriverRun(next_call, options, self._loop.now()))
            serial_running |= started and next_call.name in options.serial
            if options.fail_fast and self._failed:
                break

    def _record(self, outcome: Outcome) -> None:
        self._outcomes[outcome.name] = outcome
        self._failed |= not (outcome.ok or outcome.stopped_for_other)

    def _start(self, run: DriverRun) -> bool:
        try:
            process = spawn_driver(
                run.call,
                self.environment,
                run.options.timeouts.grace,
                self._queue,
                self._spawn_table,
                self._show_stderr,
            )
        except StartError as error:
            run.start_failed(error)
            outcome = run.outcome(self.shorten_stderr)
            self._debug(f"{run.call.name}: {outcome.facts.failure_text}")
            self._report_phase(run, outcome)
            if run.info_for is None:
                self._record(outcome)
            return False
        run.started(process)
        self._runs[process.pid] = run
        self._debug(f"{run.call.name}: started as process {process.pid}: {' '.join(run.call.arguments)}")
        return True

    def _apply_shutdown(self, *, adjusting: bool) -> None:
        """Stop or cancel drivers as a signal, the end of the agent or a cancel demands (SPEC 10.45)."""
        shutdown = self._loop.shutdown
        if shutdown.signal is not None or (shutdown.canceling and not adjusting):
            self._stop(self._runs.values(), shutdown.cause)
        elif shutdown.canceling:
            for run in tuple(self._runs.values()):
                if run.info_for is not None:
                    stop = run.info_for.exited
                else:
                    stop = run.cancel_expired(self._loop.now())
                    if not run.cancel_checked:
                        run.cancel_checked = True
                        self._query_cancel_support(run)
                if stop:
                    self._stop([run], CANCEL)

    def _query_cancel_support(self, run: DriverRun) -> None:
        short_grace = run.options.timeouts.short_grace
        timeouts = timeouts_for("info", self._loop.now(), limit=CANCEL_INFO_TIMEOUT, short_grace=short_grace)
        call = DriverCall(run.call.name, ["--info", *run.call.arguments])
        self._start(DriverRun(call, PhaseOptions("info", timeouts), self._loop.now(), info_for=run))

    def _cancel(self, run: DriverRun, info: Outcome) -> None:
        """Cancel a driver if its answer to `--info` says that this is possible."""
        if run.exited:
            return
        if info.ok and info.body.get("has_cancel") is True:
            self._debug(f"{info.name}: canceling it")
            run.cancel(self._loop.now(), is_aggregator="drivers" in info.body)
        else:
            self._debug(f"{info.name}: cannot be canceled and may finish")

    def _stop(self, runs: Iterable[DriverRun], cause: str | None) -> None:
        runs = [run for run in runs if run.state == "running"]
        for run in runs:
            self._debug(f"{run.call.name}: stopping it")
        stop_runs(runs, cause, self._loop.now)

    def _service(self) -> bool:
        """Stop, advance and end the drivers that are due; return whether any run has ended."""
        now = self._loop.now()
        skip_grace = self._loop.shutdown.skip_grace
        due = [
            run
            for run in self._runs.values()
            if skip_grace or run.needs_service or (run.service_at is not None and now >= run.service_at)
        ]
        self._stop([run for run in due if run.check_failure(now, self._loop)], None)
        snapshot = Snapshot()
        to_kill = []
        any_ended = False
        for run in due:
            if run.stopping:
                tree = run.advance_stop(self._loop.now(), snapshot, skip_grace=skip_grace)
                to_kill += [tree] if tree is not None else []
            run.update_state()
            if run.state == "ended":
                self._end(run)
                any_ended = True
            else:
                run.mark_serviced(self._loop.now())
        kill_trees(to_kill)
        return any_ended

    def _end(self, run: DriverRun) -> None:
        del self._runs[run.process.pid]
        outcome = run.outcome(self.shorten_stderr)
        self._report_phase(run, outcome)
        self._debug(": ".join(filter(None, (outcome.name, "ended", outcome.status, outcome.message))))
        self.unkillable |= outcome.reason == "unkillable"
        if run.info_for is None:
            self._record(outcome)
        elif outcome.facts.killed_by == CANCEL:
            # The cancel went to our process group, and hit this driver before it had its own session.
            self._query_cancel_support(run.info_for)
        else:
            self._cancel(run.info_for, outcome)

    def _report_phase(self, run: DriverRun, outcome: Outcome) -> None:
        if self.on_phase_end is not None:
            self.on_phase_end(run.options.phase, run.began_at, outcome)

    def _wait(self, stop_at: float | None) -> None:
        now = self._loop.now()
        seconds = MAX_WAIT
        for moment in (stop_at, *(run.service_at for run in self._runs.values())):
            if moment is not None:
                seconds = min(seconds, max(moment - now, _RECHECK_INTERVAL))
        for event in self._loop.events(seconds):
            if isinstance(event, (Output, OutputClosed, Exited)):
                self._handle_event(event)

    def _handle_event(self, event: Output | OutputClosed | Exited) -> None:
        run = self._runs.get(event.pid)
        if run is None:
            return
        messages = run.handle_event(event, self._loop.now(), self._debug)
        # Messages that arrived together are sent together: a write for each would be slow.
        if messages and run.options.on_messages is not None and not self._loop.progress_useless:
            run.options.on_messages(run.call.name, messages)
