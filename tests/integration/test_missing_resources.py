"""SPEC 1.1, 4, 10: other systems, and machines that refuse something, simulated by a sitecustomize.

The drivers inherit the sitecustomize; those here are sh scripts, which it does not affect.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import alive, wait_until
from tests.support.sources import SAY_OK, adjust_script, sitecustomize

if TYPE_CHECKING:
    from tests.support.servo import Completed, ServoDirectory

NO_PIDFD = """
    import os
    del os.pidfd_open
"""
"""Linux before 5.3, and macOS."""

PIDFD_FORBIDDEN = """
    import os

    def pidfd_open(pid):
        raise PermissionError(1, "Operation not permitted")

    os.pidfd_open = pidfd_open
"""
"""A sandbox."""

NO_DESCRIPTOR = PIDFD_FORBIDDEN.replace('PermissionError(1, "Operation not permitted")', "OSError(24, '')")
"""Too many open files."""

NO_PROC = """
    import builtins, os, sys

    def refusing(real):
        def call(path, *arguments, **more):
            caller = sys._getframe(1).f_globals.get("__name__", "")
            if str(path).startswith(("/proc", "/dev/fd")) and caller.startswith("servo_agg"):
                raise FileNotFoundError(2, "No such file or directory", path)
            return real(path, *arguments, **more)
        return call

    builtins.open = refusing(open)
    os.listdir = refusing(os.listdir)
"""
"""As on macOS: the program has no /proc, but psutil works."""

NOTHING_KNOWN = """
    import builtins, os

    def refusing(real):
        def call(path, *arguments, **more):
            if str(path).startswith(("/proc", "/dev/fd")):
                raise OSError(24, "Too many open files", path)
            return real(path, *arguments, **more)
        return call

    builtins.open = refusing(open)
    os.listdir = refusing(os.listdir)
"""
"""/proc is refused to all, psutil included, as when no descriptor is left."""


def reason_of(completed: Completed) -> str:
    assert completed.returncode == 1
    assert b"Traceback" not in completed.stdout + completed.stderr
    reason: str = completed.reply["reason"]
    return reason


# Without a pidfd, a thread waits for the exit of a driver.


@pytest.mark.parametrize("source", [NO_PIDFD, PIDFD_FORBIDDEN], ids=["absent", "forbidden"])
def test_without_a_pidfd_the_exit_of_a_driver_is_noticed(servo: ServoDirectory, source: str) -> None:
    # A service holds its stdout, so that only the exit shows the end.
    servo.add_script("01", adjust_script("""echo '{"status":"ok"}'\nsleep 60 & echo $! >service\n"""))
    servo.add_script("02", adjust_script("""echo '{"status":"ok"}'\nexit 3\n""", component="db"))
    completed = servo.adjust("web.cpu", "db.cpu", env=sitecustomize(servo, source))
    os.kill(int((servo.path / "service").read_text(encoding="ascii")), signal.SIGKILL)
    assert reason_of(completed) == "exit-status"
    table = completed.reply["drivers"]
    assert (table["01"]["status"], table["02"]["status"]) == ("ok", "failed")
    assert "exited with status 3" in table["02"]["message"]


def test_without_a_descriptor_for_a_pidfd_the_driver_is_stopped(
    servo: ServoDirectory,
) -> None:
    # Every test checks at its end that no process is left.
    servo.add_script("01", "#!/bin/sh\nexec sleep 60\n")
    completed = servo.run("--query", "app", env=sitecustomize(servo, NO_DESCRIPTOR))
    assert reason_of(completed) == "cannot-start"
    assert "too many open files" in completed.reply["message"]


# Without /proc, psutil lists the processes.


@pytest.mark.parametrize("source", [NO_PROC, NO_PROC + NO_PIDFD], ids=["no-proc", "nor-pidfd"])
def test_without_proc_the_whole_tree_is_stopped(servo: ServoDirectory, source: str) -> None:
    servo.configure("agg: {grace: 0.5}")
    servo.add("01stubborn", "stubborn")
    env = sitecustomize(servo, source)
    with servo.start_adjust("01stubborn.cpu", env=env) as running:
        pids = servo.pids("01stubborn", "leader", "child", "grandchild")
        running.send_signal(signal.SIGTERM)
        operation = running.finish()
    assert operation.returncode == 128 + signal.SIGTERM
    assert not any(alive(pid) for pid in pids.values())


def test_without_proc_the_watchdog_stops_the_tree(servo: ServoDirectory) -> None:
    servo.configure("agg: {grace: 0.2}")
    servo.add("01stubborn", "stubborn")
    env = sitecustomize(servo, NO_PROC)
    with servo.start_adjust("01stubborn.cpu", env=env) as running:
        pids = servo.pids("01stubborn", "leader", "child", "grandchild")
        running.send_signal(signal.SIGKILL)
        running.finish(30)
        wait_until(lambda: not any(alive(pid) for pid in pids.values()), 30, "end of the tree")


def test_where_no_process_can_be_listed_the_group_is_killed(servo: ServoDirectory) -> None:
    servo.configure("agg: {grace: 0.2}")
    servo.add_script("01", adjust_script("trap '' TERM\nsleep 60 &\necho $$ $! >pids\nsleep 60\nsleep 60"))
    env = sitecustomize(servo, NOTHING_KNOWN)
    with servo.start_adjust("web.cpu", env=env) as running:
        written = servo.path / "pids"
        wait_until(lambda: written.exists() and written.read_text(encoding="ascii"), 30, "the driver")
        pids = [int(word) for word in written.read_text(encoding="ascii").split()]
        running.send_signal(signal.SIGTERM)
        operation = running.finish()
    assert operation.returncode == 128 + signal.SIGTERM
    wait_until(lambda: not any(map(alive, pids)), 30, "end of the group")


def test_without_a_list_of_open_descriptors_a_driver_inherits_none(servo: ServoDirectory) -> None:
    servo.add_script("01", "#!/bin/sh\nls /proc/$$/fd >descriptors\necho '{\"application\":{}}'\n")
    with open("/dev/null", "rb") as nothing:
        another = fcntl.fcntl(nothing, fcntl.F_DUPFD, 50)
    try:
        completed = servo.run("--query", "app", env=sitecustomize(servo, NO_PROC), pass_fds=[another])
    finally:
        os.close(another)
    assert completed.returncode == 0
    found = {int(word) for word in (servo.path / "descriptors").read_text(encoding="ascii").split()}
    assert {0, 1, 2} <= found
    assert another not in found


# A module that cannot be loaded.


@pytest.mark.parametrize(
    ("error", "words"),
    [
        # Its C module raises this when memory is short.
        pytest.param("SystemError('made up')", "out of memory", id="memory"),
        pytest.param("AttributeError('made up')", "made up", id="half-installed"),
    ],
)
def test_a_psutil_that_cannot_be_imported_is_reported(servo: ServoDirectory, error: str, words: str) -> None:
    servo.add_script("01", adjust_script(SAY_OK))
    source = f"""
        import sys

        class Finder:
            @staticmethod
            def find_spec(name, *_):
                if name == "psutil":
                    raise {error}

        sys.meta_path.insert(0, Finder)
    """
    completed = servo.adjust("web.cpu", env=sitecustomize(servo, source))
    assert reason_of(completed) == "bad-environment"
    assert f"is missing or broken ({words}" in completed.reply["message"]


# A bug of the program.

BUG = """
    import os

    def waitid(*arguments):
        raise ZeroDivisionError("made up")

    os.waitid = waitid
"""
"""The first driver that ends causes an exception, while others still run."""


@pytest.mark.parametrize("words", [(), ("-v",)], ids=["quiet", "verbose"])
def test_a_bug_ends_in_one_final_object_and_leaves_no_driver(
    servo: ServoDirectory, words: tuple[str, ...]
) -> None:
    servo.add_script("01", "#!/bin/sh\nuntil [ -s pids ]; do sleep 0.01; done\necho '{\"application\":{}}'\n")
    servo.add_script("02", "#!/bin/sh\nsleep 60 &\necho $$ $! >pids.new\nmv pids.new pids\nsleep 60\n")
    completed = servo.run(*words, "--query", "app", env=sitecustomize(servo, BUG))
    assert completed.returncode == 1
    assert (completed.reply["status"], completed.reply["reason"]) == ("failed", "internal")
    assert re.fullmatch(
        r"internal error in servo-agg: ZeroDivisionError at servo_agg/drivers/process\.py:\d+;"
        r" please report it with the output of -v",
        completed.reply["message"],
    )
    assert (
        (b"Traceback" in completed.stderr)
        == (b"ZeroDivisionError: made up" in completed.stderr)
        == bool(words)
    )
    pids = [int(word) for word in (servo.path / "pids").read_text(encoding="ascii").split()]
    wait_until(lambda: not any(map(alive, pids)), 30, "end of the other driver")


# Little stack for a thread.

DEEP = b'{"a":' * 398 + b"1" + b"}" * 398


@pytest.mark.parametrize("words", [["--query", "app"], ["app"]], ids=["query", "adjust"])
def test_the_stack_of_a_thread_holds_400_levels(servo: ServoDirectory, words: list[str]) -> None:
    """As with a small `ulimit -s` or another C library."""
    source = """
        import _thread

        _thread.stack_size(32 << 10)
    """
    deep = servo.path / "deep"
    deep.write_bytes(b'{"status":"ok","settings":{"cpu":{"value":2}},"more":' + DEEP + b"}")
    servo.add_script("01", "#!/bin/sh\ncat deep\n")
    given = b'{"more":' + DEEP + b',"application":{"settings":{"cpu":{"value":4}}}}'
    completed = servo.run(*words, input=given, env=sitecustomize(servo, source))
    assert completed.returncode == 0
    assert completed.stdout.count(b'{"a":') == 398


def test_a_stack_size_that_cannot_be_set_is_no_error(servo: ServoDirectory) -> None:
    source = """
        import _thread

        def stack_size(size=0):
            raise ValueError(f"size not valid: {size} bytes")

        _thread.stack_size = stack_size
    """
    servo.add_script("01", adjust_script(SAY_OK))
    assert servo.adjust("web.cpu", env=sitecustomize(servo, source)).returncode == 0
