"""All that the rest of the agent knows of a tokenizer: observations <-> tokens, and the codes that stand for them.

Nobody outside reads a codebook: whoever wants the codes of a whole vocabulary asks for those of its tokens.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from tokendream.nn.losses import Losses


@runtime_checkable
class Tokenizer(Protocol):
    """V: K tokens an observation, in the order of the block's slots."""

    @property
    def vocabulary(self) -> int:
        """V, how many tokens there are: 0 .. V-1."""

    @property
    def code_width(self) -> int:
        """E, the width of a code."""

    def encode(self, frame: UInt8[Tensor, "*N"]) -> Int64[Tensor, "*B K"]:
        """The tokens of observations."""

    def codes(self, tokens: Int64[Tensor, "*B K"]) -> Float[Tensor, "*B K E"]:
        """Vectors that stand for tokens, without gradient."""

    def decode(self, tokens: Int64[Tensor, "*B K"]) -> UInt8[Tensor, "*N"]:
        """The observations that tokens stand for."""


@runtime_checkable
class Learned(Tokenizer, Protocol):
    """One that learns by gradient, in a phase of its own."""

    def loss(self, frame: UInt8[Tensor, " B *O"]) -> Losses:
        """What training it minimises, on single observations."""


class Fit(NamedTuple):
    """What a tokenizer is after it was shown observations."""

    codes: int
    """Of its vocabulary, those in use."""
    changed: int
    """Codes that are new or stand for something else now: 0 where every token is what it was."""


@runtime_checkable
class Fitted(Tokenizer, Protocol):
    """One that is built from observations as they are collected, without gradient."""

    def fit(self, frame: UInt8[Tensor, " B *O"]) -> Fit:
        """Take these observations in, in their order; the same whatever batches they come in."""
