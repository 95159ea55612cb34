"""Lines for people, as wide as the terminal that shows them."""

from __future__ import annotations

import shutil
import sys
import textwrap


def wrapped(line: str) -> str:
    """The line broken between words where the terminal is narrower, what follows indented; elsewhere as it is."""
    if not sys.stdout.isatty():
        return line
    width = shutil.get_terminal_size().columns
    return textwrap.fill(line, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
