"""V on pretrained vision: a token is a mean of features of the VGG16 that the package ships for LPIPS.

Nothing is trained by gradient; the book is fitted as the dictionary's is, in the space of features, and its entries
follow the mean of what they stand for (k-means online: MacQueen 1967; Sculley 2010). Question 9 of the paper's
discussion; measured in docs/tokenizers.md.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from tokendream.config.parts import TokenizerConfig
from tokendream.nn.lpips import unit
from tokendream.nn.pixels import to_float
from tokendream.tokenizers.dictionary import DictionaryTokenizer, cut, distances
from tokendream.tokenizers.perceptual import read_lpips
from tokendream.tokenizers.protocol import Fit

WIDTHS = (64, 128, 256, 512, 512)
"""Channels of VGG16's taps."""

APART = 300
"""Squared distance beyond which features are new, and beyond which a centroid moves to the mean of its cells: 7% of the
norm of a pixel's features, 255."""


class PretrainedTokenizer(DictionaryTokenizer):
    """Frame <-> K tokens, K = (S / 2**downsamples)². A cell is its features: the tap's output, divided at every pixel
    by its norm over channels as LPIPS does, averaged over the cell, and rounded to whole numbers of 0..255.

    From the rounding on everything that decides is whole numbers, as in the dictionary. Features are float32 whatever
    autocast says, and of one frame at a time, so that no batch changes them; another processor, device or number of
    threads may round a value otherwise and give a cell that lies between two codes another token. A cell's features
    depend on pixels around it too (14 pixels wide at tap 2).

    Which cells become codes, which wait and when they change places is decided as in the dictionary. Then every row
    counts the cells that it is the nearest to, and is moved to their mean when it is further than `APART` from it: so
    codes settle as the counts grow. Decoding puts for a code the mean of the pixels that it has stood for: blurred,
    and for people to look at. What M and C see is the centroid, by a fixed orthonormal projection, of variance 1.
    """

    new: ClassVar[int] = APART
    count: Int64[Tensor, " V2"]
    """Cells that each row has stood for."""
    features: Int64[Tensor, "V2 P"]
    """Sums of their features."""
    pixels: Int64[Tensor, "V2 Q"]
    """Sums of their pixels, Q = 3 * cell²."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config)
        self.vgg = read_lpips("vgg16", taps=config.tap)
        V2, P = self.patches.shape
        for name, shape in (("count", (V2,)), ("features", (V2, P)), ("pixels", (V2, 3 * self.cell**2))):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.int64))

    @torch.no_grad()
    def fit(self, frame: UInt8[Tensor, "B 3 S S"]) -> Fit:
        changed = 0
        for x, pixels in zip(self._cells(frame), cut(frame, self.cell), strict=True):
            before = self.patches[: self.vocabulary].clone()
            self._fit(x)
            self._follow(x, pixels)
            changed += int((self.patches[: self.vocabulary] != before).any(1).sum())
        return Fit(min(int(self.known), self.vocabulary), changed)

    def _follow(self, x: UInt8[Tensor, "K P"], pixels: UInt8[Tensor, "K Q"]) -> None:
        """Count a frame's cells for the codes that they are encoded as, and for those that wait and are nearer."""
        V, known = self.vocabulary, int(self.known)
        distance = distances(x, self.patches[:known])
        nearest, row = distance[:, :V].min(1)
        cell = torch.arange(len(x), device=x.device)
        if known > V:
            waiting, at = distance[:, V:].min(1)
            nearer = waiting < nearest
            row, cell = torch.cat((row, V + at[nearer])), torch.cat((cell, cell[nearer]))
        self.count.index_add_(0, row, torch.ones_like(row))
        self.features.index_add_(0, row, x[cell].long())
        self.pixels.index_add_(0, row, pixels[cell].long())
        row = row.unique()
        mean = _mean(self.features[row], self.count[row])
        apart = (mean.long() - self.patches[row].long()).square().sum(1)
        moved, mean = row[apart > APART], mean[apart > APART]
        self.patches[moved] = mean
        self.table[moved[moved < V]] = self._code(mean[moved < V])

    def _values(self, config: TokenizerConfig) -> int:
        return WIDTHS[config.tap - 1]

    def _cells(self, frame: UInt8[Tensor, "B 3 S S"]) -> UInt8[Tensor, "B K P"]:
        side = frame.shape[-1] // self.cell
        features = []
        with torch.no_grad(), torch.autocast(frame.device.type, enabled=False):
            for one in frame.split(1):
                tap = unit(self.vgg.features(to_float(one))[-1])
                features.append((255 * F.adaptive_avg_pool2d(tap, side)).round().to(torch.uint8).flatten(2).mT)
        return torch.cat(features) if features else cut(frame, self.cell)[..., :0]

    def _drawn(self) -> UInt8[Tensor, "V Q"]:
        return _mean(self.pixels[: self.vocabulary], self.count[: self.vocabulary])

    def _rows(self) -> tuple[Tensor, ...]:
        return *super()._rows(), self.count, self.features, self.pixels

    def _code(self, patch: UInt8[Tensor, "*N P"]) -> Float32[Tensor, "*N E"]:
        with torch.autocast(patch.device.type, enabled=False):
            return patch.float() / 255 @ self.projection * self.code_width**0.5


def _mean(sums: Int64[Tensor, "N P"], count: Int64[Tensor, " N"]) -> UInt8[Tensor, "N P"]:
    """Sums over counts, rounded; zeros where nothing was counted."""
    n = count.clamp(min=1)[:, None]
    return ((2 * sums + n) // (2 * n)).to(torch.uint8)
