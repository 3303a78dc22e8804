"""servo-agg: runs all drivers of a servo directory and presents them to the agent as one.

The rooms and what each may import are described in CONTRIBUTING.md; the contract is docs/SPEC.md.
"""

import time

STARTED = time.monotonic()
"""Our start, from which the time for a query counts (SPEC 9)."""

VERSION = "2.0.0"
