"""Start tokens: a variable in the environment of each driver by which its processes are found (SPEC 3.12).

The value is a chain of links, one for each aggregator around the driver and the last one for the driver
itself, joined by dots. A link is `TOKEN-PID-START-NAMESPACE`: the token of the start, then the pid, start
time and pid namespace of the aggregator that made it.
"""

from __future__ import annotations

import os

from servo_agg.processes.snapshot import read_each, read_process, shows_our_pids, start_time, take_snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from servo_agg.processes.snapshot import Process

START_TOKEN = "SERVO_AGG_START"  # noqa: S105 - no password
"""The variable that holds the chain (SPEC 3.13)."""

_SEPARATOR = "."


def new_token() -> str:
    """Return a token for one start of a driver: 16 ASCII characters."""
    return os.urandom(8).hex()


def running_links(chain: str | None) -> list[str]:
    """Return the links of a chain whose aggregators still run.

    A daemon inherits the links of aggregators that exited long ago: these say nothing about where it runs.
    """
    return [link for link in chain.split(_SEPARATOR) if _runs(link)] if chain else []


def join_links(links: Iterable[str]) -> str:
    """Return the chain with these links."""
    return _SEPARATOR.join(links)


def append_token(chain: str | None, token: str) -> str:
    """Return a chain with our own link for `token` at its end."""
    link = "-".join((token, *map(str, _own_identity())))
    return f"{chain}{_SEPARATOR}{link}" if chain else link


def read_tokens(processes: Iterable[Process]) -> None:
    """Set `tokens` of live processes that lack them, except of those whose environment cannot be read now.

    That is most of the time of a stop if there are many trees, so it is done once per process.
    """
    unread = {
        process.pid: process for process in processes if not process.is_zombie and process.tokens is None
    }
    for pid, chain in read_each(unread, lambda pid: unread[pid].variable(START_TOKEN)).items():
        if chain is not None:
            unread[pid].tokens = {link.partition("-")[0] for link in chain.split(_SEPARATOR)}


def processes_with_tokens(tokens: set[str]) -> list[Process]:
    """Return all live processes that have one of these tokens."""
    processes = take_snapshot().values()
    read_tokens(processes)
    return [process for process in processes if not process.is_zombie and tokens & (process.tokens or set())]


_own: list[tuple[int, int, int]] = []


def _own_identity() -> tuple[int, int, int]:
    """Return our pid, start time and pid namespace; the latter two are 0 if unknown."""
    if not _own:
        known = shows_our_pids()
        try:
            namespace = os.stat("/proc/self/ns/pid").st_ino if known else 0
        except OSError:
            namespace = 0
        _own.append((os.getpid(), start_time(os.getpid()) if known else 0, namespace))
    return _own[0]


def _runs(link: str) -> bool:
    """Return whether the aggregator that made a link still runs; True if in doubt."""
    numbers = link.split("-")[1:]
    if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):  # noqa: PLR2004 - see the top
        return True
    pid, started, namespace = map(int, numbers)
    _, own_start, own_namespace = _own_identity()
    if namespace != own_namespace:
        return True
    process = read_process(pid) if own_start and started else None
    if process is not None:
        return process.start_time == started and not process.is_zombie
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
