"""What a number of the config may be, as part of its type: `layers: Count = 5`, `lam: Share = 0.95`."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from typing import Annotated, Any, get_args, get_type_hints

from tokendream.errors import require

LARGEST = 2**31 - 1
"""Largest whole number in a config; torch and ALE count in 32 bits in places."""

LARGEST_SEED = 2**62
"""Torch takes seeds below 2^64, and a run derives some of its own by adding epochs to its seed."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included unless `above`, which leaves `low` out. Never NaN or infinite."""

    low: int
    high: int | float | None = None
    above: bool = False
    multiple_of: int = 0

    def check(self, value: int | float, where: str) -> None:
        """Raise ConfigError, naming the field, for a number outside."""
        if needed := self._needed(value):
            require(False, where, needed, value)

    def _needed(self, value: int | float) -> str:
        """What a number outside would have to be, in words; nothing for one inside."""
        largest = self.high or (LARGEST if isinstance(value, int) else sys.float_info.max)
        if isinstance(value, float) and not math.isfinite(value):
            return "finite"
        if value <= self.low and (self.above or value < self.low):
            low = "positive" if self.above else f"at least {self.low}"
            return low if self.high is None else f"between {self.low} and {self.high}"
        if value > largest:
            return f"at most {largest}" if self.high is None else f"between {self.low} and {self.high}"
        return f"a multiple of {self.multiple_of}" if self.multiple_of and value % self.multiple_of else ""


Count = Annotated[int, Range(1)]
CountOrZero = Annotated[int, Range(0)]
NonNegative = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
Share = Annotated[float, Range(0, 1)]


def check(group: Any, prefix: str = "") -> None:
    """Raise ConfigError, naming the field, where a number of a config or of a part of it is outside its range."""
    ranges = _ranges(group.__class__)
    for f in dataclasses.fields(group):
        value, where = getattr(group, f.name), prefix + f.name
        if dataclasses.is_dataclass(value):
            check(value, f"{where}.")
        elif f.name in ranges:
            ranges[f.name].check(value, where)


@functools.cache
def _ranges(group: type[Any]) -> dict[str, Range]:
    hints = get_type_hints(group, include_extras=True)
    return {name: a for name, hint in hints.items() for a in get_args(hint) if isinstance(a, Range)}
