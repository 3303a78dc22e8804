"""Simulate a machine that forbids, hides or lacks something.

Python imports this at its start when the directory is on PYTHONPATH. The environment variable MACHINE has one
or more of these words. They concern the processes whose command line contains the quoted word:

    forbids    a process `another-users` may not be signaled, nor the group that it leads (EPERM)
    hides      /proc does not show a process `hidden`
    foreign    /proc is that of another pid namespace
    blocks     a read of /proc/PID/stat of a process `hangs` blocks until the file `go` exists
    no-null    there is no /dev/null
    no-pidfd   the kernel has no pidfds
    no-fd      there is no list of the open descriptors, of which there may be a billion
"""

# ruff: noqa: INP001 - its directory is meant for PYTHONPATH, not a package

from __future__ import annotations

import builtins
import errno
import os
import signal
import sys
import time
from typing import Any

_words = os.environ.get("MACHINE", "").split()
_kill, _killpg, _listdir, _open, _sysconf = os.kill, os.killpg, os.listdir, os.open, os.sysconf
_read_file, _readlink = builtins.open, os.readlink
_pidfd_send_signal = signal.pidfd_send_signal


def _is(pid: object, word: str) -> bool:
    try:
        with _read_file(f"/proc/{pid}/cmdline", "rb") as cmdline:
            return word.encode() in cmdline.read()
    except OSError:
        return False


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _kill_if_allowed(pid: int, number: int) -> None:
    if _is(pid, "another-users"):
        raise _error(errno.EPERM)
    _kill(pid, number)


def _killpg_if_allowed(group: int, number: int) -> None:
    if _is(group, "another-users"):
        raise _error(errno.EPERM)
    _killpg(group, number)


def _pidfd_send_if_allowed(pidfd: int, number: int, *rest: Any) -> None:
    with _read_file(f"/proc/self/fdinfo/{pidfd}") as info:
        pid = next(line.split()[1] for line in info if line.startswith("Pid:"))
    if _is(pid, "another-users"):
        raise _error(errno.EPERM)
    _pidfd_send_signal(pidfd, number, *rest)


def _pidfd_open(pid: int, flags: int = 0) -> int:  # noqa: ARG001 - as os.pidfd_open
    raise _error(errno.ENOSYS)


def _list(path: Any = ".") -> list[Any]:
    names = _listdir(path)
    if path in ("/dev/fd", "/proc/self/fd") and "no-fd" in _words:
        raise _error(errno.ENOENT)
    if path == "/proc" and "hides" in _words:
        return [name for name in names if not _is(name, "hidden")]
    return names


def _read(file: Any, *rest: Any, **options: Any) -> Any:
    _, _, pid = str(file).partition("/proc/")
    pid, _, name = pid.partition("/")
    if "hides" in _words and _is(pid, "hidden"):
        raise _error(errno.ENOENT)
    while "blocks" in _words and name == "stat" and _is(pid, "hangs") and not os.path.exists("go"):
        time.sleep(0.01)
    return _read_file(file, *rest, **options)


def _open_file(path: Any, *rest: Any, **options: Any) -> int:
    if path == "/dev/null":
        raise _error(errno.ENOENT)
    return _open(path, *rest, **options)


def _read_link(path: Any, **options: Any) -> Any:
    return "1" if path == "/proc/self" else _readlink(path, **options)


if "forbids" in _words:
    os.kill, os.killpg = _kill_if_allowed, _killpg_if_allowed
    sys.modules["_signal"].pidfd_send_signal = _pidfd_send_if_allowed  # type: ignore[attr-defined]
if "no-pidfd" in _words:
    os.pidfd_open = _pidfd_open
if {"hides", "no-fd"} & set(_words):
    os.listdir = _list
if {"hides", "blocks"} & set(_words):
    builtins.open = _read
if "foreign" in _words:
    os.readlink = _read_link
if "no-null" in _words:
    os.open = _open_file
if "no-fd" in _words:
    os.sysconf = lambda name: 1 << 30 if name == "SC_OPEN_MAX" else _sysconf(name)
