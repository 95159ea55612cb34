"""Sampling from categorical distributions, without a host-device synchronisation."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def sample(
    logits: Float[Tensor, "*B V"], generator: torch.Generator | None, *, temperature: float = 1.0
) -> Int64[Tensor, "*B"]:
    """One draw from softmax(logits / temperature) per row, by inverting the cumulative distribution.

    One uniform number a row; the race of V exponentials, the usual way, needs V and took 10 times longer
    for 8,192 tokens of a 512-word codebook on a CPU.
    """
    cumulative = (logits.float() / temperature).softmax(-1).cumsum(-1)
    total = cumulative[..., -1:]
    u = torch.rand(total.shape, device=logits.device, generator=generator) * total
    # u < total may round up to it: the clamp keeps the draw in range.
    return torch.searchsorted(cumulative, u, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)
