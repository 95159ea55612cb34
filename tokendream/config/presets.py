"""Presets: named configs to start from.

`rem` is the paper; `simulus`, `simulus-dmc`, `simulus-a`, `easimulus` and `itc` are its successors (docs/beyond.md);
`best` is `rem` with what helped on CartPole in our ablation (docs/ablations.md); it has no complete run on a game;
`cpu` is sized for two cores and `night` for a night of theirs; `control` is for features, `grid` for maps of cells;
`toy` is for the built-in game Catch; `tiny` is for tests. Behind any of them `-` and the name of an ablation changes
that one thing: `rem-no-pop`, `rem-transformer-no-pop`, `simulus-no-curiosity`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from tokendream.config.config import Config, vary
from tokendream.config.cuts import ABLATIONS, CUTS
from tokendream.config.env import AtariConfig, EnvConfig
from tokendream.config.parts import ActorCriticConfig, CollectConfig, DreamConfig, TokenizerConfig, WorldModelConfig
from tokendream.config.training import EvalConfig, PhaseConfig, TrainingConfig
from tokendream.errors import ConfigError, nearest

REM = Config()

AS_TUNED: dict[str, Any] = {"prediction_token_std": 0.02, "scored_starts": False}
"""What the small presets were tuned with, where `rem` follows the published code."""

CPU = Config(
    preset="cpu",
    epochs=60,
    checkpoint_every=5,
    env=EnvConfig(size=48, atari=AtariConfig(frames="ale")),
    # The second line is for tokenizers that are trained (`cpu-fsq`), whose M and C should begin after epoch 15, too.
    tokenizer=TokenizerConfig(
        kind="dictionary", downsamples=3, codebook_size=512, code_width=128,
        channels=16, network="patch", perceptual="none", revive_after=20, lost_weight=10.0,
    ),
    world_model=WorldModelConfig(
        width=128, layers=3, heads=4, dropout=0.0, copy_head=True, token_temperature=0.5, local_prediction=True,
        outcome_from="frame", logits_from_codes=True, reward_head="seen", reward_heads=5,
        rewarded_segments=0.25, **AS_TUNED,
    ),
    actor_critic=ActorCriticConfig(lstm_width=256),
    # A short horizon of value and a centred advantage: values do not catch up with γ = 0.995 in so few updates.
    dream=DreamConfig(
        context_starts=False, discount=0.98, mask_after_end=True, centre_advantage=True, scale_advantage=True,
        entropy_weight=0.02, reuse=4, minibatches=4, group=8, expected_reward=True, rewarded_starts=0.5,
    ),
    collect=CollectConfig(steps=1000, last_epoch=1_000_000, sticky_actions=0.25, capacity=60_000),
    training=TrainingConfig(
        tokenizer=PhaseConfig(1, 200, 64, 1e-3, 0.01, 10.0, last_epoch=15),
        world_model=PhaseConfig(2, 50, 16, 1.5e-3, 0.05, 100.0, decayed="matrices", newest=0.5, optimiser="muon"),
        actor_critic=PhaseConfig(8, 10, 8, 3e-4, 0.01, 3.0),  # 64 dreams
        rare_rewards=0.5,
    ),
    evaluation=EvalConfig(episodes=50, every=20, episodes_during=8),
)  # fmt: skip

NIGHT = dataclasses.replace(
    vary(CPU, "collect", capacity=100_000),
    preset="night",
    epochs=100,
    training=dataclasses.replace(
        CPU.training,
        world_model=dataclasses.replace(CPU.training.world_model, updates=150),
        actor_critic=dataclasses.replace(CPU.training.actor_critic, updates=20),
    ),
)
"""More of all of it."""

TOY = Config(
    preset="toy",
    epochs=25,
    checkpoint_every=5,
    env=EnvConfig(id="tokendream/Catch-v0", size=32, atari=AtariConfig(frames="ale")),
    tokenizer=TokenizerConfig(kind="dictionary", downsamples=3, codebook_size=32, code_width=64),
    world_model=WorldModelConfig(
        width=64, layers=2, heads=2, dropout=0.0, local_prediction=True, outcome_from="frame", **AS_TUNED
    ),
    actor_critic=ActorCriticConfig(lstm_width=128),
    dream=DreamConfig(
        # A ball takes eight steps. With the paper's γ C learns to put off an end that it cannot see coming.
        horizon=10, burn_in=4, context_starts=False, mask_after_end=True, discount=0.95,
        centre_advantage=True, scale_advantage=True, entropy_weight=0.01, reuse=4,
    ),
    # 2,000 steps before C begins: with half of them M may have seen a ball caught in the corner once, or never.
    collect=CollectConfig(steps=200, last_epoch=1_000_000, capacity=20_000),
    training=TrainingConfig(
        # C learns only to stand still from a poor M; V, which is not trained, need not be waited for.
        tokenizer=PhaseConfig(1, 200, 32, 1e-3, 0.01, 10.0),
        world_model=PhaseConfig(4, 60, 16, 2e-3, 0.05, 100.0, decayed="matrices"),
        actor_critic=PhaseConfig(10, 40, 64, 1e-3, 0.01, 3.0),
    ),
    evaluation=EvalConfig(episodes=64, every=5, episodes_during=32),
)  # fmt: skip

TINY = Config(
    preset="tiny",
    epochs=4,
    checkpoint_every=2,
    env=EnvConfig(id="tokendream/Catch-v0", atari=AtariConfig(frames="ale")),
    tokenizer=TokenizerConfig(channels=8, downsamples=4, codebook_size=16, code_width=16, perceptual="none"),
    world_model=WorldModelConfig(width=16, layers=2, heads=2, segment_length=5, **AS_TUNED),
    actor_critic=ActorCriticConfig(lstm_width=16),
    dream=DreamConfig(horizon=4, burn_in=3, context_starts=False),
    collect=CollectConfig(steps=20, capacity=1000),
    training=TrainingConfig(
        tokenizer=PhaseConfig(1, 2, 4, 1e-3, 0.01, 10.0),
        world_model=PhaseConfig(2, 2, 2, 1e-3, 0.05, 100.0, decayed="matrices"),
        actor_critic=PhaseConfig(3, 2, 2, 1e-3, 0.01, 3.0),
    ),
    evaluation=EvalConfig(episodes=2, every=2, episodes_during=2),
)  # fmt: skip

SIMULUS = Config(
    preset="simulus",
    env=EnvConfig(atari=AtariConfig(sign_rewards=True)),
    tokenizer=TokenizerConfig(channels=64),
    world_model=WorldModelConfig(
        layers=10, shortest_window=4.0, longest_window=16.0, outcome_from="prediction", by_loss=0.3,
        reward_head="symlog", head="norm", ensemble=4,
    ),
    actor_critic=ActorCriticConfig(trunk="norm", value_head="symlog"),
    dream=DreamConfig(discount=0.99, curiosity=1.0, scale_by_quantiles=True),
    training=TrainingConfig(
        world_model=PhaseConfig(26, 200, 32, 2e-4, 0.05, 3.0, decayed="linear"),
        actor_critic=PhaseConfig(51, 80, 128, 2e-4, 0.01, 3.0),
    ),
)  # fmt: skip
"""As published for Atari 100K, on REM's architecture (arXiv 2502.11537)."""

SIMULUS_DMC = dataclasses.replace(
    SIMULUS,
    preset="simulus-dmc",
    epochs=1000,
    env=EnvConfig(id="dmc:walker-walk"),
    tokenizer=TokenizerConfig(code_width=192),
    world_model=dataclasses.replace(
        SIMULUS.world_model, width=192, heads=3, segment_length=20, context=1, shortest_window=2.0, longest_window=2.0,
    ),
    actor_critic=dataclasses.replace(SIMULUS.actor_critic, separate=True),
    dream=dataclasses.replace(SIMULUS.dream, horizon=20, curiosity=10.0),
    collect=CollectConfig(steps=500, last_epoch=1000, epsilon=0.0, capacity=500_000),
    training=TrainingConfig(
        world_model=PhaseConfig(16, 300, 16, 2e-4, 0.05, 3.0, decayed="linear"),
        actor_critic=PhaseConfig(21, 100, 128, 2e-4, 0.01, 3.0),
    ),
)  # fmt: skip
"""The same for tasks of DeepMind Control seen as vectors: 1M control steps, of which an action lasts two."""

SIMULUS_A = dataclasses.replace(
    vary(
        vary(SIMULUS, "world_model", backbone="post-norm", shortest_window=0.0, longest_window=0.0),
        "dream",
        context_blocks=2,
    ),
    preset="simulus-a",
    tokenizer=dataclasses.replace(SIMULUS.tokenizer, kind="fsq"),
)
"""Its later version: attention and FSQ; a dream's first prediction is from 3 blocks."""

EASIMULUS = dataclasses.replace(vary(SIMULUS, "world_model", events=True, segment_length=15), preset="easimulus")
"""Event prediction on top (arXiv 2601.19336)."""

ITC = dataclasses.replace(vary(SIMULUS, "world_model", copy_or_sample=True), preset="itc")
"""Copy or sample in dreams on top (arXiv 2605.16457): nothing is trained otherwise."""

BEST = Config(
    preset="best",
    world_model=WorldModelConfig(head="norm"),
    actor_critic=ActorCriticConfig(value_head="symlog", separate=True, trunk="norm"),
)
"""The paper, for one GPU, with the ingredients that were better while learning on a problem of the ablation and worse
on none (docs/ablations.md). No complete run on a game yet."""

CONTROL = Config(
    preset="control",
    epochs=200,
    checkpoint_every=10,
    env=EnvConfig(id="dmc:cartpole-swingup"),
    tokenizer=TokenizerConfig(kind="dictionary", code_width=32, stretched=True),
    world_model=WorldModelConfig(
        width=64, layers=2, heads=2, segment_length=16, local_prediction=True, outcome_from="frame", dropout=0.0,
        head="norm", reward_head="symlog", slot_embedding=True,  # numbers of any size, and slots that differ (Simulus)
    ),
    actor_critic=ActorCriticConfig(lstm_width=128, separate=True, trunk="norm", value_head="symlog"),
    dream=DreamConfig(
        horizon=16, burn_in=4, mask_after_end=True, discount=0.99, centre_advantage=True, scale_advantage=True,
        entropy_weight=0.01, reuse=4, minibatches=4,
    ),
    collect=CollectConfig(steps=500, last_epoch=1_000_000, epsilon=0.0),
    training=TrainingConfig(
        tokenizer=PhaseConfig(1, 1, 512, 1e-3, 0.01, 10.0),
        world_model=PhaseConfig(3, 100, 32, 1e-3, 0.05, 3.0, decayed="matrices"),
        actor_critic=PhaseConfig(8, 20, 64, 3e-4, 0.01, 3.0),
    ),
    evaluation=EvalConfig(episodes=20, every=20, episodes_during=5),
)  # fmt: skip
"""For features: one token each."""

GRID = dataclasses.replace(
    vary(vary(CONTROL, "world_model", segment_length=8), "dream", horizon=10, discount=0.97),
    preset="grid",
    env=EnvConfig(id="minatar:Breakout"),
    tokenizer=TokenizerConfig(kind="dictionary", codebook_size=256, code_width=64, map_cells=2),
    training=dataclasses.replace(
        CONTROL.training, world_model=PhaseConfig(3, 50, 32, 1e-3, 0.05, 3.0, decayed="matrices")
    ),
)
"""For maps of cells."""

PRESETS: dict[str, Config] = {
    c.preset: c
    for c in (REM, SIMULUS, SIMULUS_DMC, SIMULUS_A, EASIMULUS, ITC, BEST, CPU, NIGHT, CONTROL, GRID, TOY, TINY)
}


def preset(name: str) -> Config:
    """A preset by name, varied by the ablations behind it.

    Raises ConfigError naming the nearest ones, or what a preset does not have that is to be cut.
    """
    if name in PRESETS:
        return PRESETS[name]
    for change, apply in (CUTS | ABLATIONS).items():  # -no-fsq ends with -fsq
        base = name.removesuffix(f"-{change}")
        if base != name:
            whole = preset(base)
            if change in CUTS and apply(whole) == whole:
                raise ConfigError(f"preset {base} has nothing that -{change} could cut")
            return dataclasses.replace(apply(whole), preset=name)
    names = [*PRESETS, *(f"{base}-{change}" for base in PRESETS for change in (*ABLATIONS, *CUTS))]
    raise ConfigError(f"unknown preset {name!r}; nearest: {nearest(name, names, few=PRESETS)}")
