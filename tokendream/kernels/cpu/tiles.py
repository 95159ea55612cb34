"""Parts of a layer in one call each, on processors with AMX; `nn.passes` says what they compute."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tokendream.kernels.cpu import build
from tokendream.kernels.cpu.call import Grads, call, draw_seed, rows
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
    assert not torch.is_grad_enabled(), "this has no gradient"
    (B, H, d, _), (G, L, _) = S.shape, x.shape
    x = x.contiguous()
    out, leaving = torch.empty_like(x), torch.empty_like(S, memory_format=torch.contiguous_format)
    weights = (norm.weight, norm.bias, linear.weight, linear.bias, *(t.planes for t in turns), decay.float())
    call("pop", x, x, *weights, S.contiguous(), out, leaving, B, T, first, G // B - T, H, L, d)
    return out, leaving


def outer(a: Tensor, b: Tensor) -> Tensor:
    """(a "*B P", b "*B Q", contiguous, in bf16) -> "P Q" in float32: aᵀ b, summed over all rows."""
    (n, P), (_, Q) = rows(a), rows(b)
    out = torch.empty(P, Q)
    if P <= Q:  # what each thread reads again should be the narrower one
        call("outer", a, a, b, out, n, P, Q, 0)
    else:
        call("outer", a, b, a, out, n, Q, P, 1)
    return out


class Product(torch.autograd.Function):
    """(x "*B D" in bf16, weight "M D") -> x Wᵀ; the gradient of W is summed in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x, lowered = x.contiguous(), weight.to(x.dtype)
        ctx.save_for_backward(x, lowered)
        return F.linear(x, lowered)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Grads:
        x, lowered = ctx.saved_tensors
        grad = grad.contiguous()
        return grad @ lowered, outer(grad, x)


class Feed(torch.autograd.Function):
    """(x, y "*B D" in bf16, p, weights and biases of out, norm, wide and back) -> `nn.passes.feed` of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, p: float, *weights: Tensor) -> Tensor:
        x, y = x.contiguous(), y.contiguous()
        n, M = x.numel() // x.shape[-1], len(weights[4])
        total, normed, before, hidden = torch.empty_like(x), torch.empty_like(x), x.new_empty(n, M), x.new_empty(n, M)
        ctx.p, ctx.seeds = p, [draw_seed(p) for _ in range(3)]
        ctx.save_for_backward(y, total, normed, before, hidden, weights[0], weights[2], weights[4], weights[6])
        return _feed(x, y, weights, (total, normed, before, hidden), ctx.seeds, p)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Grads:
        y, total, normed, before, hidden, *weights = ctx.saved_tensors
        (n, M), D = before.shape, y.shape[-1]
        grad = grad.contiguous()
        grad_x, grad_y, grad_out, grad_back = (torch.empty_like(y) for _ in range(4))
        grad_in, sums = torch.empty_like(before), torch.empty(4 * D + M)
        given = (grad, total, before, *weights)
        made = (grad_x, grad_y, grad_out, grad_in, grad_back, sums)
        call("feed_back", grad, *given, *made, n, D, M, *ctx.seeds, ctx.p)
        of_out, of_in, of_back = outer(grad_out, y), outer(grad_in, normed), outer(grad_back, hidden)
        out_bias, scale, offset, back_bias, in_bias = sums.split([D, D, D, D, M])
        return grad_x, grad_y, None, of_out, out_bias, scale, offset, of_in, in_bias, of_back, back_bias


def feed(x: Tensor, y: Tensor, *weights: Tensor) -> Tensor:
    """`Feed` without dropout, and nothing kept for a gradient."""
    assert not torch.is_grad_enabled(), "this has no gradient"
    return _feed(x.contiguous(), y.contiguous(), weights, (None,) * 4, [0, 0, 0], 0.0)


def _feed(
    x: Tensor, y: Tensor, weights: Sequence[Tensor], kept: Sequence[Tensor | None], seeds: list[int], p: float
) -> Tensor:
    fed = torch.empty_like(x)
    call("feed", x, x, y, *weights, fed, *kept, *rows(x), len(weights[4]), *seeds, p)
    return fed
