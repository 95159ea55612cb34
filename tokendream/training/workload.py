"""Pieces of a run, each as a function without arguments that can be called again and again: what timings time.

Weights are untrained and frames synthetic, which does not change the cost. Fitted tokenizers are shown frames that they
know, as in most of a run.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tokendream.agent.agent import Agent
from tokendream.config.config import Config, vary
from tokendream.config.schedule import PARTS, schedule
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute
from tokendream.dream import imagine
from tokendream.kernels.cuda_graph import Captured
from tokendream.spaces.observations import Spaces
from tokendream.tokenizers.protocol import Learned
from tokendream.training.synthetic import EPISODE, StillEnvs
from tokendream.training.trainer import Trainer


def phase(
    name: str, batch: int, config: Config, agent: Agent, replay: ReplayBuffer, compute: Compute, spaces: Spaces
) -> Callable[[], object]:
    """An update of one of the trainer's phases, at any batch; dreams too few to be shared out as set are in fewer.

    World model and controller find all their frames encoded, as they do for most of an epoch; `encode` is the rest.
    """
    if name in PARTS:
        settings = dataclasses.replace(getattr(config.training, name), batch=batch)
        if name == "tokenizer" and not isinstance(agent.tokenizer, Learned):  # the newest of them, all in one update
            rows = -(-batch // config.collect.envs) * config.collect.envs
            settings = dataclasses.replace(settings, batch=rows, first_epoch=1)
            config, replay = vary(config, "collect", steps=rows), _familiar(rows, config, agent, replay, spaces)
        if name == "actor_critic":
            config = vary(config, "dream", minibatches=math.gcd(batch * config.dream.group, config.dream.minibatches))
        config = vary(config, "training", **{name: settings})
    else:  # collecting writes into the replay buffer: it gets its own
        replay = ReplayBuffer.of(spaces, EPISODE * config.collect.envs, compute.device, config.collect.envs)
    trainer = Trainer(config, agent, StillEnvs(spaces, replay.envs), replay, compute)
    if name in ("world_model", "actor_critic"):
        trainer.shared.cache.refresh()
    update, updates = trainer.phases[name].update, next(p.updates for p in trainer.schedule if p.name == name)
    if name in ("collect", "tokenizer") and updates > 1:
        update(0)  # the first of an epoch may do more than the others: warm a memory again, fit what is not trained
        return functools.partial(update, 1)
    return functools.partial(update, 0)


def _familiar(rows: int, config: Config, agent: Agent, replay: ReplayBuffer, spaces: Spaces) -> ReplayBuffer:
    """So many rows of which V's book can hold every token: most of a run's frames show it nothing new."""
    few = max(1, config.tokenizer.codebook_size // agent.block.K)
    found = ReplayBuffer.of(spaces, rows, replay.device, config.collect.envs)
    for frame in replay.frames(np.arange(rows) % min(few, len(replay))).cpu().numpy():
        found.add(frame, 0, 0.0, False, False)
    return found


def encode(batch: int, agent: Agent, replay: ReplayBuffer, compute: Compute) -> Callable[[], Tensor]:
    """Frames of the replay buffer to tokens."""
    row = np.random.default_rng(0).integers(0, len(replay), size=batch)

    def run() -> Tensor:
        with compute.autocast():
            return agent.tokenizer.encode(replay.frames(row))

    return run


@torch.no_grad()
def dream_start(batch: int, config: Config, agent: Agent, replay: ReplayBuffer, compute: Compute) -> imagine.Dream:
    """Dreams before their first step: one block in the world model's memory, the controller's memory warm."""
    segments = replay.draw(batch, config.dream.burn_in + 1, align="end", rng=np.random.default_rng(0))
    with compute.autocast():
        seen = agent.tokenizer.encode(replay.frames(segments.row))
        return imagine.start(agent, seen, replay.steps(segments), config.dream)


def dream(start: imagine.Dream, horizon: int, agent: Agent, compute: Compute) -> Callable[[], imagine.Rollout]:
    """Imagination alone: no burn-in, no gradient."""
    generator = torch.Generator(compute.device).manual_seed(0)

    @torch.no_grad()
    def run() -> imagine.Rollout:
        with compute.autocast():
            return imagine.imagine(start, agent, horizon, generator)

    return Captured(run, compute, [generator], "the dream")


def frames_encoded(config: Config, epoch: int, *, changing: bool = True) -> float:
    """Frames that M's and C's segments encode in an epoch: each drawn row once, or the new ones where V stays as it is.

    Of N rows, n uniform draws meet N (1 - e^(-n/N)).
    """
    lengths = {"world_model": config.world_model.segment_length, "actor_critic": config.dream.burn_in + 1}
    collected = config.collect.steps * min(epoch, config.collect.last_epoch)
    rows = min(config.collect.capacity, collected)
    draws = sum(
        due.updates * getattr(config.training, due.name).batch * lengths[due.name]
        for due in schedule(config)
        if due.name in lengths and due.due(epoch)
    )
    if not config.training.cache_tokens or draws == 0:
        return float(draws)
    if changing:
        return rows * -math.expm1(-draws / rows)
    return float(config.collect.steps) if epoch <= config.collect.last_epoch else 0.0
