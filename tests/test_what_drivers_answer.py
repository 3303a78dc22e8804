"""What a driver may answer, and what becomes of it when it answers otherwise (SPEC 4)."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.processes import alive, wait_until

if TYPE_CHECKING:
    from tests.servo import Completed, ServoDirectory

MIB = 1 << 20

INFO = b'{"version":"1.0","has_cancel":false}\n'

QUERY = b'{"application":{"components":{"web":{"settings":{"cpu":{"value":2}}}}}}\n'

OK = b'{"status":"ok","reason":"success"}\n'

WARNING = b'{"status":"failed","message":"using the non-selected value"}\n'

TELLER = """\
#!/bin/sh
case $1 in
--info | --query) phase=${{1#--}} ;;
*) phase=adjust && cat >/dev/null ;;
esac
cat "answers/${{0##*/}}.$phase"
if [ "$phase" = {when} ]; then {end}; fi
"""


def tell(
    servo: ServoDirectory,
    name: str = "teller",
    *,
    info: bytes = INFO,
    query: bytes = QUERY,
    adjust: bytes = OK,
    when: str = "adjust",
    end: str | int = 0,
) -> None:
    """Add a driver that tells these bytes and in the phase `when` ends so: by a command or an exit status."""
    answers = servo.path / "answers"
    answers.mkdir(exist_ok=True)
    for phase, said in (("info", info), ("query", query), ("adjust", adjust)):
        (answers / f"{name}.{phase}").write_bytes(said)
    end = f"exit {end}" if isinstance(end, int) else end
    servo.add_script(name, TELLER.format(when=when, end=end))


def run(servo: ServoDirectory, *settings: str) -> Completed:
    """Adjust `settings`, web.cpu unless told otherwise."""
    request = servo.request(*(settings or ("web.cpu",)))
    return servo.run("app", input=json.dumps(request).encode())


def failed(completed: Completed, status: str, reason: str, *parts: str) -> str:
    """Check a failure of the driver `teller`; return its message."""
    assert completed.returncode == 1, completed
    reply = completed.reply
    assert (reply["status"], reply["reason"]) == (status, reason), reply
    message: str = reply["message"]
    assert message.startswith(f"teller: {status}: "), reply
    for part in parts:
        assert part in message, reply
    return message


def texts(completed: Completed) -> list[str]:
    """Return the messages of the progress lines."""
    return [line["message"] for line in completed.progress]


# --- progress and replies


SUCCESSES = {
    "the reply": OK,
    "no newline at the end": OK.rstrip(),
    "CRLF": b'{"progress":50}\r\n{"status":"ok"}\r\n',
    "blank lines": b'\n\r\n  \n\t\n{"progress":50}\n\n{"status":"ok"}\n \r\n',
    "blanks around an object": b'  {"progress" : 50}\t \n\t{"status" : "ok" } \n',
    "a reply that has progress and status": b'{"progress":100,"status":"ok"}\n',
    "warnings before the reply": WARNING + WARNING + OK,
    "a warning without a status": b'{"warning":"careful"}\n' + OK,
    "progress after the reply": OK + b'{"progress":50,"message":"still alive"}\n',
    "a rejection before the reply": b'{"status":"rejected","reason":"unstable"}\n' + OK,
    "no reason": b'{"status":"ok"}\n',
    "a reason that is null": b'{"status":"ok","reason":null}\n',
    "half a surrogate pair": b'{"status":"ok","note":"\\ud800"}\n',
    "nested 400 deep": b'{"status":"ok","note":' + b"[" * 399 + b"]" * 399 + b"}\n",
    "UTF-8": '{"status":"ok","note":"caf\u00e9 \U0001f600 \u2028"}\n'.encode(),
    "a line of nearly 4 MiB": b'{"status":"ok","message":"' + b"x" * (4 * MIB - 100) + b'"}\n',
    "a long whole number": b'{"status":"ok","note":' + b"1" * 4000 + b"}\n",
}


@pytest.mark.parametrize("said", SUCCESSES.values(), ids=SUCCESSES.keys())
def test_spec_4_a_driver_succeeded_when_its_last_reply_says_ok_and_it_exited_0(
    servo: ServoDirectory, said: bytes
) -> None:
    tell(servo, adjust=said)
    completed = run(servo)
    assert completed.returncode == 0, completed
    assert completed.reply["status"] == "ok"
    assert completed.reply["reason"] == "success"
    assert completed.reply["drivers"]["teller"]["status"] == "ok"


def test_spec_4_progress_counts_whenever_it_comes_and_never_replaces_the_reply(servo: ServoDirectory) -> None:
    said = b"".join(b'{"progress":%d,"message":"at %d"}\n%s' % (at, at, WARNING) for at in (20, 40))
    said += OK + b'{"progress":60,"message":"at 60"}\n{"progress":80,"message":"at 80"}'
    tell(servo, adjust=said)
    completed = run(servo)
    assert completed.returncode == 0, completed
    spoken = [line for line in completed.progress if " at " in line["message"]]
    assert spoken == [{"progress": at, "message": f"teller: at {at}"} for at in (20, 40, 60, 80)]


@pytest.mark.parametrize("verbose", [False, True])
def test_spec_4_warnings_are_shown_when_asked_for(servo: ServoDirectory, verbose: bool) -> None:
    """A driver says, in query and adjust, that it has failed, before the real reply."""
    servo.add("warner", "warner")
    request = json.dumps(servo.request("warner.cpu")).encode()
    words = ["-v"] if verbose else []
    for operation in (["--query", "app"], ["app"]):
        completed = servo.run(*words, *operation, input=request)
        assert completed.returncode == 0, completed
        assert completed.reply.get("status", "ok") == "ok"
        for setting in ("cpu", "inst_type"):
            words_of_it = f"using the non-selected value of {setting}"
            assert (words_of_it in completed.stderr.decode("ascii")) is verbose
            assert words_of_it not in completed.stdout.decode("ascii")


# --- malformed output


def test_spec_4_a_driver_that_answers_an_adjust_malformed_is_stopped_at_once(servo: ServoDirectory) -> None:
    """Long before its own end, and the next one goes on."""
    servo.add("01malformed", "malformed", when="adjust", seconds=600)
    servo.add("02plain", "plain")
    completed = run(servo, "01malformed.cpu", "02plain.cpu")
    assert completed.reply["reason"] == "malformed"
    assert completed.reply["drivers"]["02plain"]["status"] == "ok"
    events = [(event.name, event.what) for event in servo.log(phase="adjust")]
    assert events == [("01malformed", "start"), ("02plain", "start"), ("02plain", "end")]


def test_spec_4_a_line_that_never_ends_stops_the_driver(servo: ServoDirectory) -> None:
    """What it would be is known as soon as it has more than 4 MiB."""
    tell(servo, when="adjust", end="cat /dev/zero | tr '\\0' x", adjust=b'{"progress":10}\n')
    failed(run(servo), "failed", "malformed", "xxxxxxxx")


@pytest.mark.parametrize("phase", ["query", "adjust"])
def test_spec_4_numbers_beyond_json_never_reach_the_agent(servo: ServoDirectory, phase: str) -> None:
    """Whether they are taken or refused: our own lines are JSON."""
    odd = b',"n":1e999,"m":' + b"1" * 5000 + b"}\n"
    if phase == "query":
        tell(servo, query=QUERY.rstrip(b"}\n") + b"}}}}}}" + odd)
    else:
        tell(servo, adjust=b'{"status":"ok"' + odd)
    completed = run(servo)
    assert completed.reply["status"] in {"ok", "failed"}
    assert b"Infinity" not in completed.stdout
    assert b"Traceback" not in completed.stderr


# --- query and info


PRETTY = json.dumps(json.loads(QUERY), indent=2).encode()

DOCUMENTS = {
    "over several lines": PRETTY + b"\n",
    "without a newline at the end": PRETTY,
    "with CRLF": PRETTY.replace(b"\n", b"\r\n"),
    "with blank lines": b"\n\n" + PRETTY.replace(b"\n", b"\n\n") + b"\n\n",
    "of nearly 4 MiB": PRETTY[:-1] + b',\n"note": "' + b"x" * (4 * MIB - 1000) + b'"\n}\n',
    "of one line": QUERY,
    "after warnings": WARNING + WARNING + QUERY,
    "with progress around": b'{"progress":1}\n' + QUERY + b'{"progress":2}\n',
    "with status ok": QUERY[:-2] + b',"status":"ok"}\n',
}


@pytest.mark.parametrize("said", DOCUMENTS.values(), ids=DOCUMENTS.keys())
def test_spec_4_a_query_may_be_one_document_over_several_lines(servo: ServoDirectory, said: bytes) -> None:
    tell(servo, query=said)
    completed = servo.run("--query", "app")
    assert completed.returncode == 0, completed
    assert len(completed.messages) == 1
    assert completed.reply["application"] == json.loads(QUERY)["application"]
    assert "status" not in completed.reply


NO_DOCUMENTS = {
    "a list over several lines": b'[\n{"application":\n{}}\n]\n',
    "a warning before it": WARNING + PRETTY,
    "more after it": PRETTY + b"\nDone.\n",
    "two of them": PRETTY + b"\n" + PRETTY,
    "NaN in it": PRETTY.replace(b"2\n", b"NaN\n"),
    "not UTF-8": PRETTY.replace(b"cpu", b"cp\xfc"),
    "half of it": PRETTY[: len(PRETTY) // 2],
    "more than 4 MiB": PRETTY[:-1] + b',\n"note": [\n' + b'"x",\n' * MIB + b'"x"]\n}\n',
}


@pytest.mark.parametrize("said", NO_DOCUMENTS.values(), ids=NO_DOCUMENTS.keys())
def test_spec_4_a_query_over_several_lines_that_is_no_document_is_malformed(
    servo: ServoDirectory, said: bytes
) -> None:
    tell(servo, query=said)
    failed(servo.run("--query", "app"), "failed", "malformed")


def test_spec_4_an_info_may_be_one_document_over_several_lines(servo: ServoDirectory) -> None:
    servo.add("pretty", "pretty", version="1.5", has_cancel=True)
    completed = servo.run("--info", "app")
    assert completed.returncode == 0
    assert completed.reply["version"] == "aggregator 2.0.0 (1.5)"
    assert completed.reply["drivers"]["pretty"] == {"version": "1.5", "has_cancel": True}


WRAPPED = {
    "components at top level": (
        b'{"components":{"web":{"settings":{"cpu":{"value":2}}}}}',
        {"components": {"web": {"settings": {"cpu": {"value": 2}}}}},
    ),
    "settings at top level": (
        b'{"settings":{"cpu":{"value":2}}}',
        {"components": {}, "settings": {"cpu": {"value": 2}}},
    ),
    "both at top level": (
        b'{"settings":{"cpu":{"value":2}},"components":{"web":{}}}',
        {"components": {"web": {}}, "settings": {"cpu": {"value": 2}}},
    ),
    "more at top level": (
        b'{"components":{"web":{}},"monitoring":{"a":1}}',
        {"components": {"web": {}}, "monitoring": {"a": 1}},
    ),
    "application and components at top level": (
        b'{"application":{"components":{"web":{}}},"components":{"db":{}}}',
        {"components": {"web": {}}},
    ),
    "an empty application": (b'{"application":{}}', {"components": {}}),
    "an application without components": (
        b'{"application":{"settings":{"cpu":{"value":2}}}}',
        {"components": {}, "settings": {"cpu": {"value": 2}}},
    ),
    "no component": (b'{"application":{"components":{}}}', {"components": {}}),
}


@pytest.mark.parametrize(("said", "application"), WRAPPED.values(), ids=WRAPPED.keys())
def test_spec_4_our_answer_to_a_query_always_has_application_and_components(
    servo: ServoDirectory, said: bytes, application: dict[str, Any]
) -> None:
    tell(servo, query=said)
    completed = servo.run("--query", "app")
    assert completed.returncode == 0, completed
    assert completed.reply["application"] == application


@pytest.mark.parametrize("said", [b"{}", b'{"status":"ok"}', b'{"web":{"settings":{}}}'])
def test_spec_4_a_query_reply_without_a_description_is_a_failure(servo: ServoDirectory, said: bytes) -> None:
    tell(servo, query=said)
    completed = servo.run("--query", "app")
    assert completed.returncode == 1
    assert completed.reply["status"] == "failed"
    assert completed.reply["message"].startswith("teller: failed: ")


WRONG_SHAPES = {
    b'{"application":[]}': "application",
    b'{"application":{"components":[]}}': "application.components",
    b'{"application":{"components":"web"}}': "application.components",
    b'{"application":{"components":{"web":[]}}}': "application.components.web",
    b'{"application":{"components":{"web":null}}}': "application.components.web",
    b'{"application":{"components":{"web":{"settings":["cpu"]}}}}': "application.components.web.settings",
    b'{"application":{"components":{"web":{"settings":1}}}}': "application.components.web.settings",
    b'{"application":{"settings":[]}}': "application.settings",
    b'{"components":[]}': "components",
    b'{"components":{"web":{"settings":true}}}': "components.web.settings",
    b'{"settings":"cpu"}': "settings",
}


@pytest.mark.parametrize(("said", "path"), WRONG_SHAPES.items(), ids=lambda one: str(one)[:60])
def test_spec_4_a_description_of_the_wrong_shape_is_an_error_that_names_driver_and_path(
    servo: ServoDirectory, said: bytes, path: str
) -> None:
    tell(servo, query=said)
    completed = servo.run("--query", "app")
    assert completed.returncode == 1
    assert completed.reply["status"] == "failed"
    message = completed.reply["message"]
    assert "teller" in message
    assert f"{path} " in message or f"{path}:" in message, message


ASKED_IN_VAIN: dict[str, tuple[bytes, str | int, str, str, list[str]]] = {
    "no reply": (b"", 0, "failed", "no-reply", ["gave no reply"]),
    "exit 3": (b"@", 3, "failed", "exit-status", ["exited with status 3"]),
    "SIGSEGV": (b"@", "ulimit -c 0; kill -s SEGV $$", "failed", "signal", ["killed by SIGSEGV"]),
    "status failed": (b'{"status":"failed","message":"no config"}', 0, "failed", "unknown", ["no config"]),
    "status rejected, exit 1": (b'{"status":"rejected","reason":"why"}', 1, "rejected", "why", []),
    "the answer, then failed": (b'@{"status":"failed","reason":"why"}', 0, "failed", "why", []),
    "old style": (
        b'{"error":"e","class":"c","message":"no config"}',
        3,
        "failed",
        "exit-status",
        ["no conf"],
    ),
}


@pytest.mark.parametrize("phase", ["info", "query"])
@pytest.mark.parametrize(
    ("said", "end", "status", "reason", "parts"), ASKED_IN_VAIN.values(), ids=ASKED_IN_VAIN.keys()
)
def test_spec_4_a_query_or_info_failed(
    servo: ServoDirectory, phase: str, said: bytes, end: str | int, status: str, reason: str, parts: list[str]
) -> None:
    if phase == "query":
        tell(servo, query=said.replace(b"@", QUERY), when=phase, end=end)
        failed(servo.run("--query", "app"), status, reason, *parts)
        return
    tell(servo, info=said.replace(b"@", INFO), when=phase, end=end)
    completed = servo.run("--info", "app")
    assert completed.returncode == 0
    told = completed.reply["drivers"]["teller"]
    assert (told["version"], told["has_cancel"]) == ("unknown", False)
    for part in parts:
        assert part in told["message"]


@pytest.mark.parametrize(
    ("said", "version", "has_cancel"),
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
def test_spec_4_an_info_reply_has_version_and_has_cancel(
    servo: ServoDirectory, said: bytes, version: str, has_cancel: bool
) -> None:
    tell(servo, info=said)
    completed = servo.run("--info", "app")
    assert completed.returncode == 0
    told = completed.reply["drivers"]["teller"]
    assert str(told["version"]) == version
    assert told["has_cancel"] is has_cancel
    assert completed.reply["version"] == f"aggregator 2.0.0 ({version})"


# --- exit and end of output are two facts


@pytest.mark.parametrize(
    ("operation", "phase"), [("--info", "info"), ("--query", "query"), ("adjust", "adjust")]
)
def test_spec_4_a_background_child_that_holds_stdout_is_not_waited_for_and_lives_on(
    servo: ServoDirectory, operation: str, phase: str
) -> None:
    tell(servo, when=phase, end="sleep 600 & echo $! >service; exit 0")
    completed = run(servo) if operation == "adjust" else servo.run(operation, "app")
    service = int((servo.path / "service").read_text(encoding="utf-8"))
    try:
        assert completed.returncode == 0, completed
        assert alive(service)
    finally:
        os.kill(service, signal.SIGKILL)


def test_spec_4_a_service_that_left_session_and_descent_lives_on(servo: ServoDirectory) -> None:
    servo.add("01daemon", "daemon")
    servo.add("02plain", "plain")
    completed = run(servo, "01daemon.cpu", "02plain.cpu")
    service = servo.pids("01daemon", "service")["service"]
    try:
        assert completed.returncode == 0, completed
        assert alive(service)
    finally:
        os.kill(service, signal.SIGKILL)


def test_spec_4_what_a_child_writes_just_after_the_drivers_exit_counts(servo: ServoDirectory) -> None:
    """The child hears of the driver's exit by the end of a pipe, and speaks at once."""
    end = """\
        rm -f gone; mkfifo gone
        (read -r _ <gone; cat late) &
        exec 3>gone
        exit 0"""
    (servo.path / "late").write_bytes(b'{"progress":70,"message":"late"}\n{"status":"ok","state":"late"}')
    tell(servo, adjust=WARNING, end=end)
    # The child has a quarter of a second: enough for any but one that the machine leaves standing.
    for _ in range(5):
        completed = run(servo)
        if completed.returncode == 0:
            break
    assert completed.returncode == 0, completed
    assert completed.reply["state"] == "late"
    assert "teller: late" in texts(completed)


def test_spec_4_what_a_child_writes_later_does_not_count_and_finds_the_pipe_closed(
    servo: ServoDirectory,
) -> None:
    """The child speaks when the next driver runs, which waits for what comes of it."""
    wait_for = "while ! [ -e {} ]; do sleep 0.02; done"
    child = f"""\
        (trap '' PIPE
        {wait_for.format("next")}
        if echo 'no JSON' 2>/dev/null; then echo heard >heard; else echo closed >heard; fi) &
        exit 0"""
    tell(servo, "01", end=child)
    tell(
        servo,
        "02",
        query=QUERY.replace(b"cpu", b"mem"),
        end=f"touch next; {wait_for.format('heard')}; exit 0",
    )
    completed = run(servo, "web.cpu", "web.mem")
    assert completed.returncode == 0, completed
    assert (servo.path / "heard").read_text(encoding="utf-8") == "closed\n"


def test_spec_4_what_was_written_is_read_in_full_however_long_the_agent_takes(servo: ServoDirectory) -> None:
    """The agent reads nothing until long after the driver's exit."""
    lines = [{"progress": 50, "message": f"line {number:04} {'x' * 80}"} for number in range(900)]
    said = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    # No more than two pipes hold: the driver can end whatever we keep in between.
    assert len(said) < 2 * 65536
    tell(servo, adjust=said + OK, end="touch ended; exit 0")
    with servo.agent().start_adjust("app", servo.request("web.cpu"), reader="block") as running:
        running.stop_reading()
        wait_until((servo.path / "ended").exists, 10, "the driver's exit")
        ended = time.monotonic()
        wait_until(lambda: time.monotonic() > ended + 0.6, 10, "more than twice 0.25 s")
        running.resume_reading()
        operation = running.finish()
    assert operation.ok, operation.told()
    spoken = [line["message"] for line in operation.progress if ": line " in line["message"]]
    assert spoken == [f"teller: {line['message']}" for line in lines]


@pytest.mark.parametrize("exit_status", [0, 3])
def test_spec_4_a_driver_that_closes_its_stdout_is_waited_for(
    servo: ServoDirectory, exit_status: int
) -> None:
    servo.add("01closer", "closer", seconds=0.5, exit=exit_status)
    servo.add("02plain", "plain")
    completed = run(servo, "01closer.cpu", "02plain.cpu")
    wanted = ("ok", "success") if exit_status == 0 else ("failed", "exit-status")
    assert (completed.reply["status"], completed.reply["reason"]) == wanted
    events = [(event.name, event.what) for event in servo.log(phase="adjust")]
    assert events == [(name, what) for name in ("01closer", "02plain") for what in ("start", "end")]


def test_spec_4_a_driver_that_closes_its_stdout_in_a_query_is_waited_for(servo: ServoDirectory) -> None:
    servo.add("closer", "closer", when="query", seconds=0.3, exit=3)
    completed = servo.run("--query", "app")
    assert completed.reply["reason"] == "exit-status"
    assert "exited with status 3" in completed.reply["message"]
