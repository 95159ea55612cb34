"""The ops of `images.cpp` as functions of tensors, which `fused` puts into layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokendream.kernels.cpu.call import Grads, call, differentiable


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _norm_swish(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Any:
    x = _last(x)
    y, sizes = torch.empty_like(x), (len(x), x.shape[2] * x.shape[3], x.shape[1], groups)
    call("norm_swish", x, weight, bias, y, *sizes)
    return y, (x, weight, bias), sizes


def _norm_swish_back(kept: tuple[Tensor, ...], sizes: tuple[int, ...], grad: Tensor) -> Grads:
    x, weight, bias = kept
    grad_x, weights = torch.empty_like(x), torch.empty(2, len(weight))
    call("norm_swish_back", x, weight, bias, _last(grad), grad_x, weights, *sizes)
    return grad_x, *weights.unbind(0), None


norm_swish = differentiable(_norm_swish, _norm_swish_back)
"""(x "B C H W", weight, bias, groups) -> s ∘ sigmoid(s) for s = GroupNorm(x), "B C H W"."""


def _distance(a: Tensor, b: Tensor, weight: Tensor) -> Any:
    a, b, out = _last(a), _last(b), torch.empty(len(a))
    call("distance", a, b, weight, out, len(a), a.shape[2] * a.shape[3], a.shape[1])
    return out, (a, b, weight), ()


def _distance_back(kept: tuple[Tensor, ...], _: Any, grad: Tensor) -> Grads:
    a, b, weight = kept
    grad_b = torch.empty_like(b)
    call("distance_back", a, b, weight, grad.contiguous(), grad_b, len(a), a.shape[2] * a.shape[3], a.shape[1])
    return None, grad_b, None


distance = differentiable(_distance, _distance_back)
"""(a "B C H W", b "B C H W", weight "C") -> "B", in float32; the gradient is that of b alone."""
