"""Processes by psutil (SPEC 10): it finds them where there is no /proc, and signals them without pidfds.

It is imported only then, and by an adjust, which must be sure that it can be imported: that takes 14 ms.
"""

from __future__ import annotations

import io
import mmap
import os
import sys

from servo_agg import IMPORT_MEMORY
from servo_agg.threads import Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_LOAD_TIMEOUT = 1.0
"""Seconds to wait for another thread that is importing psutil; that import may hang."""

_loading = Lock()


def load_psutil() -> None:
    """Import psutil. Raises what the import raises, which is not ImportError alone."""
    if not _loading.acquire(timeout=_LOAD_TIMEOUT):
        raise ImportError("loading it takes too long")
    stderr, sys.stderr = sys.stderr, io.StringIO()
    try:
        # The same check as for our own modules: see IMPORT_MEMORY.
        mmap.mmap(-1, IMPORT_MEMORY).close()
        # Where /proc is missing, older versions print a traceback and continue.
        import psutil  # noqa: F401, PLC0415 - see the top
    finally:
        sys.stderr = stderr
        _loading.release()


def processes() -> Iterator[dict[str, Any]]:
    """Yield the arguments of `snapshot.Process` for each process; nothing if psutil cannot be used."""
    try:
        load_psutil()
        import psutil  # noqa: PLC0415 - as above
    except (ImportError, OSError):
        return
    try:
        for process in psutil.process_iter():
            try:
                with process.oneshot():
                    yield {
                        "pid": process.pid,
                        "start_time": int(process.create_time() * 100),
                        "parent": process.ppid(),
                        "group": os.getpgid(process.pid),
                        "session": os.getsid(process.pid),
                        "is_zombie": process.status() == psutil.STATUS_ZOMBIE,
                        "uninterruptible": process.status() == psutil.STATUS_DISK_SLEEP,
                    }
            except (psutil.Error, OSError):
                continue
    except (psutil.Error, OSError, IndexError):
        # It raises the last one if /proc is not mounted.
        return


def variable(pid: int, name: str) -> str | None:
    """Return the value of a variable in the environment of a process, "" without it, None if unknown."""
    try:
        load_psutil()
        import psutil  # noqa: PLC0415 - as above
    except (ImportError, OSError):
        return None
    try:
        return psutil.Process(pid).environ().get(name, "")
    except (psutil.Error, OSError):
        return None


def send_signal(pid: int, number: int) -> bool:
    """Send a signal to a process; return whether psutil could, or the process has exited."""
    import psutil  # noqa: PLC0415 - as above

    try:
        psutil.Process(pid).send_signal(number)
    except psutil.NoSuchProcess:
        return True
    except Exception:  # noqa: BLE001 - it needs much that a hardened /proc lacks
        return False
    return True
