"""`drive(jobs)`: run these drivers at once, and give an outcome for each.

Rules (SPEC 6, 9, 10):
- A signal that ends us stops whatever runs, and nothing is started any more. A cancel, or the end of the
  agent, stops a query; a driver that is being adjusted is told, if it can be cancelled, or may finish.
- A driver is attended to when something has happened to it, or its moment has come; the others cost nothing.
- The room `running`, and what judges and merges replies with it, is imported once the first drivers have been
  started: each begins 0.7 ms earlier. A descriptor is kept for that, however many the drivers take.
"""

from __future__ import annotations

import os
import time

from servo_agg.errors import CannotStart
from servo_agg.events import CANCEL, Closed, Exited, Output
from servo_agg.lifecycle import ASKING, RESPITE, Limits
from servo_agg.listener import TICK
from servo_agg.phase import Job, Phase
from servo_agg.process import Child
from servo_agg.tree import Glance, kill

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from servo_agg.inbox import Inbox
    from servo_agg.ledger import Ledger
    from servo_agg.listener import Listener
    from servo_agg.report import Outcome
    from servo_agg.running import Running
    from servo_agg.tree import Tree
    from servo_agg.worker import Show

_GLANCE = 0.01
"""Seconds until a driver is looked at again whose moment has passed while its output was unread."""


class Start:
    """A driver that was just started, or why it could not be.

    now       when, in the listener's time
    began_at  when, in monotonic seconds
    """

    __slots__ = ("began_at", "child", "now")

    def __init__(self, child: Child | CannotStart, now: float, began_at: float) -> None:
        self.child = child
        self.now = now
        self.began_at = began_at


class Supervisor:
    """Runs drivers for the coordinator, the only thread that may call it.

    unkillable   whether something survived SIGKILL: then no driver is started any more
    environment  what drivers get, their mark aside; to be set before the first is run
    shorten      makes of a failed driver's stderr what is shown of it (SPEC 13); likewise
    remember     is told of each driver's end: `remember(phase, began_at, outcome)`, in monotonic
                 seconds; None: nobody is
    """

    def __init__(
        self,
        inbox: Inbox,
        listener: Listener,
        ledger: Ledger,
        *,
        note: Callable[..., None],
        show: Show = None,
    ) -> None:
        """Take what drivers tell, who listens, and where they are entered.

        `note` says a line to a person who asked for them, see Console; `show`: see Worker.
        """
        self.unkillable = False
        self.environment: Mapping[str, str] = {}
        self.shorten: Callable[[str], str] = str
        self.remember: Callable[[str, float, Outcome], None] | None = None
        self._inbox = inbox
        self._listener = listener
        self._ledger = ledger
        self._note = note
        self._show = show
        self._running: dict[int, Running] = {}
        self._failed = False
        self._reserve: int | None = os.dup(1)

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
                    stop_at = self._listener.now() + RESPITE
                if self._listener.cause or self.unkillable or stop_at is not None:
                    waiting.clear()
                self._begin(waiting, phase, outcomes)
                if not self._running:
                    break
                self._obey(adjusting=phase.adjusting)
                if stop_at is not None and self._listener.now() >= stop_at:
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
        if phase.limits.until is not None and self._listener.now() >= phase.limits.until:
            self._give_up(waiting, phase, outcomes)
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

    def _give_up(self, waiting: list[Job], phase: Phase, outcomes: dict[str, Outcome]) -> None:
        """Have those fail that are still waiting when the time of all is over."""
        from servo_agg.running import not_begun

        for job in waiting:
            self._take_down(not_begun(job, phase), outcomes)
        waiting.clear()

    def _take_down(self, outcome: Outcome, outcomes: dict[str, Outcome]) -> None:
        outcomes[outcome.name] = outcome
        self._failed |= not (outcome.ok or outcome.blameless)

    def _start(self, job: Job, phase: Phase) -> Start:
        now, began_at = self._listener.now(), time.monotonic()
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
        if self._listener.ended is not None or (self._listener.canceling and not adjusting):
            self._stop(self._running.values(), self._listener.cause)
        elif self._listener.canceling:
            for running in tuple(self._running.values()):
                if running.asks_for is not None:
                    pointless = running.asks_for.exited
                else:
                    pointless = running.life.must_leave(self._listener.now())
                    if not running.told_of_cancel:
                        running.told_of_cancel = True
                        self._ask_whether_it_can(running)
                if pointless:
                    self._stop([running], CANCEL)

    def _ask_whether_it_can(self, running: Running) -> None:
        short = running.phase.limits.short_grace
        until = self._listener.now() + ASKING
        info = Phase("info", Limits(grace=short, short_grace=short, until=until, allowance=ASKING))
        job = Job(running.job.name, ["--info", *running.job.arguments])
        self._take_on(job, info, self._start(job, info), asks_for=running)

    def _cancel(self, running: Running, info: Outcome) -> None:
        """Cancel a driver if its answer to `--info` says that it can be."""
        if running.exited:
            return
        if info.ok and info.reply.get("has_cancel") is True:
            self._note(f"{info.name}: cancelling it")
            running.cancel(self._listener.now(), is_aggregator="drivers" in info.reply)
        else:
            self._note(f"{info.name}: cannot be cancelled, may finish")

    def _stop(self, these: Iterable[Running], cause: str | None) -> None:
        these = [running for running in these if not running.life.stopping]
        if not these:
            return
        from servo_agg.running import stop_all

        for running in these:
            self._note(f"{running.job.name}: stopping it")
        stop_all(these, cause, self._listener.now())

    def _attend(self, outcomes: dict[str, Outcome]) -> bool:
        """Look at each driver: must it be stopped, what is the next step of that, is it done.

        Only at those with news, or whose moment has come. Tells whether any was done.
        """
        before = len(self._running)
        now = self._listener.now()
        hurried = self._listener.hurried
        those = [
            running
            for running in self._running.values()
            if hurried or running.has_news or (running.look_at is not None and now >= running.look_at)
        ]
        # Together: the look at all processes that each stop begins with takes milliseconds.
        self._stop([running for running in those if running.judge(now, self._listener)], None)
        glance = Glance()
        to_kill: list[Tree] = []
        for running in those:
            if running.life.stopping:
                if hurried:
                    running.life.stop(self._listener.now(), 0)
                tree = running.descend(self._listener.now(), glance)
                to_kill += [tree] if tree is not None else []
            if not running.done:
                running.was_attended(self._listener.now())
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
        kill(to_kill)
        return len(self._running) < before

    def _keep(self, phase: Phase, started_at: float, outcome: Outcome) -> None:
        if self.remember is not None:
            self.remember(phase.name, started_at, outcome)

    def _wait(self, stop_at: float | None) -> None:
        now = self._listener.now()
        seconds = TICK
        for moment in (stop_at, *(running.look_at for running in self._running.values())):
            if moment is not None:
                seconds = min(seconds, max(moment - now, _GLANCE))
        for event in self._listener.events(seconds):
            self._learn(event)

    def _learn(self, event: object) -> None:
        """Take in what concerns one driver, and pass on what it says."""
        running = self._running.get(event.pid) if isinstance(event, (Output, Closed, Exited)) else None
        if running is None or not isinstance(event, (Output, Closed, Exited)):
            return
        messages = running.learn(event, self._listener.now(), self._note)
        # All that came together is told at once: a line by itself would cost its own way to the outlet.
        if messages and running.phase.hear is not None and not self._listener.in_vain:
            running.phase.hear(running.job.name, messages)
