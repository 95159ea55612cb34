"""Networks with a piece for every part of an observation: M's projections and heads, and C's encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from tokendream.config.parts import WorldModelConfig
from tokendream.nn.heads import CodeHead, head
from tokendream.nn.tables import StackedTables
from tokendream.spaces.observations import Block, Tokens

Embed = Callable[[Int64[Tensor, "*B K"]], Float[Tensor, "*B K E"]]
"""Tokens to codes."""

NEVER = -1e4
"""The logit of a token that a part has not: its probability is 0 in any precision, and products with it stay finite."""


class PerPart(nn.Module):
    """A network for the tokens of each part, side by side; narrower outputs are filled up with `fill`."""

    def __init__(self, parts: Sequence[Tokens], make: Callable[[Tokens], nn.Module], fill: float = 0.0) -> None:
        super().__init__()
        self.where, self.fill = tuple(part.where for part in parts), fill
        self.each = nn.ModuleList(make(part) for part in parts)

    def forward(self, x: Float[Tensor, "*B K D"]) -> Float[Tensor, "*B K V"]:
        outputs = [net(x[..., where, :]) for net, where in zip(self.each, self.where, strict=True)]
        widest = max(output.shape[-1] for output in outputs)
        return torch.cat([self._filled(y, widest) for y in outputs], dim=-2)

    def at(self, x: Float[Tensor, "*B D"], slot: int, widest: int) -> Float[Tensor, "*B V"]:
        """What a token of this slot becomes, filled up to the widest."""
        part = next(i for i, where in enumerate(self.where) if slot < where.stop)
        return self._filled(self.each[part](x), widest)

    def _filled(self, y: Float[Tensor, "*B N"], widest: int) -> Float[Tensor, "*B V"]:
        return F.pad(y, (0, widest - y.shape[-1]), value=self.fill)


def tables(parts: Sequence[Tokens], width: int) -> StackedTables:
    """A table of each part's tokens."""
    which = (i for i, part in enumerate(parts) for _ in range(part.K))
    return StackedTables([part.vocabulary for part in parts], which, width)


def make_frame_head(config: WorldModelConfig, block: Block, code_width: int, embed: Embed | None) -> nn.Module:
    """Outputs of POP to the logits of the tokens there, each part's by a head of its own.

    `embed` gives tokens' codes as they are at the time; a vocabulary's are those at the first slot of its part.
    """

    def make(part: Tokens) -> nn.Module:
        D, V, kind = config.width, part.vocabulary, config.head
        if not config.logits_from_codes:
            return head(D, D, V, kind)
        assert embed is not None, "logits_from_codes needs the tokenizer's codes"
        where = part.where.start if block.grid is None else None
        return CodeHead(D, V, code_width, partial(_codes_of, embed, where, block.K), kind)

    parts = block.parts
    return make(parts[0]) if len(parts) == 1 else PerPart(parts, make, fill=NEVER)


def _codes_of(embed: Embed, slot: int | None, K: int, tokens: Int64[Tensor, " V"]) -> Float[Tensor, "V E"]:
    """The codes of tokens that stand at this slot of K; without one, of tokens that have the same codes everywhere."""
    if slot is None:
        return embed(F.pad(tokens, (0, -len(tokens) % K)).view(-1, K)).flatten(0, 1)[: len(tokens)]
    return embed(F.pad(tokens[:, None], (slot, K - 1 - slot)))[:, slot]


class Around(nn.Conv2d):
    """What lies around each token of a part: a convolution over its grid; of a part without one, token and mean."""

    def __init__(self, part: Tokens, width: int) -> None:
        if part.grid is None:
            super().__init__(2 * width, width, 1)
        else:
            super().__init__(width, width, 3, padding=1)
        self.grid = part.grid

    def forward(self, frames: Float[Tensor, "*B K D"]) -> Float[Tensor, "*B K D"]:
        if self.grid is None:
            mean = frames.mean(-2, keepdim=True).expand_as(frames)
            return F.linear(torch.cat((frames, mean), dim=-1), self.weight.flatten(1), self.bias)
        # B K D is already the channels-last layout of a B D rows columns image: no copy.
        image = frames.flatten(0, -3).unflatten(1, self.grid).permute(0, 3, 1, 2)
        return super().forward(image).permute(0, 2, 3, 1).reshape(frames.shape)


class PartsEncoder(nn.Module):
    """What C's LSTM receives of an observation of several parts, or of one without a grid.

    Images and maps go through conv3x3 E -> E/2, SiLU, conv3x3 -> E/4, all else through a dense layer of its tokens'
    codes; SiLU; a dense layer of all together, SiLU.
    """

    def __init__(self, parts: Sequence[Tokens], code_width: int, width: int) -> None:
        super().__init__()
        self.parts, E = tuple(parts), code_width
        self.each = nn.ModuleList(
            nn.Linear(part.K * E, width)
            if part.grid is None
            else nn.Sequential(nn.Conv2d(E, E // 2, 3, padding=1), nn.SiLU(), nn.Conv2d(E // 2, E // 4, 3, padding=1))
            for part in parts
        )
        wide = sum(width if part.grid is None else part.K * (E // 4) for part in parts)
        self.dense: nn.Module = nn.Linear(wide, width)

    def forward(self, codes: Float[Tensor, "B K E"]) -> Float[Tensor, "B M"]:
        seen = []
        for part, net in zip(self.parts, self.each, strict=True):
            x = codes[:, part.where]
            x = x.flatten(1) if part.grid is None else x.unflatten(1, part.grid).permute(0, 3, 1, 2)
            seen.append(F.silu(net(x)).flatten(1))
        return F.silu(self.dense(torch.cat(seen, dim=1)))
