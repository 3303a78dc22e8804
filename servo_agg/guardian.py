"""The watcher that ends the drivers if we are killed.

Rules (SPEC 10):
- It is forked before the first thread, in a session of its own, and holds nothing that the agent
  waits for: of our descriptors only its end of a pipe, and the lock.
- It sleeps until the other end of the pipe is gone, and with it all of us. Then it stops, as we would,
  each driver that the ledger names; of a start announced without a pid it kills all that bear its mark.
- A driver is not its child, and may be reaped by another at any time: before each signal pid and
  start time are compared.
- At our normal end it is killed, since there is nothing to guard; gone, for that or another reason, it is
  reaped at once.
"""

from __future__ import annotations

import os
import select
import time

from servo_agg.lifecycle import Life, Limits
from servo_agg.processes import bearing, kill_all, open_descriptors
from servo_agg.signals import SIG_IGN, SIGHUP, SIGINT, SIGKILL, SIGPIPE, SIGTERM, SIGUSR1, signal
from servo_agg.threads import Lock
from servo_agg.tree import Glance, Tree, kill, take_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import NoReturn

    from servo_agg.ledger import Ledger, Start
    from servo_agg.lifecycle import Step

_SWEEP = 0.2
"""Seconds between two looks for what bears the mark of an unnoted start."""

_CARE = 5
"""How many times longer than we the guardian looks for what may be left: nobody waits for it."""

_GLANCE = 0.02
"""Seconds between two looks at trees that are being stopped."""


class Guardian:
    """The watcher, seen from the process that it guards.

    line      a descriptor with an error to be polled (POLLERR) once it has gone: time to reap it
    released  whether its end is our doing
    """

    def __init__(self, ledger: Ledger, keep: Iterable[int]) -> None:
        """Fork it. `keep`: descriptors that it holds on to until no driver is alive."""
        ours, self.line = os.pipe()
        self.released = False
        self._reaped = False
        self._lock = Lock()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self.line)
            _guard(ours, keep, ledger)
        os.close(ours)

    def release(self) -> None:
        """End it: no driver runs, and none will be started. What the ledger still names is left alone.

        Told while the last words are being written, it has gone by the time it is reaped: it takes 1 ms.
        It is killed because nothing can keep it from that, not even that it was stopped.
        """
        with self._lock:
            self.released = True
            if not self._reaped:
                os.kill(self._pid, SIGKILL)

    def lives(self) -> bool:
        """Return whether it is there; when it has gone it is reaped."""
        with self._lock:
            self._reaped = self._reaped or os.waitpid(self._pid, os.WNOHANG)[0] != 0
            return not self._reaped

    def reap(self) -> None:
        """Wait until it has gone, unless that was done."""
        with self._lock:
            if not self._reaped:
                os.waitpid(self._pid, 0)
                self._reaped = True


def _guard(line: int, keep: Iterable[int], ledger: Ledger) -> NoReturn:
    """Be the guardian. Whatever happens here, it must not return into the program."""
    try:
        _detach(line, keep)
        _wait(line)
        _stop_all(ledger.starts())
    finally:
        os._exit(0)


def _detach(line: int, keep: Iterable[int]) -> None:
    os.setsid()
    for number in (SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGPIPE):
        signal(number, SIG_IGN)
    kept = {line, *keep}
    for descriptor in (0, 1, 2):
        # Its own end of the pipe, for want of anything else that surely is there: /dev/null may be missing.
        os.dup2(line, descriptor)
    for descriptor in open_descriptors():
        if descriptor not in kept:
            try:
                os.close(descriptor)
            except OSError:
                continue


def _wait(line: int) -> None:
    """Sleep until the other end is gone."""
    waiting = select.poll()
    waiting.register(line, 0)
    waiting.poll()


class _Stop:
    """One tree on its way down the ladder."""

    def __init__(self, tree: Tree, grace: float) -> None:
        self.tree = tree
        self._life = Life(time.monotonic(), Limits(grace=grace, short_grace=grace))
        self._life.stop(time.monotonic(), grace)

    def descend(self, glance: Glance) -> Step:
        """Take the next step, but for killing, and tell which it is."""
        gone, left = self.tree.remains(glance)
        any_left = bool(left) or (gone and self.tree.hides_members(glance))
        step = self._life.step(
            time.monotonic(), leader_gone=gone, any_left=any_left, settle=_CARE * self.tree.settle
        )
        if step == "ask-rest":
            self.tree.ask_rest()
        return step


def _stop_all(starts: list[Start]) -> None:
    trees = [
        (Tree(start.pid, start.mark, start.born), start.grace) for start in starts if start.pid is not None
    ]
    take_in(tree for tree, _ in trees)
    for tree, _ in trees:
        tree.ask_leader()
    stops = [_Stop(tree, grace) for tree, grace in trees]
    marks = {start.mark for start in starts if start.pid is None}
    looks_without = 0 if marks else 2
    next_sweep = 0.0
    while stops or looks_without < 2:  # noqa: PLR2004 - two looks in a row
        if looks_without < 2 and time.monotonic() >= next_sweep:  # noqa: PLR2004 - as above
            found = bearing(marks)
            kill_all(found)
            looks_without = 0 if found else looks_without + 1
            next_sweep = time.monotonic() + _SWEEP
        glance = Glance()
        steps = [(stop, stop.descend(glance)) for stop in stops]
        kill([stop.tree for stop, step in steps if step == "kill"])
        stops = [stop for stop, step in steps if step not in ("done", "give-up")]
        time.sleep(_GLANCE)
