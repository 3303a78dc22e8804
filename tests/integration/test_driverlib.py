"""SPEC 12: the driver library `adjust`: command line, replies, progress and signals."""

from __future__ import annotations

import ast
import fcntl
import json
import signal
import socket
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

from tests.support.driverlib import DEADLINE, INPUT, LIBRARY, Driver, Running
from tests.support.processes import environment, wait_until

SOURCES = sorted(LIBRARY.glob("*.py"))


# What may run it


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_the_library_parses_on_python_3_6(source: Path) -> None:
    ast.parse(source.read_text(encoding="utf-8"), feature_version=(3, 6))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_annotations_can_be_evaluated_by_python_3_6(source: Path) -> None:
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


def test_importing_adjust_imports_only_argparse_json_and_signal() -> None:
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
    ("args", "supports_cancel"), [(("--info",), True), (("--info", "app"), False), (("app", "--info"), True)]
)
def test_info_has_version_and_has_cancel(
    tmp_path: Path, args: tuple[str, ...], supports_cancel: bool
) -> None:
    done = Driver(tmp_path, "", supports_cancel=supports_cancel).run(*args)
    assert (done.returncode, done.lines) == (0, [{"version": "1.2", "has_cancel": supports_cancel}])


@pytest.mark.parametrize("args", [("--query", "app"), ("app", "--query"), ("--describe", "app")])
def test_query_and_describe_are_the_same(tmp_path: Path, args: tuple[str, ...]) -> None:
    driver = Driver(tmp_path, "def query(self): return {'application': {'components': {self.app_id: {}}}}")
    done = driver.run(*args)
    assert (done.returncode, done.lines) == (0, [{"application": {"components": {"app": {}}}}])


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


def test_a_driver_may_define_an_option_that_the_library_has(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("returned", "code", "reply"),
    [
        ("{'got': data, 'same': data is self.input_data}", 0, {"status": "ok", "got": INPUT, "same": True}),
        *(("None", 0, {"status": "ok"}), ("True", 0, {"status": "ok"}), ("'done'", 0, {"status": "ok"})),
        ("{'status': 'rejected'}", 1, {"status": "rejected"}),
    ],
)
def test_a_dict_that_adjust_returns_is_merged_into_the_reply(
    tmp_path: Path, returned: str, code: int, reply: dict[str, Any]
) -> None:
    done = Driver(tmp_path, f"def adjust(self, data): return {returned}").adjust()
    assert (done.returncode, done.lines) == (code, [reply])


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
def test_adjust_is_called_with_the_input_if_it_has_a_parameter(tmp_path: Path, definition: str) -> None:
    done = Driver(tmp_path, definition).adjust()
    assert done.reply.pop("args", []) == []
    assert done.reply["got"] == INPUT


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "is empty; expected a JSON object on stdin"),
        (b"{", "is not JSON: "),
        (b"[1]", "expected a JSON object on stdin, got a list"),
        (b"null", "expected a JSON object on stdin, got null"),
        (b"\xff{}", "is not JSON: "),
    ],
)
def test_an_input_that_is_not_a_json_object_is_refused(tmp_path: Path, data: bytes, expected: str) -> None:
    done = Driver(tmp_path, "def adjust(self, data): pass").adjust(data)
    assert (done.returncode, done.reply["status"], done.reply["reason"]) == (1, "failed", "bad-input")
    assert expected in done.reply["message"]


def test_input_and_output_do_not_depend_on_the_locale(tmp_path: Path) -> None:
    driver = Driver(tmp_path, "def adjust(self, data): self.debug('é'); return data")
    done = driver.adjust('{"name": "Zoë"}'.encode(), LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert (done.returncode, done.reply) == (0, {"status": "ok", "name": "Zoë"})
    assert done.stdout.isascii()


# Failures


def test_status_and_reason_of_an_adjust_error_have_defaults(tmp_path: Path) -> None:
    own = "class Own(AdjustError):\n    def __init__(self): Exception.__init__(self, 'own')\n"
    for raised in ("AdjustError('own')", "self.Own()", "AdjustError('own', reason=None)"):
        driver = Driver(tmp_path, f"{own}\ndef adjust(self, data): raise {raised}")
        assert driver.adjust().lines == [{"status": "failed", "reason": "unknown", "message": "own"}]


def test_an_adjust_error_on_a_query_becomes_status_reason_and_message(tmp_path: Path) -> None:
    raised = "raise AdjustError('too', 'big', status='rejected', reason='out-of-range')"
    done = Driver(tmp_path, f"def query(self): {raised}").run("--query", "app")
    assert done.lines == [{"status": "rejected", "reason": "out-of-range", "message": "too big"}]
    assert (done.returncode, done.stderr) == (1, "")


def test_another_exception_becomes_an_error_with_its_traceback_on_stderr(tmp_path: Path) -> None:
    done = Driver(tmp_path, "def adjust(self, data): return data['nothing']").adjust()
    assert done.returncode == 1
    assert done.lines == [
        {"status": "failed", "error": "KeyError", "class": "failure", "message": "'nothing'"}
    ]
    assert "Traceback" in done.stderr
    assert "return data['nothing']" in done.stderr


def test_sys_exit_in_adjust_sets_the_exit_status(tmp_path: Path) -> None:
    done = Driver(tmp_path, "def adjust(self, data): sys.exit(3)").adjust()
    assert (done.returncode, done.stdout) == (3, b"")


def test_nothing_is_printed_after_the_final_line(tmp_path: Path) -> None:
    driver = Driver(
        tmp_path,
        """
        count = 0
        def adjust(self, data):
            def print_often():
                for self.count in range(100):
                    self.print_progress("still here")
                    time.sleep(0.001)
            self.printer = threading.Thread(target=print_often)
            self.printer.start()
            while self.count < 5:
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


def test_a_driver_without_a_reader_exits_1(tmp_path: Path) -> None:
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
    stderr = driver.stderr_text()
    assert "the reason" in stderr
    assert "Traceback" not in stderr


# Progress and output


@pytest.mark.parametrize("progress", ["float('nan')", "float('-inf')"])
def test_a_progress_that_is_not_finite_is_printed_as_0(tmp_path: Path, progress: str) -> None:
    driver = Driver(tmp_path, f"def adjust(self, data): self.progress = {progress}; self.print_progress('x')")
    assert driver.adjust().lines[0] == {"progress": 0, "message": "x"}


def test_an_exception_in_print_progress_does_not_stop_the_progress_timer(tmp_path: Path) -> None:
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
def test_a_signal_runs_finally_clauses_and_is_the_reason(
    tmp_path: Path, number: signal.Signals, status: str, code: int
) -> None:
    with Driver(tmp_path, WAITS_WITH_FINALLY).start("app", data=INPUT) as running:
        running.wait_for_line()
        running.process.send_signal(number)
        assert running.wait_for_line()["message"] == "cleaning up"
        # Signals that arrive now must not interrupt the cleanup.
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


def test_sigusr1_does_not_interrupt_the_cleanup_after_sigterm(tmp_path: Path) -> None:
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


def test_without_supports_cancel_sigusr1_keeps_its_default_action(tmp_path: Path) -> None:
    with Driver(tmp_path, WAITS_WITH_FINALLY, supports_cancel=False).start("app", data=INPUT) as running:
        running.wait_for_line()
        running.process.send_signal(signal.SIGUSR1)
        assert running.finish().returncode == -signal.SIGUSR1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("when", ["before run", "in adjust"])
def test_a_signal_handler_of_the_driver_is_kept(tmp_path: Path, number: signal.Signals, when: str) -> None:
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


def test_run_may_be_called_in_another_thread(tmp_path: Path) -> None:
    """Signals cannot be handled there; the library leaves them to the driver."""
    driver = Driver(tmp_path, "def adjust(self, data): return {'got': data['control']}")
    text = driver.path.read_text(encoding="utf-8")
    begin, run = text[: text.rindex("Driver(")], text[text.rindex("Driver(") :].strip()
    driver.path.write_text(
        f"{begin}thread = threading.Thread(target=lambda: {run})\n    thread.start()\n    thread.join()\n",
        encoding="utf-8",
    )
    done = driver.adjust()
    assert (done.lines, done.stderr) == ([{"status": "ok", "got": {}}], "")


def test_a_driver_may_replace_sys_stdout(tmp_path: Path) -> None:
    driver = Driver(
        tmp_path,
        """
        def adjust(self, data):
            import io
            from adjust import print_json_error
            kept, sys.stdout = sys.stdout, io.StringIO()
            print_json_error("E", "c", "a warning")
            expected, sys.stdout = sys.stdout.getvalue(), None
            self.print_progress("nobody hears this")
            sys.stdout = kept
            return {"expected": json.loads(expected)}
        """,
    )
    expected = {"status": "failed", "error": "E", "class": "c", "message": "a warning"}
    assert driver.adjust().lines == [{"status": "ok", "expected": expected}]


def test_sigterm_after_run_ends_the_driver(tmp_path: Path) -> None:
    driver = Driver(tmp_path, "def adjust(self, data): pass")
    with driver.path.open("a", encoding="utf-8") as script:
        script.write("    Path('after').touch()\n    idle()\n")
    with driver.start("app", data=INPUT) as running:
        wait_until((tmp_path / "after").exists, DEADLINE, "the return of run()")
        running.process.send_signal(signal.SIGTERM)
        assert running.finish().returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_forked_child_has_default_signal_actions(tmp_path: Path, number: signal.Signals) -> None:
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


def test_sigterm_ends_a_driver_that_is_blocked_on_its_output(tmp_path: Path) -> None:
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


def test_a_signal_during_a_long_line_does_not_cut_it(tmp_path: Path) -> None:
    with Driver(tmp_path, "def adjust(self, data): self.print_progress('x' * 1000000)").start(
        "app", data=INPUT
    ) as running:
        _wait_until_blocked(running)
        running.process.send_signal(signal.SIGTERM)
        done = running.finish()
    assert len(done.lines[0]["message"]) == 1000000
    assert done.reply["status"] == "aborted"


def test_a_signal_handler_may_print_during_a_print(tmp_path: Path) -> None:
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
