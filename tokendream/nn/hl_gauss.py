"""Heads that classify a number: bins in symlog space, targets that are Gaussians over bins (HL-Gauss).

A regression by cross-entropy: its gradient does not grow with the size of the number, and numbers of any size fit.
Source: HL-Gauss (arXiv 2403.03950), symlog of DreamerV3 (arXiv 2301.04104), the sizes of Simulus (arXiv 2502.11537).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from tokendream.nn.precision import raised
from tokendream.nn.sign import sign_logits

SIGMA = 0.75
"""Standard deviation of a target, in bin widths."""

SLOPE = 0.2
"""By which the first logits fall for each unit of a centre's distance from 0, so that all begins near 0."""


def symlog(x: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """sign(x) log(1 + |x|)."""
    return x.sign() * x.abs().log1p()


def symexp(x: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """The number whose symlog x is."""
    return x.sign() * x.abs().expm1()


class HLGauss(nn.Module):
    """A number as N logits, one for each of N equal bins over ±`limit` in symlog space. No parameters of its own.

    The number is symexp(Σ p_i c_i), with c_i the centres. Numbers beyond the outermost centres count as those. The mean
    is taken in symlog space, as published: where 1 comes one time in ten and else 0, the number is .07, not .1.
    """

    unit = 1.0
    edges: Float[Tensor, " N+1"]
    centres: Float[Tensor, " N"]

    def __init__(self, bins: int, limit: float) -> None:
        super().__init__()
        self.outputs = bins
        edges = torch.linspace(-limit, limit, bins + 1, dtype=torch.float64)
        self.width = 2 * limit / bins
        for name, x in (("edges", edges), ("centres", (edges[1:] + edges[:-1]) / 2)):
            self.register_buffer(name, x.to(torch.get_default_dtype()), persistent=False)

    def begin(self, last: nn.Module) -> None:
        """Set the bias of a head's last layer, a linear one: -SLOPE |c_i|."""
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.bias.copy_(-SLOPE * self.centres.abs())

    def target(self, x: Float[Tensor, "*B"]) -> Float[Tensor, "*B N"]:
        """The mass that a Gaussian around symlog(x) has in each bin, of all that it has within the limits."""
        mean = symlog(x.to(self.edges.dtype)).clamp(self.centres[0], self.centres[-1])
        below = torch.erf((self.edges - mean[..., None]) / (math.sqrt(2) * SIGMA * self.width))
        return below.diff(dim=-1) / (below[..., -1:] - below[..., :1])

    def loss(self, logits: Float[Tensor, "*B N"], x: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """Cross-entropy of each prediction against x's target."""
        return -(self.target(x) * raised(logits).log_softmax(-1)).sum(-1)

    def number(self, logits: Float[Tensor, "*B N"]) -> Float[Tensor, "*B"]:
        """The number that is predicted."""
        return symexp((raised(logits).softmax(-1) * self.centres).sum(-1))

    def sample(
        self, logits: Float[Tensor, "*B N"], generator: torch.Generator | None, alike: int = 1
    ) -> Float[Tensor, "*B"]:
        """What a dream takes for it: the number itself, nothing is drawn."""
        return self.number(logits)

    def paid(self, x: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """What is learned of a number: all of it."""
        return x

    def signs(self, x: Float[Tensor, "*B"]) -> Int64[Tensor, "*B"]:
        """Classes 0 (negative), 1 (none), 2 (positive); none is what is nearer to 0 than to 1 in symlog space."""
        half = math.log(2) / 2
        return (symlog(x) > half).long() - (symlog(x) < -half).long() + 1

    def sign_logits(self, logits: Float[Tensor, "*B N"]) -> Float[Tensor, "*B 3"]:
        """Logits of those classes."""
        return sign_logits(logits, self.signs(symexp(self.centres)))


def value_error(
    critic: Float[Tensor, "*B N"], returns: Float[Tensor, "*B"], bins: HLGauss | None
) -> Float[Tensor, "*B"]:
    """What a critic lowers: the cross-entropy of its bins, or without bins the squared error of its one number."""
    return (critic.squeeze(-1) - returns).square() if bins is None else bins.loss(critic, returns)
