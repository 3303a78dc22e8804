"""SPEC 10: what is stopped is stopped whole, and what a driver meant to leave is left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.processes import alive, environment, halted, wait_until
from tests.servo import in_a_calm_moment
from tests.sources import adjusting

if TYPE_CHECKING:
    from tests.servo import ServoDirectory

ENDING = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_a_signal_stops_the_running_driver_and_starts_no_other(
    servo: ServoDirectory, number: signal.Signals
) -> None:
    servo.configure("agg: {grace: 60}")
    servo.add("01graceful", "graceful", when="adjust")
    servo.add("02plain", "plain")
    with servo.agent().start_adjust("app", servo.request("01graceful.cpu", "02plain.cpu")) as running:
        running.wait_for_line(lambda message: message.get("message") == "01graceful: may be terminated")
        running.send_signal(number)
        operation = running.finish()
    assert operation.returncode == 128 + number
    assert operation.reply is not None
    assert (operation.reply["status"], operation.reply["reason"]) == ("terminated", number.name)
    drivers = operation.reply["drivers"]
    assert (drivers["01graceful"]["status"], drivers["01graceful"]["reason"]) == ("aborted", "cleaned-up")
    assert drivers["02plain"] == {"status": "not-started"}


@pytest.mark.parametrize("operation", ["--query", "--info"])
def test_a_signal_ends_a_query_or_info(servo: ServoDirectory, operation: str) -> None:
    servo.add("01silent", "silent", when="query info")
    process = subprocess.Popen(
        ["./adjust", operation, "app"],
        cwd=servo.path,
        env=environment(servo.env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    pids = servo.pids("01silent", "leader", "child", "grandchild")
    process.terminate()
    stdout, _ = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    final = json.loads(stdout)
    assert (final["status"], final["reason"]) == ("terminated", "SIGTERM")
    assert not any(alive(pid) for pid in pids.values())


def test_a_signal_before_the_input_is_complete_ends_us(servo: ServoDirectory) -> None:
    servo.add("01plain", "plain")
    process = subprocess.Popen(
        ["./adjust", "app"],
        cwd=servo.path,
        env=environment(servo.env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(b'{"application":')
    process.stdin.flush()
    # Only when it sleeps in its reading has it dealt with the signals.
    wait_until(lambda: _threads(process.pid) >= 3, 20, "the thread that reads stdin")
    process.terminate()
    # Its stdin stays open until it has ended.
    assert process.wait(20) == 128 + signal.SIGTERM
    stdout, _ = process.communicate(timeout=20)
    assert json.loads(stdout)["status"] == "terminated"
    assert servo.log() == []


def _threads(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def test_the_grace_ends_in_sigkill_of_the_whole_tree(servo: ServoDirectory) -> None:
    servo.configure("agg: {grace: 0.5}")
    servo.add("01stubborn", "stubborn")
    with servo.agent().start_adjust("app", servo.request("01stubborn.cpu")) as running:
        pids = servo.pids("01stubborn", "leader", "child", "grandchild")
        running.wait_for_line(lambda message: message.get("message") == "01stubborn: going on")
        running.send_signal(signal.SIGTERM)
        operation = running.finish()
    assert operation.returncode == 128 + signal.SIGTERM
    assert operation.reply is not None
    assert (
        "did not end on SIGTERM and was killed by SIGKILL"
        in operation.reply["drivers"]["01stubborn"]["message"]
    )
    assert not any(alive(pid) for pid in pids.values())


def test_a_second_signal_skips_the_grace(servo: ServoDirectory) -> None:
    servo.configure("agg: {grace: 600}")
    servo.add_script(
        "01notes",
        adjusting("""\
        trap 'echo told >told' TERM
        echo "leader $$ 01notes" >>driver.pids
        while :; do sleep 0.05; done
        """),
    )
    with servo.agent().start_adjust("app", servo.request("web.cpu")) as running:
        servo.pids("01notes", "leader")
        running.send_signal(signal.SIGTERM)
        # By then we have heeded the first one.
        wait_until((servo.path / "told").exists, 20, "SIGTERM to the driver")
        # Not waited for: within a tenth of a second it would be no second one.
        time.sleep(0.15)
        running.send_signal(signal.SIGINT)
        operation = running.finish(20)
    assert operation.returncode == 128 + signal.SIGTERM


def test_signals_sent_at_once_are_one_and_leave_the_driver_its_grace(servo: ServoDirectory) -> None:
    """So `timeout` does it, and a terminal that closes."""
    servo.configure("agg: {grace: 60}")
    servo.add_script(
        "01tidy",
        adjusting("""\
        trap 'sleep 0.5; echo tidied >tidied; exit' TERM
        echo "leader $$ 01tidy" >>driver.pids
        while :; do sleep 0.05; done
        """),
    )
    with servo.agent().start_adjust("app", servo.request("web.cpu")) as running:
        servo.pids("01tidy", "leader")
        # Stopped, we cannot heed the one before the other is sent.
        running.send_signal(signal.SIGSTOP)
        wait_until(lambda: halted(running.pid), 20, "our being stopped")
        running.send_signal(signal.SIGTERM)
        running.send_signal(signal.SIGINT)
        running.send_signal(signal.SIGCONT)
        operation = running.finish()
    # Two signals that wait together are delivered in the order of their numbers.
    assert operation.returncode in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    assert (servo.path / "tidied").read_text() == "tidied\n"


def test_what_the_leader_leaves_behind_gets_its_sigterm_too(servo: ServoDirectory) -> None:
    servo.configure("agg: {grace: 60}")
    servo.add_script(
        "01leaves",
        adjusting("""\
        setsid sh -c '
            trap "echo told >>told; exit" TERM
            echo "child $$ 01leaves" >>driver.pids
            while :; do sleep 0.05; done
        ' &
        wait
        """),
    )
    with servo.agent().start_adjust("app", servo.request("web.cpu")) as running:
        servo.pids("01leaves", "child")
        running.send_signal(signal.SIGTERM)
        running.finish(20)
    assert (servo.path / "told").read_text() == "told\n"


def test_a_driver_that_is_itself_stopped_is_woken_to_obey(servo: ServoDirectory) -> None:
    servo.configure("agg: {grace: 600}")
    servo.add("01graceful", "graceful", when="adjust")
    with servo.agent().start_adjust("app", servo.request("01graceful.cpu")) as running:
        running.wait_for_line(lambda message: message.get("message") == "01graceful: may be terminated")
        leader = next(event.pid for event in servo.log(phase="adjust"))
        os.kill(leader, signal.SIGSTOP)
        running.send_signal(signal.SIGTERM)
        operation = running.finish(20)
    assert operation.reply is not None
    assert operation.reply["drivers"]["01graceful"]["reason"] == "cleaned-up"


def test_a_service_that_left_before_the_stop_is_spared(servo: ServoDirectory) -> None:
    servo.add_script(
        "01restarts",
        adjusting("""\
        # Once this shell has ended it is not the driver's child any more either.
        sh -c 'setsid sh -c "echo service \\$\\$ 01restarts >>driver.pids; exec sleep 600" &'
        until grep -q service driver.pids; do sleep 0.01; done
        echo '{"progress":50,"message":"restarted"}'
        sleep 600
        """),
    )
    with servo.agent().start_adjust("app", servo.request("web.cpu")) as running:
        running.wait_for_line(lambda message: message.get("message") == "01restarts: restarted")
        running.send_signal(signal.SIGTERM)
        running.finish(20)
    service = servo.pids("01restarts", "service")["service"]
    assert alive(service)
    os.kill(service, signal.SIGKILL)


def test_a_signal_is_obeyed_while_stdout_is_blocked(servo: ServoDirectory) -> None:
    servo.add("01flood", "flood", lines=1000000, padding=200)
    with servo.agent().start_adjust("app", servo.request("01flood.cpu"), reader="block") as running:
        running.wait_for_line(lambda message: "line 1" in message.get("message", ""))
        running.stop_reading()
        wait_until(lambda: _blocked(running.pid), 20, "our stdout being full")
        running.send_signal(signal.SIGTERM)
        wait_until(lambda: not alive(running.pid), 10, "our exit")
        running.resume_reading()
        operation = running.finish(20)
    assert operation.returncode == 128 + signal.SIGTERM


def _blocked(pid: int) -> bool:
    """Whether a thread of `pid` hangs in a write to a pipe."""
    # A thread may end while we look.
    with contextlib.suppress(OSError):
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return any("pipe_write" in (task / "wchan").read_text(encoding="ascii") for task in tasks)
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_what_was_ignored_when_we_were_started_stays_ignored(
    servo: ServoDirectory, number: signal.Signals
) -> None:
    servo.add("01silent", "silent", when="query")
    command = (
        f"import os, signal; signal.signal({int(number)}, signal.SIG_IGN);"
        "os.execv('./adjust', ['adjust', '--query', 'app'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", command], cwd=servo.path, env=environment(servo.env), stdout=subprocess.PIPE
    )
    servo.pids("01silent", "leader", "child", "grandchild")
    process.send_signal(number)
    process.terminate()
    stdout, _ = process.communicate(timeout=20)
    # Had the first one counted, its name would stand here, and the exit status would be its.
    assert json.loads(stdout)["reason"] == "SIGTERM"
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_what_was_blocked_when_we_were_started_is_unblocked(
    servo: ServoDirectory, number: signal.Signals
) -> None:
    servo.add("01silent", "silent", when="query")
    command = (
        f"import os, signal; signal.pthread_sigmask(signal.SIG_BLOCK, [{int(number)}]);"
        "os.execv('./adjust', ['adjust', '--query', 'app'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", command],
        cwd=servo.path,
        env=environment(servo.env),
        stdout=subprocess.PIPE,
    )
    servo.pids("01silent", "leader", "child", "grandchild")
    process.send_signal(number)
    stdout, _ = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert json.loads(stdout)["reason"] == number.name


def test_after_a_normal_exit_nothing_is_killed(servo: ServoDirectory) -> None:
    servo.add("01daemon", "daemon")
    with servo.agent() as agent:
        operation = agent.adjust("app", servo.request("01daemon.cpu"))
    assert operation.ok
    service = servo.pids("01daemon", "service")["service"]
    assert alive(service)
    os.kill(service, signal.SIGKILL)


def test_the_agents_patience_does_not_shorten_the_grace_of_a_termination(servo: ServoDirectory) -> None:
    servo.configure("agg: {grace: 60}")
    servo.add("01graceful", "graceful", when="adjust", rollback=3.5)
    # The driver may be silent for three seconds only, and cleans up for longer.
    with servo.agent(env={"OPTUNE_IO_TIMEOUT": "4"}).start_adjust(
        "app", servo.request("01graceful.cpu")
    ) as running:
        running.wait_for_line(lambda message: message.get("message") == "01graceful: may be terminated")
        running.send_signal(signal.SIGTERM)
        operation = running.finish(20)
    assert operation.reply is not None
    assert operation.reply["drivers"]["01graceful"]["reason"] == "cleaned-up"


def test_malformed_output_is_dealt_with_before_the_agent_loses_patience(servo: ServoDirectory) -> None:
    servo.add_script("01stays", adjusting("trap '' TERM; echo rubbish; while :; do sleep 0.1; done"))
    with servo.agent(io_timeout=3) as agent:
        operation = in_a_calm_moment(
            lambda: agent.adjust("app", servo.request("web.cpu")), lambda o: not o.timed_out
        )
    assert not operation.timed_out
    assert operation.reply is not None
    assert operation.reply["reason"] == "malformed"


def test_what_a_driver_leaves_that_was_killed_is_stopped_before_the_next_begins(
    servo: ServoDirectory,
) -> None:
    """As by the out-of-memory killer: its child works on, and two drivers would change things at once."""
    servo.add_script(
        "01killed",
        adjusting("""\
        setsid sh -c 'echo "child $$ 01killed" >>driver.pids; exec sleep 600' </dev/null >/dev/null 2>&1 &
        until [ -s driver.pids ]; do sleep 0.05; done
        kill -KILL $$
        """),
    )
    servo.add("02db", "plain", component="db")
    operation = servo.agent().adjust("app", servo.request("web.cpu", "db.cpu"))
    assert operation.reply is not None
    assert operation.reply["drivers"]["01killed"]["message"] == "killed by SIGKILL, gave no reply"
    assert operation.reply["drivers"]["02db"]["status"] == "ok"
    child = servo.pids("01killed", "child")["child"]
    assert not alive(child)
