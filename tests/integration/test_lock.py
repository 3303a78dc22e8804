"""SPEC 10.66-10.78: the lock of a servo directory."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from servo_agg.lock import LOCK_FILE
from tests.support.locks import held, held_as_by_adjust, is_free
from tests.support.processes import wait_until
from tests.support.servo import ServoDirectory, on_stderr
from tests.support.sources import adjust_script, sitecustomize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.servo import Completed

ROOT = os.geteuid() == 0
SHORT = {"OPTUNE_IO_TIMEOUT": "2"}
"""The lock is waited for as long as a driver may be silent, here 1 s."""

WITHOUT_RIGHTS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if ROOT else []
"""Modes of files count for root, too."""

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


@pytest.fixture
def servo(tmp_path: Path) -> ServoDirectory:
    directory = ServoDirectory(tmp_path)
    directory.add_script("01", adjust_script("""echo '{"status":"ok"}'"""))
    return directory


def adjust(servo: ServoDirectory, *command: str) -> Completed:
    return servo.run("app", "--set", "web.cpu=4", env=SHORT, command=[*command, "./adjust"])


@contextmanager
def silent_adjust(servo: ServoDirectory) -> Iterator[int]:
    """Adjust with a driver that does not end; yield the process id of the adjust."""
    servo.add("02silent", "silent", when="adjust")
    with servo.start_adjust("02silent.cpu") as running:
        servo.pids("02silent", "leader")
        yield running.pid
        running.send_signal(signal.SIGTERM)
        running.finish(30)


def test_busy_names_the_process_that_holds_the_lock(servo: ServoDirectory) -> None:
    with silent_adjust(servo) as pid:
        completed = adjust(servo)
    assert completed.reply == {
        "status": "failed",
        "reason": "busy",
        "message": f"another adjust (process {pid}) is running in {servo.path}; waited 1 s for its end",
    }


def test_busy_names_no_process_that_has_ended(servo: ServoDirectory) -> None:
    with held_as_by_adjust(servo.path):
        (servo.path / LOCK_FILE).write_text(f"{2**22 + 1}\n", encoding="ascii")
        completed = adjust(servo)
    assert completed.reply["message"].startswith(f"another adjust is running in {servo.path};")


def test_only_the_owner_may_open_the_lock_file_that_an_adjust_leaves(servo: ServoDirectory) -> None:
    assert adjust(servo).reply["status"] == "ok"
    path = servo.path / LOCK_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    assert adjust(servo).reply["status"] == "ok"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_leftover_lock_file_has_no_effect_and_is_not_listed(servo: ServoDirectory) -> None:
    (servo.path / LOCK_FILE).write_text("1\nno number\n", encoding="ascii")
    (servo.path / LOCK_FILE).chmod(0o600)
    assert adjust(servo).reply["status"] == "ok"
    assert LOCK_FILE.encode() not in servo.run("--check", "app").stdout


@pytest.mark.parametrize(("mode", "locked"), [(0o755, "."), (0o711, "adjust.d")])
def test_a_lock_on_the_directory_alone_delays_but_does_not_refuse_an_adjust(
    servo: ServoDirectory, mode: int, locked: str
) -> None:
    servo.path.chmod(mode)
    path = servo.path / locked
    with held(path):
        completed = adjust(servo)
    assert completed.reply["status"] == "ok"
    assert completed.stderr.decode() == on_stderr(
        f"warning: another process holds a lock on {path}, but not on the file .servo-agg.lock;"
        f" waited 1 s and continued without this lock; to find the process, run as root:"
        f" fuser -v {quote(str(path))}\n"
    )


def link_to_a_file(path: Path) -> None:
    path.symlink_to("other")


def another_name_of_a_file(path: Path) -> None:
    os.link(path.parent / "other", path)


def another_users_file_in_a_public_directory(path: Path) -> None:
    path.parent.chmod(0o1777)
    path.touch(0o600)
    os.chown(path, 54321, 54321)


@pytest.mark.parametrize(
    "make",
    [
        link_to_a_file,
        another_name_of_a_file,
        os.mkdir,
        os.mkfifo,
        pytest.param(
            another_users_file_in_a_public_directory,
            marks=pytest.mark.skipif(not ROOT, reason="needs a file of another user"),
        ),
    ],
)
def test_a_lock_file_that_no_adjust_made_is_not_used(
    servo: ServoDirectory, make: Callable[[Path], object]
) -> None:
    (servo.path / "other").write_text("content", encoding="ascii")
    make(servo.path / LOCK_FILE)
    with held(servo.path):
        assert adjust(servo).reply["reason"] == "busy"
    assert adjust(servo).reply["status"] == "ok"
    assert (servo.path / "other").read_text(encoding="ascii") == "content"


@pytest.mark.parametrize(
    ("mode", "locked", "reason"),
    [
        pytest.param(0o555, ".", "busy", id="the-directory-that-cannot-be-written"),
        pytest.param(0o555, "adjust.d", "success", id="what-need-not-be-locked"),
        # Others may not open the directory, whether we may or not.
        pytest.param(0o511, "adjust.d", "busy", id="readable-by-the-owner"),
        pytest.param(0o511, ".", "busy", id="readable-by-the-owner-who-holds-it"),
        pytest.param(0o111, "adjust.d", "busy", id="readable-by-nobody"),
    ],
)
def test_without_a_lock_file_a_directory_that_all_users_can_open_is_locked(
    servo: ServoDirectory, mode: int, locked: str, reason: str
) -> None:
    with held(servo.path / locked):
        servo.path.chmod(mode)
        try:
            completed = adjust(servo, *WITHOUT_RIGHTS)
        finally:
            servo.path.chmod(0o755)
    assert completed.reply["reason"] == reason


@pytest.mark.skipif(not ROOT, reason="needs two users")
@pytest.mark.parametrize("mode", [0o755, 0o711])
def test_a_user_who_may_not_open_the_lock_file_waits_for_one_who_may(mode: int) -> None:
    # Other users cannot enter the directories of pytest.
    with TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        servo = ServoDirectory(Path(place))
        servo.path.chmod(mode)
        if servo.run("--info", command=[*NOBODY, "./adjust"]).returncode:
            pytest.skip("the checkout cannot be read by other users")
        with silent_adjust(servo):
            assert adjust(servo, *NOBODY).reply["reason"] == "busy"


@pytest.mark.skipif(not ROOT, reason="needs two users")
def test_root_leaves_the_lock_file_to_the_owner_of_the_directory(servo: ServoDirectory) -> None:
    os.chown(servo.path, 54321, 54321)
    assert adjust(servo).reply["status"] == "ok"
    assert (servo.path / LOCK_FILE).stat().st_uid == 54321


def test_servo_directories_that_share_their_drivers_do_not_exclude_one_another(
    servo: ServoDirectory, tmp_path: Path
) -> None:
    other = ServoDirectory(tmp_path, "other")
    other.drivers.rmdir()
    other.drivers.symlink_to(servo.drivers)
    for directory in (servo, other):
        directory.path.chmod(0o700)
    with silent_adjust(servo):
        completed = adjust(other)
    assert (completed.reply["status"], completed.stderr) == ("ok", b"")


def test_an_adjust_that_can_lock_nothing_is_refused(servo: ServoDirectory) -> None:
    source = """
        import os

        def opening(real):
            def call(path, *arguments, **more):
                if path in (".", "adjust.d", ".servo-agg.lock"):
                    raise PermissionError(13, "Permission denied", path)
                return real(path, *arguments, **more)
            return call

        os.open = opening(os.open)
    """
    servo.add_script("01", adjust_script("""touch adjusted; echo '{"status":"ok"}'"""))
    completed = servo.run("app", "--set", "web.cpu=4", env=sitecustomize(servo, source))
    assert completed.reply["reason"] == "bad-environment"
    assert "against another adjust" in completed.reply["message"]
    assert not (servo.path / "adjusted").exists()


def test_without_locks_of_the_file_system_an_adjust_goes_on_with_a_warning(servo: ServoDirectory) -> None:
    source = """
        import fcntl

        def flock(descriptor, operation):
            raise OSError(37, "No locks available")

        fcntl.flock = flock
    """
    completed = servo.run("-v", "app", "--set", "web.cpu=4", env=sitecustomize(servo, source))
    assert completed.reply["status"] == "ok"
    assert b"the adjust runs without a lock" in completed.stderr
    assert b"No locks available" in completed.stderr


def test_the_watchdog_holds_the_lock_until_no_driver_is_alive(servo: ServoDirectory) -> None:
    servo.configure("agg: {grace: 60}")
    servo.add("02stubborn", "stubborn")
    with servo.start_adjust("02stubborn.cpu") as running:
        pids = servo.pids("02stubborn", "leader", "child", "grandchild")
        running.send_signal(signal.SIGKILL)
        running.finish(10)
        for role in ("leader", "child", "grandchild"):
            assert not is_free(servo.path)
            os.kill(pids[role], signal.SIGKILL)
        wait_until(lambda: is_free(servo.path), 20, "the lock is free")
