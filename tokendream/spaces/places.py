"""Where the tokens of a block stand in space and time, for backbones that rotate by more than a running index."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tokendream.spaces.observations import Block


def places(block: Block) -> Int64[Tensor, "K1 3"]:
    """Column x, row y and t of every slot of a block.

    What has no rows, such as the features of a vector, lies in row 0. The observation is at t = 0; the action, at
    t = 1, is at the middle of what is seen, (4, 4) of an 8 x 8 grid, its tokens one column after the other. A block
    takes two steps of time.
    """
    seen = [(slot.position[-1], *slot.position[-2:-1], 0)[:2] for slot in block.observation]
    x, y = ((max(along) + 1) // 2 for along in zip(*seen, strict=True))
    action = [(x + i, y, 1) for i in range(block.actions.tokens)]
    return torch.tensor([*((x, y, 0) for x, y in seen), *action])


def distances(block: Block) -> Float[Tensor, "K K"]:
    """Squared distance of the slots of an observation, for tokens that may move from one to another.

    Infinite from part to part, and between the features of a vector, each of which means something else.
    """
    slots = block.observation
    part = torch.tensor([[a.part == b.part and (len(a.position) > 1 or a == b) for b in slots] for a in slots])
    xy = places(block)[: block.K, :2].float()
    return (xy[:, None] - xy).square().sum(-1).masked_fill(~part, torch.inf)
