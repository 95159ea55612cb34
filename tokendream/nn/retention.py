"""Retention as pure functions: decay, its parallel and its recurrent form, and the form of POP, by chunks.

Per head with decay γ, `S_n = γ S_{n-1} + k_n v_nᵀ` and `y_n = q_nᵀ S_n`. Throughout, q and k are already rotated
and k is already scaled by d^(-1/2). Nothing here knows layers or parameters.
Source: Retentive Network (arXiv 2307.08621), section 2; decays as in REM (arXiv 2402.05643).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def decay_rates(n_heads: int) -> Float[Tensor, " H"]:
    """γ of every head, in float64: 1 - exp(linspace(log 1/32, log 1/512, H)).

    .9688 .9876 .9951 .9980 for H = 4. bf16 would round three of the four to 1.
    """
    return 1 - torch.linspace(math.log(1 / 32), math.log(1 / 512), n_heads, dtype=torch.float64).exp()


def window_rates(n_heads: int, block: int, shortest: float, longest: float) -> Float[Tensor, " H"]:
    """γ of every head, in float64: 1 - 1/(w L), with windows w of `shortest` to `longest` blocks of L tokens.

    They are log-spaced over the heads. `shortest` is at least 1, so that γ^(-L) is at most 4, whatever L >= 2 is.
    Source: Simulus (arXiv 2502.11537), 4 to 16 blocks on Atari.
    """
    windows = torch.linspace(math.log(shortest), math.log(longest), n_heads, dtype=torch.float64).exp()
    return 1 - 1 / (windows * block)


def parallel(
    q: Float[Tensor, "B H L d"], k: Float[Tensor, "B H L d"], v: Float[Tensor, "B H L d"], gamma: Float[Tensor, " H"]
) -> Float[Tensor, "B H L d"]:
    """The parallel form from an empty state: (Q Kᵀ ∘ Γ) V with Γ_nm = γ^(n-m) for n >= m, else 0."""
    n = torch.arange(q.shape[2], device=q.device)
    lag = (n[:, None] - n).clamp(min=0)
    decay = (gamma[:, None, None] ** lag).tril()
    return ((q @ k.mT) * decay.to(q.dtype)) @ v


def recurrent(
    q: Float[Tensor, "B H L d"],
    k: Float[Tensor, "B H L d"],
    v: Float[Tensor, "B H L d"],
    gamma: Float[Tensor, " H"],
    S: Float[Tensor, "B H d d"],
) -> tuple[Float[Tensor, "B H L d"], Float[Tensor, "B H d d"]]:
    """The recurrent form, token by token from state S: the definition itself, which tests hold the others to."""
    y = []
    g = gamma.to(S.dtype)[:, None, None]
    for n in range(q.shape[2]):
        S = torch.addcmul(g * S, k[:, :, n, :, None].to(S.dtype), v[:, :, n, None, :].to(S.dtype))
        y.append((q[:, :, n, None, :].to(S.dtype) @ S).squeeze(2))
    return torch.stack(y, dim=2).to(q.dtype), S


def decay_scaling(gamma: Float[Tensor, " H"], length: int) -> tuple[Float[Tensor, "H L"], Float[Tensor, "H L"]]:
    """Factors γ^n for the queries and γ^(-n) for the keys of a chunk of L tokens, n = 1..L, in float64.

    With q and k scaled by them, neither the decay between two tokens of the chunk, γ^(n-m) = γ^n γ^(-m), nor that
    since the entering state, γ^n, costs a pass over the scores or the states. Of `decay_rates` the largest factor is
    1.03^L: 8 in a block of 65 tokens, 3,500 in one of 257, 4e10 at the bound of 768, all within the range of bf16;
    beyond, ValueError.
    """
    if length > 768:
        raise ValueError(f"a chunk has at most 768 tokens, not {length}: split it, the state carries over")
    n = torch.arange(1, length + 1, device=gamma.device, dtype=torch.float64)
    decay = gamma.double()[:, None] ** n
    return decay, 1 / decay


def pop(
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
    state after its block, and what it adds to that is dropped. q̃ and k̃ are scaled by `decay_scaling` within their
    blocks. Sums of states run in S's precision (float32 under autocast): in bf16 the slowest head's decay rounds to 1.
    """
    first, last, _ = predict.indices(blocks)
    return _Pop.apply(q, k, v, gamma.double() ** q.shape[2], S, blocks, first, max(first, last))


class _Pop(torch.autograd.Function):
    """`pop` with its gradient written out: autograd would pad, copy and add up the parts of q, k and v one by one.

    That was a tenth of the world model's update on a CPU. `decay` is γ^L; predictions follow blocks first .. last - 1.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, S: Tensor, T: int, first: int, last: int
    ) -> tuple[Tensor, Tensor]:
        B, rate, states = len(S), decay.to(S.dtype)[:, None, None], [S]
        for added in (k[: T * B].mT @ v[: T * B]).unflatten(0, (T, B)):
            states.append(rate * (states[-1] + added))
        entering = torch.stack((*states[:T], *states[first + 1 : last + 1])).to(q.dtype).flatten(0, 1)
        scores = (q @ k.mT).tril_()  # in place: a tenth of tril's time
        y = q @ entering
        y.flatten(0, 1).baddbmm_(scores.flatten(0, 1), v.flatten(0, 1))
        ctx.save_for_backward(q, k, v, decay, scores, entering)
        ctx.plan, ctx.precision = (T, B, first, last), S.dtype
        return y, states[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_leaving: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, decay, scores, entering = ctx.saved_tensors
        T, B, first, last = ctx.plan
        grad_scores = (grad @ v.mT).tril_()
        grad_q = grad @ entering.mT
        grad_q.flatten(0, 1).baddbmm_(grad_scores.flatten(0, 1), k.flatten(0, 1))
        grad_k, grad_v = grad_scores.mT @ q, scores.mT @ grad

        # Block t entered with the state after block t-1, predictions with those after their blocks.
        grad_entering = (q.mT @ grad).to(ctx.precision).unflatten(0, (-1, B))
        of_after = torch.cat((grad_entering[1:T], grad_leaving.to(ctx.precision)[None]))
        of_after[first:last] += grad_entering[T:]
        rate = decay.to(ctx.precision)[:, None, None]
        for t in reversed(range(T)):  # now the gradients of what was added
            of_after[t] *= rate
            if t > 0:
                of_after[t - 1] += of_after[t]
        added = of_after.to(q.dtype).flatten(0, 2)
        for grad_part, other, state in ((grad_k, v, added.mT), (grad_v, k, added)):
            grad_part[: T * B].flatten(0, 1).baddbmm_(other[: T * B].flatten(0, 1), state)
        return grad_q, grad_k, grad_v, None, grad_entering[0] + of_after[0], None, None, None
