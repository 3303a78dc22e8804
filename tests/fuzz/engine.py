"""The command line of the fuzzers, and the run of atheris."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import atheris

from tests.support.outputs import INVALID, TOKENS, VALID

if TYPE_CHECKING:
    from collections.abc import Callable


def fuzz(prepare: Callable[[Path], Callable[[bytes], None]], description: str) -> None:
    """Call the function that `prepare` returns, for a new directory, with many inputs or the one of --input.

    An exception is a finding: then the directory is kept, with the input in it.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seconds", type=int, default=60, help="how long (default: %(default)s)")
    parser.add_argument("--input", type=Path, help="a file with the only input")
    arguments = parser.parse_args()
    if arguments.input:
        given = arguments.input.read_bytes()
        with tempfile.TemporaryDirectory() as scratch:
            prepare(Path(scratch))(given)
        return
    place = Path(tempfile.mkdtemp(prefix="fuzz-"))
    corpus = place / "corpus"
    corpus.mkdir()
    for number, line in enumerate(VALID + INVALID):
        # The first two bytes are not part of the output: see the fuzzers.
        (corpus / str(number)).write_bytes(bytes([number % 4, number]) + line + b"\n")
    words = place / "words"
    escaped = ("".join(f"\\x{byte:02x}" for byte in token) for token in TOKENS if len(token) < 100)
    words.write_text("".join(f'"{word}"\n' for word in escaped), encoding="ascii")
    options = [
        f"-max_total_time={arguments.seconds}",
        "-max_len=4096",
        "-timeout=30",
        "-print_final_stats=1",
        f"-dict={words}",
        f"-artifact_prefix={place}/",
        str(corpus),
    ]
    # The fuzzer never returns, so it runs in a child.
    child = os.fork()
    if child == 0:
        atheris.Setup([sys.argv[0], *options], prepare(place))
        atheris.Fuzz()
    _, status = os.waitpid(child, 0)
    if status == 0:
        shutil.rmtree(place)
    sys.exit(os.waitstatus_to_exitcode(status))
