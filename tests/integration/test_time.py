"""SPEC 9: a driver that is silent for too long is stopped before the agent times out."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from typing import TYPE_CHECKING

import pytest

from servo_agg.protocol.messages import LINE_LIMIT
from tests.support.processes import alive, state, wait_until
from tests.support.servo import retry_under_load
from tests.support.sources import adjust_script, sitecustomize

if TYPE_CHECKING:
    from tests.support.agent import Operation
    from tests.support.servo import ServoDirectory


def test_a_timeout_stops_only_the_silent_driver(servo: ServoDirectory) -> None:
    """It is stopped with its tree, before the agent times out."""
    servo.add("01silent", "silent")
    servo.add("02plain", "plain")
    with servo.agent(io_timeout=3, calls_info=False) as agent:

        def run() -> Operation:
            (servo.path / "driver.pids").unlink(missing_ok=True)
            return agent.adjust("app", servo.request("01silent.cpu", "02plain.cpu"))

        operation = retry_under_load(run, lambda result: not result.timed_out and result.longest_silence < 3)
    assert not operation.timed_out
    assert operation.longest_silence < 3.0
    drivers = operation.reply["drivers"]
    assert (drivers["01silent"]["status"], drivers["01silent"]["reason"]) == ("failed", "timeout")
    # More than 2.0 s where the coordinator runs late.
    assert re.search(r"was silent for 2\.\d s", drivers["01silent"]["message"])
    assert drivers["02plain"]["status"] == "ok"
    assert not any(alive(pid) for pid in servo.pids("01silent", "leader", "child", "grandchild").values())


def test_an_unresponsive_driver_has_the_short_grace(servo: ServoDirectory) -> None:
    servo.configure("agg: {grace: 60}")
    servo.add("01stubborn", "stubborn")
    with servo.start_adjust("01stubborn.cpu", env={"OPTUNE_IO_TIMEOUT": "2"}) as running:
        operation = running.finish(20)
    assert operation.reply["reason"] == "timeout"
    pids = servo.pids("01stubborn", "leader", "child", "grandchild")
    assert not any(alive(pid) for pid in pids.values())


def test_output_on_stderr_does_not_end_a_silence(servo: ServoDirectory) -> None:
    servo.add_script(
        "01talks",
        adjust_script("""while :; do echo alive >&2; sleep 0.1; done"""),
    )
    completed = servo.adjust("web.cpu", env={"OPTUNE_IO_TIMEOUT": "3"})
    assert completed.reply["reason"] == "timeout"
    assert re.search(r"was silent for 2\.\d s", completed.reply["message"])


def test_a_driver_that_prints_progress_is_not_timed_out(servo: ServoDirectory) -> None:
    servo.add_script(
        "01talks",
        adjust_script("""\
        for n in 1 2 3 4 5 6 7; do echo '{"progress":1}'; sleep 0.5; done
        echo '{"status":"ok"}'
        """),
    )
    completed = servo.adjust("web.cpu", env={"OPTUNE_IO_TIMEOUT": "3"})
    assert completed.returncode == 0
    assert completed.seconds > 3


def query_where_two_drivers_hang(servo: ServoDirectory, io_timeout: str) -> list[str]:
    """Return the lines of the message of a query in which two of three drivers hang."""
    servo.add("01hangs", "silent", when="query")
    servo.add("02plain", "plain")
    servo.add("03hangs", "silent", when="query")
    completed = servo.run("--query", "app", env={"OPTUNE_IO_TIMEOUT": io_timeout})
    assert completed.returncode == 1
    assert (completed.reply["status"], completed.reply["reason"]) == ("failed", "timeout")
    lines: list[str] = completed.reply["message"].split("\n")
    return lines


def test_the_limit_of_a_query_is_for_all_drivers_together(servo: ServoDirectory) -> None:
    assert query_where_two_drivers_hang(servo, "3") == [
        f"{name}: failed: on --query: did not answer within 2 s and was stopped"
        for name in ("01hangs", "03hangs")
    ]


@pytest.mark.parametrize(("io_timeout", "limit"), [("1", "0.5 s"), ("0.4", "0.2 s")])
def test_a_short_limit_of_a_query_holds(servo: ServoDirectory, io_timeout: str, limit: str) -> None:
    # On a loaded machine 02plain is late too, and the message says who started late.
    lines = [
        line for line in query_where_two_drivers_hang(servo, io_timeout) if not line.startswith("02plain: ")
    ]
    assert len(lines) == 2
    for name, line in zip(("01hangs", "03hangs"), lines):
        assert re.match(rf"{name}: failed: on --query: .*within (the )?{re.escape(limit)}\b", line), line


def test_the_limit_of_the_query_in_an_adjust_counts_from_its_first_line(servo: ServoDirectory) -> None:
    servo.add("01plain", "plain")
    with servo.start("app", input=None, env={"OPTUNE_IO_TIMEOUT": "3"}) as program:
        # The input comes after the limit of 2 s has passed since the start.
        time.sleep(2.1)
        completed = program.finish(json.dumps(servo.request("01plain.cpu")).encode())
    assert completed.reply["status"] == "ok"


def test_info_succeeds_and_reports_a_driver_that_hangs(servo: ServoDirectory) -> None:
    servo.add("01hangs", "silent", when="info")
    servo.add("02plain", "plain")
    completed = servo.run("--info", "app", env={"OPTUNE_IO_TIMEOUT": "3"})
    assert completed.returncode == 0
    assert completed.reply["drivers"] == {
        "01hangs": {
            "version": "unknown",
            "has_cancel": False,
            "message": "on --info: did not answer within 2 s and was stopped",
        },
        "02plain": {"version": "1.0", "has_cancel": False},
    }


def test_endless_progress_does_not_extend_the_limit_of_a_query(servo: ServoDirectory) -> None:
    servo.add_script("01flood", "#!/bin/sh\nwhile :; do echo '{\"progress\":1}'; done\n")
    completed = servo.run("--query", "app", env={"OPTUNE_IO_TIMEOUT": "1"})
    assert completed.reply["reason"] == "timeout"


def test_blank_lines_do_not_end_a_silence(servo: ServoDirectory) -> None:
    servo.add_script("01blank", adjust_script("""exec yes "$(printf '\\n\\r\\n\\t')"\n"""))
    with servo.agent(io_timeout=2, calls_info=False) as agent:
        operation = retry_under_load(
            lambda: agent.adjust("app", servo.request("web.cpu")), lambda operation: not operation.timed_out
        )
    assert not operation.timed_out
    assert operation.reply["reason"] == "timeout"


def test_no_driver_is_started_after_the_limit_of_all(servo: ServoDirectory) -> None:
    servo.configure("agg: {parallel: 2}")
    for number in range(12):
        servo.add(f"{number:02}stubborn", "stubborn", when="info")
    with servo.agent(io_timeout=3) as agent:
        reply = agent.info("app")
    started = {name for name, entry in reply["drivers"].items() if "did not answer" in entry["message"]}
    assert started == {"00stubborn", "01stubborn"}
    others = {entry["message"] for name, entry in reply["drivers"].items() if name not in started}
    late = "was not started within the 2 s that all drivers share, because of `parallel` or `serial`"
    assert others == {f"on --info: {late}"}


SLOW_CONFIGURATION = """
    import os, time

    stat = os.stat

    def slow(path, **options):
        if path == "config.yaml":
            time.sleep(60)
        return stat(path, **options)

    os.stat = slow
"""
"""A file server that does not answer when config.yaml is looked at."""


@pytest.mark.parametrize("number", [None, signal.SIGTERM], ids=["timeout", "SIGTERM"])
def test_a_configuration_that_hangs_delays_neither_the_answer_nor_a_signal(
    servo: ServoDirectory, number: int | None
) -> None:
    servo.configure("agg: {grace: 1}")
    env = {**sitecustomize(servo, SLOW_CONFIGURATION), "OPTUNE_IO_TIMEOUT": "60" if number else "1"}
    with servo.start("--query", "app", env=env) as program:
        if number:
            # Nothing but the main thread and the three others shows that it hangs.
            wait_until(lambda: len(os.listdir(f"/proc/{program.pid}/task")) >= 4, 30, "the thread that reads")
            program.send_signal(number)
        completed = program.finish(timeout=20)
    assert completed.reply["reason"] == ("SIGTERM" if number else "bad-configuration")
    if not number:
        assert "cannot read the servo directory within 0.5 s" in completed.reply["message"]


def test_time_in_which_the_program_was_stopped_does_not_count(servo: ServoDirectory) -> None:
    servo.add_script(
        "01works",
        adjust_script("""\
        cat >/dev/null
        until [ -e stopped ]; do echo '{"progress":1,"message":"working"}'; sleep 0.1; done
        sleep 2.3
        echo '{"status":"ok"}'
        touch done
        """),
    )
    with servo.start_adjust("web.cpu", env={"OPTUNE_IO_TIMEOUT": "3"}) as running:
        running.wait_for_line(lambda message: message.get("message") == "01works: working")
        running.send_signal(signal.SIGSTOP)
        wait_until(lambda: state(running.pid) == "T", 30, "the stop of the program")
        (servo.path / "stopped").touch()
        # Longer than the driver may be silent, and it ends meanwhile.
        wait_until((servo.path / "done").exists, 20, "end of the driver")
        running.send_signal(signal.SIGCONT)
        operation = running.finish()
    assert operation.ok


def test_short_pauses_of_the_program_and_its_driver_do_not_add_up_to_a_silence(servo: ServoDirectory) -> None:
    servo.add_script(
        "01works",
        adjust_script("""\
        echo "leader $$ 01works" >>driver.pids
        until [ -e go ]; do sleep 0.02; done
        echo '{"status":"ok"}'
        """),
    )
    with servo.start_adjust("web.cpu", env={"OPTUNE_IO_TIMEOUT": "2"}) as running:
        pids = [servo.pids("01works", "leader")["leader"], running.pid]
        for _ in range(3):
            # The times that count: 1.2 s in all, and the driver may be silent for 1 s.
            for number, seconds in ((signal.SIGSTOP, 0.4), (signal.SIGCONT, 0.05)):
                for pid in pids:
                    os.kill(pid, number)
                time.sleep(seconds)
        (servo.path / "go").touch()
        operation = running.finish()
    assert operation.ok


@pytest.mark.full
def test_lines_that_take_long_to_decode_do_not_stop_the_clock(servo: ServoDirectory) -> None:
    unit = "[" * 17 + "]" * 17 + ","
    line = f'{{"progress":[{unit * (LINE_LIMIT // len(unit) - 1)}0]}}\n'
    (servo.path / "line").write_text(line, encoding="ascii")
    servo.add_script("01floods", "#!/bin/sh\nwhile :; do cat line; done\n")
    completed = servo.run("--query", "app", env={"OPTUNE_IO_TIMEOUT": "2"}, timeout=20)
    assert completed.reply["reason"] == "timeout"


def test_no_driver_is_timed_out_while_the_agent_does_not_read(servo: ServoDirectory) -> None:
    # Far more than the pipes and the buffers hold: the driver has to wait.
    servo.add("01flood", "flood", lines=1500, padding=2000)
    agent = servo.agent(env={"OPTUNE_IO_TIMEOUT": "3"})
    with agent.start_adjust("app", servo.request("01flood.cpu"), reader="block") as running:
        running.wait_for_line(lambda message: "line 1" in message.get("message", ""))
        running.stop_reading()
        held = len(running.operation.lines)
        start = time.monotonic()
        wait_until(lambda: time.monotonic() > start + 2.3, 30, "longer than a driver may be silent")
        assert len(running.operation.lines) == held
        running.resume_reading()
        operation = running.finish()
    assert operation.ok
    assert len(operation.progress) == 1500 + 3


def test_output_of_an_endless_driver_after_its_stop_does_not_count(
    servo: ServoDirectory,
) -> None:
    """Reading all of its output would take longer than the agent waits."""
    servo.add_script(
        "01talks",
        """#!/bin/sh
        trap 'kill $!; echo "{\\"message\\":\\"late words\\"}"; exit 1' TERM
        yes '{"progress":1}' &
        wait
        """,
    )
    completed = servo.run("--query", "app", env={"OPTUNE_IO_TIMEOUT": "2"})
    assert (
        completed.reply["message"] == "01talks: failed: on --query: did not answer within 1 s and was stopped"
    )


def test_the_last_line_of_a_driver_that_hangs_counts_beside_an_endless_one(
    servo: ServoDirectory,
) -> None:
    servo.add_script(
        "01hangs",
        """#!/bin/sh
        trap 'kill $!; echo "{\\"message\\":\\"last words\\"}"; exit 1' TERM
        sleep 600 &
        wait
        """,
    )
    servo.add_script("02talks", """#!/bin/sh\nexec yes '{"progress":1}'\n""")
    completed = servo.run("--query", "app", env={"OPTUNE_IO_TIMEOUT": "2"})
    hangs = completed.reply["message"].split("\n")[0]
    assert hangs.startswith("01hangs: failed: last words (on --query: ")
