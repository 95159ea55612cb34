"""The form of POP with its gradient written out: autograd would pad, copy and add up the parts of q, k and v.

That was a tenth of the world model's update on a processor with AMX; with AVX2 alone it is 1% to 6%. On a GPU it was
not measured.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from tokendream.nn.retnet import RetNet


def chunkwise(
    q: Float[Tensor, "G H L d"],
    k: Float[Tensor, "G H L d"],
    v: Float[Tensor, "G H L d"],
    gamma: Float[Tensor, " H"],
    S: Float[Tensor, "B H d d"],
    blocks: int,
    predict: slice,
) -> tuple[Float[Tensor, "G H L d"], Float[Tensor, "B H d d"]]:
    """As `nn.retnet.chunkwise`."""
    first, last, _ = predict.indices(blocks)
    return _Chunkwise.apply(q, k, v, gamma.double() ** q.shape[2], S, blocks, first, max(first, last))


class _Chunkwise(torch.autograd.Function):
    """`decay` is γ^L; predictions follow blocks first .. last - 1."""

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


class WrittenRetNet(RetNet):
    """RetNet with that gradient."""

    chunkwise = staticmethod(chunkwise)
