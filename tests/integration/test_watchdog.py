"""SPEC 10.53-10.65: the watchdog stops the drivers when the aggregator is killed."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from servo_agg.drivers.watchdog import _RECORD_SIZE, _STARTED, CAPACITY
from tests.support.processes import alive, children, wait_until
from tests.support.sources import adjust_script, sitecustomize, with_constant

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.support.servo import ServoDirectory


def await_end(pids: Iterable[int]) -> None:
    wait_until(lambda: not any(alive(pid) for pid in pids), 30, "end of the drivers' processes")


def entries(pid: int) -> list[int]:
    """Return the states of the entries in the spawn table of a running aggregator."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        start, end = (int(word, 16) for word in line.split()[0].split("-"))
        if line.split()[1] == "rw-s" and end - start == CAPACITY * _RECORD_SIZE * 8:
            with open(f"/proc/{pid}/mem", "rb") as memory:
                memory.seek(start)
                words = memoryview(memory.read(end - start)).cast("Q")
                return [state for state in words[::_RECORD_SIZE].tolist() if state]
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


@pytest.mark.parametrize("command", [["./adjust"], [sys.executable, "-m", "servo_agg"]], ids=["adjust", "-m"])
def test_the_watchdog_ignores_signals_and_has_its_own_session(
    servo: ServoDirectory, command: list[str]
) -> None:
    servo.add("01silent", "silent", when="query")
    with servo.start("--query", "app", command=command) as program:
        pids = servo.pids("01silent", "leader", "child", "grandchild")
        (watchdog,) = (pid for pid in children(program.pid) if pid != pids["leader"])
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            os.kill(watchdog, number)
        assert os.getsid(watchdog) == watchdog
        program.send_signal(signal.SIGKILL)
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


@pytest.mark.parametrize("source", ["", "import os; del os.pidfd_open"], ids=["pidfd", "no-pidfd"])
def test_the_end_is_noticed_though_another_process_holds_the_pipe(servo: ServoDirectory, source: str) -> None:
    """As a driver does between its fork and its exec."""
    servo.add("01silent", "silent")
    with servo.start_adjust("01silent.cpu", env=sitecustomize(servo, source)) as running:
        pids = servo.pids("01silent", "leader", "child", "grandchild")
        (watchdog,) = (pid for pid in children(running.pid) if pid != pids["leader"])
        # Before it knows the pid, the watchdog takes any process that holds the pipe for the driver.
        wait_until(lambda: entries(running.pid) == [_STARTED], 20, "the pid of the driver in the spawn table")
        standard = [f"/proc/{watchdog}/fd/{number}" for number in (0, 1, 2)]
        wait_until(lambda: len({os.readlink(path) for path in standard}) == 1, 20, "the pipe of the watchdog")
        # Opening a pipe through /proc gives another end of it.
        held = os.open(standard[0], os.O_WRONLY | os.O_NONBLOCK)
        running.send_signal(signal.SIGKILL)
        await_end(pids.values())
        os.close(held)


def test_what_was_found_in_a_stop_is_stopped_after_sigkill_too(servo: ServoDirectory) -> None:
    """Its parent has exited with status 0, and neither its session nor its environment tells whose it is."""
    servo.configure("agg: {grace: 1}")
    servo.add_script(
        "01leaves",
        adjust_script("""\
        trap 'exit 0' TERM
        setsid env -i sh -c 'trap "" TERM; echo "child $$ 01leaves" >>driver.pids
                             while :; do /bin/sleep 0.1; done' </dev/null >/dev/null 2>&1 &
        echo "leader $$ 01leaves" >>driver.pids
        wait
        """),
    )
    with servo.start_adjust("web.cpu") as running:
        pids = servo.pids("01leaves", "leader", "child")
        running.send_signal(signal.SIGTERM)
        wait_until(lambda: not alive(pids["leader"]), 20, "end of the driver")
        running.send_signal(signal.SIGKILL)
        # The grace period of the watchdog begins again.
        await_end([pids["child"]])


def test_a_driver_that_exits_while_the_program_is_suspended_may_leave_a_service(
    servo: ServoDirectory,
) -> None:
    servo.add_script(
        "01leaves",
        adjust_script("""\
        setsid sh -c 'echo "service $$ 01leaves" >>driver.pids; exec sleep 600' </dev/null >/dev/null 2>&1 &
        echo "leader $$ 01leaves" >>driver.pids
        until [ -e go ]; do sleep 0.02; done
        echo '{"status":"ok"}'
        """),
    )
    with servo.start_adjust("web.cpu") as running:
        pids = servo.pids("01leaves", "leader", "service")
        (watchdog,) = (pid for pid in children(running.pid) if pid != pids["leader"])
        running.send_signal(signal.SIGSTOP)
        (servo.path / "go").touch()
        wait_until(lambda: not alive(pids["leader"]), 20, "end of the driver")
        looks = wakeups(watchdog)
        wait_until(lambda: wakeups(watchdog) >= looks + 2, 20, "another look of the watchdog")
        # Once pid 1 has reaped the driver, its exit status cannot be read any more.
        os.kill(watchdog, signal.SIGSTOP)
        running.send_signal(signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{pids['leader']}").exists(), 20, "reaping of the driver by pid 1")
        os.kill(watchdog, signal.SIGCONT)
        wait_until(lambda: not alive(watchdog), 20, "end of the watchdog")
        assert alive(pids["service"])
        os.kill(pids["service"], signal.SIGKILL)


def wakeups(pid: int) -> int:
    """Return how often a process has waited so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("voluntary_ctxt"))


HALT_AFTER_SPAWN = """
    import os, time

    spawn = os.posix_spawn

    def spawn_and_halt(path, words, *rest, **options):
        pid = spawn(path, words, *rest, **options)
        if words[1:] == ["app"]:
            time.sleep(600)
        return pid

    os.posix_spawn = spawn_and_halt
"""


STOP_BEFORE_EXEC = """
    import os, signal

    def spawn(path, words, environment, *, file_actions, **_):
        pid = os.fork()
        if pid == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
            os.setsid()
            for _, end, number in file_actions:
                os.dup2(end, number)
            os.execve(path, words, environment)
        os.waitpid(pid, os.WUNTRACED)
        os.waitpid(pid, os.WCONTINUED)
        return pid

    os.posix_spawn = spawn
"""


@pytest.mark.full
def test_a_driver_that_is_stopped_before_it_executes_its_program_is_continued(servo: ServoDirectory) -> None:
    """As by a SIGSTOP to our group that is followed by a SIGCONT before the driver has its own session."""
    servo.add("01plain", "plain")
    completed = servo.run("--query", "app", env=sitecustomize(servo, STOP_BEFORE_EXEC))
    assert completed.returncode == 0


def test_no_more_drivers_run_at_once_than_the_spawn_table_has_room_for(servo: ServoDirectory) -> None:
    servo.configure("agg: {parallel: 5}")
    for number in range(5):
        servo.add(f"{number:02}slow", "slow", when="query", seconds=0.1)
    command = with_constant("servo_agg.drivers.watchdog.CAPACITY", 2)
    completed = servo.run("--query", "app", command=command)
    assert completed.returncode == 0
    assert len(completed.reply["application"]["components"]) == 5


CLEARED = """env -i sh -c 'echo "child $$ 01clears" >>driver.pids; exec /bin/sleep 600'"""


@pytest.mark.parametrize(
    "child",
    [
        pytest.param(f"(setsid {CLEARED} &)", id="pipe"),
        pytest.param(f"({CLEARED} >/dev/null &)", id="session"),
        pytest.param(f"setsid {CLEARED} >/dev/null &", id="descent"),
    ],
)
def test_a_driver_whose_pid_was_not_recorded_is_found_though_it_cleared_its_environment(
    servo: ServoDirectory, child: str
) -> None:
    driver = f'echo "leader $$ 01clears" >>driver.pids\n{child}\nexec env -i /bin/sleep 600\n'
    servo.add_script("01clears", adjust_script(driver))
    with servo.start_adjust("web.cpu", env=sitecustomize(servo, HALT_AFTER_SPAWN)) as running:
        pids = servo.pids("01clears", "leader", "child")
        wait_until(lambda: not any(has_start_token(pid) for pid in pids.values()), 20, "no start token")
        running.send_signal(signal.SIGKILL)
        await_end(pids.values())


def has_start_token(pid: int) -> bool:
    return b"SERVO_AGG_START=" in Path(f"/proc/{pid}/environ").read_bytes()
