"""SPEC 11.15-11.21, 14.26, 14.39: `--timings` and the `log` show what each driver did and when."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import re
import signal
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.support.locks import held_as_by_adjust
from tests.support.processes import wait_until
from tests.support.schemas import assert_matches, schemas
from tests.support.sources import sitecustomize

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.servo import Completed, ServoDirectory

Line = dict[str, Any]


class Shown(NamedTuple):
    """The output of `--timings`."""

    rows: list[tuple[str, str, float, str]]
    """Driver, phase, seconds and status, in the order shown."""
    bars: list[tuple[int, int]]
    """Begin and length of each bar, in places."""
    places: int
    """The length of the axis."""
    total: float
    in_turn: float | None


def shown(stderr: bytes) -> Shown:
    """Read the timings at the end of stderr."""
    lines = stderr.decode("ascii").splitlines()
    ending = re.fullmatch(
        r"total (\d+\.\d{3}) s; (?:no driver was run|(\d+\.\d{3}) s if the drivers ran one after another)",
        lines[-1],
    )
    assert ending is not None, lines[-1]
    if ending[2] is None:
        return Shown([], [], 0, float(ending[1]), None)
    start = max(number for number, line in enumerate(lines) if line.startswith("driver "))
    assert re.fullmatch(rf"driver +phase +seconds  status +0 s +{ending[1]} s", lines[start])
    rows, bars = [], []
    axis = lines[start].index("0 s")
    for line in lines[start + 1 : -1]:
        driver, phase, seconds, status = line[:axis].split()
        rows.append((driver, phase, float(seconds), status))
        bar = re.fullmatch("( *)(=+)", line[axis:])
        assert bar is not None, line
        bars.append((len(bar[1]), len(bar[2])))
    return Shown(rows, bars, len(lines[start]) - axis, float(ending[1]), float(ending[2]))


def all_logged(servo: ServoDirectory, name: str = "run.log") -> list[Line]:
    text = (servo.path / name).read_text(encoding="ascii")
    assert text.endswith("\n")
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert_matches("agg-log-line", line)
    return lines


def logged(servo: ServoDirectory, name: str = "run.log") -> list[Line]:
    """Return the lines of drivers."""
    return [line for line in all_logged(servo, name) if line["phase"] != "run"]


def figures(lines: list[Line]) -> list[tuple[str, str, float, str]]:
    """Return what timings show of each line, in their order."""
    ordered = sorted(lines, key=lambda line: line["start"])
    return [(line["driver"], line["phase"], line["seconds"], line["status"]) for line in ordered]


def without_drivers(lines: list[Line], total: float) -> float:
    """Return the seconds in which no driver ran."""
    moments = sorted(lines, key=lambda line: line["start"])
    busy = until = 0.0
    for line in moments:
        end = line["start"] + line["seconds"]
        busy += max(0.0, end - max(until, line["start"]))
        until = max(until, end)
    return total - busy


REQUEST = b'{"application":{"components":{"web":{"settings":{"cpu":{"value":4}}}}}}'

RUNS: list[tuple[list[str], bytes, set[str], bool]] = [
    (["--query", "app"], b"", {"query"}, False),
    (["--query", "app"], b"", {"query"}, True),
    (["--info"], b"", {"info"}, True),
    (["--version"], b"", {"info"}, False),
    (["app"], REQUEST, {"query", "adjust"}, False),
    (["app", "--set", "web.cpu=4"], b"", {"query"}, True),
    (["--check", "app"], b"", {"info", "query"}, True),
    (["--plan", "app"], REQUEST, {"query"}, False),
]
"""Command line, stdin, the phases of drivers, and whether a driver fails in them."""


@pytest.mark.parametrize(("words", "given", "phases", "failing"), RUNS)
def test_timings_and_log_show_the_same(
    servo: ServoDirectory, words: list[str], given: bytes, phases: set[str], failing: bool
) -> None:
    servo.configure("agg: {log: run.log}")
    servo.add("01web", "slow", component="web", seconds=0.2)
    servo.add("02db", "plain", component="db")
    servo.add("03x", "exit3" if failing else "plain", component="x", when="info query")
    completed = servo.run(*words, "--timings", input=given)
    # An --info succeeds even if a driver fails.
    assert completed.returncode == (1 if failing and words != ["--info"] else 0), completed
    timings, lines = shown(completed.stderr), logged(servo)
    assert sorted(timings.rows) == sorted(figures(lines))
    assert {line["phase"] for line in lines} == phases
    # Both are those of the start of the phase, to 0.001 s.
    begins = [dt.datetime.fromisoformat(line["time"][:-1]).timestamp() - line["start"] for line in lines]
    assert max(begins) - min(begins) < 0.003
    assert timings.in_turn is not None
    one_by_one = without_drivers(lines, timings.total) + sum(line["seconds"] for line in lines)
    assert abs(timings.in_turn - one_by_one) < 0.002
    assert timings.total <= completed.seconds
    assert all(begin + length <= timings.places for begin, length in timings.bars)


def test_bars_share_one_axis(servo: ServoDirectory) -> None:
    for name in ("01a", "02b"):
        servo.add(name, "slow", component=name, when="query adjust", seconds=0.6)
    completed = servo.run("app", "--set", "01a.cpu=4", "--set", "02b.cpu=4", "--timings")
    timings = shown(completed.stderr)
    by_row = {row[:2]: bar for row, bar in zip(timings.rows, timings.bars)}
    ends = {row: begin + length for row, (begin, length) in by_row.items()}
    assert by_row["01a", "query"][0] < ends["02b", "query"]
    assert ends["01a", "query"] <= by_row["01a", "adjust"][0] + 1
    assert ends["01a", "adjust"] <= by_row["02b", "adjust"][0] + 1
    for (_, _, seconds, _), (_, length) in zip(timings.rows, timings.bars):
        assert abs(length - timings.places * seconds / timings.total) <= 1
    # The two queries ran at the same time.
    assert timings.in_turn is not None
    assert timings.in_turn > timings.total + 0.2


def test_a_run_without_drivers_or_that_is_refused_has_a_total(servo: ServoDirectory) -> None:
    completed = servo.run("app", "--timings", input=b'{"application":{}}')
    assert (completed.returncode, shown(completed.stderr).rows) == (0, [])
    completed = servo.run("app", "--timings", input=b"not JSON")
    assert (completed.returncode, shown(completed.stderr).rows) == (1, [])


def test_timings_are_ascii(servo: ServoDirectory) -> None:
    servo.add("größe", "plain")
    (row,) = shown(servo.run("--info", "--timings").stderr).rows
    assert row[0] == r"gr\xf6\xdfe"


# The log.


def test_a_line_of_the_log_has_these_keys_and_values(servo: ServoDirectory) -> None:
    servo.configure("agg: {log: run.log}")
    servo.add("01a", "plain", component="web")
    servo.add("02größe", "plain", component="db")
    before = time.time()
    assert servo.run("größe", input=REQUEST).returncode == 0
    assert servo.run("--version").returncode == 0
    after = time.time()
    lines = logged(servo)
    assert [(line["driver"], line["phase"]) for line in sorted(lines[:2], key=str)] == [
        ("01a", "query"),
        ("02größe", "query"),
    ]
    assert [(line["driver"], line["phase"]) for line in lines[2:]][:1] == [("01a", "adjust")]
    assert [line["application"] for line in lines] == ["größe"] * 3 + [None] * 2
    for line in lines:
        assert list(line) == [
            "time",
            "run",
            "application",
            "driver",
            "phase",
            "start",
            "seconds",
            "status",
            "reason",
            "message",
            "exit",
            "signals",
        ]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        moment = dt.datetime.fromisoformat(line["time"].replace("Z", "+00:00")).timestamp()
        assert before - 0.1 <= moment <= after + 0.1
        assert isinstance(line["start"], float)
        assert isinstance(line["seconds"], float)
        assert (line["status"], line["reason"], line["message"]) == ("ok", "success", "")
        assert (line["exit"], line["signals"]) == (0, [])


def test_failures_are_logged_with_their_reasons(servo: ServoDirectory) -> None:
    servo.configure("agg: {log: run.log}")
    servo.add("01a", "exit3", when="info")
    servo.add_script("02b", "#!/nowhere\n")
    servo.add("03c", "malformed", when="info")
    servo.add("04d", "crash", when="info")
    servo.run("--info")
    lines = logged(servo)
    assert sorted((line["driver"], line["status"], line["reason"], str(line["exit"])) for line in lines) == [
        ("01a", "failed", "exit-status", "3"),
        ("02b", "failed", "cannot-start", "None"),
        ("03c", "failed", "malformed", "0"),
        ("04d", "failed", "signal", "SIGSEGV"),
    ]


@pytest.mark.parametrize(("kind", "signals"), [("silent", ["SIGTERM"]), ("stubborn", ["SIGTERM", "SIGKILL"])])
def test_the_signals_of_a_timeout_are_logged(servo: ServoDirectory, kind: str, signals: list[str]) -> None:
    servo.configure("agg: {log: run.log}")
    servo.add("01a", kind, when="adjust")
    assert servo.adjust("01a.cpu", env={"OPTUNE_IO_TIMEOUT": "2.5"}).returncode == 1
    query, adjust = logged(servo)
    assert query["signals"] == []
    assert (adjust["phase"], adjust["reason"], adjust["signals"]) == ("adjust", "timeout", signals)


def test_a_cancel_is_logged_with_its_info(servo: ServoDirectory) -> None:
    servo.configure("agg: {log: run.log}")
    servo.add("01a", "cancelable")
    with servo.start_adjust("01a.cpu") as running:
        running.wait_for_line(lambda message: message.get("message") == "01a: may be canceled")
        running.send_signal(signal.SIGUSR1)
        assert running.finish(30).returncode == 1
    query, info, adjust = logged(servo)
    assert [line["phase"] for line in (query, info, adjust)] == ["query", "info", "adjust"]
    assert adjust["start"] < info["start"] <= adjust["start"] + adjust["seconds"]
    assert (info["status"], info["signals"]) == ("ok", [])
    assert (adjust["status"], adjust["reason"]) == ("canceled", "rolled-back")
    assert adjust["signals"] == ["SIGUSR1"]


def test_a_signal_that_ends_the_run_is_logged(servo: ServoDirectory) -> None:
    servo.configure("agg: {log: run.log}")
    servo.add("01a", "silent")
    with servo.start_adjust("01a.cpu") as running:
        servo.pids("01a", "leader", "child", "grandchild")
        running.send_signal(signal.SIGTERM)
        assert running.finish(30).returncode == 128 + signal.SIGTERM
    assert [(line["phase"], line["signals"]) for line in logged(servo)] == [
        ("query", []),
        ("adjust", ["SIGTERM"]),
    ]


def make_directory(path: Path) -> None:
    path.mkdir()


def make_read_only(path: Path) -> None:
    path.touch(mode=0o444)


def make_nothing(_: Path) -> None:
    pass


UNWRITABLE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "directory": ("run.log", make_directory, "Is a directory"),
    "no permission": ("run.log", make_read_only, "Permission denied"),
    "missing directory": ("no/run.log", make_nothing, "No such file or directory"),
    "fifo": ("run.log", os.mkfifo, "No such device or address"),
    "full": ("/dev/full", make_nothing, "not all lines of this run are in it"),
}


@pytest.mark.parametrize(("log", "make", "why"), UNWRITABLE.values(), ids=UNWRITABLE.keys())
def test_a_log_that_cannot_be_written_is_only_a_warning(
    servo: ServoDirectory, log: str, make: Callable[[Path], object], why: str
) -> None:
    servo.configure(f"agg: {{log: {log}}}")
    servo.add("01a", "plain", component="web")
    servo.add("02b", "plain", component="db")
    make(servo.path / log)
    # Permissions must apply to root, too.
    drop = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.getuid() == 0 else ()
    completed = servo.run("app", input=REQUEST, prefix=drop)
    assert completed.stderr.decode() == f"warning: the log {log} cannot be written: {why}\n"
    assert (completed.returncode, completed.reply["status"]) == (0, "ok")


def test_a_log_that_hangs_delays_the_end_by_a_few_seconds(servo: ServoDirectory) -> None:
    servo.configure("agg: {log: run.log}")
    servo.add("01a", "plain", component="web")
    os.mkfifo(servo.path / "run.log")
    reader = os.open(servo.path / "run.log", os.O_RDWR | os.O_NONBLOCK)
    try:
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(reader, bytes(4096))
        with servo.start_adjust("web.cpu") as running:
            running.wait_for_line(lambda message: message.get("status") == "ok")
            operation = running.finish()
    finally:
        os.close(reader)
    assert operation.returncode == 0
    final_at = operation.lines[-1][0]
    assert operation.seconds - final_at < 6
    assert operation.stderr == (
        b"warning: the log run.log cannot be written: not all lines of this run are in it\n"
    )


def test_a_log_path_that_the_locale_cannot_encode_is_only_a_warning(servo: ServoDirectory) -> None:
    servo.configure("agg: {log: grün.log}")
    servo.add("01a", "plain", component="web")
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    given = json.dumps(servo.request("web.cpu")).encode()
    completed = servo.run("app", input=given, env=locale)
    assert completed.reply["status"] == "ok"
    assert b"its path cannot be encoded in this locale" in completed.stderr


def test_lines_of_many_runs_at_once_are_not_mixed(servo: ServoDirectory) -> None:
    servo.configure("agg: {log: run.log}")
    names = ["01a", "02b", "03c", "04" + "long" * 50]
    for name in names:
        servo.add(name, "plain")
    with contextlib.ExitStack() as stack:
        runs = [stack.enter_context(servo.start("--query", f"app{number}")) for number in range(5)]
        assert [run.finish().returncode for run in runs] == [0] * 5
    assert sorted((line["application"], line["driver"]) for line in logged(servo)) == sorted(
        (f"app{number}", name) for number in range(5) for name in names
    )
    # Each run has an id of its own.
    assert len({(line["application"], line["run"]) for line in all_logged(servo)}) == 5
    assert len({line["run"] for line in all_logged(servo)}) == 5


def test_the_log_is_appended_to_relative_to_the_servo_directory(servo: ServoDirectory) -> None:
    (servo.path / "logs").mkdir()
    servo.configure("agg: {log: logs/run.log}")
    servo.add("01a", "plain")
    before = {**schemas()["agg-log-line"]["examples"][0], "driver": "before"}
    (servo.path / "logs" / "run.log").write_text(f"{json.dumps(before)}\n", encoding="ascii")
    for _ in range(2):
        completed: Completed = servo.run("--info")
        assert completed.returncode == 0
    assert [line["driver"] for line in logged(servo, "logs/run.log")] == ["before", "01a", "01a"]


@pytest.mark.parametrize("path", ["/proc/self/fd/1", "out", "config.yaml"])
def test_a_log_that_is_our_stdout_or_configuration_is_not_written(servo: ServoDirectory, path: str) -> None:
    servo.configure(f"agg: {{log: {path}}}")
    servo.add("01web", "plain", component="web")
    with (servo.path / "out").open("wb") as out:
        completed = servo.run("--query", "app", stdout=out)
    warning = f"warning: the log {path} is stdout or config.yaml, so nothing is logged\n"
    assert (completed.returncode, completed.stderr.decode()) == (0, warning)
    assert list(json.loads((servo.path / "out").read_bytes())) == ["application"]
    assert (servo.path / "config.yaml").read_text() == f"agg: {{log: {path}}}"


def test_the_log_includes_time_in_which_the_run_was_stopped(servo: ServoDirectory) -> None:
    servo.configure("agg: {log: run.log}")
    # It cannot end before we are stopped.
    servo.add_script(
        "01web",
        """\
        #!/bin/sh
        . ./behave.sh
        misbehave_on adjust
        cat >/dev/null
        until [ -e go ]; do sleep 0.05; done
        reply
        """,
    )
    servo.add("02db", "plain", component="db")
    with servo.start_adjust("01web.cpu", "db.cpu") as running:
        wait_until(lambda: servo.log(phase="adjust"), 10, "the first driver's adjust")
        running.send_signal(signal.SIGSTOP)
        # The time that is measured, not a wait for something.
        time.sleep(1)
        (servo.path / "go").touch()
        running.send_signal(signal.SIGCONT)
        running.finish()
    web, db = [line for line in logged(servo) if line["phase"] == "adjust"]
    assert web["seconds"] >= 1
    assert db["start"] >= web["start"] + 1


SLOW_LOG = """
    import os, time

    def slow(real):
        def call(path, *arguments, **more):
            if os.path.basename(str(path)) == "run.log":
                time.sleep(60)
            return real(path, *arguments, **more)
        return call

    os.open = slow(os.open)
"""
"""A file server that does not answer when run.log is opened."""


def test_a_log_that_hangs_when_it_is_opened_delays_only_the_end(servo: ServoDirectory) -> None:
    servo.configure("agg: {log: run.log}")
    servo.add("01a", "plain", component="web")
    servo.add("02b", "plain", component="db")
    completed = servo.run("app", input=REQUEST, env=sitecustomize(servo, SLOW_LOG), timeout=30)
    assert completed.returncode == 0
    assert completed.stderr == (
        b"warning: the log run.log cannot be written: not all lines of this run are in it\n"
    )


def test_a_signal_ends_a_run_whose_log_hangs(servo: ServoDirectory) -> None:
    servo.configure("agg: {log: run.log}")
    servo.add("01a", "silent")
    with servo.agent(env=sitecustomize(servo, SLOW_LOG)).start_adjust(
        "app", servo.request("01a.cpu")
    ) as running:
        servo.pids("01a", "leader", "child", "grandchild")
        running.send_signal(signal.SIGTERM)
        assert running.finish(30).returncode == 128 + signal.SIGTERM


def test_a_line_after_an_incomplete_one_begins_on_a_new_line(servo: ServoDirectory) -> None:
    servo.configure("agg: {log: run.log}")
    servo.add("01a", "plain", component="web")
    (servo.path / "run.log").write_bytes(b'{"driver":"tor')
    for _ in range(2):
        assert servo.run("--query", "app").returncode == 0
    torn, *lines = (servo.path / "run.log").read_text(encoding="ascii").splitlines()
    assert torn == '{"driver":"tor'
    assert [json.loads(line)["phase"] for line in lines] == ["query", "run"] * 2


TORN = """
    import os

    wrote = os.write
    full = []

    def write(descriptor, block):
        if b'"phase":"query"' in bytes(block) and not full:
            full.append(descriptor)
            return wrote(descriptor, bytes(block)[:20])
        if full == [descriptor]:
            full.append(descriptor)
            raise OSError(28, "No space left on device")
        return wrote(descriptor, block)

    os.write = write
"""
"""The disk of the log is full in the middle of the line of a query, and has space again later."""


@pytest.mark.parametrize("readable", [True, False], ids=["readable", "write-only"])
def test_after_a_full_disk_later_lines_are_whole(servo: ServoDirectory, *, readable: bool) -> None:
    log = servo.path / "run.log"
    reader = -1
    if readable:
        servo.configure("agg: {log: run.log}")
    else:
        # The content of a pipe cannot be inspected.
        servo.configure("agg: {log: run.fifo}")
        os.mkfifo(servo.path / "run.fifo")
        reader = os.open(servo.path / "run.fifo", os.O_RDONLY | os.O_NONBLOCK)
    servo.add("01a", "plain", component="web")
    completed = servo.run(
        "app", input=json.dumps(servo.request("web.cpu")).encode(), env=sitecustomize(servo, TORN)
    )
    text = log.read_bytes() if readable else os.read(reader, 1 << 16)
    if not readable:
        os.close(reader)
    assert completed.returncode == 0
    assert b"not all lines of this run are in it" in completed.stderr
    torn, *rest = text.splitlines()
    assert len(torn) == 20
    assert [json.loads(line)["phase"] for line in rest] == ["adjust", "run"]


# The line of the run.


def last_run(servo: ServoDirectory) -> Line:
    """Return the last line of the log, which must be that of a run."""
    line = all_logged(servo)[-1]
    assert line["phase"] == "run"
    return line


def outcome_of(line: Line) -> tuple[object, ...]:
    return (line["command"], line["status"], line["reason"], line["exit"], line.get("settings"))


TWO = b'{"application":{"components":{"web":{"settings":{"cpu":{"value":4},"mem":null}}}}}'


@pytest.mark.parametrize(
    ("words", "given", "outcome"),
    [
        (["--query", "app"], b"", ("query", "ok", "success", 0, None)),
        (["--info"], b"", ("info", "ok", "success", 0, None)),
        (["--version"], b"", ("version", "ok", "success", 0, None)),
        (["--check", "--json"], b"", ("check", "ok", "success", 0, None)),
        (["--plan", "app"], TWO, ("plan", "ok", "success", 0, {"web.cpu": 4})),
        (["app"], TWO, ("adjust", "ok", "success", 0, {"web.cpu": 4})),
        (["app", "--set", "web.cpu=4"], b"", ("adjust", "ok", "success", 0, {"web.cpu": 4})),
        (["app"], b"[]", ("adjust", "failed", "bad-input", 1, None)),
        (
            ["app"],
            b'{"application":{"components":{"db":{"settings":{"cpu":{"value":4}}}}}}',
            ("adjust", "failed", "unknown-settings", 1, {"db.cpu": 4}),
        ),
        (["app", "--set", "web.cpus=4"], b"", ("adjust", "failed", "unknown-settings", 1, {"web.cpus": 4})),
        (["bad", "--set", "web.cpu=a=b"], b"", ("adjust", "failed", "unstable", 1, {"web.cpu": "a=b"})),
        (["app"], b'{"application":{}}', ("adjust", "ok", "no-settings-to-adjust", 0, {})),
        (["--plan", "app"], b"{}", ("plan", "failed", "bad-input", 1, None)),
        (["--query", "app", "--only", "x*"], b"", ("query", "failed", "bad-input", 1, None)),
        (["--query", "bad"], b"", ("query", "failed", "unstable", 1, None)),
    ],
    ids=str,
)
def test_the_last_line_of_a_run_is_about_the_run(
    servo: ServoDirectory, words: list[str], given: bytes, outcome: tuple[object, ...]
) -> None:
    servo.configure("agg: {log: run.log}")
    servo.add("01web", "plain", component="web")
    servo.add_script(
        "02bad",
        """\
        #!/bin/sh
        [ "$2" != bad ] || { echo '{"status":"failed","reason":"unstable","message":"no"}'; exit 1; }
        case $1 in --info) echo '{"version":"1"}';; *) echo '{"application":{}}';; esac
        """,
    )
    completed = servo.run(*words, input=given)
    line = last_run(servo)
    assert outcome_of(line) == outcome
    if outcome[1] != "failed":
        assert line["message"] == ""
    elif words[0] == "--plan":
        assert completed.stderr.decode() == f"adjust: {line['message']}\n"
    else:
        assert line["message"] == completed.reply["message"]
    assert line["application"] == next((word for word in words if word in ("app", "bad")), None)
    assert line["seconds"] > 0
    # All lines of a run have its id; that no other run has it is tested where many run at once.
    assert len({line["run"] for line in all_logged(servo)}) == 1


def test_a_run_that_a_signal_has_ended_is_logged_with_it(servo: ServoDirectory) -> None:
    servo.configure("agg: {log: run.log}")
    servo.add("01a", "silent", when="query")
    with servo.start("--query", "app") as program:
        servo.pids("01a", "leader")
        program.send_signal(signal.SIGTERM)
        program.finish()
    line = last_run(servo)
    assert outcome_of(line) == ("query", "terminated", "SIGTERM", 128 + signal.SIGTERM, None)
    assert line["message"].startswith("terminated by SIGTERM; 01a had not answered --query for ")


def test_failures_without_a_final_object_are_logged_with_a_reason(servo: ServoDirectory) -> None:
    servo.configure("agg: {log: run.log}")
    servo.add("01a", "exit3", component="web", when="info")
    servo.add_script(
        "02b",
        """\
        #!/bin/sh
        case $1 in
        --info) echo '{"version":"1"}';;
        *) echo '{"application":{"components":{"b":{"settings":{"n":{"type":"range","value":1,"min":1,"max":2,"step":1}}}}}}'
        esac
        """,  # noqa: E501 - one line of JSON
    )
    ends = []
    for words in (
        ["--version"],
        ["--check"],
        ["--check", "--json"],
        ["--plan", "app", "--set", "b.n=9"],
        ["--test-driver", "01a", "app", "--read-only"],
    ):
        assert servo.run(*words).returncode == 1
        line = last_run(servo)
        ends.append((*outcome_of(line)[:3], line["message"].split("\n")[0]))
    *checks, plan, test = ends[1:]
    assert ends[0][:3] == ("version", "failed", "exit-status")
    assert ends[0][3].startswith("01a: failed: on --info: ")
    assert checks == [("check", "failed", "problems", "1 problem found")] * 2
    assert plan[:3] == ("plan", "failed", "wrong-values")
    assert plan[3].startswith("b.n: ")
    assert test == ("test-driver", "failed", "broken-rules", "01a breaks 2 rules")


@pytest.mark.parametrize(
    "words", [["--query", "app"], ["--info"], ["--plan", "app", "--set", "a.cpu=4"]], ids=str
)
def test_an_answer_that_cannot_be_written_is_logged_as_terminated(
    servo: ServoDirectory, words: list[str]
) -> None:
    servo.configure("agg: {log: run.log}")
    servo.add("01a", "plain", component="a")
    with open("/dev/full", "wb") as full:
        assert servo.run(*words, stdout=full).returncode == 1
    line = last_run(servo)
    assert outcome_of(line)[1:4] == ("terminated", "agent-gone", 1)
    assert line["message"] == "cannot write the answer to stdout: No space left on device"


def test_a_busy_adjust_is_logged_with_its_settings(servo: ServoDirectory) -> None:
    servo.configure("agg: {log: run.log}")
    servo.add("01a", "plain", component="web")
    with held_as_by_adjust(servo.path):
        servo.run("app", "--set", "web.cpu=4", env={"OPTUNE_IO_TIMEOUT": "2"})
    (line,) = all_logged(servo)
    assert outcome_of(line) == ("adjust", "failed", "busy", 1, {"web.cpu": 4})


def test_a_conflict_is_logged_with_its_settings(servo: ServoDirectory) -> None:
    servo.configure("agg: {log: run.log}")
    servo.add("01a", "plain", component="web")
    servo.add("02b", "plain", component="web")
    assert servo.adjust("web.cpu").returncode == 1
    assert outcome_of(last_run(servo)) == ("adjust", "failed", "conflict", 1, {"web.cpu": 4})


@pytest.mark.parametrize("end", ["SIGTERM", "cancel", "agent-gone"])
def test_an_adjust_that_is_ended_is_logged_with_its_settings(servo: ServoDirectory, end: str) -> None:
    servo.configure("agg: {log: run.log}")
    servo.add("01a", "silent" if end == "SIGTERM" else "cancelable")
    with servo.start_adjust("01a.cpu") as running:
        wait_until(lambda: servo.log(phase="adjust"), 30, "the adjust")
        if end == "SIGTERM":
            running.send_signal(signal.SIGTERM)
        elif end == "cancel":
            running.send_signal(signal.SIGUSR1)
        else:
            running.close_stdout()
        running.finish(30)
    status, reason, code = {
        "SIGTERM": ("terminated", "SIGTERM", 128 + signal.SIGTERM),
        "cancel": ("canceled", "SIGUSR1", 1),
        "agent-gone": ("terminated", "agent-gone", 1),
    }[end]
    lines = all_logged(servo)
    assert outcome_of(lines[-1]) == ("adjust", status, reason, code, {"01a.cpu": 4})
    assert lines[-1]["message"]
    # It is the only one of its run.
    assert [line["phase"] for line in lines if line["run"] == lines[-1]["run"]].count("run") == 1


def test_a_run_that_cannot_be_logged_leaves_no_line(servo: ServoDirectory) -> None:
    servo.configure("agg: {log: run.log}")
    assert servo.run("--nonsense").returncode == 2
    assert servo.run("--info", env={"OPTUNE_IO_TIMEOUT": "soon"}).returncode == 1
    servo.configure("agg: {log: run.log, nonsense: 1}")
    assert servo.run("--info").returncode == 1
    assert not (servo.path / "run.log").exists()


def test_messages_and_settings_in_the_log_are_bounded(servo: ServoDirectory) -> None:
    servo.configure("agg: {log: run.log}")
    settings = {f"s{number:03}" + "n" * 1000: {"value": "x" * 10_000} for number in range(300)}
    description = {"application": {"components": {"web": {"settings": settings}}}}
    (servo.path / "description").write_text(json.dumps(description), encoding="ascii")
    servo.add_script(
        "01a",
        """\
        #!/bin/sh
        [ "$1" = --query ] && exec cat description
        cat >/dev/null
        printf '{"status":"failed","message":"%0100000d"}\\n' 0
        exit 1
        """,
    )
    assert servo.run("app", input=json.dumps(description).encode()).returncode == 1
    *_, driver, run = all_logged(servo)
    assert len(driver["message"]) <= 1024
    assert len(run["message"]) <= 1024
    assert len(run["settings"]) == 256
    assert {len(value) for value in run["settings"].values()} == {256 + len("...")}
    assert {len(name) for name in run["settings"]} == {256 + len("...")}
    assert run["settings_omitted"] == 44


def test_a_log_can_be_renamed_while_runs_go_on(servo: ServoDirectory) -> None:
    servo.configure("agg: {log: run.log}")
    servo.add("01a", "plain")
    with contextlib.ExitStack() as stack:
        runs = []
        for number in range(6):
            runs.append(stack.enter_context(servo.start("--query", f"app{number}")))
            wait_until((servo.path / "run.log").exists, 30, "the log")
            (servo.path / "run.log").rename(servo.path / f"run.log.{number}")
        assert [run.finish().returncode for run in runs] == [0] * 6
    names = [path.name for path in servo.path.glob("run.log*")]
    lines = [line for name in names if (servo.path / name).stat().st_size for line in all_logged(servo, name)]
    assert sorted((line["application"], line["phase"]) for line in lines) == sorted(
        (f"app{number}", phase) for number in range(6) for phase in ("query", "run")
    )


APPENDED = """
    import os

    read = os.pread
    parts = [b'er"', b'}\\n']

    def pread(descriptor, size, offset):
        found = read(descriptor, size, offset)
        if parts:
            log = os.open("run.log", os.O_WRONLY | os.O_APPEND)
            os.write(log, parts.pop(0))
            os.close(log)
        return found

    os.pread = pread
"""
"""Another run is appending a line, which becomes visible in parts."""


def test_a_line_that_another_run_is_appending_does_not_count_as_truncated(servo: ServoDirectory) -> None:
    servo.configure("agg: {log: run.log}")
    servo.add("01a", "plain", component="web")
    (servo.path / "run.log").write_bytes(b'{"phase":"oth')
    assert servo.run("--query", "app", env=sitecustomize(servo, APPENDED)).returncode == 0
    lines = (servo.path / "run.log").read_text(encoding="ascii").splitlines()
    assert [json.loads(line)["phase"] for line in lines] == ["other", "query", "run"]


# Timings as JSON.


@pytest.mark.parametrize("words", [["--query", "app"], ["--check", "app"]], ids=" ".join)
def test_timings_can_be_one_json_object(servo: ServoDirectory, words: list[str]) -> None:
    servo.configure("agg: {log: run.log}")
    servo.add("01a", "slow", component="web", seconds=0.2)
    servo.add("02b", "exit3", component="db", when="query")
    completed = servo.run(*words, "--timings", "--json")
    timings = json.loads(completed.stderr.splitlines()[-1])
    assert_matches("agg-timings", timings)
    assert list(timings) == ["total", "sequential", "records"]
    assert all(
        list(record) == ["driver", "phase", "start", "seconds", "status"] for record in timings["records"]
    )
    rows = [(row["driver"], row["phase"], row["seconds"], row["status"]) for row in timings["records"]]
    assert sorted(rows) == sorted(figures(logged(servo)))
    assert timings["sequential"] >= 0.2
    assert timings["total"] <= completed.seconds
    assert completed.reply
