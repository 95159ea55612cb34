"""V of observations of several parts, or of another modality than one image: a tokenizer for each part.

The tokens of all parts, one behind the other, are the observation's; codes narrower than the widest end in zeros.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from tokendream.nn.losses import Losses
from tokendream.spaces.layout import Layout
from tokendream.spaces.observations import Slot, parts_of
from tokendream.tokenizers.protocol import Fit, Fitted, Learned, Tokenizer


class PartsTokenizer(nn.Module):
    """Observation <-> the tokens of its parts. Nothing here is learned: see `FittedParts` and `TrainedParts`."""

    def __init__(self, layout: Layout, tokenizers: Sequence[Tokenizer], slots: tuple[Slot, ...]) -> None:
        """One tokenizer a part, in order; images share theirs."""
        super().__init__()
        self.layout, self.where = layout, tuple(part.where for part in parts_of(slots))
        distinct = list(dict.fromkeys(tokenizers))
        self.distinct = nn.ModuleList(distinct)  # type: ignore[arg-type]
        self.which = tuple(distinct.index(V) for V in tokenizers)
        self.vocabulary = max(V.vocabulary for V in tokenizers)
        self.code_width = max(V.code_width for V in tokenizers)

    @property
    def each(self) -> list[Tokenizer]:
        """The tokenizer of each part."""
        return [self.distinct[i] for i in self.which]  # type: ignore[misc]

    def encode(self, frame: UInt8[Tensor, "*N"]) -> Int64[Tensor, "*B K"]:
        return torch.cat([V.encode(part) for V, part in self._parts(frame)], dim=-1)

    def codes(self, tokens: Int64[Tensor, "*B K"]) -> Float[Tensor, "*B K E"]:
        """The codes of every part's tokens."""
        codes = [V.codes(tokens[..., where]) for V, where in zip(self.each, self.where, strict=True)]
        return torch.cat([F.pad(code, (0, self.code_width - code.shape[-1])) for code in codes], dim=-2)

    def decode(self, tokens: Int64[Tensor, "*B K"]) -> UInt8[Tensor, "*N"]:
        return self.layout.join([V.decode(tokens[..., where]) for V, where in zip(self.each, self.where, strict=True)])

    def _parts(self, frame: UInt8[Tensor, "*N"]) -> list[tuple[Tokenizer, Tensor]]:
        return list(zip(self.each, self.layout.split(frame), strict=True))


class FittedParts(PartsTokenizer):
    """Where parts are built from what is seen."""

    def fit(self, frame: UInt8[Tensor, "*N"]) -> Fit:
        """Take these observations in, in their order. Counts codes of all that are built."""
        fits = [V.fit(part) for V, part in self._parts(frame) if isinstance(V, Fitted)]
        return Fit(sum(fit.codes for fit in fits), sum(fit.changed for fit in fits))


class TrainedParts(FittedParts):
    """Where images have a tokenizer that learns by gradient."""

    def loss(self, frame: UInt8[Tensor, "*N"]) -> Losses:
        """That of the images, all of them in one batch."""
        images = [(V, part) for V, part in self._parts(frame) if isinstance(V, Learned)]
        return images[0][0].loss(torch.cat([part for _, part in images]))
