"""Curiosity: several heads predict the next frame, and where they disagree there is something to learn.

Source: Simulus (arXiv 2502.11537).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from tokendream import ranks
from tokendream.nn.precision import raised
from tokendream.spaces.observations import Block


class Ensemble(nn.Module):
    """Heads on what next-frame tokens are read from, which gets no gradient; each is trained on its own segments."""

    weight: Tensor

    def __init__(self, heads: int, make: Callable[[], nn.Module], block: Block) -> None:
        """`make` makes a head: from what a token is read from to its logits."""
        super().__init__()
        self.heads = nn.ModuleList(make() for _ in range(heads))
        weight = [1 / (len(block.parts) * tokens) for tokens in block.in_part]
        self.register_buffer("weight", torch.tensor(weight), persistent=False)

    def loss(
        self, hidden: Float[Tensor, "B P K D"], tokens: Int64[Tensor, "B P K"], mask: Bool[Tensor, "B P K"]
    ) -> Float[Tensor, ""]:
        """Cross-entropy of each head on every n-th segment, a mean over the tokens of all that are masked in.

        Counted over the parts of all ranks.
        """
        total, n = hidden.new_zeros((), dtype=raised(hidden).dtype), len(self.heads)
        before = ranks.number() * len(hidden)
        for i, head in enumerate(self.heads):
            own = slice((i - before) % n, None, n)
            target = tokens[own].masked_fill(~mask[own], -100)
            logits = head(hidden[own].detach())
            total = total + F.cross_entropy(
                raised(logits.flatten(0, 2)), target.flatten(), ignore_index=-100, reduction="sum"
            )
        return total / ranks.averaged(mask.sum()).clamp(min=1)

    @torch.no_grad()
    def disagreement(self, hidden: Float[Tensor, "B K D"]) -> Float[Tensor, " B"]:
        """The divergence of the heads' distributions, a mean over the tokens of a part and then over parts, in nats."""
        logits = torch.stack([raised(head(hidden)) for head in self.heads])
        return (divergence(logits.softmax(-1)) * self.weight).sum(-1)


def divergence(p: Float[Tensor, "N *B V"]) -> Float[Tensor, "*B"]:
    """Jensen-Shannon divergence of N distributions: H[mean p] - mean H[p], from 0, where they agree, to ln N."""
    return (torch.special.entr(p.mean(0)).sum(-1) - torch.special.entr(p).sum(-1).mean(0)).clamp(min=0)
