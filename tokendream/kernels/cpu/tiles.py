"""Halves of a RetNet layer in one call each, on processors with AMX; what they compute is said in `nn.retnet`."""

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
    """(x "G L D" in bf16, G = (T + P) B, ..., as `nn.retention.pop` takes them) -> gated "G L D", the last state."""
    assert not torch.is_grad_enabled(), "this has no gradient"
    (B, H, d, _), (G, L, _) = S.shape, x.shape
    x = x.contiguous()
    out, leaving = torch.empty_like(x), torch.empty_like(S, memory_format=torch.contiguous_format)
    weights = (norm.weight, norm.bias, linear.weight, linear.bias, *planes, (gamma**L).float())
    first = range(blocks)[predict].start
    call("pop", x, x, *weights, S.contiguous(), out, leaving, B, blocks, first, G // B - blocks, H, L, d)
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


class Ffn(torch.autograd.Function):
    """(x, y "*B D" in bf16, p, weights and biases of out, norm, ffn_in, ffn_out) -> `RetNetLayer.ffn` of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, p: float, *weights: Tensor) -> Tensor:
        x, y = x.contiguous(), y.contiguous()
        n, M = x.numel() // x.shape[-1], len(weights[4])
        total, normed, before, hidden = torch.empty_like(x), torch.empty_like(x), x.new_empty(n, M), x.new_empty(n, M)
        ctx.p, ctx.seeds = p, [draw_seed(p) for _ in range(3)]
        ctx.save_for_backward(y, total, normed, before, hidden, weights[0], weights[2], weights[4], weights[6])
        return _ffn(x, y, weights, (total, normed, before, hidden), ctx.seeds, p)

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


def ffn(x: Tensor, y: Tensor, *weights: Tensor) -> Tensor:
    """`Ffn` without dropout, and nothing kept for a gradient."""
    assert not torch.is_grad_enabled(), "this has no gradient"
    return _ffn(x.contiguous(), y.contiguous(), weights, (None,) * 4, [0, 0, 0], 0.0)


def _ffn(
    x: Tensor, y: Tensor, weights: Sequence[Tensor], kept: Sequence[Tensor | None], seeds: list[int], p: float
) -> Tensor:
    out = torch.empty_like(x)
    call("feed", x, x, y, *weights, out, *kept, *rows(x), len(weights[4]), *seeds, p)
    return out
