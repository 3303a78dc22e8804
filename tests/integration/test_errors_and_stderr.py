"""SPEC 13.7-13.10: what is kept and shown of the stderr of drivers."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.agent import Agent
from tests.support.processes import wait_until
from tests.support.sources import adjust_script

if TYPE_CHECKING:
    from tests.support.servo import Completed, ServoDirectory

FIRST = 16 << 10
LAST = 48 << 10
"""Bytes of a driver's stderr that are kept from its start and from its end."""


FAILING_DRIVER = """\
#!/bin/sh
. ./behave.sh
misbehave_on adjust
if [ $phase = adjust ]; then cat >/dev/null; fi
cat complaint >&2
say '{"status":"failed","reason":"unstable","message":"the cluster is down"}'
exit 1
"""
"""A driver that writes the file `complaint` to its stderr and fails."""


def add_failing_driver(
    servo: ServoDirectory, complaint: str | bytes, name: str = "driver", **settings: object
) -> None:
    """Add a driver that writes this text to its stderr and fails."""
    raw = complaint if isinstance(complaint, bytes) else complaint.encode()
    (servo.path / "complaint").write_bytes(raw)
    servo.add(name, "plain", **settings)
    servo.add_script(name, FAILING_DRIVER)


def stderr_in_message(completed: Completed) -> str:
    """Return the driver's stderr as the message of a failure quotes it."""
    assert completed.returncode == 1, completed
    message: str = completed.reply["message"]
    before, mark, after = message.partition("stderr:")
    assert "the cluster is down" in before
    assert mark
    return after.lstrip(" \n")


# --- what is kept


def numbered(size: int) -> str:
    """Return numbered lines of `size` characters in all, the last one cut off."""
    return "".join(f"{number:06} is what it has to say.\n" for number in range(size // 30 + 1))[:size]


@pytest.mark.parametrize("size", [30, FIRST + LAST])
def test_stderr_of_a_failed_driver_is_kept_whole_up_to_64_kib(servo: ServoDirectory, size: int) -> None:
    add_failing_driver(servo, numbered(size))
    assert stderr_in_message(servo.adjust("driver.cpu")) == numbered(size).rstrip()


@pytest.mark.parametrize("size", [FIRST + LAST + 1, 1_000_000])
def test_more_stderr_is_cut_in_the_middle_with_a_mark(servo: ServoDirectory, size: int) -> None:
    text = numbered(size)
    add_failing_driver(servo, text)
    quoted = stderr_in_message(servo.adjust("driver.cpu"))
    assert quoted.startswith(text[:FIRST])
    assert quoted.endswith(text[-LAST:].rstrip())
    mark = quoted[FIRST : -len(text[-LAST:].rstrip())]
    assert mark.strip()
    assert len(mark) < 200


@pytest.mark.parametrize("phase", ["info", "query", "adjust"])
def test_stderr_is_always_drained(servo: ServoDirectory, phase: str) -> None:
    """A driver whose stderr is not read would hang. The stderr of a successful driver is not shown."""
    servo.add("01", "noisy", when=phase, bytes=5_000_000)
    servo.add("02", "plain")
    completed = servo.run("--info") if phase == "info" else servo.adjust("01.cpu", "02.cpu")
    assert completed.returncode == 0, completed
    assert completed.stderr == b""
    assert len(completed.stdout) < 10_000


def test_stderr_of_a_background_child_is_not_waited_for(servo: ServoDirectory) -> None:
    add_failing_driver(servo, "before\n")
    text = FAILING_DRIVER.replace("cat complaint", "sleep 600 & echo $! >service; cat complaint")
    servo.add_script("driver", text)
    completed = servo.adjust("driver.cpu")
    service = int((servo.path / "service").read_text(encoding="utf-8"))
    with contextlib.suppress(ProcessLookupError):
        os.kill(service, signal.SIGKILL)
    assert stderr_in_message(completed) == "before"


HOW = {
    "unset": (None, "one\ntwo\nthree\nfour"),
    "all": ("all", "one\ntwo\nthree\nfour"),
    "empty": ("", "one\ntwo\nthree\nfour"),
    "another word": ("loud", None),
    "in capitals": ("ALL", None),
    "a blank after it": ("all ", None),
    "minimal": ("minimal", "one\ntwo"),
    "none": ("none", None),
}


@pytest.mark.parametrize(
    ("how", "quoted"),
    [
        pytest.param(
            *case, id=name, marks=[pytest.mark.full] if name in ("in capitals", "a blank after it") else []
        )
        for name, case in HOW.items()
    ],
)
def test_optune_verbose_stderr_decides_how_much_goes_into_the_message(
    servo: ServoDirectory, how: str | None, quoted: str | None
) -> None:
    add_failing_driver(servo, "one\ntwo\nthree\nfour\n")
    completed = servo.adjust("driver.cpu", env={"OPTUNE_VERBOSE_STDERR": how})
    if quoted is not None:
        assert stderr_in_message(completed) == quoted
    else:
        assert completed.returncode == 1
        assert "stderr" not in completed.reply["message"]
        assert "one" not in completed.reply["message"]


def test_the_stderr_of_each_failed_driver_goes_into_its_own_line(servo: ServoDirectory) -> None:
    add_failing_driver(servo, "what they print", name="01")
    add_failing_driver(servo, "what they print", name="03")
    servo.add("02", "noisy", bytes=100, text="healthy")
    message = servo.adjust("01.cpu", "02.cpu", "03.cpu").reply["message"]
    assert message.count("what they print") == 2
    assert message.index("01: failed: ") < message.index("what they print") < message.index("03: failed: ")
    assert "healthy" not in message


# --- shown live


WAITING = """\
#!/bin/sh
. ./behave.sh
misbehave_on adjust
if [ $phase = adjust ]; then cat >/dev/null; fi
printf 'caf\\303\\251 is closed\\nand ' >&2
while ! [ -e seen ]; do sleep 0.02; done
printf 'so am I\\nno newline' >&2
behave
"""
"""A driver that goes on when its first line on stderr has been shown."""


def test_stderr_is_shown_live_with_v(servo: ServoDirectory) -> None:
    """Each line prefixed by the driver's name, in ASCII, while the driver runs."""
    servo.add_script("01driver", WAITING)
    agent = Agent(servo.path, ["./adjust", "-v"], env=servo.env)
    with agent.start_adjust("app", servo.request("01driver.cpu")) as running:
        wait_until(lambda: b"01driver: caf" in running.operation.stderr, 30, "the first line of stderr")
        assert b"so am I" not in running.operation.stderr
        (servo.path / "seen").touch()
        operation = running.finish()
    assert operation.ok, operation.summary()
    lines = operation.stderr.decode("ascii").splitlines()
    first = next(line for line in lines if line.startswith("01driver: caf"))
    assert first.endswith(" is closed")
    assert "01driver: and so am I" in lines
    assert "01driver: no newline" in lines


def test_an_incomplete_line_on_stderr_is_shown_at_the_exit(servo: ServoDirectory) -> None:
    service = "sleep 600 </dev/null >/dev/null & echo $! >service"
    reply = """echo '{"application":{}}'"""
    servo.add_script("01driver", f"#!/bin/sh\nprintf 'no newline' >&2\n{service}\n{reply}\n")
    completed = servo.run("-v", "--query", "app")
    os.kill(int((servo.path / "service").read_text(encoding="ascii")), signal.SIGKILL)
    assert b"01driver: no newline\n" in completed.stderr


def test_lines_of_an_adjust_and_of_the_info_of_a_cancel_are_not_mixed(servo: ServoDirectory) -> None:
    script = adjust_script(
        """\
        rm -f asked
        printf 'half a line ' >&2
        echo '{"progress":50,"message":"working"}'
        until [ -e asked ]; do sleep 0.02; done
        echo 'and the rest' >&2
        echo '{"status":"ok"}'
        """
    )
    servo.add_script("01works", script.replace("--info) ", "--info) echo 'a debug line' >&2; : >asked; "))
    agent = Agent(servo.path, ["./adjust", "-v"], env=servo.env)
    with agent.start_adjust("app", servo.request("web.cpu")) as running:
        running.wait_for_line(lambda message: message.get("message") == "01works: working")
        running.send_signal(signal.SIGUSR1)
        operation = running.finish()
    assert operation.reply["status"] == "canceled"
    lines = operation.stderr.decode("ascii").splitlines()
    assert "01works: a debug line" in lines
    assert "01works: half a line and the rest" in lines


def test_stderr_of_drivers_at_once_is_shown_in_whole_lines(servo: ServoDirectory) -> None:
    names = ["01", "02", "03"]
    for name in names:
        servo.add(name, "noisy", when="query", bytes=3000, text=f"this is {name} writing slowly")
    completed = servo.run("-v", "--query", "app")
    assert completed.returncode == 0, completed
    lines = [line for line in completed.stderr.decode("ascii").splitlines() if "writing slowly" in line]
    assert lines
    assert set(lines) == {f"{name}: this is {name} writing slowly" for name in names}


def test_stderr_is_shown_live_when_ours_is_a_terminal(servo: ServoDirectory) -> None:
    servo.add_script("driver", WAITING.replace("misbehave_on adjust", "misbehave_on query"))
    ours, theirs = os.openpty()
    shown = b""
    try:
        with servo.start("--query", "app", stderr=theirs) as program:
            os.close(theirs)
            # A terminal turns LF into CR LF.
            while b"driver: and so am I\r\n" not in shown and select.select([ours], [], [], 30)[0]:
                shown += os.read(ours, 4096)
                if b" is closed\r\n" in shown:
                    (servo.path / "seen").touch()
            assert program.finish().returncode == 0
    finally:
        os.close(ours)
    assert b"driver: caf" in shown
    assert b"driver: and so am I\r\n" in shown


def test_an_unread_stderr_of_ours_does_not_block_a_driver(servo: ServoDirectory) -> None:
    servo.add("01", "noisy", when="adjust", bytes=3_000_000)
    with servo.start("-v", "app", input=servo.request("01.cpu")) as program:
        # Its stderr is not read meanwhile.
        final = json.loads(program.stdout.read().splitlines()[-1])
        program.process.wait(60)
    assert final["status"] == "ok"


def test_a_servo_directory_that_is_moved_stays_the_current_directory(servo: ServoDirectory) -> None:
    servo.add("02", "plain")
    servo.add_script(
        "01", '#!/bin/sh\n. ./behave.sh\nif [ $phase = adjust ]; then mv "$PWD" ../moved; fi\nbehave\n'
    )
    completed = servo.adjust("01.cpu", "02.cpu")
    assert completed.returncode == 0, completed


# --- messages
