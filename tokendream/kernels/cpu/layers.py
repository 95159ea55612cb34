"""The ops of `layers.cpp` as differentiable functions of tensors, which `fused` puts into layers.

Backward passes recompute what is cheap (moments, swish, the dropout mask) instead of reading it from memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tokendream.kernels.cpu.call import Grads, call, draw_seed, rows

EPS = 1e-6
"""What norms add to a variance."""


class SplitHeads(torch.autograd.Function):
    """(x "G L 4D", bias "4D", q_planes "N H L 2 e", k_planes) -> q, k, v, gate."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, q_planes: Tensor, k_planes: Tensor) -> tuple[Tensor, ...]:
        x = x.contiguous()
        (G, L, D4), H = x.shape, q_planes.shape[1]
        D = D4 // 4
        ctx.tables = [q_planes, k_planes, None, None]
        heads = x.new_empty(3, G, H, L, D // H)
        parts = (*heads.unbind(0), x.new_empty(G, L, D))
        for i, (part, table) in enumerate(zip(parts, ctx.tables, strict=True)):
            at = slice(i * D, (i + 1) * D)
            call("heads", x, x[..., at], bias[at], part, *_table(table), *_layout(part), D4)
        return parts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Grads:
        G, L, D = grads[-1].shape
        grad_x, grad_bias = grads[-1].new_empty(G, L, 4 * D), torch.empty(4 * D)
        for i, (grad, table) in enumerate(zip(grads, ctx.tables, strict=True)):
            grad, at = grad.contiguous(), slice(i * D, (i + 1) * D)
            call("heads_back", grad, grad, grad_x[..., at], grad_bias[at], *_table(table), *_layout(grad), 4 * D)
        return grad_x, grad_bias, None, None


def _table(table: Tensor | None) -> tuple[Tensor | None, int]:
    return table, 1 if table is None else len(table)


def _layout(part: Tensor) -> tuple[int, ...]:
    """G, H, L, d of what lies by heads; what lies by tokens, "G L D", are heads of one token each."""
    return tuple(part.shape) if part.ndim == 4 else (part.shape[0] * part.shape[1], 1, 1, part.shape[2])


class GatedNorm(torch.autograd.Function):
    """(y "G H L d", gate "G L D", p) -> "G L D"."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, gate: Tensor, p: float) -> Tensor:
        assert y.dtype is gate.dtype, f"outputs in {y.dtype}, their gate in {gate.dtype}"
        y, gate = y.contiguous(), gate.contiguous()
        ctx.p, ctx.seed = p, draw_seed(p)
        ctx.save_for_backward(y, gate)
        out = torch.empty_like(gate)
        call("gated_norm", y, y, gate, out, *y.shape, ctx.seed, p)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Grads:
        y, gate = ctx.saved_tensors
        grad_y, grad_gate = torch.empty_like(y), torch.empty_like(gate)
        call("gated_norm_back", y, y, gate, grad.contiguous(), grad_y, grad_gate, *y.shape, ctx.seed, ctx.p)
        return grad_y, grad_gate, None


class Norm(torch.autograd.Function):
    """(x, scale, offset), rows of D -> their norm."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        x = x.contiguous()
        normed = torch.empty_like(x)
        call("norm", x, x, scale, offset, normed, *rows(x))
        ctx.save_for_backward(x, scale)
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Grads:
        x, scale = ctx.saved_tensors
        grad_x, weights = torch.empty_like(x), torch.empty(2, len(scale))
        call("norm_back", x, x, scale, grad.contiguous(), grad_x, weights, *rows(x))
        return grad_x, *weights.unbind(0)


class AddNorm(torch.autograd.Function):
    """(x, branch, bias, scale, offset, p), rows of D -> x + drop(branch + bias), and its norm."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, branch: Tensor, bias: Tensor, scale: Tensor, offset: Tensor, p: float
    ) -> tuple[Tensor, Tensor]:
        x, branch = x.contiguous(), branch.contiguous()
        ctx.p, ctx.seed = p, draw_seed(p)
        total, normed = torch.empty_like(x), torch.empty_like(x)
        call("add_norm", x, x, branch, bias, scale, offset, total, normed, *rows(x), ctx.seed, p)
        ctx.save_for_backward(total, scale)
        return total, normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, grad_normed: Tensor) -> Grads:
        total, scale = ctx.saved_tensors
        grad_x, grad_branch, weights = torch.empty_like(total), torch.empty_like(total), torch.empty(3, len(scale))
        grads = (grad_total.contiguous(), grad_normed.contiguous(), grad_x, grad_branch, weights)
        call("add_norm_back", total, total, scale, *grads, *rows(total), ctx.seed, ctx.p)
        return grad_x, grad_branch, *weights.unbind(0), None


class Add(torch.autograd.Function):
    """(x, branch, bias, p), rows of D -> x + drop(branch + bias)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, branch: Tensor, bias: Tensor, p: float) -> Tensor:
        x, branch = x.contiguous(), branch.contiguous()
        ctx.p, ctx.seed = p, draw_seed(p)
        total = torch.empty_like(x)
        call("add_norm", x, x, branch, bias, None, None, total, None, *rows(x), ctx.seed, p)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Grads:
        grad = grad.contiguous()
        grad_branch, weights = torch.empty_like(grad), torch.empty(3, grad.shape[-1])
        missing = (None, grad, None, None)
        call("add_norm_back", grad, None, *missing, grad_branch, weights, *rows(grad), ctx.seed, ctx.p)
        return grad, grad_branch, weights[0], None


class Swish(torch.autograd.Function):
    """(x, bias, p), rows of M -> drop(swish(x + bias))."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, p: float) -> Tensor:
        x = x.contiguous()
        ctx.p, ctx.seed = p, draw_seed(p)
        ctx.save_for_backward(x, bias)
        y = torch.empty_like(x)
        call("swish", x, x, bias, y, *rows(x), ctx.seed, p)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Grads:
        x, bias = ctx.saved_tensors
        grad_x, grad_bias = torch.empty_like(x), torch.empty_like(bias)
        call("swish_back", x, x, bias, grad.contiguous(), grad_x, grad_bias, *rows(x), ctx.seed, ctx.p)
        return grad_x, grad_bias, None


def swish_(x: Tensor, bias: Tensor) -> Tensor:
    """swish(x + bias) in the place of x; without a gradient."""
    assert not torch.is_grad_enabled(), "this has no gradient"
    call("swish", x, x, bias, x, *rows(x), 0, 0.0)
    return x


def sample(logits: Tensor, u: Tensor, temperature: float) -> Tensor:
    """(logits "*B V", u "*B 1" in [0, 1)) -> "*B": softmax(logits / temperature), inverted at u; without a gradient."""
    logits = logits.contiguous()
    drawn = torch.empty(logits.shape[:-1], dtype=torch.int64)
    call("sample", logits, logits, u, drawn, *rows(logits), float(temperature))
    return drawn
