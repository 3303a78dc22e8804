"""The fake agent of the tests, and the helpers that find processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import tests.support.agent
from tests.support.agent import Agent, AgentError
from tests.support.processes import (
    MARK,
    DeadlineError,
    LeftoverError,
    Marked,
    alive,
    environment,
    no_process_left,
    session_members,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def marked(request: pytest.FixtureRequest) -> Iterator[Marked]:
    with no_process_left(request.node.originalname) as processes:
        yield processes


def agent_of(
    directory: Path,
    body: str,
    *,
    has_cancel: bool = True,
    io_timeout: float | None = None,
    stdin: str = "input=$(cat)",
) -> Agent:
    """Return an agent whose `adjust` answers --info, and otherwise runs `stdin` and `body`."""
    info = f"""echo '{{"version": "1", "has_cancel": {str(has_cancel).lower()}}}'"""
    script = f'if [ "$1" = --info ]; then {info}; exit; fi\n{stdin}\n{body}'
    return agent_of_script(directory, script, io_timeout)


def agent_of_script(directory: Path, script: str, io_timeout: float | None = None) -> Agent:
    program = directory / "adjust"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    # The scripts of these tests print what the agent must accept. It need not match the schemas.
    return Agent(directory, io_timeout=io_timeout, is_ours=False)


def test_adjust_reports_reply_progress_and_all_lines(tmp_path: Path) -> None:
    agent = agent_of(
        tmp_path,
        """
        [ "$*" = app ] || exit 1
        echo '{"progress": 10}'
        echo
        echo '{"status": "failed", "message": "a warning"}'
        echo warned >&2
        echo '{"progress": 20, "status": "ok"}'
        printf '{"status": "ok", "input": %s}' "$input"
        """,
    )
    operation = agent.adjust("app", {"application": {"components": {}}})
    assert operation.ok
    assert operation.reply == {"status": "ok", "input": {"application": {"components": {}}}}
    assert operation.progress == [{"progress": 10}, {"progress": 20, "status": "ok"}]
    assert [line for _, line in operation.lines][:2] == [b'{"progress": 10}\n', b"\n"]
    assert len(operation.lines) == 5
    assert operation.stderr_text == "warned\n"
    assert operation.returncode == 0
    assert 0 < operation.longest_silence <= operation.seconds
    assert not operation.signals


@pytest.mark.parametrize("reader", ["byte", "block"])
def test_large_input_and_output_arrive_complete(tmp_path: Path, reader: Any) -> None:
    agent = agent_of(tmp_path, "cat output", stdin="cat >input")
    request = {"application": {}, "padding": "x" * 300_000}
    lines = [f'{{"progress": {number}}}\n' for number in range(3000)]
    (tmp_path / "output").write_text("".join(lines) + '{"status": "ok"}\n')
    operation = agent.adjust("app", request, reader=reader)
    assert [line.decode() for _, line in operation.lines[:-1]] == lines
    assert operation.ok
    assert (tmp_path / "input").stat().st_size > 300_000


def test_describe_closes_stdin_at_once_and_an_absent_status_is_ok(tmp_path: Path) -> None:
    agent = agent_of(tmp_path, """echo '{"application": {}, "words": "'"$*$input"'"}'""")
    operation = agent.describe("app")
    assert operation.ok
    assert operation.reply == {"application": {}, "words": "--query app"}


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("echo no; echo broken >&2; exit 7", "it failed"),
        ("echo '{}{}'", "not one JSON document"),
        ("echo '[]'", "no has_cancel"),
        ("""echo '{"version": "1"}'""", "no has_cancel"),
    ],
)
def test_a_failing_info_fails_the_operation_with_all_its_output(tmp_path: Path, body: str, why: str) -> None:
    agent = agent_of_script(tmp_path, body)
    with pytest.raises(AgentError, match=why) as caught:
        agent.describe("app")
    assert caught.value.argv == ["./adjust", "--info", "app"]
    if "exit 7" in body:
        assert (caught.value.returncode, caught.value.stderr) == (7, b"broken\n")


def test_an_endless_info_fails_the_test_at_the_deadline(tmp_path: Path) -> None:
    agent = agent_of_script(tmp_path, "sleep 600")
    with pytest.raises(DeadlineError, match="--info app"):
        agent.info("app", deadline=0.1)


@pytest.mark.parametrize(
    ("line", "why"),
    [("warning", "not JSON"), ("7", "not an object"), ("\\0377", "not JSON")],
)
def test_after_a_line_that_is_not_an_object_the_agent_sends_sigterm(
    tmp_path: Path, line: str, why: str
) -> None:
    agent = agent_of(tmp_path, f"echo '{{}}'; printf '%b\\n' '{line}'; exec sleep 600")
    with agent, agent.start_adjust("app", {}) as running:
        operation = running.finish(5)
        assert why in str(operation.protocol_error)
        assert not operation.ok
        assert [number for _, number in operation.signals] == [signal.SIGTERM]
        assert operation.wait(5) == -signal.SIGTERM


def test_closing_stdin_early_is_a_protocol_error(tmp_path: Path) -> None:
    with agent_of(tmp_path, "exec sleep 600", stdin="exec <&-") as agent:
        operation = agent.adjust("app", {"padding": "x" * 300_000})
        assert "unread" in str(operation.protocol_error)
        assert operation.returncode is None
    assert operation.wait(5) == -signal.SIGKILL


def test_after_silence_the_agent_sends_sigterm_and_does_not_wait(tmp_path: Path) -> None:
    body = """
        trap 'until [ -e go ]; do sleep 0.05; done; exit 5' TERM
        echo '{"progress": 0}'
        while :; do sleep 0.05; done
    """
    with agent_of(tmp_path, body, io_timeout=1) as agent:
        operation = agent.adjust("app", {})
        assert operation.timed_out
        assert not operation.ok
        assert operation.returncode is None
        assert 1 <= operation.longest_silence <= operation.seconds
        assert [number for _, number in operation.signals] == [signal.SIGTERM]
        (tmp_path / "go").touch()
        assert operation.wait() == 5


@pytest.mark.parametrize("redirection", ["", ">&2"])
def test_a_byte_on_either_pipe_restarts_the_timeout(tmp_path: Path, redirection: str) -> None:
    body = f"""
        for i in 1 2 3 4 5; do sleep 0.5; echo {redirection}; done
        echo '{{"t": "'$OPTUNE_IO_TIMEOUT'"}}'
    """
    operation = agent_of(tmp_path, body, io_timeout=2).adjust("app", {})
    assert operation.ok
    assert operation.reply == {"t": "2"}
    assert operation.seconds > 2
    assert 0.5 <= operation.longest_silence < 2


def test_a_program_that_goes_on_without_its_pipes_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tests.support.agent.LINGER == 3
    monkeypatch.setattr(tests.support.agent, "LINGER", 0.2)
    operation = agent_of(tmp_path, "echo '{}'; exec >&- 2>&-; exec sleep 600").adjust("app", {})
    assert operation.returncode == -signal.SIGKILL
    assert [number for _, number in operation.signals] == [signal.SIGKILL]
    assert operation.signals[0][0] >= 0.2


def test_a_pipe_held_open_keeps_the_agent_waiting_until_the_deadline(tmp_path: Path, marked: Marked) -> None:
    agent = agent_of(tmp_path, "setsid sleep 600 & echo '{}'")
    with pytest.raises(DeadlineError, match="not over within"):
        agent.adjust("app", {}, deadline=0.15)
    marked.kill()


def test_cancel_sends_sigusr1_for_each_progress_line_from_then_on(tmp_path: Path) -> None:
    body = """
        got=0
        trap 'got=$((got + 1))' USR1
        until_got() { while [ $got -lt $1 ]; do sleep 0.01; done; }
        echo '{"progress": 10}'
        echo '{"progress": 20}'; until_got 1
        echo '{"progress": 30}'; until_got 2
        echo '{"status": "canceled", "got": '$got'}'
    """
    operation = agent_of(tmp_path, body).adjust(
        "app", {}, on_progress=lambda message: "cancel" if message["progress"] == 20 else None
    )
    assert operation.reply == {"status": "canceled", "got": 2}
    assert [number for _, number in operation.signals] == [signal.SIGUSR1] * 2
    assert not operation.ok


def test_cancel_without_has_cancel_is_sigkill(tmp_path: Path) -> None:
    agent = agent_of(tmp_path, "echo '{\"progress\": 1}'; exec sleep 600", has_cancel=False)
    operation = agent.adjust("app", {}, on_progress=lambda _: "cancel")
    assert operation.returncode == -signal.SIGKILL
    assert operation.last_reply is None


def test_on_progress_needs_an_agent_that_calls_info(tmp_path: Path) -> None:
    agent = Agent(tmp_path, calls_info=False)
    with pytest.raises(ValueError, match="calls_info"):
        agent.start_adjust("app", {}, on_progress=lambda _: None)


def test_an_error_in_on_progress_fails_the_test_and_ends_the_program(tmp_path: Path) -> None:
    def fail(message: dict[str, Any]) -> None:
        raise RuntimeError(str(message))

    agent = agent_of(tmp_path, "echo '{\"progress\": 1}'; sleep 600")
    with pytest.raises(RuntimeError, match="progress"):
        agent.adjust("app", {}, on_progress=fail)


def test_a_running_operation_can_be_observed_and_signaled(tmp_path: Path) -> None:
    body = """
        trap 'echo "{\\"status\\": \\"terminated\\"}"; exit 143' TERM
        echo '{"progress": 1}'
        while :; do sleep 0.01; done
    """
    with agent_of(tmp_path, body).start_adjust("app", {}) as running:
        assert running.wait_for_line(lambda message: "progress" in message) == {"progress": 1}
        assert alive(running.pid)
        running.send_signal(signal.SIGTERM)
        operation = running.finish(5)
    assert operation.returncode == 143
    assert operation.reply == {"status": "terminated"}
    assert not operation.signals


def test_waiting_for_a_line_ends_with_the_program_or_the_deadline(tmp_path: Path) -> None:
    with agent_of(tmp_path, "echo '{}'").start_adjust("app", {}) as running:
        with pytest.raises(AssertionError, match="printed no such line"):
            running.wait_for_line(lambda message: "progress" in message)
        assert running.finish(5).ok
    with agent_of(tmp_path, "sleep 600").start_adjust("app", {}) as running:  # noqa: SIM117
        with pytest.raises(DeadlineError, match="no such line within"):
            running.wait_for_line(lambda _: True, deadline=0.05)


def test_an_agent_that_stops_reading_blocks_the_program_and_does_not_time_out(tmp_path: Path) -> None:
    body = """
        echo '{"progress": 0}'
        while [ ! -e go ]; do sleep 0.01; done
        i=0
        while [ $i -lt 5000 ]; do i=$((i + 1)); echo '{"progress": '$i'}'; done
        touch done
        echo '{}'
    """
    with agent_of(tmp_path, body, io_timeout=1).start_adjust("app", {}, reader="block") as running:
        running.wait_for_line(lambda message: message["progress"] == 0)
        running.stop_reading()
        (tmp_path / "go").touch()
        with pytest.raises(DeadlineError):
            wait_until((tmp_path / "done").exists, 1.3, "the end of a program that must be blocked")
        assert len(running.operation.lines) == 1
        running.resume_reading()
        operation = running.finish(5)
    assert operation.ok
    assert len(operation.lines) == 5002


@pytest.mark.parametrize("action", ["close_stdout", "close_pipes"])
def test_a_program_whose_reader_is_gone_gets_sigpipe(tmp_path: Path, action: str) -> None:
    with agent_of(tmp_path, "while echo '{\"progress\": 1}'; do :; done").start_adjust("app", {}) as running:
        running.wait_for_line(lambda _: True)
        getattr(running, action)()
        assert running.finish(5).returncode == -signal.SIGPIPE


def test_leaving_the_context_kills_the_whole_session(tmp_path: Path) -> None:
    agent = agent_of(tmp_path, "sleep 600 & echo '{\"progress\": 1}'; wait")
    with pytest.raises(ZeroDivisionError), agent.start_adjust("app", {}) as running:  # noqa: PT012
        running.wait_for_line(lambda _: True)
        assert len(session_members(running.pid)) == 2
        raise ZeroDivisionError
    assert not session_members(running.pid)


def test_stderr_text_is_decoded_as_strictly_as_by_the_agent(tmp_path: Path) -> None:
    operation = agent_of(tmp_path, "head -c 5000 /dev/zero | tr '\\0' x >&2; echo '{}'").adjust("app", {})
    assert operation.stderr_text == "x" * 4096 + "\n" + "x" * 904
    operation = agent_of(tmp_path, "printf 'caf\\303\\251' >&2; echo '{}'").adjust("app", {})
    with pytest.raises(UnicodeDecodeError):
        _ = operation.stderr_text


def test_no_process_left_names_and_kills_what_is_left() -> None:
    with pytest.raises(LeftoverError, match="sleep 600"), no_process_left("inner", 0.1) as processes:  # noqa: PT012
        subprocess.run(["setsid", "-f", "sleep", "600"], check=True)
        wait_until(lambda: list(processes.living().values()) == ["sleep 600"], 5, "start of the service")
    assert not processes.living()


def test_no_process_left_waits_for_processes_that_end_and_ignores_zombies() -> None:
    with no_process_left("inner", 30):
        child = subprocess.Popen(["sleep", "0.1"])
    assert not alive(child.pid)
    assert child.wait() == 0


def test_no_process_left_does_not_hide_the_failure_of_the_test() -> None:
    with pytest.raises(ZeroDivisionError), no_process_left("inner", 0.1) as processes:  # noqa: PT012
        subprocess.run(["setsid", "-f", "sleep", "600"], check=True)
        raise ZeroDivisionError
    assert not processes.living()


def test_the_environment_of_children_is_cleaned_and_laid_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTUNE_IO_TIMEOUT", "3")
    made = environment({"A": "1", "B": "2"}, {"B": None})
    assert "OPTUNE_IO_TIMEOUT" not in made
    assert made["A"] == "1"
    assert "B" not in made
    assert made[MARK] == os.environ[MARK]
    found = subprocess.run(
        ["python3", "-c", "import sys; print(sys.prefix)"],
        env=made,
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout.strip() == sys.prefix
