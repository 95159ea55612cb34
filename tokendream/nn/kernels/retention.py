"""POP's retention in one call of `retention.cpp`, without a gradient; what it computes is said in `nn.passes`."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from tokendream.nn.kernels import build
from tokendream.nn.kernels.call import call


@functools.cache
def available() -> bool:
    """Whether the processor has the tiles that it is made of (AMX)."""
    library = build.library()
    return library is not None and bool(library.td_has_tiles())


def pop(
    x: Tensor, bias: Tensor, q_planes: Tensor, k_planes: Tensor, decay: Tensor, S: Tensor, T: int, first: int
) -> tuple[Tensor, Tensor]:
    """(x "G L 4D" in bf16, G = (T + P) B, ..., decay "H" over a block, S "B H d d") -> gated "G L D", the last state.

    Predictions are made after the P blocks from `first` on.
    """
    (B, H, d, _), (G, L, D4) = S.shape, x.shape
    out, leaving = x.new_empty(G, L, D4 // 4), torch.empty_like(S, memory_format=torch.contiguous_format)
    sizes = (B, T, first, G // B - T, H, L, d)
    call("pop", x, x.contiguous(), bias, q_planes, k_planes, decay.float(), S.contiguous(), out, leaving, *sizes)
    return out, leaving
