"""The convolutional encoder and decoder of the tokenizer. No codes, no losses here."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class NormSwish(nn.GroupNorm):
    """s ∘ sigmoid(s) for s = GroupNorm(x); stored as x is, and channels last, which convolutions want."""

    def __init__(self, channels: int) -> None:
        super().__init__(8, channels, eps=1e-6)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        y = F.silu(super().forward(x))
        return y.to(x.dtype, memory_format=torch.channels_last)  # autocast norms in float32


class Down(nn.Module):
    """Halve the grid and double the channels: GroupNorm, SiLU, conv3x3 of stride 2, conv3x3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = NormSwish(channels)
        self.stride = nn.Conv2d(channels, 2 * channels, 3, stride=2)
        self.conv = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 H2 W2"]:
        """One row and one column of zeros at the right and the bottom only, so that 2n pixels become n."""
        return self.conv(self.stride(F.pad(self.norm(x), (0, 1, 0, 1))))


class Up(nn.Module):
    """Double the grid and halve the channels: GroupNorm, SiLU, nearest x2, conv3x3, conv3x3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = NormSwish(channels)
        self.widen = nn.Conv2d(channels, channels // 2, 3, padding=1)
        self.conv = nn.Conv2d(channels // 2, channels // 2, 3, padding=1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 H2 W2"]:
        return self.conv(self.widen(F.interpolate(self.norm(x), scale_factor=2, mode="nearest")))


class Encoder(nn.Module):
    """Frame -> feature map of `width = channels * 2**downsamples` channels, each side halved `downsamples` times."""

    def __init__(self, channels: int, downsamples: int) -> None:
        super().__init__()
        self.width = channels << downsamples
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(Down(channels << i) for i in range(downsamples)))
        self.norm = NormSwish(self.width)
        self.last = nn.Conv2d(self.width, self.width, 3, padding=1)

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        x = self.blocks(self.first(x.contiguous(memory_format=torch.channels_last)))
        return self.last(self.norm(x))


class Decoder(nn.Module):
    """The way back: feature map of `channels * 2**downsamples` channels -> frame, not clamped."""

    def __init__(self, channels: int, downsamples: int) -> None:
        super().__init__()
        self.width = channels << downsamples
        self.first = nn.Conv2d(self.width, self.width, 3, padding=1)
        self.blocks = nn.Sequential(*(Up(self.width >> i) for i in range(downsamples)))
        self.norm = NormSwish(channels)
        self.last = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        x = self.blocks(self.first(x.contiguous(memory_format=torch.channels_last)))
        return self.last(self.norm(x))
