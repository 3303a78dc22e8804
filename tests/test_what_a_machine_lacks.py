"""SPEC 1, 4, 10: other systems, and machines that refuse something: a sitecustomize makes a real child so.

The drivers get the same sitecustomize; those here are sh, to which it is nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.processes import alive, environment, wait_until
from tests.sources import adjusting, made

if TYPE_CHECKING:
    from tests.servo import Completed, ServoDirectory

INPUT = json.dumps({"application": {"components": {"web": {"settings": {"cpu": {"value": 4}}}}}}).encode()

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
"""As on macOS: there is no /proc for us, but psutil has its ways."""

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
"""/proc is refused to all, psutil too, as when no descriptor is left."""


def reason_of(completed: Completed) -> str:
    assert completed.returncode == 1
    assert b"Traceback" not in completed.stdout + completed.stderr
    reason: str = completed.reply["reason"]
    return reason


# Without a pidfd, a thread tells of the end of a driver.


@pytest.mark.parametrize("source", [NO_PIDFD, PIDFD_FORBIDDEN], ids=["absent", "forbidden"])
def test_spec_4_without_a_pidfd_the_end_of_a_driver_is_still_known(
    servo: ServoDirectory, source: str
) -> None:
    # A service holds its stdout: only the exit tells that it is done.
    servo.add_script("01", adjusting("""echo '{"status":"ok"}'\nsleep 60 & echo $! >service\n"""))
    servo.add_script("02", adjusting("""echo '{"status":"ok"}'\nexit 3\n""", component="db"))
    both = json.loads(INPUT)
    both["application"]["components"]["db"] = both["application"]["components"]["web"]
    completed = servo.run("app", input=json.dumps(both).encode(), env=made(servo, source))
    os.kill(int((servo.path / "service").read_text(encoding="ascii")), signal.SIGKILL)
    assert reason_of(completed) == "exit-status"
    table = completed.reply["drivers"]
    assert (table["01"]["status"], table["02"]["status"]) == ("ok", "failed")
    assert "exited with status 3" in table["02"]["message"]


def test_spec_13_without_a_descriptor_to_watch_it_by_a_driver_is_not_left_running(
    servo: ServoDirectory,
) -> None:
    # It may be killed at its first breath: that nothing of it is left is asserted at the end of every test.
    servo.add_script("01", "#!/bin/sh\nexec sleep 60\n")
    completed = servo.run("--query", "app", env=made(servo, NO_DESCRIPTOR))
    assert reason_of(completed) == "cannot-start"
    assert "too many open files" in completed.reply["message"]


# Without /proc, psutil tells who there is.


@pytest.mark.parametrize("source", [NO_PROC, NO_PROC + NO_PIDFD], ids=["no-proc", "nor-pidfd"])
def test_spec_10_without_proc_the_whole_tree_is_stopped(servo: ServoDirectory, source: str) -> None:
    servo.configure("agg: {grace: 0.5}")
    servo.add("01stubborn", "stubborn")
    env = made(servo, source)
    with servo.agent(env=env).start_adjust("app", servo.request("01stubborn.cpu")) as running:
        pids = servo.pids("01stubborn", "leader", "child", "grandchild")
        running.send_signal(signal.SIGTERM)
        operation = running.finish()
    assert operation.returncode == 128 + signal.SIGTERM
    assert not any(alive(pid) for pid in pids.values())


def test_spec_10_without_proc_the_guardian_ends_the_tree(servo: ServoDirectory) -> None:
    servo.configure("agg: {grace: 0.2}")
    servo.add("01stubborn", "stubborn")
    env = made(servo, NO_PROC)
    with servo.agent(env=env).start_adjust("app", servo.request("01stubborn.cpu")) as running:
        pids = servo.pids("01stubborn", "leader", "child", "grandchild")
        running.send_signal(signal.SIGKILL)
        running.finish(10)
        wait_until(lambda: not any(alive(pid) for pid in pids.values()), 20, "end of the tree")


def test_spec_10_where_nothing_is_known_of_processes_the_group_is_killed(servo: ServoDirectory) -> None:
    servo.configure("agg: {grace: 0.2}")
    servo.add_script("01", adjusting("trap '' TERM\nsleep 60 &\necho $$ $! >pids\nsleep 60\nsleep 60"))
    env = made(servo, NOTHING_KNOWN)
    with servo.agent(env=env).start_adjust("app", json.loads(INPUT)) as running:
        written = servo.path / "pids"
        wait_until(lambda: written.exists() and written.read_text(encoding="ascii"), 10, "the driver")
        pids = [int(word) for word in written.read_text(encoding="ascii").split()]
        running.send_signal(signal.SIGTERM)
        operation = running.finish()
    assert operation.returncode == 128 + signal.SIGTERM
    wait_until(lambda: not any(map(alive, pids)), 10, "end of the group")


def test_spec_3_without_a_list_of_our_descriptors_a_driver_gets_none_of_them(servo: ServoDirectory) -> None:
    servo.add_script("01", "#!/bin/sh\nls /proc/$$/fd >descriptors\necho '{\"application\":{}}'\n")
    with open("/dev/null", "rb") as nothing:
        another = fcntl.fcntl(nothing, fcntl.F_DUPFD, 50)
    try:
        subprocess.run(
            ["./adjust", "--query", "app"],
            cwd=servo.path,
            env=environment(servo.env, made(servo, NO_PROC)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[another],
            check=True,
            timeout=30,
        )
    finally:
        os.close(another)
    found = {int(word) for word in (servo.path / "descriptors").read_text(encoding="ascii").split()}
    assert {0, 1, 2} <= found
    assert another not in found


# A file system without locks.


def test_spec_10_where_the_file_system_knows_no_locks_we_go_on_and_say_so(servo: ServoDirectory) -> None:
    source = """
        import fcntl

        def flock(descriptor, operation):
            raise OSError(37, "No locks available")

        fcntl.flock = flock
    """
    servo.add_script("01", adjusting("""echo '{"status":"ok"}'"""))
    completed = servo.run("-v", "app", input=INPUT, env=made(servo, source))
    assert completed.returncode == 0
    assert completed.reply["status"] == "ok"
    assert b"no lock is taken" in completed.stderr
    assert b"No locks available" in completed.stderr


@pytest.mark.parametrize(
    ("mode", "held", "reason"),
    [
        pytest.param(0o755, ".", "busy", id="the-directory"),
        pytest.param(0o755, "adjust.d", "success", id="what-need-not-be-locked"),
        # Others may not open it, whether we may or not.
        pytest.param(0o711, "adjust.d", "busy", id="readable-by-the-owner"),
        pytest.param(0o711, ".", "busy", id="readable-by-the-owner-who-holds-it"),
        pytest.param(0o311, "adjust.d", "busy", id="readable-by-nobody"),
    ],
)
def test_spec_10_users_of_different_rights_exclude_one_another(
    servo: ServoDirectory, mode: int, held: str, reason: str
) -> None:
    servo.add_script("01", adjusting("""echo '{"status":"ok"}'"""))
    holder = os.open(servo.path / held, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    servo.path.chmod(mode)
    # So that permissions hold, even for root.
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    try:
        completed = servo.run("app", input=INPUT, env={"OPTUNE_IO_TIMEOUT": "2"}, command=[*drop, "./adjust"])
    finally:
        servo.path.chmod(0o755)
        os.close(holder)
    assert completed.reply["reason"] == reason


def test_spec_10_where_nothing_may_be_locked_an_adjust_is_refused(servo: ServoDirectory) -> None:
    source = """
        import os

        def opening(real):
            def call(path, *arguments, **more):
                if path in (".", "adjust.d"):
                    raise PermissionError(13, "Permission denied", path)
                return real(path, *arguments, **more)
            return call

        os.open = opening(os.open)
    """
    servo.add_script("01", adjusting("""touch adjusted; echo '{"status":"ok"}'"""))
    completed = servo.run("app", input=INPUT, env=made(servo, source))
    assert reason_of(completed) == "bad-environment"
    assert "no lock can be taken" in completed.reply["message"]
    assert not (servo.path / "adjusted").exists()


# A module that cannot be loaded.


@pytest.mark.parametrize(
    ("error", "told"),
    [
        # Its part in C ends so where it finds too little memory.
        pytest.param("SystemError('made up')", "there is not enough memory", id="memory"),
        pytest.param("AttributeError('made up')", "made up", id="half-installed"),
    ],
)
def test_spec_5_a_psutil_that_fails_in_whatever_way_is_no_mistake_of_ours(
    servo: ServoDirectory, error: str, told: str
) -> None:
    servo.add_script("01", adjusting("""echo '{"status":"ok"}'"""))
    source = f"""
        import sys

        class Finder:
            @staticmethod
            def find_spec(name, *_):
                if name == "psutil":
                    raise {error}

        sys.meta_path.insert(0, Finder)
    """
    completed = servo.run("app", input=INPUT, env=made(servo, source))
    assert reason_of(completed) == "bad-environment"
    assert f"It is missing or broken ({told}" in completed.reply["message"]


# A mistake of our own.

MISTAKE = """
    import os

    def waitid(*arguments):
        raise ZeroDivisionError("made up")

    os.waitid = waitid
"""
"""The first driver that ends brings us down, with the others still running."""


@pytest.mark.parametrize("words", [(), ("-v",)], ids=["quiet", "verbose"])
def test_spec_5_a_mistake_of_ours_ends_in_one_final_object_too_and_leaves_no_driver(
    servo: ServoDirectory, words: tuple[str, ...]
) -> None:
    servo.add_script("01", "#!/bin/sh\nuntil [ -s pids ]; do sleep 0.01; done\necho '{\"application\":{}}'\n")
    servo.add_script("02", "#!/bin/sh\nsleep 60 &\necho $$ $! >pids.new\nmv pids.new pids\nsleep 60\n")
    completed = servo.run(*words, "--query", "app", env=made(servo, MISTAKE))
    assert completed.returncode == 1
    assert (completed.reply["status"], completed.reply["reason"]) == ("failed", "internal")
    assert "-v" in completed.reply["message"]
    assert (
        (b"Traceback" in completed.stderr)
        == (b"ZeroDivisionError: made up" in completed.stderr)
        == bool(words)
    )
    pids = [int(word) for word in (servo.path / "pids").read_text(encoding="ascii").split()]
    wait_until(lambda: not any(map(alive, pids)), 10, "end of the other driver")


# Little stack for a thread.


DEEP = b'{"a":' * 398 + b"1" + b"}" * 398


@pytest.mark.parametrize("words", [["--query", "app"], ["app"]], ids=["query", "adjust"])
def test_spec_4_the_stack_of_a_thread_holds_400_levels(servo: ServoDirectory, words: list[str]) -> None:
    """A small `ulimit -s` or another C library gives threads as little."""
    source = """
        import _thread

        _thread.stack_size(32 << 10)
    """
    deep = servo.path / "deep"
    deep.write_bytes(b'{"status":"ok","settings":{"cpu":{"value":2}},"more":' + DEEP + b"}")
    servo.add_script("01", "#!/bin/sh\ncat deep\n")
    given = b'{"more":' + DEEP + b',"application":{"settings":{"cpu":{"value":4}}}}'
    completed = servo.run(*words, input=given, env=made(servo, source))
    assert completed.returncode == 0
    assert completed.stdout.count(b'{"a":') == 398


def test_spec_4_where_the_stack_of_a_thread_cannot_be_chosen_we_go_on(servo: ServoDirectory) -> None:
    source = """
        import _thread

        def stack_size(size=0):
            raise ValueError(f"size not valid: {size} bytes")

        _thread.stack_size = stack_size
    """
    servo.add_script("01", adjusting("""echo '{"status":"ok"}'"""))
    assert servo.run("app", input=INPUT, env=made(servo, source)).returncode == 0


# What we are started with.


def test_spec_7_1_a_stdin_that_cannot_be_read_is_an_empty_one(servo: ServoDirectory) -> None:
    servo.add_script("01", adjusting("""echo '{"status":"ok"}'"""))
    with open("/dev/null", "wb") as only_to_write:
        completed = subprocess.run(
            ["./adjust", "app"],
            cwd=servo.path,
            env=environment(servo.env),
            stdin=only_to_write,
            stdout=subprocess.PIPE,
            check=False,
            timeout=30,
        )
    assert completed.returncode == 1
    assert json.loads(completed.stdout)["reason"] == "bad-input"


def test_spec_2_an_adjust_d_that_cannot_be_read_is_named(servo: ServoDirectory) -> None:
    servo.drivers.rmdir()
    servo.drivers.symlink_to("adjust.d")
    completed = servo.run("--query", "app")
    assert reason_of(completed) == "no-adjust-d"
    assert f"{servo.drivers} cannot be read: " in completed.reply["message"]


def test_spec_5_wrong_usage_needs_nobody_to_tell_it_to(servo: ServoDirectory) -> None:
    with open("/dev/full", "wb") as full:
        completed = subprocess.run(
            ["./adjust", "--nonsense"], cwd=servo.path, env=environment(servo.env), stderr=full, check=False
        )
    assert completed.returncode == 2
