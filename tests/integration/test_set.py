"""SPEC 14.21-14.23, 14.29: `--set COMPONENT.SETTING=VALUE` instead of stdin, and the help."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.servo import ServoDirectory


def test_an_adjust_gives_assignments_to_their_drivers(servo: ServoDirectory) -> None:
    servo.add("01a", "echo", component="web")
    servo.add("02b", "echo", component="db", settings='"name": {"value": "x"}')
    completed = servo.run("app", "--set", "web.cpu=4", "--set=db.name=4")
    assert completed.reply["status"] == "ok"
    inputs = [json.loads(servo.echoed(name, "adjust")["stdin"]) for name in ("01a", "02b")]
    assert inputs == [
        {"application": {"components": {"web": {"settings": {"cpu": {"value": 4}}}}}},
        {"application": {"components": {"db": {"settings": {"name": {"value": "4"}}}}}},
    ]


@pytest.mark.parametrize("operation", [(), ("--plan", "--json")], ids=["adjust", "plan"])
def test_a_wrong_assignment_is_refused(servo: ServoDirectory, operation: tuple[str, ...]) -> None:
    servo.add("01a", "plain", component="web")
    for value, reason in (("web.cpx=4", "unknown-settings"), ('web.cpu={"a":1,"a":2}', "bad-input")):
        completed = servo.run(*operation, "app", f"--set={value}")
        assert (completed.returncode, completed.reply["reason"]) == (1, reason)
        assert completed.reply["message"].startswith(f"--set {value[:7]}")
    assert servo.log(phase="adjust") == []


def test_without_drivers_the_files_that_are_not_executable_are_named(servo: ServoDirectory) -> None:
    (servo.drivers / "01a").touch()
    reply = servo.run("app", "--set", "web.cpu=4").reply
    assert reply["reason"] == "unknown-settings"
    assert reply["message"].startswith("--set web.cpu=4: no driver describes a setting web.cpu")
    assert "to make the files there drivers, use chmod +x: 01a" in reply["message"]


@pytest.mark.parametrize("operation", [(), ("--plan",)], ids=["adjust", "plan"])
def test_stdin_is_not_read(servo: ServoDirectory, operation: tuple[str, ...]) -> None:
    servo.add("01a", "plain", component="web")
    read_end, write_end = os.pipe()
    try:
        os.write(write_end, b"for another program")
        # The write end stays open: a program that reads would wait forever.
        completed = servo.run(*operation, "app", "--set", "web.cpu=4", stdin=read_end, timeout=30)
        assert (completed.returncode, completed.stderr) == (0, b"")
        assert os.read(read_end, 64) == b"for another program"
    finally:
        os.close(read_end)
        os.close(write_end)


def test_the_help_fits_a_terminal_and_names_every_option(servo: ServoDirectory) -> None:
    servo.add("01a", "plain")
    completed = servo.run("app", "--set", "a.b=1", "-h")
    assert (completed.returncode, completed.stderr) == (0, b"")
    lines = completed.stdout.decode("ascii").splitlines()
    # Above the next prompt of a terminal of the usual size.
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80
    text = " ".join(lines)
    for word in ("--query", "--info", "--version", "--check", "--plan", "--set", "--json", "--timings", "-v"):
        assert f" {word} " in text or f" {word}," in text, word
    assert servo.log() == []
