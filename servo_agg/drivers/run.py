"""What to run, and one driver run: a state machine from the start of a driver until it is reaped.

| state    | meaning                                                         | leaves it on         |
|----------|-----------------------------------------------------------------|----------------------|
| starting | its process is not started yet                                  | started, start-failed |
| running  | it may run within its deadlines                                 | finished, stop       |
| stopping | it has got SIGTERM, and its grace period lasts                  | finished, grace-over |
| killing  | the grace period is over: its whole tree gets SIGKILL           | finished, gave-up    |
| ended    | it is reaped, or part of it survives SIGKILL; it has a verdict  |                      |

The transitions are `timeouts.TRANSITIONS`.

Rules (SPEC 4, 9, 10):
- A timeout is a conclusion, not an event: the deadline has passed, and nothing that the driver wrote is
  unread.
- Its tree is read before the first signal, while the members that the signal orphans can still be found.
- A driver that was killed by a signal, and not by us, is stopped like any other: it did not leave its
  processes behind on purpose.
- It is reaped last: until then its pid, process group and session cannot be reused.
"""

from __future__ import annotations

import time

from servo_agg.drivers.events import CANCEL, OUTPUT_LIMIT, Exited, Output, OutputClosed
from servo_agg.drivers.process import ENV_FAILED, carriage_return, missing_interpreter
from servo_agg.drivers.timeouts import KILL_WAIT, SHORT_KILL_WAIT, TRANSITIONS, Deadlines, StopSequence
from servo_agg.drivers.worker import MAX_PIPE_SIZE
from servo_agg.processes.tree import Tree, discover_members, kill_trees
from servo_agg.protocol.messages import Decoder, Malformed, Reply
from servo_agg.protocol.outcome import Outcome, RunFacts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from typing import Literal, Protocol, Union

    from servo_agg.drivers.events import EventLoop
    from servo_agg.drivers.process import DriverCall, DriverProcess
    from servo_agg.drivers.timeouts import Event, State, Step, Timeouts
    from servo_agg.errors import StartError
    from servo_agg.processes.tree import Snapshot
    from servo_agg.protocol.messages import Message
    from servo_agg.protocol.outcome import Failure, Phase

    DriverEvent = Union[Output, OutputClosed, Exited]

    class OnMessages(Protocol):
        """Handles messages of the driver `name` that arrived together."""

        def __call__(self, name: str, messages: Sequence[Message], /) -> None:  # noqa: D102 - see the class
            ...

    class Validate(Protocol):
        """Checks a successful outcome further, and may make it a failure."""

        def __call__(self, outcome: Outcome, /) -> None:  # noqa: D102 - see the class
            ...

    class ChooseAction(Protocol):
        """Returns `cancel` or `stop` to end a running driver, None to let it run."""

        def __call__(self, run: DriverRun, now: float, /) -> Literal["cancel", "stop"] | None:  # noqa: D102 - see the class
            ...


class PhaseOptions:
    """How the drivers of one call of `Supervisor.run` are run and judged.

    phase         in an adjust a reply needs a status, output is lines only, and malformed output stops the
                  driver at once
    timeouts      deadlines and graces
    max_parallel  how many drivers may run at once
    serial        names of drivers of which only one may run at a time
    fail_fast     once a driver has failed, no other is started, and the others get FAIL_FAST_GRACE
    on_messages   called with the messages of a driver
    validate      called with each successful outcome
    choose_action  called with each running driver, at least every MAX_WAIT seconds: see ChooseAction
    """

    __slots__ = (
        "choose_action",
        "fail_fast",
        "max_parallel",
        "on_messages",
        "phase",
        "serial",
        "timeouts",
        "validate",
    )

    def __init__(
        self,
        phase: Phase,
        timeouts: Timeouts,
        *,
        max_parallel: int = 1,
        serial: Collection[str] = (),
        fail_fast: bool = False,
        on_messages: OnMessages | None = None,
        validate: Validate | None = None,
        choose_action: ChooseAction | None = None,
    ) -> None:
        self.phase = phase
        self.timeouts = timeouts
        self.max_parallel = max_parallel
        self.serial = serial
        self.fail_fast = fail_fast
        self.on_messages = on_messages
        self.validate = validate
        self.choose_action = choose_action

    @property
    def adjusting(self) -> bool:
        """Whether the drivers are adjusted."""
        return self.phase == "adjust"


MAX_UNREAD = OUTPUT_LIMIT + 2 * MAX_PIPE_SIZE
"""Bytes that can have waited in the event queue, the worker and the pipe when a deadline passed. A driver
that has written more since then, without a message in it, has been silent: it floods us with blank lines."""


class DriverRun:
    """One driver, from its start until it is reaped. `now` is always the time of the event loop.

    call, options  what it runs, and how
    state          see the table above
    exited         whether its process has exited
    facts          what is known of it for the verdict
    began_at       just before its start, in monotonic seconds, suspensions included
    needs_service  something has happened since it was last serviced
    service_at     when it must be serviced if nothing happens before; None: never
    cancel_checked whether it was asked if it can be canceled
    info_for       the driver that is being adjusted, if this run only asks whether that can be canceled
    """

    def __init__(
        self, call: DriverCall, options: PhaseOptions, now: float, info_for: DriverRun | None = None
    ) -> None:
        self.call = call
        self.options = options
        self.state: State = "starting"
        self.began_at = time.monotonic()
        self.needs_service = True
        self.service_at: float | None = None
        self.exited = False
        self.cancel_checked = False
        self.info_for = info_for
        self.facts = RunFacts()
        self.facts.option = "" if options.adjusting else call.arguments[0]
        self._deadlines = Deadlines(now, options.timeouts)
        self._decoder = Decoder(document=not options.adjusting)
        self._reply: Reply | None = None
        self._process: DriverProcess | None = None
        self._stop_sequence: StopSequence | None = None
        self._tree: Tree | None = None
        self._tree_gone = False
        self._output_closed = False
        self._late_bytes = 0
        self._killed_externally = False
        self._ignore_output = False

    def _transition(self, event: Event) -> None:
        self.state = TRANSITIONS[self.state, event]

    @property
    def process(self) -> DriverProcess:
        """The process of a driver that has been started."""
        if self._process is None:
            raise AssertionError("the driver has not been started")
        return self._process

    @property
    def stopping(self) -> bool:
        """Whether it is being stopped."""
        return self.state in ("stopping", "killing")

    def started(self, process: DriverProcess) -> None:
        """Enter the state `running`."""
        self._process = process
        self._transition("started")

    def start_failed(self, error: StartError) -> None:
        """End the run: the driver could not be started (SPEC 13.3)."""
        self._fail("cannot-start", f"cannot be started: {error}")
        self._transition("start-failed")

    def handle_event(self, event: DriverEvent, now: float, debug: Callable[..., None]) -> list[Message]:
        """Apply an event; return the messages that are complete by it. `debug`: see Supervisor."""
        self.needs_service = True
        messages: list[Message] = []
        if isinstance(event, Exited):
            self._handle_exit()
        elif isinstance(event, OutputClosed):
            self._output_closed = True
            messages = [] if self._ignore_output else self._decoder.end(cut=event.cut)
        elif not self._ignore_output:
            deadline = self._deadlines.deadline()
            self._late_bytes += len(event.block) if deadline is not None and now >= deadline else 0
            messages = self._decoder.feed(bytes(event.block))
        if self.stopping and not self._killed_externally:
            # The stop may have cut off the line that the driver was about to write.
            messages = [message for message in messages if not isinstance(message, Malformed)]
        if messages:
            self._late_bytes = 0
            self._deadlines.message_received(now)
        for message in messages:
            if isinstance(message, Reply):
                self._reply = message
                debug(f"{self.call.name}: replies ", message.body)
            elif isinstance(message, Malformed):
                self._fail("malformed", message.reason)
        return messages

    def _handle_exit(self) -> None:
        self.exited = True
        if self.stopping:
            return
        status = self.process.exit_status()
        if status is not None and status[1] is None:
            # It ended by itself: what it left running is left on purpose.
            self.process.unregister()
        else:
            self._killed_externally = True

    def check_failure(self, now: float, loop: EventLoop) -> bool:
        """Return whether it must be stopped for a failure of its own."""
        if self.state != "running":
            return False
        if self._killed_externally:
            return True
        if self.exited and self._output_closed:
            return False
        if self.facts.failure == "malformed":
            return True
        if self.exited or not self._has_expired(now, loop):
            return False
        self._fail("timeout", f"{self._silence_text(now)} and was stopped")
        # To read a flood to its end would take half a second, and the agent gives up soon.
        until = self.options.timeouts.until
        self._ignore_output = until is not None and now - self._deadlines.silent_for(now) > until
        return True

    def _has_expired(self, now: float, loop: EventLoop) -> bool:
        if not self._deadlines.expired(now, all_read=True):
            return False
        # In this order: what the worker has read by now is in the queue, or was handled.
        all_read = self.process.worker.all_read() and not loop.output_pending
        return self._deadlines.expired(now, all_read=all_read or self._late_bytes > MAX_UNREAD)

    def _silence_text(self, now: float) -> str:
        timeouts = self.options.timeouts
        if timeouts.until is None or timeouts.allowance is None:
            return f"was silent for {self._deadlines.silent_for(now):.1f} s"
        waited = self._deadlines.started_at - (timeouts.until - timeouts.allowance)
        if waited < max(0.5, timeouts.allowance / 4):
            return f"did not answer within {timeouts.allowance:g} s"
        return (
            f"did not answer within the {timeouts.allowance:g} s that all drivers share (it started"
            f" {waited:.1f} s late because of `parallel` or `serial`)"
        )

    def _fail(self, failure: Failure, text: str) -> None:
        self.facts.failure = failure
        self.facts.failure_text = text

    def cancel(self, now: float, *, is_aggregator: bool) -> None:
        """Send SIGUSR1 to the driver alone; from now on its time is limited (SPEC 10.37).

        The time of an aggregator is not limited: it limits that of its drivers, and those that cannot be
        canceled may finish, too. So may a driver that runs as another user, which we cannot signal.
        """
        if not self.process.send_signal(CANCEL):
            return
        self.facts.add_signal(CANCEL)
        if not is_aggregator:
            self.needs_service = True
            self._deadlines.cancel_until = now + self.options.timeouts.cancel_grace

    def seconds_until_kill(self, now: float) -> float | None:
        """Return the seconds that are left of the grace period, None if the driver is not being stopped."""
        return None if self._stop_sequence is None else max(0.0, self._stop_sequence.kill_at - now)

    def cancel_expired(self, now: float) -> bool:
        """Return whether it was canceled and has used up its time."""
        return self._deadlines.cancel_expired(now)

    def advance_stop(self, now: float, snapshot: Snapshot, *, skip_grace: bool) -> Tree | None:
        """Take the next step of the stop (SPEC 10.1); return the tree if it must be killed now."""
        tree, sequence = self._tree, self._stop_sequence
        if tree is None or sequence is None or self._tree_gone:
            return None
        if skip_grace:
            sequence.skip_grace(now)
        step = self._next_step(tree, sequence, now, snapshot)
        if step == "terminate-rest":
            tree.terminate_rest()
        elif step == "kill":
            if self.state == "stopping":
                self._transition("grace-over")
            self.facts.add_signal("SIGKILL")
            return tree
        elif step == "give-up" and not tree.is_unkillable and sequence.extend_wait():
            # It is dying, and only slow to be scheduled: to call that unkillable would end the whole adjust.
            return tree
        elif step == "give-up" and not tree.is_unkillable and not snapshot.processes and self.exited:
            # What is left of its group was killed and may be a zombie: nobody can see that.
            self._tree_gone = True
        elif step == "give-up":
            names = tree.names(snapshot)
            names = names if self.exited else [self.call.name, *names]
            self._fail(
                "unkillable",
                f"could not be killed: {', '.join(names)} still alive after SIGKILL; to find out why:"
                " ps -o pid,user,stat,wchan,args -p PID",
            )
            self._transition("gave-up")
        return None

    def _next_step(self, tree: Tree, sequence: StopSequence, now: float, snapshot: Snapshot) -> Step:
        # Until the leader exits, whose exit is reported, no snapshot is needed.
        members_left = self.exited and bool(tree.living(snapshot))
        if self.process.reaped:
            members_left = tree.has_hidden_members(snapshot) or members_left
        step = sequence.advance(
            now, leader_exited=self.exited, members_left=members_left, quiet_period=tree.quiet_period
        )
        if step == "finished" and not self.process.reaped:
            # Until it is reaped, it is a member of its group itself, which hides whether there are others.
            self.process.reap()
            if tree.has_hidden_members(snapshot):
                step = sequence.advance(now, leader_exited=True, members_left=True)
        self._tree_gone = step == "finished"
        if self._tree_gone:
            # Its pid may be reused now.
            self.process.unregister()
        return step

    def update_state(self) -> None:
        """End the run if nothing more can come of it."""
        over = self.exited and self._output_closed
        if (self.state == "running" and over) or (self.stopping and over and self._tree_gone):
            self._transition("finished")

    def mark_serviced(self, now: float) -> None:
        """Record that there is nothing to do until something happens or `service_at` has come."""
        self.needs_service = False
        if self._stop_sequence is None:
            self.service_at = self._deadlines.next_check()
        elif self._tree_gone:
            self.service_at = None
        else:
            self.service_at = self._stop_sequence.next_check(now, leader_exited=self.exited)

    def outcome(self, shorten_stderr: Callable[[str], str]) -> Outcome:
        """Reap it, if it has exited, and return the verdict. `shorten_stderr`: see Supervisor."""
        process = self._process
        if process is not None:
            self.facts.seconds = time.monotonic() - self.began_at
            status = process.exit_status()
            if status is not None:
                self.facts.exit_code, self.facts.killed_by = status
                if not process.reaped:
                    process.reap()
                process.unregister()
            if self.facts.exit_code and self._reply is None:
                self.facts.hint = carriage_return(self.call.name)
                missing = missing_interpreter(self.call.name) if self.facts.exit_code in ENV_FAILED else ""
                if missing and self.facts.failure is None:
                    self._fail("cannot-start", f"cannot be started: {missing}")
            self.facts.stderr = shorten_stderr(process.worker.stderr.text())
        outcome = Outcome(self.call.name, self._reply, self.facts, adjusting=self.options.adjusting)
        if outcome.ok and self.options.validate is not None:
            self.options.validate(outcome)
        return outcome

    def kill_now(self) -> None:
        """Kill it and its tree, without waiting. Only for a crash of our own."""
        if self._process is not None:
            tree = self._tree or Tree(self._process.pid, self._process.token)
            discover_members([tree])
            kill_trees([tree])

    def begin_stop(self, cause: str | None) -> Tree:
        """Enter the state `stopping`; return its tree. `cause`: see `stop_runs`, which does the rest."""
        self._transition("stop")
        self.needs_service = True
        self.facts.stop_cause = cause
        self.facts.seconds_before_stop = time.monotonic() - self.began_at
        self.process.record_stop()
        self._tree = Tree(
            self.process.pid,
            self.process.token,
            leader_killed=self._killed_externally,
            on_members=self.process.record_members,
        )
        return self._tree

    def terminate(self, tree: Tree, now: float) -> None:
        """Send SIGTERM to the leader; the grace period begins."""
        if not self.exited:
            tree.terminate_leader()
            self.facts.add_signal("SIGTERM")
        timeouts = self.options.timeouts
        grace, kill_wait = timeouts.grace, KILL_WAIT
        if self.facts.failure == "timeout":
            grace, kill_wait = timeouts.short_grace, SHORT_KILL_WAIT
        elif self.facts.failure == "malformed" and timeouts.silence is not None:
            # The agent has just got a line, and must get the next one before its timeout.
            grace = min(grace, timeouts.silence)
        self._stop_sequence = StopSequence(now, grace, kill_wait)


def not_started(call: DriverCall, options: PhaseOptions) -> Outcome:
    """Return the outcome of a driver that was still waiting when the time of all was over (SPEC 9.9)."""
    facts = RunFacts()
    facts.option = "" if options.adjusting else call.arguments[0]
    facts.failure = "timeout"
    facts.failure_text = (
        f"was not started within the {options.timeouts.allowance:g} s that all drivers share, because"
        " of `parallel` or `serial`"
    )
    return Outcome(call.name, None, facts, adjusting=options.adjusting)


def stop_runs(runs: Iterable[DriverRun], cause: str | None, clock: Callable[[], float]) -> None:
    """Begin to stop runs (SPEC 10.1, 10.7). `clock` returns the time.

    `cause`: the name of the signal that ends us, AGENT_GONE, `failure` if another driver has failed,
    `requested` by `PhaseOptions.choose_action`; None for a failure of their own.
    """
    stops = [(run, run.begin_stop(cause)) for run in runs]
    # Together: each pass over all processes takes milliseconds.
    discover_members(tree for _, tree in stops)
    for run, tree in stops:
        # Read again: the snapshots may have taken as long as a short grace period.
        run.terminate(tree, clock())
