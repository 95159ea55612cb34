"""Parts of a layer in one call each, without a gradient, on processors with AMX; `nn.passes` says what they compute."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from tokendream.nn.kernels import build
from tokendream.nn.kernels.call import call, rows
from tokendream.nn.retention import Turns


@functools.cache
def available() -> bool:
    """Whether the processor has the tiles that these are made of."""
    library = build.library()
    return library is not None and bool(library.td_has_tiles())


def pop(
    x: Tensor,
    norm: nn.LayerNorm,
    linear: nn.Linear,
    turns: tuple[Turns, Turns],
    decay: Tensor,
    S: Tensor,
    T: int,
    first: int,
) -> tuple[Tensor, Tensor]:
    """(x "G L D" in bf16, G = (T + P) B, ..., decay "H" over a block, S "B H d d") -> gated "G L D", the last state.

    Predictions are made after the P blocks from `first` on.
    """
    (B, H, d, _), (G, L, _) = S.shape, x.shape
    x = x.contiguous()
    out, leaving = torch.empty_like(x), torch.empty_like(S, memory_format=torch.contiguous_format)
    weights = (norm.weight, norm.bias, linear.weight, linear.bias, *(t.planes for t in turns), decay.float())
    call("pop", x, x, *weights, S.contiguous(), out, leaving, B, T, first, G // B - T, H, L, d)
    return out, leaving


def feed(x: Tensor, y: Tensor, out: nn.Linear, norm: nn.LayerNorm, wide: nn.Linear, back: nn.Linear) -> Tensor:
    """(x, y "*B D" in bf16, weights of D, M and D features) -> the layer's output for tokens x, retained y."""
    x, y = x.contiguous(), y.contiguous()
    fed = torch.empty_like(x)
    weights = [w for layer in (out, norm, wide, back) for w in (layer.weight, layer.bias)]
    call("feed", x, x, y, *weights, fed, *rows(x), wide.out_features)
    return fed
