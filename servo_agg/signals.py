"""Signals: numbers, names, and what may be done with them.

The module `signal` of the standard library is a wrapper, with enumerations that take 4 ms to import, of
one in C. A query has no use for them, and so this room offers the one in C.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from signal import (
        SIG_BLOCK,
        SIG_DFL,
        SIG_IGN,
        SIG_UNBLOCK,
        SIGCHLD,
        SIGCONT,
        SIGHUP,
        SIGINT,
        SIGKILL,
        SIGPIPE,
        SIGSTOP,
        SIGTERM,
        SIGUSR1,
        getsignal,
        pthread_sigmask,
        set_wakeup_fd,
        signal,
        valid_signals,
    )

    _numbers: dict[str, int]
else:
    import _signal
    from _signal import (
        SIG_BLOCK,
        SIG_DFL,
        SIG_IGN,
        SIG_UNBLOCK,
        SIGCHLD,
        SIGCONT,
        SIGHUP,
        SIGINT,
        SIGKILL,
        SIGPIPE,
        SIGSTOP,
        SIGTERM,
        SIGUSR1,
        getsignal,
        pthread_sigmask,
        set_wakeup_fd,
        signal,
        valid_signals,
    )

    _numbers = vars(_signal)

__all__ = [
    "SIGCHLD",
    "SIGCONT",
    "SIGHUP",
    "SIGINT",
    "SIGKILL",
    "SIGPIPE",
    "SIGSTOP",
    "SIGTERM",
    "SIGUSR1",
    "SIG_BLOCK",
    "SIG_DFL",
    "SIG_IGN",
    "SIG_UNBLOCK",
    "getsignal",
    "name_of",
    "number_of",
    "pthread_sigmask",
    "set_wakeup_fd",
    "signal",
    "valid_signals",
]


def name_of(number: int) -> str:
    """Name a signal: `SIGTERM`, or `signal 35` where the system has no name."""
    names = (name for name, value in _numbers.items() if value == number and name.startswith("SIG"))
    # Of several names the first by the alphabet is the usual one: SIGABRT, SIGCHLD, SIGIO.
    return min((name for name in names if not name.startswith("SIG_")), default=f"signal {number}")


def number_of(name: str) -> int:
    """Give the number of a signal by its name."""
    return _numbers[name]
