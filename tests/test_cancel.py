"""SPEC 10: a cancel starts no further driver, tells the running one if it can be told, and is answered."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.processes import alive, environment, wait_until
from tests.sources import adjusting

if TYPE_CHECKING:
    from tests.agent import Operation
    from tests.servo import ServoDirectory


def cancel_at(servo: ServoDirectory, text: str, *settings: str, times: int = 1) -> Operation:
    """Adjust, and cancel when a line says `text`."""
    with servo.agent().start_adjust("app", servo.request(*settings)) as running:
        running.wait_for_line(lambda message: message.get("message") == text)
        for _ in range(times):
            running.send_signal(signal.SIGUSR1)
        return running.finish(30)


def test_a_driver_that_can_be_cancelled_is_told_once_and_has_its_time(servo: ServoDirectory) -> None:
    servo.add("01cancelable", "cancelable", rollback=0.3)
    servo.add("02plain", "plain")
    operation = cancel_at(servo, "01cancelable: may be canceled", "01cancelable.cpu", "02plain.cpu", times=3)
    assert operation.returncode == 1
    assert operation.reply is not None
    assert (operation.reply["status"], operation.reply["reason"]) == ("canceled", "SIGUSR1")
    assert operation.reply["state"] == "as before"
    assert operation.reply["drivers"]["01cancelable"]["reason"] == "rolled-back"
    assert operation.reply["message"].split("\n")[1].startswith("01cancelable: canceled: ")
    assert operation.reply["drivers"]["02plain"] == {"status": "not-started"}
    assert [event.what for event in servo.log(phase="adjust")].count("SIGUSR1") == 1
    assert "01cancelable: rolling back" in [message["message"] for message in operation.progress]


def test_one_that_cannot_be_cancelled_may_finish(servo: ServoDirectory) -> None:
    servo.add_script(
        "01works",
        # It works until it has been asked whether it can be cancelled, which is after the cancel.
        adjusting("""\
            rm -f asked
            echo '{"progress":50,"message":"working"}'
            until [ -e asked ]; do sleep 0.02; done
            echo '{"status":"ok"}'
            """).replace("--info) ", "--info) : >asked; "),
    )
    servo.add("02plain", "plain")
    operation = cancel_at(servo, "01works: working", "web.cpu", "02plain.cpu")
    assert operation.returncode == 1
    assert operation.reply is not None
    assert operation.reply["status"] == "canceled"
    assert operation.reply["drivers"]["01works"]["status"] == "ok"
    assert operation.reply["drivers"]["02plain"] == {"status": "not-started"}


def test_has_cancel_is_asked_only_on_a_cancel(servo: ServoDirectory) -> None:
    servo.add("01plain", "plain")
    completed = servo.run("app", input=json.dumps(servo.request("01plain.cpu")).encode())
    assert completed.returncode == 0
    assert servo.log(phase="info") == []


def test_one_without_a_handler_dies_of_it_and_the_answer_is_still_canceled(servo: ServoDirectory) -> None:
    servo.add("01silent", "silent", has_cancel="true")
    with servo.agent().start_adjust("app", servo.request("01silent.cpu")) as running:
        pids = servo.pids("01silent", "leader", "child", "grandchild")
        os.kill(running.pid, signal.SIGUSR1)
        operation = running.finish(30)
    assert not any(alive(pid) for pid in pids.values())
    assert operation.reply is not None
    assert operation.reply["status"] == "canceled"
    assert operation.reply["drivers"]["01silent"]["reason"] == "signal"


def test_one_that_does_not_end_in_its_time_is_stopped(servo: ServoDirectory) -> None:
    servo.configure("agg: {cancel_grace: 0.3, grace: 0.3}")
    servo.add("01cancelable", "cancelable", rollback=600)
    operation = cancel_at(servo, "01cancelable: may be canceled", "01cancelable.cpu")
    assert operation.reply is not None
    assert operation.reply["status"] == "canceled"
    assert operation.reply["drivers"]["01cancelable"]["status"] == "failed"


def test_one_that_is_silent_after_a_cancel_is_timed_out_as_ever(servo: ServoDirectory) -> None:
    servo.add("01cancelable", "cancelable", rollback=600)
    with servo.agent(env={"OPTUNE_IO_TIMEOUT": "5"}).start_adjust(
        "app", servo.request("01cancelable.cpu")
    ) as running:
        running.wait_for_line(lambda message: message.get("message") == "01cancelable: may be canceled")
        running.send_signal(signal.SIGUSR1)
        operation = running.finish(30)
    assert operation.reply is not None
    assert operation.reply["status"] == "canceled"
    assert operation.reply["drivers"]["01cancelable"]["reason"] == "timeout"


def test_it_is_asked_again_when_a_signal_to_our_group_ended_the_question(servo: ServoDirectory) -> None:
    # A process that is started belongs to our group for an instant, before it has a session of its own.
    servo.add("01cancelable", "cancelable", seconds=600, when="adjust")
    source = (servo.drivers / "01cancelable").read_text()
    (servo.drivers / "01cancelable").write_text(
        source.replace(
            "#!/bin/sh\n",
            '#!/bin/sh\nif [ "$1" = --info ] && rmdir adjusting 2>/dev/null; then kill -USR1 $$; fi\n',
        )
    )
    with servo.agent().start_adjust("app", servo.request("01cancelable.cpu")) as running:
        running.wait_for_line(lambda message: message.get("message") == "01cancelable: may be canceled")
        (servo.path / "adjusting").mkdir()
        running.send_signal(signal.SIGUSR1)
        operation = running.finish(30)
    assert not (servo.path / "adjusting").exists()
    assert operation.reply is not None
    assert operation.reply["drivers"]["01cancelable"]["reason"] == "rolled-back"


def test_a_driver_that_does_not_tell_whether_it_can_may_finish(servo: ServoDirectory) -> None:
    servo.add("01cancelable", "cancelable", seconds=1, when="adjust")
    source = (servo.drivers / "01cancelable").read_text()
    (servo.drivers / "01cancelable").write_text(
        source.replace(
            "#!/bin/sh\n", '#!/bin/sh\nif [ "$1" = --info ] && [ -e adjusting ]; then exit 1; fi\n'
        )
    )
    with servo.agent().start_adjust("app", servo.request("01cancelable.cpu")) as running:
        running.wait_for_line(lambda message: message.get("message") == "01cancelable: may be canceled")
        (servo.path / "adjusting").touch()
        running.send_signal(signal.SIGUSR1)
        operation = running.finish(30)
    assert operation.reply is not None
    assert operation.reply["drivers"]["01cancelable"]["status"] == "ok"
    assert "SIGUSR1" not in [event.what for event in servo.log(phase="adjust")]


def test_the_agent_cancels_by_its_own_means(servo: ServoDirectory) -> None:
    servo.add("01cancelable", "cancelable")
    with servo.agent() as agent:
        operation = agent.adjust(
            "app",
            servo.request("01cancelable.cpu"),
            on_progress=lambda message: "cancel" if "may be" in message["message"] else None,
        )
    assert operation.reply is not None
    assert operation.reply["status"] == "canceled"


@pytest.mark.parametrize("arguments", [["--query", "app"], ["app"]], ids=["query", "adjust"])
def test_during_a_query_the_drivers_are_stopped(servo: ServoDirectory, arguments: list[str]) -> None:
    servo.add("01silent", "silent", when="query")
    process = subprocess.Popen(
        ["./adjust", *arguments],
        cwd=servo.path,
        env=environment(servo.env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(servo.request("01silent.cpu")).encode())
    process.stdin.close()
    process.stdin = None
    servo.pids("01silent", "leader", "child", "grandchild")
    process.send_signal(signal.SIGUSR1)
    stdout, _ = process.communicate(timeout=20)
    final = json.loads(stdout.splitlines()[-1])
    assert (process.returncode, final["status"], final["reason"]) == (1, "canceled", "SIGUSR1")


def test_a_second_adjust_waits_for_the_first_and_then_gives_up(servo: ServoDirectory) -> None:
    servo.add("01graceful", "graceful", when="adjust")
    request = servo.request("01graceful.cpu")
    with servo.agent().start_adjust("app", request) as running:
        running.wait_for_line(lambda message: message.get("message") == "01graceful: may be terminated")
        completed = servo.run("app", input=json.dumps(request).encode(), env={"OPTUNE_IO_TIMEOUT": "1"})
        assert completed.returncode == 1
        assert completed.reply["reason"] == "busy"
        assert str(servo.path) in completed.reply["message"]
        # Queries take no lock.
        assert servo.run("--query", "app").returncode == 0
        running.send_signal(signal.SIGTERM)
        running.finish(30)


def test_a_second_adjust_runs_once_the_first_has_ended(servo: ServoDirectory) -> None:
    servo.add("01slow", "slow", when="adjust", seconds=0.7)
    request = servo.request("01slow.cpu")
    with servo.agent().start_adjust("app", request) as running:
        wait_until(lambda: servo.log(phase="adjust"), 20, "start of the first")
        completed = servo.run("app", input=json.dumps(request).encode())
        running.finish(30)
    assert completed.returncode == 0
    assert [event.what for event in servo.log(phase="adjust")] == ["start", "end", "start", "end"]
