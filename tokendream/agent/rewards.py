"""What M learns of rewards: what its logits mean, and what keeps it from promising too much.

A policy that is trained on M's rewards finds where M expects some that the game does not pay: actions that nobody has
taken there. Heads that began differently agree where there are steps to learn from and differ elsewhere, so a dream
pays no more than what all of them expect: the least gain, the least loss, nothing where they differ in sign. Not
published for tokens; nearest are the pessimism of offline learning (MOPO, arXiv 2005.13239), which believes every loss,
and deep ensembles (arXiv 1612.01474). Measured in docs/evidence.md.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
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
        adjusted: nn.Module,
    ) -> Float[Tensor, ""]:
        """The heads' cross-entropies, added up, each of `adjusted` logits and a mean over what is masked in."""
        losses = [cross_entropy(adjusted(head(read.detach())), target, mask) for head in self.heads]
        return torch.stack(losses).sum()

    def agreed(self, read: Float[Tensor, "B F"], own: Float[Tensor, " B"], rewards: RewardHead) -> Float[Tensor, " B"]:
        """The reward nearest to 0 that M's own head, whose expectation is given, or one of these expects; 0 where one
        expects to gain and another to lose."""
        expected = torch.stack([own, *(rewards.number(head(read)) for head in self.heads)])
        return expected.amin(0).clamp(min=0) + expected.amax(0).clamp(max=0)


class Adjusted(nn.Module):
    """Corrects the logits of a loss for rewards that are drawn more often, or less often, than they come.

        log p(r | x) + log q(r) - log p(r),    p(r) how often a reward came, q(r) how often it is drawn

    By Bayes' rule that is how likely it is among what is drawn, so that what is learned is how likely it is in the
    game. Source: logit adjustment (Menon et al., arXiv 2007.07314).
    """

    excess: Float[Tensor, " N"]
    """log q(r) - log p(r) of each class; 0 where one of them is unknown."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.register_buffer("excess", torch.zeros(outputs), persistent=False)

    def fit(
        self,
        classes: Int64[Tensor, " n"],
        came: Float64[np.ndarray, " n"],
        drawn: Float64[np.ndarray, " n"],
    ) -> None:
        """Take in how often rewards of these classes came and are drawn."""
        p, q = (np.bincount(classes.cpu().numpy(), x, minlength=len(self.excess)) for x in (came, drawn))
        known = (p > 0) & (q > 0)
        self.excess.copy_(torch.from_numpy(np.log(np.where(known, q, 1)) - np.log(np.where(known, p, 1))))

    def forward(self, logits: Float[Tensor, "*B N"]) -> Float[Tensor, "*B N"]:
        """For a loss alone; what a dream reads are the logits themselves."""
        return logits + self.excess
