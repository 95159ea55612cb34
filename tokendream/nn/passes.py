"""Matrix products and what follows them: between two of its products a layer does cheap arithmetic that is not cheap.

On a CPU most of a plain step goes into reading and writing memory for it. There, where a C++ compiler is at hand, what
follows a product is one pass over memory (see `kernels`), in float32 and rounded once; the lines of PyTorch here are
what runs everywhere else, and what the kernels are tested against. A GPU has the same trouble: there torch.compile can
make the passes of these lines (see `compiled`). `p` is dropout's probability, 0 outside of training.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from tokendream.kernels.cpu import build, images, layers, tiles
from tokendream.kernels.cpu.call import STORED
from tokendream.nn import retention
from tokendream.nn.dropout import dropout
from tokendream.nn.retention import Turns

P = ParamSpec("P")
R = TypeVar("R")

_wanted: bool | None = None
_compiling = False
_compiles = True
"""Whether torch.compile may be used: not in `plain`, nor once it has failed."""


@contextlib.contextmanager
def kernels(wanted: bool) -> Iterator[None]:
    """Within this context CPUs compute with the kernels, where these can be had; or they do not.

    Off stays off in contexts within, so that whoever counts or compares can forbid what an agent allows itself.
    """
    global _wanted
    before, _wanted = _wanted, wanted and _wanted is not False
    try:
        yield
    finally:
        _wanted = before


@contextlib.contextmanager
def compiled() -> Iterator[None]:
    """Within this context torch.compile makes the passes, of the plain lines and at their first use; no kernels."""
    global _compiling
    before, _compiling = _compiling, True
    try:
        with kernels(False):
            yield
    finally:
        _compiling = before


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Within this context PyTorch's operators alone compute, whatever contexts within it ask for."""
    global _compiles
    before, _compiles = _compiles, False
    try:
        with kernels(False):
            yield
    finally:
        _compiles = before


def _compilable(run: Callable[P, R]) -> Callable[P, R]:
    """A pass as it is, or within `compiled` as torch.compile makes it. One within another is part of that one.

    Where torch.compile fails, for want of a compiler, say, all passes stay as they are after one warning.
    """
    made: list[Callable[P, R]] = []

    @functools.wraps(run)
    def chosen(*args: P.args, **kwargs: P.kwargs) -> R:
        global _compiles
        if not (_compiling and _compiles) or torch.compiler.is_compiling():
            return run(*args, **kwargs)
        if not made:
            # Shapes are those of a phase, and few: each gets passes of its own.
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
            made.append(torch.compile(run, dynamic=False))
        try:
            return made[0](*args, **kwargs)
        except torch._dynamo.exc.TorchDynamoException as error:
            _compiles = False
            warnings.warn(f"going on without torch.compile: {error}".split("\n")[0], RuntimeWarning, stacklevel=2)
            return run(*args, **kwargs)

    return chosen


def normed(x: Float[Tensor, "*B D"], norm: nn.LayerNorm) -> Float[Tensor, "*B D"]:
    """norm(x), stored as x is."""
    if _fused(x) and norm.weight.dtype is torch.float32:
        return layers.Norm.apply(x, norm.weight, norm.bias)
    return norm(x)


def split_heads(
    x: Float[Tensor, "G L D"],
    linear: nn.Linear,
    q_turns: Turns,
    k_turns: Turns,
) -> tuple[Float[Tensor, "G H L d"], Float[Tensor, "G H L d"], Float[Tensor, "G H L d"], Float[Tensor, "G L D"]]:
    """Queries, keys, values and gate, by one product; q and k turned, G/N rows alike each."""
    if _fused(x, linear) and q_turns.planes.dtype is torch.float32:
        tiled = torch.is_grad_enabled() and _tiled(x, linear, *linear.weight.shape)
        raw = tiles.Product.apply(x, linear.weight) if tiled else F.linear(x, linear.weight)
        return layers.SplitHeads.apply(raw, linear.bias, q_turns.planes, k_turns.planes)
    *parts, gate = linear(x).chunk(4, dim=-1)
    q, k, v = (part.unflatten(2, (q_turns.pairs.shape[1], -1)).transpose(1, 2) for part in parts)
    return _turn(q, q_turns), _turn(k, k_turns), v, gate


@_compilable
def project(
    x: Float[Tensor, "G L D"], norm: nn.LayerNorm, linear: nn.Linear, *turns: Turns
) -> tuple[Float[Tensor, "G H L d"], Float[Tensor, "G H L d"], Float[Tensor, "G H L d"], Float[Tensor, "G L D"]]:
    """`split_heads` of norm(x)."""
    return split_heads(normed(x, norm), linear, *turns)


@_compilable
def gated_norm(y: Float[Tensor, "G H L d"], gate: Float[Tensor, "G L D"], p: float) -> Float[Tensor, "G L D"]:
    """swish(gate) ∘ drop(GroupNorm_H(y)): a group per head, without affine."""
    if _fused(gate) and y.dtype is gate.dtype:
        return layers.GatedNorm.apply(y, gate, p)
    y = dropout(F.layer_norm(y, y.shape[-1:], eps=1e-6), p)
    return F.silu(gate) * y.transpose(1, 2).flatten(2)


def pop(
    x: Float[Tensor, "G L D"],
    norm: nn.LayerNorm,
    linear: nn.Linear,
    turns: tuple[Turns, Turns],
    gamma: Float[Tensor, " H"],
    S: Float[Tensor, "B H d d"],
    blocks: int,
    predict: slice,
    p: float,
) -> tuple[Float[Tensor, "G L D"], Float[Tensor, "B H d d"]]:
    """`project`, `retention.pop`, `gated_norm`; also the state after the last block.

    Without gradient and dropout, in bf16, and on a processor with AMX this is one pass.
    """
    if (
        p == 0
        and not torch.is_grad_enabled()
        and _tiled(x, linear, S.shape[-1])
        and S.dtype is torch.float32
        and turns[0].planes.dtype is torch.float32
    ):
        decay, first = gamma ** x.shape[1], range(blocks)[predict].start
        return tiles.pop(x, norm, linear, turns, decay, S, blocks, first)
    q, k, v, gate = project(x, norm, linear, *turns)
    y, leaving = retention.pop(q, k, v, gamma, S, blocks, predict)
    return gated_norm(y, gate, p), leaving


@_compilable
def feed(
    x: Float[Tensor, "*B D"],
    y: Float[Tensor, "*B D"],
    out: nn.Linear,
    norm: nn.LayerNorm,
    wide: nn.Linear,
    back: nn.Linear,
    p: float,
) -> Float[Tensor, "*B D"]:
    """s + drop(back(drop(swish(wide(norm(s)))))) for s = x + drop(out(y)); in one pass, with AMX."""
    if y.dtype is x.dtype and _tiled(x, out, *wide.weight.shape):
        weights = [w for layer in (out, norm, wide, back) for w in (layer.weight, layer.bias)]
        if p == 0 and not torch.is_grad_enabled():
            return tiles.feed(x, y, *weights)
        return tiles.Feed.apply(x, y, p, *weights)
    total, normed = add_norm(x, y, out, norm, p)
    return add(total, swish(normed, wide, p), back, p)


def invert(logits: Float[Tensor, "*B V"], u: Float[Tensor, "*B 1"], temperature: float = 1.0) -> Int64[Tensor, "*B"]:
    """The first v up to which more than u of softmax(logits / temperature) lies: for uniform u, one draw per row."""
    if _fused(logits) and not logits.requires_grad:
        return layers.sample(logits, u, temperature)
    cumulative = (logits.float() / temperature).softmax(-1).cumsum(-1)
    # u < 1 times the sum may round up to it: the clamp keeps the draw in range.
    drawn = torch.searchsorted(cumulative, u * cumulative[..., -1:], right=True)
    return drawn.squeeze(-1).clamp(max=logits.shape[-1] - 1)


@_compilable
def add_norm(
    x: Float[Tensor, "*B D"], y: Float[Tensor, "*B M"], linear: nn.Linear, norm: nn.LayerNorm, p: float
) -> tuple[Float[Tensor, "*B D"], Float[Tensor, "*B D"]]:
    """s = x + drop(W y + b), and norm(s)."""
    if _fused(x, linear):
        return layers.AddNorm.apply(x, F.linear(y, linear.weight).to(x.dtype), linear.bias, norm.weight, norm.bias, p)
    total = x + dropout(linear(y), p)
    return total, norm(total)


@_compilable
def add(x: Float[Tensor, "*B D"], y: Float[Tensor, "*B M"], linear: nn.Linear, p: float) -> Float[Tensor, "*B D"]:
    """x + drop(W y + b)."""
    if _fused(x, linear):
        return layers.Add.apply(x, F.linear(y, linear.weight).to(x.dtype), linear.bias, p)
    return x + dropout(linear(y), p)


@_compilable
def swish(x: Float[Tensor, "*B D"], linear: nn.Linear, p: float) -> Float[Tensor, "*B M"]:
    """drop(s ∘ sigmoid(s)) for s = W x + b."""
    if _fused(x, linear):
        raw = F.linear(x, linear.weight)
        if p == 0 and not torch.is_grad_enabled():
            return layers.swish_(raw, linear.bias)
        return layers.Swish.apply(raw, linear.bias, p)
    return dropout(F.silu(linear(x)), p)


@_compilable
def norm_swish(
    x: Float[Tensor, "B C H W"], norm: nn.GroupNorm, *, times: int = 1, edge: int = 0
) -> Float[Tensor, "B C H2 W2"]:
    """s ∘ sigmoid(s) for s = norm(x); each pixel `times` x `times` times, `edge` rows and columns of zeros behind."""
    if _fused(x) and norm.weight.dtype is torch.float32:
        return images.NormSwish.apply(x, norm.weight, norm.bias, norm.num_groups, times, edge)
    y = F.silu(norm(x)).to(x.dtype)  # autocast norms in float32
    if y.device.type == "cuda":  # where the norm has left channels last, which the convolutions want
        y = y.contiguous(memory_format=torch.channels_last)
    y = F.interpolate(y, scale_factor=times, mode="nearest") if times > 1 else y
    return F.pad(y, (0, edge, 0, edge)) if edge else y


@_compilable
def unit_distance(
    a: Float[Tensor, "B C H W"], b: Float[Tensor, "B C H W"], weight: Float[Tensor, " C"]
) -> Float[Tensor, " B"]:
    """Mean over pixels of Σ_c w_c (a_c / |a| - b_c / |b|)², in float32 or better.

    ε is 1e-20 inside the roots of the norms: outside of them, a pixel whose channels are all zero (a black area behind
    dead relus) has the gradient 0/0, which only the mask of that relu happens to hide. A product and a sum, not a 1x1
    convolution or einsum: autocast would turn those into bf16.
    """
    if _fused(a) and b.dtype is a.dtype and not a.requires_grad:
        return images.Distance.apply(a, b, weight)
    unit_a, unit_b = (
        x * (x.square().sum(1, keepdim=True) + 1e-20).rsqrt()
        for x in (f.to(torch.promote_types(f.dtype, torch.float32)) for f in (a, b))
    )
    return ((unit_a - unit_b) ** 2 * weight.view(-1, 1, 1)).sum(1).mean((1, 2))


def _fused(x: Tensor, linear: nn.Linear | None = None) -> bool:
    """Whether the kernels take it: on a CPU, stored in bf16 or float32, weights in float32."""
    return (
        _wanted is True
        and x.device.type == "cpu"
        and x.dtype in STORED
        and (linear is None or linear.weight.dtype is torch.float32)
        and build.library() is not None
    )


def _tiled(x: Tensor, linear: nn.Linear, *widths: int) -> bool:
    """Whether `kernels.tiles` takes it: in bf16, rows of whole tiles."""
    return (
        _fused(x, linear)
        and x.dtype is torch.bfloat16
        and all(width % 32 == 0 for width in widths)
        and tiles.available()
    )


def _turn(x: Float[Tensor, "G H L d"], turns: Turns) -> Float[Tensor, "G H L d"]:
    T = len(turns.pairs)
    split = x.unflatten(0, (T, len(x) // max(T, 1)))
    if torch.compiler.is_compiling():  # it makes no passes of complex numbers
        return retention.rotate_planes(split, turns.planes[:, None]).flatten(0, 1)
    return retention.rotate(split, turns.pairs[:, None]).flatten(0, 1)
