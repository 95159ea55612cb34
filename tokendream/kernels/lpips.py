"""LPIPS's distance of two taps as a Triton kernel for GPUs: each tap is read once, in whatever precision it is stored.

Plain PyTorch writes and reads some ten tensors of that size in float32. Triton is imported here and nowhere else; its
interpreter (TRITON_INTERPRET=1) runs these kernels on a CPU, for tests.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from tokendream.nn.lpips import LPIPS

NUMBERS = 4096
"""Of a tap that a program holds: so many pixels with all their channels."""


@triton.jit
def _units(tap, image, chunk, pixels, channels, P: tl.constexpr, C: tl.constexpr):  # type: ignore[no-untyped-def]
    """P pixels of an image, each divided by its norm; 1 / norm; and where they lie, which are there."""
    pixel, channel = chunk * P + tl.arange(0, P), tl.arange(0, C)
    at = (image.to(tl.int64) * pixels + pixel[:, None]) * channels + channel[None, :]
    there = (pixel[:, None] < pixels) & (channel[None, :] < channels)
    x = tl.load(tap + at, mask=there, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, 1) + 1e-20)[:, None]
    return x * scale, scale, at, there


@triton.jit
def _sums(a, b, weight, sums, pixels, channels, P: tl.constexpr, C: tl.constexpr):  # type: ignore[no-untyped-def]
    """Σ_c w_c (a_c / |a| - b_c / |b|)² over P pixels of an image."""
    image, chunk = tl.program_id(0), tl.program_id(1)
    unit_a, _, _, _ = _units(a, image, chunk, pixels, channels, P, C)
    unit_b, _, _, _ = _units(b, image, chunk, pixels, channels, P, C)
    w = tl.load(weight + tl.arange(0, C), mask=tl.arange(0, C) < channels, other=0.0)[None, :]
    apart = unit_a - unit_b
    tl.store(sums + image * tl.num_programs(1) + chunk, tl.sum(tl.sum(w * apart * apart, 1), 0))


@triton.jit
def _gradient(a, b, weight, grad, grad_b, pixels, channels, P: tl.constexpr, C: tl.constexpr):  # type: ignore[no-untyped-def]
    """What b gets: with s = -2 w ∘ (â - b̂) and g an image's gradient by pixel, g (s - b̂ (b̂ · s)) / |b|."""
    image, chunk = tl.program_id(0), tl.program_id(1)
    unit_a, _, _, _ = _units(a, image, chunk, pixels, channels, P, C)
    unit_b, scale, at, there = _units(b, image, chunk, pixels, channels, P, C)
    w = tl.load(weight + tl.arange(0, C), mask=tl.arange(0, C) < channels, other=0.0)[None, :]
    slope = 2.0 * w * (unit_b - unit_a)
    slope = (slope - unit_b * tl.sum(unit_b * slope, 1)[:, None]) * scale * (tl.load(grad + image) / pixels)
    tl.store(grad_b + at, slope.to(grad_b.dtype.element_ty), mask=there)


class _Distance(torch.autograd.Function):
    """(a, b "B C H W", channels last; weight "C") -> "B", in float32; the weights get no gradient."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(a, b, weight)
        grid, sizes = _plan(a)
        sums = torch.empty(grid, dtype=torch.float32, device=a.device)
        with torch.cuda.device_of(a):
            _sums[grid](a, b, weight, sums, *sizes)
        return sums.sum(1) / sizes[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b, weight = ctx.saved_tensors
        return *(_towards(*pair, weight, grad) if ctx.needs_input_grad[i] else None
                 for i, pair in enumerate(((b, a), (a, b)))), None  # fmt: skip


def _towards(a: Tensor, b: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
    """The gradient of b; the distance is the same both ways."""
    grid, sizes = _plan(a)
    grad_b = torch.empty_like(b)
    with torch.cuda.device_of(a):
        _gradient[grid](a, b, weight, grad.contiguous(), grad_b, *sizes)
    return grad_b


def _plan(tap: Tensor) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """Programs by image and pixels; pixels, channels, and those that a program holds."""
    B, channels, H, W = tap.shape
    C = triton.next_power_of_2(channels)
    P = max(1, NUMBERS // C)
    return (B, triton.cdiv(H * W, P)), (H * W, channels, P, C)


class TritonLPIPS(LPIPS):
    """The distance as one kernel, where taps are stored in bf16 or float32."""

    def unit_distance(
        self, a: Float[Tensor, "B C H W"], b: Float[Tensor, "B C H W"], weight: Float[Tensor, " C"]
    ) -> Float[Tensor, " B"]:
        if a.dtype is not b.dtype or a.dtype not in (torch.bfloat16, torch.float32):
            return super().unit_distance(a, b, weight)
        a, b = (x.contiguous(memory_format=torch.channels_last) for x in (a, b))
        return _Distance.apply(a, b, weight)
