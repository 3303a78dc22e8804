"""Locks of servo directories (SPEC 10.66-10.76)."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from servo_agg.lock import LOCK_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path


@contextmanager
def held(path: Path, flags: int = os.O_RDONLY) -> Iterator[None]:
    """Hold the lock of a file or directory."""
    descriptor = os.open(path, flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def held_as_by_adjust(directory: Path) -> AbstractContextManager[None]:
    """Hold the lock of a servo directory, as another adjust would."""
    return held(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT)


def is_free(directory: Path) -> bool:
    """Return whether no adjust holds the lock of a servo directory."""
    with (directory / LOCK_FILE).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
