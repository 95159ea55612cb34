"""`Losses`: what every part of the agent returns from its training pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Losses:
    """Named loss terms, already weighted, and figures that are only watched.

    Both hold 0-d tensors on the device; nothing here waits for the device (no `.item()`).
    """

    terms: Mapping[str, Float[Tensor, ""]]
    info: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict)
    segments: Float[Tensor, " B"] | None = None
    """The loss of each segment of the batch, without a gradient, where replay asks for it."""

    @property
    def total(self) -> Float[Tensor, ""]:
        """The sum of the terms: what is minimised."""
        first, *rest = self.terms.values()
        return sum(rest, first)

    def detach(self) -> Losses:
        """The same figures without their graph."""
        terms, info = ({k: v.detach() for k, v in d.items()} for d in (self.terms, self.info))
        return Losses(terms, info, self.segments)

    def figures(self) -> dict[str, Float[Tensor, ""]]:
        """Everything by name, detached, for the logs."""
        return {k: v.detach() for k, v in {**self.terms, **self.info}.items()}
