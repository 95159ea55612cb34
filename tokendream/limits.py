"""What every config must keep to beyond the ranges that stand in `config`: finite numbers, sizes that a machine can
count, and combinations that would only fail once a run is under way.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from tokendream.plain import require

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
