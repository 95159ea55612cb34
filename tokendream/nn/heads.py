"""Heads: two layers from what the network knows of a place to the logits of an answer."""

from __future__ import annotations

from typing import Literal

from torch import nn

Kind = Literal["relu", "norm"]


def head(seen: int, width: int, out: int, kind: Kind = "relu") -> nn.Sequential:
    """seen -> `width` -> out with ReLU (the paper's), or seen -> 2 `width` -> out with LayerNorm and SiLU.

    Source of the second: Simulus (arXiv 2502.11537).
    """
    if kind == "relu":
        return nn.Sequential(nn.Linear(seen, width), nn.ReLU(), nn.Linear(width, out))
    return nn.Sequential(nn.Linear(seen, 2 * width), nn.LayerNorm(2 * width), nn.SiLU(), nn.Linear(2 * width, out))
