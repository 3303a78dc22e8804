"""Read config.yaml, as far as section `agg` needs it (SPEC 11.6-11.10).

Rules:
- The file and the section are optional. A file without the bytes `agg` is not parsed.
- What is wrong is a UserError that names the file, the key and the value. What is outside of the section
  is not quoted, since it may be a password.
"""

from __future__ import annotations

import os
import stat

from servo_agg.config_schema import FILE, SECTION
from servo_agg.errors import BadConfiguration, BadEnvironment, install_command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from servo_agg.errors import UserError

_MAX_READ = 64 << 20
"""Bytes of the longest file that is searched for the section."""

_MAX_PARSED = 1 << 20
"""Bytes of the longest file that is parsed."""


def read_section(errors: list[UserError] | None = None) -> dict[str, Any]:
    """Return section `agg`, checked, without defaults; {} if there is none.

    Raises BadConfiguration or BadEnvironment. With `errors`, a mistake in a key is appended there instead,
    and the key is left out.
    """
    content = _read_file()
    if SECTION.encode() not in content:
        return {}
    if len(content) > _MAX_PARSED:
        raise BadConfiguration(
            f"{FILE} may have a section {SECTION} (it contains the word {SECTION}), but it is longer than"
            f" {_MAX_PARSED >> 20} MiB, the limit for a file with this section; move what is not"
            " configuration to another file"
        )
    try:
        import yaml  # noqa: F401, PLC0415 - it takes 14 ms, which is spent only for a section `agg`
    except ImportError:
        command = f"{install_command()} PyYAML"
        raise BadEnvironment(
            f"{FILE} may have a section {SECTION} (it contains the word {SECTION}), but PyYAML, which is"
            f" needed to read it, is missing; install PyYAML: {command}",
            command,
        ) from None
    try:
        text = content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadConfiguration(f"{FILE} is not UTF-8 (line {line}); save it as UTF-8") from None
    from servo_agg.config_section import parse_section  # noqa: PLC0415 - needs PyYAML

    return parse_section(text, errors)


def _read_file() -> bytes:
    """Return the content of the file in UTF-8; empty if there is no file."""
    try:
        found = os.stat(FILE)
        if not stat.S_ISREG(found.st_mode):
            return _content_of_special_file(found)
        # O_NONBLOCK: files in /proc can block, too.
        with open(os.open(FILE, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            content = file.read(_MAX_READ + 1) or b""
    except FileNotFoundError:
        if os.path.islink(FILE):
            raise BadConfiguration(f"{FILE} is a link to {os.readlink(FILE)}, which does not exist") from None
        return b""
    except OSError as error:
        raise BadConfiguration(f"cannot read {FILE}: {os.strerror(error.errno or 0)}") from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        # UTF-16, as editors on Windows write it.
        content = content.decode("utf-16", "replace").encode()
    if len(content) > _MAX_READ:
        raise BadConfiguration(
            f"{FILE} is longer than {_MAX_READ >> 20} MiB; move what is not configuration to another file"
        )
    return content


_KINDS = {"p": "a pipe", "s": "a socket", "d": "a directory"}
"""The names of file types in messages, by the first letter of `stat.filemode`."""


def _content_of_special_file(found: os.stat_result) -> bytes:
    """Return no bytes for /dev/null; raise BadConfiguration for all others: reading them may block."""
    # Compare the device number: in a container /dev/null may be another node.
    if stat.S_ISCHR(found.st_mode) and found.st_rdev == _null_device():
        return b""
    kind = _KINDS.get(stat.filemode(found.st_mode)[0], "a device")
    raise BadConfiguration(f"{FILE} must be a file, got {kind}")


def _null_device() -> int | None:
    try:
        return os.stat(os.devnull).st_rdev
    except OSError:
        return None
