"""SPEC 4.6, 5.18: whatever a driver prints, in any phase, the agent gets exactly one final object."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from servo_agg.protocol.messages import encode, parse_object
from tests.support.outputs import streams
from tests.support.servo import ServoDirectory

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
"""Prints the file `output` in the phase that is fuzzed, and a correct answer in the others."""

PHASES = {"info": ["--info", "app"], "query": ["--query", "app"], "adjust": ["app"]}


@pytest.fixture(scope="module")
def servo() -> Iterator[ServoDirectory]:
    with tempfile.TemporaryDirectory() as parent:
        created = ServoDirectory(Path(parent))
        created.add_script("made-up", DRIVER)
        yield created


@pytest.mark.full
@pytest.mark.parametrize("phase", PHASES)
@settings(max_examples=settings().max_examples // 20)
@given(output=streams, status=st.sampled_from([0, 0, 3]))
@example(output=b'{"status":"ok"}\n', status=0)
@example(output=b'{"progress":50}\n{"status":"rejected","reason":"r"}\n{"progress":100}\n', status=0)
def test_whatever_a_driver_prints_there_is_one_final_object(
    servo: ServoDirectory, phase: str, output: bytes, status: int
) -> None:
    (servo.path / "which").write_text(f"{phase} {status}\n", encoding="ascii")
    (servo.path / "output").write_bytes(output)
    completed = servo.run(*PHASES[phase], input=servo.request("web.cpu"))
    assert b"Traceback" not in completed.stderr
    assert completed.stderr.isascii()
    # Compact, in ASCII and one on each line: encoded again they are the same bytes.
    lines = completed.stdout.splitlines(keepends=True)
    assert [encode(parse_object(line)) for line in lines] == lines
    final = completed.reply
    if phase != "adjust":
        assert len(lines) == 1
    else:
        percents = [message["progress"] for message in completed.progress]
        assert percents == sorted(percents)
        assert {type(progress) for progress in percents} == {int}
        assert percents[-1] == 100
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
