"""SPEC 10: the watchdog stops the drivers when the aggregator is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from servo_agg.drivers.watchdog import _RECORD_SIZE, CAPACITY
from tests.support.processes import alive, children, wait_until
from tests.support.sources import adjust_script

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.support.servo import ServoDirectory


def await_end(pids: Iterable[int]) -> None:
    wait_until(lambda: not any(alive(pid) for pid in pids), 30, "end of the drivers' processes")


def entries(pid: int) -> int:
    """Return the number of entries in the spawn table of a running aggregator."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        start, end = (int(word, 16) for word in line.split()[0].split("-"))
        if line.split()[1] == "rw-s" and end - start == CAPACITY * _RECORD_SIZE * 8:
            with open(f"/proc/{pid}/mem", "rb") as memory:
                memory.seek(start)
                words = memoryview(memory.read(end - start)).cast("Q")
                return CAPACITY - words[::_RECORD_SIZE].tolist().count(0)
    raise AssertionError("no spawn table")


def test_the_watchdog_sends_sigterm_first(servo: ServoDirectory) -> None:
    servo.add("01graceful", "graceful", when="adjust")
    with servo.start_adjust("01graceful.cpu") as running:
        running.wait_for_line(lambda message: message.get("message") == "01graceful: may be terminated")
        running.send_signal(signal.SIGKILL)
        wait_until(
            lambda: "SIGTERM" in [e.what for e in servo.log(phase="adjust")], 30, "SIGTERM for the driver"
        )


def test_when_a_query_is_killed_all_drivers_are_stopped(servo: ServoDirectory) -> None:
    names = [f"{number:02}silent" for number in range(8)]
    for name in names:
        servo.add(name, "silent", when="query")
    with servo.start("--query", "app") as program:
        pids = [pid for name in names for pid in servo.pids(name, "leader", "child", "grandchild").values()]
        program.send_signal(signal.SIGKILL)
        program.finish(timeout=30)
        await_end(pids)


def test_the_agent_sees_end_of_file_at_once(servo: ServoDirectory) -> None:
    servo.configure("agg: {grace: 30}")
    servo.add("01stubborn", "stubborn")
    with servo.start_adjust("01stubborn.cpu") as running:
        pids = servo.pids("01stubborn", "leader", "child", "grandchild")
        running.send_signal(signal.SIGKILL)
        running.finish(10)
        # The watchdog holds nothing that the agent waits for: the grace period still lasts.
        assert alive(pids["leader"])
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)


def test_the_watchdog_ignores_signals_and_has_its_own_session(servo: ServoDirectory) -> None:
    servo.add("01silent", "silent")
    with servo.start_adjust("01silent.cpu") as running:
        pids = servo.pids("01silent", "leader", "child", "grandchild")
        (watchdog,) = (pid for pid in children(running.pid) if pid != pids["leader"])
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            os.kill(watchdog, number)
        assert os.getsid(watchdog) == watchdog
        running.send_signal(signal.SIGKILL)
        await_end(pids.values())


def test_after_an_ordinary_run_the_watchdog_is_gone_and_reaped(servo: ServoDirectory) -> None:
    servo.add("01plain", "plain")
    # Like an agent that is pid 1 it adopts orphans.
    script = """\
import ctypes, os, subprocess
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
subprocess.run(["./adjust", "--query", "app"], stdout=subprocess.DEVNULL)
try:
    print(os.waitpid(-1, os.WNOHANG))
except ChildProcessError:
    print("none")
"""
    assert servo.run(command=["python3", "-c", script]).stdout == b"none\n"


def test_a_driver_killed_by_sigpipe_leaves_no_child_in_another_session(servo: ServoDirectory) -> None:
    """It dies with the aggregator, before its children can be found; SERVO_AGG_START identifies them."""
    servo.configure("agg: {grace: 0.5}")
    servo.add_script(
        "01talks",
        adjust_script("""\
        setsid sh -c 'echo "child $$ 01talks" >>driver.pids; exec sleep 600' </dev/null >/dev/null 2>&1 &
        echo "leader $$ 01talks" >>driver.pids
        while :; do echo '{"progress":1}'; done
        """),
    )
    with servo.start_adjust("web.cpu") as running:
        pids = servo.pids("01talks", "leader", "child")
        running.stop_reading()
        running.send_signal(signal.SIGKILL)
        await_end(pids.values())
        running.resume_reading()


def test_a_service_of_a_driver_that_had_exited_is_spared(servo: ServoDirectory) -> None:
    """Its output waits for the agent, so that it is not reaped yet when the aggregator is killed."""
    servo.add_script(
        "01leaves",
        adjust_script("""\
        setsid sh -c 'echo "service $$ 01leaves" >>driver.pids; exec sleep 600' </dev/null >/dev/null 2>&1 &
        echo "leader $$ 01leaves" >>driver.pids
        until grep -q service driver.pids; do sleep 0.05; done
        head -c 900000 /dev/zero | tr '\\0' x | fold -w 1000 | sed 's/.*/{"progress":1,"message":"&"}/'
        echo '{"status":"ok"}'
        """),
    )
    with servo.start_adjust("web.cpu") as running:
        running.stop_reading()
        pids = servo.pids("01leaves", "leader", "service")
        wait_until(lambda: not alive(pids["leader"]), 20, "end of the driver")
        wait_until(lambda: not entries(running.pid), 20, "an empty spawn table")
        (watchdog,) = (pid for pid in children(running.pid) if pid != pids["leader"])
        running.send_signal(signal.SIGKILL)
        wait_until(lambda: not alive(watchdog), 10, "end of the watchdog")
        assert alive(pids["service"])
        os.kill(pids["service"], signal.SIGKILL)
        running.resume_reading()
