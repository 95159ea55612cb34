"""Lines that are said once a process, on standard error: what a user should know although nothing stops for it."""

from __future__ import annotations

import functools
import sys


@functools.cache
def once(line: str) -> None:
    """Say this line, unless it was said before."""
    print(f"tokendream: {line}", file=sys.stderr, flush=True)
