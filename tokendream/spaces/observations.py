"""The layout of a block as data: which slot holds which part of the step, and what its tokens mean.

    |z_1 .. z_K a_1 .. a_A|      K observation tokens, then A action tokens: K1 = K + A in all

The tokens of a part are neighbours. Whoever needs K, K1, a grid or a vocabulary reads it here.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

from tokendream.spaces.actions import ActionSpace, Discrete
from tokendream.spaces.layout import Layout, Modality, image


class Slot(NamedTuple):
    """One token of an observation."""

    part: str
    """The part of the observation that it belongs to; tokens of one part are neighbours."""
    modality: Modality
    vocabulary: int
    """How many tokens can stand here."""
    position: tuple[int, ...]
    """Where in its part: row and column of a grid from the top left, or the number of the feature."""


class Tokens(NamedTuple):
    """The tokens of one part in a block."""

    part: str
    modality: Modality
    where: slice
    vocabulary: int
    grid: tuple[int, int] | None
    """Rows and columns, of an image or a map."""

    @property
    def K(self) -> int:
        """How many they are."""
        return self.where.stop - self.where.start


def parts_of(slots: tuple[Slot, ...]) -> tuple[Tokens, ...]:
    """The parts that slots belong to, in order."""
    found, at = [], 0
    for name, group in itertools.groupby(slots, key=lambda slot: slot.part):
        own = list(group)
        last = own[-1].position
        grid = (last[0] + 1, last[1] + 1) if len(last) == 2 else None
        vocabulary = max(slot.vocabulary for slot in own)
        found.append(Tokens(name, own[0].modality, slice(at, at + len(own)), vocabulary, grid))
        at += len(own)
    return tuple(found)


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
    def parts(self) -> tuple[Tokens, ...]:
        """The observation's parts, in order."""
        return parts_of(self.observation)

    @property
    def in_part(self) -> tuple[int, ...]:
        """Of every token of an observation, how many its part has."""
        return tuple(part.K for part in self.parts for _ in range(part.K))

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns where the whole observation is one image or one map, else None."""
        return self.parts[0].grid if len(self.parts) == 1 else None


class Spaces(NamedTuple):
    """What an environment shows and takes."""

    observation: Layout
    actions: ActionSpace
    action_names: tuple[str, ...]
    """Of every action where it is one choice; else of every component."""
    numbers: tuple[int, ...] = ()
    """Components that are numbers between two bounds."""


def image_spaces(size: int, actions: int, names: tuple[str, ...] = ()) -> Spaces:
    """One RGB image, size x size, and one choice of so many actions, called by their numbers unless named."""
    return Spaces(Layout((image(size),)), Discrete(actions), names or tuple(map(str, range(actions))))


def grid_slots(part: str, modality: Modality, rows: int, columns: int, vocabulary: int) -> tuple[Slot, ...]:
    """Slots row by row from the top left."""
    places = itertools.product(range(rows), range(columns))
    return tuple(Slot(part, modality, vocabulary, place) for place in places)
