"""REM: an agent that turns frames into tokens, dreams in them a whole frame at a time, and learns in its dreams.

    import tokendream

    agent = tokendream.load("runs/Breakout-rem-seed3")
    score, frames = agent.play_game(seed=0)

These are the public names; each is imported when it is first asked for, so that `tokendream --help` answers at once.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokendream.config.config import Config
    from tokendream.config.presets import preset
    from tokendream.runfolder.load import Trained

__all__ = ["Config", "Trained", "__version__", "load", "preset"]

__version__ = "0.1.0"

_HOMES = {
    "Config": "tokendream.config.config",
    "Trained": "tokendream.runfolder.load",
    "preset": "tokendream.config.presets",
}


def load(run: str | os.PathLike[str], device: str = "auto") -> Trained:
    """The agent of a run's last checkpoint, the run may still be training; or of a file that `tokendream export` made.

    Raises `tokendream.errors.TokendreamError`, one line, for a folder without a usable run, another file, or a device
    that is not there.
    """
    from tokendream.runfolder.load import Trained

    return Trained.load(Path(run), device)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
