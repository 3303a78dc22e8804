"""Fuzz a whole query in this process: see README.md.

Two drivers answer, one correctly, the other with the input: its first byte is the exit status, the rest the
output. Supervisor, threads, child processes and merge are real.
"""

from __future__ import annotations

import os
from pathlib import Path

import atheris

from tests.fuzz.engine import fuzz
from tests.support.servo import ServoDirectory
from tests.support.sources import answer_script

with atheris.instrument_imports(include=["servo_agg"]):
    from servo_agg.commands import query
    from servo_agg.commands.query import Context
    from servo_agg.config import read_config
    from servo_agg.drivers.events import EventLoop, EventQueue
    from servo_agg.drivers.supervisor import Supervisor
    from servo_agg.drivers.watchdog import SpawnTable
    from servo_agg.errors import Conflict
    from servo_agg.output.writer import Writer
    from servo_agg.protocol.messages import encode, parse_object

GOOD = {"application": {"components": {"web": {"settings": {"cpu": {"value": 2}}}}}, "a": {"b": 1}}


class Query:
    """A servo directory that is created once, and a run that queries its drivers many times."""

    def __init__(self, parent: Path) -> None:
        servo = ServoDirectory(parent)
        servo.add_script("good", answer_script(GOOD))
        servo.add_script("made-up", "#!/bin/sh\nread status <status\ncat output\nexit $status\n")
        os.chdir(servo.path)
        config = read_config(os.environ)
        queue = EventQueue()
        loop = EventLoop(queue, Writer(1, lambda: None))
        supervisor = Supervisor(queue, loop, SpawnTable(), debug=lambda *_: None)
        supervisor.environment = config.environment
        self._run = Context(
            config,
            supervisor,
            loop,
            started=0,
            send=lambda _: None,
            warn=lambda _: None,
            debug=lambda *_: None,
            locks=[],
            watchdog_alive=lambda: True,
        )

    def check(self, data: bytes) -> None:
        """Query both; the answer is one object in one line, a failure or what the good driver answered."""
        status = (data[:1] or b"\0")[0] % 3
        Path("status").write_text(f"{status}\n", encoding="ascii")
        Path("output").write_bytes(data[2:])
        try:
            answer = query.query(self._run, "app")
        except Conflict:
            assert not status
            return
        assert isinstance(answer.final, dict)
        text = encode(answer.final)
        assert text.isascii()
        final = parse_object(text)
        if answer.status == 0:
            assert final["application"]["components"]["web"]["settings"]["cpu"] == {"value": 2}
            assert not status
        else:
            assert answer.status == 1
            assert final["message"].startswith("made-up: ")
            assert final["reason"]
            assert final["status"] != "ok"


if __name__ == "__main__":
    fuzz(lambda place: Query(place).check, "Fuzz a whole query.")
