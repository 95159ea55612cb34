"""Cross-entropies of each segment of a batch by itself, without a gradient: what replay by loss remembers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tokendream.nn.precision import raised


@torch.no_grad()
def segment_loss(
    logits: Float[Tensor, "B ... V"],
    target: Int64[Tensor, "B ..."] | Float[Tensor, "B ... V"],
    mask: Bool[Tensor, "B ..."],
) -> Float[Tensor, " B"]:
    """Mean over the masked-in entries of each segment; 0 where it has none. A target is a class, or probabilities."""
    target = target.flatten(0, -2) if target.is_floating_point() else target.flatten()
    each = F.cross_entropy(raised(logits.flatten(0, -2)), target, reduction="none").view(mask.shape) * mask
    return each.flatten(1).sum(1) / mask.flatten(1).sum(1).clamp(min=1)
