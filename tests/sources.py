"""Sources that a test writes itself: of drivers, for `ServoDirectory.add_script`, and of a sitecustomize."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.servo import ServoDirectory


def adjusting(body: str, component: str = "web") -> str:
    """Give the source of a sh driver of `COMPONENT.cpu` that runs `body` in an adjust."""
    return (
        "#!/bin/sh\n"
        "case $1 in\n"
        """--info) echo '{"version":"1","has_cancel":false}'; exit ;;\n"""
        f"""--query) echo '{{"components":{{"{component}":{{"settings":{{"cpu":{{"value":2}}}}}}}}}}'\n"""
        "exit ;;\n"
        "esac\n" + textwrap.dedent(body)
    )


def describing(answer: object, *, seconds: float = 0) -> str:
    """Give the source of a sh driver that answers whatever it is asked so, after `seconds`."""
    return f"#!/bin/sh\nsleep {seconds}\ncat <<'END'\n{json.dumps(answer)}\nEND\n"


def made(servo: ServoDirectory, source: str) -> dict[str, str | None]:
    """Return the environment in which each interpreter begins with `source`."""
    place = servo.path.parent / "made"
    place.mkdir()
    (place / "sitecustomize.py").write_text(textwrap.dedent(source), encoding="utf-8")
    return {"PYTHONPATH": str(place)}
