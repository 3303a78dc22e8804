"""Makes coverage see every thread: it asks `threading` for that, and our threads are started below that.

`.ci/coverage` puts this into an environment of its own, where each interpreter imports it at its start.
"""

# ruff: noqa: INP001 - it is copied, and is no part of a package

import _thread
import sys
import threading
from typing import Any, Callable

_start = _thread.start_new_thread


def _start_seen(work: Callable[..., object], arguments: Any, keywords: Any = None) -> int:
    def seen() -> None:
        sys.settrace(threading.gettrace())
        work(*arguments, **(keywords or {}))

    return _start(seen, ())


_thread.start_new_thread = _start_seen
