"""What M learns of rewards: what its logits mean, and heads beside its own that keep it from promising too much.

A policy that is trained on M's rewards finds where M expects some that the game does not pay: actions that nobody has
taken there. Heads that began differently agree where there are steps to learn from and differ elsewhere, so a dream
pays no more than what all of them expect: the least gain, the least loss, nothing where they differ in sign. Not
published for tokens; nearest are the pessimism of offline learning (MOPO, arXiv 2005.13239), which believes every loss,
and deep ensembles (arXiv 1612.01474). Measured in docs/evidence.md.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from tokendream.agent.masked import cross_entropy
from tokendream.nn.hl_gauss import HLGauss
from tokendream.nn.seen import Seen
from tokendream.nn.sign import Sign

RewardHead = Sign | Seen | HLGauss
REWARDS: dict[str, Callable[[], RewardHead]] = {"sign": Sign, "seen": Seen, "symlog": partial(HLGauss, 129, 10.4)}
"""What the logits of a reward mean, by their names in the config."""


class RewardHeads(nn.Module):
    """Heads for the reward beside M's own, on what that reads, which gets no gradient from them."""

    def __init__(self, n: int, make: Callable[[], nn.Sequential], rewards: RewardHead) -> None:
        """`make` makes a head: what M's own reads to logits of `rewards`."""
        super().__init__()
        heads = [make() for _ in range(n)]
        for head in heads:
            rewards.begin(head[-1])
        self.heads = nn.ModuleList(heads)

    def loss(
        self,
        read: Float[Tensor, "B R F"],
        target: Int64[Tensor, "B R"] | Float[Tensor, "B R O"],
        mask: Bool[Tensor, "B R"],
    ) -> Float[Tensor, ""]:
        """The heads' cross-entropies, added up, each a mean over what is masked in."""
        losses = [cross_entropy(head(read.detach()), target, mask) for head in self.heads]
        return torch.stack(losses).sum()

    def agreed(self, read: Float[Tensor, "B F"], own: Float[Tensor, " B"], rewards: RewardHead) -> Float[Tensor, " B"]:
        """The reward nearest to 0 that M's own head, whose expectation is given, or one of these expects; 0 where one
        expects to gain and another to lose."""
        expected = torch.stack([own, *(rewards.number(head(read)) for head in self.heads)])
        return expected.amin(0).clamp(min=0) + expected.amax(0).clamp(max=0)
