"""V as a dictionary: a token is a patch of pixels that was seen. Nothing is trained; the book grows with what is seen.

Frames are cut into cells. A cell's token is the nearest patch of the book by squared distance, decoding puts patches
back, so that equal pixels are equal tokens always, and an image made of patches of the book comes back to the bit.
All figures that decide are whole numbers, which no order of summation and no device changes. Not published for
Atari; patches as tokens: arXiv 2502.01591 (there on Craftax). Measured in docs/tokenizers.md.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from tokendream.config.parts import TokenizerConfig
from tokendream.nn.pixels import to_float
from tokendream.tokenizers.protocol import Fit
from tokendream.tokenizers.quantizer import orthonormal
from tokendream.tokenizers.vq import CHUNK

NEW = 6_500
"""Squared distance beyond which a patch is new, summed over its values of 0..255: 0.1 of black against white in one
channel of one pixel; one white-ish pixel 47 brighter than the patch that would stand for it."""

MARGIN = 2
"""How many times the error that the least useful code has removed a waiting patch must remove to take its place."""


def cut(frame: UInt8[Tensor, "*B F R C"], cell: int) -> UInt8[Tensor, "*B K P"]:
    """Frames, or maps, into squares of side `cell`, row by row from the top left, each as P = F cell² values."""
    x = frame.unflatten(-1, (-1, cell)).unflatten(-3, (-1, cell))  # *B F rows y columns x
    return x.movedim((-4, -2), (-5, -4)).flatten(-3).flatten(-3, -2)


def join(patches: UInt8[Tensor, "*B K P"], cell: int, rows: int) -> UInt8[Tensor, "*B F R C"]:
    """The inverse of `cut`."""
    x = patches.unflatten(-1, (-1, cell, cell)).unflatten(-4, (rows, -1))  # *B rows columns F y x
    return x.movedim((-5, -4), (-4, -2)).flatten(-2).flatten(-3, -2)


def distances(x: UInt8[Tensor, "N P"], patches: UInt8[Tensor, "V P"]) -> Float[Tensor, "N V"]:
    """Squared distances |x - c|² of values in 0..255: whole numbers, exact (float64 where float32 cannot hold them)."""
    exact = torch.float32 if x.shape[-1] * 255**2 < 2**24 else torch.float64
    with torch.autocast(x.device.type, enabled=False):
        a, c = x.to(exact) - 128, patches.to(exact) - 128
        return a.square().sum(-1, keepdim=True) + c.square().sum(-1) - 2 * a @ c.mT


class DictionaryTokenizer(nn.Module):
    """Frame <-> K tokens, K = (S / 2**downsamples)²; the book holds V patches, and as many wait beside it.

    The book begins black and takes every patch further than `NEW` from all it knows while there is room. From then on
    new patches wait. `saved` counts for every patch of the book the squared error that the frames so far would have
    had beyond what they had without it (its distance against that of the second nearest), and for every waiting one
    what it would have saved. A waiting patch that has saved more than `MARGIN` times the least of the book changes
    places with it; where all places are taken, a new patch waits in the place of the waiting one that saved least.
    So a code means the same pixels for as long as it is useful, whatever is useful enters once seen often enough,
    and changes become rarer as the counts grow.

    What M and C see, `codes`, is a patch's pixels in [-1, 1] through a fixed orthonormal projection to E values: near
    patches have near codes, also those that enter late.
    """

    new: ClassVar[int] = NEW
    projection: Float32[Tensor, "P E"]
    patches: UInt8[Tensor, "V2 P"]
    """The book, V rows, and then those that wait."""
    saved: Int64[Tensor, " V2"]
    known: Int64[Tensor, ""]
    """Rows in use: they fill up in order."""
    table: Float32[Tensor, "V E"]
    """The codes of the book."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.vocabulary, self.code_width = config.codebook_size, config.code_width
        self.cell = 1 << config.downsamples
        P, V, E = self._values(config), self.vocabulary, self.code_width
        self.register_buffer("projection", orthonormal(P, E))
        self.register_buffer("patches", torch.zeros(2 * V, P, dtype=torch.uint8))
        self.register_buffer("saved", torch.zeros(2 * V, dtype=torch.int64))
        self.register_buffer("known", torch.ones((), dtype=torch.int64))  # the first is black
        self.register_buffer("table", self._code(self.patches[0]).repeat(V, 1))

    def encode(self, frame: UInt8[Tensor, "*B 3 S S"]) -> Int64[Tensor, "*B K"]:
        """The nearest patch of the book for every cell, the first of equals: never one of the places still empty."""
        lead, S = frame.shape[:-3], frame.shape[-1]
        assert S % self.cell == 0, f"frames must be a multiple of {self.cell} pixels wide, got {S}x{S}"
        book = self.patches[: self.vocabulary]
        flat = frame.reshape(math.prod(lead), *frame.shape[-3:]).split(CHUNK)
        tokens = [distances(self._cells(chunk).flatten(0, 1), book).argmin(-1) for chunk in flat]
        return torch.cat(tokens).reshape(*lead, (S // self.cell) ** 2)

    def codes(self, tokens: Int64[Tensor, "*B K"]) -> Float[Tensor, "*B K E"]:
        """The projected pixels of tokens."""
        return F.embedding(tokens, self.table)

    def decode(self, tokens: Int64[Tensor, "*B K"]) -> UInt8[Tensor, "*B 3 S S"]:
        """The patches of tokens, side by side."""
        K = tokens.shape[-1]
        assert math.isqrt(K) ** 2 == K, f"a frame's tokens must form a square grid, got {K}"
        return join(self._drawn()[tokens], self.cell, math.isqrt(K))

    @torch.no_grad()
    def fit(self, frame: UInt8[Tensor, "B 3 S S"]) -> Fit:
        """Take in frames, one after the other."""
        changed = sum(self._fit(x) for x in self._cells(frame))
        return Fit(min(int(self.known), self.vocabulary), changed)

    def _fit(self, x: UInt8[Tensor, "K P"]) -> int:
        """Take in a frame's patches. Returns how many codes of the book changed."""
        V, known = self.vocabulary, int(self.known)
        distance = distances(x, self.patches[:known]).long()
        nearest, at = distance[:, :V].min(1)
        if known > 1:
            second = distance[:, :V].scatter(1, at[:, None], 2**62).amin(1)
            self.saved.index_add_(0, at, second - nearest)
        if known > V:
            waiting, at = distance[:, V:].min(1)
            self.saved.index_add_(0, V + at, (nearest - waiting).clamp(min=0))
            nearest = torch.minimum(nearest, waiting)
        added = 0
        while int(nearest.max()) > self.new:  # the furthest first, for it may stand for others of this frame
            new = nearest.argmax()
            added += self._add(x[new], int(nearest[new]))
            nearest = torch.minimum(nearest, distances(x, x[new][None]).long()[:, 0])
        return added + self._exchange()

    def _add(self, patch: UInt8[Tensor, " P"], error: int) -> int:
        """Put a new patch, which saves `error` at once, into the book or where patches wait. Returns 1 for the book."""
        V, known = self.vocabulary, int(self.known)
        slot = known if known < 2 * V else V + int(self.saved[V:].argmin())
        for rows in self._rows():
            rows[slot] = 0
        self.patches[slot] = patch
        self.saved[slot] = error
        self.known.clamp_(min=slot + 1)
        if slot < V:
            self.table[slot] = self._code(patch)
        return int(slot < V)

    def _exchange(self) -> int:
        """Let waiting patches into the book as long as one has saved enough. Returns how many entered."""
        V, known, entered = self.vocabulary, int(self.known), 0
        while known > V:
            best, least = V + int(self.saved[V:known].argmax()), int(self.saved[:V].argmin())
            if int(self.saved[best]) <= MARGIN * int(self.saved[least]):
                break
            for rows in self._rows():
                rows[[best, least]] = rows[[least, best]]
            self.table[least] = self._code(self.patches[least])
            entered += 1
        return entered

    def _values(self, config: TokenizerConfig) -> int:
        """P, the values of a cell."""
        return 3 * self.cell**2

    def _cells(self, frame: UInt8[Tensor, "B 3 S S"]) -> UInt8[Tensor, "B K P"]:
        """What cells are known by: their pixels."""
        return cut(frame, self.cell)

    def _drawn(self) -> UInt8[Tensor, "V Q"]:
        """The pixels that decoding puts for each code."""
        return self.patches[: self.vocabulary]

    def _rows(self) -> tuple[Tensor, ...]:
        """All that changes places with a code."""
        return self.patches, self.saved

    def _code(self, patch: UInt8[Tensor, " P"]) -> Float32[Tensor, " E"]:
        with torch.autocast(patch.device.type, enabled=False):
            return to_float(patch) @ self.projection
