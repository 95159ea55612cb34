"""Experience that costs nothing: smooth random frames, a replay buffer of them, an environment that shows them.

For timings, where it is the agent that is timed, and for tests.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int, UInt8

from tokendream.data.replay import ReplayBuffer
from tokendream.envs.vector import Transition
from tokendream.spaces.observations import image_spaces

ACTIONS = 18
"""Actions of the agent: the most that an Atari game has."""

EPISODE = 160
"""Rows of a synthetic episode."""


def synthetic_frames(n: int, size: int, seed: int = 0) -> UInt8[np.ndarray, "n 3 S S"]:
    """Smooth random pictures: noise on a grid of 8-pixel cells, interpolated."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, max(2, size // 8), max(2, size // 8), generator=generator)
    smooth = F.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False)
    return (smooth * 255).byte().numpy()


def synthetic_replay(rows: int, size: int, device: torch.device) -> ReplayBuffer:
    """Episodes of EPISODE rows with some rewards; every other one ends, the rest are truncated."""
    rng = np.random.default_rng(0)
    replay = ReplayBuffer(rows, (3, size, size), device)
    for i, frame in enumerate(synthetic_frames(rows, size)):
        last = (i + 1) % EPISODE == 0
        end = last and (i // EPISODE) % 2 == 0
        reward = float(rng.choice([-1.0, 0.0, 1.0], p=[0.05, 0.85, 0.1]))
        replay.add(frame, int(rng.integers(ACTIONS)), reward, end, last)
    return replay


class StillEnvs:
    """An environment that costs nothing: it shows its synthetic frames in turn, without rewards."""

    n = 1

    def __init__(self, size: int) -> None:
        self.spaces = image_spaces(size, ACTIONS)
        self._frames, self._shown = synthetic_frames(16, size, seed=1), 0

    def reset(self, seeds: Sequence[int | None]) -> UInt8[np.ndarray, "n 3 S S"]:
        """The first frame."""
        self._shown = 0
        return self._frames[:1]

    def step(self, actions: Int[np.ndarray, " n"]) -> Transition:
        """The next frame; a game is over after EPISODE steps."""
        self._shown += 1
        i, over = self._shown % len(self._frames), self._shown % EPISODE == 0
        zero, no = np.zeros(1, np.float32), np.zeros(1, np.bool_)
        return Transition(self._frames[i : i + 1], zero, no, np.array([over]))

    def close(self) -> None:
        """Nothing to free."""
