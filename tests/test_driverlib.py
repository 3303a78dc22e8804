"""The driver library (SPEC 12), as a driver sees it and as whoever runs the driver sees that.

Every driver here is a process of its own, with its own pipes and real signals.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import pytest

from tests.processes import alive, environment, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

LIBRARY = Path(__file__).resolve().parent.parent / "servo_agg" / "driverlib"

SOURCES = sorted(LIBRARY.glob("*.py"))

DEADLINE = 15.0
"""Seconds after which a test has failed; none needs more than a fraction of it."""

INPUT = {"application": {"components": {"web": {"settings": {"cpu": {"value": 4}}}}}, "control": {}}

PREAMBLE = """
import json, os, signal, sys, threading, time
from pathlib import Path
from adjust import Adjust, AdjustError

def idle():
    # Python heeds a signal that comes just before a sleep only after it, so many short ones.
    while True:
        time.sleep(0.01)
"""

ENDING = """
if __name__ == "__main__":
    Driver("1.2", "a driver of the tests", {supports_cancel}, {progress_interval}).run()
"""


@dataclass(frozen=True)
class Done:
    """What a driver has left behind."""

    returncode: int
    stdout: bytes
    stderr: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def reply(self) -> dict[str, Any]:
        return self.lines[-1]


class Running:
    """A driver that runs, and can be watched and sent signals. Its stderr is a file: it needs no reader."""

    def __init__(self, process: subprocess.Popen[bytes], stderr: Path) -> None:
        self.process = process
        self.stderr = stderr
        self.read = bytearray()
        self.told = 0

    @property
    def pipe(self) -> IO[bytes]:
        return cast("IO[bytes]", self.process.stdout)

    def wait_for_line(self) -> dict[str, Any]:
        """Return the next line."""
        while (end := self.read.find(b"\n", self.told)) < 0:
            assert self._read_on(), "the driver has ended"
        line, self.told = self.read[self.told : end], end + 1
        message = json.loads(line)
        assert isinstance(message, dict)
        return message

    def finish(self) -> Done:
        """Wait for the driver's end."""
        while self._read_on():
            pass
        self.process.wait(DEADLINE)
        return Done(self.process.returncode, bytes(self.read), self.stderr.read_text(encoding="utf-8"))

    def _read_on(self) -> bool:
        ready, _, _ = select.select([self.pipe], [], [], DEADLINE)
        assert ready, "the driver prints nothing and does not end"
        data = os.read(self.pipe.fileno(), 65536)
        self.read += data
        return bool(data)


class Driver:
    """A driver in the servo directory `directory`: the methods of a subclass of Adjust."""

    def __init__(
        self,
        directory: Path,
        methods: str,
        *,
        supports_cancel: bool = True,
        progress_interval: float | None = None,
        preamble: str = PREAMBLE,
    ) -> None:
        self.directory = directory
        self.path = directory / "driver"
        ending = ENDING.format(supports_cancel=supports_cancel, progress_interval=progress_interval)
        body = textwrap.indent(textwrap.dedent(methods), "    ") or "    pass\n"
        self.path.write_text(f"{preamble}\nclass Driver(Adjust):\n{body}\n{ending}", encoding="utf-8")

    @contextlib.contextmanager
    def start(
        self, *args: str, data: Any = b"", stdout: int = subprocess.PIPE, **env: str
    ) -> Iterator[Running]:
        """Run it with `data` on its stdin; at the end of the block it is killed if it still runs."""
        source, stderr = self.directory / "input", self.directory / "stderr"
        source.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
        with source.open("rb") as given, stderr.open("wb") as complaints:
            process = subprocess.Popen(
                [sys.executable, str(self.path), *args],
                cwd=self.directory,
                env=environment({"PYTHONPATH": f"{self.directory}:{LIBRARY}", **env}),
                stdin=given,
                stdout=stdout,
                stderr=complaints,
                start_new_session=True,  # as servo-agg does, and away from the terminal of these tests
            )
        with process:
            try:
                yield Running(process, stderr)
            finally:
                process.kill()

    def run(self, *args: str, data: Any = b"", **env: Any) -> Done:
        with self.start(*args, data=data, **env) as running:
            return running.finish()

    def adjust(self, data: Any = INPUT, **env: str) -> Done:
        return self.run("app", data=data, **env)

    def complaints(self) -> str:
        """Return what it has printed on stderr."""
        return (self.directory / "stderr").read_text(encoding="utf-8")


# What may run it


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_it_parses_on_python_3_6(source: Path) -> None:
    ast.parse(source.read_text(encoding="utf-8"), feature_version=(3, 6))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_no_annotation_is_evaluated_that_python_3_6_could_not_evaluate(source: Path) -> None:
    tree = ast.parse(source.read_text(encoding="utf-8"))
    evaluated: list[ast.expr | None] = [
        node.annotation for node in tree.body if isinstance(node, ast.AnnAssign)
    ]
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            every = [*node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
            evaluated += [argument.annotation for argument in every if argument is not None]
            evaluated.append(node.returns)
        elif isinstance(node, ast.ImportFrom):
            assert node.module != "__future__"
    too_new = [ast.unparse(each) for each in evaluated if isinstance(each, (ast.BinOp, ast.Subscript))]
    assert too_new == []


def test_a_driver_pays_for_nothing_that_it_does_not_use() -> None:
    count = "import sys; print(*sorted(sys.modules))"

    def modules(imports: str) -> set[str]:
        command = [sys.executable, "-c", f"import {imports}; {count}"]
        listed = subprocess.run(
            command, env=environment({"PYTHONPATH": str(LIBRARY)}), stdout=subprocess.PIPE, check=True
        )
        return set(listed.stdout.decode().split())

    assert modules("adjust") - modules("argparse, json, signal") == {"adjust"}


# The command line


def test_version_is_printed_as_text(tmp_path: Path) -> None:
    done = Driver(tmp_path, "").run("--version")
    assert (done.returncode, done.stdout) == (0, b"1.2\n")


@pytest.mark.parametrize(
    ("args", "supports_cancel"),
    [(("--info",), True), (("--info", "app"), False), (("app", "--info"), True)],
)
def test_info_tells_version_and_has_cancel(
    tmp_path: Path, args: tuple[str, ...], supports_cancel: bool
) -> None:
    done = Driver(tmp_path, "", supports_cancel=supports_cancel).run(*args)
    assert (done.returncode, done.lines) == (0, [{"version": "1.2", "has_cancel": supports_cancel}])


def test_info_may_be_overridden_and_is_completed(tmp_path: Path) -> None:
    done = Driver(tmp_path, "def info(self): return {'version': '9', 'more': 1}").run("--info")
    assert done.lines == [{"version": "9", "has_cancel": True, "more": 1}]


@pytest.mark.parametrize("args", [("--query", "app"), ("app", "--query"), ("--describe", "app")])
def test_query_and_describe_are_the_same(tmp_path: Path, args: tuple[str, ...]) -> None:
    driver = Driver(tmp_path, "def query(self): return {'application': {'components': {self.app_id: {}}}}")
    done = driver.run(*args)
    assert (done.returncode, done.lines) == (0, [{"application": {"components": {"app": {}}}}])


@pytest.mark.parametrize("bare", [{"components": {"web": {}}}, {}])
def test_a_query_that_returns_only_what_is_inside_is_wrapped(tmp_path: Path, bare: dict[str, Any]) -> None:
    done = Driver(tmp_path, f"def query(self): return {bare!r}").run("--query", "app")
    assert done.lines == [{"application": bare}]


@pytest.mark.parametrize(
    ("returned", "reply"),
    [
        ("None", {"status": "failed", "reason": "bad-query"}),
        ("[1]", {"status": "failed", "reason": "bad-query"}),
        (
            "{'status': 'aborted', 'message': 'no'}",
            {"status": "aborted", "reason": "unknown", "message": "no"},
        ),
        ("{'settings': {'a': {'value': {1}}}}", {"status": "failed", "error": "TypeError"}),
        ("{'settings': {'a': {'value': float('nan')}}}", {"status": "failed", "error": "ValueError"}),
    ],
)
def test_a_query_that_returns_no_settings_fails(tmp_path: Path, returned: str, reply: dict[str, Any]) -> None:
    done = Driver(tmp_path, f"def query(self): return {returned}").run("--query", "app")
    assert done.returncode == 1
    assert len(done.lines) == 1
    assert reply.items() <= done.reply.items()


@pytest.mark.parametrize("args", [(), ("--query",)])
def test_wrong_usage_exits_2_with_the_usage_on_stderr(tmp_path: Path, args: tuple[str, ...]) -> None:
    done = Driver(tmp_path, "").run(*args)
    assert (done.returncode, done.stdout) == (2, b"")
    assert "usage:" in done.stderr


def test_a_driver_without_query_and_adjust_says_so(tmp_path: Path) -> None:
    driver = Driver(tmp_path, "")
    for done in (driver.run("--query", "app"), driver.adjust()):
        assert done.returncode == 1
        assert done.reply["status"] == "failed"
        assert "this driver cannot" in done.reply["message"]


def test_a_driver_may_bring_an_option_of_a_name_that_is_ours(tmp_path: Path) -> None:
    driver = Driver(
        tmp_path,
        """
        def __init__(self, *args):
            super().__init__(*args)
            self.parser.add_argument("--describe", help="its own")
        def query(self):
            return {"settings": {}, "describe": self.args.describe}
        """,
    )
    assert driver.run("--query", "app", "--describe", "x").reply["application"]["describe"] == "x"


# Adjust


def test_adjust_gets_the_input_and_its_result_is_merged(tmp_path: Path) -> None:
    driver = Driver(
        tmp_path,
        """
        def adjust(self, data):
            assert data is self.input_data
            return {"got": data, "app": self.app_id}
        """,
    )
    done = driver.adjust()
    assert (done.returncode, done.lines) == (0, [{"status": "ok", "got": INPUT, "app": "app"}])


@pytest.mark.parametrize("returned", ["None", "True", "'done'"])
def test_a_result_that_is_no_dict_is_disregarded(tmp_path: Path, returned: str) -> None:
    done = Driver(tmp_path, f"def adjust(self, data): return {returned}").adjust()
    assert (done.returncode, done.lines) == (0, [{"status": "ok"}])


def test_a_status_that_adjust_returns_stands(tmp_path: Path) -> None:
    done = Driver(tmp_path, "def adjust(self, data): return {'status': 'rejected'}").adjust()
    assert (done.returncode, done.lines) == (1, [{"status": "rejected"}])


@pytest.mark.parametrize(
    "definition",
    [
        "def adjust(self): return {'got': self.input_data}",
        "def adjust(self, data): return {'got': data}",
        "def adjust(self, data=None): return {'got': data}",
        "def adjust(self, *args): return {'got': args[0]}",
        "adjust = staticmethod(lambda data: {'got': data})",
        "adjust = classmethod(lambda cls, data: {'got': data})",
        """
        def without_argument(self): pass
        wraps = __import__("functools").wraps(without_argument)
        @wraps
        def adjust(self, *args): return {"got": self.input_data, "args": args}
        """,
    ],
)
def test_adjust_is_called_with_the_input_if_it_takes_any(tmp_path: Path, definition: str) -> None:
    done = Driver(tmp_path, definition).adjust()
    assert done.reply.pop("args", []) == []
    assert done.reply["got"] == INPUT


def test_a_driver_of_old_runs_unchanged(tmp_path: Path) -> None:
    """No argument, an own option, a heartbeat, names that are ours too, warnings, no call of ours but run."""
    driver = Driver(
        tmp_path,
        """
        def __init__(self, *args, **kwargs):
            Adjust.__init__(self, *args, **kwargs)
            self._process = self._fail = self._run = self._answer = "its own"
            self.parser.add_argument("--dry-run", action="store_true", default=False)

        def query(self):
            self.print_json_error("Warning", "warning", "using the default")
            return {"components": {"web": {"settings": {}}}}

        def adjust(self):
            settings = self.input_data["application"]["components"]["web"]["settings"]
            self.debug("setting cpu to", settings["cpu"]["value"])
            self.progress_message = "waiting"
            self.progress = 25
            Path("waiting").touch()
            while not Path("go").exists():
                time.sleep(0.005)
            self.progress = 50
            self.print_progress(message="half", msg_index=3, stage="second", stageprogress=10)
            return {"dry": self.args.dry_run}
        """,
        supports_cancel=False,
        progress_interval=0.02,
    )
    assert driver.run("app", "--query").lines == [
        {"status": "failed", "error": "Warning", "class": "warning", "message": "using the default"},
        {"application": {"components": {"web": {"settings": {}}}}},
    ]
    with driver.start("app", "--dry-run", data=INPUT) as running:
        beats = [running.wait_for_line() for _ in range(3)]
        wait_until((tmp_path / "waiting").exists, DEADLINE, "the driver waits")
        while running.wait_for_line() != {"progress": 25, "message": "waiting"}:
            pass
        (tmp_path / "go").touch()
        done = running.finish()
    assert all("progress" in beat for beat in beats)
    assert {"progress": 25, "message": "waiting"} in done.lines
    half = {"progress": 50, "message": "half", "msg_index": 3, "stage": "second", "stageprogress": 10}
    assert half in done.lines
    assert (done.returncode, done.reply) == (0, {"status": "ok", "dry": True})
    assert done.stderr == "setting cpu to 4\n"


@pytest.mark.parametrize(
    ("data", "told"),
    [(b"", "is empty"), (b"{", "no JSON"), (b"[1]", "no JSON object"), (b"\xff{}", "no JSON")],
)
def test_an_input_that_is_no_json_object_is_told_in_words(tmp_path: Path, data: bytes, told: str) -> None:
    done = Driver(tmp_path, "def adjust(self, data): pass").adjust(data)
    assert (done.returncode, done.reply["status"], done.reply["reason"]) == (1, "failed", "bad-input")
    assert told in done.reply["message"]


def test_input_and_output_do_not_depend_on_the_locale(tmp_path: Path) -> None:
    driver = Driver(tmp_path, "def adjust(self, data): self.debug('é'); return data")
    done = driver.adjust('{"name": "Zoë"}'.encode(), LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert (done.returncode, done.reply) == (0, {"status": "ok", "name": "Zoë"})
    assert done.stdout.isascii()


# Failures


def test_an_adjust_error_becomes_status_reason_and_message(tmp_path: Path) -> None:
    raised = "raise AdjustError('too', 'big', status='rejected', reason='out-of-range')"
    driver = Driver(tmp_path, f"def adjust(self, data): {raised}\ndef query(self): {raised}")
    for done in (driver.adjust(), driver.run("--query", "app")):
        assert done.returncode == 1
        assert done.lines == [{"status": "rejected", "reason": "out-of-range", "message": "too big"}]
        assert done.stderr == ""


def test_status_and_reason_of_an_adjust_error_have_defaults(tmp_path: Path) -> None:
    own = "class Own(AdjustError):\n    def __init__(self): Exception.__init__(self, 'own')\n"
    for raised in ("AdjustError('own')", "self.Own()", "AdjustError('own', reason=None)"):
        done = Driver(tmp_path, f"{own}\ndef adjust(self, data): raise {raised}").adjust()
        assert done.lines == [{"status": "failed", "reason": "unknown", "message": "own"}]


def test_another_exception_is_told_with_its_name_and_its_traceback(tmp_path: Path) -> None:
    done = Driver(tmp_path, "def adjust(self, data): return data['nothing']").adjust()
    assert done.returncode == 1
    assert done.lines == [
        {"status": "failed", "error": "KeyError", "class": "failure", "message": "'nothing'"}
    ]
    assert "Traceback" in done.stderr
    assert "return data['nothing']" in done.stderr


def test_a_driver_may_exit_as_it_likes(tmp_path: Path) -> None:
    done = Driver(tmp_path, "def adjust(self, data): sys.exit(3)").adjust()
    assert (done.returncode, done.stdout) == (3, b"")


def test_nothing_is_printed_after_the_final_line(tmp_path: Path) -> None:
    driver = Driver(
        tmp_path,
        """
        said = 0
        def adjust(self, data):
            def chatter():
                for self.said in range(100):
                    self.print_progress("still here")
                    time.sleep(0.001)
            self.chatterer = threading.Thread(target=chatter)
            self.chatterer.start()
            while self.said < 5:
                time.sleep(0.001)
            raise AdjustError("no") if data["fail"] else SystemError("no")
        """,
        progress_interval=0.001,
    )
    for fail in (True, False):
        done = driver.adjust({"fail": fail})
        assert done.reply["message"] == "no"
        assert len(done.lines) > 3
        assert all("progress" in line for line in done.lines[:-1])


def test_a_driver_whose_reader_is_gone_exits_1_and_does_not_hang(tmp_path: Path) -> None:
    driver = Driver(
        tmp_path,
        """
        def adjust(self, data):
            while not Path("closed").exists() or "progress" in [each.name for each in threading.enumerate()]:
                time.sleep(0.005)
            raise AdjustError("the reason")
        """,
        progress_interval=0.01,
    )
    with driver.start("app", data=INPUT) as running:
        running.wait_for_line()
        running.pipe.close()
        (tmp_path / "closed").touch()
        assert running.process.wait(DEADLINE) == 1
    said = driver.complaints()
    assert "the reason" in said
    assert "Traceback" not in said


# Progress and output


@pytest.mark.parametrize("progress", ["float('nan')", "float('-inf')"])
def test_a_progress_line_is_json_whatever_the_driver_computes(tmp_path: Path, progress: str) -> None:
    driver = Driver(tmp_path, f"def adjust(self, data): self.progress = {progress}; self.print_progress('x')")
    assert driver.adjust().lines[0] == {"progress": 0, "message": "x"}


def test_a_heartbeat_goes_on_after_a_mistake_in_an_overridden_print_progress(tmp_path: Path) -> None:
    driver = Driver(
        tmp_path,
        """
        beats = 0
        def print_progress(self, *args, **kwargs):
            self.beats += 1
            if self.beats == 1:
                raise ZeroDivisionError("the mistake")
            super().print_progress(*args, **kwargs)
        def adjust(self, data):
            while self.beats < 3:
                time.sleep(0.005)
        """,
        progress_interval=0.01,
    )
    done = driver.adjust()
    assert "the mistake" in done.stderr
    assert done.lines[0] == {"progress": 0}
    assert done.reply == {"status": "ok"}


def test_each_line_is_one_write(tmp_path: Path) -> None:
    driver = Driver(
        tmp_path,
        """
        def adjust(self, data):
            for size in (1, 5000, 100000):
                self.print_progress("x" * size)
            self.print_json_error("e", "c", "m" * 9000)
            return {"last": "y" * 9000}
        """,
    )
    # On a socket of this kind what arrives is what was written, write by write.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        ours.settimeout(DEADLINE)
        with driver.start("app", data=INPUT, stdout=theirs.fileno()):
            theirs.close()
            writes = list(iter(lambda: ours.recv(1 << 20), b""))
    assert [len(json.loads(data)) for data in writes] == [2, 2, 2, 4, 2]
    assert all(data.endswith(b"\n") and data.count(b"\n") == 1 for data in writes)


def test_threads_and_plain_prints_do_not_interleave(tmp_path: Path) -> None:
    driver = Driver(
        tmp_path,
        """
        def adjust(self, data):
            def talk(number):
                for index in range(150):
                    self.print_progress(str(number) * (6000 if index % 3 else 10), msg_index=index)
                    self.debug("d" * 6000)
            threads = [threading.Thread(target=talk, args=(number,)) for number in range(6)]
            print('{"by": "print"}')
            for thread in threads: thread.start()
            for thread in threads: thread.join()
        """,
        progress_interval=0.001,
    )
    done = driver.adjust()
    kinds = ["by" if "by" in line else "msg" for line in done.lines if {"by", "msg_index"} & set(line)]
    assert kinds.index("by") == 0
    spoken = [line for line in done.lines if "msg_index" in line]
    assert len(spoken) == 900
    assert all(len(set(line["message"])) == 1 for line in spoken)
    assert set(done.stderr.splitlines()) == {"d" * 6000}


# Signals

WAITS_WITH_FINALLY = """
        def adjust(self, data):
            try:
                try:
                    self.print_progress("waiting")
                    idle()
                except Exception:
                    Path("swallowed").touch()
            finally:
                self.print_progress("cleaning up")
                while not Path("clean").exists():
                    time.sleep(0.005)
                Path("cleaned").touch()
"""


@pytest.mark.parametrize(
    ("number", "status", "code"),
    [
        (signal.SIGTERM, "aborted", 128 + signal.SIGTERM),
        (signal.SIGINT, "aborted", 128 + signal.SIGINT),
        (signal.SIGUSR1, "canceled", 1),
    ],
)
def test_a_signal_runs_finally_clauses_and_is_told_at_the_end(
    tmp_path: Path, number: signal.Signals, status: str, code: int
) -> None:
    with Driver(tmp_path, WAITS_WITH_FINALLY).start("app", data=INPUT) as running:
        running.wait_for_line()
        running.process.send_signal(number)
        assert running.wait_for_line()["message"] == "cleaning up"
        # Those that come now must not cut the clean-up short.
        for again in (signal.SIGTERM, signal.SIGUSR1, signal.SIGTERM):
            running.process.send_signal(again)
        (tmp_path / "clean").touch()
        done = running.finish()
    assert done.returncode == code
    assert (done.reply["status"], done.reply["reason"]) == (status, number.name)
    assert (tmp_path / "cleaned").exists()
    assert not (tmp_path / "swallowed").exists()
    assert "Traceback" not in done.stderr


def test_sigterm_during_a_query_runs_finally_clauses_too(tmp_path: Path) -> None:
    driver = Driver(
        tmp_path,
        """
        def query(self):
            try:
                Path("started").touch()
                idle()
            finally:
                Path("cleaned").touch()
        """,
    )
    with driver.start("--query", "app") as running:
        wait_until((tmp_path / "started").exists, DEADLINE, "start of the query")
        running.process.send_signal(signal.SIGTERM)
        done = running.finish()
    assert (done.returncode, done.reply["status"]) == (143, "aborted")
    assert (tmp_path / "cleaned").exists()


def test_sigusr1_calls_handle_cancel_each_time(tmp_path: Path) -> None:
    driver = Driver(
        tmp_path,
        """
        canceled = 0
        def handle_cancel(self, signal, frame):
            self.canceled += 1
            self.print_progress("cancel %d by %d" % (self.canceled, signal))
        def adjust(self, data):
            self.print_progress("waiting")
            while self.canceled < 2:
                time.sleep(0.005)
            raise AdjustError("given up", status="aborted", reason="canceled")
        """,
    )
    with driver.start("app", data=INPUT) as running:
        running.wait_for_line()
        for count in (1, 2):
            running.process.send_signal(signal.SIGUSR1)
            expected = f"cancel {count} by {int(signal.SIGUSR1)}"
            assert running.wait_for_line()["message"] == expected
        done = running.finish()
    assert done.returncode == 1
    assert done.reply == {"status": "aborted", "reason": "canceled", "message": "given up"}


def test_a_cancel_does_not_cut_short_what_sigterm_has_begun(tmp_path: Path) -> None:
    override = """
        def handle_cancel(self, signal, frame):
            raise AdjustError("canceled")
    """
    with Driver(tmp_path, WAITS_WITH_FINALLY + override).start("app", data=INPUT) as running:
        running.wait_for_line()
        running.process.send_signal(signal.SIGTERM)
        running.wait_for_line()
        running.process.send_signal(signal.SIGUSR1)
        (tmp_path / "clean").touch()
        assert running.finish().reply["status"] == "aborted"
    assert (tmp_path / "cleaned").exists()


def test_without_cancel_sigusr1_is_left_alone(tmp_path: Path) -> None:
    with Driver(tmp_path, WAITS_WITH_FINALLY, supports_cancel=False).start("app", data=INPUT) as running:
        running.wait_for_line()
        running.process.send_signal(signal.SIGUSR1)
        assert running.finish().returncode == -signal.SIGUSR1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("when", ["before run", "in adjust"])
def test_a_handler_that_the_driver_sets_stays(tmp_path: Path, number: signal.Signals, when: str) -> None:
    driver = Driver(
        tmp_path,
        f"""
        got = None
        def handle(self, number, frame):
            self.got = number
        def __init__(self, *args):
            super().__init__(*args)
            if {when!r} == "before run":
                signal.signal({int(number)}, self.handle)
        def adjust(self, data):
            if {when!r} == "in adjust":
                signal.signal({int(number)}, self.handle)
            self.print_progress("waiting")
            while self.got is None:
                time.sleep(0.005)
            return {{"got": self.got}}
        """,
    )
    with driver.start("app", data=INPUT) as running:
        running.wait_for_line()
        running.process.send_signal(number)
        done = running.finish()
    assert (done.returncode, done.reply) == (0, {"status": "ok", "got": int(number)})


def test_a_signal_after_the_change_does_not_turn_success_into_failure(tmp_path: Path) -> None:
    driver = Driver(
        tmp_path,
        """
        def adjust(self, data):
            class Result(dict):
                def __iter__(self):
                    return super().__iter__()
                def keys(self):
                    os.kill(os.getpid(), signal.SIGTERM)
                    os.kill(os.getpid(), signal.SIGUSR1)
                    print("signals sent", file=sys.stderr)
                    return super().keys()
            return Result(state="new")
        """,
    )
    done = driver.adjust()
    assert (done.returncode, done.lines) == (0, [{"status": "ok", "state": "new"}])
    assert done.stderr == "signals sent\n"


def test_a_driver_may_run_in_a_thread_that_is_not_the_main_one(tmp_path: Path) -> None:
    """No signal can be handled there: that is then the driver's affair."""
    driver = Driver(tmp_path, "def adjust(self, data): return {'got': data['control']}")
    text = driver.path.read_text(encoding="utf-8")
    begin, run = text[: text.rindex("Driver(")], text[text.rindex("Driver(") :].strip()
    driver.path.write_text(
        f"{begin}thread = threading.Thread(target=lambda: {run})\n    thread.start()\n    thread.join()\n",
        encoding="utf-8",
    )
    done = driver.adjust()
    assert (done.lines, done.stderr) == ([{"status": "ok", "got": {}}], "")


def test_a_driver_may_put_another_stream_in_the_place_of_stdout(tmp_path: Path) -> None:
    driver = Driver(
        tmp_path,
        """
        def adjust(self, data):
            import io
            from adjust import print_json_error
            kept, sys.stdout = sys.stdout, io.StringIO()
            print_json_error("E", "c", "a warning")
            told, sys.stdout = sys.stdout.getvalue(), None
            self.print_progress("nobody hears this")
            sys.stdout = kept
            return {"told": json.loads(told)}
        """,
    )
    told = {"status": "failed", "error": "E", "class": "c", "message": "a warning"}
    assert driver.adjust().lines == [{"status": "ok", "told": told}]


def test_what_a_driver_does_after_run_can_be_stopped(tmp_path: Path) -> None:
    driver = Driver(tmp_path, "def adjust(self, data): pass")
    with driver.path.open("a", encoding="utf-8") as script:
        script.write("    Path('after').touch()\n    idle()\n")
    with driver.start("app", data=INPUT) as running:
        wait_until((tmp_path / "after").exists, DEADLINE, "the return of run()")
        running.process.send_signal(signal.SIGTERM)
        assert running.finish().returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_a_forked_child_is_none_of_our_affair(tmp_path: Path, number: signal.Signals) -> None:
    driver = Driver(
        tmp_path,
        f"""
        def adjust(self, data):
            ready, tell = os.pipe()
            child = os.fork()
            if not child:
                os.write(tell, b"x")
                idle()
            os.read(ready, 1)
            os.kill(child, {int(number)})
            return {{"child": os.WTERMSIG(os.waitpid(child, 0)[1])}}
        """,
    )
    assert driver.adjust().lines == [{"status": "ok", "child": int(number)}]


def test_a_driver_that_nobody_reads_can_be_stopped(tmp_path: Path) -> None:
    driver = Driver(
        tmp_path,
        """
        def adjust(self, data):
            try:
                while True:
                    self.print_progress("x" * 1000)
            finally:
                Path("cleaned").touch()
        """,
    )
    with driver.start("app", data=INPUT) as running:
        running.wait_for_line()
        _wait_until_blocked(running)
        running.process.send_signal(signal.SIGTERM)
        wait_until((tmp_path / "cleaned").exists, DEADLINE, "end of the clean-up")
        done = running.finish()
    assert (done.returncode, done.reply["status"]) == (143, "aborted")
    assert all(line["message"] == "x" * 1000 for line in done.lines[:-1])


def test_a_signal_amid_a_long_line_leaves_the_line_whole(tmp_path: Path) -> None:
    with Driver(tmp_path, "def adjust(self, data): self.print_progress('x' * 1000000)").start(
        "app", data=INPUT
    ) as running:
        _wait_until_blocked(running)
        running.process.send_signal(signal.SIGTERM)
        done = running.finish()
    assert len(done.lines[0]["message"]) == 1000000
    assert done.reply["status"] == "aborted"


def test_a_handler_may_print_while_a_line_is_being_printed(tmp_path: Path) -> None:
    driver = Driver(
        tmp_path,
        """
        canceled = 0
        def handle_cancel(self, signal, frame):
            self.canceled += 1
            self.print_progress("canceled" * 1000, msg_index=self.canceled)
        def adjust(self, data):
            while self.canceled < 20:
                self.print_progress("line" * 10)
                self.print_progress("line" * 2000)
        """,
    )
    with driver.start("app", data=INPUT) as running:
        running.wait_for_line()
        index = 0
        while index < 20:
            running.process.send_signal(signal.SIGUSR1)
            message: dict[str, Any] = {}
            while message.get("msg_index", 0) <= index:
                message = running.wait_for_line()
            index = message["msg_index"]
        done = running.finish()
    assert done.reply == {"status": "ok"}
    assert {len(line["message"]) for line in done.lines[:-1]} == {40, 8000}


def _wait_until_blocked(running: Running) -> None:
    """Wait until the driver waits for a reader of its stdout."""
    state = Path(f"/proc/{running.process.pid}/stat")
    pipe = running.pipe.fileno()

    def blocked() -> bool:
        unread = int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)
        return unread > 32768 and state.read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "S"

    wait_until(blocked, DEADLINE, "a driver that waits for its reader")


# What a driver may call


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


def test_a_command_does_not_get_our_input(tmp_path: Path) -> None:
    driver = Driver(tmp_path, "def query(self): return {'settings': {}, 'read': self._run_command('cat')}")
    assert driver.run("--query", "app", data=b"input").reply["application"]["read"] == ""


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ("'echo why >&2; exit 3'", ["pre-command", "exited with status 3", "why"]),
        ("'kill -9 $$', pre=False", ["post-command", "was killed by SIGKILL"]),
        ("'kill -40 $$'", ["pre-command", "was killed by signal 40"]),
        ("['./nothing'], False", ["post-command", "cannot be started", "No such file"]),
    ],
)
def test_a_command_that_fails_fails_the_adjust(tmp_path: Path, call: str, told: list[str]) -> None:
    done = Driver(tmp_path, f"def adjust(self, data): self._run_command({call})").adjust()
    assert (done.returncode, done.reply["status"], done.reply["reason"]) == (1, "failed", "command-failed")
    assert all(part in done.reply["message"] for part in told)


def test_a_service_that_a_command_starts_is_not_waited_for(tmp_path: Path) -> None:
    driver = Driver(tmp_path, "def adjust(self, data): self._run_command('sleep 30 & echo $! > pid')")
    try:
        assert driver.adjust().lines == [{"status": "ok"}]
        assert alive(_pid(tmp_path))
    finally:
        os.kill(_pid(tmp_path), signal.SIGKILL)


@pytest.mark.parametrize("has_bash", [True, False])
def test_a_text_is_run_by_bash_or_by_sh_where_there_is_no_bash(tmp_path: Path, has_bash: bool) -> None:
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
                return {{"printed": len(printed), "told": str(error)}}
        """,
    )
    reply = driver.adjust().reply
    assert reply["printed"] == 1000000
    assert reply["told"].endswith("xxxwhy")
    assert len(reply["told"]) < 5000


@pytest.mark.parametrize("lack", ["pass", NO_MEMORY_FILES], ids=["memory", "pipes"])
def test_a_service_of_a_command_is_neither_waited_for_nor_ended(tmp_path: Path, lack: str) -> None:
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
        assert alive(_pid(tmp_path))
    finally:
        os.kill(_pid(tmp_path), signal.SIGKILL)


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
    """Run a driver that runs a command; the block begins when all of that runs."""
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
def test_a_driver_that_is_stopped_amid_a_command_ends_it_before_it_answers(
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


def test_a_command_can_clean_up_when_it_is_ended(tmp_path: Path) -> None:
    clean = "sleep 0.3; echo clean >clean; exit"
    command = f"""\"trap '{clean}' TERM; echo $$ >>pids; touch ready; while :; do sleep 0.01; done\""""
    with command_in_progress(tmp_path, command) as running:
        running.process.send_signal(signal.SIGUSR1)
        assert running.wait_for_line()["status"] == "canceled"
        assert (tmp_path / "clean").exists()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
@pytest.mark.parametrize("ending", ["cancel", "handle_cancel raises"])
def test_a_second_signal_does_not_break_off_the_end_of_a_command(
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


def test_signals_that_come_at_once_do_not_break_off_the_end_of_a_command(tmp_path: Path) -> None:
    methods = ENDINGS["handle_cancel raises"][1]
    with command_in_progress(tmp_path, COMMANDS["deaf"], methods) as running:
        # Stopped, it gets all of them together.
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


def test_a_service_that_has_left_the_session_outlives_the_end_of_its_command(tmp_path: Path) -> None:
    command = (
        "'setsid ./deep 0 & while [ ! -e ready ]; do sleep 0.01; done; echo $$ >>pids; touch run; sleep 30'"
    )
    with command_in_progress(tmp_path, command) as running:
        wait_until((tmp_path / "run").exists, DEADLINE, "start of the command")
        running.process.send_signal(signal.SIGUSR1)
        assert running.finish().reply["status"] == "canceled"
        assert [alive(pid) for pid in pids(tmp_path)] == [True, False]


def test_a_command_is_in_the_session_of_its_driver(tmp_path: Path) -> None:
    """So whoever ends all of the driver's session ends the command, too."""
    with command_in_progress(tmp_path, COMMANDS["one"]) as running:
        (pid,) = pids(tmp_path)
        assert os.getsid(pid) == os.getsid(running.process.pid)
        assert os.getpgid(pid) == pid
        running.process.send_signal(signal.SIGTERM)
        running.finish()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_in_the_foreground_of_a_terminal_a_command_gets_what_is_typed(
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
        with contextlib.suppress(OSError):  # so Linux says that nobody has it open any more
            while select.select([terminal], [], [], DEADLINE)[0]:
                output += os.read(terminal, 65536)
        assert (b'"aborted"' if number == signal.SIGINT else b'"canceled"') in output
        assert [each for each in pids(tmp_path) if alive(each)] == []
        assert (tmp_path / "typed").exists() == (number == signal.SIGINT)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def test_settings_without_an_encoder_stand_for_themselves(tmp_path: Path) -> None:
    driver = Driver(
        tmp_path,
        """
        def adjust(self, data):
            config = {"type": "range", "min": 1, "max": 8, "variable": "CPU"}
            settings = self.requested_settings()
            return {"settings": settings, "same": settings == self.requested_settings(data),
                    "value": self.encode_value_if_needed("cpu", config, settings["web"]),
                    "absent": self.encode_value_if_needed("mem", None, settings["web"]),
                    "described": self.encode_describe_if_needed("cpu", config, 2)}
        """,
    )
    components = {"web": {"settings": {"cpu": {"value": 4}, "mem": None}}, "db": {"settings": {}}, "x": None}
    assert driver.adjust({"application": {"components": components}}).reply == {
        "status": "ok",
        "settings": {"web": {"cpu": {"value": 4}}},
        "same": True,
        "value": 4,
        "absent": None,
        "described": {"cpu": {"type": "range", "min": 1, "max": 8, "value": 2}},
    }


USES_ENCODER = """
        config = {"encoder": {"name": "jvm"}}
        def query(self):
            return {"settings": self.encode_describe_if_needed("opts", self.config, "-Xmx4g")}
        def adjust(self, data):
            settings = self.requested_settings()["web"]
            return {"value": self.encode_value_if_needed("opts", self.config, settings, str)}
"""


def test_settings_with_an_encoder_go_through_the_servo_directory_s_own(tmp_path: Path) -> None:
    (tmp_path / "encoders").mkdir()
    (tmp_path / "encoders" / "base.py").write_text(
        "def encode(config, settings, expected_type=None):\n"
        "    return expected_type(settings['cpu']['value']) + config['name'], {'cpu'}\n"
        "def describe(config, value):\n"
        "    return {'heap': {'value': int(value[4:-1])}, 'gc': {'value': config['name']}}\n",
        encoding="utf-8",
    )
    driver = Driver(tmp_path, USES_ENCODER)
    assert driver.adjust().reply == {"status": "ok", "value": "4jvm"}
    described = {"heap": {"value": 4}, "gc": {"value": "jvm"}}
    assert driver.run("--query", "app").reply == {"application": {"settings": described}}


def write_encoders(directory: Path, base: str) -> None:
    (directory / "encoders").mkdir()
    (directory / "encoders" / "base.py").write_text(textwrap.dedent(base), encoding="utf-8")


OWN_EXCEPTION = """
class EncoderException(BaseException): pass
class EncoderConfigException(EncoderException): pass
def encode(*args, **kw): raise EncoderConfigException("bad")
describe = encode
"""


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        (None, "no-encoder"),
        ("def encode(*args, **kw): raise ValueError('bad')\ndescribe = encode\n", "encoder-failed"),
        (OWN_EXCEPTION, "encoder-failed"),
        (OWN_EXCEPTION + "encode()", "encoder-failed"),
    ],
    ids=["missing", "fails", "its own exception", "its own exception when it is imported"],
)
def test_an_encoder_that_is_missing_or_fails_is_told_in_words(
    tmp_path: Path, base: str | None, reason: str
) -> None:
    if base is not None:
        write_encoders(tmp_path, base)
    names = "def info(self): return {'names': self.get_oco_settings({'opts': self.config})}"
    driver = Driver(tmp_path, textwrap.dedent(USES_ENCODER) + names)
    for done in (driver.adjust(), driver.run("--query", "app"), driver.run("--info")):
        assert (done.returncode, done.reply["status"]) == (1, "failed")
        assert done.reply["reason"] == reason
        assert "setting opts" in done.reply["message"]
        assert done.stderr == ""


@pytest.mark.parametrize(
    ("raised", "reply"),
    [
        ("SystemExit(3)", None),
        ("KeyboardInterrupt", {"status": "aborted", "reason": "SIGINT"}),
        ("os.kill(os.getpid(), signal.SIGTERM)", {"status": "aborted", "reason": "SIGTERM"}),
        ("os.kill(os.getpid(), signal.SIGUSR1)", {"status": "canceled", "reason": "SIGUSR1"}),
    ],
)
def test_a_signal_amid_an_encoder_is_no_failure_of_the_encoder(
    tmp_path: Path, raised: str, reply: dict[str, Any] | None
) -> None:
    act = raised if "kill" in raised else f"raise {raised}"
    write_encoders(tmp_path, f"import os, signal\ndef encode(*args, **kw): {act}; return 1, set()\n")
    done = Driver(tmp_path, USES_ENCODER).adjust()
    assert (done.lines or [{}])[-1].items() >= (reply or {}).items()
    assert done.stdout or reply is None


def test_an_exception_of_an_encoder_that_the_driver_calls_itself_is_told(tmp_path: Path) -> None:
    write_encoders(tmp_path, OWN_EXCEPTION)
    methods = "def adjust(self, data): import encoders.base; encoders.base.encode()"
    done = Driver(tmp_path, methods).adjust()
    told = {"status": "failed", "error": "EncoderConfigException", "class": "failure", "message": "bad"}
    assert (done.returncode, done.lines) == (1, [told])


# What the older library has


JVM = {
    "encoder": {"name": "jvm", "settings": {"MaxHeapSize": {"min": 1, "max": 4, "step": 1}}},
    "default": "-Xmx2g",
}
ENCODERS = """
class EncoderException(BaseException): pass
def describe(config, value):
    if not value:
        raise EncoderException("no value to decode")
    return {"Described": {"value": value}}
"""


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"settings": {"JAVA_OPTS": JVM, "cpu": {"min": 1}}}, ["Described", "cpu"]),
        ({"settings": {"opts": {"encoder": JVM["encoder"]}, "cpu": {}}}, ["MaxHeapSize", "cpu"]),
        (
            {
                "components": {
                    "a": {"settings": {"cpu": {}, "mem": None}},
                    "b": {"settings": {"cpu": {}}},
                    "c": None,
                }
            },
            ["cpu", "mem"],
        ),
        ({"settings": {"mem": {}}, "components": {"a": {"settings": {"cpu": {}}}}}, ["mem", "cpu"]),
        ({"mem": {"min": 1}, "cpu": {}}, ["mem", "cpu"]),
        ({"name": "x", "settings": None}, []),
        ({}, []),
        (None, []),
    ],
)
def test_get_oco_settings_gives_the_names_that_a_configuration_defines(
    tmp_path: Path, config: Any, names: list[str]
) -> None:
    write_encoders(tmp_path, ENCODERS)
    driver = Driver(
        tmp_path, f"def adjust(self, data): return {{'names': self.get_oco_settings({config!r})}}"
    )
    assert driver.adjust().reply == {"status": "ok", "names": names}


@pytest.mark.parametrize("config", ["cpu", ["cpu"], {"settings": ["cpu"]}, {"components": {"a": 1}}])
def test_a_configuration_of_another_shape_is_refused(tmp_path: Path, config: Any) -> None:
    driver = Driver(
        tmp_path, f"def adjust(self, data): return {{'names': self.get_oco_settings({config!r})}}"
    )
    reply = driver.adjust().reply
    assert (reply["status"], reply["reason"]) == ("failed", "bad-configuration")
    assert "must be a mapping" in reply["message"]


@pytest.mark.parametrize(
    ("init", "args", "found"),
    [
        ("early = self.args.app_id, self.app_id", ("app", "--dry"), [["app", "app"], True, "app"]),
        ("early = None; self.args = self.parser.parse_args(['x'])", ("app",), [None, None, "x"]),
        ("early = None; self.app_id = 'mine'", ("app", "--dry"), [None, True, "mine"]),
        ("early = self.args; early.dry = 'changed'", ("app", "--dry"), [None, "changed", "app"]),
        ("early = self.args; early.extra = 1", ("app", "--dry"), [None, True, "app"]),
    ],
)
def test_the_command_line_is_known_before_run_and_arguments_can_still_be_added(
    tmp_path: Path, init: str, args: tuple[str, ...], found: list[Any]
) -> None:
    driver = Driver(
        tmp_path,
        f"""
        def __init__(self, *args):
            super().__init__(*args)
            {init}
            self.early = early
            self.parser.add_argument("--dry", action="store_true")
        def adjust(self, data):
            kept = isinstance(self.early, (tuple, type(None)))
            assert kept or self.early is self.args
            early = self.early if kept else None
            return {{"found": [early, getattr(self.args, "dry", None), self.app_id]}}
        """,
    )
    assert driver.run(*args, data=INPUT).reply["found"] == found


def test_an_argument_that_nobody_adds_is_a_usage_error_though_args_was_used_before(tmp_path: Path) -> None:
    done = Driver(tmp_path, "def __init__(self, *args): super().__init__(*args); self.args").run(
        "app", "--dry"
    )
    assert (done.returncode, done.stdout) == (2, b"")


def test_an_attribute_of_the_class_does_not_hide_the_command_line(tmp_path: Path) -> None:
    methods = "args = app_id = None\ndef adjust(self, data): return {'app': [self.args.app_id, self.app_id]}"
    assert Driver(tmp_path, methods).adjust().reply["app"] == ["app", "app"]


@dataclass(frozen=True)
class Row:
    """A driver that uses one name of the older library, and what it must print."""

    methods: str
    lines: list[dict[str, Any]]
    args: tuple[str, ...] = ("app",)
    returncode: int = 0
    interval: float | None = None


OK = {"status": "ok"}

WAITS_FOR_PROGRESS = """
    beats = 0
    def print_progress(self, *args, **kwargs):
        self.beats += 1
    def wait_for_beats(self, number):
        end = self.beats + number
        while self.beats < end:
            time.sleep(0.001)
"""

OLDER_LIBRARY = {
    "Adjust": Row(
        "def adjust(self): return {'got': [self.version, self.cli_desc, self.supports_cancel]}",
        [{**OK, "got": ["1.2", "a driver of the tests", True]}],
    ),
    "run": Row("def run(self): print('{}', flush=True); Adjust.run(self)\ndef adjust(self): pass", [{}, OK]),
    "parser": Row(
        """
    def __init__(self, *args):
        Adjust.__init__(self, *args)
        self.parser.add_argument("--config", default="here")
    def adjust(self): return {"config": self.args.config}
    """,
        [{**OK, "config": "there"}],
        ("--config", "there", "app"),
    ),
    "args": Row(
        """
    def __init__(self, *args):
        Adjust.__init__(self, *args)
        self.early = self.args.app_id
    def adjust(self): return {"early": self.early}
    """,
        [{**OK, "early": "app"}],
    ),
    "app_id": Row(
        """
    def __init__(self, *args):
        Adjust.__init__(self, *args)
        self.early = self.app_id
    def adjust(self): return {"early": self.early}
    """,
        [{**OK, "early": "app"}],
    ),
    "input_data": Row("def adjust(self): return {'got': self.input_data}", [{**OK, "got": INPUT}]),
    "progress": Row("def adjust(self): self.progress = 30; self.print_progress()", [{"progress": 30}, OK]),
    "progress_message": Row(
        "def adjust(self): self.progress_message = 'now'; self.print_progress()",
        [{"progress": 0, "message": "now"}, OK],
    ),
    "print_progress": Row(
        "def adjust(self): self.print_progress('half', 2, 'restart', 50)",
        [{"progress": 0, "message": "half", "msg_index": 2, "stage": "restart", "stageprogress": 50}, OK],
    ),
    "timer": Row(
        WAITS_FOR_PROGRESS
        + """
    def adjust(self):
        self.wait_for_beats(3)
        self.timer.cancel()
        self.timer.join()
    """,
        [OK],
        interval=0.01,
    ),
    "start_progress_timer": Row(
        WAITS_FOR_PROGRESS
        + """
    def adjust(self):
        self.start_progress_timer()
        none = self.timer is None
        self.progress_interval = 0.01
        self.start_progress_timer()
        self.start_progress_timer()
        self.wait_for_beats(3)
        assert threading.active_count() == 2, threading.enumerate()
        return {"none": none}
    """,
        [{**OK, "none": True}],
    ),
    "stop_progress_timer": Row(
        WAITS_FOR_PROGRESS
        + """
    def adjust(self):
        self.wait_for_beats(1)
        timer = self.timer
        self.stop_progress_timer()
        self.stop_progress_timer()
        timer.join()
        none = self.timer is None
        self.start_progress_timer()
        self.wait_for_beats(1)
        return {"none": none}
    """,
        [{**OK, "none": True}],
        interval=0.01,
    ),
    "query": Row(
        "def query(self): return {'components': {'web': {}}}",
        [{"application": {"components": {"web": {}}}}],
        ("--query", "app"),
    ),
    "adjust": Row("def adjust(self): return {'state': 1}", [{**OK, "state": 1}]),
    "info": Row(
        "def info(self): return {'version': self.version, 'has_cancel': self.supports_cancel, 'x': 1}",
        [{"version": "1.2", "has_cancel": True, "x": 1}],
        ("--info",),
    ),
    "handle_cancel": Row(
        """
    def handle_cancel(self, signal, frame):
        raise AdjustError("gave up", status="aborted", reason="canceled")
    def adjust(self):
        os.kill(os.getpid(), signal.SIGUSR1)
        idle()
    """,
        [{"status": "aborted", "reason": "canceled", "message": "gave up"}],
        returncode=1,
    ),
    "debug": Row("def adjust(self): self.debug('a', 1, None)", [OK]),
    "_print_json_error": Row(
        "def adjust(self): self._print_json_error('E', 'c', 'm', 'rejected', 'r'); sys.exit(3)",
        [{"status": "rejected", "error": "E", "class": "c", "message": "m", "reason": "r"}],
        returncode=3,
    ),
    "get_oco_settings": Row(
        "def adjust(self): return {'names': self.get_oco_settings({'settings': {'mem': {}, 'cpu': {}}})}",
        [{**OK, "names": ["mem", "cpu"]}],
    ),
    "encode_value_if_needed": Row(
        """
    def adjust(self):
        settings = self.input_data["application"]["components"]["web"]["settings"]
        config = {"encoder": {"name": "twice"}}
        return {"encoded": self.encode_value_if_needed("opts", config, settings, expected_type=str),
                "plain": self.encode_value_if_needed("cpu", {"min": 1}, settings)}
    """,
        [{**OK, "encoded": "8", "plain": 4}],
    ),
    "encode_describe_if_needed": Row(
        """
    def query(self):
        settings = self.encode_describe_if_needed("opts", {"encoder": {"name": "twice"}}, "8")
        settings.update(self.encode_describe_if_needed("mem", {"min": 1}, 2))
        return {"settings": settings}
    """,
        [{"application": {"settings": {"cpu": {"value": 4}, "mem": {"min": 1, "value": 2}}}}],
        ("--query", "app"),
    ),
    "EncoderException": Row(
        """
    def query(self):
        self.encode_describe_if_needed("opts", {"encoder": {}}, None)
        return self.encode_describe_if_needed("opts", {"encoder": {"name": "twice"}}, None)
    """,
        [
            {
                "status": "failed",
                "reason": "encoder-failed",
                "message": "setting opts: its encoder cannot describe None: no value",
            }
        ],
        ("--query", "app"),
        returncode=1,
    ),
    "_run_command": Row(
        "def adjust(self): return {'said': self._run_command('[[ a = a ]] && echo bash', pre=True)}",
        [{**OK, "said": "bash\n"}],
    ),
    "AdjustError": Row(
        "def adjust(self): raise AdjustError('no', status='rejected', reason='r')",
        [{"status": "rejected", "reason": "r", "message": "no"}],
        returncode=1,
    ),
    "print_json_error": Row(
        """
    def adjust(self):
        from adjust import print_json_error
        print_json_error("E", "c", "m")
        print_json_error("E", "c", "m", "aborted", "r")
        self.print_json_error("E", "c", "m")
        self.print_json_error(error="E", cl="c", message="m", status="aborted", reason="r")
    """,
        [
            {"status": "failed", "error": "E", "class": "c", "message": "m"},
            {"status": "aborted", "error": "E", "class": "c", "message": "m", "reason": "r"},
        ]
        * 2
        + [OK],
    ),
    "run_and_track": Row(
        """
    def adjust(self):
        from util import run_and_track
        bad = run_and_track("./inner", "bad", data=self.input_data)
        good = run_and_track("./inner", "good", data=self.input_data, progress_cb=lambda told: print("{}"))
        return {"children": [bad, good]}
    """,
        [
            {},
            {**OK, "children": [{"status": "failed", "reason": "bad", "message": "no"}, {"status": "ok"}]},
        ],
    ),
    "run_and_track_cancel": Row(
        """
    def adjust(self):
        from util import run_and_track, run_and_track_cancel
        return {"child": run_and_track("./inner", "waits", progress_cb=lambda told: run_and_track_cancel())}
    """,
        [{**OK, "child": {"status": "canceled", "reason": "asked", "message": "./inner answered canceled"}}],
    ),
    "run_and_track_terminate": Row(
        """
    def adjust(self):
        from util import run_and_track, run_and_track_terminate
        return {"child": run_and_track("./inner", "waits", progress_cb=lambda _: run_and_track_terminate())}
    """,
        [{**OK, "child": {"status": "failed", "reason": "terminated", "message": "./inner was terminated"}}],
    ),
    "g_args": Row(
        """
    def adjust(self):
        import util
        util.g_args.verbose = True
        return util.run_and_track("./inner", "good")
    """,
        [OK],
    ),
}
"""What docs/writing-drivers.md lists, row by row."""

OLDER_ENCODERS = """
class EncoderException(BaseException): pass
def encode(config, values, expected_type=None):
    return expected_type(values["cpu"]["value"] * 2), {"cpu"}
def describe(config, value):
    if value is None:
        raise EncoderException("no value")
    return {"cpu": {"value": int(value) // 2}}
"""

OLDER_CHILD = """#!/bin/sh
trap 'echo "{\\"status\\":\\"canceled\\",\\"reason\\":\\"asked\\"}"; exit 1' USR1
echo '{"progress":1}'
case $1 in
good) echo '{"status":"ok"}' ;;
bad) echo '{"status":"failed","reason":"bad","message":"no"}'; exit 1 ;;
waits) while :; do sleep 0.02; done ;;
esac
"""


@pytest.mark.parametrize("name", OLDER_LIBRARY)
def test_a_driver_that_uses_the_older_library_runs_unchanged(tmp_path: Path, name: str) -> None:
    row = OLDER_LIBRARY[name]
    write_encoders(tmp_path, OLDER_ENCODERS)
    (tmp_path / "inner").write_text(OLDER_CHILD, encoding="utf-8")
    (tmp_path / "inner").chmod(0o755)
    done = Driver(tmp_path, row.methods, progress_interval=row.interval).run(*row.args, data=INPUT)
    assert (done.returncode, done.lines) == (row.returncode, row.lines), done.stderr


def test_the_table_of_the_older_library_has_a_test_for_each_row() -> None:
    page = (LIBRARY.parent.parent / "docs" / "writing-drivers.md").read_text(encoding="utf-8")
    section = page.split("## Drivers for the older library\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([A-Za-z_]+)", section, re.MULTILINE)
    assert rows == list(OLDER_LIBRARY)


# util: a driver that runs a driver

OUTER = (
    PREAMBLE
    + """
import util
from util import run_and_track, run_and_track_cancel, run_and_track_terminate

def track(*args, **options):
    seen, began = [], time.monotonic()
    reply = run_and_track("./inner", *args, **dict({"progress_cb": seen.append}, **options))
    return {"status": "ok", "reply": reply, "seen": seen, "seconds": time.monotonic() - began}
"""
)

TRACKS = "def adjust(self, data): return track(self.app_id, data=data)"


def outer(tmp_path: Path, inner: str, methods: str = TRACKS) -> Driver:
    """Return a driver that may run ./inner, which is a shell script."""
    path = tmp_path / "inner"
    path.write_text("#!/bin/sh\n" + textwrap.dedent(inner), encoding="utf-8")
    path.chmod(0o755)
    return Driver(tmp_path, methods, preamble=OUTER)


def track(tmp_path: Path, inner: str, **env: str) -> dict[str, Any]:
    """Return what becomes of ./inner when it is given the input of an adjust."""
    done = outer(tmp_path, inner).adjust(**env)
    assert done.returncode == 0, done
    return done.reply


def _pid(directory: Path) -> int:
    return int((directory / "pid").read_text(encoding="utf-8"))


def test_a_child_gets_its_arguments_and_its_input_and_gives_its_reply(tmp_path: Path) -> None:
    told = track(
        tmp_path,
        """
        echo '{"progress": 10, "message": "one"}'
        echo '{"status": "failed", "message": "a warning"}'
        printf '{"progress": 20}\\r\\n\\n'
        printf '{"status": "ok", "progress": 100, "argument": "%s", "input": %s}' "$*" "$(cat)"
        """,
    )
    assert told["reply"] == {"status": "ok", "progress": 100, "argument": "app", "input": INPUT}
    assert told["seen"] == [{"progress": 10, "message": "one"}, {"progress": 20}]


def test_without_data_stdin_is_empty_and_the_answer_may_be_pretty_printed(tmp_path: Path) -> None:
    methods = """
    def query(self): return track("--query", self.app_id)["reply"]
    def adjust(self, data): return run_and_track("./inner", "1", "2")
    """
    inner = """[ -z "$(cat)" ] && printf '{\\n "application": {},\\n "arguments": "%s"}\\n' "$*" """
    driver = outer(tmp_path, inner, methods)
    assert driver.run("--query", "app").reply == {"application": {}, "arguments": "--query app"}
    assert driver.adjust().reply == {"status": "ok", "application": {}, "arguments": "1 2"}


def test_on_a_system_that_cannot_wait_without_reaping_a_child_is_tracked_too(tmp_path: Path) -> None:
    driver = outer(tmp_path, """echo '{"status":"ok"}'; exit "$1" """)
    driver.path.write_text(f"import os\ndel os.waitid\n{driver.path.read_text('utf-8')}", encoding="utf-8")
    assert driver.run("0", data=INPUT).reply["reply"] == {"status": "ok"}
    failed = driver.run("3", data=INPUT).reply["reply"]
    assert (failed["reason"], failed["message"]) == ("exit-status", "./inner exited with status 3")


def test_a_large_input_and_a_child_that_does_not_read_it(tmp_path: Path) -> None:
    driver = outer(tmp_path, """[ "$1" = app ] && cat >copy; echo '{"status": "ok"}'""")
    data = {"filler": "x" * 1000000}
    assert driver.adjust(data).reply["reply"] == {"status": "ok"}
    assert json.loads((tmp_path / "copy").read_bytes()) == data
    assert driver.run("other", data=data).reply["reply"] == {"status": "ok"}


def _failure(reason: str, message: str) -> dict[str, Any]:
    return {"status": "failed", "reason": reason, "message": message}


@pytest.mark.parametrize(
    ("inner", "returned"),
    [
        (
            """echo '{"status":"ok","reason":"success"}'; exit 3""",
            _failure("exit-status", "./inner exited with status 3"),
        ),
        ("""echo '{"status":"ok"}'; kill -9 $$""", _failure("signal", "./inner was killed by SIGKILL")),
        ("kill -40 $$", _failure("signal", "./inner was killed by signal 40")),
        ("echo why >&2", _failure("no-reply", "./inner gave no reply; stderr: why")),
        ("""echo '{"progress":1}'""", _failure("no-reply", "./inner gave no reply")),
        (
            """echo '{"status":"rejected","reason":"big","message":"too big","state":1}'; exit 1""",
            {"status": "rejected", "reason": "big", "message": "too big", "state": 1},
        ),
        (
            """echo '{"status":"aborted"}'""",
            {"status": "aborted", "reason": "unknown", "message": "./inner answered aborted"},
        ),
        (
            """echo '{"error":"E","class":"c","message":"m"}'; exit 3""",
            {"status": "failed", "reason": "unknown", "error": "E", "class": "c", "message": "m"},
        ),
        (
            """echo '{"status":"failed","reason":"r","message":"why"}'; kill -9 $$""",
            _failure("r", "./inner was killed by SIGKILL: why"),
        ),
        (
            "echo oops; exec sleep 30",
            _failure("malformed", "./inner prints what is no JSON object: 'oops'"),
        ),
        ("echo '[1]'; exec sleep 30", _failure("malformed", "./inner prints what is no JSON object: '[1]'")),
        (
            """echo '{"progress":NaN}'; exec sleep 30""",
            _failure("malformed", "./inner prints what is no JSON object: '{\"progress\":NaN}'"),
        ),
    ],
)
def test_the_failure_of_a_child_is_returned(tmp_path: Path, inner: str, returned: dict[str, Any]) -> None:
    assert track(tmp_path, inner)["reply"] == returned


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.chmod(0o644), "Permission denied"),
        (lambda path: path.write_text("#!/nowhere/python\n"), "the interpreter that its first line names"),
    ],
    ids=["missing", "not executable", "no interpreter"],
)
def test_a_child_that_cannot_be_started_has_failed(tmp_path: Path, change: Any, told: str) -> None:
    driver = outer(tmp_path, "")
    change(tmp_path / "inner")
    reply = driver.adjust().reply["reply"]
    assert (reply["status"], reply["reason"]) == ("failed", "cannot-start")
    assert told in reply["message"]


def test_a_driver_goes_on_with_its_other_children_when_one_fails(tmp_path: Path) -> None:
    methods = """
    def adjust(self, data):
        replies = [run_and_track("./inner", name, data=data) for name in ("one", "two", "three")]
        return {"replies": [reply["status"] for reply in replies]}
    """
    done = outer(tmp_path, """[ "$1" != two ] && echo '{"status":"ok"}'""", methods).adjust()
    assert done.reply == {"status": "ok", "replies": ["ok", "failed", "ok"]}


@pytest.mark.parametrize("inner", ["exit 3", """echo '{"application":{}}'; exit 3"""])
def test_a_driver_may_return_the_failure_of_a_child_as_its_own(tmp_path: Path, inner: str) -> None:
    methods = """
    def query(self): return run_and_track("./inner", "--query", self.app_id)
    def adjust(self, data): return run_and_track("./inner", self.app_id, data=data)
    """
    driver = outer(tmp_path, inner, methods)
    for done in (driver.adjust(), driver.run("--query", "app")):
        reply = _failure("exit-status", "./inner exited with status 3")
        assert (done.returncode, done.lines, done.stderr) == (1, [reply], "")


def test_a_silent_child_is_stopped_a_second_before_we_would_be(tmp_path: Path) -> None:
    # What it says on stderr does not count.
    inner = "echo '{\"progress\":1}'; while :; do echo noise >&2; sleep 0.05; done"
    silent = track(tmp_path, inner, OPTUNE_IO_TIMEOUT="1")
    assert (silent["reply"]["status"], silent["reply"]["reason"]) == ("failed", "timeout")
    assert "said nothing for 0.5 s" in silent["reply"]["message"]
    assert silent["seconds"] >= 0.5


def test_a_child_that_goes_on_talking_has_all_the_time_it_needs(tmp_path: Path) -> None:
    inner = """
    for i in 1 2 3 4 5; do sleep 1; echo '{"progress":1}'; done
    printf '{"status":"ok","limit":"%s"}' $OPTUNE_IO_TIMEOUT
    """
    talking = track(tmp_path, inner, OPTUNE_IO_TIMEOUT="5")
    assert (talking["reply"], len(talking["seen"])) == ({"status": "ok", "limit": "4"}, 5)
    assert talking["seconds"] > 4


@pytest.mark.parametrize(("ours", "its"), [("30", "29"), ("", ""), ("0", "0"), ("1", "1"), ("2.5", "2.5")])
def test_a_child_s_own_limit_is_a_second_less(tmp_path: Path, ours: str, its: str) -> None:
    inner = """printf '{"status":"ok","limit":"%s"}' "$OPTUNE_IO_TIMEOUT" """
    # On a loaded machine half a second may be over before it has begun.
    told = wait_until(lambda: track(tmp_path, inner, OPTUNE_IO_TIMEOUT=ours).get("reply"), 60, "an answer")
    assert told == {"status": "ok", "limit": its}


@pytest.mark.parametrize("value", ["30s", "nan", "-1", "1e400", "."])
def test_a_limit_that_is_no_number_is_refused(tmp_path: Path, value: str) -> None:
    outcome = track(tmp_path, """touch ran; echo '{"status":"ok"}'""", OPTUNE_IO_TIMEOUT=value)["reply"]
    assert outcome["reason"] == "bad-environment"
    assert "OPTUNE_IO_TIMEOUT" in outcome["message"]
    assert repr(value) in outcome["message"]
    assert not (tmp_path / "ran").exists()


def test_a_child_that_has_exited_is_done_though_its_output_is_held_open(tmp_path: Path) -> None:
    inner = """sleep 30 & echo $! >pid; echo '{"status":"ok"}'"""
    try:
        outcome = track(tmp_path, inner)
        assert outcome["reply"] == {"status": "ok"}
        assert 0.2 < outcome["seconds"] < 20
        assert alive(_pid(tmp_path))
    finally:
        os.kill(_pid(tmp_path), signal.SIGKILL)


def test_what_is_written_shortly_after_the_exit_counts(tmp_path: Path) -> None:
    # Who writes it may be slow to be scheduled: what is shortly is for this test to say.
    methods = "def adjust(self, data): util._AFTERMATH = 10; return track(self.app_id, data=data)"
    inner = """(sleep 0.1; echo '{"status":"ok","late":1}') & echo '{"status":"ok"}'"""
    assert outer(tmp_path, inner, methods).adjust().reply["reply"] == {"status": "ok", "late": 1}


CANCELABLE = """
trap 'echo "{\\"status\\":\\"canceled\\",\\"reason\\":\\"asked\\"}"; exit 1' USR1
echo '{"progress":1}'
while :; do sleep 0.02; done
"""


def test_a_cancel_is_forwarded_to_the_child(tmp_path: Path) -> None:
    methods = """
    def handle_cancel(self, signal, frame): run_and_track_cancel()
    def adjust(self, data):
        assert run_and_track_cancel() is False
        return run_and_track("./inner", data=data, progress_cb=lambda message: self.print_progress("now"))
    """
    with outer(tmp_path, CANCELABLE, methods).start("app", data=INPUT) as running:
        running.wait_for_line()
        running.process.send_signal(signal.SIGUSR1)
        done = running.finish()
    assert (done.returncode, done.reply["status"], done.reply["reason"]) == (1, "canceled", "asked")


@pytest.mark.parametrize("where", ["thread", "handler", "callback"])
def test_a_child_can_be_terminated_from_anywhere(tmp_path: Path, where: str) -> None:
    methods = f"""
    def adjust(self, data):
        assert run_and_track_terminate() is False
        results = []
        terminate = lambda *args: results.append(run_and_track_terminate())
        signal.signal(signal.SIGALRM, terminate)
        ways = {{"thread": lambda message: threading.Thread(target=terminate).start(),
                "handler": lambda message: signal.setitimer(signal.ITIMER_REAL, 0.05),
                "callback": terminate}}
        outcome = track(data=data, progress_cb=ways[{where!r}])
        while not results:
            time.sleep(0.005)
        return dict(outcome, results=results)
    """
    reply = outer(tmp_path, "echo $$ >pid; echo '{\"progress\":1}'; exec sleep 30", methods).adjust().reply
    assert reply["reply"] == _failure("terminated", "./inner was terminated")
    assert reply["results"] == [True]
    assert not alive(_pid(tmp_path))


@pytest.mark.parametrize("starts", ["sleep 30", "timeout 30 sleep 30"], ids=["its group", "another group"])
def test_a_child_that_ignores_sigterm_is_killed_with_its_session(tmp_path: Path, starts: str) -> None:
    inner = f"""
    trap '' TERM
    {starts} & echo $! >pid
    echo '{{"progress":1}}'
    wait
    """
    methods = """
    def adjust(self, data):
        return track(data=data, progress_cb=lambda message: run_and_track_terminate(3.5))
    """
    reply = outer(tmp_path, inner, methods).adjust().reply
    assert reply["reply"]["reason"] == "terminated"
    # Longer than it would be without our saying so.
    assert reply["seconds"] >= 3.5
    wait_until(lambda: not alive(_pid(tmp_path)), DEADLINE, "end of what the child had started")


def test_what_the_callback_raises_stops_the_child(tmp_path: Path) -> None:
    methods = """
    def adjust(self, data):
        run_and_track("./inner", data=data, progress_cb=lambda message: message["nothing"])
    """
    done = outer(tmp_path, "echo $$ >pid; echo '{\"progress\":1}'; exec sleep 30", methods).adjust()
    assert (done.returncode, done.reply["error"]) == (1, "KeyError")
    assert not alive(_pid(tmp_path))


def test_a_driver_that_is_stopped_stops_its_child(tmp_path: Path) -> None:
    inner = """
    trap 'sleep 0.1; touch cleaned; exit 1' TERM
    echo $$ >pid; echo '{"progress":1}'
    while :; do sleep 0.02; done
    """
    methods = """
    def adjust(self, data):
        run_and_track("./inner", data=data, progress_cb=lambda message: self.print_progress("now"))
    """
    with outer(tmp_path, inner, methods).start("app", data=INPUT) as running:
        running.wait_for_line()
        running.process.send_signal(signal.SIGTERM)
        done = running.finish()
    assert (done.returncode, done.reply["status"]) == (143, "aborted")
    assert (tmp_path / "cleaned").exists()
    assert not alive(_pid(tmp_path))


@pytest.mark.parametrize(
    ("set_options", "tells"),
    [
        ("pass", False),
        ("util.g_args.verbose = True", True),
        ("util.g_args = self.args", True),
        ("self.parser.parse_args(['app', '--verbose'], namespace=util.g_args)", True),
        ("util.g_args = None", False),
    ],
)
def test_verbose_in_g_args_tells_what_is_done(tmp_path: Path, set_options: str, tells: bool) -> None:
    methods = f"""
    def __init__(self, *args):
        super().__init__(*args)
        self.parser.add_argument("--verbose", action="store_true")
    def adjust(self, data):
        {set_options}
        return run_and_track("./inner", "x", data=data)
    """
    driver = outer(tmp_path, "echo noise >&2; echo '{}'", methods)
    done = driver.run("app", "--verbose", data=INPUT)
    expected = "starting ./inner x\nnoise\n./inner exited with status 0\n" if tells else ""
    assert (done.reply, done.stderr) == ({"status": "ok"}, expected)
