"""Breaking runs on purpose. The tests hold quick versions; TORTURE=1 (`make torture`) makes them the full ones, whose
counts end up in docs/trust.md.
"""

import os

FULL = bool(os.environ.get("TORTURE"))


def count(quick: int, full: int) -> int:
    """How often to try: `full` under `make torture`, else `quick`."""
    return full if FULL else quick
