"""What a run's pictures show: real frames, what the tokenizer keeps of them, and a dream under the same actions."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from tokendream.agent.agent import Agent
from tokendream.config.config import Config
from tokendream.data.batch import Segments
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute
from tokendream.dream import imagine
from tokendream.reports.paint import paint

LENGTH = 32
"""Steps of a run's film of a dream."""


@torch.no_grad()
def draw(
    agent: Agent, replay: ReplayBuffer, config: Config, compute: Compute, *, length: int, seed: int = 0
) -> UInt8[np.ndarray, "3 T 3 H W"] | None:
    """Three films of the end of the newest episode that is long enough, else of the longest; None with none of 4 steps.

    They are what happened, its reconstruction and a dream, which sees the first frame and from there on the recorded
    actions only; it starts like those that the agent trains in: the LSTM warm, M with one block before the start.
    """
    if (moment := _moment(agent, replay, config, compute, length)) is None:
        return None
    frames, tokens, actions, dream = moment
    generator = torch.Generator(compute.device).manual_seed(seed)
    with compute.autocast():
        rollout = imagine.imagine(dream, agent, actions.shape[1], generator, actions=actions)
        reconstruction, dreamed = agent.tokenizer.decode(tokens), agent.tokenizer.decode(rollout.tokens[0])
    return np.stack([paint(x.cpu().numpy(), agent.layout) for x in (frames, reconstruction, dreamed)])


@torch.no_grad()
def codes(agent: Agent, compute: Compute) -> UInt8[np.ndarray, "V 3 S S"] | None:
    """What each token of the vocabulary is drawn as by itself: a frame of one cell; None for other than one image."""
    V = agent.tokenizer
    if agent.layout is not None:
        return None
    with compute.autocast():
        return V.decode(torch.arange(V.vocabulary, device=compute.device)[:, None]).cpu().numpy()


@torch.no_grad()
def futures(
    agent: Agent,
    replay: ReplayBuffer,
    config: Config,
    compute: Compute,
    *,
    n: int,
    temperature: float,
    length: int,
    seed: int = 0,
) -> UInt8[np.ndarray, "n T 3 H W"] | None:
    """n dreams of the same moment, each with actions of its own choice; None where no episode has 4 steps."""
    if (moment := _moment(agent, replay, config, compute, length)) is None:
        return None
    *_, dream = moment
    generator = torch.Generator(compute.device).manual_seed(seed)
    with compute.autocast():
        rollout = imagine.imagine(dream.expand(n), agent, length, generator, temperature=temperature)
        films = agent.tokenizer.decode(rollout.tokens)
    return np.stack([paint(film, agent.layout) for film in films.cpu().numpy()])


def _moment(
    agent: Agent, replay: ReplayBuffer, config: Config, compute: Compute, length: int
) -> tuple[UInt8[Tensor, " T *O"], Int64[Tensor, "T K"], Int64[Tensor, "1 T"], imagine.Dream] | None:
    """Frames, tokens and actions from a moment on, `length` of them or as far as its episode goes, and its dream with
    both memories warm from what came before; None where no episode has 4 steps."""
    burn_in = config.dream.burn_in
    episodes = [e for e in replay.episodes() if len(e) >= 4]
    if not episodes:
        return None
    long_enough = [e for e in episodes if len(e) >= burn_in + length]
    episode = np.array(long_enough[-1] if long_enough else max(episodes, key=len))
    anchor = len(episode) - length if long_enough else len(episode) // 2
    at = min(anchor, burn_in)
    row = episode[anchor - at : anchor + length]
    steps = replay.steps(Segments(row[None], np.ones((1, len(row)), bool)))
    frames, seen = replay.frames(row), slice(0, at + 1)
    with compute.autocast():
        tokens = agent.tokenizer.encode(frames)
        dream = imagine.start(agent, tokens[None, seen], steps.during(seen), config.dream)
    return frames[at:], tokens[at:], steps.action[:, at:], dream
