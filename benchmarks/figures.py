"""The figures of `benchmarks claims`: what was timed of the four world models, and what follows from it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

REM, NO_POP = "RetNet, POP", "RetNet, by token"
TRANSFORMER_POP, IRIS = "Transformer, POP", "Transformer, by token"

FOUR = {
    REM: ("retnet", "pop"),
    NO_POP: ("retnet", "token"),
    TRANSFORMER_POP: ("transformer", "pop"),
    IRIS: ("transformer", "token"),
}
"""The four world models: their values of `world_model.backbone` and `world_model.decoding`."""

ABSORB = "absorb"
"""Beside them: RetNet absorbs a block and predicts nothing."""


class Spread(NamedTuple):
    """A figure over several repetitions."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """The median, least and most of them."""
        return Spread(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Cell:
    """Four world models at one piece of work, timed in turn."""

    kind: str
    """dream, training or memory."""
    K: int
    """Tokens a frame."""
    batch: int
    wanted: int
    """The batch that was meant; a smaller one is what time allowed."""
    history: float
    """Blocks in memory, on average over the steps timed; 0 in training."""
    seconds: dict[str, list[float]]
    """By world model: of one imagined step, or of one frame trained on, per repetition."""
    flops: dict[str, float]
    """By world model, of the same."""

    def rate(self, name: str) -> Spread:
        """Imagined steps, or frames, a second."""
        times = self.seconds[name]
        return Spread(1 / statistics.median(times), 1 / max(times), 1 / min(times))

    def times_as_fast(self, fast: str, slow: str) -> Spread:
        """How many times as fast one is as the other, by the rounds in which both were timed."""
        ratios = [b / a for a, b in zip(self.seconds[fast], self.seconds[slow], strict=True)]
        return Spread.of(ratios)


@dataclass
class Claims:
    """Everything that `benchmarks claims` found."""

    preset: str
    quick: bool
    clock: str
    environment: dict[str, Any]
    K: int
    """The preset's own tokens a frame."""
    parameters: dict[str, int]
    """Of each world model."""
    frames: int
    """Frames that an epoch trains M on."""
    steps: int
    """Steps that an epoch imagines."""
    phases: dict[str, float] = field(default_factory=dict)
    """Seconds an epoch of what does not depend on the world model."""
    cells: list[Cell] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def of(self, kind: str, K: int | None = None) -> list[Cell]:
        """The cells of a kind, at K tokens a frame where it is given, in order."""
        found = [c for c in self.cells if c.kind == kind and K in (None, c.K)]
        return sorted(found, key=lambda c: (c.K, c.batch, c.history))

    def epoch(self, name: str) -> dict[str, float]:
        """Seconds of an epoch with that world model, from the largest batches; empty if a part is missing."""
        trained, dreamed = self.of("training", self.K), self.of("dream", self.K)
        if not (self.phases and trained and dreamed):
            return {}
        parts = {
            "collection": self.phases["collection"],
            "tokenizer": self.phases["tokenizer"],
            "world model": self.frames / trained[-1].rate(name).median,
            "dream": self.steps / dreamed[-1].rate(name).median,
            "actor-critic": self.phases["controller"],
        }
        return {**parts, "total": sum(parts.values())}
