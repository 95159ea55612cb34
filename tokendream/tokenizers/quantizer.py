"""The codebook: nearest codes, straight-through gradients, and the optional revival of codes that nothing uses.

Source: VQ-VAE (arXiv 1711.00937). Distances and codes are float32 also under autocast.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F


def straight_through(z: Float[Tensor, "*B E"], codes: Float[Tensor, "*B E"]) -> Float[Tensor, "*B E"]:
    """The codes, exactly, with the gradient of z.

    The usual `z + sg(codes - z)` returns the codes up to rounding only, and then training and `lookup` disagree.
    """
    return codes.detach() + (z - z.detach())


class Quantizer(nn.Module):
    """V codes of width E, initially uniform in ±1/V.

    With `revive_after`, a code that has been the nearest to nothing for so many training updates is moved onto an
    encoder output of the current batch. Counting updates since the last use, rather than averaging the use, spares
    codes that are rare but needed: a ball of two pixels is a few tokens in a thousand frames.
    """

    idle: Int64[Tensor, " V"]

    def __init__(self, codebook_size: int, code_width: int, *, revive_after: int = 0) -> None:
        super().__init__()
        bound = 1 / codebook_size
        self.codebook = nn.Parameter(torch.empty(codebook_size, code_width).uniform_(-bound, bound))
        self.revive_after = revive_after
        if revive_after:  # updates since the last use; part of the state, so that a resumed run revives the same
            self.register_buffer("idle", torch.zeros(codebook_size, dtype=torch.int64))

    def lookup(self, tokens: Int64[Tensor, "*B"]) -> Float[Tensor, "*B E"]:
        """The codes of tokens in [0, V)."""
        return F.embedding(tokens, self.codebook)

    @torch.no_grad()
    def nearest(self, z: Float[Tensor, "*B E"]) -> Int64[Tensor, "*B"]:
        """argmin_v |z - e_v|², the lowest v among equals.

        |z|² is the same for every v and left out: it is up to 10^6 times the rest while the codebook is small, and
        would cost that many digits. bf16, with which autocast would compute the product, takes wrong codes; so does
        TF32 to a lesser degree: leave torch's float32 matmul precision at `highest`.
        """
        with torch.autocast(z.device.type, enabled=False):
            e = self.codebook.float()
            return (e.square().sum(-1) - 2 * z.float() @ e.mT).argmin(-1)

    def forward(self, z: Float[Tensor, "*B E"]) -> tuple[Int64[Tensor, "*B"], Float[Tensor, "*B E"]]:
        """Tokens and codes of encoder outputs; the codes carry gradient into the codebook, none into z."""
        tokens = self.nearest(z)
        return tokens, self.lookup(tokens)

    @torch.no_grad()
    def revive(
        self, z: Float[Tensor, "L E"], tokens: Int64[Tensor, " L"], *, generator: torch.Generator | None = None
    ) -> Int64[Tensor, ""]:
        """Count this batch's use, move codes idle for `revive_after` updates onto rows of z, and return how many moved.

        Rows are drawn without replacement with probability proportional to their squared error, so that codes go
        where they are missing and not all to the same place (the seeding of k-means++). At most V/32 codes move in
        one update: the rest may be wanted once these are in place. Static shapes, no wait for the device. The
        optimiser's moments of a moved code stay behind; they fade within ten updates.
        """
        V = self.codebook.shape[0]
        used = torch.zeros(V, dtype=torch.bool, device=z.device).index_fill_(0, tokens, True)
        self.idle.copy_(torch.where(used, 0, self.idle + 1))
        error = (z.float() - self.lookup(tokens)).square().sum(-1)
        # The k largest of error / Exponential(1) are a draw without replacement, proportional to the error.
        race = error / torch.empty_like(error).exponential_(generator=generator)
        k = min(max(1, V // 32), z.shape[0])
        age, candidate = self.idle.topk(k)
        dead = age >= self.revive_after
        moved = torch.where(dead[:, None], z[race.topk(k).indices].to(self.codebook.dtype), self.codebook[candidate])
        self.codebook.index_copy_(0, candidate, moved)
        self.idle.index_copy_(0, candidate, torch.where(dead, 0, age))
        return dead.sum()
