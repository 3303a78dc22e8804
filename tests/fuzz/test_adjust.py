"""SPEC 4, 5: whatever a driver prints, in whatever operation, the agent gets one final object in time."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from servo_agg.protocol import encode, parse
from tests.outputs import streams
from tests.servo import ServoDirectory

if TYPE_CHECKING:
    from collections.abc import Iterator

DRIVER = """\
#!/bin/sh
case $1 in
--info) phase=info; right='{"version":"1"}' ;;
--query) phase=query; right='{"application":{"components":{"web":{"settings":{"cpu":{"value":2}}}}}}' ;;
*) phase=adjust ;;
esac
read fuzzed status <which
if [ $fuzzed = $phase ]; then
    cat output
    exit $status
fi
echo "$right"
"""
"""Prints what is made up in the phase that is fuzzed, and what is right before it."""

PHASES = {"info": ["--info", "app"], "query": ["--query", "app"], "adjust": ["app"]}


@pytest.fixture(scope="module")
def asked() -> Iterator[ServoDirectory]:
    with tempfile.TemporaryDirectory() as parent:
        servo = ServoDirectory(Path(parent))
        servo.add_script("made-up", DRIVER)
        yield servo


@pytest.mark.full
@pytest.mark.parametrize("phase", PHASES)
@settings(max_examples=settings().max_examples // 20)
@given(output=streams, status=st.sampled_from([0, 0, 3]))
@example(output=b'{"status":"ok"}\n', status=0)
@example(output=b'{"progress":50}\n{"status":"rejected","reason":"r"}\n{"progress":100}\n', status=0)
def test_whatever_a_driver_prints_there_is_one_final_object(
    asked: ServoDirectory, phase: str, output: bytes, status: int
) -> None:
    (asked.path / "which").write_text(f"{phase} {status}\n", encoding="ascii")
    (asked.path / "output").write_bytes(output)
    completed = asked.run(*PHASES[phase], input=json.dumps(asked.request("web.cpu")).encode())
    assert b"Traceback" not in completed.stderr
    assert completed.stderr.isascii()
    # Compact, in ASCII, and one to a line: said again they are the same bytes.
    lines = completed.stdout.splitlines(keepends=True)
    assert [encode(parse(line)) for line in lines] == lines
    final = completed.reply
    if phase != "adjust":
        assert len(lines) == 1
    else:
        told = [message["progress"] for message in completed.progress]
        assert told == sorted(told)
        assert {type(progress) for progress in told} == {int}
        assert told[-1] == 100
    if phase == "info":
        assert completed.returncode == 0
        assert final["drivers"]["made-up"]["version"]
    elif completed.returncode == 0:
        assert status == 0
        assert final.get("status", "ok") == "ok"
    else:
        assert completed.returncode == 1
        assert final["status"] != "ok"
        assert final["reason"]
        assert final["message"].startswith("made-up: ")
