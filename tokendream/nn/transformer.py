"""A causal Transformer with the interface of RetNet: keys and values are kept, and POP sees the past through them.

It stands where RetNet stands, with the same depth, width, heads and rotation of positions, to answer what RetNet
gives. An imagined step costs more the longer the dream: each new token attends to every one before it.
Source: IRIS (arXiv 2209.00588) for a Transformer as world model, rotary positions (arXiv 2104.09864).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Complex, Float, Int64
from torch import Tensor, nn

from tokendream.nn.backbone import Backbone, Layer
from tokendream.nn.rotary import rotate

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(q, k, v), each `B H L d`, to the attention's output, `B H Q d`; q may be some of the tokens alone."""


class Cache:
    """Keys (rotated) and values of every layer, with room behind them: tokens are appended and never changed.

    States share it. The one that ends where the cache ends is continued in place, any other on a copy, so that a
    state stays what it is whoever continues it. Copying for every block instead took 1.1 times as long in a dream of
    16 x 9 steps at the paper's sizes, and 1.4 to 1.6 times in one of 128 x 9 (one core, bf16).
    """

    def __init__(self, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        self.keys, self.values = tuple(keys), tuple(values)
        self.filled: int | None = None  # not to be continued in place

    def continues(self, length: int, needed: int, dtype: torch.dtype) -> bool:
        """Whether a state of `length` tokens may write here up to `needed`."""
        keys = self.keys[0]
        in_place = not torch.is_grad_enabled() and not keys.requires_grad and keys.dtype is dtype
        return in_place and self.filled == length and keys.shape[2] >= needed


@dataclass(frozen=True)
class TransformerState:
    """What a Transformer remembers of its past: keys and values of all tokens, so it grows with the history."""

    cache: Cache
    length: int
    """Number of tokens, and absolute position of the next one; what lies beyond in the cache is not this state's."""
    first: Int64[Tensor, " B"]
    """Position of the first token that each sequence remembers."""

    def keep(self, mask: Bool[Tensor, " B"]) -> TransformerState:
        return TransformerState(self.cache, self.length, self.first.where(mask, self.length))

    def take(self, rows: Int64[Tensor, " n"]) -> TransformerState:
        """The past of some of the sequences."""
        keys, values = ([x[rows] for x in xs] for xs in (self.cache.keys, self.cache.values))
        return TransformerState(Cache(keys, values), self.length, self.first[rows])


class TransformerLayer(Layer):
    """Pre-norm attention, then a feed-forward network.

        x += out(attention(x̂));    x += W2 GELU(W1 x̃)

    What attends to what is the caller's business: `attend` maps q, k, v to y. Dropout is where RetNet's layer has it.
    """

    f = staticmethod(F.gelu)
    bias: ClassVar[bool] = True
    """Whether q, k, v and the output projection have one."""

    def __init__(self, width: int, heads: int, ffn_factor: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width, bias=self.bias)
        self.add_ffn(self.qkv, ffn_factor, dropout)

    def forward(
        self, x: Float[Tensor, "B L D"], attend: Attend, wanted: Int64[Tensor, " Q"] | None = None
    ) -> Float[Tensor, "B Q D"]:
        """The layer's output at the tokens `wanted` (all by default); k and v are those of all tokens."""
        y = self.drop(attend(*self.split(self.norm_attention(x), wanted)))
        return self.ffn(x if wanted is None else x[:, wanted], y.transpose(1, 2).flatten(2))

    def split(
        self, x: Float[Tensor, "B L D"], wanted: Int64[Tensor, " Q"] | None
    ) -> tuple[Float[Tensor, "B H _ d"], ...]:
        """q, k and v of x; q of the tokens `wanted` alone."""
        if wanted is None:
            return self._heads(self.qkv(x))
        D, weight = x.shape[2], self.qkv.weight
        of_q, of_kv = (None, None) if self.qkv.bias is None else self.qkv.bias.split((D, 2 * D))
        return *self._heads(F.linear(x[:, wanted], weight[:D], of_q)), *self._heads(F.linear(x, weight[D:], of_kv))

    def _heads(self, x: Float[Tensor, "B L M"]) -> tuple[Float[Tensor, "B H L d"], ...]:
        """Split M features, a multiple of the width D, into widths and heads."""
        return x.unflatten(2, (-1, self.heads, self.out.in_features // self.heads)).permute(2, 0, 3, 1, 4).unbind(0)


class Transformer(Backbone):
    """N causal layers, run over whole sequences, single tokens, or blocks with POP: one computation."""

    layer = TransformerLayer

    def initial_state(self, batch: int) -> TransformerState:
        weight: Tensor = self.layers[0].out.weight  # type: ignore[union-attr,assignment]
        empty = [weight.new_zeros(batch, self.heads, 0, self.head_width)] * len(self.layers)
        return TransformerState(Cache(empty, empty), 0, torch.zeros(batch, dtype=torch.int64, device=weight.device))

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """A whole sequence from an empty past."""
        return self.absorb(x[:, None], self.initial_state(len(x)))[0][:, 0]

    def pop(
        self,
        x: Float[Tensor, "B T K1 D"],
        u: Float[Tensor, "*S K D"],
        state: TransformerState,
        predict: slice = slice(None),
        tail: int | None = None,
    ) -> tuple[Float[Tensor, "B T Q D"], Float[Tensor, "B P K D"], TransformerState]:
        """Absorb T blocks and predict the frame after each of them, in one call; see `Backbone.pop`.

        Each prediction token sees the past, the blocks up to the one before its frame, and the prediction tokens of
        its own frame up to itself. Its keys and values are not kept.
        """
        T, K1 = x.shape[1:3]
        P, K = len(range(T)[predict]), u.shape[-2]
        blocks = torch.arange(T, device=x.device)
        wanted = None
        if tail is not None:
            wanted = (blocks[:, None] * K1 + torch.arange(K1 - tail, K1, device=x.device)).flatten()
        start = state.length + (blocks[predict] + 1) * K1
        y, state = self._run(x.flatten(1, 2), u, start, state, wanted)
        y, y_next = y.split((y.shape[1] - P * K, P * K), dim=1)
        return y.unflatten(1, (T, -1)), y_next.unflatten(1, (P, K)), state

    def _run(
        self,
        x: Float[Tensor, "B L D"],
        u: Float[Tensor, "*S K D"],
        start: Int64[Tensor, " P"],
        state: TransformerState,
        wanted: Int64[Tensor, " R"] | None = None,
    ) -> tuple[Float[Tensor, "B Q D"], TransformerState]:
        """Outputs at those of the L tokens that are `wanted`, then at P times u, beginning at the positions `start`.

        Keys lie in the order past, x, u: those of x begin at C, those of u at C + L.
        """
        B, L, D = x.shape
        C, K, P = state.length, u.shape[-2], len(start)
        own, ahead = (torch.arange(n, device=x.device) for n in (L, P * K))
        frame = ahead // max(K, 1)
        begins = start.repeat_interleave(K, output_size=P * K)  # what a prediction token sees of the past ends here
        among = (frame[:, None] == frame) & (ahead[:, None] >= ahead)
        precision = torch.promote_types(x.dtype, torch.float32).to_complex()
        table = self.rotation(torch.cat((C + own, begins + ahead - frame * K))).to(precision)
        past = _past(begins, C + L, state)
        mask_ahead = _mask(torch.cat((past, among.expand(len(past), -1, -1)), dim=2), x.dtype)
        # Without a past it is the plain causal triangle, half of which attention skips (a third of its time).
        mask = _mask(_past(C + own + 1, C + L, state), x.dtype) if C else None
        queries = [_Queries(table, mask, None)] * len(self.layers)
        if wanted is not None:
            index = torch.cat((wanted, L + ahead))
            queries[-1] = _Queries(table[index], _mask(_past(C + wanted + 1, C + L, state), x.dtype), index)

        tokens = torch.cat((x, u.to(x.dtype).expand(B, P, K, D).flatten(1, 2)), dim=1)
        in_place = state.cache.continues(C, C + L + P * K, tokens.dtype)
        kept: list[tuple[Tensor, Tensor]] = []
        for layer, asking, *cached in zip(self.layers, queries, state.cache.keys, state.cache.values, strict=True):

            def attend(
                q: Tensor, k: Tensor, v: Tensor, asking: _Queries = asking, cached: list[Tensor] = cached
            ) -> Tensor:
                k, v = (_join(c, new, C, in_place) for c, new in zip(cached, (rotate(k, table), v), strict=True))
                kept.append((k, v))
                k, v = k[:, :, : C + L + P * K], v[:, :, : C + L + P * K]
                q, q_ahead = rotate(q, asking.table).split((q.shape[2] - P * K, P * K), dim=2)
                y = _attention(q, k[:, :, : C + L], v[:, :, : C + L], asking.mask)
                return torch.cat((y, _attention(q_ahead, k, v, mask_ahead)), dim=2) if P * K else y

            tokens = layer(tokens, attend, asking.index)
        cache = state.cache if in_place else Cache([k for k, _ in kept], [v for _, v in kept])
        cache.filled = C + L  # from here on; the keys of u are overwritten by whatever comes next
        return tokens, TransformerState(cache, C + L, state.first)


@dataclass(frozen=True)
class _Queries:
    """The tokens that a layer is asked about."""

    table: Complex[Tensor, "Q e"]
    """Their rotations."""
    mask: Float[Tensor, "b 1 R C"] | None
    """What those among x see of past and x."""
    index: Int64[Tensor, " Q"] | None
    """Which of all tokens they are; None for all."""


def _past(end: Int64[Tensor, " Q"], length: int, state: TransformerState) -> Bool[Tensor, "b Q {length}"]:
    """Which of the first `length` tokens are seen by queries whose past ends before the positions `end`.

    The same for every sequence (b = 1) where the state is empty, else b = B.
    """
    position = torch.arange(length, device=end.device)
    seen = (position < end[:, None])[None]
    return seen & (position >= state.first[:, None, None]) if state.length else seen


def _mask(seen: Bool[Tensor, "b Q L"], dtype: torch.dtype) -> Float[Tensor, "b 1 Q L"]:
    """What is added to the scores; made once for all layers, as a mask of bool costs attention twice its time."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -math.inf)[:, None]


def _attention(
    q: Float[Tensor, "B H Q d"],
    k: Float[Tensor, "B H L d"],
    v: Float[Tensor, "B H L d"],
    mask: Float[Tensor, "b 1 Q L"] | None,
) -> Float[Tensor, "B H Q d"]:
    """softmax(q kᵀ / √d + mask) v; causal where there is no mask."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)


def _join(
    cached: Float[Tensor, "B H C d"], new: Float[Tensor, "B H L d"], length: int, in_place: bool
) -> Float[Tensor, "B H M d"]:
    """The first `length` tokens of a cache and new ones behind them: in it, or in a copy with as much room again."""
    if in_place:
        cached[:, :, length : length + new.shape[2]] = new
        return cached
    if length == 0:
        return new
    B, H, L, d = new.shape
    room = new.new_empty(B, H, 0 if torch.is_grad_enabled() else length + L, d)
    return torch.cat((cached[:, :, :length].to(new.dtype), new, room), dim=2)
