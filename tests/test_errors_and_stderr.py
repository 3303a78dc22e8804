"""What a person is told when a driver fails, and what becomes of drivers' stderr (SPEC 13)."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.agent import Agent
from tests.processes import environment, kill_session, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.servo import Completed, ServoDirectory

KIB = 1024

FIRST = 16 * KIB
LAST = 48 * KIB
"""Bytes of a driver's stderr that are kept from its start and from its end."""

MESSAGE = 256 * KIB


def adjust(servo: ServoDirectory, *names: str, env: Mapping[str, str | None] | None = None) -> Completed:
    """Adjust the setting cpu of each of the drivers."""
    request = servo.request(*(f"{name}.cpu" for name in names))
    return servo.run("app", input=json.dumps(request).encode(), env=env)


COMPLAINER = """\
#!/bin/sh
. ./behave.sh
misbehave_on adjust
if [ $phase = adjust ]; then cat >/dev/null; fi
cat complaint >&2
say '{"status":"failed","reason":"unstable","message":"the cluster is down"}'
exit 1
"""
"""A driver that writes the file `complaint` to its stderr and fails."""


def complain(servo: ServoDirectory, complaint: str | bytes, name: str = "driver", **settings: object) -> None:
    """Add a complainer."""
    raw = complaint if isinstance(complaint, bytes) else complaint.encode()
    (servo.path / "complaint").write_bytes(raw)
    servo.add(name, "plain", **settings)
    servo.add_script(name, COMPLAINER)


def told_of(completed: Completed) -> str:
    """Return what the message of a failure tells of stderr."""
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


@pytest.mark.parametrize("size", [30, 60_000, FIRST + LAST - 1, FIRST + LAST])
def test_spec_13_stderr_of_a_failed_driver_is_kept_whole_up_to_64_kib(
    servo: ServoDirectory, size: int
) -> None:
    complain(servo, numbered(size))
    assert told_of(adjust(servo, "driver")) == numbered(size).rstrip()


@pytest.mark.parametrize("size", [FIRST + LAST + 1000, 1_000_000])
def test_spec_13_more_stderr_is_cut_in_the_middle_with_a_mark(servo: ServoDirectory, size: int) -> None:
    text = numbered(size)
    complain(servo, text)
    told = told_of(adjust(servo, "driver"))
    assert told.startswith(text[:FIRST])
    assert told.endswith(text[-LAST:].rstrip())
    mark = told[FIRST : -len(text[-LAST:].rstrip())]
    assert mark.strip()
    assert len(mark) < 200


def test_spec_13_stderr_that_is_not_text_is_kept_as_far_as_it_is(servo: ServoDirectory) -> None:
    """Not UTF-8, cut in mid-character, with terminal escapes and NULs."""
    complain(servo, b"caf\xe9 \xff \x1b[31mred\0\n" + "\u00e9".encode() * 100_000)
    told = told_of(adjust(servo, "driver"))
    assert told.startswith("caf")
    assert "red" in told
    assert told.endswith("\u00e9")


@pytest.mark.parametrize("size", [1, 5_000_000])
@pytest.mark.parametrize("phase", ["info", "query", "adjust"])
def test_spec_13_stderr_is_always_drained(servo: ServoDirectory, phase: str, size: int) -> None:
    """A driver that is not read would hang. The agent is not told of what a healthy one writes."""
    servo.add("01", "noisy", when=phase, bytes=size)
    servo.add("02", "plain")
    completed = servo.run("--info") if phase == "info" else adjust(servo, "01", "02")
    assert completed.returncode == 0, completed
    assert completed.stderr == b""
    assert len(completed.stdout) < 10_000


def test_spec_13_stderr_of_a_background_child_is_not_waited_for(servo: ServoDirectory) -> None:
    complain(servo, "told before\n")
    text = COMPLAINER.replace("cat complaint", "sleep 600 & echo $! >service; cat complaint")
    servo.add_script("driver", text)
    completed = adjust(servo, "driver")
    service = int((servo.path / "service").read_text(encoding="utf-8"))
    with contextlib.suppress(ProcessLookupError):
        os.kill(service, signal.SIGKILL)
    assert told_of(completed) == "told before"


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


@pytest.mark.parametrize("phase", ["query", "adjust"])
@pytest.mark.parametrize(("how", "told"), HOW.values(), ids=HOW.keys())
def test_spec_13_optune_verbose_stderr_says_how_much_goes_into_the_message(
    servo: ServoDirectory, phase: str, how: str | None, told: str | None
) -> None:
    complain(servo, "one\ntwo\nthree\nfour\n", when=phase)
    env = {"OPTUNE_VERBOSE_STDERR": how}
    completed = adjust(servo, "driver", env=env) if phase == "adjust" else servo.run("--query", "a", env=env)
    if told is not None:
        assert told_of(completed) == told
    else:
        assert completed.returncode == 1
        assert "stderr" not in completed.reply["message"]
        assert "one" not in completed.reply["message"]


@pytest.mark.parametrize("how", ["all", "minimal"])
@pytest.mark.parametrize("complaint", ["", "only one line", "only one line\n"])
def test_spec_13_little_stderr(servo: ServoDirectory, how: str, complaint: str) -> None:
    complain(servo, complaint)
    completed = adjust(servo, "driver", env={"OPTUNE_VERBOSE_STDERR": how})
    if complaint:
        assert told_of(completed) == "only one line"
    else:
        assert "stderr" not in completed.reply["message"]


def test_spec_13_the_stderr_of_each_failed_driver_goes_into_its_own_line(servo: ServoDirectory) -> None:
    complain(servo, "what they say", name="01")
    complain(servo, "what they say", name="03")
    servo.add("02", "noisy", bytes=100, text="healthy")
    message = adjust(servo, "01", "02", "03").reply["message"]
    assert message.count("what they say") == 2
    assert message.index("01: failed: ") < message.index("what they say") < message.index("03: failed: ")
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
"""A driver that goes on when its first line on stderr has been seen."""


def test_spec_13_stderr_is_shown_live_with_v(servo: ServoDirectory) -> None:
    """Each line prefixed by the driver's name, in ASCII, while the driver runs."""
    servo.add_script("01driver", WAITING)
    agent = Agent(servo.path, ["./adjust", "-v"], env=servo.env)
    with agent.start_adjust("app", servo.request("01driver.cpu")) as running:
        wait_until(lambda: b"01driver: caf" in running.operation.stderr, 20, "the first line of stderr")
        assert b"so am I" not in running.operation.stderr
        (servo.path / "seen").touch()
        operation = running.finish()
    assert operation.ok, operation.told()
    lines = operation.stderr.decode("ascii").splitlines()
    first = next(line for line in lines if line.startswith("01driver: caf"))
    assert first.endswith(" is closed")
    assert "01driver: and so am I" in lines


def test_spec_13_the_last_line_of_stderr_is_shown_with_v_even_without_a_newline(
    servo: ServoDirectory,
) -> None:
    servo.add_script("driver", WAITING)
    (servo.path / "seen").touch()
    request = json.dumps(servo.request("driver.cpu")).encode()
    assert b"\ndriver: no newline\n" in servo.run("-v", "app", input=request).stderr


def test_spec_13_stderr_is_not_shown_without_v(servo: ServoDirectory) -> None:
    servo.add_script("driver", WAITING)
    (servo.path / "seen").touch()
    assert adjust(servo, "driver").stderr == b""


def test_spec_13_stderr_of_drivers_at_once_is_shown_in_whole_lines(servo: ServoDirectory) -> None:
    names = ["01", "02", "03"]
    for name in names:
        servo.add(name, "noisy", when="query", bytes=3000, text=f"this is {name} speaking, slowly")
    completed = servo.run("-v", "--query", "app")
    assert completed.returncode == 0, completed
    lines = [line for line in completed.stderr.decode("ascii").splitlines() if "speaking, slowly" in line]
    assert lines
    assert set(lines) == {f"{name}: this is {name} speaking, slowly" for name in names}


def test_spec_13_stderr_is_shown_live_when_ours_is_a_terminal(servo: ServoDirectory) -> None:
    servo.add_script("driver", WAITING.replace("misbehave_on adjust", "misbehave_on query"))
    ours, theirs = os.openpty()
    shown = b""
    with subprocess.Popen(
        ["./adjust", "--query", "app"],
        cwd=servo.path,
        env=environment(servo.env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        try:
            # A terminal turns LF into CR LF.
            while b"driver: and so am I\r\n" not in shown and select.select([ours], [], [], 20)[0]:
                shown += os.read(ours, 4096)
                if b" is closed\r\n" in shown:
                    (servo.path / "seen").touch()
            process.communicate(timeout=30)
        finally:
            os.close(ours)
            if process.returncode is None:
                kill_session(process.pid)
    assert process.returncode == 0
    assert b"driver: caf" in shown
    assert b"driver: and so am I\r\n" in shown


def test_spec_13_nobody_who_reads_our_stderr_holds_up_a_driver(servo: ServoDirectory) -> None:
    """The agent asked for details and does not read them."""
    servo.add("01", "noisy", when="adjust", bytes=3_000_000)
    with subprocess.Popen(
        ["./adjust", "-v", "app"],
        cwd=servo.path,
        env=environment(servo.env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(servo.request("01.cpu")).encode())
            process.stdin.close()
            final = json.loads(process.stdout.read().splitlines()[-1])
            process.wait(30)
        finally:
            if process.returncode is None:
                kill_session(process.pid)
    assert final["status"] == "ok"


# --- what cannot be started


def check_no_start(message: str, parts: list[str]) -> None:
    for part in ["driver", *parts]:
        assert part in message, message
    # In words: neither the name of an exception nor a number of the system's.
    assert "Error" not in message
    assert "rrno" not in message


LATER: dict[str, tuple[str, list[str]]] = {
    "the flag is gone": ("chmod a-x adjust.d/driver", ["permi"]),
    "the file is gone": ("rm adjust.d/driver", []),
    "the directory is gone": ("rm -r adjust.d", []),
    "a link leads nowhere": ("ln -sf nowhere adjust.d/driver", []),
    "a directory in its place": ("rm adjust.d/driver; mkdir adjust.d/driver", []),
    "the file is empty": (": >adjust.d/driver", ["#!"]),
    "the interpreter is gone": ("echo '#!/no/such' >adjust.d/driver", ["/no/such does not exist"]),
}


@pytest.mark.parametrize(("deed", "parts"), LATER.values(), ids=LATER.keys())
def test_spec_13_a_driver_that_cannot_be_started_any_more_fails_alone(
    servo: ServoDirectory, deed: str, parts: list[str]
) -> None:
    """What was found at the query is gone when its turn has come."""
    servo.add("driver", "plain")
    servo.add("zz", "plain")
    servo.add_script("01", f"#!/bin/sh\n. ./behave.sh\nif [ $phase = adjust ]; then {deed}; fi\nbehave\n")
    completed = adjust(servo, "01", "driver", "zz")
    assert completed.returncode == 1, completed
    assert (completed.reply["status"], completed.reply["reason"]) == ("failed", "cannot-start")
    check_no_start(completed.reply["message"], parts)
    statuses = {name: told["status"] for name, told in completed.reply["drivers"].items()}
    others = "failed" if deed.endswith("adjust.d") else "ok"
    assert statuses == {"01": "ok", "driver": "failed", "zz": others}


def test_spec_13_a_directory_that_vanishes_is_a_failure_of_the_driver(servo: ServoDirectory) -> None:
    """The whole servo directory, moved away in mid-adjust, stays our current directory all the same."""
    servo.add("02", "plain")
    servo.add_script(
        "01", '#!/bin/sh\n. ./behave.sh\nif [ $phase = adjust ]; then mv "$PWD" ../moved; fi\nbehave\n'
    )
    completed = adjust(servo, "01", "02")
    assert completed.returncode == 0, completed


def test_spec_13_too_many_open_files_is_said_in_words(servo: ServoDirectory) -> None:
    for number in range(30):
        servo.add(f"driver{number:02}", "slow", seconds=600)
    command = ["/bin/sh", "-c", 'ulimit -n 40; exec ./adjust "$@"', "sh", "--query", "app"]
    with subprocess.Popen(
        command,
        cwd=servo.path,
        env=environment(servo.env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=30)
        finally:
            if process.returncode is None:
                kill_session(process.pid)
    assert process.returncode == 1
    final = json.loads(stdout)
    assert final["reason"] == "cannot-start"
    check_no_start(final["message"], ["open files"])
    assert b"Traceback" not in stderr


# --- messages


LONG = {"ASCII": "x", "two bytes": "\u00e9", "four bytes": "\U0001f600"}


@pytest.mark.parametrize("character", LONG.values(), ids=LONG.keys())
def test_spec_13_a_message_is_at_most_256_kib(servo: ServoDirectory, character: str) -> None:
    text = character * (400_000 // len(character.encode()))
    reply = json.dumps({"status": "failed", "message": "begins " + text}, ensure_ascii=False)
    (servo.path / "reply").write_text(reply, encoding="utf-8")
    servo.add_script(
        "driver", "#!/bin/sh\n. ./behave.sh\nmisbehave_on adjust\ncat >/dev/null; cat reply; exit 1\n"
    )
    completed = adjust(servo, "driver")
    message = completed.reply["message"]
    assert message.startswith("driver: failed: begins ")
    assert 200 * KIB < len(message.encode()) <= MESSAGE
    assert len(completed.reply["drivers"]["driver"].get("message", "").encode()) <= MESSAGE


@pytest.mark.parametrize("operation", ["query", "adjust"])
def test_spec_13_the_message_of_many_failures_is_at_most_256_kib(
    servo: ServoDirectory, operation: str
) -> None:
    names = [f"{number:02}" for number in range(8)]
    for name in names:
        complain(servo, numbered(100_000), name=name, when=operation)
    completed = adjust(servo, *names) if operation == "adjust" else servo.run("--query", "app")
    message = completed.reply["message"]
    assert message.startswith("00: failed: the cluster is down")
    assert len(message.encode()) <= MESSAGE


def test_spec_13_a_failure_says_which_driver_and_what_happened(servo: ServoDirectory) -> None:
    """One line for each failed driver, in driver order (SPEC 7.9)."""
    for name, kind in {"01": "exit3", "02": "plain", "03": "crash", "04": "oldstyle"}.items():
        servo.add(name, kind)
    lines = (
        adjust(servo, "01", "02", "03", "04", env={"OPTUNE_VERBOSE_STDERR": "none"})
        .reply["message"]
        .split("\n")
    )
    assert [line.split(": ")[:2] for line in lines] == [[name, "failed"] for name in ("01", "03", "04")]
    for line, part in zip(lines, ["exited with status 3", "killed by SIGSEGV", "i-0abc does not exist"]):
        assert part in line


def test_spec_13_a_reason_that_a_driver_gave_none_is_timeout(servo: ServoDirectory) -> None:
    """How long it was silent is said, too (SPEC 9)."""
    servo.add("driver", "silent")
    completed = adjust(servo, "driver", env={"OPTUNE_IO_TIMEOUT": "4"})
    assert (completed.reply["status"], completed.reply["reason"]) == ("failed", "timeout")
    found = re.search(r"was silent for (\d+\.\d) s", completed.reply["message"])
    assert found is not None, completed
    assert float(found[1]) >= 3
