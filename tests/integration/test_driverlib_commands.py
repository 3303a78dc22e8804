"""SPEC 12.14-12.18: commands that a driver runs by the driver library."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from tests.support.driverlib import DEADLINE, INPUT, LIBRARY, Driver, Running, pid_in
from tests.support.processes import alive, environment, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_a_command_runs_by_the_shell_or_as_a_list(tmp_path: Path) -> None:
    driver = Driver(
        tmp_path,
        """
        def adjust(self, data):
            return {"text": self._run_command("echo out; echo err >&2; cat", pre=True),
                    "list": self._run_command(["echo", "a  b"], pre=False)}
        """,
    )
    assert driver.adjust().lines == [{"status": "ok", "text": "out\n", "list": "a  b\n"}]


def test_a_command_has_an_empty_stdin(tmp_path: Path) -> None:
    driver = Driver(tmp_path, "def query(self): return {'settings': {}, 'read': self._run_command('cat')}")
    assert driver.run("--query", "app", data=b"input").reply["application"]["read"] == ""


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("'echo why >&2; exit 3'", ["pre-command", "exited with status 3", "why"]),
        ("'kill -9 $$', pre=False", ["post-command", "was killed by SIGKILL"]),
        ("'kill -40 $$'", ["pre-command", "was killed by signal 40"]),
        ("['./nothing'], False", ["post-command", "cannot be started", "No such file"]),
    ],
)
def test_a_command_that_fails_fails_the_adjust(tmp_path: Path, call: str, expected: list[str]) -> None:
    done = Driver(tmp_path, f"def adjust(self, data): self._run_command({call})").adjust()
    assert (done.returncode, done.reply["status"], done.reply["reason"]) == (1, "failed", "command-failed")
    assert all(part in done.reply["message"] for part in expected)


def test_a_service_that_a_command_starts_is_not_awaited(tmp_path: Path) -> None:
    driver = Driver(tmp_path, "def adjust(self, data): self._run_command('sleep 30 & echo $! > pid')")
    try:
        assert driver.adjust().lines == [{"status": "ok"}]
        assert alive(pid_in(tmp_path))
    finally:
        os.kill(pid_in(tmp_path), signal.SIGKILL)


@pytest.mark.parametrize("has_bash", [True, False])
def test_a_string_is_run_by_bash_or_by_sh_without_bash(tmp_path: Path, has_bash: bool) -> None:
    lacks_bash = "os.path.isfile = lambda path: not path.endswith('bash')"
    driver = Driver(
        tmp_path,
        f"""
        def adjust(self, data):
            {"pass" if has_bash else lacks_bash}
            return {{"shell": self._run_command("echo ${{BASH_VERSION:+bash}}")}}
        """,
    )
    assert driver.adjust().reply["shell"] == ("bash\n" if has_bash else "\n")


NO_MEMORY_FILES = "if hasattr(os, 'memfd_create'): del os.memfd_create"


@pytest.mark.parametrize("lack", ["pass", NO_MEMORY_FILES], ids=["memory", "pipes"])
def test_a_command_needs_no_file_and_may_print_much(tmp_path: Path, lack: str) -> None:
    driver = Driver(
        tmp_path,
        f"""
        def adjust(self, data):
            {lack}
            import tempfile
            tempfile.TemporaryFile = tempfile.gettempdir = None
            many = "head -c 1000000 /dev/zero"
            printed = self._run_command(many + " | tee /dev/stderr")
            try:
                self._run_command("echo out; " + many + " | tr '\\\\0' x >&2; echo why >&2; exit 3")
            except AdjustError as error:
                return {{"printed": len(printed), "expected": str(error)}}
        """,
    )
    reply = driver.adjust().reply
    assert reply["printed"] == 1000000
    assert reply["expected"].endswith("xxxwhy")
    assert len(reply["expected"]) < 5000


@pytest.mark.parametrize("lack", ["pass", NO_MEMORY_FILES], ids=["memory", "pipes"])
def test_a_service_of_a_command_may_write_until_the_driver_ends(tmp_path: Path, lack: str) -> None:
    """It stays in the command's group and keeps its stdout; until the driver's end it can write to it."""
    driver = Driver(
        tmp_path,
        f"""
        def adjust(self, data):
            {lack}
            service = "while [ ! -e go ]; do sleep 0.01; done; echo more; echo alive >alive; exec sleep 30"
            printed = self._run_command("echo first; (" + service + ") & echo $! >pid")
            Path("go").touch()
            while not Path("alive").exists():
                time.sleep(0.005)
            return {{"printed": printed}}
        """,
    )
    try:
        assert driver.adjust().lines == [{"status": "ok", "printed": "first\n"}]
        assert alive(pid_in(tmp_path))
    finally:
        os.kill(pid_in(tmp_path), signal.SIGKILL)


# Commands that run when a signal comes: each writes its pids into `pids`, the last one into `ready`.
COMMANDS = {
    "one": "'echo $$ >>pids; touch ready; exec sleep 30'",
    "a child": "'echo $$ >>pids; ./deep 0; echo late >late'",
    "four levels": "'echo $$ >>pids; ./deep 3; echo late >late'",
    "a list": "['sh', 'deep', '1']",
    "deaf": "'trap : TERM; echo $$ >>pids; ./deep 1; ./deep 0; echo late >late'",
    "stopped": "'echo $$ >>pids; ./deep 0 & sleep 0.1; kill -STOP $$; wait'",
    "a group of its own": "'echo $$ >>pids; timeout 30 ./deep 1; echo late >late'",
    "an orphan": "'echo $$ >>pids; (./deep 0 &); sleep 30; echo late >late'",
}
DEEP = """#!/bin/sh
echo $$ >>pids
[ "$1" = 0 ] || { sh deep $(($1 - 1)); echo late >late; exit; }
touch ready
exec sleep 30
"""

ENDINGS = {
    "cancel": (signal.SIGUSR1, "", "canceled", 1),
    "SIGTERM": (signal.SIGTERM, "", "aborted", 143),
    "SIGINT": (signal.SIGINT, "", "aborted", 130),
    "handle_cancel raises": (
        signal.SIGUSR1,
        "def handle_cancel(self, *args): raise AdjustError('enough', status='aborted')",
        "aborted",
        1,
    ),
    "own handler raises": (
        signal.SIGTERM,
        """
def own(self, *args): raise AdjustError("enough", status="transient-failure")
def info(self): pass
""",
        "transient-failure",
        1,
    ),
}


@contextlib.contextmanager
def command_in_progress(
    directory: Path, command: str, methods: str = "", setup: str = "pass"
) -> Iterator[Running]:
    """Start a driver that runs a command; the block begins when all processes run."""
    (directory / "deep").write_text(DEEP, encoding="utf-8")
    (directory / "deep").chmod(0o755)
    adjust = f"""
def adjust(self, data):
    {setup}
    return {{"printed": self._run_command({command})}}
"""
    driver = Driver(directory, textwrap.dedent(methods) + adjust)
    with driver.start("app", data=INPUT) as running:
        wait_until((directory / "ready").exists, DEADLINE, "start of the command")
        try:
            yield running
        finally:
            for pid in pids(directory):
                if alive(pid):
                    os.kill(pid, signal.SIGKILL)


def pids(directory: Path) -> list[int]:
    """Return the processes of the command."""
    return [int(pid) for pid in (directory / "pids").read_text(encoding="utf-8").split()]


@pytest.mark.parametrize(
    ("command", "ending"),
    [(command, "cancel") for command in COMMANDS] + [("four levels", ending) for ending in ENDINGS][1:],
)
def test_a_driver_stopped_during_a_command_first_stops_all_its_processes(
    tmp_path: Path, command: str, ending: str
) -> None:
    number, methods, status, code = ENDINGS[ending]
    setup = f"signal.signal({int(number)}, self.own)" if "own(" in methods else "pass"
    with command_in_progress(tmp_path, COMMANDS[command], methods, setup) as running:
        running.process.send_signal(number)
        assert running.wait_for_line()["status"] == status
        assert [pid for pid in pids(tmp_path) if alive(pid)] == []
        assert running.finish().returncode == code
    assert not (tmp_path / "late").exists()


def test_a_command_can_clean_up_on_sigterm(tmp_path: Path) -> None:
    clean = "sleep 0.3; echo clean >clean; exit"
    command = f"""\"trap '{clean}' TERM; echo $$ >>pids; touch ready; while :; do sleep 0.01; done\""""
    with command_in_progress(tmp_path, command) as running:
        running.process.send_signal(signal.SIGUSR1)
        assert running.wait_for_line()["status"] == "canceled"
        assert (tmp_path / "clean").exists()


@pytest.mark.parametrize(
    ("ending", "number"), [("cancel", signal.SIGTERM), ("handle_cancel raises", signal.SIGUSR1)]
)
def test_a_second_signal_does_not_interrupt_the_stop_of_a_command(
    tmp_path: Path, ending: str, number: signal.Signals
) -> None:
    with command_in_progress(tmp_path, COMMANDS["deaf"], ENDINGS[ending][1]) as running:
        running.process.send_signal(signal.SIGUSR1)
        first = pids(tmp_path)[-1]
        wait_until(lambda: not alive(first), DEADLINE, "the first process that has ended")
        running.process.send_signal(number)
        status = running.wait_for_line()["status"]
        assert [pid for pid in pids(tmp_path) if alive(pid)] == []
    assert status == ("canceled" if ending == "cancel" else "aborted")


def test_simultaneous_signals_do_not_interrupt_the_stop_of_a_command(tmp_path: Path) -> None:
    methods = ENDINGS["handle_cancel raises"][1]
    with command_in_progress(tmp_path, COMMANDS["deaf"], methods) as running:
        # It receives all of them at once when it is continued.
        running.process.send_signal(signal.SIGSTOP)
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGCONT):
            running.process.send_signal(number)
        assert running.wait_for_line()["status"] == "aborted"
        assert [pid for pid in pids(tmp_path) if alive(pid)] == []
        assert running.finish().returncode == 128 + signal.SIGTERM


def test_a_command_goes_on_when_handle_cancel_returns(tmp_path: Path) -> None:
    methods = "def handle_cancel(self, *args): self.print_progress('later')"
    command = "'echo $$ >>pids; touch ready; while [ ! -e go ]; do sleep 0.01; done; echo done'"
    with command_in_progress(tmp_path, command, methods) as running:
        for _ in range(2):
            running.process.send_signal(signal.SIGUSR1)
            assert running.wait_for_line()["message"] == "later"
        (tmp_path / "go").touch()
        assert running.finish().reply == {"status": "ok", "printed": "done\n"}


def test_a_service_in_another_session_is_not_stopped_with_its_command(tmp_path: Path) -> None:
    command = (
        "'setsid ./deep 0 & while [ ! -e ready ]; do sleep 0.01; done; echo $$ >>pids; touch run; sleep 30'"
    )
    with command_in_progress(tmp_path, command) as running:
        wait_until((tmp_path / "run").exists, DEADLINE, "start of the command")
        running.process.send_signal(signal.SIGUSR1)
        assert running.finish().reply["status"] == "canceled"
        assert [alive(pid) for pid in pids(tmp_path)] == [True, False]


def test_a_command_is_in_the_session_of_its_driver(tmp_path: Path) -> None:
    """Stopping the session of the driver therefore stops the command, too."""
    with command_in_progress(tmp_path, COMMANDS["one"]) as running:
        (pid,) = pids(tmp_path)
        assert os.getsid(pid) == os.getsid(running.process.pid)
        assert os.getpgid(pid) == pid
        running.process.send_signal(signal.SIGTERM)
        running.finish()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_a_command_in_the_foreground_of_a_terminal_gets_its_input(
    tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "deep").write_text(DEEP, encoding="utf-8")
    reads = "read word </dev/tty; echo $word >word"
    command = f"""\"trap 'echo INT >typed; exit 1' INT; {reads}; echo $$ >>pids; sh deep 1\""""
    Driver(tmp_path, f"def adjust(self, data): self._run_command({command})")
    (tmp_path / "input").write_text(json.dumps(INPUT), encoding="utf-8")
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(tmp_path)
        arguments = ["sh", "-c", 'exec "$0" driver app <input', sys.executable]
        os.execvpe("sh", arguments, environment({"PYTHONPATH": str(LIBRARY)}))  # noqa: S606
    try:
        os.write(terminal, b"secret\n")
        wait_until((tmp_path / "ready").exists, DEADLINE, "start of the command")
        assert (tmp_path / "word").read_text(encoding="utf-8") == "secret\n"
        if number == signal.SIGINT:
            os.write(terminal, b"\x03")
        else:
            os.kill(pid, number)
        output = b""
        with contextlib.suppress(OSError):  # Linux reports so that no process has it open
            while select.select([terminal], [], [], DEADLINE)[0]:
                output += os.read(terminal, 65536)
        assert (b'"aborted"' if number == signal.SIGINT else b'"canceled"') in output
        assert [each for each in pids(tmp_path) if alive(each)] == []
        assert (tmp_path / "typed").exists() == (number == signal.SIGINT)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)
