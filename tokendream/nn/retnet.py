"""RetNet, and POP: predicting all K tokens of every next frame in one call.

The layers and their parameters live here, and the paper's `pop`; `backbone` says what another network must offer to
stand in its place, and has what all layers share. What the tokens mean is not known here.
Source: Retentive Network (arXiv 2307.08621) for the layer, REM (arXiv 2402.05643), section 3.2, for POP.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from tokendream.nn import retention
from tokendream.nn.backbone import Backbone, Layer
from tokendream.nn.rotary import Rotary, rotate_blocks

Form = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Any]]
"""One of retention's forms with the state it enters with: (q, k, v), each `G H L d`, to outputs and the state after."""


@dataclass(frozen=True)
class RetNetState:
    """What a RetNet remembers of its past: a fixed size, whatever the length of the history."""

    S: Float[Tensor, "N B H d d"]
    """One matrix per layer and head, in float32 or better."""
    position: Int64[Tensor, ""]
    """Absolute position of the next token; a tensor, so that nothing recompiles as it grows."""

    def keep(self, mask: Bool[Tensor, " B"]) -> RetNetState:
        return RetNetState(self.S * mask[None, :, None, None, None], self.position)

    def take(self, rows: Int64[Tensor, " n"]) -> RetNetState:
        """The past of some of the sequences."""
        return RetNetState(self.S[:, rows], self.position)


def chunkwise(
    q: Float[Tensor, "G H L d"],
    k: Float[Tensor, "G H L d"],
    v: Float[Tensor, "G H L d"],
    gamma: Float[Tensor, " H"],
    S: Float[Tensor, "B H d d"],
    blocks: int,
    predict: slice,
) -> tuple[Float[Tensor, "G H L d"], Float[Tensor, "B H d d"]]:
    """Outputs of T blocks, then of the predictions after those that `predict` selects, and the state after the last.

        y_n = Σ_{m<=n} (q̃_n · k̃_m) v_m + q̃_nᵀ S_{t-1};    S_t = γ^L (S_{t-1} + Σ_m k̃_m v_mᵀ)

    Time first: G = (T + P) B. Block t enters with the state after the one before it; a prediction enters with the
    state after its block, and what it adds to that is dropped. q̃ and k̃ are scaled by `retention.decay_scaling` within
    their blocks. Sums of states run in S's precision (float32 under autocast): in bf16 the slowest head's decay rounds
    to 1.
    """
    B, decay, states = len(S), (gamma.double() ** q.shape[2]).to(S.dtype)[:, None, None], [S]
    for added in (k[: blocks * B].mT @ v[: blocks * B]).unflatten(0, (blocks, B)):
        states.append(decay * (states[-1] + added))
    entering = torch.cat((*states[:blocks], *states[1:][predict])).to(q.dtype)
    return (q @ k.mT).tril() @ v + q @ entering, states[-1]


class RetNetLayer(Layer):
    """Pre-norm gated multi-scale retention, then a feed-forward network.

        x += out(swish(gate(x̂)) ∘ GroupNorm_H(retention(x̂)));    x += W2 swish(W1 x̃)

    Which form of retention it is, and what state it enters with, is the caller's choice.
    """

    f = staticmethod(F.silu)

    def __init__(self, width: int, heads: int, ffn_factor: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_retention = nn.LayerNorm(width, eps=1e-6)
        self.qkvg = nn.Linear(width, 4 * width)
        self.add_ffn(self.qkvg, ffn_factor, dropout)

    def forward(self, x: Float[Tensor, "G L D"], rotary: Rotary, form: Form) -> tuple[Float[Tensor, "G L D"], Any]:
        """The layer's output, and the state after its last token."""
        y, S = self.retain(x, rotary, form)
        return self.ffn(x, y), S

    def retain(self, x: Float[Tensor, "G L D"], rotary: Rotary, form: Form) -> tuple[Float[Tensor, "G L D"], Any]:
        """swish(gate(x̂)) ∘ GroupNorm_H(retention(x̂)), with a group per head and without affine; and the state."""
        *parts, gate = self.qkvg(self.norm_retention(x)).chunk(4, dim=-1)
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        y, S = form(rotate_blocks(q, rotary.q), rotate_blocks(k, rotary.k), v)
        with torch.autocast(y.device.type, enabled=False):  # a GPU's would copy y to float32 and back
            y = F.layer_norm(self.drop(y), y.shape[-1:], eps=1e-6)
        return F.silu(gate) * y.transpose(1, 2).flatten(2), S


class RetNet(Backbone):
    """N retention layers with every way to run them: all at once, by tokens, by blocks, and POP.

    `forward`, `step`, `absorb` and `pop` are one computation over `RetNetLayer`; they differ in the form of retention.
    """

    layer = RetNetLayer
    chunkwise = staticmethod(chunkwise)
    """The form of POP, for a faster one to stand in its place."""

    gamma: Tensor

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        ffn_factor: int,
        dropout: float,
        *,
        places: Int64[Tensor, "K1 3"] | None = None,
        gamma: Float[Tensor, " H"] | None = None,
    ) -> None:
        """`gamma`: the decays in place of `retention.decay_rates`, in float64."""
        super().__init__(width, layers, heads, ffn_factor, dropout, places=places)
        self._rates = retention.decay_rates(heads) if gamma is None else gamma  # no buffer: stays float64
        self.register_buffer("gamma", self._rates, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RetNet:
        """Follow `.to(device)`, but keep the decays in float64 whatever `.to(dtype)` asks for."""
        before = self.gamma
        super()._apply(fn, recurse)
        if self.gamma is not before:  # else whatever reads it, such as a captured graph, may go on
            self.gamma = self._rates.to(self.gamma.device)
        return self

    @property
    def _stack(self) -> list[RetNetLayer]:
        return list(self.layers)  # type: ignore[arg-type]

    def initial_state(self, batch: int) -> RetNetState:
        weight = self._stack[0].qkvg.weight
        shape = (len(self.layers), batch, self.heads, self.head_width, self.head_width)
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return RetNetState(
            torch.zeros(shape, dtype=dtype, device=self.gamma.device),
            torch.zeros((), dtype=torch.int64, device=self.gamma.device),
        )

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """The parallel form over a whole sequence from an empty past."""
        rotary = self.rotary(torch.arange(x.shape[1], device=x.device)[None], x.dtype)
        for layer in self._stack:
            x, _ = layer(x, rotary, lambda q, k, v: (retention.parallel(q, k, v, self.gamma), None))
        return x

    def step(self, x: Float[Tensor, "B D"], state: RetNetState) -> tuple[Float[Tensor, "B D"], RetNetState]:
        """One token by the recurrent form."""
        x, states = x[:, None], []
        rotary = self.rotary(state.position.view(1, 1), x.dtype)
        for layer, S in zip(self._stack, state.S.unbind(0), strict=True):
            x, S = layer(x, rotary, partial(retention.recurrent, gamma=self.gamma, S=S))
            states.append(S)
        return x[:, 0], RetNetState(torch.stack(states), state.position + 1)

    def pop(
        self,
        x: Float[Tensor, "B T K1 D"],
        u: Float[Tensor, "*S K D"],
        state: RetNetState,
        predict: slice = slice(None),
        tail: int | None = None,
    ) -> tuple[Float[Tensor, "B T Q D"], Float[Tensor, "B P K D"], RetNetState]:
        """Absorb T blocks and predict the frame after each of them, in one call.

            block t   |z_1 .. z_K a|          enters with S_{t-1}, leaves S_t
            u         |u_1 .. u_K  |          enters with S_t, at the positions of block t+1; its state is dropped

        `y[:, t]` is what the model says about block t, `y_next[:, p]` the K tokens of the frame after the p-th
        block that `predict` selects (all by default; context blocks need no prediction), given everything up to and
        including that block. The prediction stream sees history through S alone, so all its chunks run as a batch,
        and together with the real blocks: u is padded to K1 tokens, whose last change nothing, being causal.
        Cost: (T + P) blocks of K1 tokens through every layer. In a dream T = 1. Whoever reads `y` at the last `tail`
        tokens of a block alone saves most of the real blocks' last layer.
        """
        B, T, K1, D = x.shape
        K = u.shape[-2]
        assert K1 > K, f"a block of {K1} tokens does not fit {K} prediction tokens"
        chosen = torch.arange(T, device=x.device)[predict]
        P = len(chosen)
        # Time first: then the two streams are two parts of memory, and no product needs a copy.
        prediction = F.pad(u, (0, 0, 0, K1 - K)).to(x.dtype).expand(B, P, K1, D)
        blocks = torch.cat((x.transpose(0, 1), prediction.transpose(0, 1))).flatten(0, 1)

        first = torch.cat((torch.arange(T, device=x.device), chosen + 1)) * K1 + state.position
        rotary = self.rotary(first[:, None] + torch.arange(K1, device=x.device), x.dtype, scale_decay=True)
        states = []
        for layer, S in zip(self._stack, state.S.unbind(0), strict=True):
            form = partial(self.chunkwise, gamma=self.gamma, S=S, blocks=T, predict=predict)
            y, S = layer.retain(blocks, rotary, form)
            states.append(S)
            if len(states) < len(self.layers):
                blocks = layer.ffn(blocks, y)
        # The streams part, as the caller may want less of the real one.
        (seen, predicted), (y, y_next) = (part.split((T * B, P * B)) for part in (blocks, y))
        last = -(tail or K1)
        y = layer.ffn(seen[:, last:], y[:, last:]).unflatten(0, (T, B)).transpose(0, 1)
        y_next = layer.ffn(predicted, y_next).unflatten(0, (P, B)).transpose(0, 1)
        return y, y_next[:, :, :K], RetNetState(torch.stack(states), state.position + T * K1)

    def rotary(self, position: Int64[Tensor, "N L"], dtype: torch.dtype, *, scale_decay: bool = False) -> Rotary:
        """The rotary tables at these positions, in single precision or better, with k's scale d^(-1/2) worked in.

        With `scale_decay` also `retention.decay_scaling` within each block of L tokens.
        """
        table = self.rotation(position)[:, None].expand(-1, self.heads, -1, -1)
        q, k = table, table * self.head_width**-0.5
        if scale_decay:
            decay, growth = retention.decay_scaling(self.gamma, position.shape[1])
            q, k = q * decay[:, :, None], k * growth[:, :, None]
        precision = torch.promote_types(dtype, torch.float32).to_complex()
        return Rotary(q.to(precision), k.to(precision))
