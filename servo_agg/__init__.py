"""servo-agg: runs all drivers of a servo directory and presents them to the agent as one.

CONTRIBUTING.md describes the packages and modules and what each may import; docs/SPEC.md is the contract.
"""

import os
import sys
import time

# The servo directory and the rest of PYTHONPATH may hold modules with names of the standard library. They are
# for the drivers: we look there last.
_standard = os.path.dirname(os.__file__)
if _standard in sys.path:
    _before = sys.path.index(_standard)
    sys.path[:] = sys.path[_before:] + sys.path[:_before]

IMPORT_MEMORY = 12 << 20
"""Bytes of memory that an import of ours, or of psutil, takes at most."""

import mmap  # noqa: E402 - only after sys.path has been reordered

# If memory runs out during an import, Python 3.11 can loop forever without reacting to signals. This raises
# OSError before that.
mmap.mmap(-1, IMPORT_MEMORY).close()

STARTED = time.monotonic()
"""Our start, from which the time for a query counts (SPEC 9.7)."""

VERSION = "2.0.0"
