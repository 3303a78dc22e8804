"""SPEC 13.8, 14.31-14.37: what a terminal shows."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING

import pyte
import pytest

from servo_agg.output.tables import display_width
from tests.support.locks import held
from tests.support.processes import DeadlineError, environment
from tests.support.servo import ServoDirectory
from tests.support.sources import adjust_script, answer_script, without_modules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

if TYPE_CHECKING:
    Terminals = Callable[[int], "Terminal"]

HINT = b"adjust: waiting for settings on stdin:"

BAR = re.compile(r"\[[#.]+\] +(\d+) %")


class Terminal:
    """A terminal emulator, and the descriptor that programs get."""

    def __init__(self, columns: int) -> None:
        self._master, self.descriptor = pty.openpty()
        self._screen = pyte.Screen(columns, 40)
        self._stream = pyte.ByteStream(self._screen)
        self._lines: list[str] | None = None
        self.bytes = b""
        self.resize(columns)

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self._screen.resize(40, columns)
        self._lines = None

    def type(self, text: bytes) -> None:
        os.write(self._master, text)

    def close(self) -> None:
        os.close(self._master)
        os.close(self.descriptor)

    def look(self, seconds: float = 0.0) -> bool:
        """Read the output, and wait at most this long for it; return whether there was any."""
        if not select.select([self._master], [], [], seconds)[0]:
            return False
        try:
            block = os.read(self._master, 65536)
        except OSError:
            # Linux reports so that no process has it open.
            return False
        self.bytes += block
        self._stream.feed(block)
        self._lines = None
        return True

    @property
    def lines(self) -> list[str]:
        """The lines of the screen, without blanks at their ends and empty lines at the end."""
        while self.look():
            pass
        # A test looks at the screen much more often than it changes, and pyte renders each cell.
        if self._lines is None:
            text = "\n".join(line.rstrip() for line in self._screen.display)
            self._lines = text.rstrip("\n").split("\n")
        return self._lines

    def column_of(self, line: int, text: str) -> int:
        """Return the column in which the last `text` on that line of the screen begins."""
        cells = [self._screen.buffer[line][column].data for column in range(self._screen.columns)]
        return max(
            column for column in range(len(cells)) if "".join(cells[column : column + len(text)]) == text
        )

    def watch(self, until: Callable[[], object], what: str, deadline: float = 20.0) -> None:
        end = time.monotonic() + deadline
        while not until():
            self.look(0.02)
            if time.monotonic() > end:
                raise DeadlineError(
                    f"not within {deadline:g} s: {what}; on the screen:\n" + "\n".join(self.lines)
                )


@pytest.fixture
def terminals() -> Iterator[Callable[[int], Terminal]]:
    made: list[Terminal] = []

    def make(columns: int = 80) -> Terminal:
        made.append(Terminal(columns))
        return made[-1]

    yield make
    for terminal in made:
        terminal.close()


class Session:
    """A run of `adjust`. Its descriptors named in `on` are the terminal, the others are files."""

    def __init__(
        self,
        servo: ServoDirectory,
        terminal: Terminal,
        on: str,
        *words: str,
        env: Mapping[str, str | None] | None = None,
    ) -> None:
        self.terminal = terminal
        self._places = [servo.path / name for name in ("in.txt", "out.txt", "err.txt")]
        for place in self._places:
            place.touch()
        files = [place.open("rb" if place.name == "in.txt" else "wb") for place in self._places]
        ends = [
            terminal.descriptor if str(number) in on else file.fileno() for number, file in enumerate(files)
        ]
        self.process = subprocess.Popen(
            ["./adjust", *words],
            cwd=servo.path,
            env=environment({"TERM": "xterm", "LC_ALL": "C.UTF-8", "NO_COLOR": None}, servo.env, env or {}),
            stdin=ends[0],
            stdout=ends[1],
            stderr=ends[2],
            start_new_session=True,
        )
        for file in files:
            file.close()

    def finish(self) -> int:
        """Wait for the end; return the exit status."""
        self.terminal.watch(lambda: self.process.poll() is not None, "the end of adjust")
        _ = self.terminal.lines
        return self.process.wait()

    def out(self) -> bytes:
        return self._places[1].read_bytes()

    def err(self) -> bytes:
        return self._places[2].read_bytes()


# The hint.


@pytest.mark.parametrize(("on", "operation"), [("0", ("--plan", "--json")), ("02", ()), ("012", ())], ids=str)
def test_a_run_that_waits_for_a_terminal_prints_a_hint(
    servo: ServoDirectory, terminals: Terminals, on: str, operation: tuple[str, ...]
) -> None:
    servo.add("01a", "plain", component="web")
    terminal = terminals(200)
    run = Session(servo, terminal, on, *operation, "app")
    terminal.watch(lambda: HINT in run.err() + terminal.bytes, "the hint")
    assert HINT in (terminal.bytes if "2" in on else run.err())
    terminal.type(json.dumps(servo.request("web.cpu")).encode() + b"\n\x04")
    assert run.finish() == 0
    final = (run.out() + terminal.bytes).splitlines()
    assert any(b'"status":"ok"' in line for line in final)


def test_the_hint_asks_whether_an_option_was_meant(servo: ServoDirectory, terminals: Terminals) -> None:
    terminal = terminals(300)
    run = Session(servo, terminal, "02", "version")
    terminal.watch(lambda: terminal.lines[-1].endswith("; did you mean adjust --version?"), "the hint")
    run.process.send_signal(signal.SIGINT)
    assert run.finish() == 128 + signal.SIGINT


@pytest.mark.parametrize(
    ("on", "words"),
    [("12", ["app"]), ("0", ["app", "--set", "web.cpu=4"]), ("0", ["--query", "app"])],
    ids=str,
)
def test_a_run_that_does_not_wait_for_a_terminal_prints_no_hint(
    servo: ServoDirectory, terminals: Terminals, on: str, words: list[str]
) -> None:
    servo.add("01a", "plain", component="web")
    terminal = terminals(80)
    run = Session(servo, terminal, on, *words)
    run.finish()
    assert b"waiting" not in run.err() + terminal.bytes


# The progress bar.

TALKING = adjust_script(
    """\
    cat >/dev/null
    for percent in 20 40 60 80; do
        echo "warning: the café is closed, $percent" >&2
        echo "{\\"progress\\":$percent,\\"message\\":\\"at $percent, restarting its instances one by one\\"}"
        sleep 0.15
    done
    echo '{"status":"ok"}'
    """
)

# Waits until the test has seen each percentage on the screen.
TALKING_IN_STEPS = TALKING.replace("sleep 0.15", "until [ -e seen.$percent ]; do sleep 0.02; done")

PERCENTAGES = (20, 40, 60, 80)


def bars(terminal: Terminal) -> list[str]:
    return [line for line in terminal.lines if BAR.search(line)]


def watch_bar(terminal: Terminal, percent: int) -> None:
    terminal.watch(lambda: any(f" {percent} %" in line for line in bars(terminal)), f"{percent} % of the bar")


def test_an_adjust_with_stderr_on_a_terminal_and_stdout_elsewhere_shows_a_bar(
    servo: ServoDirectory, terminals: Terminals
) -> None:
    servo.add_script("01talks", TALKING_IN_STEPS)
    servo.add("02größe-with-a-rather-long-name-of-its-deployment", "plain", component="db")
    terminal = terminals(80)
    run = Session(servo, terminal, "2", "app", "--set", "web.cpu=4", "--set", "db.cpu=4")
    for percent in PERCENTAGES:
        # It is one of two drivers.
        watch_bar(terminal, percent // 2)
        (servo.path / f"seen.{percent}").touch()
    assert run.finish() == 0
    assert terminal.lines == [
        *(f"01talks: warning: the café is closed, {percent}" for percent in PERCENTAGES),
        "[##########################] 100 %  02größe-with-a-rather..its-deployment: done",
    ]
    shown = [int(percent) for percent in BAR.findall(terminal.bytes.decode())]
    assert shown == sorted(shown)
    assert {0, 10, 20, 30, 40, 50, 100} <= set(shown)
    assert json.loads(run.out().splitlines()[-1])["status"] == "ok"


@pytest.mark.parametrize(
    ("on", "words"),
    [
        ("", ["app", "--set", "web.cpu=4"]),
        ("12", ["app", "--set", "web.cpu=4"]),
        ("2", ["--query", "app"]),
        ("2", ["--check", "app"]),
    ],
    ids=str,
)
def test_other_runs_show_no_bar(
    servo: ServoDirectory, terminals: Terminals, on: str, words: list[str]
) -> None:
    servo.add("01a", "plain", component="web")
    terminal = terminals(80)
    run = Session(servo, terminal, on, *words)
    assert run.finish() == 0
    assert b"%" not in terminal.bytes + run.out() + run.err()


@pytest.mark.parametrize(("columns", "term"), [(20, "dumb"), (80, "xterm"), (200, None)])
def test_the_bar_is_one_line_on_any_terminal(
    servo: ServoDirectory, terminals: Terminals, columns: int, term: str | None
) -> None:
    servo.add_script("01talks-and-has-a-name-that-is-longer-than-some-terminals-are-wide", TALKING)
    terminal = terminals(columns)
    run = Session(servo, terminal, "2", "app", "--set", "web.cpu=4", env={"TERM": term})
    assert run.finish() == 0
    (bar,) = bars(terminal)
    assert terminal.lines[-1] == bar
    assert len(bar) < columns
    assert b"\x1b" not in terminal.bytes
    text = re.sub(r"\s", "", "".join(terminal.lines))
    assert text.count("caféisclosed,") == 4


@pytest.mark.parametrize(("before", "after"), [(200, 30), (40, 120)])
def test_the_bar_follows_the_size_of_the_terminal(
    servo: ServoDirectory, terminals: Terminals, before: int, after: int
) -> None:
    servo.add_script("01talks", TALKING_IN_STEPS)
    terminal = terminals(before)
    run = Session(servo, terminal, "2", "app", "--set", "web.cpu=4")
    watch_bar(terminal, 20)
    # Now nothing more is written until it goes on.
    terminal.watch(lambda: b"closed, 20" in terminal.bytes, "what the driver wrote")
    terminal.resize(after)
    for percent in PERCENTAGES:
        (servo.path / f"seen.{percent}").touch()
    assert run.finish() == 0
    (bar,) = bars(terminal)
    assert terminal.lines[-1] == bar
    assert len(bar) < after


def test_a_failure_is_shown_behind_the_bar(servo: ServoDirectory, terminals: Terminals) -> None:
    servo.add("01a", "crash", component="web")
    terminal = terminals(80)
    run = Session(servo, terminal, "2", "app", "--set", "web.cpu=4", "--timings")
    assert run.finish() == 1
    bar, head, *rows, total = terminal.lines
    assert bar == "[##########################] 100 %  01a: failed (signal)"
    assert head.startswith("driver  phase   seconds  status  0 s")
    assert [row.split()[:2] for row in rows] == [["01a", "query"], ["01a", "adjust"]]
    assert total.startswith("total ")
    assert all(len(line) <= 80 for line in (head, *rows))


def test_ctrl_c_ends_an_adjust_in_a_shell(servo: ServoDirectory, terminals: Terminals) -> None:
    """The whole foreground group gets SIGINT; the shell's next prompt stands on a line of its own."""
    servo.add("01a", "stubborn", component="web")
    servo.configure("agg: {grace: 0.2}")
    terminal = terminals(80)
    with subprocess.Popen(
        ["setsid", "--ctty", "sh", "-i"],
        cwd=servo.path,
        env=environment(servo.env, {"PS1": "% ", "ENV": None, "TERM": "xterm"}),
        stdin=terminal.descriptor,
        stdout=terminal.descriptor,
        stderr=terminal.descriptor,
    ) as shell:
        terminal.watch(lambda: terminal.lines[-1] == "%", "a prompt")
        terminal.type(b"./adjust app --set web.cpu=4 >out.txt\n")
        terminal.watch(lambda: "01a: going on" in terminal.lines[-1], "the bar")
        servo.pids("01a", "leader", "child", "grandchild")
        terminal.type(b"\x03")
        terminal.watch(lambda: terminal.lines[-1] == "%", "the next prompt")
        terminal.type(b"echo status $?\n")
        terminal.watch(lambda: "status 130" in terminal.lines, "the exit status")
        terminal.type(b"exit\n")
        terminal.watch(lambda: shell.poll() is not None, "the end of the shell")
    final = json.loads((servo.path / "out.txt").read_bytes().splitlines()[-1])
    assert (final["status"], final["reason"]) == ("terminated", "SIGINT")


def test_sigint_ends_a_run_that_waits_for_stdin(servo: ServoDirectory, terminals: Terminals) -> None:
    servo.add("01a", "plain", component="web")
    terminal = terminals(80)
    run = Session(servo, terminal, "02", "app")
    terminal.watch(lambda: HINT in terminal.bytes, "the hint")
    run.process.send_signal(signal.SIGINT)
    assert run.finish() == 128 + signal.SIGINT
    assert servo.log() == []


# Characters and widths.

ASCII_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

# Of a name: letters, a wide character, an override of the direction of text, and a byte that is not UTF-8.
NAME = b"01\xc3\xbc\xe5\x90\x8d\xe2\x80\xae\xff"


@pytest.mark.parametrize(
    ("env", "name", "text"),
    [
        ({"LC_ALL": "C.UTF-8"}, r"01ü名\u202e\udcff", r"größe \x1b[31m\u202e" + "\ufffd"),
        # Python takes UTF-8 for the locale C.
        ({"LC_ALL": "C"}, r"01ü名\u202e\udcff", r"größe \x1b[31m\u202e" + "\ufffd"),
        (
            ASCII_LOCALE,
            r"01\udcc3\udcbc\udce5\udc90\udc8d\udce2\udc80\udcae\udcff",
            r"gr\xf6\xdfe \x1b[31m\u202e\ufffd",
        ),
    ],
    ids=["UTF-8", "C", "ASCII"],
)
def test_names_and_messages_are_shown_as_they_are_where_the_terminal_can_show_them(
    servo: ServoDirectory, terminals: Terminals, env: dict[str, str], name: str, text: str
) -> None:
    source = adjust_script(
        """\
        cat >/dev/null
        printf 'größe \\033[31m\\342\\200\\256\\377\\n' >&2
        echo '{"status":"ok"}'
        """
    )
    servo.add_script(os.fsdecode(NAME), source)
    terminal = terminals(120)
    run = Session(servo, terminal, "2", "app", "--set", "web.cpu=4", "--timings", env=env)
    assert run.finish() == 0
    stderr, bar, head, *rows, _ = terminal.lines
    # A wide character takes two cells of the screen, of which the second is empty.
    assert stderr == f"{name}: {text}"
    assert bar.endswith(f"100 %  {name}: done")
    assert all(row.startswith(name) for row in rows)
    starts = [terminal.column_of(2, "phase"), terminal.column_of(3, "query"), terminal.column_of(4, "adjust")]
    assert len(set(starts)) == 1, (head, rows)
    run = Session(servo, terminal, "", "app", "--set", "web.cpu=4", "-v", "--timings", env=env)
    assert run.finish() == 0
    assert run.err().isascii()
    assert run.out().isascii()


@pytest.mark.parametrize(
    ("env", "shown"), [({}, "ü\\u202e"), (ASCII_LOCALE, "\\xfc\\u202e")], ids=["UTF-8", "ASCII"]
)
def test_versions_are_shown_as_they_are_where_the_terminal_can_show_them(
    servo: ServoDirectory, terminals: Terminals, env: dict[str, str], shown: str
) -> None:
    servo.add("01a", "plain", version="ü\u202e")
    terminal = terminals(80)
    assert Session(servo, terminal, "1", "-V", env=env).finish() == 0
    assert terminal.lines == [f"aggregator 2.0.0 ({shown})"]
    run = Session(servo, terminal, "", "-V", env=env)
    assert run.finish() == 0
    assert run.out() == b"aggregator 2.0.0 (\\xfc\\u202e)\n"


def test_the_bar_with_wide_characters_is_one_line(servo: ServoDirectory, terminals: Terminals) -> None:
    servo.add_script("01名前の長いドライバーの名前の長いドライバー", TALKING)
    terminal = terminals(50)
    run = Session(servo, terminal, "2", "app", "--set", "web.cpu=4")
    assert run.finish() == 0
    (bar,) = bars(terminal)
    assert terminal.lines[-1] == bar
    assert "01名" in bar
    assert bar.endswith(": done")


def unwrapped(lines: list[str]) -> str:
    """Return the text of lines, with one blank in place of each indented line break."""
    return re.sub(r"( \\)?\n +", " ", "\n".join(lines))


@pytest.mark.parametrize("columns", [20, pytest.param(33, marks=pytest.mark.full), 80])
def test_a_check_is_wrapped_to_the_terminal(
    servo: ServoDirectory, terminals: Terminals, columns: int
) -> None:
    for name in ("01größe", "02b"):
        servo.add(name, "plain", component=name)
        (servo.drivers / name).chmod(0o777)
    servo.configure("agg: {serial: ['99*']}")
    (servo.drivers / "03 日本 c").touch()
    terminal = terminals(columns)
    assert Session(servo, terminal, "1", "--check").finish() == 1
    lines = terminal.bytes.decode().replace("\r\n", "\n").splitlines()
    text = lines[lines.index("") + 1 :]
    # Only a single word can be wider.
    assert all(display_width(line) <= columns or " " not in line.strip() for line in text)
    run = Session(servo, terminal, "", "--check")
    assert run.finish() == 1
    whole = run.out().decode()
    assert not re.search("^ {5}", whole, re.MULTILINE)
    start = whole.index("\nproblem 1")
    # Without a terminal each problem, remedy and remark is one line.
    expected = re.sub(r"\n +", " ", whole[start:])
    assert unwrapped(lines).partition("\nproblem 1")[2] == expected.partition("\nproblem 1")[2].rstrip("\n")


def test_a_wrapped_command_can_be_copied(servo: ServoDirectory, terminals: Terminals) -> None:
    names = ["01 a driver", "02b", "03 another driver"]
    for name in names:
        (servo.drivers / name).write_text("#!/bin/sh\n", encoding="utf-8")
    terminal = terminals(40)
    assert Session(servo, terminal, "1", "--check").finish() == 1
    text = terminal.bytes.decode().replace("\r\n", "\n")
    command = text[text.index("chmod") :].partition("\n\n")[0]
    assert "\n" in command
    subprocess.run(["sh", "-c", command], cwd=servo.path, check=True)
    assert all(os.access(servo.drivers / name, os.X_OK) for name in names)


def pasted(terminal: Terminal, start: str) -> list[str]:
    """Return the arguments of the command that begins with `start` and ends the text of a terminal."""
    text = terminal.bytes.decode().replace("\r\n", "\n")
    command = text[text.rindex(start) :]
    assert " \\\n" in command
    return shlex.split(command.replace("\\\n", ""))


def test_a_command_in_an_error_can_be_copied(servo: ServoDirectory, terminals: Terminals) -> None:
    name = "01 a driver with several words"
    (servo.drivers / name).touch()
    terminal = terminals(40)
    assert Session(servo, terminal, "2", "--test-driver", name, "app").finish() == 1
    assert pasted(terminal, "chmod") == ["chmod", "+x", f"adjust.d/{name}"]
    (servo.drivers / name).chmod(0o755)
    terminal = terminals(40)
    env = without_modules(servo, "psutil")
    assert Session(servo, terminal, "2", "--test-driver", name, "app", env=env).finish() == 1
    install = pasted(terminal, shlex.quote(sys.executable))
    assert install == [sys.executable, "-m", "pip", "install", "--upgrade", "psutil"]


def test_a_command_in_a_warning_can_be_copied(tmp_path: Path, terminals: Terminals) -> None:
    servo = ServoDirectory(tmp_path, "a servo  directory")
    servo.add("01a", "plain", component="web")
    terminal = terminals(40)
    with held(servo.path):
        run = Session(servo, terminal, "2", "app", "--set", "web.cpu=4", env={"OPTUNE_IO_TIMEOUT": "2"})
        assert run.finish() == 0
    warning = terminal.bytes.decode().partition("\r\n\r")[0]
    assert warning.startswith("warning: another process holds a lock")
    assert f"fuser -v \\\r\n    {shlex.quote(str(servo.path))}" in warning


@pytest.mark.parametrize("columns", [24, 60])
def test_a_plan_is_wrapped_to_the_terminal(servo: ServoDirectory, terminals: Terminals, columns: int) -> None:
    servo.add("01a", "plain", component="web")
    for number in range(2, 9):
        servo.add(f"0{number}größe", "plain", component=f"c{number}")
    terminal = terminals(columns)
    run = Session(servo, terminal, "12", "--plan", "app", "--set", "web.cpu=100")
    assert run.finish() == 1
    assert all(display_width(line) <= columns for line in terminal.lines)
    names = ", ".join(f"0{number}größe" for number in range(2, 9))
    assert f"drivers not run (the input has no setting for them): {names}" in unwrapped(terminal.lines)
    refused = terminals(columns)
    run = Session(servo, refused, "12", "--plan", "app", "--set", "c99.cpu=4")
    assert run.finish() == 1
    assert all(display_width(line) <= columns for line in refused.lines)
    assert refused.lines[0].startswith("adjust: ")
    assert all(line.startswith("    ") for line in refused.lines[1:])
    run = Session(servo, refused, "", "--plan", "app", "--set", "c99.cpu=4")
    assert run.finish() == 1
    assert run.err().decode("ascii").encode().decode("unicode_escape") == unwrapped(refused.lines) + "\n"


@pytest.mark.parametrize("columns", [30, 80])
def test_a_usage_error_is_wrapped_to_the_terminal(
    servo: ServoDirectory, terminals: Terminals, columns: int
) -> None:
    terminal = terminals(columns)
    words = ["--foo", "an application", "größe"]
    assert Session(servo, terminal, "2", *words).finish() == 2
    assert all(display_width(line) <= columns for line in terminal.lines)
    assert terminal.lines[0].startswith("usage: adjust [OPTION ...]")
    run = Session(servo, terminal, "", *words)
    assert run.finish() == 2
    *usage, error = run.err().decode().splitlines()
    assert len(usage) == 3
    assert unwrapped(terminal.lines).endswith(error)


# The status line.


def watch_line(terminal: Terminal, pattern: str) -> None:
    terminal.watch(lambda: re.fullmatch(pattern, terminal.lines[-1]), pattern)


@pytest.mark.parametrize(("option", "on"), [("--query", "12"), ("--info", "2"), ("--check", "12")])
def test_a_driver_that_has_not_answered_after_two_seconds_is_named(
    servo: ServoDirectory, terminals: Terminals, option: str, on: str
) -> None:
    servo.add("01plain", "plain")
    phase = "query" if option == "--query" else "info"
    servo.add("02silent", "silent", when=phase)
    terminal = terminals(80)
    run = Session(servo, terminal, on, option, "app")
    for seconds in (2, 3):
        watch_line(terminal, rf"waiting for 02silent \(--{phase}\), {seconds} s")
    run.process.send_signal(signal.SIGINT)
    assert run.finish() == 128 + signal.SIGINT
    assert not any("waiting" in line for line in terminal.lines)


def test_the_bar_shows_how_long_a_driver_has_run_and_how_long_its_grace_period_lasts(
    servo: ServoDirectory, terminals: Terminals
) -> None:
    servo.add("01a", "stubborn", component="web")
    terminal = terminals(80)
    run = Session(servo, terminal, "2", "app", "--set", "web.cpu=4")
    for seconds in (2, 3):
        watch_line(terminal, rf"\[.*\] .*: going on, {seconds} s")
    run.process.send_signal(signal.SIGINT)
    for seconds in (29, 28):
        watch_line(terminal, f"stopping 01a: SIGKILL in {seconds} s; press Ctrl-C again to kill at once")
    run.process.send_signal(signal.SIGINT)
    assert run.finish() == 128 + signal.SIGINT
    assert terminal.lines[-1] == "[##########################] 100 %  01a: failed (signal)"


def test_a_stop_is_announced_once_among_the_progress_lines(
    servo: ServoDirectory, terminals: Terminals
) -> None:
    servo.add("01a", "stubborn", component="web")
    servo.configure("agg: {grace: 2.5}")
    terminal = terminals(200)
    run = Session(servo, terminal, "12", "app", "--set", "web.cpu=4")
    servo.pids("01a", "leader")
    run.process.send_signal(signal.SIGTERM)
    assert run.finish() == 128 + signal.SIGTERM
    announcement = "stopping 01a: SIGKILL in 2 s; press Ctrl-C again to kill at once"
    assert [line for line in terminal.lines if "stopping" in line] == [announcement]


def test_the_last_of_several_messages_in_an_instant_is_shown(
    servo: ServoDirectory, terminals: Terminals
) -> None:
    servo.add_script(
        "01talks",
        adjust_script(
            """\
            cat >/dev/null
            for number in 1 2 3; do
                echo "{\\"progress\\":20,\\"message\\":\\"step $number\\"}"
                sleep 0.01
            done
            until [ -e seen ]; do sleep 0.02; done
            echo '{"status":"ok"}'
            """
        ),
    )
    terminal = terminals(80)
    run = Session(servo, terminal, "2", "app", "--set", "web.cpu=4")
    watch_line(terminal, ".*01talks: step 3")
    (servo.path / "seen").touch()
    assert run.finish() == 0


# Tables.


def fill(servo: ServoDirectory) -> None:
    servo.add("01ec2asg", "plain", component="web")
    servo.add("02größe-名前", "plain", component="größe")
    servo.add(
        "03k8s-adjust-canary-in-eu-central-1-with-a-long-name-of-its-deployment", "plain", component="日本"
    )
    servo.add("04bad", "exit3", when="info query")


@pytest.mark.parametrize("columns", [70, 200])
def test_a_table_is_aligned_on_the_screen(servo: ServoDirectory, terminals: Terminals, columns: int) -> None:
    fill(servo)
    terminal = terminals(columns)
    run = Session(servo, terminal, "1", "--check", "app")
    assert run.finish() == 1
    verdicts = ["verdict", "ok", "ok", "ok", "exit-status"]
    assert len({terminal.column_of(number, verdict) for number, verdict in enumerate(verdicts)}) == 1
    # No line is broken into two.
    assert terminal.lines[5] == ""
    assert terminal.lines[6].startswith("problem 1: 04bad: ")


def test_a_plan_is_aligned_on_the_screen(servo: ServoDirectory, terminals: Terminals) -> None:
    fill(servo)
    (servo.drivers / "04bad").unlink()
    terminal = terminals(80)
    choices = ["--set", "web.cpu=4", "--set", "größe.cpu=9", "--set", "日本.inst_type=m5.huge"]
    run = Session(servo, terminal, "1", "--plan", "app", *choices)
    assert run.finish() == 1
    assert [line for line in terminal.lines if not line.startswith(("1.", "2.", "3."))] == [
        "  web.cpu         2 -> 4               (0.5..8 step 0.5)",
        "  größe.cpu       2 -> 9               (0.5..8 step 0.5)",
        "    ! above its maximum 8",
        "  日本.inst_type  m5.large -> m5.huge  (m5.large, m5.xlarge)",
        "    ! not in its list of values",
    ]
    assert len({terminal.column_of(number, "(") for number in (1, 3, 6)}) == 1


def test_only_terminals_with_colors_get_colors(servo: ServoDirectory, terminals: Terminals) -> None:
    fill(servo)

    def checked(on: str, **env: str) -> bytes:
        # Wide enough for the path of the servo directory, so that no line is wrapped.
        terminal = terminals(500)
        run = Session(servo, terminal, on, "--check", "app", env=env)
        assert run.finish() == 1
        return terminal.bytes.replace(b"\r\n", b"\n") if on else run.out()

    def still(text: bytes) -> bytes:
        return re.sub(rb"\d\.\d{3}", b"0.000", re.sub(rb"\x1b\[\d*m", b"", text))

    colored, *plain = (checked("1"), checked("1", NO_COLOR="1"), checked("1", TERM="dumb"), checked(""))
    assert colored.count(b"\x1b[32m") == 3
    assert colored.count(b"\x1b[31m") == 1
    # The text is the same without colors.
    for text in plain:
        assert b"\x1b" not in text
        assert still(text) == still(colored)


def test_a_check_prints_its_steps_on_a_terminal(servo: ServoDirectory, terminals: Terminals) -> None:
    fill(servo)
    terminal = terminals(80)
    run = Session(servo, terminal, "2", "--check", "app")
    assert run.finish() == 1
    assert terminal.lines == [
        "asking 4 drivers: --info app",
        "04bad: exit-status; asking it again, alone",
        "asking 4 drivers: --query app",
        "04bad: exit-status; asking it again, alone",
    ]
    assert Session(servo, terminal, "", "--check", "app").finish() == 1
    assert (servo.path / "err.txt").read_bytes() == b""


def test_stderr_of_drivers_is_shown_at_once(servo: ServoDirectory, terminals: Terminals) -> None:
    servo.add_script(
        "01a",
        """\
        #!/bin/sh
        echo "on its way" >&2
        . ./behave.sh
        until [ -e seen ]; do sleep 0.05; done
        behave
        """,
    )
    terminal = terminals(80)
    run = Session(servo, terminal, "2", "--query", "app")
    terminal.watch(lambda: terminal.lines == ["01a: on its way"], "what the driver wrote")
    assert run.process.poll() is None
    (servo.path / "seen").touch()
    assert run.finish() == 0


def test_a_plan_that_is_too_wide_puts_each_part_on_a_line_of_its_own(
    servo: ServoDirectory, terminals: Terminals
) -> None:
    image = "registry.example.com/team/payments"
    settings = {"image": {"value": f"{image}:1.22.3"}}
    servo.add_script(
        "01pay", answer_script({"application": {"components": {"payments": {"settings": settings}}}})
    )
    terminal = terminals(80)
    run = Session(servo, terminal, "1", "--plan", "app", "--set", f"payments.image={image}:1.23.0")
    assert run.finish() == 0
    assert terminal.lines == ["1. 01pay", "  payments.image", f"    {image}:1.22.3", f"    -> {image}:1.23.0"]
