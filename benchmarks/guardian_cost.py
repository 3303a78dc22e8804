#!/usr/bin/env python3
"""What the guardian costs a query: `--query` of one sh driver with it and without it, taken in turn.

Both run the same program through the same few lines; the one without puts a stand-in in the guardian's
place that neither forks nor waits. The ratio is the median of the ratios of the pairs.
"""

from __future__ import annotations

import argparse

from pairs import REPOSITORY, milliseconds, ratio, shell_driver, stage

LIMIT = 1.15
"""The ratio that the project holds itself to."""

STAND_IN = """
import os

import servo_agg.guardian

class Nobody:
    def __init__(self, ledger, keep):
        self.line, self._end = os.pipe()

    def lives(self):
        return True

    def release(self):
        pass

    def reap(self):
        pass

servo_agg.guardian.Guardian = Nobody
"""

RUN = """import sys
sys.path.append({repository!r})
{prelude}
from servo_agg.cli import main
main()
"""


def main() -> None:
    """Measure, print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=200, help="pairs to be measured")
    rounds = parser.parse_args().rounds
    with stage() as here:
        directory = here.servo("servo", shell_driver(), 1)
        commands = []
        for title, prelude in (("with", ""), ("without", STAND_IN)):
            program = directory / f"{title}.py"
            program.write_text(RUN.format(repository=str(REPOSITORY), prelude=prelude), encoding="utf-8")
            commands.append((str(here.python), str(program), "--query", "app"))
        first, second = commands
        pairs = [
            here.pair(lambda: here.seconds(directory, first), lambda: here.seconds(directory, second))
            for _ in range(rounds)
        ]
    guarded, alone = zip(*pairs)
    cost = ratio(guarded, alone)
    print(f"with a guardian:    {milliseconds(guarded):6.1f} ms")
    print(f"without a guardian: {milliseconds(alone):6.1f} ms")
    print(f"ratio: {cost:.3f} (at most {LIMIT}: {'met' if cost <= LIMIT else 'MISSED'})")


if __name__ == "__main__":
    main()
