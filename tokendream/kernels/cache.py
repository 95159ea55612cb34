"""The user's cache folder: compiled kernels, and what was measured of this machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def folders() -> Iterator[Path]:
    """Where files may lie, the best place first; nobody else can write there, as compiled kernels are run."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    for folder in (Path(cache) / "tokendream", Path(tempfile.gettempdir()) / f"tokendream-{os.getuid()}"):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_uid == os.getuid():
                yield folder
        except OSError:
            continue


def name(kind: str, *depends: str) -> str:
    """The name of a file of figures, by everything that they depend on."""
    return f"{kind}-{hashlib.sha256(chr(0).join(depends).encode()).hexdigest()[:24]}.json"


def read(name: str) -> dict[str, Any] | None:
    """What an earlier process wrote, from the first folder that has it whole."""
    for folder in folders():
        with contextlib.suppress(OSError, ValueError, RecursionError):
            if isinstance(found := json.loads((folder / name).read_text(encoding="utf-8")), dict):
                return found
    return None


def write(name: str, figures: dict[str, Any], *, again: bool) -> None:
    """Keep figures in the first folder that can be written, if any; unless `again`, the first process's stay."""
    for folder in folders():
        unfinished = folder / f"{name}.{os.getpid()}"
        with contextlib.suppress(OSError):  # read-only, full, or another process was first
            unfinished.write_text(json.dumps(figures), encoding="utf-8")
            (os.replace if again else os.link)(unfinished, folder / name)
        with contextlib.suppress(OSError):
            unfinished.unlink()
        if read(name) is not None:
            return
