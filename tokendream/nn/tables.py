"""Tables of several vocabularies as one: which one an index means follows from where it stands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn


class StackedTables(nn.Embedding):
    """Tables of so many rows, one behind the other; the k-th index of K is a row of the k-th of `which`."""

    first: Int64[Tensor, " K"]

    def __init__(self, sizes: Sequence[int], which: Iterable[int], width: int) -> None:
        super().__init__(sum(sizes), width)
        self.register_buffer("first", torch.tensor([sum(sizes[:i]) for i in which]), persistent=False)

    def forward(self, index: Int64[Tensor, "*B K"]) -> Float[Tensor, "*B K D"]:
        return super().forward(index + self.first)
