"""The ops of `images.cpp` as differentiable functions of tensors, which `fused` puts into layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tokendream.kernels.cpu.call import Grads, call


def _sizes(x: Tensor) -> tuple[int, int, int]:
    """Images, pixels and channels of "B C H W"."""
    return x.shape[0], x.shape[2] * x.shape[3], x.shape[1]


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


class NormSwish(torch.autograd.Function):
    """(x "B C H W", weight, bias, groups, times, edge) -> s ∘ sigmoid(s) for s = GroupNorm(x), "B C H2 W2".

    Each pixel `times` x `times` times, and `edge` rows and columns of zeros behind.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, times: int, edge: int) -> Tensor:
        x = _last(x)
        B, C, H, W = x.shape
        ctx.sizes = (B, H, W, C, groups, times, edge)
        ctx.save_for_backward(x, weight, bias)
        larger = (B, C, times * H + edge, times * W + edge)
        y = torch.empty(larger, dtype=x.dtype, memory_format=torch.channels_last)
        call("norm_swish", x, x, weight, bias, y, *ctx.sizes)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Grads:
        x, weight, bias = ctx.saved_tensors
        grad_x, weights = torch.empty_like(x), torch.empty(2, len(weight))
        call("norm_swish_back", x, x, weight, bias, _last(grad), grad_x, weights, *ctx.sizes)
        return grad_x, *weights.unbind(0), None, None, None


class Distance(torch.autograd.Function):
    """(a "B C H W", b "B C H W", weight "C") -> "B", in float32; the gradient is that of b alone."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
        a, b = _last(a), _last(b)
        ctx.save_for_backward(a, b, weight)
        out = torch.empty(len(a))
        call("distance", a, a, b, weight, out, *_sizes(a))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Grads:
        a, b, weight = ctx.saved_tensors
        grad_b = torch.empty_like(b)
        call("distance_back", a, a, b, weight, grad.contiguous(), grad_b, *_sizes(a))
        return None, grad_b, None
