"""A convolution whose weights never change, which saves more than their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input


class FrozenConv(nn.Module):
    """conv(x) with a gradient for x alone, in the precision of autocast.

    Weights are non-persistent buffers: they follow `.to(device)`, no checkpoint carries them and no optimiser sees
    them. They are rounded to autocast's type once: it would do so in every call, as they need no gradient.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Float[Tensor, "M C k k"], bias: Float[Tensor, " M"], stride: int, padding: int) -> None:
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self.stride, self.padding = stride, padding
        self._kept: dict[torch.dtype, tuple[Tensor, Tensor, Tensor]] = {}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenConv:
        before = self.weight
        super()._apply(fn, recurse)
        if self.weight is not before:  # what reads the others, such as a captured graph, may go on where nothing moved
            self._kept = {}
        return self

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B M h w"]:
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        if dtype not in self._kept:
            # As the frames lie, channels last; on a CPU the library lays weights out by itself.
            layout = torch.channels_last if kind == "cuda" else torch.contiguous_format
            weight, bias = self.weight.to(dtype, memory_format=layout), self.bias.to(dtype)
            self._kept[dtype] = weight, bias, weight.transpose(0, 1).flip(2, 3).contiguous(memory_format=layout)
        with torch.autocast(kind, enabled=False):
            return _Convolve.apply(x.to(dtype), *self._kept[dtype], self.stride, self.padding)


class _Convolve(torch.autograd.Function):
    """(x, weight, bias, adjoint, stride, padding), `adjoint` being the weight as the gradient's convolution needs it.

    At stride 1 the gradient is a convolution too. On a CPU the library's own backward of one of 512 channels on 4x4
    pixels took 26 ms for 32 images, that convolution 7 (bf16, one thread). On a GPU it keeps channels last, which
    `conv2d_input` does not.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, adjoint: Tensor, stride: int, padding: int
    ) -> Tensor:
        ctx.shape, ctx.weights, ctx.plan = x.shape, (weight, adjoint), (stride, padding)
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (weight, adjoint), (stride, padding) = ctx.weights, ctx.plan
        if stride == 1:
            grad_x = F.conv2d(grad, adjoint, padding=weight.shape[-1] - 1 - padding)
        else:
            grad_x = conv2d_input(ctx.shape, weight, grad, stride, padding)
        return grad_x, None, None, None, None, None
