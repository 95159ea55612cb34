"""What a diagnosis is made of: figures that say what is healthy, and counts of what a classifier gets right."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class Figure:
    """One measured figure. `value` is None where there was nothing to measure it on.

    `bound` is where healthy ends and `worst` where nothing works; None for figures that are only there to be read.
    """

    name: str
    value: float | None
    healthy: str
    bound: float | None = None
    worst: float | None = None

    @property
    def shortfall(self) -> float:
        """How far from healthy: 0 up to the bound, 1 from the worst value on; 0 where it cannot be said."""
        if self.value is None or self.bound is None or self.worst is None or self.bound == self.worst:
            return 0.0
        return min(1.0, max(0.0, (self.value - self.bound) / (self.worst - self.bound)))


FORESEEN = {
    "reward negative": ("for what the policy should avoid", "dreams punish more often than the game"),
    "reward none": ("or dreams pay where the game does not", "dreams pay less often than the game"),
    "reward positive": ("for what the policy should learn from", "dreams are paid what no game pays"),
    "end no": ("or dreams end where the game goes on", "dreams go on where the game ends"),
    "end yes": ("or dreams go on where the game ends", "dreams end more often than the game"),
}
"""Of every class that M foresees, why a recall should be above 0.5, and what it means to expect far too many."""


@dataclass(frozen=True)
class Curve:
    """Figures over a common axis, such as dreamed steps: one line per name."""

    title: str
    axis: str
    x: tuple[float, ...]
    lines: dict[str, tuple[float, ...]]
    healthy: str


@dataclass(frozen=True)
class Bars:
    """One bar per label."""

    title: str
    labels: tuple[str, ...]
    values: tuple[float, ...]
    healthy: str


@dataclass(frozen=True)
class PartFigures:
    """All that was measured of one part of the agent."""

    title: str
    figures: tuple[Figure, ...]
    curves: tuple[Curve, ...] = ()
    bars: tuple[Bars, ...] = ()


def number(value: float | Tensor) -> float | None:
    """A finite number, or None for one that is not: the mean of nothing."""
    value = float(value)
    return value if math.isfinite(value) else None


def classification(
    logits: Float[Tensor, "N C"], target: Int64[Tensor, " N"], names: tuple[str, ...], what: str, *, worst: float = 0.0
) -> list[Figure]:
    """Cross-entropy against the classes' own entropy, calibration, and of every class precision, recall and how
    often it is expected.

    A class that never happened and was never predicted has no figures. `worst` is that of a recall.
    """
    logits = logits.float()
    p, predicted = logits.softmax(-1), logits.argmax(-1)
    frequency = torch.bincount(target, minlength=len(names)) / len(target)
    entropy = torch.special.entr(frequency).sum()
    loss = torch.nn.functional.cross_entropy(logits, target)
    known = f"below {entropy:.3g}, what the frequencies alone give" if entropy > 0 else "near 0: one class only"
    figures = [
        Figure(f"{what} cross-entropy", number(loss), known, 0.8 * float(entropy), float(entropy)),
        Figure(
            f"{what} calibration error",
            number(calibration_error(p.amax(-1), (predicted == target).float())),
            "below 0.05: a dream samples from these probabilities", 0.05, 0.5,
        ),
    ]  # fmt: skip
    for c, name in enumerate(names):
        hit = ((predicted == c) & (target == c)).sum()
        claimed, present = (predicted == c).sum(), (target == c).sum()
        if present == 0 and claimed == 0:
            continue
        recall, many = FORESEEN[f"{what} {name}"]
        figures += [
            Figure(f"{what} {name}: precision", number(hit / claimed), f"above its frequency, {frequency[c]:.3g}"),
            Figure(f"{what} {name}: recall", number(hit / present), f"above 0.5, {recall}", 0.5, worst),
            Figure(f"{what} {name}: expected for each that came", number(p[:, c].sum() / present),
                   f"near 1; far above, {many}", 1.5, 4.0),
        ]  # fmt: skip
    return figures


def calibration_error(confidence: Float[Tensor, " N"], right: Float[Tensor, " N"], bins: int = 10) -> float:
    """Expected calibration error: |confidence - accuracy| averaged over equal bins of confidence, by their counts."""
    bucket = (confidence * bins).long().clamp(max=bins - 1)
    count = torch.bincount(bucket, minlength=bins)
    gap = torch.bincount(bucket, confidence.double() - right.double(), minlength=bins)
    return float(gap.abs().sum() / count.sum())
