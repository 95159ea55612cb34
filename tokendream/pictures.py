"""What a run's pictures show: real frames, what the tokenizer keeps of them, and a dream under the same actions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8

from tokendream.agent import Agent
from tokendream.compute import Compute
from tokendream.config import Config
from tokendream.data.batch import Segments
from tokendream.data.replay import ReplayBuffer
from tokendream.dream import imagine


class Pictures(NamedTuple):
    """Three films of the same moments. `dream` sees the first frame and from there on only the recorded actions."""

    real: UInt8[np.ndarray, "T 3 S S"]
    reconstruction: UInt8[np.ndarray, "T 3 S S"]
    dream: UInt8[np.ndarray, "T 3 S S"]


@torch.no_grad()
def draw(
    agent: Agent, replay: ReplayBuffer, config: Config, compute: Compute, *, length: int = 32, seed: int = 0
) -> Pictures | None:
    """Pictures of the newest episode that is long enough, else of the longest; None where there is none of 4 steps.

    The dream starts like those that the agent trains in: the LSTM warm, M with one block before the start.
    """
    if not (episodes := replay.episodes()):
        return None
    wanted = config.dream.burn_in + length
    long_enough = [e for e in episodes if e[1] - e[0] >= wanted]
    first, stop = long_enough[-1] if long_enough else max(episodes, key=lambda e: e[1] - e[0])
    if stop - first < 4:
        return None
    anchor = min(first + config.dream.burn_in, (first + stop) // 2)
    row = np.arange(first, min(stop, anchor + length))
    steps = replay.steps(Segments(row[None], np.ones((1, len(row)), bool)))
    frames = replay.frames(row)
    with compute.autocast():
        tokens = agent.tokenizer.encode(frames)
        seen = slice(0, anchor - first + 1)
        context = type(steps)(steps.action[:, seen], steps.reward[:, seen], steps.end[:, seen], steps.mask[:, seen])
        dream = imagine.start(agent, tokens[None, seen], context, burn_in_actions=config.dream.burn_in_actions)
        rollout = imagine.imagine(
            dream,
            agent,
            int(row[-1]) - anchor + 1,
            torch.Generator(compute.device).manual_seed(seed),
            actions=steps.action[:, anchor - first :],
        )
        shown = slice(anchor - first, None)
        reconstruction, dreamed = agent.tokenizer.decode(tokens[shown]), agent.tokenizer.decode(rollout.tokens[0])
    return Pictures(*(x.cpu().numpy() for x in (frames[shown], reconstruction, dreamed)))
