"""Sources of drivers, for `ServoDirectory.add_script`, and changes to the interpreter by a sitecustomize."""

from __future__ import annotations

import json
import sys
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.servo import ServoDirectory

SAY_OK = """echo '{"status":"ok"}'"""
"""The sh command of a successful reply to an adjust."""


def adjust_script(body: str, component: str = "web") -> str:
    """Return the source of a sh driver of `COMPONENT.cpu` that runs `body` in an adjust."""
    return (
        "#!/bin/sh\n"
        "case $1 in\n"
        """--info) echo '{"version":"1","has_cancel":false}'; exit ;;\n"""
        f"""--query) echo '{{"components":{{"{component}":{{"settings":{{"cpu":{{"value":2}}}}}}}}}}'\n"""
        "exit ;;\n"
        "esac\n" + textwrap.dedent(body)
    )


def answer_script(answer: object, *, seconds: float = 0) -> str:
    """Return the source of a sh driver that prints `answer` in every phase, after `seconds`."""
    return f"#!/bin/sh\nsleep {seconds}\ncat <<'END'\n{json.dumps(answer)}\nEND\n"


def sitecustomize(servo: ServoDirectory, source: str) -> dict[str, str | None]:
    """Return the environment in which each Python interpreter first executes `source`."""
    directory = servo.path.parent / "sitecustomize"
    directory.mkdir(exist_ok=True)
    (directory / "sitecustomize.py").write_text(textwrap.dedent(source), encoding="utf-8")
    return {"PYTHONPATH": str(directory)}


def with_constant(name: str, value: object) -> list[str]:
    """Return the command that runs the program with another value of a constant, `MODULE.CONSTANT`."""
    module = name.rpartition(".")[0]
    program = f"import {module}; {name} = {value!r}; from servo_agg.cli import main; main()"
    return [sys.executable, "-c", program]


_HIDE_MODULES = """
    import os, sys

    class Hide:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in os.environ["HIDDEN"].split():
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Hide())
"""


def without_modules(servo: ServoDirectory, *names: str) -> dict[str, str | None]:
    """Return the environment in which Python cannot import these modules."""
    return {**sitecustomize(servo, _HIDE_MODULES), "HIDDEN": " ".join(names)}
