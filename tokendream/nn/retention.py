"""Retention as its definition: decays, its parallel and its recurrent form, and what scales a chunk.

Per head with decay γ, `S_n = γ S_{n-1} + k_n v_nᵀ` and `y_n = q_nᵀ S_n`. Throughout, q and k are already rotated
and k is already scaled by d^(-1/2). Nothing here knows layers or parameters; POP's form is `retnet.chunkwise`.
Source: Retentive Network (arXiv 2307.08621), section 2; decays as in REM (arXiv 2402.05643).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


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
    1.03^L: 8 in a block of 65 tokens, 3,500 in one of 257, 4e10 at the bound of 768, all within the range of bf16.
    """
    assert length <= 768, f"a chunk has at most 768 tokens, not {length}: split it, the state carries over"
    n = torch.arange(1, length + 1, device=gamma.device, dtype=torch.float64)
    decay = gamma.double()[:, None] ** n
    return decay, 1 / decay
