"""What stands behind a preset's name: ablations, other backbones and tokenizers, and cuts of ingredients."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from tokendream.config.config import Config, vary

OF_POP: dict[str, Any] = {"local_prediction": False, "outcome_from": "action", "copy_or_sample": False}
"""What POP alone has: it goes with POP."""

NO_WINDOWS: dict[str, Any] = {"shortest_window": 0.0, "longest_window": 0.0}
"""Attention does not decay."""

ABLATIONS: dict[str, Callable[[Config], Config]] = {
    "no-pop": lambda c: vary(c, "world_model", decoding="token", **OF_POP),
    "coarse-tokens": lambda c: vary(c, "tokenizer", downsamples=c.tokenizer.downsamples + 1),  # 4x4 in rem, 3x3 in cpu
    "own-embedding": lambda c: vary(c, "world_model", own_embedding=True),
    "no-action-inputs": lambda c: vary(c, "actor_critic", action_inputs=False),
    "pixels": lambda c: vary(c, "actor_critic", sees="pixels"),
    "one-prediction-token": lambda c: vary(c, "world_model", shared_prediction_token=True),
    "transformer": lambda c: vary(c, "world_model", backbone="transformer", **NO_WINDOWS),
    "fsq": lambda c: vary(c, "tokenizer", kind="fsq"),
    "dictionary": lambda c: vary(c, "tokenizer", kind="dictionary"),
    "pretrained": lambda c: vary(c, "tokenizer", kind="pretrained"),
}
"""The paper's ablations, the other backbone and the other tokenizers: a change of one field, and what goes with it."""


def _alone(config: Config) -> Config:
    """As many dreams, each from a start of its own."""
    C = config.training.actor_critic
    alone = dataclasses.replace(C, batch=C.batch * config.dream.group)
    return vary(vary(config, "dream", group=1), "training", actor_critic=alone)


def _no_events(config: Config) -> Config:
    """Its segments of 15 blocks came with it."""
    length = Config().world_model.segment_length
    return vary(config, "world_model", events=False, segment_length=length) if config.world_model.events else config


def _signs(config: Config, head: str) -> Config:
    """Rewards as their signs where it learns them by this head."""
    return vary(config, "world_model", reward_head="sign") if config.world_model.reward_head == head else config


def _no_sign_rewards(config: Config) -> Config:
    atari = dataclasses.replace(config.env.atari, sign_rewards=False)
    return vary(config, "env", atari=atari)


CUTS: dict[str, Callable[[Config], Config]] = {
    "no-windows": lambda c: vary(c, "world_model", **NO_WINDOWS),
    "no-slot-embedding": lambda c: vary(c, "world_model", slot_embedding=False),
    "no-symlog-rewards": lambda c: _signs(c, "symlog"),
    "no-symlog-values": lambda c: vary(c, "actor_critic", value_head="scalar"),
    "no-seen": lambda c: _signs(c, "seen"),
    "no-late-outcome": lambda c: vary(c, "world_model", outcome_from="action"),
    "no-replay-by-loss": lambda c: vary(c, "world_model", by_loss=0.0),
    "no-copy-or-sample": lambda c: vary(c, "world_model", copy_or_sample=False),
    "no-events": _no_events,
    "no-curiosity": lambda c: vary(vary(c, "dream", curiosity=0.0), "world_model", ensemble=0),
    "no-quantiles": lambda c: vary(c, "dream", scale_by_quantiles=False),
    "no-group": _alone,
    "no-rewarded-segments": lambda c: vary(c, "world_model", rewarded_segments=0.0),
    "no-logit-adjustment": lambda c: vary(c, "world_model", logit_adjustment=False),
    "no-rare-rewards": lambda c: vary(c, "training", rare_rewards=0.0),
    "no-rewarded-starts": lambda c: vary(c, "dream", rewarded_starts=0.0),
    "no-reward-heads": lambda c: vary(c, "world_model", reward_heads=1),
    "no-sticky-actions": lambda c: vary(c, "collect", sticky_actions=0.0),
    "no-norms": lambda c: vary(vary(c, "world_model", head="relu"), "actor_critic", trunk="silu"),
    "no-attention": lambda c: vary(c, "world_model", backbone="retnet"),
    "no-fsq": lambda c: vary(c, "tokenizer", kind="vq") if c.tokenizer.kind == "fsq" else c,
    "no-long-context": lambda c: vary(c, "dream", context_blocks=1),
    "no-separate": lambda c: vary(c, "actor_critic", separate=False),
    "no-sign-rewards": _no_sign_rewards,
}
"""What cuts one ingredient out of a preset that has it."""
