"""Tokens of numbers and of choices: fixed tables, nothing is learned. One token a feature.

Source of the 125 values of a feature: Simulus (arXiv 2502.11537).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float32, Int32, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from tokendream.nn.hl_gauss import symexp, symlog
from tokendream.spaces.layout import Part
from tokendream.spaces.observations import Slot

FINE, FAR = 1.42, 6.0
"""In symlog(x): values lie densely up to the first (x = 3.1), sparsely up to the second (x = 402)."""


FARTHEST = math.expm1(FAR)
"""Features beyond it, on either side, are cut off."""


def levels() -> Float32[Tensor, " V"]:
    """The values a feature can have, in symlog: 32 points from 0 to FINE, 31 on to FAR, and the same below 0."""
    above = torch.cat((torch.linspace(0, FINE, 32), torch.linspace(FINE, FAR, 32)[1:]))
    return torch.cat((-above.flip(0)[:-1], above))


class VectorTokenizer(nn.Module):
    """n features <-> n tokens: the nearest of 125 values, in symlog; what lies beyond ±402 is cut off.

    `stretched`, a feature whose space ends before ±3.1 is first multiplied so that it ends there: half of the values
    then lie between its bounds, where MountainCar's velocity had three.

    A code says the value, and around which of E - 1 evenly spaced values it lies, so that near values have near codes
    and any function of a feature is a linear one of its code.
    """

    points: Float32[Tensor, " V"]
    table: Float32[Tensor, "V E"]
    factor: Float32[Tensor, " n"]

    def __init__(self, part: Part, width: int, *, stretched: bool = False) -> None:
        super().__init__()
        self.part, self.code_width = part, width
        self.register_buffer("points", levels(), persistent=False)
        self.vocabulary = len(self.points)
        factor = torch.ones(part.shape)
        if stretched and part.reach:
            factor = (math.expm1(FINE) / torch.tensor(part.reach)).nan_to_num(posinf=1.0).clamp(min=1)
        self.register_buffer("factor", factor, persistent=False)
        centres = torch.linspace(-FAR, FAR, max(2, width - 1))
        # Narrow where values are dense: distances are measured between ranks.
        rank = torch.linspace(-1, 1, len(self.points))
        near = (1 - (rank[:, None] * FAR - centres).abs() / (centres[1] - centres[0])).clamp(min=0)
        self.register_buffer("table", torch.cat((self.points[:, None], near), 1)[:, :width], persistent=False)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """One for each feature."""
        return tuple(Slot(self.part.name, "vector", self.vocabulary, (i,)) for i in range(self.part.shape[0]))

    def encode(self, x: Float32[Tensor, "*B n"]) -> Int64[Tensor, "*B n"]:
        """The nearest value of every feature."""
        between = (self.points[1:] + self.points[:-1]) / 2
        return torch.searchsorted(between, symlog(x * self.factor))

    def codes(self, tokens: Int64[Tensor, "*B n"]) -> Float32[Tensor, "*B n E"]:
        """The codes of values."""
        return F.embedding(tokens, self.table)

    def decode(self, tokens: Int64[Tensor, "*B n"]) -> Float32[Tensor, "*B n"]:
        """The features that tokens stand for."""
        return symexp(self.points[tokens]) / self.factor


class CategoricalTokenizer(nn.Module):
    """m fields <-> m tokens, each the field's value. A code is a fixed random direction for each field and value."""

    table: Float32[Tensor, "m V E"]

    def __init__(self, part: Part, width: int) -> None:
        super().__init__()
        self.part, self.code_width, self.vocabulary = part, width, max(part.sizes)
        table = directions(len(part.sizes), self.vocabulary, width)
        self.register_buffer("table", table, persistent=False)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """One for each field."""
        return tuple(Slot(self.part.name, "categorical", size, (i,)) for i, size in enumerate(self.part.sizes))

    def encode(self, x: Int32[Tensor, "*B m"]) -> Int64[Tensor, "*B m"]:
        """The values themselves."""
        return x.long()

    def codes(self, tokens: Int64[Tensor, "*B m"]) -> Float32[Tensor, "*B m E"]:
        """The codes of values."""
        return self.table[torch.arange(tokens.shape[-1], device=tokens.device), tokens]

    def decode(self, tokens: Int64[Tensor, "*B m"]) -> Int32[Tensor, "*B m"]:
        """The values themselves; one that the field has not becomes its last."""
        sizes = torch.tensor(self.part.sizes, device=tokens.device)
        return tokens.minimum(sizes - 1).int()


def directions(fields: int, values: int, width: int) -> Float32[Tensor, "F V E"]:
    """Fixed random vectors of mean square 1 for every value of every field: nearly orthogonal where E is large."""
    return torch.randn(fields, values, width, generator=torch.Generator().manual_seed(0))
