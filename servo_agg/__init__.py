"""servo-agg: runs all drivers of a servo directory and presents them to the agent as one.

The rooms and what each may import are described in CONTRIBUTING.md; the contract is docs/SPEC.md.
"""

import os
import sys
import time

# The servo directory, and what else stands on PYTHONPATH, may hold modules named like those of the standard
# library: these are its drivers'. We look there last.
_standard = os.path.dirname(os.__file__)
if _standard in sys.path:
    _before = sys.path.index(_standard)
    sys.path[:] = sys.path[_before:] + sys.path[:_before]

STARTED = time.monotonic()
"""Our start, from which the time for a query counts (SPEC 9)."""

VERSION = "2.0.0"
