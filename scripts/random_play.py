"""Steps of games played at random, for the scripts that measure a part on them."""

from __future__ import annotations

import numpy as np

from tokendream.config.config import Config
from tokendream.data.replay import ReplayBuffer
from tokendream.envs.registry import make


def random_play(config: Config, steps: int, seed: int) -> ReplayBuffer:
    """So many steps, of games with the seeds from this one on."""
    envs, rng = make(config, 1, evaluation=False), np.random.default_rng(seed)
    replay = ReplayBuffer.of(envs.spaces, steps)
    frame = envs.reset([seed])
    for _ in range(steps):
        action = rng.integers(envs.spaces.actions.n, size=1)
        step = envs.step(action)
        over, end = bool(step.over[0]), bool(step.end[0])
        replay.add(frame[0], int(action[0]), float(step.reward[0]), end, last=end or over)
        seed += over
        frame = envs.reset([seed]) if over else step.frame
    envs.close()
    return replay
