"""Event prediction: where a frame will change, told from what M predicts of it and of the next one.

Source: EASimulus (arXiv 2601.19336); the focal loss is that of arXiv 1708.02002.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from tokendream.nn.heads import Kind, head
from tokendream.nn.precision import raised
from tokendream.ranks import averaged
from tokendream.spaces.layout import Layout
from tokendream.spaces.observations import Block

ALPHA, GAMMA = 0.15, 4.0
"""Of the focal loss: the weight of what changed (1 - α of what did not), and how little the well predicted counts."""

OTHER_PARTS = 0.1
"""Weight of parts that are no image."""


class Events(nn.Module):
    """A head on what the tokens of frames t and t+1 are read from: did the frame change there, token by token?

    The output for t+1 gets no gradient. Images are scored by the focal loss, other parts by binary cross-entropy
    times .1; each part is a mean over its tokens, and the parts are added up.
    """

    image: Tensor
    weight: Tensor

    def __init__(self, width: int, block: Block, kind: Kind) -> None:
        super().__init__()
        self.head = head(2 * width, width, 1, kind)
        image = [slot.modality == "image" for slot in block.observation]
        each = zip(image, block.in_part, strict=True)
        weight = [(1.0 if pixels else OTHER_PARTS) / tokens for pixels, tokens in each]
        self.register_buffer("image", torch.tensor(image), persistent=False)
        self.register_buffer("weight", torch.tensor(weight), persistent=False)

    def forward(self, hidden: Float[Tensor, "B P K D"]) -> Float[Tensor, "B P-1 K"]:
        """Logits of a change from each predicted frame to the next."""
        pair = torch.cat((hidden[:, :-1], hidden[:, 1:].detach()), dim=-1)
        return self.head(pair).squeeze(-1)

    def loss(
        self, hidden: Float[Tensor, "B P K D"], changed: Bool[Tensor, "B P-1 K"], mask: Bool[Tensor, "B P"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " B"]]:
        """A mean over pairs of frames that are both masked in; and that of each segment, without a gradient."""
        logits, pair = raised(self(hidden)), mask[:, :-1] & mask[:, 1:]
        surprise = F.binary_cross_entropy_with_logits(logits, changed.to(logits.dtype), reduction="none")
        each = torch.where(self.image, focal(surprise, changed), surprise)
        each = (each * self.weight).sum(-1) * pair
        of_each = each.detach().sum(1) / pair.sum(1).clamp(min=1)
        return each.sum() / averaged(pair.sum()).clamp(min=1), of_each


def focal(surprise: Float[Tensor, "*B"], positive: Bool[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """α_t (1 - p_t)^γ (-log p_t), from -log p_t, where p_t is the probability of what is true."""
    alpha = torch.where(positive, ALPHA, 1 - ALPHA)
    return alpha * (1 - (-surprise).exp()) ** GAMMA * surprise


def changes(
    images: Sequence[UInt8[Tensor, "B T 3 S S"]], tokens: Int64[Tensor, "B T K"], block: Block
) -> Bool[Tensor, "B T-1 K"]:
    """Where each frame differs from the one before it: an image in any pixel of a token's cell, the rest in a token.

    `images`: those of the observation, in their order.
    """
    moved = tokens[:, 1:] != tokens[:, :-1]
    parts = [part for part in block.parts if part.modality == "image"]
    for part, image in zip(parts, images, strict=True):
        assert part.grid is not None
        rows, columns = part.grid
        pixels = (image[:, 1:] != image[:, :-1]).any(2)
        moved[..., part.where] = pixels.unflatten(3, (columns, -1)).unflatten(2, (rows, -1)).any(5).any(3).flatten(2)
    return moved


def images_of(frames: UInt8[Tensor, "B T *O"], layout: Layout | None) -> list[UInt8[Tensor, "B T 3 S S"]]:
    """The images in frames; with no layout a frame is one."""
    if layout is None:
        return [frames]
    parts = zip(layout.parts, layout.split(frames), strict=True)
    return [values for part, values in parts if part.modality == "image"]
