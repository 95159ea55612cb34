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

    @property
    def total(self) -> Float[Tensor, ""]:
        """The sum of the terms: what is minimised."""
        first, *rest = self.terms.values()
        for term in rest:
            first = first + term
        return first

    def detach(self) -> Losses:
        """The same figures without their graph."""
        return Losses({k: v.detach() for k, v in self.terms.items()}, {k: v.detach() for k, v in self.info.items()})

    def figures(self) -> dict[str, Float[Tensor, ""]]:
        """Everything by name, detached, for the logs."""
        return {k: v.detach() for k, v in {**self.terms, **self.info}.items()}
