"""How far apart the returns of dreams have been lately: what advantages are divided by.

Source: Simulus (arXiv 2502.11537), a variant of the return normalisation of DreamerV3 (arXiv 2301.04104).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from tokendream.ranks import gathered

UPDATES = 500
"""Updates whose returns are remembered."""

TAIL = 0.025
"""The share of returns that is left out on each side."""


class ReturnScale:
    """max(1, half the distance of the 2.5% and the 97.5% quantile of the last UPDATES updates' returns).

    `history` is a window that each update moves on by one row, on the device and of a fixed size, so that a GPU can
    capture it: infinity stands for a return that is not there. At the paper's sizes it takes 2 MB.
    """

    def __init__(self, returns: int, device: torch.device) -> None:
        """`returns`: how many an update has, B times N."""
        self.history: Float[Tensor, "updates returns"] = torch.full((UPDATES, returns), math.inf, device=device)

    @torch.no_grad()
    def __call__(self, returns: Float[Tensor, "B N"], weight: Float[Tensor, "B N"]) -> Float[Tensor, ""]:
        """Remember the returns whose weight is not 0; the scale, these included."""
        returns, weight = gathered(returns), gathered(weight)
        newest = returns.float().masked_fill(weight == 0, math.inf).view(1, -1)
        self.history.copy_(torch.cat((self.history[1:], newest)))
        known = self.history.isfinite()
        low = _lowest(self.history, known, TAIL)
        high = -_lowest((-self.history).masked_fill(~known, math.inf), known, TAIL)
        return ((high - low) / 2).clamp(min=1)

    def tensors(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {"history": self.history}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave; of updates of another size, as many returns of each as there is room for."""
        saved = tensors["history"][:, : self.history.shape[1]]
        self.history.fill_(math.inf)
        self.history[:, : saved.shape[1]] = saved


def _lowest(x: Float[Tensor, "*S"], known: Tensor, q: float) -> Float[Tensor, ""]:
    """The q-quantile (interpolated) of the known entries, where all others are infinite; q is small.

    By the lowest entries alone, which takes a quarter of the time of sorting all.
    """
    most = x.numel() - 1
    lowest = x.flatten().topk(min(int(q * most) + 2, most + 1), largest=False).values
    last = known.sum() - 1
    place = q * last.double()
    below = place.floor().long()
    above = (below + 1).minimum(last)
    # Not `lowest[below]`: with a tensor of no axes that waits for the device.
    a, b = lowest.gather(0, torch.stack((below, above))).unbind()
    return a + (place - below).float() * (b - a)
