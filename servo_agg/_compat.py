"""C modules behind slow wrappers of the standard library. No other module of the package names them.

To import `signal` takes 4.6 ms, `json` 8 ms and `threading` 3.8 ms, most of it for enumerations and regular
expressions that a query does not need. The names here come from the C module behind each wrapper, or from
the wrapper where an interpreter has no such C module.

This module is imported before signals are blocked, so it must be quick: what is not built into the
interpreter (`_json`) is imported by the function that needs it.
"""

from __future__ import annotations

import _thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from typing import Any, Optional, Protocol

    PairsHook = Optional[Callable[[list[tuple[str, Any]]], Any]]

    class Scan(Protocol):
        """Read the JSON value that begins at `index`; return it and the index after it.

        Raises StopIteration, ValueError or what the callbacks of `json_scanner` raise.
        """

        def __call__(self, text: str, index: int, /) -> tuple[Any, int]: ...

else:
    try:
        import _signal
    except ImportError:
        import signal as _signal

SIG_BLOCK = _signal.SIG_BLOCK
SIG_DFL = _signal.SIG_DFL
SIG_IGN = _signal.SIG_IGN
SIG_UNBLOCK = _signal.SIG_UNBLOCK
SIGCHLD = _signal.SIGCHLD
SIGCONT = _signal.SIGCONT
SIGHUP = _signal.SIGHUP
SIGINT = _signal.SIGINT
SIGKILL = _signal.SIGKILL
SIGSTOP = _signal.SIGSTOP
SIGTERM = _signal.SIGTERM
SIGUSR1 = _signal.SIGUSR1
getsignal = _signal.getsignal
pthread_sigmask = _signal.pthread_sigmask
set_wakeup_fd = _signal.set_wakeup_fd
signal = _signal.signal
valid_signals = _signal.valid_signals

TIMEOUT_MAX = _thread.TIMEOUT_MAX
allocate_lock = _thread.allocate_lock
stack_size = _thread.stack_size
start_new_thread = _thread.start_new_thread


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """Send a signal by a pidfd. Raises OSError. An interpreter with `os.pidfd_open` has it."""
    _signal.pidfd_send_signal(pidfd, number)


def signal_name(number: int) -> str:
    """Return the name of a signal: `SIGTERM`, or `signal 35` where the system has no name for it."""
    names = (name for name, value in vars(_signal).items() if value == number and name.startswith("SIG"))
    # Of several names, the first in alphabetical order is the usual one: SIGABRT, SIGCHLD, SIGIO.
    return min((name for name in names if not name.startswith("SIG_")), default=f"signal {number}")


def signal_number(name: str) -> int:
    """Return the number of a signal."""
    return int(vars(_signal)[name])


def json_scanner(
    *,
    parse_float: Callable[[str], Any],
    parse_constant: Callable[[str], Any],
    object_pairs_hook: PairsHook = None,
) -> Scan:
    """Return a function that reads JSON values. The arguments are those of `json.JSONDecoder`."""
    try:
        from _json import make_scanner  # noqa: PLC0415 - a shared library: 0.4 ms
    except ImportError:
        from json import JSONDecoder  # noqa: PLC0415 - only where there is no C module

        decoder: Any = JSONDecoder(
            parse_float=parse_float, parse_constant=parse_constant, object_pairs_hook=object_pairs_hook
        )
        scan_once: Scan = decoder.scan_once
        return scan_once
    context: Any = _ScannerContext()
    context.parse_float = parse_float
    context.parse_constant = parse_constant
    context.object_pairs_hook = object_pairs_hook
    scan: Scan = make_scanner(context)
    return scan


class _ScannerContext:
    """What the C scanner reads from a `json.JSONDecoder`: these attributes and those set above."""

    strict = True
    object_hook = None
    parse_int = int


def json_encoder() -> Callable[[object], str]:
    """Return a function that writes a JSON value in ASCII without white space.

    It raises TypeError for what is not a JSON value, ValueError for NaN and Infinity.
    """
    try:
        from _json import encode_basestring_ascii, make_encoder  # noqa: PLC0415 - as above
    except ImportError:
        from json import JSONEncoder  # noqa: PLC0415 - as above

        return JSONEncoder(separators=(",", ":"), allow_nan=False).encode
    # The positions mean: markers against reference cycles, default, string encoder, indent, key separator,
    # item separator, sort_keys, skipkeys, allow_nan.
    write: Any = make_encoder(
        None, _reject_value, encode_basestring_ascii, None, ":", ",", False, False, False
    )
    return lambda value: "".join(write(value, 0))


def _reject_value(value: object) -> object:
    raise TypeError(f"{value!r} is not a JSON value")
