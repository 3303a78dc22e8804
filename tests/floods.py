"""Floods: what drivers pour out, and agents that take it slowly, for tests and for benchmarks/floods.py.

A flood is a set of drivers, an operation, and what must come of it, in any size. Of the program's memory is
kept the peak that it has when it leaves.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, cast

from tests.processes import DeadlineError, environment, kill_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.servo import ServoDirectory

MIB = 1 << 20

PEAK_LIMIT = 28 * MIB
"""What a flood may cost above the idle program, in bytes of resident memory."""

OBJECTS_LIMIT = 160 * MIB
"""The same where millions of bytes must be held as objects of Python, to be merged."""

LINE_LIMIT = 4 * MIB
"""Bytes of the longest line that a driver may say (SPEC 4)."""

_SETTINGS = """'{"application":{"components":{"'${0##*/}'":{"settings":{"cpu":{"value":2}}"""
_END = "}}}}"
ANSWER = f"echo {_SETTINGS}{_END}'"
OK = """cat >/dev/null; echo '{"status":"ok"}'"""

# Python loads it at its start. Only at the very end is the peak the peak.
_LEAVING = """
import os

def leave(status, leave=os._exit):
    with open("/proc/self/status") as ours, open(f"{os.environ['FLOOD_PEAK']}.{os.getpid()}", "w") as told:
        told.write(ours.read())
    leave(status)

if "FLOOD_PEAK" in os.environ:
    os._exit = leave
"""

_NUMBER = re.compile(rb'line (\d+)"')


@dataclass
class Told:
    """What the agent was told in one run."""

    returncode: int
    lines: int
    """How many of the drivers' numbered progress lines came; they came in order."""
    final: dict[str, Any]
    peak: int
    """Bytes: the most resident memory that the program, it alone, had."""
    seconds: float

    @property
    def message(self) -> str:
        """The final object's."""
        return str(self.final.get("message", ""))


class Listener:
    """An agent that checks what it reads: numbered lines in order, progress that never goes back."""

    def __init__(self) -> None:
        self.lines = 0
        self.last = b""
        self._progress = 0

    def take(self, line: bytes) -> None:
        """Take in one line."""
        self.last = line
        if found := _NUMBER.search(line):
            self.lines += 1
            assert int(found[1]) == self.lines, f"line {self.lines} expected: {line!r}"
        if line.startswith(b'{"progress":'):
            progress = int(line[12 : line.index(b",")])
            assert progress >= self._progress, f"it went back from {self._progress}: {line!r}"
            self._progress = progress


@dataclass(frozen=True)
class Flood:
    """One flood. A size is the number of what there is much of."""

    operation: str
    """query or adjust."""
    fill: Callable[[ServoDirectory, int], object]
    judge: Callable[[Told, int], object]
    """Asserts that the right thing came of it."""
    quick: int
    full: int
    above: int = PEAK_LIMIT
    """Bytes above the idle program that it may cost in full size."""
    given: bool = False
    """Whether the input of an adjust has so many bytes beside the settings."""
    io_timeout: float | None = None
    open_files: int | None = None
    verbose: bool = False
    """Whether `-v` is given, with nobody reading stderr."""
    read: Callable[[IO[bytes], int], Iterator[bytes]] = lambda stdout, _: iter(stdout)


def driver(servo: ServoDirectory, name: str, *, query: str = ANSWER, adjust: str = OK) -> None:
    """Add an sh driver that does as it is told."""
    servo.add_script(
        name,
        "#!/bin/sh\ncase $1 in\n"
        f"""--info) echo '{{"version":"1","has_cancel":false}}' ;;\n"""
        f"--query)\n{query}\n;;\n*)\n{adjust}\n;;\nesac\n",
    )


@contextlib.contextmanager
def within(deadline: float, process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Kill the program, a session of its own, at the deadline or when the body fails; close its pipes."""
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        kill_session(process.pid)

    timer = threading.Timer(deadline, expire)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        if process.returncode is None:
            kill_session(process.pid)
            process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        if expired.is_set():
            raise DeadlineError(f"{process.args!r} took more than {deadline:g} s")


def run(servo: ServoDirectory, flood: Flood, size: int, deadline: float = 300.0) -> Told:
    """Let it happen in this size; the caller judges. Raises DeadlineError after so many seconds."""
    flood.fill(servo, size)
    (servo.path / "leaving").mkdir()
    (servo.path / "leaving" / "sitecustomize.py").write_text(_LEAVING, encoding="ascii")
    peak = servo.path / "peak"
    overlay = {"PYTHONPATH": str(servo.path / "leaving"), "FLOOD_PEAK": str(peak)}
    if flood.io_timeout is not None:
        overlay["OPTUNE_IO_TIMEOUT"] = f"{flood.io_timeout:g}"
    words = [*(["-v"] if flood.verbose else []), *(["--query"] if flood.operation == "query" else []), "app"]
    limit = f"ulimit -n {flood.open_files}; " if flood.open_files else ""
    started = time.monotonic()
    listener = Listener()
    process = subprocess.Popen(
        ["/bin/sh", "-c", f'{limit}exec ./adjust "$@"', "sh", *words],
        cwd=servo.path,
        env=environment(servo.env, overlay),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if flood.verbose else subprocess.DEVNULL,
        start_new_session=True,
    )
    with within(deadline, process):
        with cast("IO[bytes]", process.stdin) as stdin:
            if flood.operation == "adjust":
                stdin.write(_input(servo, size if flood.given else 0))
        with cast("IO[bytes]", process.stdout) as stdout:
            for line in flood.read(stdout, size):
                listener.take(line)
        process.wait()
    return Told(
        process.returncode,
        listener.lines,
        json.loads(listener.last),
        _peak_of(servo, process.pid),
        time.monotonic() - started,
    )


def idle(servo: ServoDirectory) -> int:
    """Give the peak of the idle program in bytes: a query of one sh driver."""
    return run(servo, Flood("query", lambda servo, _: driver(servo, "01idle"), _described, 1, 1), 1).peak


def _peak_of(servo: ServoDirectory, pid: int) -> int:
    status = (servo.path / f"peak.{pid}").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def _input(servo: ServoDirectory, more: int) -> bytes:
    names = sorted(path.name for path in servo.drivers.iterdir())
    request = servo.request(*(f"{name}.cpu" for name in names))
    return json.dumps({**request, "control": {"userdata": "x" * more}}).encode()


# --- what drivers pour out


def _noise(size: int) -> str:
    return f"echo first >&2; yes 'warning: this is noise' | head -c {size} >&2; echo last >&2; exit 3"


def _numbered(size: int) -> str:
    """Give the sh command that says so many lines of progress."""
    return (
        f"awk 'BEGIN {{ for (i = 1; i <= {size}; i++)"
        f""" printf "{{\\"progress\\":%d,\\"message\\":\\"line %d\\"}}\\n", i * 100 / {size}, i }}'"""
    )


def _of(character: str, size: int) -> str:
    """Give the sh command that writes so many bytes without a newline."""
    return f"yes '{character}' | tr -d '\\n' | head -c {size}"


def _byte_by_byte(line: str, milliseconds: int) -> str:
    return (
        "exec python3 -c 'import os, sys, time\nfor byte in sys.argv[1].encode():\n"
        f" os.write(1, bytes([byte])); time.sleep({milliseconds} / 1000)' '{line}\n'"
    )


_BOTH_PIPES = r"""exec python3 -c 'import sys
for number in range(1, int(sys.argv[1]) + 1):
    start, end = "{\"progress\":0,\"log\":\"", "\",\"message\":\"line %d\"}\n" % number
    for stream in (sys.stdout, sys.stderr):
        stream.write(start + "x" * (65537 - len(start + end)) + end)
        stream.flush()
print("{\"status\":\"ok\"}")' """

_READING_SLOWLY = r"""exec python3 -c 'import os, time
size = 0
while block := os.read(0, 65536):
    size += len(block)
    time.sleep(0.01)
print("{\"status\":\"ok\",\"read\":%d}" % size)'"""


def _three_ways_of_reading(servo: ServoDirectory, _: int) -> None:
    driver(servo, "01never", adjust="""sleep 0.3; echo '{"status":"ok"}'""")
    driver(servo, "02slowly", adjust=_READING_SLOWLY)
    driver(servo, "03closes", adjust="""exec <&-; sleep 0.3; echo '{"status":"ok"}'""")


def _many(servo: ServoDirectory, size: int) -> None:
    for number in range(size):
        driver(servo, f"{number:03}")


def _many_at_once(servo: ServoDirectory, size: int) -> None:
    servo.configure(f"agg: {{parallel: {size}}}")
    for number in range(size):
        # They are still there when the last of them is to be started.
        driver(servo, f"{number:03}", query=f"sleep 600; {ANSWER}")


def _large_reply(start: str, character: str, end: str) -> Callable[[ServoDirectory, int], None]:
    """Give what adds a driver whose reply has so many bytes: `character` again and again in between."""

    def fill(servo: ServoDirectory, size: int) -> None:
        between = (size - len(start + end)) // len(character) * len(character)
        blanks = " " * (size - len(start + end) - between)
        said = f"printf '%s' '{start}'; {_of(character, between)}; echo '{end}{blanks}'"
        driver(servo, "01large", adjust=f"cat >/dev/null; {said}")

    return fill


def _large_answers(values: str, first: str, last: str) -> Callable[[ServoDirectory, int], None]:
    """Give what adds 30 drivers whose descriptions have so many bytes each: `values` again and again."""

    def fill(servo: ServoDirectory, size: int) -> None:
        start = f"""printf '%s' {_SETTINGS},"notes":{first}'"""
        between = size // len(values) * len(values)
        for number in range(30):
            driver(servo, f"{number:02}", query=f"{start}; {_of(values, between)}; echo '{last}{_END}'")

    return fill


# --- how an agent reads


def _a_byte_at_a_time(stdout: IO[bytes], _: int) -> Iterator[bytes]:
    line = bytearray()
    while byte := os.read(stdout.fileno(), 1):
        line += byte
        if byte == b"\n":
            yield bytes(line)
            line.clear()


def _with_a_break(stdout: IO[bytes], size: int) -> Iterator[bytes]:
    for number, line in enumerate(stdout):
        if number == 10:
            time.sleep(0.5 if size < 500_000 else 5)
        yield line


# --- what must come of it


def _described(told: Told, _: int) -> None:
    assert told.returncode == 0, told.message
    assert set(told.final) == {"application"}


def _well(told: Told, _: int) -> None:
    assert told.returncode == 0, told.message
    assert told.final["status"] == "ok"
    assert {entry["status"] for entry in told.final["drivers"].values()} == {"ok"}


def _relayed(told: Told, size: int) -> None:
    _well(told, size)
    assert told.lines == size


def _kept_bounded(told: Told, size: int) -> None:
    assert told.returncode == 1
    assert told.final["reason"] == "exit-status"
    assert "stderr: first\n" in told.message
    assert f"{size + 11 - (64 << 10)} bytes left out" in told.message
    assert told.message.endswith("last")
    assert len(told.message) < 66 << 10


def _too_long(told: Told, _: int) -> None:
    assert (told.returncode, told.final["reason"]) == (1, "malformed")
    assert "it is longer than 4 MiB" in told.message


def _silent(told: Told, _: int) -> None:
    assert (told.returncode, told.final["reason"]) == (1, "timeout")
    assert "was silent for 4" in told.message


def _read_whole(told: Told, size: int) -> None:
    _well(told, size)
    assert told.final["read"] > size


def _all_described(told: Told, size: int) -> None:
    _described(told, size)
    assert len(told.final["application"]["components"]) == size


def _all_adjusted(told: Told, size: int) -> None:
    _well(told, size)
    assert len(told.final["drivers"]) == size


def _too_many_open(told: Told, _: int) -> None:
    assert (told.returncode, told.final["reason"]) == (1, "cannot-start")
    assert "too many open files" in told.message
    assert "ulimit -n" in told.message
    assert "`parallel`" in told.message


def _whole_state(told: Told, size: int) -> None:
    _well(told, size)
    # An item takes as many bytes in the reply as its JSON and a comma; a text, one for each character.
    state = told.final["state"]
    item = 1 if isinstance(state, str) else len(json.dumps(state[0], separators=(",", ":"))) + 1
    assert size - 80 < len(state) * item < size


def _thirty(told: Told, size: int) -> None:
    _described(told, size)
    components = told.final["application"]["components"].values()
    sizes = [len(json.dumps(component, separators=(",", ":"))) for component in components]
    assert len(sizes) == 30
    assert min(sizes) > size - 80


_SLOWLY = '{"progress":50,"message":"' + "slowly" * 100 + '"}'

_WARNING = '{"status":"failed","message":"' + "using the non-selected value " * 10 + '"}'

FLOODS: dict[str, Flood] = {
    "stderr-query": Flood(
        "query",
        lambda servo, size: driver(servo, "01noisy", query=_noise(size)),
        _kept_bounded,
        10_000_000,
        1_000_000_000,
    ),
    "stderr-adjust": Flood(
        "adjust",
        lambda servo, size: driver(servo, "01noisy", adjust=_noise(size)),
        _kept_bounded,
        10_000_000,
        1_000_000_000,
        verbose=True,
    ),
    "progress": Flood(
        "adjust",
        lambda servo, size: driver(servo, "01talks", adjust=f"{_numbered(size)}; {OK}"),
        _relayed,
        20_000,
        1_000_000,
    ),
    "line-query": Flood(
        "query",
        lambda servo, size: driver(servo, "01long", query=_of("x", size)),
        _too_long,
        5_000_000,
        100_000_000,
    ),
    "line-adjust": Flood(
        "adjust",
        lambda servo, size: driver(servo, "01long", adjust=_of("x", size)),
        _too_long,
        5_000_000,
        100_000_000,
    ),
    "bytes-query": Flood(
        "query",
        lambda servo, pause: driver(servo, "01slow", query=_byte_by_byte('{"application":{}}', pause)),
        _described,
        50,
        1000,
    ),
    "bytes-adjust": Flood(
        "adjust",
        lambda servo, pause: driver(servo, "01slow", adjust=_byte_by_byte(_SLOWLY, pause)),
        _silent,
        50,
        1000,
        io_timeout=5,
    ),
    "both-pipes": Flood(
        "adjust",
        lambda servo, size: driver(servo, "01both", adjust=f"{_BOTH_PIPES}{size}"),
        _relayed,
        30,
        2000,
    ),
    "input": Flood("adjust", _three_ways_of_reading, _read_whole, 3_000_000, 3_000_000, given=True),
    "drivers-query": Flood("query", _many, _all_described, 40, 200),
    "drivers-adjust": Flood("adjust", _many, _all_adjusted, 20, 200),
    "few-files-query": Flood("query", _many, _all_described, 40, 200, open_files=256),
    "few-files-adjust": Flood("adjust", _many, _all_adjusted, 20, 200, open_files=256),
    "too-few-files-query": Flood("query", _many_at_once, _too_many_open, 100, 200, open_files=256),
    "too-few-files-adjust": Flood("adjust", _many_at_once, _too_many_open, 100, 200, open_files=256),
    "agent-of-bytes": Flood(
        "adjust",
        lambda servo, size: driver(servo, "01talks", adjust=f"{_numbered(size)}; {OK}"),
        _relayed,
        3000,
        50_000,
        read=_a_byte_at_a_time,
    ),
    "agent-breaks-off": Flood(
        "adjust",
        lambda servo, size: driver(servo, "01talks", adjust=f"{_numbered(size)}; {OK}"),
        _relayed,
        50_000,
        1_000_000,
        read=_with_a_break,
    ),
    "warnings": Flood(
        "query",
        lambda servo, size: driver(servo, "01warns", query=f"yes '{_WARNING}' | head -n {size}; {ANSWER}"),
        _described,
        10_000,
        100_000,
        verbose=True,
    ),
    "reply-of-text": Flood(
        "adjust",
        _large_reply('{"status":"ok","state":"', "x", '"}'),
        _whole_state,
        LINE_LIMIT - 1,
        LINE_LIMIT - 1,
    ),
    "reply-of-numbers": Flood(
        "adjust",
        _large_reply('{"status":"ok","state":[', "1,", "1]}"),
        _whole_state,
        100_000,
        LINE_LIMIT - 1,
        above=2 * PEAK_LIMIT,
    ),
    "reply-of-objects": Flood(
        "adjust",
        _large_reply('{"status":"ok","state":[', '{"a":1},', '{"a":1}]}'),
        _whole_state,
        100_000,
        LINE_LIMIT - 1,
        above=OBJECTS_LIMIT,
    ),
    "answers-of-text": Flood(
        "query", _large_answers("x", '"', '"'), _thirty, 10_000, 1_000_000, above=OBJECTS_LIMIT
    ),
    "answers-of-values": Flood(
        "query",
        _large_answers('"m5.large",', "[", '"m5.large"]'),
        _thirty,
        10_000,
        1_000_000,
        above=2 * OBJECTS_LIMIT,
    ),
}
"""By name."""
