"""Layouts of blocks for tests."""

from tokendream.spaces.actions import ActionSpace
from tokendream.spaces.observations import Block, grid_slots


def image_block(side: int, vocabulary: int, actions: ActionSpace) -> Block:
    """A frame of side x side tokens, row by row, and an action."""
    return Block(grid_slots("image", "image", side, side, vocabulary), actions)
