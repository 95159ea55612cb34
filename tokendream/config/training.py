"""Hyper-parameters of training and evaluation; the agent's are in `config.parts`, the environment's in `config.env`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tokendream.config.ranges import Count, CountOrZero, NonNegative, Positive, Share


@dataclass(frozen=True)
class PhaseConfig:
    """The updates of one part of the agent within an epoch."""

    first_epoch: Count
    """First epoch in which this part is trained (epochs count from 1)."""
    updates: CountOrZero
    """Gradient updates an epoch."""
    batch: Count
    """B: frames for the tokenizer, segments for the world model, starts of dreams for the actor-critic, each dreamed
    from dream.group times."""
    learning_rate: Positive
    """Step size, of AdamW and of Muon."""
    weight_decay: NonNegative
    """Decoupled weight decay, of AdamW and of Muon."""
    clip: Positive
    """Largest L2 norm of the gradient."""
    last_epoch: CountOrZero = 1_000_000
    """Last epoch in which this part is trained; 0 for never. A tokenizer that is fitted, not trained, is still fitted
    in its first epoch. An early one of the tokenizer freezes it after a warm-up (no paper of its own)."""
    newest: Share = 0.0
    """Share of each batch that is drawn from what the last epoch collected, instead of from all that is held (not
    published)."""
    optimiser: Literal["adamw", "muon"] = "adamw"
    """adamw is the paper's; muon steps the matrices of M's backbone along their orthogonalised momentum (Jordan et al.,
    2024), the rest by AdamW."""
    decayed: Literal["all", "matrices", "linear"] = "all"
    """What weight decay acts on: all parameters, those of two or more axes, or the weights of linear layers alone."""


@dataclass(frozen=True)
class TrainingConfig:
    """The phases of an epoch after collecting, in their order."""

    tokenizer: PhaseConfig = PhaseConfig(6, 200, 128, 1e-4, 0.01, 10.0)
    """Updates of V, on single frames; what is fitted is shown each frame of the epoch once, however many updates."""
    world_model: PhaseConfig = PhaseConfig(26, 200, 64, 2e-4, 0.05, 100.0, decayed="linear")
    """Updates of M, on segments."""
    actor_critic: PhaseConfig = PhaseConfig(51, 100, 128, 1e-4, 0.01, 3.0)
    """Updates of C, on dreams."""
    rare_rewards: Share = 0.0
    """How rare rewards are preferred where moments before a reward are drawn, for M or C: c moments before a reward of
    one value each weigh c to the power of minus this; 0 draws them as often as they came, 1 all values alike."""
    cache_tokens: bool = True
    """Whether a frame of the replay is encoded once while V stays as it is, not in every update that reads it."""


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation on full games."""

    episodes: Count = 100
    """Episodes after training."""
    every: CountOrZero = 50
    """Epochs between evaluations during training; 0 for none."""
    episodes_during: Count = 16
    """Episodes of an evaluation during training."""
    temperature: Positive = 0.5
    """Temperature at which evaluation samples actions."""
