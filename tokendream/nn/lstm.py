"""The LSTM of C (Hochreiter and Schmidhuber, 1997), with a gradient of its own for autocast.

Under autocast torch has one step alone, some forty operators forwards and backwards with all that they save; written
by hand, the gradient takes a third of them, and each weight's is one product over all steps.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class LSTM(nn.LSTMCell):
    """torch's cell whose memory stays float32 on every device, also where autocast makes the products in bf16."""

    def step(
        self, x: Float[Tensor, "B M"], h: Float[Tensor, "B M"], c: Float[Tensor, "B M"]
    ) -> tuple[Float[Tensor, "B M"], Float[Tensor, "B M"]]:
        """The new h and c."""
        i, f, g, o = _gates(x, h, *self.weights)
        c = f * c + i * g
        return o * c.tanh(), c

    def along(
        self, x: Float[Tensor, "B N M"], h: Float[Tensor, "B M"], c: Float[Tensor, "B M"]
    ) -> Float[Tensor, "B N M"]:
        """h after each of N inputs that are all known."""
        device = x.device.type
        if not torch.is_autocast_enabled(device):  # one call, which on CPUs takes half the time of N
            return torch.lstm(x, (h[None], c[None]), list(self.weights), True, 1, 0.0, True, False, True)[0]
        return _Along.apply(x, h, c, *self.weights_in(torch.get_autocast_dtype(device)))

    @property
    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of x and of h (4 M x M each), then their biases (4 M); in rows, gate by gate: i, f, g, o."""
        return self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh

    def weights_in(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """The weights in `dtype`, cast once for many steps."""
        return tuple(weight.to(dtype) for weight in self.weights)


def _gates(x: Tensor, h: Tensor, w_x: Tensor, w_h: Tensor, b_x: Tensor, b_h: Tensor) -> tuple[Tensor, ...]:
    i, f, g, o = (F.linear(h, w_h, b_h) + F.linear(x, w_x, b_x)).chunk(4, dim=1)
    return i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()


class _Along(torch.autograd.Function):
    """`LSTM.step` N times, to the bit."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, h: Tensor, c: Tensor, *weights: Tensor) -> Tensor:
        hs, cs, gates = [h], [c], []
        for one in x.unbind(1):
            i, f, g, o = _gates(one, hs[-1], *weights)
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
        dx, *of_weights = gradients(torch.stack(found[::-1]), x.transpose(0, 1), hs, w_x)
        return dx.transpose(0, 1), dh.to(hs.dtype), dc, *of_weights


def gradients(
    d: Float[Tensor, "N B M4"], x: Float[Tensor, "N B M"], hs: Float[Tensor, "N B M"], w_x: Float[Tensor, "M4 M"]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the inputs x and of the four weights, from d, those of the gates' inputs, and the h before each."""
    rows = d.flatten(0, 1)
    bias = rows.sum(0)
    of_x, of_h = (rows.T @ given.flatten(0, 1).to(d.dtype) for given in (x, hs))
    return (d @ w_x).to(x.dtype), of_x, of_h, bias, bias
