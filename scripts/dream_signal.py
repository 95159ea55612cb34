"""What dreams tell C: what its actions decide of a return, and how alike two batches' gradients are. One JSON line.

    python scripts/dream_signal.py runs/krull 32
    python scripts/dream_signal.py runs/krull 32 dream.lam=0.8 dream.expected_reward=true

A run folder, batches of dreams, and other fields of the run's config. V, M, C and the steps that dreams begin with are
those of its last checkpoint. Nothing is trained.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F
from world_model import collected

from tokendream.agent.agent import Agent
from tokendream.config.config import Config
from tokendream.data.batch import Segment, Segments
from tokendream.data.replay import ReplayBuffer
from tokendream.device import processor
from tokendream.dream import imagine, starts
from tokendream.dream.objective import clipped_loss, dreamed, lambda_returns
from tokendream.dream.reward import reward_function
from tokendream.runfolder.load import Trained

WAYS = 4
"""Sequences of actions from each start, and dreams of each sequence."""


def discounted(rewards: Float[Tensor, "B T"], ends: Bool[Tensor, "B T"], discount: float) -> Float[Tensor, " B"]:
    """What the steps up to the first end pay: λ-returns with λ = 1, after which nothing comes."""
    rewards, ends = F.pad(rewards, (0, 1)), F.pad(ends, (0, 1))
    return lambda_returns(rewards, torch.zeros_like(rewards), ends, discount=discount, lam=1.0)[:, 0]


@torch.no_grad()
def shares(agent: Agent, segment: Segment, config: Config, generator: torch.Generator) -> dict[str, float]:
    """Components of the variance of what dreams pay: by where they start, by C's actions from there, and by chance.

    Unbiased, by the nested analysis of variance; so one that is near 0 may come out below it.
    """
    dream, paid = config.dream, reward_function(agent, config.dream)
    begin, found = imagine.start(agent, *segment, dream), torch.empty(len(segment.tokens), WAYS, WAYS)
    for way in range(WAYS):
        actions = None
        for again in range(WAYS):
            rollout = imagine.imagine(begin, agent, dream.horizon, generator, actions=actions, reward=paid)
            actions = rollout.actions
            found[:, way, again] = discounted(rollout.rewards, rollout.ends, dream.discount)
    chance = found.var(-1).mean()
    decided = found.mean(-1).var(-1).mean() - chance / WAYS
    start = found.mean((-1, -2)).var() - decided / WAYS - chance / WAYS**2
    return {"paid": float(found.mean()), "start": float(start), "actions": float(decided), "chance": float(chance)}


def likeness(agent: Agent, segments: list[Segment], config: Config, generator: torch.Generator) -> dict[str, float]:
    """The mean cosine of two batches' policy gradients, by all pairs, with its jackknife error; and how large both
    terms' gradients are, and the advantages before they are scaled."""
    gradients: dict[str, list[Tensor]] = {"policy": [], "value": []}
    parameters, advantages = [p.requires_grad_() for p in agent.actor_critic.parameters()], []
    for segment in segments:
        experience = dreamed(agent, *segment, config.dream, generator)
        advantages.append(experience.figures["advantage_scale"])
        losses = clipped_loss(agent, experience, config.dream)
        for name, kept in gradients.items():
            found = torch.autograd.grad(
                losses.terms[name], parameters, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            kept.append(torch.cat([g.flatten() for g in found]))
    g, n = F.normalize(torch.stack(gradients["policy"])), len(segments)
    total, own = g.sum(0).square().sum() - n, g @ g.sum(0) - 1
    without = (total - 2 * own) / ((n - 1) * (n - 2))
    sizes = {name: torch.stack(kept).norm(dim=1).mean() for name, kept in gradients.items()}
    figures = {"cosine": total / (n * (n - 1)), "cosine_error": (n - 1) ** 0.5 * without.std(correction=0),
               "policy_gradient": sizes["policy"], "value_gradient": sizes["value"],
               "advantage": torch.stack(advantages).mean()}  # fmt: skip
    return {name: float(figure) for name, figure in figures.items()}


def draw(
    agent: Agent, replay: ReplayBuffer, config: Config, n: int, rng: np.random.Generator, newest: float = 0.0
) -> Segment:
    """What n dreams begin with: a share of them from the newest epoch, one before a reward, the others from all steps
    alike."""
    return seen(agent, replay, drawn(replay, config, n, rng, newest))


def drawn(replay: ReplayBuffer, config: Config, n: int, rng: np.random.Generator, newest: float) -> Segments:
    """The rows of `draw`."""
    share = round(newest * n), config.collect.steps
    rare = config.training.rare_rewards
    return starts.draw(replay, n, config.dream, rng, context=config.world_model.context, newest=share, rare=rare)


def seen(agent: Agent, replay: ReplayBuffer, segments: Segments) -> Segment:
    """Rows as the agent sees them."""
    return Segment(agent.tokenizer.encode(replay.frames(segments.row)), replay.steps(segments))


def changed(config: Config, changes: Sequence[str]) -> Config:
    """The config with other fields, each as part.field=JSON."""
    data = json.loads(config.to_json())
    for change in changes:
        name, _, value = change.partition("=")
        *parts, field = name.split(".")
        functools.reduce(dict.__getitem__, parts, data)[field] = json.loads(value)
    return Config.from_json(json.dumps(data))


def main(run: str, batches: str, *changes: str) -> None:
    """Measure a run, with other fields of its config."""
    trained = Trained.load(Path(run), "cpu")
    config, agent = changed(trained.config, changes), trained.agent
    agent.world_model.config = config.world_model
    replay, rng = collected(Path(run), config), np.random.default_rng(0)
    generator, n = torch.Generator().manual_seed(0), config.training.actor_critic.batch
    with trained.compute.autocast():
        variance = shares(agent, draw(agent, replay, config, 2 * n, rng), config, generator)
        drawn = [draw(agent, replay, config, n, rng) for _ in range(int(batches))]
        alike = likeness(agent, drawn, config, generator)
    line = {"run": Path(run).name, "changes": changes, "batches": int(batches), **variance, **alike}
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}
                     | {"processor": processor()}))  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
