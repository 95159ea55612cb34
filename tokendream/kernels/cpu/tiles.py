"""Halves of a RetNet layer in one call each, on processors with AMX; what they compute is said in `nn.retnet`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokendream.kernels.cpu import build
from tokendream.kernels.cpu.call import Grads, call, differentiable, draw_seed, rows


@functools.cache
def available() -> bool:
    """Whether the processor has the tiles that these are made of."""
    library = build.library()
    return library is not None and bool(library.td_has_tiles())


def pop(
    x: Tensor,
    norm: nn.LayerNorm,
    linear: nn.Linear,
    planes: tuple[Tensor, Tensor],
    *,
    gamma: Tensor,
    S: Tensor,
    blocks: int,
    predict: slice,
) -> tuple[Tensor, Tensor]:
    """(x "G L D" in bf16, G = (T + P) B, ..., as `nn.retnet.chunkwise` takes them) -> gated "G L D", the last state."""
    assert not torch.is_grad_enabled(), "this has no gradient"
    (B, H, d, _), (G, L, _) = S.shape, x.shape
    x = x.contiguous()
    out, leaving = torch.empty_like(x), torch.empty_like(S, memory_format=torch.contiguous_format)
    weights = (norm.weight, norm.bias, linear.weight, linear.bias, *planes, (gamma**L).float())
    first = range(blocks)[predict].start
    call("pop", x, *weights, S.contiguous(), out, leaving, B, blocks, first, G // B - blocks, H, L, d)
    return out, leaving


def _ffn(x: Tensor, y: Tensor, p: float, *weights: Tensor) -> Any:
    x, y = x.contiguous(), y.contiguous()
    n, M = x.numel() // x.shape[-1], len(weights[4])
    total, normed, before, hidden = torch.empty_like(x), torch.empty_like(x), x.new_empty(n, M), x.new_empty(n, M)
    seeds = [draw_seed(p) for _ in range(3)]
    out = _feed(x, y, weights, (total, normed, before, hidden), seeds, p)
    return out, (y, total, normed, before, hidden, weights[0], weights[2], weights[4], weights[6]), (*seeds, p)


def _ffn_back(kept: tuple[Tensor, ...], dropout: tuple[Any, ...], grad: Tensor) -> Grads:
    y, total, normed, before, hidden, *weights = kept
    (n, M), D = before.shape, y.shape[-1]
    grad_x, grad_y, grad_out, grad_down = (torch.empty_like(y) for _ in range(4))
    grad_up, sums = torch.empty_like(before), torch.empty(4 * D + M)
    made = (grad_x, grad_y, grad_out, grad_up, grad_down, sums)
    call("feed_back", grad.contiguous(), total, before, *weights, *made, n, D, M, *dropout)
    pairs = ((grad_out, y), (grad_up, normed), (grad_down, hidden))
    of_out, of_up, of_down = ((a.flatten(0, -2).mT @ b.flatten(0, -2)).float() for a, b in pairs)
    out_bias, scale, offset, down_bias, up_bias = sums.split([D, D, D, D, M])
    return grad_x, grad_y, None, of_out, out_bias, scale, offset, of_up, up_bias, of_down, down_bias


ffn = differentiable(_ffn, _ffn_back)
"""(x, y "*B D" in bf16, p, weights and biases of out, norm, ffn_in, ffn_out) -> `RetNetLayer.ffn` of them."""


def ffn_alone(x: Tensor, y: Tensor, *weights: Tensor) -> Tensor:
    """`ffn` without dropout, and nothing kept for a gradient."""
    assert not torch.is_grad_enabled(), "this has no gradient"
    return _feed(x.contiguous(), y.contiguous(), weights, (None,) * 4, [0, 0, 0], 0.0)


def _feed(
    x: Tensor, y: Tensor, weights: Sequence[Tensor], kept: Sequence[Tensor | None], seeds: list[int], p: float
) -> Tensor:
    out = torch.empty_like(x)
    call("feed", x, y, *weights, out, *kept, *rows(x), len(weights[4]), *seeds, p)
    return out
