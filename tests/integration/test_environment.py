"""SPEC 2, 5, 11, 13: environments in which something is missing, full, closed, forbidden or invalid.

Every run here ends in bounded time, with the right exit status, in one final object where stdout takes one,
with a sentence where something is wrong, without a traceback, and leaves no process.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Callable

import psutil
import pytest

from tests.support.processes import MARK, Marked, alive, wait_until
from tests.support.servo import REPOSITORY, Completed, ServoDirectory
from tests.support.sources import adjust_script

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from typing_extensions import Unpack

    from tests.support.servo import StartOptions

    Make = Callable[[ServoDirectory], object]

OPERATIONS = {"query": ["--query", "app"], "info": ["--info", "app"], "adjust": ["app"]}

DEADLINE = 30.0
"""Seconds in which a run must end."""

ROOT = os.geteuid() == 0

BELOW_US = re.compile(
    rb"^Fatal Python error|error while loading shared libraries"
    rb"|\AMemoryError\n\Z|\nRemainder of file ignored\n(MemoryError\n)?\Z",
    re.MULTILINE | re.DOTALL,
)
"""What the system prints where the interpreter cannot start the program."""

OF_PYTHON = re.compile(r"Traceback|Exception|\b[A-Z][A-Za-z]*Error\b|\bErrno\b|<frozen")
"""What only a programmer can read."""


def run_in(
    servo: ServoDirectory,
    words: Sequence[str],
    *,
    input: bytes | None = None,  # noqa: A002 - the name that subprocess.run has for it
    **options: Unpack[StartOptions],
) -> Completed:
    """Run `./adjust WORDS` in bounded time; stdin holds settings for all drivers."""
    return servo.run(*words, input=request(servo) if input is None else input, timeout=DEADLINE, **options)


def request(servo: ServoDirectory) -> bytes:
    """Return settings for `cpu` of each driver, which describes a component of its own name."""
    names = (
        [name for name in os.listdir(servo.drivers) if name.isprintable()] if servo.drivers.is_dir() else []
    )
    return json.dumps(servo.request(*(f"{name}.cpu" for name in names))).encode()


def check(completed: Completed) -> dict[str, object] | None:
    """Check what holds forevery run; return its final object, None when Python itself failed."""
    # Python prints that it ignores a file that it cannot read, and goes on.
    ours = completed.stderr.rpartition(b"Remainder of file ignored\n")[2]
    output = (completed.stdout + ours).decode("utf-8", "replace")
    if BELOW_US.search(completed.stderr) and not completed.stdout:
        assert completed.returncode in {1, 127}, completed
        return None
    assert not OF_PYTHON.search(output), completed
    assert completed.stdout.endswith(b"\n"), completed
    final: dict[str, object] = completed.reply
    assert completed.returncode == (0 if final.get("status", "ok") == "ok" else 1), completed
    if completed.returncode:
        assert final["reason"] not in (None, "", "internal"), completed
        assert str(final["message"]).strip(), completed
    return final


def fails(completed: Completed, reason: str, *parts: str) -> None:
    """Check that a run has failed for this reason, with a message that holds these parts."""
    final = check(completed)
    assert final is not None
    assert (final["status"], final["reason"]) == ("failed", reason), completed
    for part in parts:
        assert part in str(final["message"]), completed


def succeeds(completed: Completed) -> None:
    """Check that a run succeeded, with nothing on stderr."""
    assert check(completed) is not None
    assert (completed.returncode, completed.stderr) == (0, b""), completed


def many(servo: ServoDirectory, count: int) -> ServoDirectory:
    for number in range(1, count + 1):
        servo.add(f"d{number}", "plain")
    return servo


@pytest.fixture
def one(servo: ServoDirectory) -> ServoDirectory:
    """Return a servo directory with a good driver."""
    return many(servo, 1)


@pytest.fixture
def two(servo: ServoDirectory) -> ServoDirectory:
    """Return a servo directory with two good drivers."""
    return many(servo, 2)


# --- limits


def sweep(servo: ServoDirectory, words: Sequence[str], limits: Mapping[int, str]) -> list[int]:
    """Run with each of the limits, which are shell commands; return those at which the run succeeded."""
    succeeded = []
    for limit, command in limits.items():
        final = check(run_in(servo, words, before=command))
        if final is not None and final.get("status", "ok") == "ok":
            succeeded.append(limit)
    return succeeded


@pytest.mark.full
@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("words", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_any_limit_of_descriptors_gives_a_result_or_a_message(
    servo: ServoDirectory, words: list[str], count: int
) -> None:
    succeeded = sweep(many(servo, count), words, {limit: f"ulimit -n {limit}" for limit in range(3, 41)})
    assert 40 in succeeded


@pytest.mark.parametrize(
    ("limit", "words"), [(5, "adjust"), (6, "query"), (7, "info"), (8, "query"), (9, "adjust")]
)
def test_too_few_descriptors_for_the_program_are_reported(
    one: ServoDirectory, limit: int, words: str
) -> None:
    """Too few for the pipes of the program itself, or to list the drivers."""
    completed = run_in(one, OPERATIONS[words], before=f"ulimit -n {limit}")
    fails(completed, "bad-environment", "too many open files", "ulimit -n")
    assert one.log() == []


UNUSED_UID = 61000 + os.getpid() % 4000
"""A user without processes."""

# Run a program as this user, with the permissions of root to read and write files.
AS_UNUSED_UID = ["setpriv", f"--reuid={UNUSED_UID}", f"--regid={UNUSED_UID}", "--clear-groups"]
AS_UNUSED_UID += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]


def _has_processes(user: int) -> bool:
    return any(process.info["uids"].real == user for process in psutil.process_iter(["uids"]))


def with_process_limit(limit: int) -> list[str]:
    """Return the prefix that runs a program as a user with at most `limit` processes and threads.

    Root is exempt from that limit, so it becomes a user without processes. Any other user runs it in a user
    namespace, where only the processes in the namespace count.
    """
    if ROOT:
        # A watchdog that had to stop drivers is the last to end, and counts until then.
        wait_until(lambda: not _has_processes(UNUSED_UID), 30, "the end of the last run")
        return ["prlimit", f"--nproc={limit}", *AS_UNUSED_UID]
    namespace = ["unshare", "--user"]
    if subprocess.run([*namespace, "true"], check=False, capture_output=True).returncode:
        pytest.skip(
            "this machine lacks user namespaces for ordinary users: their processes cannot be limited"
        )
    return [*namespace, "prlimit", f"--nproc={limit}"]


@pytest.mark.parametrize("words", OPERATIONS.values(), ids=OPERATIONS.keys())
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_too_few_threads_or_processes_for_the_program_are_reported(
    one: ServoDirectory, words: list[str], limit: int
) -> None:
    """Too few for the watchdog, the coordinator, a writer or the reader of stdin."""
    completed = run_in(one, words, prefix=with_process_limit(limit))
    fails(completed, "bad-environment", "too many processes or threads")
    assert one.log() == []


@pytest.mark.full
@pytest.mark.parametrize("words", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_any_limit_of_processes_gives_a_result_or_a_message(two: ServoDirectory, words: list[str]) -> None:
    for limit in range(1, 16):
        check(run_in(two, words, prefix=with_process_limit(limit)))


FORKER = """\
#!/bin/sh
. ./behave.sh
if [ $phase = adjust ]; then
    while :; do sleep 600 >/dev/null 2>&1 & done
fi
behave
"""
"""A driver that in an adjust starts services until there can be no further process."""


def test_a_driver_that_uses_up_all_processes_fails_the_run(two: ServoDirectory) -> None:
    two.add_script("d1", FORKER)
    try:
        final = check(run_in(two, ["app"], prefix=with_process_limit(25)))
    finally:
        # The program must not stop them: the driver left them on purpose.
        Marked(os.environ[MARK]).kill()
    assert final is not None
    assert final["status"] == "failed"
    first, second = str(final["message"]).splitlines()[:2]
    # Perhaps not even the thread that reads its output can be started.
    assert "d1: failed: exited with status 2" in first or "too many processes or threads" in first
    assert second.startswith("d2: failed: ")


@pytest.mark.full
@pytest.mark.parametrize("words", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_any_limit_of_memory_gives_a_result_or_a_message(two: ServoDirectory, words: list[str]) -> None:
    """From less than Python needs to enough: memory may run out at any point."""
    sizes = [*range(10_000, 60_000, 1_000), *range(60_000, 400_000, 20_000), 2_000_000]
    succeeded = sweep(two, words, {size: f"ulimit -v {size}" for size in sizes})
    assert 2_000_000 in succeeded


@pytest.mark.parametrize("size", [14_500, 20_000, 27_000, 33_000, 44_000])
def test_little_memory_gives_a_result_or_a_message(one: ServoDirectory, size: int) -> None:
    check(run_in(one, OPERATIONS["adjust"], before=f"ulimit -v {size}"))


@pytest.mark.parametrize("words", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_a_limit_of_file_sizes_is_reported(one: ServoDirectory, words: list[str]) -> None:
    """The driver, which writes a log, is killed by SIGXFSZ, but not the program."""
    completed = run_in(one, words, before="ulimit -f 0")
    final = check(completed)
    assert final is not None
    assert "SIGXFSZ" in json.dumps(final)
    completed = run_in(one, words, before="ulimit -f 0", redirect=">answer", env={"DRIVER_LOG": None})
    assert completed.returncode == 1
    assert completed.stderr == b"adjust: cannot write the answer to stdout: File too large\n"


@pytest.mark.full
def test_a_driver_that_exceeds_its_processor_time_has_failed(two: ServoDirectory) -> None:
    two.add_script("d2", "#!/bin/sh\nwhile :; do :; done\n")
    fails(run_in(two, OPERATIONS["query"], before="ulimit -t 1"), "signal", "d2: failed: ", "killed by SIG")


# --- descriptors that are closed, or of the wrong kind

ALL = {**OPERATIONS, "version": ["--version"], "help": ["--help"], "usage": ["--nonsense"]}


@pytest.mark.parametrize(
    "operation",
    [
        "query",
        "adjust",
        *(pytest.param(name, marks=pytest.mark.full) for name in ("info", "version", "help", "usage")),
    ],
)
def test_closed_descriptors_are_handled(one: ServoDirectory, operation: str) -> None:
    for closed in itertools.chain.from_iterable(
        itertools.combinations(range(3), count) for count in range(4)
    ):
        before = len(one.log())
        completed = run_in(one, ALL[operation], redirect=" ".join(f"{number}>&-" for number in closed))
        status = {"usage": 2, "adjust": int(0 in closed)}.get(operation, 0)
        assert completed.returncode == (1 if 1 in closed else status), (closed, completed)
        assert not OF_PYTHON.search((completed.stdout + completed.stderr).decode()), (closed, completed)
        if 1 in closed:
            assert len(one.log()) == before
        if 1 in closed and 2 not in closed:
            assert completed.stderr == b"adjust: stdout is closed, so nothing was run\n"
        elif 1 not in closed:
            assert bool(completed.stdout) is (operation != "usage")
            assert bool(completed.stderr) is (operation == "usage" and 2 not in closed)


@pytest.mark.parametrize(
    ("operation", "redirect", "why"),
    [
        ("query", ">/dev/full", "No space left on device"),
        ("adjust", ">/dev/full", "No space left on device"),
        ("info", "1</dev/null", "Bad file descriptor"),
        ("version", ">/dev/full", "No space left on device"),
        ("help", ">/dev/full", "No space left on device"),
        ("usage", ">/dev/full", ""),
    ],
)
def test_stdout_that_cannot_be_written_is_reported(
    one: ServoDirectory, operation: str, redirect: str, why: str
) -> None:
    completed = run_in(one, ALL[operation], redirect=redirect)
    assert completed.returncode == (2 if operation == "usage" else 1)
    if operation != "usage":
        assert completed.stderr.decode() == f"adjust: cannot write the answer to stdout: {why}\n"


@pytest.mark.parametrize("redirect", ["2>/dev/full", "2</dev/null"])
def test_stderr_that_cannot_be_written_is_ignored(one: ServoDirectory, redirect: str) -> None:
    for words in (["-v", "--query", "app"], ["app"]):
        succeeds(run_in(one, words, redirect=redirect))
    assert run_in(one, ["--nonsense"], redirect=redirect).returncode == 2
    assert run_in(one, ["--query", "app"], redirect=f">&- {redirect}").returncode == 1


STDIN = {
    "not for reading": ("0>/dev/null", "cannot read stdin: Bad file descriptor"),
    "endless": ("</dev/zero", "longer than 16 MiB"),
    "full": ("</dev/full", "longer than 16 MiB"),
    "closed": ("<&-", "the input is empty"),
}


@pytest.mark.parametrize(("redirect", "part"), STDIN.values(), ids=STDIN.keys())
def test_stdin_without_a_usable_request_is_reported(one: ServoDirectory, redirect: str, part: str) -> None:
    fails(run_in(one, ["app"], redirect=redirect), "bad-input", part)
    succeeds(run_in(one, ["--query", "app"], redirect=redirect))


def test_stdin_is_read_to_its_end_where_no_thread_can_be_started(one: ServoDirectory) -> None:
    """The agent fails if stdin is closed earlier."""
    completed = run_in(one, ["app"], prefix=with_process_limit(1), input=b" " * 3_000_000)
    fails(completed, "bad-environment")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_handled_where_no_thread_can_be_started(
    one: ServoDirectory, number: signal.Signals
) -> None:
    with one.start("app", input=None, prefix=with_process_limit(2)) as program:
        program.write(b"{")
        wait_until(lambda: waits_for_stdin_with_handler(program.pid, number), 30, "its wait for stdin")
        program.send_signal(number)
        final = json.loads(program.stdout.read())
        assert program.process.wait(30) == 128 + number
    assert final["reason"] == "bad-environment"


def waits_for_stdin_with_handler(pid: int, number: int) -> bool:
    """Return whether a process waits in a read of a pipe and has an unblocked handler for a signal."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        fields = dict(line.split(":", 1) for line in status)
    with open(f"/proc/{pid}/wchan", encoding="ascii") as wchan:
        waits = "pipe" in wchan.read()
    bit = 1 << (number - 1)
    return waits and bool(int(fields["SigCgt"], 16) & bit) and not int(fields["SigBlk"], 16) & bit


INTERPRETER_ERRORS: dict[str, tuple[str, dict[str, str | None]]] = {
    "stdin is a directory": ("</", {}),
    "no such encoding": ("", {"PYTHONIOENCODING": "nonsense"}),
}


@pytest.mark.parametrize(("redirect", "env"), INTERPRETER_ERRORS.values(), ids=INTERPRETER_ERRORS.keys())
def test_an_interpreter_that_refuses_to_start_runs_no_driver(
    one: ServoDirectory, redirect: str, env: dict[str, str | None]
) -> None:
    """The interpreter prints why, and the program does not run."""
    completed = run_in(one, ["--query", "app"], redirect=redirect, env=env)
    assert check(completed) is None
    assert one.log() == []


# --- the environment

ENVIRONMENTS: dict[str, dict[str, str | None]] = {
    "no locale": {"LANG": None, "LC_ALL": None, "LC_CTYPE": None, "HOME": None},
    "the locale C, and no UTF-8": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "LANG=C": {"LANG": "C"},
    "warnings are errors": {"PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1"},
    "without asserts and docstrings": {"PYTHONOPTIMIZE": "2"},
    "other variables of Python": {
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "1",
        "PYTHONSAFEPATH": "1",
        "PYTHONSTARTUP": "/nonexistent",
    },
    "inspect at the end": {"PYTHONINSPECT": "1"},
    "a path that is nowhere": {"PYTHONPATH": "/nonexistent::\udcff"},
    "not UTF-8": {"\udcff\udcfe": "\udcfd", "OPTUNE_VERBOSE_STDERR": "\udcff"},
    "traced": {"PYTHONTRACEMALLOC": "1", "PYTHONFAULTHANDLER": "1", "PYTHONMALLOC": "debug"},
}


@pytest.mark.parametrize("env", ENVIRONMENTS.values(), ids=ENVIRONMENTS.keys())
def test_odd_environments_do_no_harm(one: ServoDirectory, env: dict[str, str | None]) -> None:
    succeeds(run_in(one, ["app"], env=env))


def test_an_empty_environment_does_no_harm(one: ServoDirectory) -> None:
    prefix = ["env", "-i", f"{MARK}={os.environ[MARK]}"]
    for words in OPERATIONS.values():
        succeeds(run_in(one, words, command=[sys.executable, "./adjust"], prefix=prefix))


def test_a_profile_of_imports_does_not_change_stdout(one: ServoDirectory) -> None:
    completed = run_in(one, ["--query", "app"], env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert check(completed) is not None
    assert completed.returncode == 0


MODULES = ["json", "signal", "threading", "psutil", "yaml", "fcntl", "mmap", "select", "difflib", "servo_agg"]


@pytest.mark.parametrize("how", ["./adjust", "on PYTHONPATH", "python -m servo_agg"])
def test_modules_of_the_servo_directory_are_not_imported_by_the_program(
    one: ServoDirectory, how: str
) -> None:
    """They have names of modules that it imports. An outer aggregator puts its own on PYTHONPATH."""
    for name in MODULES if how != "python -m servo_agg" else MODULES[:-1]:
        (one.path / f"{name}.py").write_text("raise SystemExit('not yours')\n", encoding="utf-8")
    one.configure("agg: {paralel: 1}")
    env = {"PYTHONPATH": str(one.path)} if how == "on PYTHONPATH" else {}
    command = [sys.executable, "-m", "servo_agg"] if how.startswith("python") else ["./adjust"]
    fails(run_in(one, ["app"], command=command, env=env), "bad-configuration", "did you mean 'parallel'?")
    one.configure("agg: {parallel: 1}")
    succeeds(run_in(one, ["app"], command=command, env=env))


@pytest.mark.parametrize("name", ["a b", "a\nb", "\udcff", "x:y", "$HOME'\"`"])
def test_the_servo_directory_may_have_any_path(tmp_path: Path, name: str) -> None:
    succeeds(run_in(many(ServoDirectory(tmp_path, name), 1), ["app"]))


ANSWERING = """\
#!/bin/sh
case $1 in
--info) echo '{"version":"1"}' ;;
--query) echo '{"components":{"web":{"settings":{"cpu":{"value":2}}}}}' ;;
*) echo '{"progress":50}'; echo '{"status":"ok"}' ;;
esac
"""


@pytest.mark.parametrize(
    "name", ["a b", "a\nb", "q'\"$x`", "\udcff\udcfe", "-v", "--info", "x" * 255, " ", "a\\b"]
)
def test_a_driver_may_have_any_name(servo: ServoDirectory, name: str) -> None:
    servo.add_script(name, ANSWERING)
    completed = run_in(servo, ["app"], input=json.dumps(servo.request("web.cpu")).encode())
    succeeds(completed)
    assert list(completed.reply["drivers"]) == [name]


@pytest.mark.parametrize("app", [" ", " -app", "a b", "a\nb", "\udcff", "\u2013app", "x" * 130_000])
def test_the_application_may_be_any_text_without_a_leading_dash(one: ServoDirectory, app: str) -> None:
    succeeds(run_in(one, ["--query", app]))
    succeeds(run_in(one, [app]))


# --- the servo directory and adjust.d


def replace(make: Callable[[Path], object]) -> Make:
    """Return a function that puts something else in the place of adjust.d."""

    def replace_drivers(servo: ServoDirectory) -> None:
        shutil.rmtree(servo.drivers)
        make(servo.drivers)

    return replace_drivers


PLACES: dict[str, tuple[Make, str]] = {
    "a pipe": (replace(os.mkfifo), "must be a directory"),
    "unreadable": (lambda servo: servo.drivers.chmod(0o100), "Permission denied"),
    "not to be entered": (lambda servo: servo.drivers.chmod(0o400), "has no execute permission"),
}

# Root may read anything, unless this right is taken from it.
UNPRIVILEGED = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if ROOT else []


@pytest.mark.parametrize(("make", "part"), PLACES.values(), ids=PLACES.keys())
def test_an_unusable_adjust_d_is_named(one: ServoDirectory, make: Make, part: str) -> None:
    make(one)
    try:
        completed = run_in(one, ["app"], prefix=UNPRIVILEGED, input=b'{"application":{}}')
        fails(completed, "no-adjust-d", str(one.drivers), part)
    finally:
        if one.drivers.is_dir():
            one.drivers.chmod(0o700)


@pytest.mark.full
def test_files_that_are_not_drivers_are_ignored(one: ServoDirectory) -> None:
    os.mkfifo(one.drivers / "pipe", 0o777)
    (one.drivers / "device").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        # By a short name: the whole path may be longer than a socket's may be.
        descriptor = os.open(one.drivers, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{descriptor}/socket")
        os.close(descriptor)
    (one.drivers / "socket").chmod(0o777)
    for number in range(10_000):
        (one.drivers / f"{number}").touch(0o600)
    for words in OPERATIONS.values():
        succeeds(run_in(one, words, input=json.dumps(one.request("d1.cpu")).encode()))


# --- drivers that do not start


NO_DRIVERS: dict[str, tuple[bytes, str]] = {
    "an endless first line": (b"#!/" + b"x" * 5000, "longer than the 255 bytes"),
    "a first line of slashes": (b"#!" + b"/" * 300 + b"bin/sh\n", "longer than the 255 bytes"),
    "itself as its interpreter": (b"#!adjust.d/d1\n", "is a script, whose interpreter"),
}


@pytest.mark.parametrize(("content", "part"), NO_DRIVERS.values(), ids=NO_DRIVERS.keys())
def test_a_driver_that_cannot_start_says_why(one: ServoDirectory, content: bytes, part: str) -> None:
    (one.drivers / "d1").write_bytes(content)
    fails(run_in(one, ["app"]), "cannot-start", "d1: failed: on --query: cannot be started: ", part)


LOST: dict[str, tuple[str, str]] = {
    "a pipe": ("rm adjust.d/d2; mkfifo -m 755 adjust.d/d2", "not a regular file any more"),
    "all of adjust.d": ("rm -r adjust.d", "was removed"),
}


@pytest.mark.parametrize(("command", "part"), LOST.values(), ids=LOST.keys())
def test_a_driver_that_disappears_after_the_listing_has_failed(
    two: ServoDirectory, command: str, part: str
) -> None:
    """The driver before it, which is asked first, removes it."""
    two.configure("agg: {parallel: 1}")
    two.add_script("d1", ANSWERING.replace("--query)", f"--query) {command};"))
    fails(run_in(two, ["--query", "app"]), "cannot-start", "d2: failed: ", "cannot be started: ", part)


# --- config.yaml


def bomb(key: str) -> str:
    """Return ten lists, each of ten times the one before: 10 GB if written out."""
    lists = (f"{key}{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 10))
    return f"{key}0: &l0 [a, b]\n{''.join(lists)}"


def merges(**settings: object) -> str:
    """Return mappings each of which merges the one before nine times, down to the settings."""
    mappings = (f"m{n}: &m{n}\n  <<: [{', '.join([f'*m{n - 1}'] * 9)}]\n" for n in range(1, 10))
    return f"m0: &m0 {json.dumps(settings)}\n{''.join(mappings)}agg:\n  <<: [*m9, *m9]\n"


BAD_FILES: dict[str, tuple[str | bytes, str]] = {
    "UTF-16": (
        "agg:\n  parallel: none\n".encode("utf-16"),
        "agg.parallel is the string 'none', expected a whole number of 1 or more",
    ),
    "a bomb inside": ("agg:\n" + "".join(f"  {line}\n" for line in bomb("x").splitlines()), "unknown key"),
    "a bomb as a value": (bomb("x") + "agg:\n  serial: *l9\n", "agg.serial"),
    "a bomb that is merged": (bomb("x") + "agg:\n  <<: *l9\n", "<< merges only mappings"),
    "a bomb of merges": (merges(paralel=1), "unknown key 'paralel'"),
    "a bomb of merges, a wrong value": (
        merges(parallel=0),
        "agg.parallel is 0, expected a whole number of 1 or more",
    ),
    "a list that holds itself": ("agg:\n  serial: &s [*s]\n", "agg.serial is &s [*s], expected"),
    "too long": ("x: y\n" * 300_000 + "agg: {parallel: 1}\n", "longer than 1 MiB"),
}


@pytest.mark.parametrize(("content", "part"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_config_yaml_is_refused(one: ServoDirectory, content: str | bytes, part: str) -> None:
    """In bounded time and memory."""
    (one.path / "config.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    completed = run_in(one, ["--query", "app"], before="ulimit -v 400000")
    fails(completed, "bad-configuration", "config.yaml", part)


GOOD_FILES: dict[str, str | bytes] = {
    "UTF-16": "agg:\n  parallel: 1\n".encode("utf-16"),
    "UTF-16, the other way": b"\xfe\xff" + "agg: {parallel: 1}".encode("utf-16-be"),
    "a bomb outside": bomb("x") + "agg: {parallel: 1}\n",
    "a merge of itself": "agg: &a\n  <<: [*a, *a]\n  parallel: 1\n",
    "a bomb of merges": merges(parallel=1),
    "a chain of merges": "m0: &m0 {}\n"
    + "".join(f"m{n + 1}: &m{n + 1}\n  <<: *m{n}\n" for n in range(3000))
    + "agg:\n  <<: *m3000\n",
    "long": "x: y\n" * 10_000_000,
}


@pytest.mark.parametrize("content", GOOD_FILES.values(), ids=GOOD_FILES.keys())
def test_a_strange_config_yaml_is_accepted(one: ServoDirectory, content: str | bytes) -> None:
    (one.path / "config.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    succeeds(run_in(one, ["--query", "app"], before="ulimit -v 400000"))


def test_a_config_yaml_that_may_not_be_read_is_refused(one: ServoDirectory) -> None:
    (one.path / "config.yaml").touch(0)
    completed = run_in(one, ["app"], prefix=UNPRIVILEGED)
    fails(completed, "bad-configuration", "config.yaml", "Permission denied")


def test_a_config_yaml_may_be_dev_null(one: ServoDirectory) -> None:
    (one.path / "config.yaml").symlink_to("/dev/null")
    succeeds(run_in(one, ["--query", "app"]))


# --- file systems

NEW_NAMESPACE = ["unshare", "-m"] if ROOT else ["unshare", "-rm"]
MAY_MOUNT = (
    shutil.which("unshare") is not None
    and not subprocess.run(
        [*NEW_NAMESPACE, "mount", "-t", "tmpfs", "none", "/mnt"], check=False, capture_output=True
    ).returncode
)
needs_mount = pytest.mark.skipif(not MAY_MOUNT, reason="this machine lacks namespaces in which one may mount")

MOUNTS = {
    "read-only": "mount --bind . .; mount -o remount,ro,bind .; cd .",
    "no /proc": "mount -t tmpfs none /proc",
}
if ROOT:
    # Only root may mount a /proc that shows existing processes.
    hide = f'mount -t proc -o hidepid=2 proc /proc; exec {" ".join(AS_UNUSED_UID)} ./adjust "$@"'
    MOUNTS["nothing of others in /proc"] = hide


@needs_mount
@pytest.mark.parametrize("words", OPERATIONS.values(), ids=OPERATIONS.keys())
@pytest.mark.parametrize("before", MOUNTS.values(), ids=MOUNTS.keys())
def test_unusual_file_systems_do_no_harm(one: ServoDirectory, before: str, words: list[str]) -> None:
    before = before.replace(" .", f" {shlex.quote(str(one.path))}")
    succeeds(run_in(one, words, before=before, prefix=NEW_NAMESPACE, env={"DRIVER_LOG": None}))


@needs_mount
def test_drivers_on_a_noexec_file_system_are_ignored_with_a_message(one: ServoDirectory) -> None:
    place = shlex.quote(str(one.drivers))
    before = f"mount --bind {place} {place}; mount -o remount,noexec,bind {place}"
    completed = run_in(one, ["--query", "app"], before=before, prefix=NEW_NAMESPACE)
    assert completed.returncode == 0
    assert b"mounted noexec" in completed.stderr
    fails(
        run_in(one, ["app"], before=before, prefix=NEW_NAMESPACE),
        "unknown-settings",
        "no driver in",
    )


@needs_mount
@pytest.mark.parametrize("before", list(MOUNTS.values())[1:], ids=list(MOUNTS)[1:])
def test_a_timeout_stops_processes_that_proc_does_not_show(one: ServoDirectory, before: str) -> None:
    """The driver, its child and its grandchild are stopped nevertheless."""
    one.add("d1", "silent", when="adjust")
    # Time enough for all three processes to be started.
    env = {"DRIVER_LOG": None, "OPTUNE_IO_TIMEOUT": "4"}
    fails(
        run_in(one, ["app"], before=before, prefix=NEW_NAMESPACE, env=env),
        "timeout",
        "d1: failed",
    )
    members = one.pids("d1", "leader", "child", "grandchild").values()
    wait_until(lambda: not any(alive(pid) for pid in members), 30, "the end of the driver")


@needs_mount
def test_files_on_a_read_only_mount_may_have_any_mode(one: ServoDirectory) -> None:
    one.drivers.chmod(0o777)
    drivers = shlex.quote(str(one.drivers))
    before = f"mount --bind {drivers} {drivers}; mount -o remount,ro,bind {drivers}"
    assert one.run("--check", "app").returncode == 1
    checked = run_in(one, ["--check", "app"], before=before, prefix=NEW_NAMESPACE)
    assert b"no problem found" in checked.stdout


# --- our own files, which change during a run

REMOVED = "rm -rf servo_agg"
RENAMED = "mv servo_agg old; mv new servo_agg"
OTHERS = (
    "for file in $(find servo_agg -name '*.py'); do echo 'raise RuntimeError' >$file; done; "
    "rm -rf servo_agg/__pycache__ servo_agg/*/__pycache__"
)


def copy_program(servo: ServoDirectory, name: str = "servo_agg") -> None:
    """Copy the program into a servo directory, its package under another name if one is given."""
    (servo.path / "adjust").unlink(missing_ok=True)
    shutil.copy(REPOSITORY / "adjust", servo.path)
    # Other workers write bytecode to files of these names, and rename them. The times of the sources are
    # preserved: without them, the bytecode is not used.
    shutil.copytree(REPOSITORY / "servo_agg", servo.path / name, ignore=shutil.ignore_patterns("*.pyc.*"))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        pytest.param(command, words, id=" ".join([name, *words]), marks=[] if quick else [pytest.mark.full])
        for name, command in {"removed": REMOVED, "renamed": RENAMED, "others": OTHERS}.items()
        for words, quick in (
            (["--query", "app"], True),
            (["app"], True),
            # The modules that these load late are covered by `removed`.
            (["--check"], command == REMOVED),
            (["--plan", "app"], command == REMOVED),
        )
    ],
)
def test_a_run_whose_own_files_change_succeeds_or_says_so(
    servo: ServoDirectory, command: str, words: list[str]
) -> None:
    copy_program(servo)
    if command == RENAMED:
        # A newer version, which does not match the modules that are loaded.
        copy_program(servo, "new")
        for module in ("settings", "outcome"):
            path = servo.path / "new" / "protocol" / f"{module}.py"
            path.write_text("raise RuntimeError\n", encoding="ascii")
    answer = {"status": "ok", "application": {"settings": {"cpu": {"value": 2}}}, "version": "1"}
    source = f"#!/bin/sh\ncase $1 in -*) {command} ;; esac 2>/dev/null\necho '{json.dumps(answer)}'\n"
    servo.add_script("01", source)
    given = b'{"application":{"settings":{"cpu":{"value":4}}}}'
    completed = servo.run(*words, input=given, env={"PYTHONDONTWRITEBYTECODE": "1"})
    output = completed.stdout + completed.stderr
    assert not OF_PYTHON.search(output.decode()), output
    # Where all modules were loaded before, the run succeeds.
    assert (completed.returncode != 0) == (b"changed or removed while it ran" in output)


ENDS = {
    "success": ("""echo '{"status":"ok"}'""", "success"),
    "failure": ("echo trouble >&2; exit 3", "exit-status"),
    "malformed": ("echo hello; sleep 60", "malformed"),
    "timeout": ("sleep 60", "timeout"),
    "termination": ("kill -TERM $PPID; sleep 60", "SIGTERM"),
    "cancel": ("""kill -USR1 $PPID; sleep 1; echo '{"status":"ok"}'""", "SIGUSR1"),
}


@pytest.mark.parametrize(
    ("body", "reason", "options"),
    [
        *(pytest.param(*end, [], id=name) for name, end in ENDS.items()),
        pytest.param(*ENDS["failure"], ["-v", "--timings"], id="failure-verbose"),
        pytest.param(*ENDS["success"], ["-v", "--timings"], id="success-verbose", marks=pytest.mark.full),
    ],
)
def test_an_adjust_does_not_need_its_own_files(
    servo: ServoDirectory, body: str, reason: str, options: list[str]
) -> None:
    copy_program(servo)
    servo.configure("agg: {log: run.log, grace: 1}")
    servo.add_script("01", adjust_script(f"{REMOVED}\n{body}\n"))
    servo.add_script("02", adjust_script("""echo '{"status":"ok"}'""", component="db"))
    completed = servo.run(
        *options, "app", input=servo.request("web.cpu", "db.cpu"), env={"OPTUNE_IO_TIMEOUT": "3"}
    )
    assert completed.reply["reason"] == reason
    assert b"Traceback" not in completed.stderr
