"""The figures of `benchmarks sweeps`: what a phase costs at one size after the other, and how fast that grows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.figures import Spread


@dataclass(frozen=True)
class Point:
    """A phase at one size."""

    x: int
    """The size."""
    units: int
    """Frames, or imagined steps, of an update."""
    seconds: list[float]
    """Of an update, per repetition."""
    flops: int
    """Of an update."""

    @property
    def cost(self) -> Spread:
        """Seconds of a frame, or of an imagined step."""
        return Spread.of([s / self.units for s in self.seconds])


@dataclass(frozen=True)
class Curve:
    """A phase over one of its sizes, the others fixed; all points were timed in turn."""

    axis: str
    """tokens, batch, length, layers or width."""
    work: str
    """The phase, for people."""
    size: str
    """What a size is called, with {} for the number."""
    unit: str
    """frame or imagined step."""
    fixed: str
    """The other sizes."""
    points: list[Point] = field(default_factory=list)

    @property
    def exponent(self) -> Spread:
        """p of the cost as x^p, fitted to every round in which all sizes were timed; median, least and most."""
        x = [p.x for p in self.points]
        rounds = zip(*([s / p.units for s in p.seconds] for p in self.points), strict=True)
        return Spread.of([power(x, y) for y in rounds])

    @property
    def last_exponent(self) -> float:
        """The same between the two largest sizes, where what is fixed weighs least."""
        a, b = self.points[-2:]
        return power((a.x, b.x), (a.cost.median, b.cost.median))

    @property
    def arithmetic(self) -> float:
        """The same of the floating-point operations."""
        return power([p.x for p in self.points], [p.flops / p.units for p in self.points])


@dataclass
class Sweeps:
    """Everything that `benchmarks sweeps` found."""

    preset: str
    quick: bool
    clock: str
    precision: str
    environment: dict[str, Any]
    curves: list[Curve] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def of(self, axis: str) -> list[Curve]:
        """The curves over one kind of size that have at least two points."""
        return [c for c in self.curves if c.axis == axis and len(c.points) > 1]


def power(x: Sequence[int], y: Sequence[float]) -> float:
    """p of the line log y = p log x + c that is nearest to the points by least squares."""
    return statistics.linear_regression([math.log(v) for v in x], [math.log(v) for v in y]).slope


def in_words(p: float, x: str) -> str:
    """How what goes as x^p depends on x; a tenth either way counts as nothing."""
    if p < -0.1:
        return f"falls as {x} grows"
    if p <= 0.1:
        return f"does not depend on {x}"
    if p < 0.9:
        return f"grows more slowly than {x}"
    return f"grows in proportion to {x}" if p <= 1.1 else f"grows faster than {x}"
