"""Copy or sample: a dreamed token may be one of the frame before that has moved, instead of a new draw.

Which token goes where is an assignment problem, solved by an auction for whole batches, without waiting for a GPU.
Source: the problem and its prices are those of identifiable token correspondence (arXiv 2605.16457), which solves it
by entropic optimal transport; auctions: Bertsekas (1988), Annals of Operations Research 14.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from tokendream.nn.precision import raised

DISTANCE_PRICE, BONUS = 0.05, 0.01
"""What a unit of squared distance costs a token that moves, and what speaks for moving, as probabilities."""

EPSILON, ROUNDS = 1e-3, 16
"""Least raise of a bid, and rounds of an auction. On 64 dreams of 8 x 8 tokens made to be hard (4 to 60 different
tokens, distributions flat to sharp) all were over within 14 rounds, at 1.000 of the optimum's gain."""


class Correspondence(nn.Module):
    """Dreamed frames whose tokens are moved from the frame before, where that is likelier than what was drawn.

    Previous token u_i at slot j costs .05 times their squared distance, less p_j(u_i), less .01; slot j's own
    candidate c_j costs -p_j(c_j). Each slot gets one of them and each previous token goes to at most one slot, at
    the least total cost. `distance` is squared, and infinite where a token cannot go.
    """

    distance: Tensor

    def __init__(self, distance: Float[Tensor, "K K"]) -> None:
        super().__init__()
        self.register_buffer("distance", distance, persistent=False)

    @torch.no_grad()
    def forward(
        self,
        logits: Float[Tensor, "B K V"],
        before: Int64[Tensor, "B K"],
        drawn: Int64[Tensor, "B K"],
        *,
        temperature: float = 1.0,
    ) -> Int64[Tensor, "B K"]:
        """The next frame, from p = softmax(logits / temperature), the frame before and the candidates drawn from p."""
        p = (raised(logits) / temperature).softmax(-1)
        moved = p.gather(-1, before[:, None].expand(-1, p.shape[1], -1)) + BONUS - DISTANCE_PRICE * self.distance
        chosen = assign(moved - p.gather(-1, drawn[..., None]))
        return torch.where(chosen < 0, drawn, before.gather(1, chosen.clamp(min=0)))


def assign(
    gain: Float[Tensor, "B K N"], *, epsilon: float = EPSILON, rounds: int = ROUNDS, fixed_shapes: bool | None = None
) -> Int64[Tensor, "B K"]:
    """Which of N objects each of K bidders gets, or -1 for none, so that the sum of gains is the largest.

    An object goes to at most one bidder; who gets none gains 0. In a round, whoever has nothing bids for the object
    that is worth most to it at today's prices, if that is more than nothing, the difference to its second choice
    and ε more; an object goes to its highest bidder, and whoever had it loses it. Any moment's assignment is a valid
    one. When nobody bids any more it is within K ε of the optimum.

    On a CPU only those who bid are looked at, and an auction ends when it is over; with `fixed_shapes`, as on a GPU,
    everybody is looked at in every round, so that nothing waits.
    """
    B, K, N = gain.shape
    rows, device = gain.flatten(0, 1), gain.device
    fixed_shapes = device.type != "cpu" if fixed_shapes is None else fixed_shapes
    price, nobody = gain.new_zeros(B * N), torch.full((B * N,), B * K, device=device)
    holds = torch.full((B * K,), -1, device=device)
    bidder, out = torch.arange(B * K, device=device), torch.zeros(B * K, dtype=torch.bool, device=device)
    for _ in range(rounds):
        if not fixed_shapes and len(bidder) == 0:
            break
        b = bidder // K
        worth = rows[bidder] - price.view(B, N)[b]
        best, which = worth.max(-1)
        second = worth.scatter(-1, which[:, None], -torch.inf).amax(-1).clamp(min=0)
        wanted, bids = b * N + which, (holds[bidder] < 0) & (best > 0)
        bid = (price[wanted] + best - second + epsilon).where(bids, -torch.inf)
        highest = torch.full_like(price, -torch.inf).scatter_reduce(0, wanted, bid, "amax")
        # Of equal bids the first counts: the result does not depend on the order of additions.
        first = bidder.where(bids & (bid == highest[wanted]), B * K)
        winner = nobody.scatter_reduce(0, wanted, first, "amin")
        sold = winner < B * K
        price = highest.where(sold, price)
        holds = torch.where((holds >= 0) & sold[holds.clamp(min=0)], -1, holds)
        won = winner[wanted] == bidder
        holds = holds.scatter(0, bidder, torch.where(won, wanted, holds[bidder]))
        if not fixed_shapes:  # prices only rise: whoever wants nothing now never will
            out = out.scatter(0, bidder, best <= 0)
            bidder = ((holds < 0) & ~out).nonzero()[:, 0]
    return torch.where(holds < 0, -1, holds % N).view(B, K)
