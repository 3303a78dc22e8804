"""SPEC 10.35: a cancel starts no further driver and passes SIGUSR1 on to the running one where it can."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.processes import alive, wait_until
from tests.support.sources import SAY_OK, adjust_script, sitecustomize

if TYPE_CHECKING:
    from tests.support.agent import Operation
    from tests.support.servo import ServoDirectory


def cancel_at(servo: ServoDirectory, text: str, *settings: str, times: int = 1) -> Operation:
    """Adjust, and cancel when the message of a line is `text`."""
    with servo.start_adjust(*settings) as running:
        running.wait_for_line(lambda message: message.get("message") == text)
        for _ in range(times):
            running.send_signal(signal.SIGUSR1)
        return running.finish()


def test_a_driver_that_can_be_canceled_gets_sigusr1_once_and_time_to_end(servo: ServoDirectory) -> None:
    servo.add("01cancelable", "cancelable", rollback=0.3)
    servo.add("02plain", "plain")
    operation = cancel_at(servo, "01cancelable: may be canceled", "01cancelable.cpu", "02plain.cpu", times=3)
    assert operation.returncode == 1
    assert (operation.reply["status"], operation.reply["reason"]) == ("canceled", "SIGUSR1")
    assert operation.reply["state"] == "as before"
    assert operation.reply["drivers"]["01cancelable"]["reason"] == "rolled-back"
    assert operation.reply["message"].split("\n")[1].startswith("01cancelable: canceled: ")
    assert operation.reply["drivers"]["02plain"] == {"status": "not-started"}
    assert [event.what for event in servo.log(phase="adjust")].count("SIGUSR1") == 1
    assert "01cancelable: rolling back" in [message["message"] for message in operation.progress]


def test_a_driver_that_cannot_be_canceled_may_finish(servo: ServoDirectory) -> None:
    servo.add_script(
        "01works",
        # It works until its --info is called, which is after the cancel.
        adjust_script("""\
            rm -f asked
            echo '{"progress":50,"message":"working"}'
            until [ -e asked ]; do sleep 0.02; done
            echo '{"status":"ok"}'
            """).replace("--info) ", "--info) : >asked; "),
    )
    servo.add("02plain", "plain")
    operation = cancel_at(servo, "01works: working", "web.cpu", "02plain.cpu")
    assert operation.returncode == 1
    assert operation.reply["status"] == "canceled"
    assert operation.reply["drivers"]["01works"]["status"] == "ok"
    assert operation.reply["drivers"]["02plain"] == {"status": "not-started"}
    assert "02plain: starting" not in [line["message"] for line in operation.progress]


def test_info_is_called_only_on_a_cancel(servo: ServoDirectory) -> None:
    servo.add("01plain", "plain")
    completed = servo.adjust("01plain.cpu")
    assert completed.returncode == 0
    assert servo.log(phase="info") == []


def test_a_driver_killed_by_the_cancel_is_reported_as_canceled(servo: ServoDirectory) -> None:
    servo.add("01silent", "silent", has_cancel="true")
    with servo.start_adjust("01silent.cpu") as running:
        pids = servo.pids("01silent", "leader", "child", "grandchild")
        os.kill(running.pid, signal.SIGUSR1)
        operation = running.finish(30)
    assert not any(alive(pid) for pid in pids.values())
    assert operation.reply["status"] == "canceled"
    assert operation.reply["drivers"]["01silent"]["reason"] == "signal"


def test_a_driver_that_does_not_end_within_cancel_grace_is_stopped(servo: ServoDirectory) -> None:
    servo.configure("agg: {cancel_grace: 0.3, grace: 0.3}")
    servo.add("01cancelable", "cancelable", rollback=600)
    operation = cancel_at(servo, "01cancelable: may be canceled", "01cancelable.cpu")
    assert operation.reply["status"] == "canceled"
    assert operation.reply["drivers"]["01cancelable"]["status"] == "failed"


def test_the_silence_limit_still_holds_after_a_cancel(servo: ServoDirectory) -> None:
    servo.add("01cancelable", "cancelable", rollback=600)
    with servo.start_adjust("01cancelable.cpu", env={"OPTUNE_IO_TIMEOUT": "3"}) as running:
        running.wait_for_line(lambda message: message.get("message") == "01cancelable: may be canceled")
        running.send_signal(signal.SIGUSR1)
        operation = running.finish(30)
    assert operation.reply["status"] == "canceled"
    assert operation.reply["drivers"]["01cancelable"]["reason"] == "timeout"


def cancelable_whose_info_first(servo: ServoDirectory, command: str, seconds: int) -> None:
    """Add a driver 01cancelable whose `--info` first runs a sh command, once the file `adjusting` exists."""
    source = servo.add("01cancelable", "cancelable", seconds=seconds, when="adjust").read_text()
    first = f'if [ "$1" = --info ] && [ -e adjusting ]; then {command}; fi'
    servo.add_script("01cancelable", source.replace("#!/bin/sh\n", f"#!/bin/sh\n{first}\n"))


def cancel_when_adjusting(servo: ServoDirectory) -> dict[str, Any]:
    """Cancel once 01cancelable works; return its entry in the reply."""
    with servo.start_adjust("01cancelable.cpu") as running:
        running.wait_for_line(lambda line: line.get("message") == "01cancelable: may be canceled")
        (servo.path / "adjusting").touch()
        running.send_signal(signal.SIGUSR1)
        entry: dict[str, Any] = running.finish().reply["drivers"]["01cancelable"]
        return entry


def test_a_driver_is_asked_again_when_a_signal_to_the_group_ended_its_info(servo: ServoDirectory) -> None:
    """A process that is started belongs to our group for an instant, before it has a session of its own."""
    cancelable_whose_info_first(servo, "rm adjusting; kill -USR1 $$", seconds=600)
    assert cancel_when_adjusting(servo)["reason"] == "rolled-back"
    assert not (servo.path / "adjusting").exists()


def test_a_driver_whose_info_fails_may_finish(servo: ServoDirectory) -> None:
    cancelable_whose_info_first(servo, "exit 1", seconds=1)
    assert cancel_when_adjusting(servo)["status"] == "ok"
    assert "SIGUSR1" not in [event.what for event in servo.log(phase="adjust")]


def test_a_driver_that_does_not_say_in_5_s_whether_it_can_be_canceled_may_finish(
    servo: ServoDirectory,
) -> None:
    """It works until its `--info`, which hangs during the adjust, is stopped."""
    hang = "[ ! -e working ] || { trap ': >stopped; exit' TERM; while :; do sleep 0.05; done; }"
    servo.add_script(
        "01works",
        adjust_script("""\
            : >working
            echo '{"progress":50,"message":"working"}'
            until [ -e stopped ]; do sleep 0.05; done
            echo '{"status":"ok"}'
            """).replace("--info) ", f"--info) {hang}; "),
    )
    with servo.start_adjust("web.cpu") as running:
        running.wait_for_line(lambda message: message.get("message") == "01works: working")
        running.send_signal(signal.SIGUSR1)
        operation = running.finish(30)
    assert operation.reply["status"] == "canceled"
    assert operation.reply["drivers"]["01works"]["status"] == "ok"


def test_sigusr1_is_sent_to_the_driver_and_not_to_its_children(servo: ServoDirectory) -> None:
    servo.add_script(
        "01works",
        adjust_script("""\
            trap canceled=yes USR1
            sh -c '
                trap "echo >signaled" USR1
                echo >ready
                while [ ! -e over ]; do sleep 0.05; done
            ' </dev/null &
            until [ -e ready ]; do sleep 0.05; done
            echo '{"progress":50,"message":"working"}'
            until [ "$canceled" ]; do sleep 0.05; done
            : >over
            wait
            echo '{"status":"canceled"}'
            """).replace('"has_cancel":false', '"has_cancel":true'),
    )
    operation = cancel_at(servo, "01works: working", "web.cpu")
    assert operation.reply["drivers"]["01works"]["status"] == "canceled"
    assert not (servo.path / "signaled").exists()


@pytest.mark.parametrize("arguments", [["--query", "app"], ["app"]], ids=["query", "adjust"])
def test_during_a_query_the_drivers_are_stopped(servo: ServoDirectory, arguments: list[str]) -> None:
    servo.add("01silent", "silent", when="query")
    with servo.start(*arguments, input=servo.request("01silent.cpu")) as program:
        servo.pids("01silent", "leader", "child", "grandchild")
        program.send_signal(signal.SIGUSR1)
        completed = program.finish()
    reply = completed.reply
    assert (completed.returncode, reply["status"], reply["reason"]) == (1, "canceled", "SIGUSR1")


def test_a_second_adjust_runs_once_the_first_has_ended(servo: ServoDirectory) -> None:
    servo.add("01slow", "slow", when="adjust", seconds=0.7)
    with servo.start_adjust("01slow.cpu") as running:
        wait_until(lambda: servo.log(phase="adjust"), 30, "start of the first")
        completed = servo.adjust("01slow.cpu")
        running.finish(30)
    assert completed.returncode == 0
    assert [event.what for event in servo.log(phase="adjust")] == ["start", "end", "start", "end"]


CANCEL_BEFORE_REAPING = """
    import os, signal, time

    reap = os.waitpid

    def cancel_and_reap(pid, options):
        if os.path.exists("adjusted"):
            os.remove("adjusted")
            os.kill(os.getpid(), signal.SIGUSR1)
            # The main thread puts the cancel into the event queue.
            time.sleep(0.3)
        return reap(pid, options)

    os.waitpid = cancel_and_reap
"""


def test_a_cancel_between_two_drivers_starts_no_other(servo: ServoDirectory) -> None:
    servo.add_script("01works", adjust_script(f": >adjusted\n{SAY_OK}\n"))
    servo.add("02plain", "plain")
    completed = servo.adjust("web.cpu", "02plain.cpu", env=sitecustomize(servo, CANCEL_BEFORE_REAPING))
    assert completed.reply["status"] == "canceled"
    assert completed.reply["drivers"]["01works"]["status"] == "ok"
    assert "02plain: starting" not in [line["message"] for line in completed.progress]
