"""The C modules behind slow standard-library wrappers, and their replacements."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from servo_agg import _compat
from tests.support.processes import environment
from tests.support.servo import REPOSITORY

LINES = (
    b'{"a":[1,-0.0,1e5,"\\ud800\xc3\xa9",null,true,{}]}',
    b'{"a":' + b"[" * 399 + b"]" * 399 + b"}",
    b'{"a":' * 399 + b"1" + b"}" * 399,
    b'{"a":1}}',
    b'{"a":{"b":1,"b":2}}',
    b'{"a":NaN}',
    b'{"a":1e999}',
    b"[1]",
    b"{",
    b"",
)

DECODE = """
import sys
blocked = sys.argv[1:]
for name in blocked:
    sys.modules[name] = None
from servo_agg.protocol import messages
for line in sys.stdin.buffer.read().split(b"\\n"):
    message = messages.decode(line, unique_keys=True)
    is_reply = isinstance(message, messages.Reply)
    print(messages.encode(message.body) if is_reply else message.reason)
"""

SIGNALS = """
import signal, sys
sys.modules["_signal"] = None
from servo_agg import _compat
print(_compat.signal_name(15), _compat.signal_name(6), _compat.signal_number("SIGUSR1"), int(_compat.SIGTERM))
"""

IMPORT = """
import sys
sys.path.append(sys.argv[1])
import servo_agg
before = set(sys.modules)
import servo_agg._compat
print(*set(sys.modules) - before)
"""


def python(*arguments: str, stdin: bytes = b"") -> bytes:
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, input=stdin, env=environment({}), stdout=subprocess.PIPE, check=True
    ).stdout


def test_without_the_c_module_json_is_read_and_written_alike() -> None:
    lines = b"\n".join(LINES)
    by_c = python("-c", DECODE, stdin=lines)
    assert by_c.count(b"\n") == len(LINES)
    assert python("-c", DECODE, "_json", stdin=lines) == by_c


def test_without_the_c_module_signals_have_the_same_numbers_and_names() -> None:
    said = python("-c", SIGNALS).split()
    assert said == [b"SIGTERM", b"SIGABRT", str(int(signal.SIGUSR1)).encode(), b"15"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_does_not_have_are_not_written(value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        _compat.json_encoder()(value)


def test_a_value_that_json_does_not_have_is_not_written() -> None:
    with pytest.raises(TypeError, match="JSON"):
        _compat.json_encoder()(object())


def test_its_import_loads_nothing_but_built_in_modules() -> None:
    """`cli` blocks signals only after this import."""
    loaded = python("-S", "-c", IMPORT, str(REPOSITORY)).decode().split()
    assert set(loaded) <= {"__future__", "servo_agg._compat", *sys.builtin_module_names}
