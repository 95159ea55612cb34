"""What a user, a config or a file can get wrong, and the words of a message: the nearest valid name, one line, once."""

from __future__ import annotations

import difflib
import functools
import sys
from collections.abc import Iterable
from typing import Any


class TokendreamError(ValueError):
    """What a user, a config, a file, an environment or a machine can get wrong, in one line that says so.

    Every error of ours that the command line shows without a traceback is one of these or an OSError: whatever else
    is raised, a ValueError of torch or numpy among it, is a bug.
    """


class ConfigError(TokendreamError):
    """A config that cannot be run; the message names the field and what it would accept."""


def nearest(name: str, valid: Iterable[str], few: Iterable[str] = ()) -> str:
    """The valid names closest to a misspelt one, as text for an error message; `few` where none is close."""
    valid = list(valid)
    folded = {v.lower(): v for v in valid}
    close = difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.4)
    return ", ".join(folded[c] for c in close) or ", ".join(few or sorted(valid)[:8])


def shorten(value: object) -> str:
    """A value as a message shows it: on one line, and not longer than one."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of more than 4300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:79]}…"


def require(condition: bool, where: str, expected: str, got: object) -> None:
    """Raise ConfigError saying what a field must be and what it is, unless the condition holds."""
    if not condition:
        raise ConfigError(f"{where} must be {expected}, not {shorten(got)}")


def one_line(value: object) -> str:
    """A short single line about an exception or a value; its type where it has no text, or cannot say it."""
    try:
        text = " ".join(str(value).split()) or type(value).__name__
    except Exception:  # of somebody else's __str__
        text = type(value).__name__
    return text if len(text) <= 160 else text[:159] + "…"


class NonFiniteError(TokendreamError):
    """A loss or a gradient is NaN or infinite: the run must stop before its weights are spoilt.

    `batch` is what the update had drawn, by name, once whoever drew it has put it there.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.batch: dict[str, Any] = {}


class OutOfMemory(TokendreamError):
    """A phase that needs more memory than there is; the message names the field to lower."""


@functools.cache
def once(line: str) -> None:
    """Say a line on standard error, unless this process said it before: nothing stops for it."""
    print(f"tokendream: {line}", file=sys.stderr, flush=True)
