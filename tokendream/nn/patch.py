"""A tokenizer's encoder and decoder that see each cell of the grid by itself. No codes, no losses here.

Not published: an option for small machines. A token of the paper's encoder depends on the whole frame (by its
convolutions and by GroupNorm's statistics), so that one moving figure makes tokens flicker where nothing moved, and
the world model must learn that noise. Here a cell with the same pixels is the same token, always. Measured on Boxing,
48 pixels, 450 updates of 64 frames: of tokens over unchanged pixels 0% against 67% changed from one frame to the next,
and an update takes a fifth of the time (docs/evidence.md).
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class PatchEncoder(nn.Module):
    """Frame -> feature map of `width = channels * 2**downsamples` channels, by an MLP over each cell's pixels.

    A cell is 2**downsamples pixels wide; the MLP has two hidden layers of 2 * width units.
    """

    def __init__(self, channels: int, downsamples: int) -> None:
        super().__init__()
        cell = 1 << downsamples
        self.width = channels << downsamples
        hidden = 2 * self.width
        self.cell = nn.Conv2d(3, hidden, cell, stride=cell)
        self.mix = nn.Sequential(nn.SiLU(), nn.Conv2d(hidden, hidden, 1), nn.SiLU(), nn.Conv2d(hidden, self.width, 1))

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        return self.mix(self.cell(x))


class PatchDecoder(nn.Module):
    """The way back: feature map of `channels * 2**downsamples` channels -> frame, not clamped.

    Only its first layer looks at the eight cells around, so that it can smooth the seams between cells.
    """

    def __init__(self, channels: int, downsamples: int) -> None:
        super().__init__()
        cell = 1 << downsamples
        self.width = channels << downsamples
        hidden = 2 * self.width
        self.around = nn.Conv2d(self.width, hidden, 3, padding=1)
        self.mix = nn.Sequential(
            nn.SiLU(), nn.Conv2d(hidden, hidden, 1), nn.SiLU(), nn.Conv2d(hidden, 3 * cell**2, 1), nn.PixelShuffle(cell)
        )

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        return self.mix(self.around(x))
