"""What rounds an encoder's outputs to tokens: a learned codebook (its codes revived, if wanted) or a fixed grid.

Sources: VQ-VAE (arXiv 1711.00937), FSQ (arXiv 2309.15505). Distances and codes are float32 also under autocast.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from tokendream.ranks import broadcast, gathered


def straight_through(z: Float[Tensor, "*B E"], codes: Float[Tensor, "*B E"]) -> Float[Tensor, "*B E"]:
    """The codes, exactly, with the gradient of z.

    The usual `z + sg(codes - z)` returns the codes up to rounding only, and then training and `lookup` disagree.
    """
    return codes.detach() + (z - z.detach())


def orthonormal(wide: int, narrow: int) -> Float[Tensor, "W N"]:
    """A fixed matrix that keeps lengths: where W < N those of all rows, else of what lies in N random directions."""
    gaussian = torch.randn(max(wide, narrow), min(wide, narrow), generator=torch.Generator().manual_seed(0))
    basis = torch.linalg.qr(gaussian)[0]
    return basis if wide >= narrow else basis.mT.contiguous()


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
        self.width, self.revive_after = code_width, revive_after
        if revive_after:  # updates since the last use; part of the state, so that a resumed run revives the same
            self.register_buffer("idle", torch.zeros(codebook_size, dtype=torch.int64))

    def bounded(self, z: Float[Tensor, "*B E"]) -> Float[Tensor, "*B E"]:
        """An encoder's outputs as they can be rounded: any."""
        return z

    def lookup(self, tokens: Int64[Tensor, "*B"]) -> Float[Tensor, "*B E"]:
        """What tokens in [0, V) were rounded to."""
        return F.embedding(tokens, self.codebook)

    def codes(self, tokens: Int64[Tensor, "*B"]) -> Float[Tensor, "*B E"]:
        """What M and C see of tokens: the same."""
        return self.lookup(tokens)

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
        z, tokens, V = gathered(z), gathered(tokens), self.codebook.shape[0]
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
        broadcast(self.codebook, self.idle)
        return dead.sum()


class FiniteScalar(nn.Module):
    """A fixed grid of V points in place of a codebook: a few values, each rounded to one of its levels in [-1, 1].

    V = 2^n has ceil(n / 3) values of at most 8 levels: (8, 8, 8) for 512. A token is the number whose digits are the
    levels, the first value the lowest digit. Nothing here is trained.

    M and C would see three values of a token, of which a linear layer makes little: they see the levels one-hot,
    through a fixed orthonormal projection to E values of unit variance.
    """

    levels: Int64[Tensor, " N"]
    basis: Int64[Tensor, " N"]
    grid: Float[Tensor, "V N"]
    table: Float[Tensor, "V E"]
    """The codes."""

    def __init__(self, codebook_size: int, code_width: int) -> None:
        super().__init__()
        bits = codebook_size.bit_length() - 1
        assert codebook_size == 1 << bits, "checked with the config"
        self.width = n = -(-bits // 3)
        sizes = [1 << (bits + i) // n for i in range(n)]
        levels = torch.tensor(sizes)
        basis = torch.cat((torch.ones(1, dtype=torch.int64), levels.cumprod(0)[:-1]))
        digits = torch.arange(codebook_size)[:, None] // basis % levels
        one_hot = torch.cat([d[:, None] == torch.arange(m) for d, m in zip(digits.mT, sizes, strict=True)], -1).float()
        table = one_hot @ orthonormal(one_hot.shape[1], code_width) * (code_width / n) ** 0.5
        for name, value in (("levels", levels), ("basis", basis), ("grid", 2 * digits / (levels - 1) - 1)):
            self.register_buffer(name, value, persistent=False)
        self.register_buffer("table", table)

    def bounded(self, z: Float[Tensor, "*B N"]) -> Float[Tensor, "*B N"]:
        """An encoder's outputs as they can be rounded: by tanh between the lowest level and the highest."""
        return z.tanh()

    def lookup(self, tokens: Int64[Tensor, "*B"]) -> Float[Tensor, "*B N"]:
        """What tokens in [0, V) were rounded to."""
        return F.embedding(tokens, self.grid)

    def codes(self, tokens: Int64[Tensor, "*B"]) -> Float[Tensor, "*B E"]:
        """What M and C see of tokens."""
        return F.embedding(tokens, self.table)

    @torch.no_grad()
    def nearest(self, z: Float[Tensor, "*B N"]) -> Int64[Tensor, "*B"]:
        """The token of the point of the grid that is nearest to z in ±1."""
        return (((z + 1) / 2 * (self.levels - 1)).round().long() * self.basis).sum(-1)
