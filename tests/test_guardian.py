"""SPEC 10: SIGKILL of the aggregator leaves no process of a driver that it ran."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from servo_agg.ledger import _SIZE, SLOTS
from tests.processes import alive, children, environment, wait_until
from tests.sources import adjusting

if TYPE_CHECKING:
    from tests.servo import ServoDirectory


def entries(pid: int) -> int:
    """Count what stands in the ledger of a running aggregator: what its guardian would stop."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        start, end = (int(word, 16) for word in line.split()[0].split("-"))
        if line.split()[1] == "rw-s" and end - start == SLOTS * _SIZE:
            with open(f"/proc/{pid}/mem", "rb") as memory:
                memory.seek(start)
                return SLOTS - memory.read(SLOTS * _SIZE)[::_SIZE].count(0)
    raise AssertionError("no ledger")


@pytest.mark.parametrize("kind", ["silent", "stubborn"])
def test_when_we_are_killed_the_running_drivers_tree_is_ended(servo: ServoDirectory, kind: str) -> None:
    servo.configure("agg: {grace: 0.5}")
    servo.add("01runs", kind)
    with servo.agent().start_adjust("app", servo.request("01runs.cpu")) as running:
        pids = servo.pids("01runs", "leader", "child", "grandchild")
        running.send_signal(signal.SIGKILL)
        operation = running.finish(10)
        # 1 s and the grace is what is promised; the rest is for a loaded machine.
        wait_until(lambda: not any(alive(pid) for pid in pids.values()), 20, "end of the tree")
    assert operation.returncode == -signal.SIGKILL


def test_a_driver_may_clean_up_after_we_were_killed(servo: ServoDirectory) -> None:
    servo.add("01graceful", "graceful", when="adjust")
    with servo.agent().start_adjust("app", servo.request("01graceful.cpu")) as running:
        running.wait_for_line(lambda message: message.get("message") == "01graceful: may be terminated")
        running.send_signal(signal.SIGKILL)
        wait_until(
            lambda: "SIGTERM" in [e.what for e in servo.log(phase="adjust")], 10, "SIGTERM for the driver"
        )


def test_during_a_query_all_drivers_are_ended(servo: ServoDirectory) -> None:
    names = [f"{number:02}silent" for number in range(8)]
    for name in names:
        servo.add(name, "silent", when="query")
    process = subprocess.Popen(
        ["./adjust", "--query", "app"], cwd=servo.path, env=environment(servo.env), stdout=subprocess.PIPE
    )
    pids = [pid for name in names for pid in servo.pids(name, "leader", "child", "grandchild").values()]
    process.kill()
    process.communicate(timeout=10)
    wait_until(lambda: not any(alive(pid) for pid in pids), 20, "end of all trees")


def test_the_agent_sees_end_of_file_at_once(servo: ServoDirectory) -> None:
    servo.configure("agg: {grace: 30}")
    servo.add("01stubborn", "stubborn")
    with servo.agent().start_adjust("app", servo.request("01stubborn.cpu")) as running:
        pids = servo.pids("01stubborn", "leader", "child", "grandchild")
        running.send_signal(signal.SIGKILL)
        running.finish(10)
        # The guardian holds nothing that the agent waits for: its grace has far to go.
        assert alive(pids["leader"])
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)


def test_the_guardian_holds_the_lock_until_no_driver_is_alive(servo: ServoDirectory) -> None:
    servo.configure("agg: {grace: 60}")
    servo.add("01stubborn", "stubborn")
    with servo.agent().start_adjust("app", servo.request("01stubborn.cpu")) as running:
        pids = servo.pids("01stubborn", "leader", "child", "grandchild")
        running.send_signal(signal.SIGKILL)
        running.finish(10)
        probe = os.open(servo.path, os.O_RDONLY)
        try:
            for role in ("leader", "child", "grandchild"):
                busy = subprocess.run(["flock", "-n", str(probe)], pass_fds=[probe], check=False)
                assert busy.returncode == 1
                os.kill(pids[role], signal.SIGKILL)
            subprocess.run(["flock", "-w", "20", str(probe)], pass_fds=[probe], check=True)
        finally:
            os.close(probe)


def test_it_obeys_nobody_but_our_end(servo: ServoDirectory) -> None:
    servo.add("01silent", "silent")
    with servo.agent().start_adjust("app", servo.request("01silent.cpu")) as running:
        pids = servo.pids("01silent", "leader", "child", "grandchild")
        (guardian,) = (pid for pid in children(running.pid) if pid != pids["leader"])
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            os.kill(guardian, number)
        assert os.getsid(guardian) == guardian
        running.send_signal(signal.SIGKILL)
        wait_until(lambda: not any(alive(pid) for pid in pids.values()), 20, "end of the tree")


def test_after_an_ordinary_run_it_is_gone_and_reaped(servo: ServoDirectory) -> None:
    servo.add("01plain", "plain")
    script = (
        "import os, subprocess, sys\n"
        "subprocess.run(['./adjust', '--query', 'app'], stdout=subprocess.DEVNULL)\n"
        "try:\n    print(os.waitpid(-1, os.WNOHANG))\nexcept ChildProcessError:\n    print('none')\n"
    )
    # Whoever adopts orphans, as an agent that is pid 1 does, sees none.
    adopt = f"import ctypes; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n{script}"
    done = subprocess.run(
        ["python3", "-c", adopt], cwd=servo.path, env=environment(servo.env), capture_output=True, check=True
    )
    assert done.stdout == b"none\n"


def test_a_talker_that_dies_of_our_end_leaves_no_child_in_a_session_of_its_own(servo: ServoDirectory) -> None:
    """With nobody to read it is gone before anyone can look who its children are: their mark tells."""
    servo.configure("agg: {grace: 0.5}")
    servo.add_script(
        "01talks",
        adjusting("""\
        setsid sh -c 'echo "child $$ 01talks" >>driver.pids; exec sleep 600' </dev/null >/dev/null 2>&1 &
        echo "leader $$ 01talks" >>driver.pids
        while :; do echo '{"progress":1}'; done
        """),
    )
    with servo.agent().start_adjust("app", servo.request("web.cpu")) as running:
        pids = servo.pids("01talks", "leader", "child")
        running.stop_reading()
        running.send_signal(signal.SIGKILL)
        wait_until(lambda: not any(alive(pid) for pid in pids.values()), 10, "end of the tree")
        running.resume_reading()


def test_what_a_driver_left_that_had_ended_by_itself_is_spared(servo: ServoDirectory) -> None:
    """Its output waits for the agent, so that it is not reaped yet when we are killed."""
    servo.add_script(
        "01leaves",
        adjusting("""\
        setsid sh -c 'echo "service $$ 01leaves" >>driver.pids; exec sleep 600' </dev/null >/dev/null 2>&1 &
        echo "leader $$ 01leaves" >>driver.pids
        until grep -q service driver.pids; do sleep 0.05; done
        head -c 900000 /dev/zero | tr '\\0' x | fold -w 1000 | sed 's/.*/{"progress":1,"message":"&"}/'
        echo '{"status":"ok"}'
        """),
    )
    with servo.agent().start_adjust("app", servo.request("web.cpu")) as running:
        running.stop_reading()
        pids = servo.pids("01leaves", "leader", "service")
        wait_until(lambda: not alive(pids["leader"]), 20, "end of the driver")
        wait_until(lambda: not entries(running.pid), 20, "an empty ledger")
        (guardian,) = (pid for pid in children(running.pid) if pid != pids["leader"])
        running.send_signal(signal.SIGKILL)
        wait_until(lambda: not alive(guardian), 10, "end of the guardian")
        assert alive(pids["service"])
        os.kill(pids["service"], signal.SIGKILL)
        running.resume_reading()
