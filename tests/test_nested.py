"""An aggregator inside an aggregator: a servo directory that is a driver of another (docs/nested.md)."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from servo_agg import VERSION
from tests.processes import alive, environment, wait_until
from tests.servo import ServoDirectory, in_a_calm_moment
from tests.sources import adjusting

if TYPE_CHECKING:
    from tests.agent import Operation

HALT = Path(__file__).resolve().parent / "faults" / "halt"


@pytest.fixture
def inner(servo: ServoDirectory, tmp_path: Path) -> ServoDirectory:
    """Make a servo directory that is the driver `10inner` of `servo`, whose only driver it is."""
    directory = ServoDirectory(tmp_path, "it's inside")
    nest(directory, servo, "10inner")
    return directory


def nest(directory: ServoDirectory, outer: ServoDirectory, name: str, first: str = ":") -> None:
    """Make of one directory a driver of the other: a script that runs the command `first` before."""
    path = shlex.quote(str(directory.path))
    outer.add_script(name, f'#!/bin/sh\n{first}\ncd {path} && exec ./adjust "$@"\n')


def given(*settings: str) -> bytes:
    return json.dumps(ServoDirectory.request(*settings)).encode()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])


def all_gone(pids: dict[str, int]) -> None:
    wait_until(lambda: not any(alive(pid) for pid in pids.values()), 10, "end of the inner driver's tree")


def told(operation: Operation, part: str) -> bool:
    """Whether the agent has had an answer whose message contains `part`."""
    reply = operation.reply
    return not operation.timed_out and reply is not None and part in reply.get("message", "")


def entry(operation: Operation, *names: str) -> dict[str, object]:
    """Give what the reply says of a driver: that of the outer one, then of the inner one."""
    found = operation.reply
    for name in names:
        assert found is not None
        found = found["drivers"][name]
    assert found is not None
    return found


def test_they_answer_a_query_as_one(servo: ServoDirectory, inner: ServoDirectory) -> None:
    servo.add("01plain", "plain", component="web")
    inner.add("01plain", "plain", component="db")
    inner.add("02plain", "plain", component="cache")
    assert list(servo.run("--query", "app").reply["application"]["components"]) == ["web", "db", "cache"]


def test_a_setting_described_inside_and_outside_is_a_conflict(
    servo: ServoDirectory, inner: ServoDirectory
) -> None:
    servo.add("01plain", "plain", component="web", settings='"cpu": {"value": 1}')
    inner.add("01plain", "plain", component="web", settings='"cpu": {"value": 1}')
    reply = servo.run("--query", "app").reply
    assert reply["reason"] == "conflict"
    assert "web.cpu is described by 01plain and 10inner" in reply["message"]


def test_info_version_and_check_tell_of_the_inner_drivers(
    servo: ServoDirectory, inner: ServoDirectory
) -> None:
    inner.add("01plain", "plain", version="7.7")
    inner.add("02cancelable", "cancelable")
    told = servo.run("--info", "app").reply["drivers"]["10inner"]
    assert told == {
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
    assert "problem 1: 10inner: 02exit3: failed: on --query: exited with status 3" in done.stdout.decode()


def test_an_adjust_reaches_the_inner_drivers_and_their_progress_us(
    servo: ServoDirectory, inner: ServoDirectory
) -> None:
    servo.add("01plain", "plain", component="web")
    inner.add("01plain", "plain", component="db")
    inner.add("02plain", "plain", component="cache")
    inner.add("03plain", "plain")
    request = servo.request("web.cpu", "db.cpu", "cache.cpu")
    operation = servo.agent(io_timeout=30).adjust("app", request)
    assert operation.returncode == 0
    told = {message["message"]: message["progress"] for message in operation.progress}
    # The outer driver is one half, each of the two inner ones a quarter.
    assert told["10inner: 01plain: at 60"] == 65
    assert told["10inner: 02plain: at 60"] == 90
    totals = [message["progress"] for message in operation.progress]
    assert totals == sorted(totals)
    assert entry(operation, "10inner", "02plain")["status"] == "ok"
    assert entry(operation, "10inner", "03plain") == {"status": "skipped"}


def test_a_failure_inside_is_named_from_the_outside_in(servo: ServoDirectory, inner: ServoDirectory) -> None:
    inner.add_script("01refuses", adjusting('echo \'{"status":"rejected","reason":"odd","message":"no"}\''))
    operation = servo.agent().adjust("app", servo.request("web.cpu"))
    assert operation.reply is not None
    assert (operation.reply["status"], operation.reply["reason"]) == ("rejected", "odd")
    assert operation.reply["message"].startswith("10inner: rejected: 01refuses: rejected: no")


# Time.


@pytest.mark.parametrize("whole", [3, pytest.param(4, marks=pytest.mark.full)])
def test_the_inner_one_times_out_first_and_names_its_driver(
    servo: ServoDirectory, inner: ServoDirectory, whole: int
) -> None:
    inner.add("01silent", "silent")
    tree = {"leader", "child", "grandchild"}

    def play() -> Operation:
        (servo.path / "driver.pids").unlink(missing_ok=True)
        return servo.agent(io_timeout=whole).adjust("app", servo.request("01silent.cpu"))

    operation = in_a_calm_moment(
        play,
        lambda played: (
            told(played, f"01silent: failed: was silent for {whole - 2}.")
            and tree <= servo.pids("01silent").keys()
        ),
    )
    assert not operation.timed_out
    assert operation.reply is not None
    assert operation.reply["reason"] == "timeout"
    assert f"01silent: failed: was silent for {whole - 2}." in operation.reply["message"]
    assert entry(operation, "10inner", "01silent")["reason"] == "timeout"
    all_gone(servo.pids("01silent", *tree))


def test_it_does_so_in_a_query(servo: ServoDirectory, inner: ServoDirectory) -> None:
    inner.add("01silent", "silent", when="query")
    sentence = "10inner: failed: 01silent: failed: on --query: gave no answer within 1 s"
    operation = in_a_calm_moment(
        lambda: servo.agent(io_timeout=3).describe("app"), lambda played: told(played, sentence)
    )
    assert not operation.timed_out
    assert operation.reply is not None
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

    def play() -> Operation:
        (servo.path / "driver.pids").unlink(missing_ok=True)
        with servo.agent(io_timeout=6).start_adjust("app", servo.request("01stubborn.cpu")) as running:
            os.kill(parent_of(servo.pids("01stubborn", *tree)["leader"]), signal.SIGSTOP)
            return running.finish(20)

    operation = in_a_calm_moment(play, lambda played: told(played, "10inner: failed: was silent for"))
    assert not operation.timed_out
    assert entry(operation, "10inner")["reason"] == "timeout"
    all_gone(servo.pids("01stubborn", *tree))


def test_an_inner_aggregator_that_is_killed_leaves_no_driver_beside_the_next(
    servo: ServoDirectory, inner: ServoDirectory
) -> None:
    servo.configure("agg: {grace: 0.5}")
    inner.add("01stubborn", "stubborn")
    servo.add_script(
        "20db",
        adjusting(
            """\
            cat >/dev/null
            for pid in $(sed -n 's/^[a-z]* \\([0-9]*\\) 01stubborn$/\\1/p' "$DRIVER_PIDS"); do
                ! grep -q '^State:.[^XZ]' /proc/$pid/status 2>/dev/null || echo "$pid" >>beside
            done
            echo '{"status":"ok"}'
            """,
            component="db",
        ),
    )
    with servo.agent().start_adjust("app", servo.request("01stubborn.cpu", "db.cpu")) as running:
        pids = servo.pids("01stubborn", "leader", "child", "grandchild")
        os.kill(parent_of(pids["leader"]), signal.SIGKILL)
        operation = running.finish()
    assert entry(operation, "20db")["status"] == "ok"
    assert not (servo.path / "beside").exists()
    assert not any(alive(pid) for pid in pids.values())


# Cancel.


def test_a_cancel_reaches_the_inner_driver_which_has_the_time_that_the_inner_one_gives(
    servo: ServoDirectory, inner: ServoDirectory
) -> None:
    servo.configure("agg: {cancel_grace: 0.3, grace: 0.3}")
    inner.add("01cancelable", "cancelable", rollback=1)
    inner.add("02plain", "plain")
    with servo.agent().start_adjust("app", servo.request("01cancelable.cpu", "02plain.cpu")) as running:
        running.wait_for_line(lambda line: line["message"] == "10inner: 01cancelable: may be canceled")
        running.send_signal(signal.SIGUSR1)
        operation = running.finish(30)
    assert operation.reply is not None
    assert (operation.reply["status"], operation.reply["state"]) == ("canceled", "as before")
    assert entry(operation, "10inner")["status"] == "canceled"
    assert entry(operation, "10inner", "01cancelable")["reason"] == "rolled-back"
    assert entry(operation, "10inner", "02plain") == {"status": "not-started"}


def test_an_inner_driver_that_cannot_be_cancelled_may_finish(
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
        # By the agent, then for the cancel of the outer one, then for that of the inner one.
        return sum((event.what, event.name) == ("start", "01works") for event in events) >= 3

    with servo.agent().start_adjust("app", servo.request("01works.cpu", "02plain.cpu")) as running:
        running.wait_for_line(lambda line: line["message"] == "10inner: 01works: on")
        running.send_signal(signal.SIGUSR1)
        # It may not finish before the inner one has heard of the cancel.
        wait_until(asked, 20, "asking 01works whether it can be cancelled")
        (inner.path / "finish").touch()
        operation = running.finish(30)
    assert operation.reply is not None
    assert operation.reply["status"] == "canceled"
    assert entry(operation, "10inner", "01works")["status"] == "ok"
    assert entry(operation, "10inner", "02plain") == {"status": "not-started"}


def test_one_that_bounds_a_cancel_by_its_own_configuration(
    servo: ServoDirectory, inner: ServoDirectory
) -> None:
    inner.configure("agg: {cancel_grace: 0.3, grace: 0.3}")
    inner.add("01cancelable", "cancelable", rollback=600)
    with servo.agent().start_adjust("app", servo.request("01cancelable.cpu")) as running:
        running.wait_for_line(lambda line: line["message"] == "10inner: 01cancelable: may be canceled")
        running.send_signal(signal.SIGUSR1)
        operation = running.finish(30)
    assert entry(operation, "10inner")["status"] == "canceled"
    assert entry(operation, "10inner", "01cancelable")["status"] == "failed"


# The end.


def test_sigterm_goes_down_to_the_inner_driver_and_its_word_up(
    servo: ServoDirectory, inner: ServoDirectory
) -> None:
    for directory in (servo, inner):
        # A driver that cleans up is not to be killed on a slow machine.
        directory.configure("agg: {grace: 60}")
    inner.add("01graceful", "graceful", when="adjust")
    with servo.agent().start_adjust("app", servo.request("01graceful.cpu")) as running:
        running.wait_for_line(lambda line: line["message"] == "10inner: 01graceful: may be terminated")
        running.send_signal(signal.SIGTERM)
        operation = running.finish(30)
    assert operation.returncode == 128 + signal.SIGTERM
    assert operation.reply is not None
    assert operation.reply["status"] == "terminated"
    assert entry(operation, "10inner", "01graceful")["reason"] == "cleaned-up"


def test_sigterm_ends_an_inner_driver_that_resists(servo: ServoDirectory, inner: ServoDirectory) -> None:
    servo.configure("agg: {grace: 0.5}")
    inner.add("01stubborn", "stubborn")
    with servo.agent().start_adjust("app", servo.request("01stubborn.cpu")) as running:
        pids = servo.pids("01stubborn", "leader", "child", "grandchild")
        running.send_signal(signal.SIGTERM)
        operation = running.finish(20)
    assert operation.returncode == 128 + signal.SIGTERM
    # We exit only when the last process is gone, however deep it was started.
    assert not any(alive(pid) for pid in pids.values())


@pytest.mark.parametrize("kind", ["silent", "stubborn"])
def test_sigkill_of_the_outer_one_leaves_nothing_of_either(
    servo: ServoDirectory, inner: ServoDirectory, kind: str
) -> None:
    for directory in (servo, inner):
        directory.configure("agg: {grace: 0.5}")
    inner.add("01runs", kind)
    with servo.agent().start_adjust("app", servo.request("01runs.cpu")) as running:
        pids = servo.pids("01runs", "leader", "child", "grandchild")
        pids["inner"] = parent_of(pids["leader"])
        running.send_signal(signal.SIGKILL)
        running.finish(10)
        all_gone(pids)
    wait_until(lambda: is_free(servo) and is_free(inner), 10, "both locks are free")


def is_free(directory: ServoDirectory) -> bool:
    descriptor = os.open(directory.path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)


def test_nor_does_one_that_comes_before_its_pid_is_noted(
    servo: ServoDirectory, inner: ServoDirectory
) -> None:
    """The outer one knows of the inner one's drivers only by the mark that both have given them."""
    inner.add("01stubborn", "stubborn", when="query")
    (servo.path / "faults").mkdir()
    os.mkfifo(servo.path / "faults" / "halt")
    halted = {"FAULTS_HALT": "spawned adjust.d/10inner query", "PYTHONPATH": str(HALT)}
    with subprocess.Popen(
        ["./adjust", "--query", "app"],
        cwd=servo.path,
        env=environment(servo.env, halted),
        stdout=subprocess.PIPE,
    ) as process:
        try:
            wait_until((servo.path / "faults" / "halt.reached").exists, 10, "the outer one is halted")
            pids = servo.pids("01stubborn", "leader", "child", "grandchild")
        finally:
            process.kill()
        all_gone(pids)


def test_sigkill_of_the_inner_one_ends_its_driver_too(servo: ServoDirectory, inner: ServoDirectory) -> None:
    inner.add("01silent", "silent")
    with servo.agent().start_adjust("app", servo.request("01silent.cpu")) as running:
        pids = servo.pids("01silent", "leader", "child", "grandchild")
        os.kill(parent_of(pids["leader"]), signal.SIGKILL)
        operation = running.finish(20)
        all_gone(pids)
    assert operation.reply is not None
    assert operation.reply["message"] == "10inner: failed: killed by SIGKILL, gave no reply"


def test_an_inner_directory_that_is_being_adjusted_is_waited_for_and_named(
    servo: ServoDirectory, inner: ServoDirectory
) -> None:
    inner.add("01plain", "plain")
    # The outer one has time enough to hear of it.
    nest(inner, servo, "10inner", "export OPTUNE_IO_TIMEOUT=5")
    held = os.open(inner.path, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        operation = servo.agent(io_timeout=30).adjust("app", servo.request("01plain.cpu"))
    finally:
        os.close(held)
    assert not operation.timed_out
    assert operation.reply is not None
    assert operation.reply["reason"] == "busy"
    assert f"10inner: failed: another adjust is running in {inner.path}" in operation.reply["message"]
    assert servo.run("app", input=given("01plain.cpu")).returncode == 0


# How deep they may be.


RESTARTING = """\
    #!/bin/sh
    case $1 in
    --info) echo '{"version":"1.0","has_cancel":false}' ;;
    --query) echo '{"components":{"web":{"settings":{"cpu":{"value":2}}}}}' ;;
    *) setsid ./agent </dev/null >>said 2>&1 & echo '{"status":"ok"}' ;;
    esac
"""

RESTARTED = """\
    #!/bin/sh
    echo "$SERVO_AGG_START" >>marks
    [ $(wc -l <marks) -gt 10 ] && exit
    sleep 0.3
    echo '{"application":{"components":{"web":{"settings":{"cpu":{"value":4}}}}}}' | ./adjust app | tail -n 1
"""


def test_spec_3_aggregators_that_have_ended_are_not_around_us(servo: ServoDirectory) -> None:
    """A driver restarts the agent, which inherits its mark; the tenth generation is as good as the first."""
    servo.add_script("01", RESTARTING)
    servo.add_script("../agent", RESTARTED)
    marks = servo.path / "marks"
    said = servo.path / "said"
    said.touch()
    subprocess.run(["./agent"], cwd=servo.path, env=environment(servo.env), check=True, timeout=60)

    def lines() -> list[str]:
        return marks.read_text(encoding="ascii").splitlines()

    wait_until(lambda: len(lines()) == 11 or "failed" in said.read_text(), 60, "the last generation")
    assert "failed" not in said.read_text(encoding="ascii")
    wait_until(lambda: len(lines()) == 11 and said.read_text().count("\n") == 9, 60, "its predecessors' end")
    # What it inherits does not grow, nor do those who have ended long ago stand in it.
    assert max(line.count(".") for line in lines()) < 8
    assert lines()[1].split("-")[0] not in lines()[-1]


@pytest.mark.parametrize(
    "again",
    ['exec ./adjust "$@"', 'setsid --wait ./adjust "$@"'],
    ids=["inside", "in-a-session-of-its-own"],
)
def test_spec_3_one_that_runs_itself_is_refused(servo: ServoDirectory, again: str) -> None:
    servo.add_script("01", f"#!/bin/sh\necho >>starts\n{again}\n")
    completed = servo.run("--query", "app")
    assert "aggregators run inside one another" in completed.reply["message"]
    assert len((servo.path / "starts").read_bytes()) == 8
