"""`drive(jobs)`: run these drivers at once, and give an outcome for each. Owns the one waiting point.

Rules (SPEC 6, 9, 10):
- Everything that happens comes through the inbox to one thread, which calls this room.
- A timeout is concluded, never delivered: the moment has passed, nothing that the driver wrote is
  unread, and we were not stopped ourselves meanwhile.
- A driver is done when it has exited and its output is at its end; one that is being stopped, when
  besides its tree is gone. Only then it is reaped.
- What ended us (`ended`) stops whatever runs, and nothing is started any more. A cancel
  (`canceled`) stops a query; a driver that is being adjusted is told, if it says that it can be
  cancelled, or may finish.
"""

from __future__ import annotations

import time

from servo_agg.errors import CannotStart
from servo_agg.lifecycle import ASKING, PATIENCE, SHORT_PATIENCE, Life, Limits
from servo_agg.process import Child
from servo_agg.protocol import Decoder, Malformed, Reply
from servo_agg.report import Ending, Outcome
from servo_agg.tree import Table, Tree
from servo_agg.worker import Closed, Exited, Output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from typing import Any, Callable

    from servo_agg.inbox import Inbox
    from servo_agg.ledger import Ledger
    from servo_agg.outlet import Outlet
    from servo_agg.protocol import Message
    from servo_agg.worker import Show

TICK = 0.5
"""Seconds of the longest single wait: what we oversleep beyond that is time in which we were stopped."""

RESPITE = 2.0
"""Seconds that the other drivers of a query have once one has failed (SPEC 6)."""

BATCH = 16
"""Events taken in before the drivers are attended to again: none is forgotten in another's flood."""

AGENT_GONE = "agent-gone"

CANCEL = "SIGUSR1"
"""The signal by which the agent cancels, and by which we tell a driver of it (SPEC 10)."""


class Ended:
    """Event: we are to end, or to cancel. `cause`: the name of a signal, CANCEL too, or AGENT_GONE."""

    __slots__ = ("cause",)

    def __init__(self, cause: str) -> None:
        self.cause = cause


class Given:
    """Event: stdin is at its end. `text` is what it held, None when that was too much."""

    __slots__ = ("text",)

    def __init__(self, text: bytes | None) -> None:
        self.text = text


class Woken:
    """Event: an outlet has news."""


class Job:
    """A driver to be run: its name, its arguments, and what it is given on stdin (None: nothing)."""

    __slots__ = ("arguments", "given", "name")

    def __init__(self, name: str, arguments: Sequence[str], given: bytes | None = None) -> None:
        self.name = name
        self.arguments = arguments
        self.given = given


class Phase:
    """How the drivers of one call of `drive` are run and judged.

    limits     deadlines and graces
    adjusting  they are adjusted: no whole documents, malformed output stops at once, status needed
    together   how many may run at once
    apart      names of those of which only one at a time may run
    all_or_none  once one has failed, no other is begun, and those that run have RESPITE
    hear       is told of each message of a driver: `hear(name, message)`
    examine    looks into a successful outcome and may make it a failure
    """

    __slots__ = ("adjusting", "all_or_none", "apart", "examine", "hear", "limits", "together")

    def __init__(
        self,
        limits: Limits,
        *,
        adjusting: bool = False,
        together: int = 1,
        apart: Collection[str] = (),
        all_or_none: bool = False,
        hear: Callable[[str, Message], None] | None = None,
        examine: Callable[[Outcome], None] | None = None,
    ) -> None:
        self.limits = limits
        self.adjusting = adjusting
        self.together = together
        self.apart = apart
        self.all_or_none = all_or_none
        self.hear = hear
        self.examine = examine


class _Running:
    """A driver that runs, and what is known of it so far."""

    def __init__(self, job: Job, child: Child, life: Life, phase: Phase) -> None:
        self.job = job
        self.child = child
        self.life = life
        self.phase = phase
        self.decoder = Decoder(document=not phase.adjusting)
        self.ending = Ending()
        self.reply: dict[str, Any] | None = None
        self.tree: Tree | None = None
        self.exited = False
        self.closed = False
        self.gone = False
        self.told_of_cancel = False
        self.asked_for: _Running | None = None


class Supervisor:
    """Runs drivers for the coordinator, the only thread that may call it."""

    def __init__(
        self,
        inbox: Inbox,
        outlet: Outlet,
        ledger: Ledger,
        *,
        note: Callable[[str], None],
        show: Show = None,
        shorten: Callable[[str], str] = str,
    ) -> None:
        """Take the ways in and out.

        `note` says a line to a person who asked for them; `show`: see Worker; `shorten` makes of a
        failed driver's stderr what is shown of it (SPEC 13).
        """
        self.ended: str | None = None
        self.canceled = False
        self.unkillable = False
        self.environment: Mapping[str, str] = {}
        self._inbox = inbox
        self._outlet = outlet
        self._ledger = ledger
        self._note = note
        self._show = show
        self._shorten = shorten
        self._hurried = False
        self._given: Given | None = None
        self._woke = time.monotonic()
        self._stopped = 0.0
        self._running: dict[int, _Running] = {}

    def now(self) -> float:
        """Give monotonic seconds, less the time in which we ourselves were stopped (SPEC 9)."""
        return time.monotonic() - self._stopped

    def receive(self) -> Given | None:
        """Wait for the end of stdin; None when we are ended before."""
        while self._given is None and self.cause is None:
            self._take(TICK, output=False)
        return self._given

    def pause(self, seconds: float) -> None:
        """Wait, but for a moment only once we are to end or to cancel."""
        until = self.now() + seconds
        while self.cause is None and self.now() < until:
            self._take(until - self.now(), output=False)

    @property
    def cause(self) -> str | None:
        """Why we are to end, or CANCEL; None while neither."""
        return self.ended or (CANCEL if self.canceled else None)

    def flush(self) -> bool:
        """Wait until all that was said is written; tell whether it was (SPEC 5)."""
        while not self._outlet.finish():
            if self.ended is not None:
                return self._outlet.drain(0.25)
            self._take(TICK, output=False)
        return not self._outlet.broken

    def drive(self, jobs: Iterable[Job], phase: Phase) -> list[Outcome]:
        """Run the drivers; give an outcome for each that was begun, in the order of `jobs`."""
        jobs = list(jobs)
        waiting = list(jobs)
        outcomes: dict[str, Outcome] = {}
        stop_all_at: float | None = None
        try:
            while True:
                failed = any(not outcome.ok and not outcome.blameless for outcome in outcomes.values())
                if phase.all_or_none and failed and stop_all_at is None:
                    stop_all_at = self.now() + RESPITE
                if self.cause or self.unkillable or stop_all_at is not None:
                    waiting.clear()
                self._begin(waiting, phase, outcomes)
                if not self._running:
                    break
                self._obey(phase)
                if stop_all_at is not None and self.now() >= stop_all_at:
                    self._stop(self._running.values(), "failure", phase.limits.grace)
                self._attend(outcomes)
                if self._running:
                    self._wait(stop_all_at)
        finally:
            # Only a mistake of ours leaves any: it must not leave drivers behind.
            self._abandon()
        return [outcomes[job.name] for job in jobs if job.name in outcomes]

    def _begin(self, waiting: list[Job], phase: Phase, outcomes: dict[str, Outcome]) -> None:
        for job in tuple(waiting):
            names = {running.child.name for running in self._running.values()}
            if len(names) >= phase.together:
                return
            if job.name in phase.apart and names & set(phase.apart):
                continue
            waiting.remove(job)
            started = self._start(job, phase)
            if isinstance(started, Outcome):
                outcomes[job.name] = started

    def _start(self, job: Job, phase: Phase) -> _Running | Outcome:
        now = self.now()
        try:
            child = Child(
                job.name,
                job.arguments,
                self.environment,
                job.given,
                self._inbox,
                self._show,
                self._ledger,
                phase.limits.grace,
            )
        except CannotStart as error:
            ending = Ending()
            ending.trouble, ending.words = "cannot-start", f"cannot be started: {error}"
            self._note(f"{job.name}: {ending.words}")
            return Outcome(job.name, None, ending, adjusting=phase.adjusting)
        self._note(f"{job.name}: started as process {child.pid}: {' '.join(job.arguments)}")
        running = self._running[child.pid] = _Running(job, child, Life(now, phase.limits), phase)
        return running

    def _obey(self, phase: Phase) -> None:
        """Do to what runs what a signal, the agent's end or a cancel asks for (SPEC 10)."""
        if self.ended is not None:
            self._stop(self._running.values(), self.ended, phase.limits.grace)
        elif self.canceled and not phase.adjusting:
            self._stop(self._running.values(), CANCEL, phase.limits.grace)
        elif self.canceled:
            for running in tuple(self._running.values()):
                if running.phase.adjusting and not running.told_of_cancel:
                    running.told_of_cancel = True
                    self._ask_whether_it_can(running)
                if running.life.must_leave(self.now()):
                    self._stop([running], CANCEL, phase.limits.grace)
                if running.asked_for is not None and running.asked_for.exited:
                    self._stop([running], CANCEL, running.phase.limits.grace)

    def _ask_whether_it_can(self, running: _Running) -> None:
        short = running.phase.limits.short_grace
        until = self.now() + ASKING
        info = Phase(Limits(grace=short, short_grace=short, until=until, allowance=ASKING))
        asked = self._start(Job(running.job.name, ["--info", *running.job.arguments]), info)
        if isinstance(asked, _Running):
            asked.asked_for = running

    def _told(self, running: _Running, info: Outcome) -> None:
        """Take in a driver's answer to whether it can be cancelled; if so tell it, once."""
        if info.ok and info.reply.get("has_cancel") is True and not running.exited:
            self._note(f"{info.name}: cancelling it")
            running.child.signal(CANCEL)
            running.life.leave_by(self.now() + running.phase.limits.cancel_grace)
        else:
            self._note(f"{info.name}: cannot be cancelled, may finish")

    def _wait(self, stop_all_at: float | None) -> None:
        now = self.now()
        looks = [
            running.life.next_look(now, leader_gone=running.exited)
            for running in self._running.values()
            if not running.gone
        ]
        moments = [look for look in (*looks, stop_all_at) if look is not None and look > now]
        seconds = min([TICK, *(moment - now for moment in moments)])
        if len(moments) < len([look for look in looks if look is not None]):
            # A moment has passed and was not acted on, since something is still unread.
            seconds = min(seconds, 0.01)
        # A signal is obeyed even if nobody takes what the drivers say on their way out.
        event = self._take(seconds, output=self._may_listen)
        for _ in range(BATCH):
            if event is None:
                return
            self._learn(event)
            event = self._inbox.get(0, output=self._may_listen)
            self._digest(event)
        self._learn(event)

    @property
    def _may_listen(self) -> bool:
        # Once ended we listen even if the agent does not: a driver must not hang on its way out.
        return self.ended is not None or not self._outlet.full

    def _take(self, seconds: float, *, output: bool) -> Any | None:
        event = self._inbox.get(min(seconds, TICK), output=output)
        woke = time.monotonic()
        if woke - self._woke > min(seconds, TICK) + TICK:
            self._stopped += woke - self._woke
        self._woke = woke
        self._digest(event)
        return event

    def _digest(self, event: object) -> None:
        if isinstance(event, Ended) and event.cause == CANCEL:
            self.canceled = True
        elif isinstance(event, Ended):
            self._hurried |= self.ended not in (None, AGENT_GONE) and event.cause != AGENT_GONE
            self.ended = self.ended or event.cause
        elif isinstance(event, Given):
            self._given = event
        if self._outlet.broken and self.ended is None:
            self.ended = AGENT_GONE

    def _learn(self, event: object) -> None:
        if not isinstance(event, (Output, Closed, Exited)):
            return
        running = self._running.get(event.pid)
        if running is None:
            return
        if isinstance(event, Output):
            self._hear(running, running.decoder.feed(event.block))
        elif isinstance(event, Closed):
            running.closed = True
            self._hear(running, running.decoder.end(cut=event.cut))
        else:
            running.exited = True

    def _hear(self, running: _Running, messages: list[Message]) -> None:
        name = running.child.name
        if messages:
            running.life.heard(self.now())
        for message in messages:
            if isinstance(message, Reply):
                if running.reply is not None:
                    self._note(f"{name}: said before its reply: {running.reply}")
                running.reply = message.content
            elif isinstance(message, Malformed) and running.ending.trouble is None:
                running.ending.trouble = "malformed"
                running.ending.words = f"its output is malformed: {message.why}"
            if running.phase.hear is not None and not (self.ended and self._outlet.full):
                running.phase.hear(name, message)

    def _attend(self, outcomes: dict[str, Outcome]) -> None:
        """Look at each driver: is it done, or overdue, or what is the next step of stopping it."""
        for running in list(self._running.values()):
            now = self.now()
            life, ending, limits = running.life, running.ending, running.phase.limits
            if not life.stopping and not (running.exited and running.closed):
                if ending.trouble == "malformed":
                    self._stop([running], None, limits.grace)
                elif not running.exited and life.overdue(now, quiet=self._quiet(running)):
                    ending.trouble = "timeout"
                    ending.words = self._about_silence(running, now)
                    self._stop([running], None, limits.short_grace, SHORT_PATIENCE)
            if life.stopping and not self._descend(running):
                continue
            if (running.exited and running.closed) or ending.trouble == "unkillable":
                outcome = self._finish(running)
                if running.asked_for is None:
                    outcomes[outcome.name] = outcome
                else:
                    self._told(running.asked_for, outcome)

    def _quiet(self, running: _Running) -> bool:
        return running.child.worker.quiet() and not self._inbox.holds_output

    def _about_silence(self, running: _Running, now: float) -> str:
        allowance = running.phase.limits.allowance
        if allowance is not None:
            return f"gave no answer within {allowance:g} s and was stopped"
        return f"was silent for {running.life.silent_for(now):.1f} s and was stopped"

    def _stop(
        self, these: Iterable[_Running], cause: str | None, grace: float, patience: float = PATIENCE
    ) -> None:
        """Begin to stop drivers, for `cause` or, when it is None, for a failure of their own."""
        fresh = [running for running in these if not running.life.stopping]
        for running in fresh:
            running.tree = Tree(running.child.pid, running.child.mark)
            running.ending.stopped = cause
        # The trees are read before the signal: what loses its parent by it is still known then.
        looking = [running.tree for running in fresh if running.tree is not None]
        while looking:
            table = Table()
            looking = [tree for tree in looking if tree.look(table)]
        for running in fresh:
            self._note(f"{running.child.name}: stopping it")
            if running.tree is not None:
                running.tree.ask_leader()
            running.life.stop(self.now(), grace, patience)

    def _descend(self, running: _Running) -> bool:
        """Take the next step of stopping a driver; True when its tree is gone, or given up."""
        tree, now = running.tree, self.now()
        if tree is None or running.gone:
            return True
        if self._hurried:
            running.life.stop(now, 0)
        left: list[str] = []
        if running.exited:
            left = tree.living()
            if not left:
                tree.look()
                left = tree.living()
        step = running.life.step(now, leader_gone=running.exited, any_left=bool(left))
        if step == "ask-rest":
            tree.ask_rest()
        elif step == "kill":
            tree.kill()
        elif step == "give-up":
            self.unkillable = True
            running.ending.trouble = "unkillable"
            names = left if running.exited else [running.child.name, *left]
            running.ending.words = f"could not be killed: {', '.join(names)} still alive after SIGKILL"
        running.gone = step in ("done", "give-up")
        return running.gone

    def _finish(self, running: _Running) -> Outcome:
        child, ending, phase = running.child, running.ending, running.phase
        ending.seconds = self.now() - running.life.started_at
        facts = child.ending()
        if facts is not None:
            ending.code, ending.signal = facts
            child.reap()
        del self._running[child.pid]
        ending.stderr = self._shorten(child.worker.stderr.text())
        outcome = Outcome(child.name, running.reply, ending, adjusting=phase.adjusting)
        if outcome.ok and phase.examine is not None:
            phase.examine(outcome)
        self._note(f"{child.name}: ended after {ending.seconds:.3f} s: {outcome.status}: {outcome.message}")
        return outcome

    def _abandon(self) -> None:
        for running in self._running.values():
            tree = running.tree or Tree(running.child.pid, running.child.mark)
            while tree.look():
                pass
            tree.kill()
        self._running.clear()
