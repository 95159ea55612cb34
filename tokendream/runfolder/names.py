"""Paths as messages show them: from the folder where the command was given, and as a shell takes them; and the names of
runs."""

from __future__ import annotations

import os
import shlex
from pathlib import Path


def _working_folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return ""


HERE = _working_folder()
"""Where the command was given: an environment may change the working folder later."""


def shown(path: Path) -> str:
    """The path from where the command was given, where it is below that; else as it is."""
    try:
        below = str(path.relative_to(HERE))
    except ValueError:
        below = str(path)
    return f"./{below}" if below.startswith("-") else below  # a name, not an option


def name_of(run: Path) -> str:
    """What a run is called: by its folder, or by its exported file without the suffix."""
    run = run.resolve()
    return run.stem if run.is_file() else run.name


def quoted(path: Path) -> str:
    """The same as a word of a command to be given there."""
    return shlex.quote(shown(path))
