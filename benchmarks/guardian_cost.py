#!/usr/bin/env python3
"""What the guardian costs a query: `--query` of one sh driver with it and without it, taken in turn.

Both run the same program through the same few lines; the one without puts a stand-in in the guardian's
place that neither forks nor waits. The ratio is the median of the ratios of the pairs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent

LIMIT = 1.15
"""The ratio that the project holds itself to."""

DRIVER = """#!/bin/sh
echo '{"application":{"components":{"web":{"settings":{"cpu":{"value":2}}}}}}'
"""

STAND_IN = """
import servo_agg.guardian

class Nobody:
    def __init__(self, ledger, keep):
        pass

    def dismiss(self):
        pass

servo_agg.guardian.Guardian = Nobody
"""

RUN = """import sys
sys.path.append({repository!r})
{prelude}
from servo_agg.cli import main
main()
"""


def seconds(program: Path, directory: Path, environment: dict[str, str]) -> float:
    """Run a query once; give the seconds that it took."""
    start = time.perf_counter()
    command = [sys.executable, str(program), "--query", "app"]
    subprocess.run(command, cwd=directory, env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> None:
    """Measure, print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=200, help="pairs to be measured")
    rounds = parser.parse_args().rounds
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "adjust.d").mkdir()
        driver = directory / "adjust.d" / "driver"
        driver.write_text(DRIVER)
        driver.chmod(0o755)
        programs = {}
        for title, prelude in (("with", ""), ("without", STAND_IN)):
            programs[title] = directory / f"{title}.py"
            programs[title].write_text(RUN.format(repository=str(REPOSITORY), prelude=prelude))
            seconds(programs[title], directory, environment)
        pairs = [
            [seconds(programs[title], directory, environment) for title in ("with", "without")]
            for _ in range(rounds)
        ]
    ratio = statistics.median(first / second for first, second in pairs)
    for index, title in enumerate(programs):
        print(f"{title:8} guardian: {1000 * statistics.median(pair[index] for pair in pairs):6.1f} ms")
    print(f"ratio: {ratio:.3f} (at most {LIMIT}: {'met' if ratio <= LIMIT else 'MISSED'})")


if __name__ == "__main__":
    main()
