"""A driver that runs: what is known of it so far, and how it is stopped and finished.

Rules (SPEC 4, 9, 10):
- It is done when it has exited and its output is at its end; one that is being stopped, when its
  tree is gone besides. Only then it is reaped.
- A timeout is concluded, never delivered: the moment has passed, and nothing that the driver wrote
  is unread.
- Its tree is read before the first signal: what loses its parent by it is still known then.
- One that is killed by a signal, but not in a stop of ours, is stopped like any other: it did not leave
  its tree on purpose.
"""

from __future__ import annotations

import time

from servo_agg.decoder import Decoder
from servo_agg.events import CANCEL, Closed, Exited, Output
from servo_agg.inbox import ROOM
from servo_agg.lifecycle import PATIENCE, SHORT_PATIENCE, Life
from servo_agg.process import carriage_return
from servo_agg.protocol import Malformed, Reply
from servo_agg.report import Ending, Outcome
from servo_agg.tree import Tree, kill, take_in
from servo_agg.worker import PIPE_AT_MOST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Union

    from servo_agg.lifecycle import Step
    from servo_agg.listener import Listener
    from servo_agg.phase import Job, Phase
    from servo_agg.process import Child
    from servo_agg.protocol import Message
    from servo_agg.tree import Glance

    OfDriver = Union[Output, Closed, Exited]


UNREAD_AT_MOST = ROOM + 2 * PIPE_AT_MOST
"""Bytes that can have waited for us, in the inbox, with the worker and in the pipe, when a driver's moment
passed. Who has written more since, and no message in it, has been silent: it floods us with blank lines."""


class Running:
    """One driver, from its start until it is reaped. `now` is always the listener's time.

    began_at  just before its start, in monotonic seconds, of which no time in which we were stopped
              is left out
    has_news  whether something has happened to it since it was last attended to
    look_at   the moment at which it is to be attended to if nothing happens before; None: there is none
    asks_for  the driver being adjusted for which this one only asks whether it can be cancelled
    """

    def __init__(
        self, job: Job, child: Child, phase: Phase, now: float, began_at: float, asks_for: Running | None
    ) -> None:
        self.job = job
        self.child = child
        self.phase = phase
        self.life = Life(now, phase.limits)
        self.began_at = began_at
        self.has_news = True
        self.look_at: float | None = None
        self.ending = Ending()
        self.ending.asked = _asked(job, phase)
        self.exited = False
        self.told_of_cancel = False
        self.asks_for = asks_for
        self._decoder = Decoder(document=not phase.adjusting)
        self._reply: dict[str, Any] | None = None
        self._tree: Tree | None = None
        self._closed = False
        self._read_late = 0
        self._died = False
        self._babbles = False
        self._gone = False

    @property
    def done(self) -> bool:
        """Whether nothing more can come of it, or it was given up."""
        if self.ending.trouble == "unkillable":
            return True
        return self.exited and self._closed and (self._gone or not self.life.stopping)

    def learn(self, event: OfDriver, now: float, note: Callable[..., None]) -> list[Message]:
        """Take in what happened to it; give the messages that this brought. `note`: see Supervisor."""
        self.has_news = True
        messages: list[Message] = []
        if isinstance(event, Exited):
            self._take_exit()
        elif isinstance(event, Closed):
            self._closed = True
            messages = [] if self._babbles else self._decoder.end(cut=event.cut)
        elif not self._babbles:
            due = self.life.due()
            self._read_late += len(event.block) if due is not None and now >= due else 0
            messages = self._decoder.feed(event.block)
        if self.life.stopping and not self._died:
            # It was we who tore the line that it was about to say.
            messages = [message for message in messages if not isinstance(message, Malformed)]
        if messages:
            self._read_late = 0
            self.life.heard(now)
        for message in messages:
            if isinstance(message, Reply):
                self._reply = message.content
                note(f"{self.job.name}: replies ", message.content)
            elif isinstance(message, Malformed):
                self._blame("malformed", f"its output is malformed: {message.why}")
        return messages

    def _take_exit(self) -> None:
        self.exited = True
        if self.life.stopping:
            return
        ending = self.child.ending()
        if ending is not None and ending[1] is None:
            # What it leaves behind by its own will is nobody's business, should we be killed now.
            self.child.let_go()
        else:
            self._died = True

    def judge(self, now: float, listener: Listener) -> bool:
        """Tell whether it must be stopped for a failure of its own, and how: see `stop_all`."""
        if self.life.stopping:
            return False
        if self._died:
            # Killed by a signal, but not in a stop of ours, it has left its tree in the midst of its work.
            return True
        if self.exited and self._closed:
            return False
        if self.ending.trouble == "malformed":
            return True
        if self.exited or not self._is_overdue(now, listener):
            return False
        self._blame("timeout", f"{self._about_silence(now)} and was stopped")
        # To read a flood to its end would take half a second, and the agent has little patience left.
        until = self.phase.limits.until
        self._babbles = until is not None and now - self.life.silent_for(now) > until
        return True

    def _is_overdue(self, now: float, listener: Listener) -> bool:
        if not self.life.overdue(now, quiet=True):
            return False
        # In this order: what its worker has read by now is in the inbox, or was taken in.
        all_heard = self.child.worker.quiet() and not listener.unread
        return self.life.overdue(now, quiet=all_heard or self._read_late > UNREAD_AT_MOST)

    def _about_silence(self, now: float) -> str:
        limits = self.phase.limits
        if limits.until is None or limits.allowance is None:
            return f"was silent for {self.life.silent_for(now):.1f} s"
        waited = self.life.started_at - (limits.until - limits.allowance)
        if waited < max(0.5, limits.allowance / 4):
            return f"gave no answer within {limits.allowance:g} s"
        return (
            f"gave no answer within the {limits.allowance:g} s that all drivers have together, having been"
            f" begun {waited:.1f} s late because of `parallel` or `serial`,"
        )

    def _blame(self, reason: str, words: str) -> None:
        self.ending.trouble = reason
        self.ending.words = words

    def cancel(self, now: float, *, is_aggregator: bool) -> None:
        """Tell it, it alone, that it is cancelled; from now on its time is bounded (SPEC 10).

        That of an aggregator inside is not: it bounds its drivers itself, and one that cannot be
        cancelled may finish there too. So may one that runs as another user, whom we cannot tell.
        """
        if not self.child.signal(CANCEL):
            return
        self.ending.sent(CANCEL)
        if not is_aggregator:
            self.has_news = True
            self.life.leave_by(now + self.phase.limits.cancel_grace)

    def descend(self, now: float, glance: Glance) -> Tree | None:
        """Take the next step of stopping it (SPEC 10); give its tree if that is to be killed now."""
        tree = self._tree
        if tree is None or self._gone:
            return None
        step = self._next_step(tree, now, glance)
        if step == "ask-rest":
            tree.ask_rest()
        elif step == "kill":
            self.ending.sent("SIGKILL")
            return tree
        elif step == "give-up" and not tree.resists and self.life.bear_with():
            # Dying, and only slow to be scheduled: to call that unkillable would stop the whole adjust.
            return tree
        elif step == "give-up" and not tree.resists and not glance.rows and self.exited:
            # What is left of its group was killed, and may well be a zombie: nobody can see which.
            self._gone = True
        elif step == "give-up":
            names = tree.names(glance)
            names = names if self.exited else [self.job.name, *names]
            self._blame("unkillable", f"could not be killed: {', '.join(names)} still alive after SIGKILL")
        return None

    def _next_step(self, tree: Tree, now: float, glance: Glance) -> Step:
        # While the leader is there to be waited for, there is no need to look.
        left = self.exited and bool(tree.living(glance))
        if self.child.reaped:
            left = tree.hides_members(glance) or left
        step = self.life.step(now, leader_gone=self.exited, any_left=left, settle=tree.settle)
        if step == "done" and not self.child.reaped:
            # Only now can be asked who else is in its group: a zombie is a member, too.
            self.child.reap()
            if tree.hides_members(glance):
                step = self.life.step(now, leader_gone=True, any_left=True)
        self._gone = step == "done"
        if self._gone:
            # The pid may be another's now.
            self.child.let_go()
        return step

    def was_attended(self, now: float) -> None:
        """Take in that there is nothing more to do about it for now."""
        self.has_news = False
        self.look_at = None if self._gone else self.life.next_look(now, leader_gone=self.exited)

    def finish(self, shorten: Callable[[str], str]) -> Outcome:
        """Reap it, if it has exited, and judge it. `shorten` makes of its stderr what is shown."""
        self.ending.seconds = time.monotonic() - self.began_at
        facts = self.child.ending()
        if facts is not None:
            self.ending.code, self.ending.signal = facts
            if not self.child.reaped:
                self.child.reap()
            self.child.let_go()
        if self.ending.code and self._reply is None:
            self.ending.hint = carriage_return(self.job.name)
        self.ending.stderr = shorten(self.child.worker.stderr.text())
        outcome = Outcome(self.job.name, self._reply, self.ending, adjusting=self.phase.adjusting)
        if outcome.ok and self.phase.examine is not None:
            self.phase.examine(outcome)
        return outcome

    def abandon(self) -> None:
        """Kill it and all that belongs to it, without a word and without waiting."""
        tree = self._tree or Tree(self.child.pid, self.child.mark)
        take_in([tree])
        kill([tree])

    def _begin_stop(self, cause: str | None) -> Tree:
        self.has_news = True
        self.ending.stopped = cause
        self._tree = Tree(self.child.pid, self.child.mark, leader_killed=self._died)
        return self._tree


def not_begun(job: Job, phase: Phase, why: str | None = None) -> Outcome:
    """Give the outcome of a driver that was not started: it could not be, `why` says; else it was too late.

    SPEC 9, 13.
    """
    ending = Ending()
    if why is not None:
        ending.trouble, ending.words = "cannot-start", f"cannot be started: {why}"
    else:
        ending.trouble = "timeout"
        ending.words = (
            f"was not begun within the {phase.limits.allowance:g} s that all drivers have together, because"
            " of `parallel` or `serial`"
        )
    ending.asked = _asked(job, phase)
    return Outcome(job.name, None, ending, adjusting=phase.adjusting)


def _asked(job: Job, phase: Phase) -> str:
    return "" if phase.adjusting else job.arguments[0]


def stop_all(these: Iterable[Running], cause: str | None, now: float) -> None:
    """Begin to stop those of them that are not being stopped yet (SPEC 10).

    `cause` is why we stop them, None for a failure of their own; the graces are those of their phase.
    """
    fresh = [running for running in these if not running.life.stopping]
    trees = [running._begin_stop(cause) for running in fresh]  # noqa: SLF001 - its own kind
    take_in(trees)
    for running, tree in zip(fresh, trees):
        if not running.exited:
            tree.ask_leader()
            running.ending.sent("SIGTERM")
        limits = running.phase.limits
        grace, patience = limits.grace, PATIENCE
        if running.ending.trouble == "timeout":
            grace, patience = limits.short_grace, SHORT_PATIENCE
        elif running.ending.trouble == "malformed" and limits.silence is not None:
            # The agent has just been told of it, and must hear of the end before it loses patience.
            grace = min(grace, limits.silence)
        running.life.stop(now, grace, patience)
