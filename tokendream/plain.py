"""Plain JSON data into dataclasses, checked name by name, and the error that names the nearest valid one."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints


class ConfigError(ValueError):
    """A config that cannot be run; the message names the field and what it would accept."""


def nearest(name: str, valid: Iterable[str], count: int = 3) -> str:
    """The valid names closest to a misspelt one, as text for an error message."""
    valid = list(valid)
    folded = {v.lower(): v for v in valid}
    close = difflib.get_close_matches(name.lower(), folded, n=count, cutoff=0.4)
    return ", ".join(folded[c] for c in close) or ", ".join(sorted(valid)[:8])


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


def read(cls: type[Any], data: object, where: str) -> Any:
    """Build a dataclass from plain JSON data. Raises ConfigError for a name unknown, or of another type.

    A field that is missing takes its default, so that what an older version wrote can be read: a new field's default
    is what that version did. A field without a default must be there.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where} must be an object, not {type(data).__name__}")
    hints = get_type_hints(cls)
    for name in data:
        if name not in hints:
            raise ConfigError(f"{where}.{str(name)[:80]} is unknown; nearest: {nearest(str(name)[:80], hints)}")
    values = {}
    for f in dataclasses.fields(cls):
        path = f"{where}.{f.name}"
        if f.name in data:
            values[f.name] = _convert(hints[f.name], data[f.name], path)
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{path} is missing")
    return cls(**values)


def _convert(kind: Any, value: object, where: str) -> object:
    if dataclasses.is_dataclass(kind):
        return read(kind, value, where)  # type: ignore[arg-type]
    if get_origin(kind) is Literal:
        require(value in get_args(kind), where, f"one of {', '.join(get_args(kind))}", value)
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        require(abs(value) < 2**63, where, "a number of ordinary size", value)
        return float(value)
    require(type(value) is kind, where, f"of type {kind.__name__}", value)
    return value
