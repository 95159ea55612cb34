"""Experience that costs nothing: smooth random frames, a replay buffer of them, an environment that shows them.

For timings of the agent, for ranks that collect nothing, and for tests.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int, UInt8

from tokendream.config.config import Config
from tokendream.data.replay import ReplayBuffer
from tokendream.envs.registry import spaces_of
from tokendream.envs.vector import Transition
from tokendream.spaces.observations import Spaces, image_spaces

ACTIONS = 18
"""Actions of the agent: the most that an Atari game has."""

EPISODE = 160
"""Rows of a synthetic episode."""


def shown(config: Config) -> Spaces:
    """What the config's environment shows and takes; of Atari, one image and the most actions of any game.

    Raises EnvError for one that cannot be made.
    """
    return image_spaces(config.env.size, ACTIONS) if config.env.family == "atari" else spaces_of(config)


def synthetic_frames(n: int, size: int, seed: int = 0) -> UInt8[np.ndarray, "n 3 S S"]:
    """Smooth random pictures: noise on a grid of 8-pixel cells, interpolated."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, max(2, size // 8), max(2, size // 8), generator=generator)
    smooth = F.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False)
    return (smooth * 255).byte().numpy()


def synthetic_observations(n: int, spaces: Spaces, seed: int = 0) -> UInt8[np.ndarray, " n *O"]:
    """Frames of these spaces: smooth pictures, features of a normal distribution, small maps and choices at random."""
    rng, layout = np.random.default_rng(seed), spaces.observation
    values: dict[str, np.ndarray] = {}
    for part in layout.parts:
        if part.modality == "image":
            values[part.name] = synthetic_frames(n, part.shape[-1], seed)
        elif part.modality == "vector":
            values[part.name] = rng.normal(size=(n, *part.shape))
        else:
            values[part.name] = rng.integers(part.sizes or (2,) * part.shape[-1], size=(n, *part.shape))
    return np.stack([layout.pack({name: x[i] for name, x in values.items()}) for i in range(n)])


def synthetic_replay(rows: int, spaces: Spaces | int, device: torch.device) -> ReplayBuffer:
    """Episodes of EPISODE rows with some rewards; every other one ends, the rest are truncated.

    A number stands for one image of so many pixels and ACTIONS actions.
    """
    rng = np.random.default_rng(0)
    if isinstance(spaces, int):
        spaces = image_spaces(spaces, ACTIONS)
    replay = ReplayBuffer.of(spaces, rows, device)
    for i, frame in enumerate(synthetic_observations(rows, spaces)):
        last = (i + 1) % EPISODE == 0
        end = last and (i // EPISODE) % 2 == 0
        reward = float(rng.choice([-1.0, 0.0, 1.0], p=[0.05, 0.85, 0.1]))
        replay.add(frame, int(rng.integers(spaces.actions.n)), reward, end, last)
    return replay


class StillEnvs:
    """Environments that cost nothing: they show the same synthetic frames in turn, without rewards."""

    def __init__(self, spaces: Spaces | int, n: int = 1) -> None:
        self.n = n
        self.spaces = image_spaces(spaces, ACTIONS) if isinstance(spaces, int) else spaces
        self._frames, self._shown = synthetic_observations(16, self.spaces, seed=1), 0

    def reset(self, seeds: Sequence[int | None]) -> UInt8[np.ndarray, " n *O"]:
        """The first frame."""
        self._shown = 0
        return self._frames[[0] * self.n]

    def step(self, actions: Int[np.ndarray, " n"]) -> Transition:
        """The next frame; the games are over after EPISODE steps."""
        self._shown += 1
        i, over = self._shown % len(self._frames), self._shown % EPISODE == 0
        zero, no = np.zeros(self.n, np.float32), np.zeros(self.n, np.bool_)
        return Transition(self._frames[[i] * self.n], zero, no, no | over)

    def close(self) -> None:
        """Nothing to free."""
