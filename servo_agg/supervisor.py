"""`drive(jobs)`: run these drivers at once, and give an outcome for each. Owns the one waiting point.

Rules (SPEC 6, 9, 10):
- Everything that happens comes through the inbox to one thread, which calls this room.
- Time in which we ourselves were stopped does not count: who oversleeps was stopped.
- What ended us (`ended`) stops whatever runs, and nothing is started any more. A cancel
  (`canceled`) stops a query; a driver that is being adjusted is told, if it says that it can be
  cancelled, or may finish.
- While the agent does not read, no output is taken in, and so the drivers wait.
- The room `running`, and what judges and merges replies with it, is imported once the first drivers have been
  started: each begins 0.7 ms earlier. A descriptor is kept for that, however many the drivers take.
"""

from __future__ import annotations

import os
import time

from servo_agg.errors import CannotStart
from servo_agg.events import AGENT_GONE, CANCEL, Closed, Ended, Exited, Given, Output
from servo_agg.lifecycle import ASKING, RESPITE, Limits
from servo_agg.phase import Job, Phase
from servo_agg.process import Child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from servo_agg.inbox import Inbox
    from servo_agg.ledger import Ledger
    from servo_agg.outlet import Outlet
    from servo_agg.report import Outcome
    from servo_agg.running import Running
    from servo_agg.worker import Show

TICK = 0.5
"""Seconds of the longest single wait: what we oversleep beyond that is time in which we were stopped."""

BATCH = 16
"""Events taken in before the drivers are attended to again: none is forgotten in another's flood."""

FAREWELL = 0.25
"""Seconds that stdout has to take the final line when a signal ends us (SPEC 5)."""

_GLANCE = 0.01
"""Seconds until a driver is looked at again whose moment has passed while its output was unread."""


class Start:
    """A driver that was just started, or why it could not be.

    now       when, in the supervisor's time
    began_at  when, in monotonic seconds
    """

    __slots__ = ("began_at", "child", "now")

    def __init__(self, child: Child | CannotStart, now: float, began_at: float) -> None:
        self.child = child
        self.now = now
        self.began_at = began_at


class Supervisor:
    """Runs drivers for the coordinator, the only thread that may call it.

    ended        why we are to end: the name of a signal or AGENT_GONE; None while we are not
    canceled     whether the agent has cancelled
    unkillable   whether something survived SIGKILL: then no driver is started any more
    environment  what drivers get, their mark aside; to be set before the first is run
    shorten      makes of a failed driver's stderr what is shown of it (SPEC 13); likewise
    remember     is told of each driver's end: `remember(phase, began_at, outcome)`, in monotonic
                 seconds; None: nobody is
    """

    def __init__(
        self,
        inbox: Inbox,
        outlet: Outlet,
        ledger: Ledger,
        *,
        note: Callable[..., None],
        show: Show = None,
    ) -> None:
        """Take the ways in and out.

        `note` says a line to a person who asked for them, see Console; `show`: see Worker.
        """
        self.ended: str | None = None
        self.canceled = False
        self.unkillable = False
        self.environment: Mapping[str, str] = {}
        self.shorten: Callable[[str], str] = str
        self.remember: Callable[[str, float, Outcome], None] | None = None
        self._inbox = inbox
        self._outlet = outlet
        self._ledger = ledger
        self._note = note
        self._show = show
        self._hurried = False
        self._given: Given | None = None
        self._woke = time.monotonic()
        self._stopped = 0.0
        self._running: dict[int, Running] = {}
        self._failed = False
        self._reserve: int | None = os.open(os.devnull, os.O_RDONLY)

    def now(self) -> float:
        """Give monotonic seconds, less the time in which we ourselves were stopped (SPEC 9)."""
        self._wake(0.0)
        return self._woke - self._stopped

    def _wake(self, waited: float) -> None:
        """Take in that we go on, after a wait of so many seconds at most: what is far beyond was no wait."""
        woke = time.monotonic()
        if woke - self._woke > waited + TICK:
            self._stopped += woke - self._woke
        self._woke = woke

    @property
    def cause(self) -> str | None:
        """Why we are to end, or CANCEL; None while neither."""
        return self.ended or (CANCEL if self.canceled else None)

    def receive(self) -> Given | None:
        """Wait for the end of stdin; None when we are ended before."""
        while self._given is None and self.cause is None:
            self._take(TICK, output=False)
        return self._given

    def pause(self, seconds: float) -> None:
        """Wait, but no longer than until we are to end or to cancel."""
        until = self.now() + seconds
        while self.cause is None and self.now() < until:
            self._take(until - self.now(), output=False)

    def flush(self) -> bool:
        """Wait until all that was said is written; tell whether it was (SPEC 5)."""
        while not self._outlet.finish():
            if self.ended is not None:
                return self._outlet.drain(FAREWELL)
            self._take(TICK, output=False)
        return not self._outlet.broken

    def drive(self, jobs: Iterable[Job], phase: Phase) -> list[Outcome]:
        """Run the drivers; give an outcome for each that was begun, in the order of `jobs`."""
        jobs = list(jobs)
        waiting = list(jobs)
        outcomes: dict[str, Outcome] = {}
        stop_at: float | None = None
        self._failed = False
        try:
            while True:
                if phase.all_or_none and self._failed and stop_at is None:
                    stop_at = self.now() + RESPITE
                if self.cause or self.unkillable or stop_at is not None:
                    waiting.clear()
                self._begin(waiting, phase, outcomes)
                if not self._running:
                    break
                self._obey(adjusting=phase.adjusting)
                if stop_at is not None and self.now() >= stop_at:
                    self._stop(self._running.values(), "failure")
                # An end makes room for the next to be begun: only when there was none do we wait.
                if not self._attend(outcomes):
                    self._wait(stop_at)
        finally:
            # Only a mistake of ours leaves any: it must not leave drivers behind.
            for running in self._running.values():
                running.abandon()
        return [outcomes[job.name] for job in jobs if job.name in outcomes]

    def _begin(self, waiting: list[Job], phase: Phase, outcomes: dict[str, Outcome]) -> None:
        """Start as many of the waiting as there is room for, and only then do what else is to be done."""
        begun: list[tuple[Job, Start]] = []
        names = {running.job.name for running in self._running.values()}
        for job in tuple(waiting):
            if len(names) >= phase.together:
                break
            if job.name in phase.apart and names & set(phase.apart):
                continue
            waiting.remove(job)
            names.add(job.name)
            begun.append((job, self._start(job, phase)))
            if phase.all_or_none and isinstance(begun[-1][1].child, CannotStart):
                break
        for job, start in begun:
            outcome = self._take_on(job, phase, start)
            if outcome is not None:
                self._take_down(outcome, outcomes)

    def _take_down(self, outcome: Outcome, outcomes: dict[str, Outcome]) -> None:
        outcomes[outcome.name] = outcome
        self._failed |= not (outcome.ok or outcome.blameless)

    def _start(self, job: Job, phase: Phase) -> Start:
        now, began_at = self.now(), time.monotonic()
        child: Child | CannotStart
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
            child = error
        return Start(child, now, began_at)

    def _take_on(
        self, job: Job, phase: Phase, start: Start, asks_for: Running | None = None
    ) -> Outcome | None:
        """Look after a driver from its start on; give its outcome if it could not be started."""
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None
        from servo_agg.running import Running, not_begun

        child = start.child
        if isinstance(child, CannotStart):
            outcome = not_begun(job, phase, str(child))
            self._note(f"{job.name}: {outcome.ending.words}")
            self._keep(phase, start.began_at, outcome)
            return outcome
        self._note(f"{job.name}: started as process {child.pid}: {' '.join(job.arguments)}")
        self._running[child.pid] = Running(job, child, phase, start.now, start.began_at, asks_for)
        return None

    def _obey(self, *, adjusting: bool) -> None:
        """Do to what runs what a signal, the agent's end or a cancel asks for (SPEC 10)."""
        if self.ended is not None or (self.canceled and not adjusting):
            self._stop(self._running.values(), self.cause)
        elif self.canceled:
            for running in tuple(self._running.values()):
                if running.asks_for is not None:
                    pointless = running.asks_for.exited
                else:
                    pointless = running.life.must_leave(self.now())
                    if not running.told_of_cancel:
                        running.told_of_cancel = True
                        self._ask_whether_it_can(running)
                if pointless:
                    self._stop([running], CANCEL)

    def _ask_whether_it_can(self, running: Running) -> None:
        short = running.phase.limits.short_grace
        until = self.now() + ASKING
        info = Phase("info", Limits(grace=short, short_grace=short, until=until, allowance=ASKING))
        job = Job(running.job.name, ["--info", *running.job.arguments])
        self._take_on(job, info, self._start(job, info), asks_for=running)

    def _cancel(self, running: Running, info: Outcome) -> None:
        """Cancel a driver if its answer to `--info` says that it can be."""
        if running.exited:
            return
        if info.ok and info.reply.get("has_cancel") is True:
            self._note(f"{info.name}: cancelling it")
            running.cancel(self.now(), is_aggregator="drivers" in info.reply)
        else:
            self._note(f"{info.name}: cannot be cancelled, may finish")

    def _stop(self, these: Iterable[Running], cause: str | None) -> None:
        these = [running for running in these if not running.life.stopping]
        if not these:
            return
        from servo_agg.running import stop_all

        for running in these:
            self._note(f"{running.job.name}: stopping it")
        stop_all(these, cause, self.now())

    def _attend(self, outcomes: dict[str, Outcome]) -> bool:
        """Look at each driver: must it be stopped, what is the next step of that, is it done.

        Only at those with news, or whose moment has come. Tells whether any was done.
        """
        before = len(self._running)
        now = self.now()
        for running in tuple(self._running.values()):
            due = running.has_news or (running.look_at is not None and now >= running.look_at)
            if not (due or self._hurried):
                continue
            if running.judge(self.now(), all_heard=not self._inbox.holds_output):
                self._stop([running], None)
            if running.life.stopping:
                if self._hurried:
                    running.life.stop(self.now(), 0)
                running.descend(self.now())
            if not running.done:
                running.was_attended(self.now())
                continue
            del self._running[running.child.pid]
            outcome = running.finish(self.shorten)
            self._keep(running.phase, running.began_at, outcome)
            self._note(": ".join(filter(None, (outcome.name, "ended", outcome.status, outcome.message))))
            self.unkillable |= outcome.reason == "unkillable"
            if running.asks_for is None:
                self._take_down(outcome, outcomes)
            elif outcome.ending.signal == CANCEL:
                # Sent to our whole process group, it hit this one on its way into a session of its own.
                self._ask_whether_it_can(running.asks_for)
            else:
                self._cancel(running.asks_for, outcome)
        return len(self._running) < before

    def _keep(self, phase: Phase, started_at: float, outcome: Outcome) -> None:
        if self.remember is not None:
            self.remember(phase.name, started_at, outcome)

    def _wait(self, stop_at: float | None) -> None:
        now = self.now()
        seconds = TICK
        for moment in (stop_at, *(running.look_at for running in self._running.values())):
            if moment is not None:
                seconds = min(seconds, max(moment - now, _GLANCE))
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
        self._wake(min(seconds, TICK))
        self._digest(event)
        return event

    def _digest(self, event: object) -> None:
        """Take in what concerns all of us."""
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
        """Take in what concerns one driver, and pass on what it says."""
        running = self._running.get(event.pid) if isinstance(event, (Output, Closed, Exited)) else None
        if running is None or not isinstance(event, (Output, Closed, Exited)):
            return
        messages = running.learn(event, self.now(), self._note)
        # All that came together is told at once: a line by itself would cost its own way to the outlet.
        if messages and running.phase.hear is not None and not (self.ended and self._outlet.full):
            running.phase.hear(running.job.name, messages)
