"""What the replay buffer hands out: where segments lie (`Segments`), and what they hold beside frames (`Steps`),
and with them as tokens (`Segment`).

A row is one env step (o_t, a_t, r_t, d_t): the frame, the action taken on it, and the reward and end it caused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64
from torch import Tensor


@dataclass(frozen=True)
class Segments:
    """B segments of T consecutive rows of one episode each, by number; `mask` is False where padded.

    `row` counts every row ever recorded, from 0. Padded entries repeat the row that was drawn, so that any row of
    `row` can be looked up.
    """

    row: Int64[np.ndarray, "B T"]
    mask: Bool[np.ndarray, "B T"]


class Steps(NamedTuple):
    """Segments without their frames, on the device. Padded entries are action 0, reward 0, no end."""

    action: Int64[Tensor, "B T"]
    reward: Float32[Tensor, "B T"]
    end: Bool[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]

    def during(self, when: slice) -> Steps:
        """The steps at these times of every segment."""
        return Steps(*(x[:, when] for x in self))


class Segment(NamedTuple):
    """Segments as M and C take them: frames as tokens, and what was done."""

    tokens: Int64[Tensor, "B T K"]
    steps: Steps


class SegmentWithChanges(NamedTuple):
    """`Segment`, and where each frame but the first differs from the one before it."""

    tokens: Int64[Tensor, "B T K"]
    steps: Steps
    changed: Bool[Tensor, "B T-1 K"]
