"""The ops of `heads.cpp`, `layers.cpp` and `lstm.cpp` as functions of tensors, which `fused` puts into layers.

Gradients compute again what is cheap (moments, swish, the dropout mask) instead of reading it from memory.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tokendream.kernels.cpu.call import Grads, call, differentiable, draw_seed, rows
from tokendream.nn.lstm import gradients

EPS = 1e-6
"""What norms add to a variance."""


def _split_heads(x: Tensor, bias: Tensor, q_planes: Tensor, k_planes: Tensor) -> Any:
    x = x.contiguous()
    (G, L, D4), H = x.shape, q_planes.shape[1]
    D = D4 // 4
    parts = (*x.new_empty(3, G, H, L, D // H).unbind(0), x.new_empty(G, L, D))
    tables = (q_planes, k_planes, None, None)
    for i, (part, table) in enumerate(zip(parts, tables, strict=True)):
        at = slice(i * D, (i + 1) * D)
        call("heads", x[..., at], bias[at], part, *_where(part, table), D4)
    return parts, (), tables


def _split_heads_back(_: Any, tables: tuple[Tensor | None, ...], *grads: Tensor) -> Grads:
    G, L, D = grads[-1].shape
    grad_x, grad_bias = grads[-1].new_empty(G, L, 4 * D), torch.empty(4 * D)
    for i, (grad, table) in enumerate(zip(map(Tensor.contiguous, grads), tables, strict=True)):
        at = slice(i * D, (i + 1) * D)
        call("heads_back", grad, grad_x[..., at], grad_bias[at], *_where(grad, table), 4 * D)
    return grad_x, grad_bias, None, None


def _where(part: Tensor, table: Tensor | None) -> tuple[Any, ...]:
    """A table and its N; and G, H, L, d: what lies by tokens, "G L D", are heads of one token each."""
    layout = part.shape if part.ndim == 4 else (part.shape[0] * part.shape[1], 1, 1, part.shape[2])
    return table, 1 if table is None else len(table), *layout


split_heads = differentiable(_split_heads, _split_heads_back)
"""(x "G L 4D", bias "4D", q_planes "N H L 2 e", k_planes) -> q, k, v "G H L d", gate "G L D"."""


def _gated_norm(y: Tensor, gate: Tensor, p: float) -> Any:
    assert y.dtype is gate.dtype, f"outputs in {y.dtype}, their gate in {gate.dtype}"
    y, gate, out, seed = y.contiguous(), gate.contiguous(), torch.empty_like(gate), draw_seed(p)
    call("gated_norm", y, gate, out, *y.shape, seed, p)
    return out, (y, gate), (seed, p)


def _gated_norm_back(kept: tuple[Tensor, ...], dropout: tuple[int, float], grad: Tensor) -> Grads:
    y, gate = kept
    grad_y, grad_gate = torch.empty_like(y), torch.empty_like(gate)
    call("gated_norm_back", y, gate, grad.contiguous(), grad_y, grad_gate, *y.shape, *dropout)
    return grad_y, grad_gate, None


gated_norm = differentiable(_gated_norm, _gated_norm_back)
"""(y "G H L d", gate "G L D", p) -> swish(gate) ∘ norm(drop(y)), "G L D", a norm over each head."""


def _norm(x: Tensor, scale: Tensor, offset: Tensor) -> Any:
    x = x.contiguous()
    normed = torch.empty_like(x)
    call("add_norm", x, None, None, normed, None, scale, offset, *rows(x), 0, 0.0)
    return normed, (x, scale), ()


def _norm_back(kept: tuple[Tensor, ...], _: Any, grad: Tensor) -> Grads:
    x, scale = kept
    grad_x, weights = torch.empty_like(x), torch.empty(3, len(scale))
    call("add_norm_back", x, None, grad.contiguous(), grad_x, None, scale, weights, *rows(x), 0, 0.0)
    return grad_x, weights[1], weights[2]


norm = differentiable(_norm, _norm_back)
"""(x, scale, offset), rows of D -> norm(x)."""


def _add_norm(x: Tensor, branch: Tensor, bias: Tensor, scale: Tensor | None, offset: Tensor | None, p: float) -> Any:
    x, branch, seed = x.contiguous(), branch.contiguous(), draw_seed(p)
    total, normed = torch.empty_like(x), None if scale is None else torch.empty_like(x)
    call("add_norm", x, branch, total, normed, bias, scale, offset, *rows(x), seed, p)
    return (total, normed), () if scale is None else (total, scale), (seed, p)


def _add_norm_back(kept: tuple[Tensor, ...], dropout: tuple[int, float], grad: Tensor, grad_normed: Any) -> Grads:
    total, scale = kept or (None, None)
    grad, grad_normed = grad.contiguous(), None if total is None else grad_normed.contiguous()
    grad_branch, weights = torch.empty_like(grad), torch.empty(3, grad.shape[-1])
    grad_x = grad if total is None else torch.empty_like(grad)
    call("add_norm_back", total, grad, grad_normed, grad_x, grad_branch, scale, weights, *rows(grad), *dropout)
    of_norm = (None, None) if total is None else (weights[1], weights[2])
    return grad_x, grad_branch, weights[0], *of_norm, None


add_norm = differentiable(_add_norm, _add_norm_back)
"""(x, branch, bias, scale, offset, p), rows of D -> x + drop(branch + bias), and its norm; None without a scale."""


def _swish(x: Tensor, bias: Tensor, p: float) -> Any:
    x, seed = x.contiguous(), draw_seed(p)
    y = torch.empty_like(x)
    call("swish", x, bias, y, *rows(x), seed, p)
    return y, (x, bias), (seed, p)


def _swish_back(kept: tuple[Tensor, ...], dropout: tuple[int, float], grad: Tensor) -> Grads:
    x, bias = kept
    grad_x, grad_bias = torch.empty_like(x), torch.empty_like(bias)
    call("swish_back", x, bias, grad.contiguous(), grad_x, grad_bias, *rows(x), *dropout)
    return grad_x, grad_bias, None


swish = differentiable(_swish, _swish_back)
"""(x, bias, p), rows of M -> drop(s ∘ sigmoid(s)) for s = x + bias."""


def lstm(by_h: Tensor, by_x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """(what h and x give the gates, "B 4M" each, c "B M" in float32) -> the new h and c; without a gradient."""
    c, h, after, stored = c.contiguous(), torch.empty_like(c), torch.empty_like(c), by_h.new_empty(c.shape)
    call("lstm", by_h, by_x, c, after, h, stored, torch.empty_like(by_h), *c.shape)
    return h, after


def _lstm_along(x: Tensor, h: Tensor, c: Tensor, w_x: Tensor, w_h: Tensor, b_x: Tensor, b_h: Tensor) -> Any:
    x = x.transpose(0, 1).contiguous()
    N, B, M = x.shape
    hs, gates = x.new_empty(N + 1, B, M), x.new_empty(N, B, 4 * M)
    cs, out = c.new_empty(N + 1, B, M), c.new_empty(N, B, M)
    hs[0], cs[0] = h, c
    for t in range(N):
        by_h, by_x = F.linear(hs[t], w_h, b_h), F.linear(x[t], w_x, b_x)
        call("lstm", by_h, by_x, cs[t], cs[t + 1], out[t], hs[t + 1], gates[t], B, M)
    return out.transpose(0, 1), (x, hs, cs, gates, w_x, w_h), ()


def _lstm_along_back(kept: tuple[Tensor, ...], _: Any, grad: Tensor) -> Grads:
    x, hs, cs, gates, w_x, w_h = kept
    grad, d = grad.transpose(0, 1).contiguous(), torch.empty_like(gates)
    dh, dc = torch.zeros_like(hs[0]), torch.zeros_like(cs[0])
    for t in range(len(x) - 1, -1, -1):
        call("lstm_back", gates[t], cs[t], cs[t + 1], grad[t], dh, dc, d[t], *dc.shape)
        dh = d[t] @ w_h
    dx, *of_weights = gradients(d, x, hs[:-1], w_x)
    return dx.transpose(0, 1), dh.float(), dc, *of_weights


lstm_along = differentiable(_lstm_along, _lstm_along_back)
"""(x "B N M", h and c "B M" in float32, weights of x and of h "4M M" and biases "4M", as x is stored) -> h after each
step, "B N M" in float32."""


def sample(logits: Tensor, u: Tensor, temperature: float) -> Tensor:
    """(logits "*B V", u "*B 1" in [0, 1)) -> "*B": softmax(logits / temperature), inverted at u; without a gradient."""
    logits, u = logits.contiguous(), u.float().contiguous()
    drawn = torch.empty(logits.shape[:-1], dtype=torch.int64)
    call("sample", logits, u, drawn, *rows(logits), float(temperature))
    return drawn
