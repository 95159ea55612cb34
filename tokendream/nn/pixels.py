"""Pixels as numbers around 0, and back."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def to_float(pixels: UInt8[Tensor, "*N"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "*N"]:
    """0..255 -> [-1, 1]."""
    return pixels.to(dtype) / 127.5 - 1


def to_uint8(x: Float[Tensor, "*B 3 H W"]) -> UInt8[Tensor, "*B 3 H W"]:
    """[-1, 1] -> 0..255, rounded; what lies outside is clamped. The inverse of `to_float`."""
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
