"""Fuzz a whole query in this process: see README.md.

Two drivers answer, one as it should, the other what is made up: the first byte is its exit status, the
rest its output. All is real but for the edge: the supervisor, the threads, the children, the merge.
"""

from __future__ import annotations

import os
from pathlib import Path

import atheris

from tests.fuzz.engine import fuzz
from tests.servo import ServoDirectory
from tests.sources import describing

with atheris.instrument_imports(include=["servo_agg"]):
    from servo_agg import operations
    from servo_agg.config import Config
    from servo_agg.errors import Conflict
    from servo_agg.inbox import Inbox
    from servo_agg.ledger import Ledger
    from servo_agg.listener import Listener
    from servo_agg.outlet import Outlet
    from servo_agg.protocol import encode, parse
    from servo_agg.supervisor import Supervisor

GOOD = {"application": {"components": {"web": {"settings": {"cpu": {"value": 2}}}}}, "a": {"b": 1}}


class Query:
    """A servo directory that is made once, and the run that asks its drivers again and again."""

    def __init__(self, parent: Path) -> None:
        servo = ServoDirectory(parent)
        servo.add_script("good", describing(GOOD))
        servo.add_script("made-up", "#!/bin/sh\nread status <status\ncat output\nexit $status\n")
        os.chdir(servo.path)
        config = Config(os.environ)
        inbox = Inbox()
        listener = Listener(inbox, Outlet(1, lambda: None))
        supervisor = Supervisor(inbox, listener, Ledger(), note=lambda *_: None)
        supervisor.environment = config.environment
        self._run = operations.Run(
            config,
            supervisor,
            listener,
            started=0,
            say=lambda _: None,
            tell=lambda _: None,
            note=lambda *_: None,
            locks=[],
            guarded=lambda: True,
        )

    def check(self, given: bytes) -> None:
        """Ask both; the answer is one object in one line, a failure or all that the good one said."""
        status = (given[:1] or b"\0")[0] % 3
        Path("status").write_text(f"{status}\n", encoding="ascii")
        Path("output").write_bytes(given[2:])
        try:
            answer = operations.query(self._run, "app")
        except Conflict:
            assert not status
            return
        assert isinstance(answer.final, dict)
        text = encode(answer.final)
        assert text.isascii()
        final = parse(text)
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
