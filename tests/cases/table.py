"""All cases."""

from __future__ import annotations

from tests.cases import command_line, drivers, progress, stdin, surroundings

CASES = (*command_line.CASES, *surroundings.CASES, *stdin.CASES, *drivers.CASES, *progress.CASES)
