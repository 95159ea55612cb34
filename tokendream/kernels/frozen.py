"""LPIPS's frozen convolutions with weights rounded once and a gradient written out for x alone.

Autocast would round the weights in every call, as they need no gradient.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input

from tokendream.nn.lpips import FrozenConv


class RoundedConv(FrozenConv):
    """conv(x) in the precision of autocast; what was rounded is kept as long as the weight is the same."""

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B M h w"]:
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        with torch.autocast(kind, enabled=False):
            return _Convolve.apply(x.to(dtype), *self._rounded(dtype), self.stride, self.padding)

    def _rounded(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Weight, bias, and the weight as the gradient's convolution needs it."""
        kept: dict[torch.dtype, tuple[Tensor, ...]] = self.__dict__.setdefault("_kept", {})
        if dtype not in kept or kept[dtype][0] is not self.weight:
            # As the frames lie, channels last; on a CPU the library lays weights out by itself.
            layout = torch.channels_last if self.weight.device.type == "cuda" else torch.contiguous_format
            weight, bias = self.weight.to(dtype, memory_format=layout), self.bias.to(dtype)
            adjoint = weight.transpose(0, 1).flip(2, 3).contiguous(memory_format=layout)
            kept[dtype] = self.weight, weight, bias, adjoint
        _, weight, bias, adjoint = kept[dtype]
        return weight, bias, adjoint


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
