"""Fixtures of all tests: an empty servo directory, and a check that no process is left behind."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.support.processes import no_process_left
from tests.support.servo import ServoDirectory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# On a loaded machine, generating an example may take long.
_slowly = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
# The same examples in each run: a new one could fail for a change that did not cause the failure.
hypothesis.settings.register_profile("quick", _slowly, max_examples=25, derandomize=True)
hypothesis.settings.register_profile("full", _slowly, max_examples=2000)
# Chosen by --hypothesis-profile=long: hours if all properties are run.
hypothesis.settings.register_profile("long", _slowly, max_examples=100_000, database=None)


_starts = 0


def _count_starts(event: str, _: object) -> None:
    global _starts  # noqa: PLW0603 - an audit hook cannot be removed
    if event in ("subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty", "os.exec"):
        _starts += 1


sys.addaudithook(_count_starts)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the slow tests, too")
    parser.addoption("--repeat", type=int, default=1, help="how often each cell of the fault table is run")


def pytest_configure(config: pytest.Config) -> None:
    # In the background of a script these signals are ignored, and child processes inherit that.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    hypothesis.settings.load_profile("full" if config.getoption("--full") else "quick")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--full"):
        return
    long = [item for item in items if item.get_closest_marker("full")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


@pytest.fixture(autouse=True)
def _nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    if "tmp_path" in request.fixturenames:
        # It must be removed after the search: processes that end may wait for a file in it.
        request.getfixturevalue("tmp_path")
    before = _starts
    name = request.node.name[:40].encode("ascii", "replace").decode()
    with no_process_left(name, any_started=lambda: _starts > before):
        yield


@pytest.fixture
def servo(tmp_path: Path) -> ServoDirectory:
    return ServoDirectory(tmp_path)
