"""SPEC 13.8: how a worker splits the stderr of a driver into lines."""

from __future__ import annotations

import fcntl
import os

from servo_agg.drivers.events import EventQueue
from servo_agg.drivers.worker import Worker

F_SETPIPE_SZ = 1031
"""Python 3.9 does not have it in `fcntl`."""

BLOCK = 64 << 10
"""Bytes that a worker reads at once while the driver runs."""


def shown(stderr: bytes) -> list[bytes]:
    """Return what is shown of a driver that has exited before its worker reads for the first time."""
    (out, out_writer), (err, err_writer), (ended, ended_writer) = pipes = [os.pipe() for _ in range(3)]
    for reader, _ in pipes:
        os.set_blocking(reader, False)
    fcntl.fcntl(err_writer, F_SETPIPE_SZ, 4 * BLOCK)
    assert os.write(err_writer, stderr) == len(stderr)
    for writer in (out_writer, err_writer, ended_writer):
        os.close(writer)
    lines: list[bytes] = []
    Worker("d", 1, (out, err, ended, None), b"", EventQueue(), lambda _, line: lines.append(line)).run()
    return lines


def test_lines_that_wait_in_the_pipe_at_the_exit_are_shown_whole() -> None:
    lines = [b"%099d" % number for number in range(2000)]
    assert shown(b"\n".join(lines)) == lines


def test_a_long_line_is_cut_between_two_characters() -> None:
    text = "a" + "я" * BLOCK
    pieces = [line.decode() for line in shown(text.encode())]
    assert len(pieces) > 1
    assert "".join(pieces) == text


def test_a_long_line_that_is_not_utf8_is_shown_whole() -> None:
    line = b"\xff\xd1" * BLOCK
    assert b"".join(shown(line)) == line
