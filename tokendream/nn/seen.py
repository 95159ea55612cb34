"""A reward as one of those that were seen: as many classes as it has sizes. Not published.

Of the reward's sign alone, as published, C learns to earn often; where one blow earns 200 and another 100
(KungFuMaster), which of them it learns is left to chance. Measured in docs/evidence.md.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from tokendream.nn.precision import raised
from tokendream.nn.sampling import sample
from tokendream.nn.sign import Sign, sign_logits

NEAR = 0.1
"""Rewards whose sizes differ by less than this share count as one."""


class Seen(nn.Module):
    """A reward as the logits of 64 classes: 0, and each size that was seen, in the order in which they came. The same
    methods as `Sign` and `HLGauss`.

    C's dreams are paid in units of the mean size of the rewards held, 0 left out, so that what suits signs suits any
    game. Where there are more sizes than classes, the nearest of those that came first stands for one: rewards of which
    hardly two are alike are for `HLGauss`.
    """

    outputs = 64
    values: Float32[Tensor, " 64"]
    """What the classes stand for; 0 where nothing does yet."""
    known: Int64[Tensor, ""]
    """Classes in use: they fill up in order."""
    unit: Float32[Tensor, ""]

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("values", torch.zeros(self.outputs))
        self.register_buffer("known", torch.ones((), dtype=torch.int64))
        self.register_buffer("unit", torch.ones(()))

    def fit(self, rewards: Float[np.ndarray, " n"]) -> None:
        """Take in the rewards that are held, old and new, in their order."""
        distinct, first, count = np.unique(rewards, return_index=True, return_counts=True)
        values = self.values[: int(self.known)].tolist()
        for value in distinct[first.argsort()].tolist():
            if len(values) < self.outputs and all(abs(value - v) > NEAR * max(abs(value), abs(v)) for v in values):
                values.append(value)
        self.values[: len(values)] = torch.tensor(values)
        self.known.fill_(len(values))
        sizes = self.paid(torch.from_numpy(distinct).to(self.values)).abs().cpu().double().numpy()
        if sizes.any():
            self.unit.fill_(np.average(sizes, weights=count * (sizes > 0)))

    def begin(self, last: nn.Module) -> None:
        """A head's last layer begins as it is."""

    def target(self, x: Float[Tensor, "*B"]) -> Int64[Tensor, "*B"]:
        """The class of the nearest value."""
        unused = torch.arange(self.outputs, device=x.device) >= self.known
        return (x[..., None] - self.values).abs().masked_fill(unused, math.inf).argmin(-1)

    def number(self, logits: Float[Tensor, "*B 64"]) -> Float[Tensor, "*B"]:
        """What is expected."""
        return (raised(logits).softmax(-1) * self.values).sum(-1)

    def sample(
        self, logits: Float[Tensor, "*B 64"], generator: torch.Generator | None, alike: int = 1
    ) -> Float[Tensor, "*B"]:
        """A value that is drawn, by the same chance in `alike` neighbours."""
        return self.values[sample(logits, generator, alike=alike)]

    def paid(self, x: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """What is learned of a number: the nearest value."""
        return self.values[self.target(x)]

    def signs(self, x: Float[Tensor, "*B"]) -> Int64[Tensor, "*B"]:
        """Classes 0 (negative), 1 (none), 2 (positive), also of what was never seen."""
        return Sign().signs(x)

    def sign_logits(self, logits: Float[Tensor, "*B 64"]) -> Float[Tensor, "*B 3"]:
        """Logits of those classes."""
        return sign_logits(logits, Sign().signs(self.values))
