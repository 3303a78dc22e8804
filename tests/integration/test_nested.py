"""SPEC 3, 9 and 10 for an aggregator inside an aggregator (docs/nested.md)."""

from __future__ import annotations

import json
import os
import shlex
import signal
from typing import TYPE_CHECKING

import pytest

from servo_agg import VERSION
from tests.support.locks import held_as_by_adjust, is_free
from tests.support.processes import alive, parent_of, wait_until
from tests.support.servo import REPOSITORY, ServoDirectory, retry_under_load
from tests.support.sources import adjust_script

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.agent import Operation

HALT = REPOSITORY / "tests" / "faults" / "halt"


@pytest.fixture
def inner(servo: ServoDirectory, tmp_path: Path) -> ServoDirectory:
    """Return a servo directory that is the driver `10inner` of `servo`."""
    directory = ServoDirectory(tmp_path, "it's inside")
    nest(directory, servo, "10inner")
    return directory


def nest(directory: ServoDirectory, outer: ServoDirectory, name: str, first: str = ":") -> None:
    """Make one directory a driver of the other: a script that first runs the command `first`."""
    path = shlex.quote(str(directory.path))
    outer.add_script(name, f'#!/bin/sh\n{first}\ncd {path} && exec ./adjust "$@"\n')


def await_end(pids: dict[str, int]) -> None:
    wait_until(lambda: not any(alive(pid) for pid in pids.values()), 30, "end of the inner driver's tree")


def has_answer(operation: Operation, part: str) -> bool:
    """Return whether the agent got an answer whose message contains `part`."""
    reply = operation.last_reply
    return not operation.timed_out and reply is not None and part in reply.get("message", "")


def entry(operation: Operation, *names: str) -> dict[str, object]:
    """Return the entry of a driver in the reply, or that of its inner driver."""
    found = operation.reply
    for name in names:
        found = found["drivers"][name]
    return found


def test_nested_aggregators_answer_a_query_as_one(servo: ServoDirectory, inner: ServoDirectory) -> None:
    servo.add("01plain", "plain", component="web")
    inner.add("01plain", "plain", component="db")
    inner.add("02plain", "plain", component="cache")
    assert list(servo.run("--query", "app").reply["application"]["components"]) == ["web", "db", "cache"]


def test_info_version_and_check_show_the_inner_drivers(servo: ServoDirectory, inner: ServoDirectory) -> None:
    inner.add("01plain", "plain", version="7.7")
    inner.add("02cancelable", "cancelable")
    assert servo.run("--info", "app").reply["drivers"]["10inner"] == {
        "version": f"aggregator {VERSION} (7.7, 1.0)",
        "has_cancel": True,
        "drivers": {
            "01plain": {"version": "7.7", "has_cancel": False},
            "02cancelable": {"version": "1.0", "has_cancel": True},
        },
    }
    version = servo.run("--version").stdout.decode()
    assert version == f"aggregator {VERSION} (aggregator {VERSION} (7.7, 1.0))\n"
    checked = json.loads(servo.run("--check", "app", "--json").stdout)
    assert checked["status"] == "ok"
    assert [(row["driver"], row["settings"]) for row in checked["drivers"]] == [("10inner", 4)]


def test_a_check_names_the_inner_driver_that_fails(servo: ServoDirectory, inner: ServoDirectory) -> None:
    inner.add("01plain", "plain")
    inner.add("02exit3", "exit3", when="query")
    done = servo.run("--check", "app")
    assert done.returncode == 1
    assert (
        "problem 1: 10inner: 02exit3: failed: on --query: replied ok but exited with status 3"
        in done.stdout.decode()
    )


def test_an_adjust_reaches_the_inner_drivers_and_their_progress_the_agent(
    servo: ServoDirectory, inner: ServoDirectory
) -> None:
    servo.add("01plain", "plain", component="web")
    inner.add("01plain", "plain", component="db")
    inner.add("02plain", "plain", component="cache")
    inner.add("03plain", "plain")
    request = servo.request("web.cpu", "db.cpu", "cache.cpu")
    operation = servo.agent(io_timeout=30).adjust("app", request)
    assert operation.returncode == 0
    percents = {message["message"]: message["progress"] for message in operation.progress}
    # The outer driver is one half, each of the two inner ones a quarter.
    assert percents["10inner: 01plain: at 60"] == 65
    assert percents["10inner: 02plain: at 60"] == 90
    totals = [message["progress"] for message in operation.progress]
    assert totals == sorted(totals)
    assert entry(operation, "10inner", "02plain")["status"] == "ok"
    assert entry(operation, "10inner", "03plain") == {"status": "skipped"}


def test_a_failure_of_an_inner_driver_names_both_drivers(
    servo: ServoDirectory, inner: ServoDirectory
) -> None:
    inner.add_script(
        "01refuses", adjust_script('echo \'{"status":"rejected","reason":"odd","message":"no"}\'')
    )
    operation = servo.agent().adjust("app", servo.request("web.cpu"))
    assert (operation.reply["status"], operation.reply["reason"]) == ("rejected", "odd")
    assert operation.reply["message"].startswith("10inner: rejected: 01refuses: rejected: no")


# Time.


@pytest.mark.parametrize("io_timeout", [3, pytest.param(4, marks=pytest.mark.full)])
@pytest.mark.parametrize("phase", ["query", "adjust"])
def test_the_inner_one_times_out_first_and_names_its_driver(
    servo: ServoDirectory, inner: ServoDirectory, phase: str, io_timeout: int
) -> None:
    inner.add("01silent", "silent", when=phase)
    limit = io_timeout - 2
    words = {"query": f"on --query: did not answer within {limit} s", "adjust": f"was silent for {limit}."}
    sentence = f"10inner: failed: 01silent: failed: {words[phase]}"

    def run() -> Operation:
        agent = servo.agent(io_timeout=io_timeout)
        if phase == "query":
            return agent.describe("app")
        return agent.adjust("app", servo.request("01silent.cpu"))

    operation = retry_under_load(run, lambda result: has_answer(result, sentence))
    assert not operation.timed_out
    assert operation.reply["reason"] == "timeout"
    assert sentence in operation.reply["message"]


def test_each_level_gets_a_second_less(servo: ServoDirectory, tmp_path: Path) -> None:
    deepest = ServoDirectory(tmp_path, "deepest")
    between = ServoDirectory(tmp_path, "between")
    nest(deepest, between, "deepest")
    nest(between, servo, "between")
    deepest.add("echo", "echo")
    done = servo.run("--query", "app", env={"OPTUNE_IO_TIMEOUT": "30"})
    assert done.returncode == 0, done.stdout
    assert deepest.echoed("echo", "query")["environment"]["OPTUNE_IO_TIMEOUT"] == "27"


@pytest.mark.full
def test_an_inner_aggregator_that_hangs_is_stopped_with_its_drivers(
    servo: ServoDirectory, inner: ServoDirectory
) -> None:
    inner.add("01stubborn", "stubborn")
    tree = ("leader", "child", "grandchild")

    def run() -> Operation:
        (servo.path / "driver.pids").unlink(missing_ok=True)
        with servo.start_adjust("01stubborn.cpu", io_timeout=6) as running:
            os.kill(parent_of(servo.pids("01stubborn", *tree)["leader"]), signal.SIGSTOP)
            return running.finish(20)

    operation = retry_under_load(run, lambda result: has_answer(result, "10inner: failed: was silent for"))
    assert not operation.timed_out
    assert entry(operation, "10inner")["reason"] == "timeout"
    await_end(servo.pids("01stubborn", *tree))


def test_an_inner_aggregator_that_is_killed_leaves_no_driver_beside_the_next(
    servo: ServoDirectory, inner: ServoDirectory
) -> None:
    servo.configure("agg: {grace: 0.5}")
    inner.add("01stubborn", "stubborn")
    servo.add_script(
        "20db",
        adjust_script(
            """\
            cat >/dev/null
            for pid in $(sed -n 's/^[a-z]* \\([0-9]*\\) 01stubborn$/\\1/p' "$DRIVER_PIDS"); do
                ! grep -q '^State:.[^XZ]' /proc/$pid/status 2>/dev/null || echo "$pid" >>overlap
            done
            echo '{"status":"ok"}'
            """,
            component="db",
        ),
    )
    with servo.start_adjust("01stubborn.cpu", "db.cpu") as running:
        pids = servo.pids("01stubborn", "leader", "child", "grandchild")
        os.kill(parent_of(pids["leader"]), signal.SIGKILL)
        operation = running.finish()
    assert entry(operation, "20db")["status"] == "ok"
    assert "10inner: failed: was killed by SIGKILL, gave no reply" in operation.reply["message"]
    assert not (servo.path / "overlap").exists()
    assert not any(alive(pid) for pid in pids.values())


# Cancel.


def test_the_inner_cancel_grace_holds_for_the_inner_driver(
    servo: ServoDirectory, inner: ServoDirectory
) -> None:
    servo.configure("agg: {cancel_grace: 0.3, grace: 0.3}")
    inner.add("01cancelable", "cancelable", rollback=1)
    inner.add("02plain", "plain")
    with servo.start_adjust("01cancelable.cpu", "02plain.cpu") as running:
        running.wait_for_line(lambda line: line["message"] == "10inner: 01cancelable: may be canceled")
        running.send_signal(signal.SIGUSR1)
        operation = running.finish(30)
    assert (operation.reply["status"], operation.reply["state"]) == ("canceled", "as before")
    assert entry(operation, "10inner")["status"] == "canceled"
    assert entry(operation, "10inner", "01cancelable")["reason"] == "rolled-back"
    assert entry(operation, "10inner", "02plain") == {"status": "not-started"}


def test_an_inner_driver_that_cannot_be_canceled_may_finish(
    servo: ServoDirectory, inner: ServoDirectory
) -> None:
    servo.configure("agg: {cancel_grace: 0.3, grace: 0.3}")
    inner.add_script(
        "01works",
        """\
        #!/bin/sh
        . ./behave.sh
        misbehave_on adjust
        cat >/dev/null
        progress 50 on
        until [ -e finish ]; do sleep 0.05; done
        reply
        """,
    )
    inner.add("02plain", "plain")

    def asked() -> bool:
        events = servo.log(phase="info")
        # For the cancel of the outer one, and for that of the inner one.
        return sum((event.what, event.name) == ("start", "01works") for event in events) >= 2

    with servo.start_adjust("01works.cpu", "02plain.cpu") as running:
        running.wait_for_line(lambda line: line["message"] == "10inner: 01works: on")
        running.send_signal(signal.SIGUSR1)
        # It must not finish before the inner one has handled the cancel.
        wait_until(asked, 30, "the second --info of 01works")
        (inner.path / "finish").touch()
        operation = running.finish(30)
    assert operation.reply["status"] == "canceled"
    assert entry(operation, "10inner", "01works")["status"] == "ok"
    assert entry(operation, "10inner", "02plain") == {"status": "not-started"}


def test_the_inner_cancel_grace_ends_an_inner_driver(servo: ServoDirectory, inner: ServoDirectory) -> None:
    inner.configure("agg: {cancel_grace: 0.3, grace: 0.3}")
    inner.add("01cancelable", "cancelable", rollback=600)
    with servo.start_adjust("01cancelable.cpu") as running:
        running.wait_for_line(lambda line: line["message"] == "10inner: 01cancelable: may be canceled")
        running.send_signal(signal.SIGUSR1)
        operation = running.finish(30)
    assert entry(operation, "10inner")["status"] == "canceled"
    assert entry(operation, "10inner", "01cancelable")["status"] == "failed"


# Stopping.


def test_sigterm_reaches_the_inner_driver_and_its_reply_the_agent(
    servo: ServoDirectory, inner: ServoDirectory
) -> None:
    for directory in (servo, inner):
        # A driver that cleans up must not be killed on a slow machine.
        directory.configure("agg: {grace: 60}")
    inner.add("01graceful", "graceful", when="adjust")
    with servo.start_adjust("01graceful.cpu") as running:
        running.wait_for_line(lambda line: line["message"] == "10inner: 01graceful: may be terminated")
        running.send_signal(signal.SIGTERM)
        operation = running.finish(30)
    assert operation.returncode == 128 + signal.SIGTERM
    assert operation.reply["status"] == "terminated"
    assert entry(operation, "10inner", "01graceful")["reason"] == "cleaned-up"


@pytest.mark.parametrize("kind", ["silent", "stubborn"])
def test_sigkill_of_the_outer_one_leaves_nothing_of_either(
    servo: ServoDirectory, inner: ServoDirectory, kind: str
) -> None:
    for directory in (servo, inner):
        directory.configure("agg: {grace: 0.5}")
    inner.add("01runs", kind)
    with servo.start_adjust("01runs.cpu") as running:
        pids = servo.pids("01runs", "leader", "child", "grandchild")
        pids["inner"] = parent_of(pids["leader"])
        running.send_signal(signal.SIGKILL)
        running.finish(30)
        await_end(pids)
    wait_until(lambda: is_free(servo.path) and is_free(inner.path), 30, "release of both locks")


def test_sigkill_before_the_inner_pid_is_known_leaves_nothing(
    servo: ServoDirectory, inner: ServoDirectory
) -> None:
    """The outer one can identify the inner one's drivers only by their SERVO_AGG_START."""
    inner.add("01stubborn", "stubborn", when="query")
    (servo.path / "faults").mkdir()
    os.mkfifo(servo.path / "faults" / "halt")
    halted = {"FAULTS_HALT": "spawned adjust.d/10inner query", "PYTHONPATH": str(HALT)}
    with servo.start("--query", "app", env=halted) as program:
        wait_until((servo.path / "faults" / "halt.reached").exists, 30, "the halt of the outer one")
        pids = servo.pids("01stubborn", "leader", "child", "grandchild")
        program.send_signal(signal.SIGKILL)
        await_end(pids)


def test_an_inner_directory_that_is_being_adjusted_is_waited_for_and_named(
    servo: ServoDirectory, inner: ServoDirectory
) -> None:
    inner.add("01plain", "plain")
    # The inner one waits for 1 s, the outer one longer.
    nest(inner, servo, "10inner", "export OPTUNE_IO_TIMEOUT=2")
    with held_as_by_adjust(inner.path):
        operation = servo.agent(io_timeout=30).adjust("app", servo.request("01plain.cpu"))
    assert not operation.timed_out
    assert operation.reply["reason"] == "busy"
    assert f"10inner: failed: another adjust is running in {inner.path}" in operation.reply["message"]
    assert servo.adjust("01plain.cpu").returncode == 0


# The depth of nesting.


RESTARTING = """\
    #!/bin/sh
    case $1 in
    --info) echo '{"version":"1.0","has_cancel":false}' ;;
    --query) echo '{"components":{"web":{"settings":{"cpu":{"value":2}}}}}' ;;
    *) setsid ./agent </dev/null >>output 2>&1 & echo '{"status":"ok"}' ;;
    esac
"""

RESTARTED = """\
    #!/bin/sh
    echo "$SERVO_AGG_START" >>marks
    [ $(wc -l <marks) -gt 10 ] && exit
    # The adjust that restarted us ends soon after it releases the lock.
    flock . sleep 0.1
    echo '{"application":{"components":{"web":{"settings":{"cpu":{"value":4}}}}}}' | ./adjust app | tail -n 1
"""


def test_aggregators_that_have_ended_do_not_count_as_outer_ones(servo: ServoDirectory) -> None:
    """A driver restarts the agent, which inherits SERVO_AGG_START, ten times."""
    servo.add_script("01", RESTARTING)
    servo.add_script("../agent", RESTARTED)
    marks = servo.path / "marks"
    output = servo.path / "output"
    output.touch()
    assert servo.run(command=["./agent"]).returncode == 0

    def lines() -> list[str]:
        return marks.read_text(encoding="ascii").splitlines()

    wait_until(lambda: len(lines()) == 11 or "failed" in output.read_text(), 60, "the last generation")
    assert "failed" not in output.read_text(encoding="ascii")
    wait_until(
        lambda: len(lines()) == 11 and output.read_text().count("\n") == 9, 60, "its predecessors' end"
    )
    # The inherited value does not grow, and does not name aggregators that have exited.
    assert max(line.count(".") for line in lines()) < 8
    assert lines()[1].split("-")[0] not in lines()[-1]


@pytest.mark.parametrize(
    "again",
    ['exec ./adjust "$@"', 'setsid --wait ./adjust "$@"'],
    ids=["inside", "in-a-session-of-its-own"],
)
def test_an_aggregator_that_runs_itself_is_refused(servo: ServoDirectory, again: str) -> None:
    servo.add_script("01", f"#!/bin/sh\necho >>starts\n{again}\n")
    completed = servo.run("--query", "app")
    assert "aggregators run inside one another" in completed.reply["message"]
    assert len((servo.path / "starts").read_bytes()) == 8
