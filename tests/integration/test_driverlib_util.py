"""SPEC 12.19-12.23: the driver library `util`: a driver that runs a driver."""

from __future__ import annotations

import json
import os
import signal
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.driverlib import DEADLINE, INPUT, PREAMBLE, Driver, pid_in
from tests.support.processes import alive, wait_until

if TYPE_CHECKING:
    from pathlib import Path

OUTER = (
    PREAMBLE
    + """
import util
from util import run_and_track, run_and_track_cancel, run_and_track_terminate

def track(*args, **options):
    seen, began = [], time.monotonic()
    reply = run_and_track("./inner", *args, **dict({"progress_cb": seen.append}, **options))
    return {"status": "ok", "reply": reply, "seen": seen, "seconds": time.monotonic() - began}
"""
)

TRACKS = "def adjust(self, data): return track(self.app_id, data=data)"


def outer(tmp_path: Path, inner: str, methods: str = TRACKS) -> Driver:
    """Return a driver that may run ./inner, which is a shell script."""
    path = tmp_path / "inner"
    path.write_text("#!/bin/sh\n" + textwrap.dedent(inner), encoding="utf-8")
    path.chmod(0o755)
    return Driver(tmp_path, methods, preamble=OUTER)


def track(tmp_path: Path, inner: str, **env: str) -> dict[str, Any]:
    """Run ./inner with the input of an adjust; return the reply of the outer driver."""
    done = outer(tmp_path, inner).adjust(**env)
    assert done.returncode == 0, done
    return done.reply


def test_a_child_gets_arguments_and_input_and_its_reply_is_returned(tmp_path: Path) -> None:
    expected = track(
        tmp_path,
        """
        echo '{"progress": 10, "message": "one"}'
        echo '{"status": "failed", "message": "a warning"}'
        printf '{"progress": 20}\\r\\n\\n'
        printf '{"status": "ok", "progress": 100, "argument": "%s", "input": %s}' "$*" "$(cat)"
        """,
    )
    assert expected["reply"] == {"status": "ok", "progress": 100, "argument": "app", "input": INPUT}
    assert expected["seen"] == [{"progress": 10, "message": "one"}, {"progress": 20}]


def test_without_data_stdin_is_empty_and_the_answer_may_be_pretty_printed(tmp_path: Path) -> None:
    methods = """
    def query(self): return track("--query", self.app_id)["reply"]
    def adjust(self, data): return run_and_track("./inner", "1", "2")
    """
    inner = """[ -z "$(cat)" ] && printf '{\\n "application": {},\\n "arguments": "%s"}\\n' "$*" """
    driver = outer(tmp_path, inner, methods)
    assert driver.run("--query", "app").reply == {"application": {}, "arguments": "--query app"}
    assert driver.adjust().reply == {"status": "ok", "application": {}, "arguments": "1 2"}


def test_a_child_is_tracked_without_os_waitid(tmp_path: Path) -> None:
    driver = outer(tmp_path, """echo '{"status":"ok"}'; exit "$1" """)
    driver.path.write_text(f"import os\ndel os.waitid\n{driver.path.read_text('utf-8')}", encoding="utf-8")
    assert driver.run("0", data=INPUT).reply["reply"] == {"status": "ok"}
    failed = driver.run("3", data=INPUT).reply["reply"]
    assert (failed["reason"], failed["message"]) == (
        "exit-status",
        "./inner replied ok but exited with status 3",
    )


def test_a_large_input_and_a_child_that_does_not_read_it(tmp_path: Path) -> None:
    driver = outer(tmp_path, """[ "$1" = app ] && cat >copy; echo '{"status": "ok"}'""")
    data = {"filler": "x" * 1000000}
    assert driver.adjust(data).reply["reply"] == {"status": "ok"}
    assert json.loads((tmp_path / "copy").read_bytes()) == data
    assert driver.run("other", data=data).reply["reply"] == {"status": "ok"}


def _failure(reason: str, message: str) -> dict[str, Any]:
    return {"status": "failed", "reason": reason, "message": message}


@pytest.mark.parametrize(
    ("inner", "returned"),
    [
        (
            """echo '{"status":"ok","reason":"success"}'; exit 3""",
            _failure("exit-status", "./inner replied ok but exited with status 3"),
        ),
        (
            """echo '{"status":"ok"}'; kill -9 $$""",
            _failure("signal", "./inner replied ok but was killed by SIGKILL"),
        ),
        ("kill -40 $$", _failure("signal", "./inner was killed by signal 40")),
        ("echo why >&2", _failure("no-reply", "./inner gave no reply; stderr: why")),
        ("""echo '{"progress":1}'""", _failure("no-reply", "./inner gave no reply")),
        (
            """echo '{"status":"rejected","reason":"big","message":"too big","state":1}'; exit 1""",
            {"status": "rejected", "reason": "big", "message": "too big", "state": 1},
        ),
        (
            """echo '{"status":"aborted"}'""",
            {"status": "aborted", "reason": "unknown", "message": "./inner replied with the status aborted"},
        ),
        (
            """echo '{"error":"E","class":"c","message":"m"}'; exit 3""",
            {"status": "failed", "reason": "unknown", "error": "E", "class": "c", "message": "m"},
        ),
        (
            """echo '{"status":"failed","reason":"r","message":"why"}'; kill -9 $$""",
            _failure("r", "./inner was killed by SIGKILL: why"),
        ),
        (
            "echo oops; exec sleep 30",
            _failure("malformed", "./inner printed a line that is not a JSON object: 'oops'"),
        ),
        (
            "echo '[1]'; exec sleep 30",
            _failure("malformed", "./inner printed a line that is not a JSON object: '[1]'"),
        ),
        (
            """echo '{"progress":NaN}'; exec sleep 30""",
            _failure("malformed", "./inner printed a line that is not a JSON object: '{\"progress\":NaN}'"),
        ),
    ],
)
def test_the_failure_of_a_child_is_returned(tmp_path: Path, inner: str, returned: dict[str, Any]) -> None:
    assert track(tmp_path, inner)["reply"] == returned


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.chmod(0o644), "Permission denied"),
        (
            lambda path: path.write_text("#!/nowhere/python\n"),
            "the interpreter in its #! line does not exist",
        ),
    ],
    ids=["missing", "not executable", "no interpreter"],
)
def test_a_child_that_cannot_be_started_has_failed(tmp_path: Path, change: Any, expected: str) -> None:
    driver = outer(tmp_path, "")
    change(tmp_path / "inner")
    reply = driver.adjust().reply["reply"]
    assert (reply["status"], reply["reason"]) == ("failed", "cannot-start")
    assert expected in reply["message"]


@pytest.mark.parametrize("inner", ["exit 3", """echo '{"application":{}}'; exit 3"""])
def test_a_driver_may_return_the_failure_of_a_child_as_its_own(tmp_path: Path, inner: str) -> None:
    methods = """
    def query(self): return run_and_track("./inner", "--query", self.app_id)
    def adjust(self, data): return run_and_track("./inner", self.app_id, data=data)
    """
    driver = outer(tmp_path, inner, methods)
    for done in (driver.adjust(), driver.run("--query", "app")):
        reply = _failure("exit-status", "./inner exited with status 3")
        assert (done.returncode, done.lines, done.stderr) == (1, [reply], "")


def test_a_silent_child_is_stopped_before_our_own_timeout(tmp_path: Path) -> None:
    # Output on stderr does not end the silence.
    inner = "echo '{\"progress\":1}'; while :; do echo noise >&2; sleep 0.05; done"
    silent = track(tmp_path, inner, OPTUNE_IO_TIMEOUT="1")
    assert (silent["reply"]["status"], silent["reply"]["reason"]) == ("failed", "timeout")
    assert "was silent for 0.5 s and was stopped" in silent["reply"]["message"]
    assert silent["seconds"] >= 0.5


def test_a_child_that_prints_progress_is_not_stopped(tmp_path: Path) -> None:
    inner = """
    for i in 1 2 3 4; do sleep 0.6; echo '{"progress":1}'; done
    printf '{"status":"ok","limit":"%s"}' $OPTUNE_IO_TIMEOUT
    """
    talking = track(tmp_path, inner, OPTUNE_IO_TIMEOUT="3")
    assert (talking["reply"], len(talking["seen"])) == ({"status": "ok", "limit": "2"}, 4)
    assert talking["seconds"] > 2


@pytest.mark.parametrize(("ours", "its"), [("30", "29"), ("", ""), ("1", "1"), ("2.5", "2.5")])
def test_the_timeout_of_a_child_is_a_second_less(tmp_path: Path, ours: str, its: str) -> None:
    inner = """printf '{"status":"ok","limit":"%s"}' "$OPTUNE_IO_TIMEOUT" """
    # On a loaded machine half a second may be over before it starts.
    expected = wait_until(
        lambda: track(tmp_path, inner, OPTUNE_IO_TIMEOUT=ours).get("reply"), 60, "an answer"
    )
    assert expected == {"status": "ok", "limit": its}


@pytest.mark.parametrize("value", ["30s", "-1", "1e400"])
def test_a_timeout_that_is_not_a_number_is_refused(tmp_path: Path, value: str) -> None:
    outcome = track(tmp_path, """touch ran; echo '{"status":"ok"}'""", OPTUNE_IO_TIMEOUT=value)["reply"]
    assert outcome["reason"] == "bad-environment"
    assert "OPTUNE_IO_TIMEOUT" in outcome["message"]
    assert repr(value) in outcome["message"]
    assert not (tmp_path / "ran").exists()


def test_a_service_that_holds_the_output_of_a_child_is_not_awaited(tmp_path: Path) -> None:
    inner = """sleep 30 & echo $! >pid; echo '{"status":"ok"}'"""
    try:
        outcome = track(tmp_path, inner)
        assert outcome["reply"] == {"status": "ok"}
        assert 0.2 < outcome["seconds"] < 20
        assert alive(pid_in(tmp_path))
    finally:
        os.kill(pid_in(tmp_path), signal.SIGKILL)


def test_output_shortly_after_the_exit_counts(tmp_path: Path) -> None:
    # The process that writes may be scheduled late, so this test sets a longer time.
    methods = "def adjust(self, data): util._POST_EXIT_DRAIN = 10; return track(self.app_id, data=data)"
    inner = """(sleep 0.1; echo '{"status":"ok","late":1}') & echo '{"status":"ok"}'"""
    assert outer(tmp_path, inner, methods).adjust().reply["reply"] == {"status": "ok", "late": 1}


CANCELABLE = """
trap 'echo "{\\"status\\":\\"canceled\\",\\"reason\\":\\"asked\\"}"; exit 1' USR1
echo '{"progress":1}'
while :; do sleep 0.02; done
"""


def test_a_cancel_is_forwarded_to_the_child(tmp_path: Path) -> None:
    methods = """
    def handle_cancel(self, signal, frame): run_and_track_cancel()
    def adjust(self, data):
        assert run_and_track_cancel() is False
        return run_and_track("./inner", data=data, progress_cb=lambda message: self.print_progress("now"))
    """
    with outer(tmp_path, CANCELABLE, methods).start("app", data=INPUT) as running:
        running.wait_for_line()
        running.process.send_signal(signal.SIGUSR1)
        done = running.finish()
    assert (done.returncode, done.reply["status"], done.reply["reason"]) == (1, "canceled", "asked")


@pytest.mark.parametrize("where", ["thread", "handler", "callback"])
def test_a_child_can_be_terminated_from_anywhere(tmp_path: Path, where: str) -> None:
    methods = f"""
    def adjust(self, data):
        assert run_and_track_terminate() is False
        results = []
        terminate = lambda *args: results.append(run_and_track_terminate())
        signal.signal(signal.SIGALRM, terminate)
        ways = {{"thread": lambda message: threading.Thread(target=terminate).start(),
                "handler": lambda message: signal.setitimer(signal.ITIMER_REAL, 0.05),
                "callback": terminate}}
        outcome = track(data=data, progress_cb=ways[{where!r}])
        while not results:
            time.sleep(0.005)
        return dict(outcome, results=results)
    """
    reply = outer(tmp_path, "echo $$ >pid; echo '{\"progress\":1}'; exec sleep 30", methods).adjust().reply
    assert reply["reply"] == _failure("terminated", "./inner was stopped")
    assert reply["results"] == [True]
    assert not alive(pid_in(tmp_path))


@pytest.mark.parametrize("starts", ["sleep 30", "timeout 30 sleep 30"], ids=["its group", "another group"])
def test_a_child_that_ignores_sigterm_is_killed_with_its_session(tmp_path: Path, starts: str) -> None:
    inner = f"""
    trap '' TERM
    {starts} & echo $! >pid
    echo '{{"progress":1}}'
    wait
    """
    methods = """
    def adjust(self, data):
        return track(data=data, progress_cb=lambda message: run_and_track_terminate(0.3))
    """
    reply = outer(tmp_path, inner, methods).adjust().reply
    assert reply["reply"]["reason"] == "terminated"
    # Sooner than without an argument.
    assert 0.3 <= reply["seconds"] < 2
    wait_until(lambda: not alive(pid_in(tmp_path)), DEADLINE, "end of what the child had started")


def test_an_exception_of_the_callback_stops_the_child(tmp_path: Path) -> None:
    methods = """
    def adjust(self, data):
        run_and_track("./inner", data=data, progress_cb=lambda message: message["nothing"])
    """
    done = outer(tmp_path, "echo $$ >pid; echo '{\"progress\":1}'; exec sleep 30", methods).adjust()
    assert (done.returncode, done.reply["error"]) == (1, "KeyError")
    assert not alive(pid_in(tmp_path))


def test_a_driver_that_is_stopped_stops_its_child(tmp_path: Path) -> None:
    inner = """
    trap 'sleep 0.1; touch cleaned; exit 1' TERM
    echo $$ >pid; echo '{"progress":1}'
    while :; do sleep 0.02; done
    """
    methods = """
    def adjust(self, data):
        run_and_track("./inner", data=data, progress_cb=lambda message: self.print_progress("now"))
    """
    with outer(tmp_path, inner, methods).start("app", data=INPUT) as running:
        running.wait_for_line()
        running.process.send_signal(signal.SIGTERM)
        done = running.finish()
    assert (done.returncode, done.reply["status"]) == (143, "aborted")
    assert (tmp_path / "cleaned").exists()
    assert not alive(pid_in(tmp_path))


@pytest.mark.parametrize(
    ("set_options", "prints"),
    [("pass", False), ("util.g_args = self.args", True), ("util.g_args = None", False)],
)
def test_verbose_in_g_args_prints_the_child_s_start_stderr_and_exit(
    tmp_path: Path, set_options: str, prints: bool
) -> None:
    methods = f"""
    def __init__(self, *args):
        super().__init__(*args)
        self.parser.add_argument("--verbose", action="store_true")
    def adjust(self, data):
        {set_options}
        return run_and_track("./inner", "x", data=data)
    """
    driver = outer(tmp_path, "echo noise >&2; echo '{}'", methods)
    done = driver.run("app", "--verbose", data=INPUT)
    expected = "starting ./inner x\nnoise\n./inner exited with status 0\n" if prints else ""
    assert (done.reply, done.stderr) == ({"status": "ok"}, expected)
