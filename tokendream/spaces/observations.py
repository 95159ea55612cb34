"""The layout of a block as data: which slot holds which part of the step, and what its tokens mean.

    |z_1 .. z_K a_1 .. a_A|      K observation tokens, then A action tokens: K1 = K + A in all

Today the observation is one image, a square grid of tokens, and the action is one token. Whoever needs K, K1 or a
vocabulary reads it here, so that another modality is more slots of another kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from tokendream.spaces.actions import ActionSpace


class Slot(NamedTuple):
    """One token of an observation."""

    part: str
    """The part of the observation that it belongs to; tokens of one part are neighbours."""
    vocabulary: int
    """How many tokens can stand here."""
    position: tuple[int, ...]
    """Where in its part: row and column of an image's grid, from the top left."""


@dataclass(frozen=True)
class Block:
    """The slots of one step, observation first."""

    observation: tuple[Slot, ...]
    actions: ActionSpace

    @property
    def K(self) -> int:
        """Tokens of an observation."""
        return len(self.observation)

    @property
    def K1(self) -> int:
        """Tokens of a block."""
        return self.K + self.actions.tokens

    @property
    def vocabulary(self) -> int:
        """V, the tokens that can stand in any slot of the observation."""
        return max(slot.vocabulary for slot in self.observation)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the observation's tokens, one image."""
        rows, columns = self.observation[-1].position
        return rows + 1, columns + 1


def image_block(side: int, vocabulary: int, actions: ActionSpace) -> Block:
    """A frame of side x side tokens, row by row, and an action."""
    slots = (Slot("image", vocabulary, (row, column)) for row in range(side) for column in range(side))
    return Block(tuple(slots), actions)
