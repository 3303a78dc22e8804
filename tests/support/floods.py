"""Floods: drivers with very much output, and agents that read slowly, for tests and benchmarks/floods.py.

A flood is a set of drivers, an operation, and a check of the result, for any size. The peak memory of the
program is recorded when it exits.
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
from typing import IO, TYPE_CHECKING, Any, Callable

from tests.support.processes import DeadlineError, kill_session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servo import ServoDirectory

MIB = 1 << 20

PEAK_LIMIT = 28 * MIB
"""Bytes of resident memory that a flood may need more than the idle program."""

OBJECTS_LIMIT = 160 * MIB
"""The same where millions of bytes must be held as objects of Python, to be merged."""

LINE_LIMIT = 4 * MIB
"""Bytes of the longest line that a driver may print (SPEC 4.6)."""

_SETTINGS = """'{"application":{"components":{"'${0##*/}'":{"settings":{"cpu":{"value":2}}"""
_END = "}}}}"
ANSWER = f"echo {_SETTINGS}{_END}'"
OK = """cat >/dev/null; echo '{"status":"ok"}'"""

# A sitecustomize. The peak is final only at the exit.
_RECORD_PEAK = """
import os

def record_and_exit(status, exit=os._exit):
    with open("/proc/self/status") as current:
        with open(f"{os.environ['FLOOD_PEAK']}.{os.getpid()}", "w") as peak:
            peak.write(current.read())
    exit(status)

if "FLOOD_PEAK" in os.environ:
    os._exit = record_and_exit
"""

_NUMBER = re.compile(rb'line (\d+)"')


@dataclass
class FloodResult:
    """The result of one run, as the agent saw it."""

    returncode: int
    lines: int
    """How many of the drivers' numbered progress lines arrived; they arrived in order."""
    final: dict[str, Any]
    peak: int
    """Bytes: the most resident memory that the program itself had."""
    seconds: float

    @property
    def message(self) -> str:
        """The final object's."""
        return str(self.final.get("message", ""))


class OutputChecker:
    """Checks the lines that the agent reads: numbered lines in order, progress that never goes back."""

    def __init__(self) -> None:
        self.lines = 0
        self.last = b""
        self._progress = 0

    def check(self, line: bytes) -> None:
        """Check one line."""
        self.last = line
        if found := _NUMBER.search(line):
            self.lines += 1
            assert int(found[1]) == self.lines, f"line {self.lines} expected: {line!r}"
        if line.startswith(b'{"progress":'):
            progress = int(line[12 : line.index(b",")])
            assert progress >= self._progress, f"progress went back from {self._progress}: {line!r}"
            self._progress = progress


@dataclass(frozen=True)
class Flood:
    """One flood. What a size counts, such as bytes or lines, depends on the flood."""

    operation: str
    """query or adjust."""
    fill: Callable[[ServoDirectory, int], object]
    check: Callable[[FloodResult, int], object]
    """Asserts that the result is right for the size."""
    quick: int
    full: int
    above: int = PEAK_LIMIT
    """Bytes of memory that it may need more than the idle program in full size."""
    large_input: bool = False
    """Whether the input of an adjust has as many bytes, besides the settings, as the size says."""
    io_timeout: float | None = None
    open_files: int | None = None
    verbose: bool = False
    """Whether `-v` is given, while stderr is not read."""
    read: Callable[[IO[bytes], int], Iterator[bytes]] = lambda stdout, _: iter(stdout)


def driver(servo: ServoDirectory, name: str, *, query: str = ANSWER, adjust: str = OK) -> None:
    """Add an sh driver that runs these commands in a query and in an adjust."""
    servo.add_script(
        name,
        "#!/bin/sh\ncase $1 in\n"
        f"""--info) echo '{{"version":"1","has_cancel":false}}' ;;\n"""
        f"--query)\n{query}\n;;\n*)\n{adjust}\n;;\nesac\n",
    )


@contextlib.contextmanager
def within(deadline: float, process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Kill the program's session after `deadline` seconds or when the body fails; close its pipes."""
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


def run(servo: ServoDirectory, flood: Flood, size: int, deadline: float = 300.0) -> FloodResult:
    """Run a flood; the caller checks the result. Raises DeadlineError after `deadline` seconds."""
    flood.fill(servo, size)
    (servo.path / "record-peak").mkdir()
    (servo.path / "record-peak" / "sitecustomize.py").write_text(_RECORD_PEAK, encoding="ascii")
    peak = servo.path / "peak"
    overlay = {"PYTHONPATH": str(servo.path / "record-peak"), "FLOOD_PEAK": str(peak)}
    if flood.io_timeout is not None:
        overlay["OPTUNE_IO_TIMEOUT"] = f"{flood.io_timeout:g}"
    words = [*(["-v"] if flood.verbose else []), *(["--query"] if flood.operation == "query" else []), "app"]
    limit = f"ulimit -n {flood.open_files}" if flood.open_files else ""
    started = time.monotonic()
    output = OutputChecker()
    program = servo.start(
        *words,
        input=None,
        env=overlay,
        before=limit,
        stderr=subprocess.PIPE if flood.verbose else subprocess.DEVNULL,
    )
    with within(deadline, program.process):
        if flood.operation == "adjust":
            program.write(_input(servo, size if flood.large_input else 0))
        program.close_stdin()
        for line in flood.read(program.stdout, size):
            output.check(line)
        program.process.wait()
    return FloodResult(
        program.process.returncode,
        output.lines,
        json.loads(output.last),
        _peak_of(servo, program.pid),
        time.monotonic() - started,
    )


def idle(servo: ServoDirectory) -> int:
    """Return the peak of the idle program in bytes: a query of one sh driver."""
    return run(servo, Flood("query", lambda servo, _: driver(servo, "01idle"), _described, 1, 1), 1).peak


def _peak_of(servo: ServoDirectory, pid: int) -> int:
    status = (servo.path / f"peak.{pid}").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def _input(servo: ServoDirectory, more: int) -> bytes:
    names = sorted(path.name for path in servo.drivers.iterdir())
    request = servo.request(*(f"{name}.cpu" for name in names))
    return json.dumps({**request, "control": {"userdata": "x" * more}}).encode()


# --- what drivers print


Fill = Callable[["ServoDirectory", int], None]


def _noisy(phase: str) -> Fill:
    def fill(servo: ServoDirectory, size: int) -> None:
        noise = f"yes 'warning: this is noise' | head -c {size} >&2"
        driver(servo, "01noisy", **{phase: f"echo first >&2; {noise}; echo last >&2; exit 3"})

    return fill


def _talking(servo: ServoDirectory, size: int) -> None:
    """Add a driver that prints `size` numbered lines of progress."""
    talk = (
        f"awk 'BEGIN {{ for (i = 1; i <= {size}; i++)"
        f""" printf "{{\\"progress\\":%d,\\"message\\":\\"line %d\\"}}\\n", i * 100 / {size}, i }}'"""
    )
    driver(servo, "01talks", adjust=f"{talk}; {OK}")


def _of(character: str, size: int) -> str:
    """Return the sh command that prints `size` bytes without a newline."""
    return f"yes '{character}' | tr -d '\\n' | head -c {size}"


def _endless_line(phase: str) -> Fill:
    return lambda servo, size: driver(servo, "01long", **{phase: _of("x", size)})


def _byte_by_byte(phase: str, line: str) -> Fill:
    """Return what adds a driver that prints a byte of `line` every `size` milliseconds."""

    def fill(servo: ServoDirectory, milliseconds: int) -> None:
        script = (
            "exec python3 -c 'import os, sys, time\nfor byte in sys.argv[1].encode():\n"
            f" os.write(1, bytes([byte])); time.sleep({milliseconds} / 1000)' '{line}\n'"
        )
        driver(servo, "01slow", **{phase: script})

    return fill


_SLOW_LINE = '{"progress":50,"message":"' + "slowly" * 100 + '"}'

_WARNING = '{"status":"failed","message":"' + "using the non-selected value " * 10 + '"}'


def _warning(servo: ServoDirectory, size: int) -> None:
    driver(servo, "01warns", query=f"yes '{_WARNING}' | head -n {size}; {ANSWER}")


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


def _both_pipes(servo: ServoDirectory, size: int) -> None:
    driver(servo, "01both", adjust=f"{_BOTH_PIPES}{size}")


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
        # All of them still run when the last one is started.
        driver(servo, f"{number:03}", query=f"sleep 600; {ANSWER}")


def _large_reply(first: str, character: str, last: str) -> Fill:
    """Return what adds a driver whose reply has as many bytes as the size, most of them `character`."""
    start, end = f'{{"status":"ok","state":{first}', last + "}"

    def fill(servo: ServoDirectory, size: int) -> None:
        between = (size - len(start + end)) // len(character) * len(character)
        blanks = " " * (size - len(start + end) - between)
        reply = f"printf '%s' '{start}'; {_of(character, between)}; echo '{end}{blanks}'"
        driver(servo, "01large", adjust=f"cat >/dev/null; {reply}")

    return fill


def _large_answers(values: str, first: str, last: str) -> Fill:
    """Return what adds 30 drivers whose descriptions have as many bytes as the size, mostly `values`."""

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


# --- what the result must be


def _described(result: FloodResult, _: int) -> None:
    assert result.returncode == 0, result.message
    assert set(result.final) == {"application"}


def _succeeded(result: FloodResult, _: int) -> None:
    assert result.returncode == 0, result.message
    assert result.final["status"] == "ok"
    assert {entry["status"] for entry in result.final["drivers"].values()} == {"ok"}


def _relayed(result: FloodResult, size: int) -> None:
    _succeeded(result, size)
    assert result.lines == size


def _kept_bounded(result: FloodResult, size: int) -> None:
    assert result.returncode == 1
    assert result.final["reason"] == "exit-status"
    assert "stderr: first\n" in result.message
    assert f"{size + 11 - (64 << 10)} bytes omitted" in result.message
    assert result.message.endswith("last")
    assert len(result.message) < 66 << 10


def _too_long(result: FloodResult, _: int) -> None:
    assert (result.returncode, result.final["reason"]) == (1, "malformed")
    assert "printed a line that is longer than 4 MiB" in result.message


def _silent(result: FloodResult, _: int) -> None:
    assert (result.returncode, result.final["reason"]) == (1, "timeout")
    assert "was silent for 2" in result.message


def _read_whole(result: FloodResult, size: int) -> None:
    _succeeded(result, size)
    assert result.final["read"] > size


def _all_described(result: FloodResult, size: int) -> None:
    _described(result, size)
    assert len(result.final["application"]["components"]) == size


def _all_adjusted(result: FloodResult, size: int) -> None:
    _succeeded(result, size)
    assert len(result.final["drivers"]) == size


def _too_many_open(result: FloodResult, _: int) -> None:
    assert (result.returncode, result.final["reason"]) == (1, "cannot-start")
    assert "too many open files" in result.message
    assert "ulimit -n" in result.message
    assert "`parallel`" in result.message


def _whole_state(result: FloodResult, size: int) -> None:
    _succeeded(result, size)
    # A list takes, for each item, the bytes of its JSON and a comma; a text one for each character.
    state = result.final["state"]
    item = 1 if isinstance(state, str) else len(json.dumps(state[0], separators=(",", ":"))) + 1
    assert size - 80 < len(state) * item < size


def _thirty(result: FloodResult, size: int) -> None:
    _described(result, size)
    components = result.final["application"]["components"].values()
    sizes = [len(json.dumps(component, separators=(",", ":"))) for component in components]
    assert len(sizes) == 30
    assert min(sizes) > size - 80


FLOODS: dict[str, Flood] = {
    "stderr-query": Flood("query", _noisy("query"), _kept_bounded, 10_000_000, 1_000_000_000),
    "stderr-adjust": Flood(
        "adjust", _noisy("adjust"), _kept_bounded, 10_000_000, 1_000_000_000, verbose=True
    ),
    "progress": Flood("adjust", _talking, _relayed, 5000, 1_000_000),
    "line-query": Flood("query", _endless_line("query"), _too_long, 5_000_000, 100_000_000),
    "line-adjust": Flood("adjust", _endless_line("adjust"), _too_long, 5_000_000, 100_000_000),
    "bytes-query": Flood("query", _byte_by_byte("query", '{"application":{}}'), _described, 50, 1000),
    "bytes-adjust": Flood("adjust", _byte_by_byte("adjust", _SLOW_LINE), _silent, 50, 1000, io_timeout=3),
    "both-pipes": Flood("adjust", _both_pipes, _relayed, 30, 2000),
    "input": Flood("adjust", _three_ways_of_reading, _read_whole, 3_000_000, 3_000_000, large_input=True),
    "drivers-query": Flood("query", _many, _all_described, 40, 200),
    "drivers-adjust": Flood("adjust", _many, _all_adjusted, 20, 200),
    "few-files-query": Flood("query", _many, _all_described, 40, 200, open_files=256),
    "few-files-adjust": Flood("adjust", _many, _all_adjusted, 20, 200, open_files=256),
    "too-few-files-query": Flood("query", _many_at_once, _too_many_open, 50, 200, open_files=128),
    "agent-of-bytes": Flood("adjust", _talking, _relayed, 3000, 50_000, read=_a_byte_at_a_time),
    "agent-breaks-off": Flood("adjust", _talking, _relayed, 50_000, 1_000_000, read=_with_a_break),
    "warnings": Flood("query", _warning, _described, 10_000, 100_000, verbose=True),
    "reply-of-text": Flood(
        "adjust", _large_reply('"', "x", '"'), _whole_state, LINE_LIMIT - 1, LINE_LIMIT - 1
    ),
    "reply-of-numbers": Flood(
        "adjust",
        _large_reply("[", "1,", "1]"),
        _whole_state,
        100_000,
        LINE_LIMIT - 1,
        above=2 * PEAK_LIMIT,
    ),
    "reply-of-objects": Flood(
        "adjust",
        _large_reply("[", '{"a":1},', '{"a":1}]'),
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
