"""SPEC 9: a driver that says nothing for too long is stopped, in time for the agent, and only that one."""

from __future__ import annotations

import json
import re
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.processes import alive, halted, wait_until
from tests.servo import in_a_calm_moment
from tests.sources import adjusting, describing

if TYPE_CHECKING:
    from tests.agent import Operation
    from tests.servo import ServoDirectory


def test_a_silent_driver_is_stopped_with_its_tree_before_the_agent_loses_patience(
    servo: ServoDirectory,
) -> None:
    servo.add("01silent", "silent")
    servo.add("02plain", "plain")
    with servo.agent(io_timeout=3) as agent:

        def play() -> Operation:
            (servo.path / "driver.pids").unlink(missing_ok=True)
            return agent.adjust("app", servo.request("01silent.cpu", "02plain.cpu"))

        operation = in_a_calm_moment(play, lambda o: not o.timed_out and o.longest_silence < 3)
    assert not operation.timed_out
    assert operation.longest_silence < 3.0
    assert operation.reply is not None
    drivers = operation.reply["drivers"]
    assert (drivers["01silent"]["status"], drivers["01silent"]["reason"]) == ("failed", "timeout")
    # A coordinator that wakes late says so.
    assert re.search(r"was silent for 2\.\d s", drivers["01silent"]["message"])
    assert drivers["02plain"]["status"] == "ok"
    assert not any(alive(pid) for pid in servo.pids("01silent", "leader", "child", "grandchild").values())


def test_one_that_ignores_sigterm_and_hides_in_sessions_is_gone_in_time_too(servo: ServoDirectory) -> None:
    servo.add("01stubborn", "stubborn")
    servo.add("02plain", "plain")
    with servo.agent(io_timeout=3) as agent:
        operation = in_a_calm_moment(
            lambda: agent.adjust("app", servo.request("01stubborn.cpu", "02plain.cpu")),
            lambda o: not o.timed_out and o.longest_silence < 3,
        )
    assert operation.longest_silence < 3.0
    assert operation.reply is not None
    assert operation.reply["drivers"]["01stubborn"]["reason"] == "timeout"
    assert operation.reply["drivers"]["02plain"]["status"] == "ok"


def test_stderr_is_no_sign_of_life(servo: ServoDirectory) -> None:
    servo.add_script(
        "01talks",
        adjusting("""while :; do echo alive >&2; sleep 0.1; done"""),
    )
    completed = servo.run(
        "app", input=json.dumps(servo.request("web.cpu")).encode(), env={"OPTUNE_IO_TIMEOUT": "4"}
    )
    assert completed.reply["reason"] == "timeout"
    assert re.search(r"was silent for 3\.\d s", completed.reply["message"])


def test_one_that_talks_is_never_timed_out(servo: ServoDirectory) -> None:
    servo.add_script(
        "01talks",
        adjusting("""\
        for n in 1 2 3 4 5 6 7 8 9; do echo '{"progress":1}'; sleep 0.5; done
        echo '{"status":"ok"}'
        """),
    )
    completed = servo.run(
        "app", input=json.dumps(servo.request("web.cpu")).encode(), env={"OPTUNE_IO_TIMEOUT": "4"}
    )
    assert completed.returncode == 0
    assert completed.seconds > 4


def lines_about_those_that_hang(servo: ServoDirectory, limit: str) -> list[str]:
    """Give the lines of the message of a query in which two of three drivers hang."""
    servo.add("01hangs", "silent", when="query")
    servo.add("02plain", "plain")
    servo.add("03hangs", "silent", when="query")
    completed = servo.run("--query", "app", env={"OPTUNE_IO_TIMEOUT": limit})
    assert completed.returncode == 1
    assert (completed.reply["status"], completed.reply["reason"]) == ("failed", "timeout")
    lines: list[str] = completed.reply["message"].split("\n")
    return lines


def test_a_query_has_its_time_for_all_drivers_together(servo: ServoDirectory) -> None:
    assert lines_about_those_that_hang(servo, "4") == [
        f"{name}: failed: on --query: gave no answer within 3 s and was stopped"
        for name in ("01hangs", "03hangs")
    ]


@pytest.mark.parametrize(("limit", "said"), [("1", "0.5 s"), ("2", "1 s"), ("0.4", "0.2 s")])
def test_so_it_has_when_that_is_little(servo: ServoDirectory, limit: str, said: str) -> None:
    # On a loaded machine even one that does not hang is late then, and who began late is told so.
    about = [line for line in lines_about_those_that_hang(servo, limit) if not line.startswith("02plain: ")]
    assert len(about) == 2
    for name, line in zip(("01hangs", "03hangs"), about):
        assert re.match(rf"{name}: failed: on --query: .*within (the )?{re.escape(said)}\b", line), line


def test_info_tells_of_a_driver_that_hangs_and_succeeds(servo: ServoDirectory) -> None:
    servo.add("01hangs", "silent", when="info")
    servo.add("02plain", "plain")
    completed = servo.run("--info", "app", env={"OPTUNE_IO_TIMEOUT": "4"})
    assert completed.returncode == 0
    assert completed.reply["drivers"] == {
        "01hangs": {
            "version": "unknown",
            "has_cancel": False,
            "message": "on --info: gave no answer within 3 s and was stopped",
        },
        "02plain": {"version": "1.0", "has_cancel": False},
    }


def test_one_that_talks_without_end_in_a_query_is_stopped_all_the_same(servo: ServoDirectory) -> None:
    servo.add_script("01flood", "#!/bin/sh\nwhile :; do echo '{\"progress\":1}'; done\n")
    completed = servo.run("--query", "app", env={"OPTUNE_IO_TIMEOUT": "1"})
    assert completed.reply["reason"] == "timeout"


@pytest.mark.parametrize("blank", [r"\n", r" \n", r"\r\n\t"])
def test_a_flood_of_blank_lines_is_silence(servo: ServoDirectory, blank: str) -> None:
    servo.add_script(
        "01blank",
        adjusting(f"""\
        exec python3 -c "import os
        lines = ('{blank}' * 100000).encode()
        while True:
            os.write(1, lines)"
        """),
    )
    with servo.agent(io_timeout=3) as agent:
        operation = in_a_calm_moment(
            lambda: agent.adjust("app", servo.request("web.cpu")), lambda o: not o.timed_out
        )
    assert not operation.timed_out
    assert operation.reply is not None
    assert operation.reply["reason"] == "timeout"


def test_none_is_begun_when_the_time_of_all_is_over(servo: ServoDirectory) -> None:
    servo.configure("agg: {parallel: 2}")
    for number in range(12):
        servo.add(f"{number:02}stubborn", "stubborn", when="info")
    with servo.agent(io_timeout=3) as agent:
        reply = agent.info("app")
    begun = {name for name, entry in reply["drivers"].items() if "gave no answer" in entry["message"]}
    assert begun == {"00stubborn", "01stubborn"}
    others = {entry["message"] for name, entry in reply["drivers"].items() if name not in begun}
    late = "was not begun within the 2 s that all drivers have together, because of `parallel` or `serial`"
    assert others == {f"on --info: {late}"}


def test_the_query_inside_an_adjust_has_its_own_time(servo: ServoDirectory) -> None:
    servo.add("01hangs", "silent", when="query")
    with servo.agent(io_timeout=4) as agent:
        operation = in_a_calm_moment(
            lambda: agent.adjust("app", servo.request("web.cpu")), lambda o: not o.timed_out
        )
    assert not operation.timed_out
    assert operation.reply is not None
    assert operation.reply["reason"] == "timeout"
    assert operation.reply["drivers"]["01hangs"]["status"] == "failed"


def test_time_in_which_we_were_stopped_does_not_count(servo: ServoDirectory) -> None:
    servo.add_script(
        "01works",
        adjusting("""\
        cat >/dev/null
        until [ -e stopped ]; do echo '{"progress":1,"message":"working"}'; sleep 0.1; done
        sleep 2.3
        echo '{"status":"ok"}'
        touch done
        """),
    )
    with servo.agent(env={"OPTUNE_IO_TIMEOUT": "3"}).start_adjust("app", servo.request("web.cpu")) as running:
        running.wait_for_line(lambda message: message.get("message") == "01works: working")
        running.send_signal(signal.SIGSTOP)
        wait_until(lambda: halted(running.pid), 20, "our being stopped")
        (servo.path / "stopped").touch()
        # Longer than the driver may be silent, and it ends meanwhile.
        wait_until((servo.path / "done").exists, 20, "end of the driver")
        running.send_signal(signal.SIGCONT)
        operation = running.finish()
    assert operation.ok


def test_nor_does_it_while_drivers_are_being_started(servo: ServoDirectory) -> None:
    # The first of them stops us, for longer than a query may take, while we start the others.
    servo.add_script(
        "01stops-us",
        """\
        #!/bin/sh
        if [ "$1" = --query ]; then kill -STOP $PPID; sleep 2.5; kill -CONT $PPID; fi
        echo '{"version":"1","application":{}}'
        """,
    )
    for name in ("02a", "03b", "04c", "05d", "06e", "07f", "08g"):
        servo.add_script(name, describing({"application": {}}, seconds=0.3))
    completed = servo.run("--query", "app", env={"OPTUNE_IO_TIMEOUT": "3"})
    assert completed.returncode == 0, completed


def test_while_the_agent_does_not_read_nobody_is_timed_out(servo: ServoDirectory) -> None:
    # Far more than the pipes and our own bounds hold: the driver has to wait.
    servo.add("01flood", "flood", lines=12000, padding=200)
    agent = servo.agent(env={"OPTUNE_IO_TIMEOUT": "3"})
    with agent.start_adjust("app", servo.request("01flood.cpu"), reader="block") as running:
        running.wait_for_line(lambda message: "line 1" in message.get("message", ""))
        running.stop_reading()
        held = len(running.operation.lines)
        start = time.monotonic()
        wait_until(lambda: time.monotonic() > start + 3, 20, "longer than a driver may be silent")
        assert len(running.operation.lines) == held
        running.resume_reading()
        operation = running.finish()
    assert operation.ok
    assert len(operation.progress) == 12000 + 3


def test_what_one_that_talks_without_end_says_when_it_is_stopped_does_not_count(
    servo: ServoDirectory,
) -> None:
    """To read all of a flood would take time that the agent does not have."""
    servo.add_script(
        "01talks",
        """#!/bin/sh
        trap 'kill $!; echo "{\\"message\\":\\"late words\\"}"; exit 1' TERM
        yes '{"progress":1}' &
        wait
        """,
    )
    completed = servo.run("--query", "app", env={"OPTUNE_IO_TIMEOUT": "3"})
    assert (
        completed.reply["message"] == "01talks: failed: on --query: gave no answer within 2 s and was stopped"
    )


def test_the_last_words_of_one_that_hangs_count_though_another_talks_without_end(
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
    completed = servo.run("--query", "app", env={"OPTUNE_IO_TIMEOUT": "4"})
    hangs = completed.reply["message"].split("\n")[0]
    assert hangs.startswith("01hangs: failed: last words (on --query: ")
