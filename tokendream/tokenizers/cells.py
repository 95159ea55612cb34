"""Tokens of maps: a code is a cell, or a small square of cells, as it was seen. Nothing is trained.

Maps of games have few different cells, so the book is complete within the first games and tokens lose nothing.
`dictionary` does the same for images, where no two patches are equal.
"""

from __future__ import annotations

import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from tokendream.spaces.layout import Part
from tokendream.spaces.observations import Slot, grid_slots
from tokendream.tokenizers.dictionary import cut, join
from tokendream.tokenizers.fixed import directions
from tokendream.tokenizers.protocol import Fit

CHUNK = 65_536
"""Cells compared with the book at once."""


class CellTokenizer(nn.Module):
    """A map <-> one token for every square of side x side cells, row by row.

    The book takes in every square that it does not know, while there is room, and never changes one. A square that is
    not in it is the one that differs in the fewest fields, the first of several. A code is the sum of fixed random
    directions, one for each field and value of its cells: cells that share a field have codes that share its part.
    """

    book: UInt8[Tensor, "V P"]
    """P = F side² values a square."""
    known: Int64[Tensor, ""]
    table: Float32[Tensor, "V E"]
    directions: Float32[Tensor, "P 256 E"]

    def __init__(self, part: Part, vocabulary: int, width: int, side: int = 1) -> None:
        super().__init__()
        fields, rows, columns = part.shape
        assert rows % side == columns % side == 0, f"a map of {rows}x{columns} cells does not divide into {side}x{side}"
        self.part, self.vocabulary, self.code_width, self.side = part, vocabulary, width, side
        self.rows, self.columns = rows // side, columns // side
        P = fields * side**2
        self.register_buffer("directions", directions(P, 256, width) * P**-0.5, persistent=False)
        self.register_buffer("book", torch.zeros(vocabulary, P, dtype=torch.uint8))
        self.register_buffer("known", torch.ones((), dtype=torch.int64))  # the first is all zeros
        self.register_buffer("table", self._code(self.book))

    @property
    def slots(self) -> tuple[Slot, ...]:
        """One for each square."""
        return grid_slots(self.part.name, "map", self.rows, self.columns, self.vocabulary)

    def encode(self, x: UInt8[Tensor, "*B F R C"]) -> Int64[Tensor, "*B K"]:
        """The squares of the book; never one of the places still empty."""
        cells = cut(x, self.side)
        nearest = [self._nearest(some) for some in cells.reshape(-1, cells.shape[-1]).split(CHUNK)]
        return torch.cat(nearest).view(cells.shape[:-1])

    def codes(self, tokens: Int64[Tensor, "*B K"]) -> Float32[Tensor, "*B K E"]:
        """The codes of squares."""
        return F.embedding(tokens, self.table)

    def decode(self, tokens: Int64[Tensor, "*B K"]) -> UInt8[Tensor, "*B F R C"]:
        """The map that tokens stand for."""
        return join(self.book[tokens], self.side, self.rows)

    @torch.no_grad()
    def fit(self, x: UInt8[Tensor, "B F R C"]) -> Fit:
        """Take in maps, in their order."""
        cells = cut(x, self.side).flatten(0, 1)
        different = _unique(cells)
        room = slice(int(self.known), self.vocabulary)
        unknown = different[(different[:, None] != self.book[None, : int(self.known)]).any(-1).all(1)]
        new = unknown[: room.stop - room.start]
        filled = slice(room.start, room.start + len(new))
        self.book[filled], self.table[filled] = new, self._code(new)
        self.known += len(new)
        return Fit(int(self.known), len(new))

    def _nearest(self, cells: UInt8[Tensor, "N P"]) -> Int64[Tensor, " N"]:
        different = torch.zeros(len(cells), self.vocabulary, dtype=torch.int16, device=cells.device)
        for mine, theirs in zip(cells.unbind(1), self.book.unbind(1), strict=True):
            different += mine[:, None] != theirs
        empty = torch.arange(self.vocabulary, device=cells.device) >= self.known
        return different.masked_fill_(empty, torch.iinfo(torch.int16).max).argmin(1)

    def _code(self, cells: UInt8[Tensor, "N P"]) -> Float32[Tensor, "N E"]:
        place = torch.arange(cells.shape[1], device=cells.device)
        return self.directions[place, cells.long()].sum(1)


def _unique(cells: UInt8[Tensor, "N P"]) -> UInt8[Tensor, "M P"]:
    """The different rows, in the order of their first appearance."""
    found, inverse = torch.unique(cells, dim=0, return_inverse=True)
    first = torch.full((len(found),), len(cells), device=cells.device)
    first.scatter_reduce_(0, inverse, torch.arange(len(cells), device=cells.device), "amin")
    return found[first.argsort()]
