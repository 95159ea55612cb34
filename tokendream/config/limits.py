"""What every config must keep to: ranges, finite numbers, sizes that a machine can count, and combinations that would
only fail once a run is under way.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

from tokendream.errors import require

LARGEST = 2**31 - 1
"""Largest whole number in a config; torch and ALE count in 32 bits in places."""

LARGEST_SEED = 2**62
"""Torch takes seeds below 2^64, and a run derives some of its own by adding epochs to its seed."""

LONGEST_BLOCK = 768
"""Tokens of a block that retention takes at once; beyond it float32 cannot hold its decays."""

SMALLEST_FRAME = {"vgg16": 16, "alexnet": 31, "none": 0}
"""Pixels below which a network of the LPIPS loss has a pooling with nothing left to pool."""


def check(config: Any) -> None:
    """Raise ConfigError, naming the field, for a `Config` that cannot be run to its end."""
    _check_numbers(config, "")
    _check_ranges(config)
    V, size = config.tokenizer, config.env.size
    require(V.downsamples <= 16, "tokenizer.downsamples", "at most 16", V.downsamples)
    tokens = (size >> max(V.downsamples, 0)) ** 2
    require(tokens < LONGEST_BLOCK, "tokenizer.downsamples", f"such that a frame of {size} pixels is at most "
            f"{LONGEST_BLOCK - 1} tokens", V.downsamples)  # fmt: skip
    least = SMALLEST_FRAME[V.perceptual]
    require(size >= least, "env.size", f"at least {least} for tokenizer.perceptual {V.perceptual}", size)
    for where, value in (
        ("tokenizer.perceptual_weight", V.perceptual_weight),
        ("tokenizer.changed_weight", V.changed_weight),
        ("tokenizer.lost_weight", V.lost_weight),
        ("env.step_timeout", config.env.step_timeout),
    ):
        require(value >= 0, where, "non-negative", value)
    require(config.collect.last_epoch >= 1, "collect.last_epoch", "at least 1", config.collect.last_epoch)
    for name in ("tokenizer", "world_model", "actor_critic"):
        last = getattr(config.training, name).last_epoch
        require(last >= 0, f"training.{name}.last_epoch", "at least 0, which is never", last)


def _check_numbers(group: Any, prefix: str) -> None:
    for f in dataclasses.fields(group):
        value, where = getattr(group, f.name), prefix + f.name
        if dataclasses.is_dataclass(value):
            _check_numbers(value, f"{where}.")
        elif isinstance(value, float):
            require(math.isfinite(value), where, "finite", value)
        elif type(value) is int:
            high = LARGEST_SEED if where == "seed" else LARGEST
            require(abs(value) <= high, where, f"at most {high}", value)


def _check_ranges(config: Any) -> None:
    for low, names in (
        (0, "tokenizer.revive_after evaluation.every"),
        (1, "epochs checkpoint_every env.frame_skip env.noop_max env.eval_noop_max env.max_frames "
            "env.eval_max_frames tokenizer.downsamples world_model.layers world_model.heads world_model.ffn_factor "
            "world_model.context actor_critic.lstm_width dream.burn_in collect.steps evaluation.episodes "
            "evaluation.episodes_during"),
        (2, "tokenizer.codebook_size dream.horizon"),
        (4, "tokenizer.code_width"),
        (8, "env.size"),
    ):  # fmt: skip
        for name in names.split():
            value = functools.reduce(getattr, name.split("."), config)
            require(value >= low, name, f"at least {low}", value)
    for where, rate, high in (
        ("world_model.dropout", config.world_model.dropout, 0.95),
        ("dream.discount", config.dream.discount, 1.0),
        ("dream.lam", config.dream.lam, 1.0),
        ("collect.epsilon", config.collect.epsilon, 1.0),
    ):
        require(0 <= rate <= high, where, f"between 0 and {high:g}", rate)
    require(config.seed >= 0, "seed", "a non-negative integer", config.seed)
    require(config.dream.entropy_weight >= 0, "dream.entropy_weight", "non-negative", config.dream.entropy_weight)
    M = config.world_model
    require(M.token_temperature > 0, "world_model.token_temperature", "positive", M.token_temperature)
    require(config.collect.temperature > 0, "collect.temperature", "positive", config.collect.temperature)
    require(config.evaluation.temperature > 0, "evaluation.temperature", "positive", config.evaluation.temperature)
    require(config.tokenizer.channels % 8 == 0 and config.tokenizer.channels > 0,
             "tokenizer.channels", "a multiple of 8 (GroupNorm has 8 groups)", config.tokenizer.channels)  # fmt: skip
    require(config.env.size % (1 << config.tokenizer.downsamples) == 0 and config.grid >= 2,
             "tokenizer.downsamples", f"such that a {config.env.size}-pixel frame halves that often to a grid "
             "of 2x2 or more", config.tokenizer.downsamples)  # fmt: skip
    require(config.tokenizer.code_width % (2 * M.heads) == 0, "tokenizer.code_width",
            f"a multiple of {2 * M.heads} (twice world_model.heads)", config.tokenizer.code_width)  # fmt: skip
    require(M.decoding == "pop" or not M.shared_prediction_token, "world_model.shared_prediction_token",
            "false where world_model.decoding is token: there are no prediction tokens",
            M.shared_prediction_token)  # fmt: skip
    require(M.segment_length > M.context, "world_model.segment_length",
            f"greater than world_model.context ({M.context})", M.segment_length)  # fmt: skip
    require(config.collect.capacity > max(config.dream.burn_in, config.world_model.segment_length),
             "collect.capacity", "greater than a segment and the burn-in", config.collect.capacity)  # fmt: skip
    for part in ("tokenizer", "world_model", "actor_critic"):
        phase, where = getattr(config.training, part), f"training.{part}"
        for name, low in (("first_epoch", 1), ("updates", 0), ("batch", 1), ("weight_decay", 0)):
            require(getattr(phase, name) >= low, f"{where}.{name}", f"at least {low}", getattr(phase, name))
        for name in ("learning_rate", "clip"):
            require(getattr(phase, name) > 0, f"{where}.{name}", "positive", getattr(phase, name))
