"""Plain JSON data into dataclasses, checked name by name."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tokendream.errors import ConfigError, nearest, require


def read(cls: type[Any], data: object, where: str) -> Any:
    """Build a dataclass from plain JSON data. Raises ConfigError for a name unknown, or of another type.

    A field that is missing takes its default, so that what an older version wrote can be read: a new field's default
    is what that version did (whoever changes a default keeps the old one in `old_formats`). A field without a default
    must be there.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where} must be an object, not {type(data).__name__}")
    hints = _hints(cls)  # type: ignore[arg-type]  # every class is hashable
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


@functools.cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    """The types of its fields: evaluating them takes longer than all else that is done to read one."""
    return get_type_hints(cls)


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
