"""Processes: their environment, their state, and whether any is left after a test.

Everything here reads /proc. A zombie, which has exited but has not been reaped, is not alive: it has no
resources and cannot act.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MARK = "SERVO_AGG_TEST_MARK"
"""The environment variable that marks the processes of one test."""

POLL = 0.005
"""Seconds between two checks of a wait."""

# PYTHONDONTWRITEBYTECODE: without cached bytecode, every start would compile the program.
_AMBIENT = ("OPTUNE_", "SERVO_AGG_", "DRIVER_", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE")

T = TypeVar("T")


class DeadlineError(AssertionError):
    """Something did not happen in time."""


class LeftoverError(AssertionError):
    """Processes outlived the test that started them."""


def environment(*overlays: Mapping[str, str | None]) -> dict[str, str]:
    """Return the environment for a child: ours, then `overlays` in turn, where None removes a variable.

    Variables of ours (OPTUNE_*, ...) that the caller's shell has are left out. `python3` is the interpreter
    that runs the tests: `#!/usr/bin/env python3` must find the same packages, and a version manager's wrapper
    would take more time than what is tested. Directories that we may not search are left out of PATH: with
    them, `env` exits with 126 instead of 127 for a program that does not exist.
    """
    made = {
        name: value for name, value in os.environ.items() if not name.startswith(_AMBIENT) or name == MARK
    }
    path = [str(Path(sys.executable).parent), *made.get("PATH", os.defpath).split(os.pathsep)]
    made["PATH"] = os.pathsep.join(directory for directory in path if os.access(directory, os.X_OK))
    for overlay in overlays:
        for name, value in overlay.items():
            if value is None:
                made.pop(name, None)
            else:
                made[name] = value
    return made


def has_interpreter(script: str) -> bool:
    """Return whether the interpreter that `#!/usr/bin/env NAME` names in a script is installed, if any."""
    name = re.search(r"^#!/usr/bin/env (\S+)$", script, re.MULTILINE)
    return name is None or shutil.which(name[1]) is not None


def wait_until(predicate: Callable[[], T], deadline: float, what: str) -> T:
    """Return the first true value of `predicate`; after `deadline` seconds fail with an error naming `what`.

    All waits of tests use this function or a deadline of the fake agent, and no fixed sleep.
    """
    end = time.monotonic() + deadline
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= end:
            raise DeadlineError(f"not within {deadline:g} s: {what}")
        time.sleep(POLL)


def twice_in_a_row(predicate: Callable[[], bool]) -> Callable[[], bool]:
    """Return a predicate that is true once `predicate` was true in two successive calls.

    A single search for marked processes may miss one: while a process executes another program, its
    environment looks empty.
    """
    count = 0

    def check() -> bool:
        nonlocal count
        count = count + 1 if predicate() else 0
        return count > 1

    return check


def stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on: state, parent, group, session, ...

    Empty when there is no such process.
    """
    # The name before the state stands in parentheses and may itself hold blanks and parentheses.
    return _read(f"/proc/{pid}/stat").rpartition(b")")[2].decode("ascii").split()


def state(pid: int) -> str:
    """Return the letter of the state, "" when there is no such process; "T" is stopped, "Z" a zombie."""
    return "".join(stat(pid)[:1])


def start_time(pid: int) -> str:
    """Return when it was started, "" when there is no such process."""
    return "".join(stat(pid)[19:20])


def alive(pid: int) -> bool:
    """Return whether a thread of the process (the 20th field of proc(5)) has not exited."""
    fields = stat(pid)
    return bool(fields) and (fields[0] not in ("Z", "X") or int(fields[17]) > 1)


def parent_of(pid: int) -> int:
    """Return the parent of a process that exists."""
    return int(stat(pid)[1])


def children(parent: int) -> list[int]:
    """Return the children of `parent`, zombies too."""
    return [pid for pid in _pids() if stat(pid)[1:2] == [str(parent)]]


def blocked_on_write(pid: int) -> bool:
    """Return whether a thread of `pid` waits in a write to a pipe."""
    # A thread may end meanwhile.
    with contextlib.suppress(OSError):
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return any("pipe_write" in (task / "wchan").read_text(encoding="ascii") for task in tasks)
    return False


@dataclass(frozen=True)
class ProcessId:
    """A pid together with a start time, which no later process shares."""

    pid: int
    start_time: str

    @property
    def exists(self) -> bool:
        """Whether there is still such a process, if only as a zombie."""
        return self.start_time != "" and start_time(self.pid) == self.start_time


def session_members(session: int) -> list[int]:
    """Return the living processes of `session`."""
    return [pid for pid in _pids() if alive(pid) and stat(pid)[3:4] == [str(session)]]


def kill_session(session: int, deadline: float = 20.0) -> None:
    """SIGKILL every process of `session`, and what these start meanwhile, until none is left."""

    def kill_all() -> bool:
        members = session_members(session)
        for pid in members:
            _kill(pid)
        return not members

    wait_until(kill_all, deadline, f"end of all processes of session {session}")


@dataclass(frozen=True)
class Marked:
    """The processes with one value of the mark in their environment, which their children inherit."""

    value: str

    def living(self) -> dict[int, str]:
        """Return pid and command line of each that is alive. One that cleared its environment is not seen."""
        wanted = f"\0{MARK}={self.value}\0".encode()
        found = {
            pid: _command_line(pid)
            for pid in _pids()
            if pid != os.getpid() and wanted in b"\0%b\0" % _read(f"/proc/{pid}/environ")
        }
        return {pid: command for pid, command in found.items() if alive(pid)}

    def kill(self, deadline: float = 20.0) -> None:
        """SIGKILL them, and what they start meanwhile, until none is left."""

        def kill_all() -> bool:
            left = self.living()
            for pid in left:
                _kill(pid)
            return not left

        wait_until(twice_in_a_row(kill_all), deadline, f"end of all processes marked {self.value}")


@contextlib.contextmanager
def no_process_left(
    mark: str, deadline: float = 10.0, *, any_started: Callable[[], bool] = lambda: True
) -> Iterator[Marked]:
    """Mark all children started inside; at the end neither they nor their children may be alive.

    They have `deadline` seconds to end. What is left then is killed, and named in a LeftoverError unless the
    body has already failed. A test that leaves a process on purpose, such as a restarted service, ends it
    inside the block. Where `any_started` returns false there is no search; it is slow.
    """
    marked = Marked(f"{mark}-{uuid.uuid4().hex}")
    before = os.environ.get(MARK)
    os.environ[MARK] = marked.value
    try:
        yield marked
    except BaseException:
        marked.kill()
        raise
    finally:
        if before is None:
            del os.environ[MARK]
        else:
            os.environ[MARK] = before

    if not any_started():
        return
    try:
        wait_until(twice_in_a_row(lambda: not marked.living()), deadline, "end of all processes of the test")
    except DeadlineError as error:
        left = marked.living()
        marked.kill()
        if left:
            lines = "\n".join(f"  {pid}: {command}" for pid, command in sorted(left.items()))
            raise LeftoverError(f"alive {deadline:g} s after the end of the test:\n{lines}") from error


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _command_line(pid: int) -> str:
    return _read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode("utf-8", "replace").strip()


def _read(path: str) -> bytes:
    """Return the content of a file of /proc, b"" if it cannot be read.

    After each test the files of all processes are read, and file objects would take most of that time.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    blocks = []
    try:
        while block := os.read(descriptor, 65536):
            blocks.append(block)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
    return b"".join(blocks)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
