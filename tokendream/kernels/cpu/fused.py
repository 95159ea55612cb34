"""nn's layers with fused ops, as subclasses: the same parameters, names and arithmetic, in fewer passes over memory.

On a CPU most of a plain step goes into reading and writing memory between two matrix products. Here, what follows a
product is one pass, in float32 and rounded once; on processors with AMX whole halves of a layer are one call. A call
that does not fit goes to the plain layer. Dropout draws a seed from torch's default generator instead of a mask.
"""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from tokendream.kernels.chunkwise import WrittenRetNet, chunkwise
from tokendream.kernels.cpu import images, layers, tiles
from tokendream.kernels.cpu.call import STORED
from tokendream.kernels.frozen import RoundedConv
from tokendream.nn.conv import NormSwish
from tokendream.nn.lpips import LPIPS, FrozenConv
from tokendream.nn.lstm import LSTM
from tokendream.nn.retnet import Form, RetNet, RetNetLayer
from tokendream.nn.rotary import Rotary
from tokendream.nn.sampling import Sampler
from tokendream.nn.transformer import TransformerLayer


def _fits(x: Tensor, *weights: Tensor) -> bool:
    """Whether the ops take it: on a CPU, stored in bf16 or float32, weights in float32."""
    return x.device.type == "cpu" and x.dtype in STORED and all(w.dtype is torch.float32 for w in weights)


def _fits_tiles(x: Tensor, *widths: int) -> bool:
    """Whether `tiles` takes what `_fits`: in bf16, rows of whole tiles."""
    return x.dtype is torch.bfloat16 and all(width % 32 == 0 for width in widths) and tiles.available()


def _p(drop: nn.Dropout) -> float:
    return drop.p if drop.training else 0.0


class PlanarRotary(Rotary):
    """Rotary tables as the ops read them, too: real and imaginary parts side by side, made once for all layers."""

    @cached_property
    def planes(self) -> tuple[Float[Tensor, "N H L 2 e"], Float[Tensor, "N H L 2 e"]]:
        """Of q and of k."""
        q, k = (torch.stack((table.real, table.imag), dim=-2) for table in self)
        return q, k


class FusedRetNet(WrittenRetNet):
    """RetNet whose layers share their tables' planes."""

    def rotary(self, position: Int64[Tensor, "N L"], dtype: torch.dtype, *, scale_decay: bool = False) -> PlanarRotary:
        return PlanarRotary(*super().rotary(position, dtype, scale_decay=scale_decay))


class FusedRetNetLayer(RetNetLayer):
    """A layer of two products and what follows them; POP's retention without gradient and dropout is one call."""

    def retain(self, x: Float[Tensor, "G L D"], rotary: Rotary, form: Form) -> tuple[Float[Tensor, "G L D"], Any]:
        """Norm; the product's bias, heads and rotation; the form; norm and gate."""
        if not (_fits(x, self.qkvg.weight) and rotary.q.dtype is torch.complex64):
            return super().retain(x, rotary, form)
        planes = (rotary if isinstance(rotary, PlanarRotary) else PlanarRotary(*rotary)).planes
        p, weight = _p(self.drop), self.qkvg.weight
        if isinstance(form, partial) and form.func is chunkwise and self._one_call(x, p, form.keywords["S"]):
            return tiles.pop(x, self.norm_retention, self.qkvg, planes, **form.keywords)
        q, k, v, gate = layers.split_heads(F.linear(self.norm_retention(x), weight), self.qkvg.bias, *planes)
        y, S = form(q, k, v)
        return layers.gated_norm(y, gate, p), S

    def _one_call(self, x: Tensor, p: float, S: Tensor) -> bool:
        return p == 0 and not torch.is_grad_enabled() and _fits_tiles(x, S.shape[-1]) and S.dtype is torch.float32

    def ffn(self, x: Float[Tensor, "G L D"], y: Float[Tensor, "G L D"]) -> Float[Tensor, "G L D"]:
        """One call with AMX; else residual, dropout and norm; swish; residual and dropout."""
        if not _fits(x, self.out.weight):
            return super().ffn(x, y)
        p = _p(self.drop)
        if y.dtype is x.dtype and _fits_tiles(x, *self.ffn_in.weight.shape):
            parts = (self.out, self.norm_ffn, self.ffn_in, self.ffn_out)
            weights = [w for part in parts for w in (part.weight, part.bias)]
            if p == 0 and not torch.is_grad_enabled():
                return tiles.ffn_alone(x, y, *weights)
            return tiles.ffn(x, y, p, *weights)
        x, normed = _add_norm(x, y, self.out, self.norm_ffn, p)
        return _add(x, _swish(normed, self.ffn_in, p), self.ffn_out, p)


class FusedTransformerLayer(TransformerLayer):
    """Residuals, dropout and norm beside the products; attention is PyTorch's."""

    def ffn(self, x: Float[Tensor, "B Q D"], y: Float[Tensor, "B Q D"]) -> Float[Tensor, "B Q D"]:
        """Residual, dropout and norm; GELU; residual and dropout."""
        if not _fits(x, self.out.weight):
            return super().ffn(x, y)
        p = _p(self.drop)
        x, normed = _add_norm(x, y, self.out, self.norm_ffn, p)
        return _add(x, self.drop(F.gelu(self.ffn_in(normed))), self.ffn_out, p)


def _add_norm(x: Tensor, y: Tensor, linear: nn.Linear, norm: nn.LayerNorm, p: float) -> tuple[Tensor, Tensor]:
    """s = x + drop(W y + b), and norm(s)."""
    return layers.add_norm(x, F.linear(y, linear.weight).to(x.dtype), linear.bias, norm.weight, norm.bias, p)


def _add(x: Tensor, y: Tensor, linear: nn.Linear, p: float) -> Tensor:
    """x + drop(W y + b)."""
    return layers.add_norm(x, F.linear(y, linear.weight).to(x.dtype), linear.bias, None, None, p)[0]


def _swish(x: Tensor, linear: nn.Linear, p: float) -> Tensor:
    """drop(s ∘ sigmoid(s)) for s = W x + b."""
    return layers.swish(F.linear(x, linear.weight), linear.bias, p)


class FusedLayerNorm(nn.LayerNorm):
    """A norm over one axis, stored as x is."""

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        if _fits(x, self.weight) and self.eps == layers.EPS:
            return layers.norm(x, self.weight, self.bias)
        return super().forward(x)


class FusedNormSwish(NormSwish):
    """Norm and swish."""

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        if _fits(x, self.weight):
            return images.norm_swish(x, self.weight, self.bias, self.num_groups)
        return super().forward(x)


class FusedLPIPS(LPIPS):
    """The distance of two taps."""

    def unit_distance(
        self, a: Float[Tensor, "B C H W"], b: Float[Tensor, "B C H W"], weight: Float[Tensor, " C"]
    ) -> Float[Tensor, " B"]:
        """With a gradient for b alone."""
        if _fits(a) and b.dtype is a.dtype and not a.requires_grad:
            return images.distance(a, b, weight)
        return super().unit_distance(a, b, weight)


class FusedLSTM(LSTM):
    """Gates and memory of a step beside its two products."""

    def step(
        self, x: Float[Tensor, "B M"], h: Float[Tensor, "B M"], c: Float[Tensor, "B M"]
    ) -> tuple[Float[Tensor, "B M"], Float[Tensor, "B M"]]:
        """Without a gradient."""
        if torch.is_grad_enabled() or not _fits(c, *self.weights):
            return super().step(x, h, c)
        w_x, w_h, b_x, b_h = self.weights
        return layers.lstm(F.linear(h, w_h, b_h), F.linear(x, w_x, b_x), c)

    def along(
        self, x: Float[Tensor, "B N M"], h: Float[Tensor, "B M"], c: Float[Tensor, "B M"]
    ) -> Float[Tensor, "B N M"]:
        """In bf16; in float32 PyTorch's is as fast."""
        if not (torch.is_autocast_enabled("cpu") and _fits(c, *self.weights)):
            return super().along(x, h, c)
        dtype = torch.get_autocast_dtype("cpu")
        return layers.lstm_along(x.to(dtype), h, c, *self.weights_in(dtype))


class FusedSampler(Sampler):
    """Softmax, sums and search."""

    def invert(
        self, logits: Float[Tensor, "*B V"], u: Float[Tensor, "*B 1"], temperature: float
    ) -> Int64[Tensor, "*B"]:
        """Without a gradient."""
        if _fits(logits) and not logits.requires_grad:
            return layers.sample(logits, u, temperature)
        return super().invert(logits, u, temperature)


FUSED: dict[type[nn.Module], type[nn.Module]] = {
    RetNet: FusedRetNet,
    RetNetLayer: FusedRetNetLayer,
    TransformerLayer: FusedTransformerLayer,
    nn.LayerNorm: FusedLayerNorm,
    NormSwish: FusedNormSwish,
    LPIPS: FusedLPIPS,
    LSTM: FusedLSTM,
    FrozenConv: RoundedConv,
    Sampler: FusedSampler,
}
"""Which layer takes which one's place."""
