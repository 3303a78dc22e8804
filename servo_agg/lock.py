"""The lock of a servo directory: one adjust at a time (SPEC 10.66-10.78).

The lock is a `flock` on the file `.servo-agg.lock`, whose mode lets only its owner open it. A lock on the
directory itself could be taken by any user who may read the directory. The directory is locked as well,
unless another process holds that lock: users who may not open the file can lock nothing else.

The descriptors are opened before the watchdog is forked. It holds them too, and the kernel releases a lock
when the last copy of its descriptor is closed. The file itself is never removed: its presence means nothing.
"""

from __future__ import annotations

import errno
import os
import stat

from servo_agg.errors import resource_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LOCK_FILE = ".servo-agg.lock"

_MODE = 0o600

_READ_BY_ALL = 0o444

_PID_SIZE = 32
"""Bytes of the lock file that are read: a process id and a newline."""


def open_lock_descriptors() -> list[int]:
    """Return descriptors of what an adjust must lock, in this order; [] if nothing can be opened.

    The lock file comes first, if it can be used. The servo directory follows, and its adjust.d where not
    everybody may read the servo directory. Raises OSError if descriptors or memory are missing.
    """
    found = [*_opened(_open_lock_file), *_opened(_open_servo_directory)]
    # Other users may be able to open nothing else. But a link may lead to the adjust.d of another servo
    # directory, which has a lock of its own.
    if not found or not (_may_be_read_by_all(".") or os.path.islink("adjust.d")):
        found += _opened(_open_drivers_directory)
    return found


def _opened(open_it: Callable[[], int | None]) -> list[int]:
    try:
        descriptor = open_it()
    except OSError as error:
        if resource_error(error):
            raise
        return []
    return [] if descriptor is None else [descriptor]


def is_lock_file(descriptor: int) -> bool:
    """Return whether a descriptor is that of the lock file, rather than of a directory."""
    return stat.S_ISREG(os.fstat(descriptor).st_mode)


def locked_path(descriptor: int, directory: str) -> str:
    """Return the path of the directory that a descriptor locks. `directory`: the servo directory."""
    is_servo_directory = os.path.samestat(os.fstat(descriptor), os.stat("."))
    return directory if is_servo_directory else os.path.join(directory, "adjust.d")


def try_lock(descriptor: int) -> bool:
    """Take the lock of a descriptor; return False if another process holds it. Never wait.

    Write our process id to the lock file. Raises OSError if the file system has no locks.
    """
    import fcntl  # noqa: PLC0415 - only an adjust that was not refused takes the lock

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    if is_lock_file(descriptor):
        _write_pid(descriptor)
    return True


def holder(descriptor: int) -> int | None:
    """Return the process id that the lock file names, None if there is no such process."""
    if not is_lock_file(descriptor):
        return None
    try:
        pid = int(os.pread(descriptor, _PID_SIZE, 0))
        if pid <= 0:
            return None
        os.kill(pid, 0)
    except PermissionError:
        # It runs as another user.
        return pid
    except (OSError, ValueError, OverflowError):
        return None
    return pid


def _write_pid(descriptor: int) -> None:
    text = b"%d\n" % os.getpid()
    try:
        # In this order, a reader finds one process id or the other at any moment.
        os.pwrite(descriptor, text, 0)
        os.ftruncate(descriptor, len(text))
    except OSError:
        # Only the message of an adjust that waits for us needs it: a full disk does no harm.
        return


def _open_lock_file() -> int | None:
    """Open the lock file, or make it; return None if it cannot be trusted. Raises OSError."""
    # O_NONBLOCK: do not block on a FIFO.
    flags = os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(LOCK_FILE, flags | os.O_RDWR)
    except FileNotFoundError:
        descriptor = _create_lock_file(flags)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        descriptor = os.open(LOCK_FILE, flags | os.O_RDONLY)
    if _is_trusted(descriptor):
        return descriptor
    os.close(descriptor)
    return None


def _create_lock_file(flags: int) -> int:
    try:
        descriptor = os.open(LOCK_FILE, flags | os.O_RDWR | os.O_CREAT | os.O_EXCL, _MODE)
    except FileExistsError:
        # Another adjust has just made it.
        return os.open(LOCK_FILE, flags | os.O_RDWR)
    if os.geteuid() == 0:
        _give_to_owner_of_directory(descriptor)
    return descriptor


def _give_to_owner_of_directory(descriptor: int) -> None:
    """Make the owner of the directory the owner of the lock file, so that both can open it."""
    try:
        directory = os.stat(".")
        os.chown(descriptor, directory.st_uid, directory.st_gid)
    except OSError:
        # A root without that right, or a file system without owners.
        return


def _is_trusted(descriptor: int) -> bool:
    """Return whether a lock file can be one that an adjust made; restrict its mode if necessary.

    A link to another file must not be written to. Where any user may write to the directory, a file of
    another user is not trusted: that user could hold its lock forever.
    """
    found, directory = os.fstat(descriptor), os.stat(".")
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        return False
    if directory.st_mode & stat.S_IWOTH and found.st_uid not in (0, os.geteuid(), directory.st_uid):
        return False
    if stat.S_IMODE(found.st_mode) != _MODE:
        _restrict(descriptor)
    return True


def _restrict(descriptor: int) -> None:
    """Set the mode of the lock file, which differs after `chmod -R`, or with a umask of 0777."""
    try:
        os.fchmod(descriptor, _MODE)
    except OSError:
        # Another user's file, or a read-only file system.
        return


def _open_servo_directory() -> int:
    return os.open(".", os.O_RDONLY | os.O_DIRECTORY)


def _open_drivers_directory() -> int:
    return os.open("adjust.d", os.O_RDONLY | os.O_DIRECTORY)


def _may_be_read_by_all(path: str) -> bool:
    try:
        # Such a list can take from some users what the mode allows.
        has_access_list = "system.posix_acl_access" in os.listxattr(path)
    except (AttributeError, OSError):
        # Not every system and file system has access control lists.
        has_access_list = False
    return not has_access_list and os.stat(path).st_mode & _READ_BY_ALL == _READ_BY_ALL
