"""The LSTM of C (Hochreiter and Schmidhuber, 1997), with a gradient of its own for autocast.

Under autocast torch has one step alone, some forty operators forwards and backwards with all that they save; written
by hand, the gradient takes a third of them, and each weight's is one product over all steps.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Weights = tuple[Tensor, Tensor, Tensor, Tensor]
"""Of the inputs and of the memory (4 M x M each), then their biases (4 M); in rows, gate by gate: i, f, g, o."""


def weights_of(lstm: nn.LSTMCell) -> Weights:
    """What it has learned."""
    return lstm.weight_ih, lstm.weight_hh, lstm.bias_ih, lstm.bias_hh


def cell(
    x: Float[Tensor, "B M"], h: Float[Tensor, "B M"], c: Float[Tensor, "B M"], weights: Weights
) -> tuple[Float[Tensor, "B M"], Float[Tensor, "B M"]]:
    """One step: the new h and c, in float32 also where autocast makes the products in bf16."""
    i, f, g, o = _gates(x, h, weights)
    c = f * c + i * g
    return o * c.tanh(), c


def _gates(x: Tensor, h: Tensor, weights: Weights) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    w_x, w_h, b_x, b_h = weights
    i, f, g, o = (F.linear(h, w_h, b_h) + F.linear(x, w_x, b_x)).chunk(4, dim=1)
    return i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()


def along(
    x: Float[Tensor, "B N M"], h: Float[Tensor, "B M"], c: Float[Tensor, "B M"], weights: Weights
) -> Float[Tensor, "B N M"]:
    """h after each of N inputs that are all known."""
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        return torch.lstm(x, (h[None], c[None]), list(weights), True, 1, 0.0, True, False, True)[0]
    dtype = torch.get_autocast_dtype(device)
    return _Along.apply(x.to(dtype), h, c, *(weight.to(dtype) for weight in weights))


class _Along(torch.autograd.Function):
    """`cell` N times, to the bit, from weights that autocast need not cast again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, h: Tensor, c: Tensor, *weights: Tensor) -> Tensor:
        hs, cs, gates = [h], [c], []
        for one in x.unbind(1):
            i, f, g, o = _gates(one, hs[-1], weights)  # type: ignore[arg-type]
            cs.append(f * cs[-1] + i * g)
            hs.append(o * cs[-1].tanh())
            gates.append(torch.stack((i, f, g, o)))
        ctx.save_for_backward(x, torch.stack(hs[:-1]), torch.stack(cs), torch.stack(gates, dim=1), *weights[:2])
        return torch.stack(hs[1:], dim=1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        x, hs, cs, gates, w_x, w_h = ctx.saved_tensors
        before, after = cs[:-1], cs[1:].tanh()
        i, f, g, o = gates.to(cs.dtype)
        # What each gate's input does to c, and to h through o; and what c does to h: for all steps together.
        of_c = torch.stack((g * i * (1 - i), before * f * (1 - f), i * (1 - g * g)), dim=2)
        of_o, through = after * o * (1 - o), o * (1 - after * after)
        found = []
        dh, dc = torch.zeros_like(cs[0]), torch.zeros_like(cs[0])
        for t in range(len(hs) - 1, -1, -1):
            dh = grads[0][:, t] + dh
            dc = torch.addcmul(dc, dh, through[t])
            found.append(torch.cat(((dc[:, None] * of_c[t]).flatten(1), dh * of_o[t]), dim=1).to(w_h.dtype))
            dh, dc = found[-1] @ w_h, dc * f[t]
        d = torch.stack(found[::-1])
        rows = d.flatten(0, 1)
        bias = rows.sum(0)
        inputs, memory = x.transpose(0, 1).flatten(0, 1), hs.flatten(0, 1).to(w_h.dtype)
        return (d @ w_x).transpose(0, 1), dh.to(hs.dtype), dc, rows.T @ inputs, rows.T @ memory, bias, bias
