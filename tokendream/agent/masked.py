"""Cross-entropies and shares over what a mask lets in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tokendream.nn.precision import raised
from tokendream.ranks import averaged


def cross_entropy(
    logits: Float[Tensor, "*B V"], target: Int64[Tensor, "*B"] | Float[Tensor, "*B V"], mask: Bool[Tensor, "*B"]
) -> Float[Tensor, ""]:
    """Mean over the masked-in entries, in float32; 0 where the mask is empty (a batch of very short episodes).

    A target is a class, or the probabilities of all classes.
    """
    if target.is_floating_point():
        target = (target * mask[..., None]).flatten(0, -2)
    else:
        target = target.masked_fill(~mask, -100).flatten()
    total = F.cross_entropy(raised(logits.flatten(0, -2)), target, ignore_index=-100, reduction="sum")
    return total / averaged(mask.sum()).clamp(min=1)


def accuracy(logits: Float[Tensor, "*B V"], target: Int64[Tensor, "*B"], mask: Bool[Tensor, "*B"]) -> Float[Tensor, ""]:
    """Share of the masked-in entries whose likeliest class is the target."""
    hit = (logits.detach().max(-1).indices == target) & mask  # argmax takes up to four times as long on a CPU
    return hit.sum() / averaged(mask.sum()).clamp(min=1)


@torch.no_grad()
def segment_loss(
    logits: Float[Tensor, "B ... V"],
    target: Int64[Tensor, "B ..."] | Float[Tensor, "B ... V"],
    mask: Bool[Tensor, "B ..."],
) -> Float[Tensor, " B"]:
    """Cross-entropy of each segment by itself: what replay by loss remembers.

    A mean over its masked-in entries; 0 where it has none. A target is a class, or probabilities.
    """
    target = target.flatten(0, -2) if target.is_floating_point() else target.flatten()
    each = F.cross_entropy(raised(logits.flatten(0, -2)), target, reduction="none").view(mask.shape) * mask
    return each.flatten(1).sum(1) / mask.flatten(1).sum(1).clamp(min=1)
