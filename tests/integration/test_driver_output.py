"""SPEC 4: the output of a driver, and its exit."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import alive, wait_until

if TYPE_CHECKING:
    from tests.support.servo import ServoDirectory


INFO = b'{"version":"1.0","has_cancel":false}\n'

QUERY = b'{"application":{"components":{"web":{"settings":{"cpu":{"value":2}}}}}}\n'

OK = b'{"status":"ok","reason":"success"}\n'

WARNING = b'{"status":"failed","message":"using the non-selected value"}\n'

REPLAYER = """\
#!/bin/sh
case $1 in
--info | --query) phase=${{1#--}} ;;
*) phase=adjust && cat >/dev/null ;;
esac
cat "answers/${{0##*/}}.$phase"
if [ "$phase" = {when} ]; then {end}; fi
"""


def replay(
    servo: ServoDirectory,
    name: str = "replayer",
    *,
    info: bytes = INFO,
    query: bytes = QUERY,
    adjust: bytes = OK,
    when: str = "adjust",
    end: str | int = 0,
) -> None:
    """Add a driver that prints these bytes, and ends the phase `when` by a command or an exit status."""
    answers = servo.path / "answers"
    answers.mkdir(exist_ok=True)
    for phase, output in (("info", info), ("query", query), ("adjust", adjust)):
        (answers / f"{name}.{phase}").write_bytes(output)
    end = f"exit {end}" if isinstance(end, int) else end
    servo.add_script(name, REPLAYER.format(when=when, end=end))


# --- progress and replies


def test_progress_counts_whenever_it_comes_and_never_replaces_the_reply(servo: ServoDirectory) -> None:
    output = b"".join(b'{"progress":%d,"message":"at %d"}\n%s' % (at, at, WARNING) for at in (20, 40))
    output += OK + b'{"progress":60,"message":"at 60"}\n{"progress":80,"message":"at 80"}'
    replay(servo, adjust=output)
    completed = servo.adjust("web.cpu")
    assert completed.returncode == 0, completed
    shown = [line for line in completed.progress if " at " in line["message"]]
    assert shown == [{"progress": at, "message": f"replayer: at {at}"} for at in (20, 40, 60, 80)]


@pytest.mark.parametrize("verbose", [False, True])
def test_warnings_are_shown_only_with_v(servo: ServoDirectory, verbose: bool) -> None:
    """The driver prints failures before its real reply, in a query and in an adjust."""
    servo.add("warner", "warner")
    request = servo.request("warner.cpu")
    words = ["-v"] if verbose else []
    for operation in (["--query", "app"], ["app"]):
        completed = servo.run(*words, *operation, input=request)
        assert completed.returncode == 0, completed
        assert completed.reply.get("status", "ok") == "ok"
        for setting in ("cpu", "inst_type"):
            warning = f"using the non-selected value of {setting}"
            assert (warning in completed.stderr.decode("ascii")) is verbose
            assert warning not in completed.stdout.decode("ascii")


# --- malformed output


def test_malformed_output_stops_an_adjust_at_once(servo: ServoDirectory) -> None:
    """The next driver still runs."""
    servo.add("01malformed", "malformed", when="adjust", seconds=600)
    servo.add("02plain", "plain")
    completed = servo.adjust("01malformed.cpu", "02plain.cpu")
    assert completed.reply["reason"] == "malformed"
    assert completed.reply["drivers"]["02plain"]["status"] == "ok"
    events = [(event.name, event.what) for event in servo.log(phase="adjust")]
    assert events == [("01malformed", "start"), ("02plain", "start"), ("02plain", "end")]


# --- query and info


def test_a_query_and_an_info_may_be_one_document_over_several_lines(servo: ServoDirectory) -> None:
    servo.add("pretty", "pretty", version="1.5", has_cancel=True)
    assert list(servo.run("--query", "app").reply["application"]["components"]) == ["pretty"]
    assert servo.run("--info", "app").reply["drivers"]["pretty"] == {"version": "1.5", "has_cancel": True}


@pytest.mark.parametrize(
    ("output", "version", "has_cancel"),
    [
        (b'{"version":"1.0"}', "1.0", False),
        (b'{"version":"1.0","has_cancel":true}', "1.0", True),
        (b'{"version":"1.0","has_cancel":false,"status":"ok"}', "1.0", False),
        (b'{"version":1.5}', "1.5", False),
        (b'{"version":3,"more":[1]}', "3", False),
        ('{"version":"v\u00e9 (beta), 2"}'.encode(), "v\u00e9 (beta), 2", False),
    ],
    ids=["has_cancel absent", "has_cancel", "status ok", "a fraction", "a number", "no ASCII"],
)
def test_an_info_reply_has_version_and_has_cancel(
    servo: ServoDirectory, output: bytes, version: str, has_cancel: bool
) -> None:
    replay(servo, info=output)
    completed = servo.run("--info", "app")
    assert completed.returncode == 0
    entry = completed.reply["drivers"]["replayer"]
    assert str(entry["version"]) == version
    assert entry["has_cancel"] is has_cancel
    assert completed.reply["version"] == f"aggregator 2.0.0 ({version})"


# --- exit and end of output are two facts


@pytest.mark.parametrize(
    ("operation", "phase"), [("--info", "info"), ("--query", "query"), ("adjust", "adjust")]
)
def test_a_background_child_that_holds_stdout_is_neither_waited_for_nor_stopped(
    servo: ServoDirectory, operation: str, phase: str
) -> None:
    replay(servo, when=phase, end="sleep 600 & echo $! >service; exit 0")
    completed = servo.adjust("web.cpu") if operation == "adjust" else servo.run(operation, "app")
    service = int((servo.path / "service").read_text(encoding="utf-8"))
    try:
        assert completed.returncode == 0, completed
        assert alive(service)
    finally:
        os.kill(service, signal.SIGKILL)


def test_processes_of_a_driver_that_failed_by_itself_are_spared(servo: ServoDirectory) -> None:
    replay(servo, end="sleep 600 </dev/null >/dev/null 2>&1 & echo $! >service; exit 3")
    completed = servo.adjust("web.cpu")
    service = int((servo.path / "service").read_text(encoding="utf-8"))
    try:
        assert completed.reply["reason"] == "exit-status"
        assert alive(service)
    finally:
        os.kill(service, signal.SIGKILL)


def test_a_service_that_left_session_and_descent_is_spared(servo: ServoDirectory) -> None:
    servo.add("01daemon", "daemon")
    servo.add("02plain", "plain")
    completed = servo.adjust("01daemon.cpu", "02plain.cpu")
    service = servo.pids("01daemon", "service")["service"]
    try:
        assert completed.returncode == 0, completed
        assert alive(service)
    finally:
        os.kill(service, signal.SIGKILL)


def test_output_of_a_child_just_after_the_drivers_exit_counts(servo: ServoDirectory) -> None:
    """The child sees the driver's exit by the end of a pipe, and writes 0.05 s later."""
    end = """\
        rm -f gone; mkfifo gone
        (read -r _ <gone; sleep 0.05; cat late) &
        exec 3>gone
        exit 0"""
    (servo.path / "late").write_bytes(b'{"progress":70,"message":"late"}\n{"status":"ok","state":"late"}')
    replay(servo, adjust=WARNING, end=end)
    # The child has 0.25 s, which may be too little under load.
    for _ in range(5):
        completed = servo.adjust("web.cpu")
        if completed.returncode == 0:
            break
    assert completed.returncode == 0, completed
    assert completed.reply["state"] == "late"
    assert "replayer: late" in [line["message"] for line in completed.progress]


def test_later_output_of_a_child_does_not_count_and_its_pipe_is_closed(
    servo: ServoDirectory,
) -> None:
    """The child writes while the next driver runs, which waits for the result."""
    wait_for = "while ! [ -e {} ]; do sleep 0.02; done"
    child = f"""\
        (trap '' PIPE
        {wait_for.format("next")}
        if echo 'no JSON' 2>/dev/null; then echo open >result; else echo closed >result; fi) &
        exit 0"""
    replay(servo, "01", end=child)
    replay(
        servo,
        "02",
        query=QUERY.replace(b"cpu", b"mem"),
        end=f"touch next; {wait_for.format('result')}; exit 0",
    )
    completed = servo.adjust("web.cpu", "web.mem")
    assert completed.returncode == 0, completed
    assert (servo.path / "result").read_text(encoding="utf-8") == "closed\n"


def test_all_output_is_read_even_if_the_agent_is_slow(servo: ServoDirectory) -> None:
    """The agent reads nothing until long after the driver's exit."""
    lines = [{"progress": 50, "message": f"line {number:04} {'x' * 80}"} for number in range(900)]
    output = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    # No more than two pipes hold, so that the driver can exit.
    assert len(output) < 2 * 65536
    replay(servo, adjust=output + OK, end="touch ended; exit 0")
    with servo.start_adjust("web.cpu", reader="block") as running:
        running.stop_reading()
        wait_until((servo.path / "ended").exists, 30, "the driver's exit")
        ended = time.monotonic()
        wait_until(lambda: time.monotonic() > ended + 0.6, 10, "more than twice 0.25 s")
        running.resume_reading()
        operation = running.finish()
    assert operation.ok, operation.summary()
    shown = [line["message"] for line in operation.progress if ": line " in line["message"]]
    assert shown == [f"replayer: {line['message']}" for line in lines]


@pytest.mark.parametrize("exit_status", [0, 3])
def test_a_driver_that_closes_its_stdout_is_waited_for(servo: ServoDirectory, exit_status: int) -> None:
    servo.add("01closer", "closer", seconds=0.5, exit=exit_status)
    servo.add("02plain", "plain")
    completed = servo.adjust("01closer.cpu", "02plain.cpu")
    wanted = ("ok", "success") if exit_status == 0 else ("failed", "exit-status")
    assert (completed.reply["status"], completed.reply["reason"]) == wanted
    events = [(event.name, event.what) for event in servo.log(phase="adjust")]
    assert events == [(name, what) for name in ("01closer", "02plain") for what in ("start", "end")]
