"""A reward as its sign: three classes, of which a dream draws one. Source: REM (arXiv 2402.05643), section 3.2."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from tokendream.nn.precision import raised
from tokendream.nn.sampling import sample


def sign_logits(logits: Float[Tensor, "*B N"], sign: Int64[Tensor, " N"]) -> Float[Tensor, "*B 3"]:
    """Logits of the classes of `Sign`, from those of N numbers that each have one of them."""
    classes = nn.functional.one_hot(sign, 3).bool()
    return raised(logits)[..., None].masked_fill(~classes, -math.inf).logsumexp(-2)


class Sign(nn.Module):
    """A number's sign as three logits: negative, none, positive. The same methods as `HLGauss` and `Seen`."""

    outputs = 3
    unit = 1.0
    """In which C's dreams are paid."""

    def begin(self, last: nn.Module) -> None:
        """A head's last layer begins as it is."""

    def target(self, x: Float[Tensor, "*B"]) -> Int64[Tensor, "*B"]:
        """The class."""
        return self.signs(x)

    def number(self, logits: Float[Tensor, "*B 3"]) -> Float[Tensor, "*B"]:
        """The sign that is expected, P(+) - P(-)."""
        p = raised(logits).softmax(-1)
        return p[..., 2] - p[..., 0]

    def sample(
        self, logits: Float[Tensor, "*B 3"], generator: torch.Generator | None, alike: int = 1
    ) -> Float[Tensor, "*B"]:
        """A sign that is drawn, by the same chance in `alike` neighbours: -1, 0 or 1."""
        return sample(logits, generator, alike=alike).float() - 1

    def paid(self, x: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """What is learned of a number: its sign."""
        return x.sign()

    def signs(self, x: Float[Tensor, "*B"]) -> Int64[Tensor, "*B"]:
        """Classes 0 (negative), 1 (none), 2 (positive)."""
        return x.sign().long() + 1

    def sign_logits(self, logits: Float[Tensor, "*B 3"]) -> Float[Tensor, "*B 3"]:
        """The logits as they are."""
        return logits
