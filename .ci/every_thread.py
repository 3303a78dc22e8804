"""Trace threads that `_thread` starts: coverage only traces those that `threading` starts.

`.ci/coverage` copies this module to a separate environment, where each interpreter imports it at its start.
"""

# ruff: noqa: INP001 - it is copied, and not part of a package

import _thread
import sys
import threading
from typing import Any, Callable

_start = _thread.start_new_thread


def _start_traced(function: Callable[..., object], arguments: Any, keywords: Any = None) -> int:
    def traced() -> None:
        sys.settrace(threading.gettrace())
        function(*arguments, **(keywords or {}))

    return _start(traced, ())


_thread.start_new_thread = _start_traced
