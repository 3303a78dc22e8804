"""SPEC 10: how signals end the program, and how it stops a driver with its whole tree."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.support.processes import alive, state, wait_until
from tests.support.servo import retry_under_load
from tests.support.sources import adjust_script

if TYPE_CHECKING:
    from tests.support.servo import ServoDirectory

ENDING = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_a_signal_stops_the_running_driver_and_starts_no_other(
    servo: ServoDirectory, number: signal.Signals
) -> None:
    servo.configure("agg: {grace: 60}")
    servo.add("01graceful", "graceful", when="adjust")
    servo.add("02plain", "plain")
    with servo.start_adjust("01graceful.cpu", "02plain.cpu") as running:
        running.wait_for_line(lambda message: message.get("message") == "01graceful: may be terminated")
        running.send_signal(number)
        operation = running.finish()
    assert operation.returncode == 128 + number
    assert (operation.reply["status"], operation.reply["reason"]) == ("terminated", number.name)
    drivers = operation.reply["drivers"]
    assert (drivers["01graceful"]["status"], drivers["01graceful"]["reason"]) == ("aborted", "cleaned-up")
    assert drivers["02plain"] == {"status": "not-started"}


@pytest.mark.parametrize("operation", ["--query", "--info"])
def test_a_signal_ends_a_query_or_info(servo: ServoDirectory, operation: str) -> None:
    servo.add("01silent", "silent", when="query info")
    with servo.start(operation, "app") as program:
        pids = servo.pids("01silent", "leader", "child", "grandchild")
        program.send_signal(signal.SIGTERM)
        completed = program.finish()
    assert completed.returncode == 128 + signal.SIGTERM
    assert (completed.reply["status"], completed.reply["reason"]) == ("terminated", "SIGTERM")
    assert not any(alive(pid) for pid in pids.values())


def test_a_signal_before_the_input_is_complete_ends_the_program(servo: ServoDirectory) -> None:
    servo.add("01plain", "plain")
    with servo.start("app", input=None) as program:
        program.write(b'{"application":')
        # The signal handlers are installed before the thread that reads stdin is started.
        wait_until(lambda: threads(program.pid) >= 3, 30, "the thread that reads stdin")
        program.send_signal(signal.SIGTERM)
        # Stdin stays open until the program has ended.
        assert program.process.wait(30) == 128 + signal.SIGTERM
        assert program.finish().reply["status"] == "terminated"
    assert servo.log() == []


def threads(pid: int) -> int:
    """Return the number of threads of a process, 0 when there is no such process."""
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def test_the_grace_ends_in_sigkill_of_the_whole_tree(servo: ServoDirectory) -> None:
    servo.configure("agg: {grace: 0.5}")
    servo.add("01stubborn", "stubborn")
    with servo.start_adjust("01stubborn.cpu") as running:
        pids = servo.pids("01stubborn", "leader", "child", "grandchild")
        running.send_signal(signal.SIGTERM)
        operation = running.finish()
    assert operation.returncode == 128 + signal.SIGTERM
    assert (
        "did not exit after SIGTERM and was killed by SIGKILL"
        in operation.reply["drivers"]["01stubborn"]["message"]
    )
    assert not any(alive(pid) for pid in pids.values())


def test_a_second_signal_skips_the_grace(servo: ServoDirectory) -> None:
    servo.configure("agg: {grace: 600}")
    servo.add_script(
        "01notes",
        adjust_script("""\
        trap 'echo >terminated' TERM
        echo "leader $$ 01notes" >>driver.pids
        while :; do sleep 0.05; done
        """),
    )
    with servo.start_adjust("web.cpu") as running:
        servo.pids("01notes", "leader")
        running.send_signal(signal.SIGTERM)
        # The program has then handled the first one.
        wait_until((servo.path / "terminated").exists, 30, "SIGTERM to the driver")
        # Within 0.1 s it would not count as a second one; there is no event to wait for.
        time.sleep(0.15)
        running.send_signal(signal.SIGINT)
        operation = running.finish(20)
    assert operation.returncode == 128 + signal.SIGTERM


def test_signals_within_a_tenth_of_a_second_count_as_one(servo: ServoDirectory) -> None:
    """`timeout` sends two signals at once, and so does a terminal that closes."""
    servo.configure("agg: {grace: 60}")
    servo.add_script(
        "01tidy",
        adjust_script("""\
        trap 'sleep 0.5; echo tidied >tidied; exit' TERM
        echo "leader $$ 01tidy" >>driver.pids
        while :; do sleep 0.05; done
        """),
    )
    with servo.start_adjust("web.cpu") as running:
        servo.pids("01tidy", "leader")
        # While it is stopped it cannot handle one before the other is sent.
        running.send_signal(signal.SIGSTOP)
        wait_until(lambda: state(running.pid) == "T", 30, "the stop of the program")
        running.send_signal(signal.SIGTERM)
        running.send_signal(signal.SIGINT)
        running.send_signal(signal.SIGCONT)
        operation = running.finish()
    # Two pending signals are delivered in the order of their numbers.
    assert operation.returncode in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    assert (servo.path / "tidied").read_text() == "tidied\n"


def test_malformed_output_after_the_begin_of_a_stop_is_ignored(servo: ServoDirectory) -> None:
    servo.add_script(
        "01torn",
        adjust_script("""\
        trap 'printf "{"; exit 7' TERM
        echo "leader $$ 01torn" >>driver.pids
        while :; do sleep 0.05; done
        """),
    )
    with servo.start_adjust("web.cpu") as running:
        servo.pids("01torn", "leader")
        running.send_signal(signal.SIGTERM)
        operation = running.finish(20)
    assert operation.reply["drivers"]["01torn"]["reason"] == "exit-status"


def test_members_that_outlive_the_leader_get_sigterm_too(servo: ServoDirectory) -> None:
    servo.configure("agg: {grace: 60}")
    servo.add_script(
        "01leaves",
        adjust_script("""\
        setsid sh -c '
            trap "echo >>terminated; exit" TERM
            echo "child $$ 01leaves" >>driver.pids
            while :; do sleep 0.05; done
        ' &
        wait
        """),
    )
    with servo.start_adjust("web.cpu") as running:
        servo.pids("01leaves", "child")
        running.send_signal(signal.SIGTERM)
        running.finish(20)
    assert (servo.path / "terminated").read_text() == "\n"


def test_a_driver_stopped_by_sigstop_is_continued(servo: ServoDirectory) -> None:
    servo.configure("agg: {grace: 600}")
    servo.add("01graceful", "graceful", when="adjust")
    with servo.start_adjust("01graceful.cpu") as running:
        running.wait_for_line(lambda message: message.get("message") == "01graceful: may be terminated")
        leader = next(event.pid for event in servo.log(phase="adjust"))
        os.kill(leader, signal.SIGSTOP)
        running.send_signal(signal.SIGTERM)
        operation = running.finish(20)
    assert operation.reply["drivers"]["01graceful"]["reason"] == "cleaned-up"


START_WITH = "import os, signal; signal.{}; os.execv('./adjust', ['adjust', '--query', 'app'])"
"""A Python program that changes the handling of a signal and then becomes `./adjust`."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_that_was_ignored_at_the_start_stays_ignored(
    servo: ServoDirectory, number: signal.Signals
) -> None:
    servo.add("01silent", "silent", when="query")
    command = [sys.executable, "-c", START_WITH.format(f"signal({int(number)}, signal.SIG_IGN)")]
    with servo.start(command=command) as program:
        servo.pids("01silent", "leader", "child", "grandchild")
        program.send_signal(number)
        program.send_signal(signal.SIGTERM)
        completed = program.finish()
    # If the first signal had ended the run, its name and number would be here.
    assert completed.reply["reason"] == "SIGTERM"
    assert completed.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_a_signal_that_was_blocked_at_the_start_is_unblocked(
    servo: ServoDirectory, number: signal.Signals
) -> None:
    servo.add("01silent", "silent", when="query")
    mask = f"pthread_sigmask(signal.SIG_BLOCK, [{int(number)}])"
    with servo.start(command=[sys.executable, "-c", START_WITH.format(mask)]) as program:
        servo.pids("01silent", "leader", "child", "grandchild")
        program.send_signal(number)
        completed = program.finish()
    assert completed.returncode == 128 + number
    assert completed.reply["reason"] == number.name


def test_the_silence_limit_does_not_shorten_the_grace_of_a_termination(servo: ServoDirectory) -> None:
    servo.configure("agg: {grace: 60}")
    servo.add("01graceful", "graceful", when="adjust", rollback=2.5)
    # The driver cleans up for longer than it may be silent.
    with servo.start_adjust("01graceful.cpu", env={"OPTUNE_IO_TIMEOUT": "3"}) as running:
        running.wait_for_line(lambda message: message.get("message") == "01graceful: may be terminated")
        running.send_signal(signal.SIGTERM)
        operation = running.finish(20)
    assert operation.reply["drivers"]["01graceful"]["reason"] == "cleaned-up"


def test_a_driver_with_malformed_output_is_stopped_before_the_agent_times_out(servo: ServoDirectory) -> None:
    servo.add_script("01stays", adjust_script("trap '' TERM; echo rubbish; while :; do sleep 0.1; done"))
    with servo.agent(io_timeout=2) as agent:
        operation = retry_under_load(
            lambda: agent.adjust("app", servo.request("web.cpu")),
            lambda operation: not operation.timed_out and operation.reply["reason"] == "malformed",
        )
    assert not operation.timed_out
    assert operation.reply["reason"] == "malformed"


def test_processes_of_a_killed_driver_are_stopped_before_the_next_starts(
    servo: ServoDirectory,
) -> None:
    """The out-of-memory killer does this. Its child would run at the same time as the next driver."""
    servo.add_script(
        "01killed",
        adjust_script("""\
        setsid sh -c 'echo "child $$ 01killed" >>driver.pids; exec sleep 600' </dev/null >/dev/null 2>&1 &
        until [ -s driver.pids ]; do sleep 0.05; done
        kill -KILL $$
        """),
    )
    servo.add("02db", "plain", component="db")
    operation = servo.agent().adjust("app", servo.request("web.cpu", "db.cpu"))
    assert operation.reply["drivers"]["01killed"]["message"] == "was killed by SIGKILL, gave no reply"
    assert operation.reply["drivers"]["02db"]["status"] == "ok"
    child = servo.pids("01killed", "child")["child"]
    assert not alive(child)


def test_the_next_driver_starts_once_the_tree_of_a_stopped_one_is_gone(servo: ServoDirectory) -> None:
    """The leader ends on SIGTERM, and closes its stdout; its child cleans up for a second."""
    servo.configure("agg: {grace: 60}")
    servo.add_script(
        "01slow",
        adjust_script("""\
        sh -c '
            trap "sleep 1; echo >cleaned-up; exit" TERM
            echo "child $$ 01slow" >>driver.pids
            while :; do sleep 0.05; done
        ' </dev/null >/dev/null 2>&1 &
        until [ -s driver.pids ]; do sleep 0.05; done
        echo malformed
        wait
        """),
    )
    found = '[ -e cleaned-up ] && echo \'{"status":"ok"}\''
    servo.add_script("02next", adjust_script(found, component="db"))
    reply = servo.adjust("web.cpu", "db.cpu").reply
    assert reply["drivers"]["01slow"]["reason"] == "malformed"
    assert reply["drivers"]["02next"]["status"] == "ok"


def test_a_driver_that_starts_many_sessions_leaves_no_process(
    servo: ServoDirectory,
) -> None:
    # In a session and an environment of its own, a process is found only while its parent is alive.
    command = ["sleep", f"61.{uuid.uuid4().int % 10**9}"]
    body = f"""
        cat > /dev/null
        echo '{{"progress":1,"message":"forking"}}'
        for i in 1 2 3 4; do for j in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25; do
            setsid env -i {shutil.which("sleep")} {command[1]} &
        done; done
        wait
    """
    servo.add_script("01forking", adjust_script(body))
    with servo.start_adjust("web.cpu") as running:
        running.wait_for_line(lambda message: message.get("message") == "01forking: forking")
        wait_until(lambda: processes_of(command), 30, "a child of the driver")
        running.send_signal(signal.SIGTERM)
        running.finish()
    left = processes_of(command)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


def processes_of(command: list[str]) -> list[int]:
    """Return the processes with this command line, whatever the path of the program."""
    return [pid for pid in psutil.pids() if is_running(pid, command)]


def is_running(pid: int, command: list[str]) -> bool:
    try:
        words = os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")
    except OSError:
        return False
    return [os.path.basename(words[0]), *words[1:-1]] == command and alive(pid)


@pytest.mark.parametrize(
    ("words", "number", "phase"),
    [
        (["--query", "app"], signal.SIGTERM, "query"),
        (["--info"], signal.SIGINT, "info"),
        (["app"], signal.SIGUSR1, "query"),
    ],
)
def test_the_final_object_names_the_drivers_that_had_not_answered(
    servo: ServoDirectory, words: list[str], number: signal.Signals, phase: str
) -> None:
    servo.configure("agg: {parallel: 1}")
    servo.add("01plain", "plain")
    servo.add("02silent", "silent", when=phase)
    servo.add("03plain", "plain")
    with servo.start(*words, input=servo.request("01plain.cpu")) as program:
        servo.pids("02silent", "leader")
        program.send_signal(number)
        final = program.finish().reply
    assert re.match(
        rf"(terminated|canceled) by {number.name}; 02silent had not answered --{phase} for \d+\.\d s; ",
        final["message"],
    )
    assert {name: entry["status"] for name, entry in final["drivers"].items()} == {
        "01plain": "answered",
        "02silent": "failed",
        "03plain": "not-started",
    }
