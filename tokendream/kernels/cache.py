"""What was measured of this machine, kept in the user's cache folder beside the compiled kernels."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from typing import Any

from tokendream.kernels.cpu import build


def name(kind: str, *depends: str) -> str:
    """The name of a file of figures, by everything that they depend on."""
    return f"{kind}-{hashlib.sha256(chr(0).join(depends).encode()).hexdigest()[:24]}.json"


def read(name: str) -> dict[str, Any] | None:
    """What an earlier process wrote, from the first folder that has it whole."""
    for folder in build.folders():
        with contextlib.suppress(OSError, ValueError, RecursionError):
            if isinstance(found := json.loads((folder / name).read_text(encoding="utf-8")), dict):
                return found
    return None


def write(name: str, figures: dict[str, Any], *, again: bool) -> None:
    """Keep figures in the first folder that can be written, if any; unless `again`, the first process's stay."""
    for folder in build.folders():
        unfinished = folder / f"{name}.{os.getpid()}"
        with contextlib.suppress(OSError):  # read-only, full, or another process was first
            unfinished.write_text(json.dumps(figures), encoding="utf-8")
            (os.replace if again else os.link)(unfinished, folder / name)
        with contextlib.suppress(OSError):
            unfinished.unlink()
        if read(name) is not None:
            return
