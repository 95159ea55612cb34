"""What a run's pictures show: real frames, what the tokenizer keeps of them, and a dream under the same actions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8

from tokendream.agent.agent import Agent
from tokendream.config.config import Config
from tokendream.data.batch import Segments, Steps
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute
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
    """Pictures of the end of the newest episode that is long enough, else of the longest; None where none has 4 steps.

    The dream starts like those that the agent trains in: the LSTM warm, M with one block before the start.
    """
    moment = _moment(replay, config.dream.burn_in, length)
    if moment is None:
        return None
    frames, steps, at = moment
    generator = torch.Generator(compute.device).manual_seed(seed)
    with compute.autocast():
        tokens = agent.tokenizer.encode(frames)
        dream = _start(agent, config, tokens, steps, at)
        actions = steps.action[:, at:]
        rollout = imagine.imagine(dream, agent, actions.shape[1], generator, actions=actions)
        reconstruction, dreamed = agent.tokenizer.decode(tokens[at:]), agent.tokenizer.decode(rollout.tokens[0])
    return Pictures(*(x.cpu().numpy() for x in (frames[at:], reconstruction, dreamed)))


@torch.no_grad()
def codes(agent: Agent, compute: Compute) -> UInt8[np.ndarray, "V 3 S S"]:
    """What each token of the vocabulary is drawn as by itself: a frame of one cell."""
    V = agent.tokenizer
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
    length: int = 32,
    seed: int = 0,
) -> UInt8[np.ndarray, "n T 3 S S"] | None:
    """n dreams of the same moment, each with actions of its own choice; None where no episode has 4 steps."""
    moment = _moment(replay, config.dream.burn_in, length)
    if moment is None:
        return None
    frames, steps, at = moment
    generator = torch.Generator(compute.device).manual_seed(seed)
    with compute.autocast():
        many = _start(agent, config, agent.tokenizer.encode(frames), steps, at).expand(n)
        rollout = imagine.imagine(many, agent, length, generator, temperature=temperature)
        films = agent.tokenizer.decode(rollout.tokens)
    return films.cpu().numpy()


def _moment(
    replay: ReplayBuffer, burn_in: int, length: int
) -> tuple[UInt8[torch.Tensor, "L 3 S S"], Steps, int] | None:
    """Frames and steps around a moment, `burn_in` before it and `length` from it on as far as the episode goes, and
    the moment's place among them."""
    if not (episodes := replay.episodes()):
        return None
    long_enough = [e for e in episodes if e[1] - e[0] >= burn_in + length]
    first, stop = long_enough[-1] if long_enough else max(episodes, key=lambda e: e[1] - e[0])
    if stop - first < 4:
        return None
    anchor = stop - length if long_enough else (first + stop) // 2
    first = max(first, anchor - burn_in)
    row = np.arange(first, min(stop, anchor + length))
    steps = replay.steps(Segments(row[None], np.ones((1, len(row)), bool)))
    return replay.frames(row), steps, anchor - first


def _start(agent: Agent, config: Config, tokens: torch.Tensor, steps: Steps, at: int) -> imagine.Dream:
    """The moment's dream, with both memories warm."""
    seen = slice(0, at + 1)
    return imagine.start(agent, tokens[None, seen], steps.during(seen), config.dream)
