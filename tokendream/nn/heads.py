"""Heads: two layers from what the network knows of a place to the logits of an answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

Kind = Literal["relu", "norm"]


def head(seen: int, width: int, out: int, kind: Kind = "relu") -> nn.Sequential:
    """seen -> `width` -> out with ReLU (the paper's), or seen -> 2 `width` -> out with LayerNorm and SiLU.

    Source of the second: Simulus (arXiv 2502.11537).
    """
    if kind == "relu":
        return nn.Sequential(nn.Linear(seen, width), nn.ReLU(), nn.Linear(width, out))
    return nn.Sequential(nn.Linear(seen, 2 * width), nn.LayerNorm(2 * width), nn.SiLU(), nn.Linear(2 * width, out))


class CodeHead(nn.Module):
    """Logits of tokens: those of a head, and the product of each token's code with a code that another head predicts.

    What is learned of a token then holds of those that look like it. The predicted code begins as zero. Not published.
    """

    def __init__(
        self, width: int, vocabulary: int, code_width: int, codes: Callable[[Tensor], Tensor], kind: Kind = "relu"
    ) -> None:
        """`codes` gives those of tokens (V, to V E) as they are at the time; no gradient goes into them."""
        super().__init__()
        self.codes, self.vocabulary = codes, vocabulary
        self.plain = head(width, width, vocabulary, kind)
        self.code = head(width, width, code_width, kind)
        for p in self.code[-1].parameters():
            nn.init.zeros_(p)

    def forward(self, y: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
        codes = self.codes(torch.arange(self.vocabulary, device=y.device)).detach()
        return self.plain(y) + self.code(y) @ codes.mT
