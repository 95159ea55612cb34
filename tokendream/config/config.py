"""Everything that determines a run, and its JSON.

Sizes that follow from others are properties. Facts learnt at run time (the number of actions, the device found) are
never written back into a config.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from tokendream.config import limits, ranges
from tokendream.config.env import EnvConfig
from tokendream.config.old_formats import from_format_1
from tokendream.config.parsing import read
from tokendream.config.parts import (
    ActorCriticConfig,
    CollectConfig,
    Control,
    DreamConfig,
    TokenizerConfig,
    WorldModelConfig,
)
from tokendream.config.ranges import LARGEST_SEED, Count, Range
from tokendream.config.training import EvalConfig, TrainingConfig
from tokendream.errors import ConfigError, shorten

FORMAT = 2
"""Version of the config's JSON; a file with another number is refused by name."""


@dataclass(frozen=True)
class Config:
    """Everything that determines a run, apart from the machine."""

    preset: str = "rem"
    """Name of the preset that this config starts from."""
    seed: Annotated[int, Range(0, LARGEST_SEED)] = 0
    """Seed of every random number of the run."""
    epochs: Count = 600
    """Training cycles."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """Matrix products in bf16 or float32; auto takes bf16 where it is faster (`tokendream machine` says)."""
    kernels: bool = True
    """On a CPU with a C++ compiler, compute what lies between matrix products by compiled kernels of our own, where
    they are faster than PyTorch's operators."""
    capture: bool = True
    """Whether a GPU captures each update as one CUDA graph and replays it: the same numbers, launched at once."""
    compile: bool = False
    """Let torch.compile compile what an update computes, which takes a minute at its start; no gain on a CPU."""
    deterministic: bool = False
    """Whether a run on a GPU repeats itself to the bit, at some cost; a run on a CPU always does."""
    log: Literal["tensorboard", "wandb"] = "tensorboard"
    """wandb sends the figures of every epoch there too, beside TensorBoard and metrics.jsonl, which are always written;
    it needs the extra of that name: pip install 'tokendream[wandb]'."""
    control: Control = "none"
    """A link cut on purpose, to see that nothing is learnt without it: M is trained on other steps' actions, dreams
    pay nothing or another dream's rewards, C sees no frame."""
    checkpoint_every: Count = 10
    """Epochs between checkpoints; one is also written at the end, on Ctrl-C and after 15 minutes without one."""
    env: EnvConfig = field(default_factory=EnvConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    world_model: WorldModelConfig = field(default_factory=WorldModelConfig)
    actor_critic: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    dream: DreamConfig = field(default_factory=DreamConfig)
    collect: CollectConfig = field(default_factory=CollectConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvalConfig = field(default_factory=EvalConfig)

    @property
    def tokens_per_frame(self) -> int:
        """K where an observation is one image."""
        return (self.env.size >> self.tokenizer.downsamples) ** 2

    @property
    def env_steps(self) -> int:
        """Env steps that the whole run collects."""
        return self.collect.steps * min(self.epochs, self.collect.last_epoch)

    @property
    def kept_steps(self) -> int:
        """Those that the replay buffer holds at the end."""
        return min(self.collect.capacity, self.env_steps)

    @property
    def env_name(self) -> str:
        """What the agent plays, as people call it."""
        return self.env.label

    def __post_init__(self) -> None:
        ranges.check(self)
        limits.check_frame(self.env, self.tokenizer)
        limits.check_env(self.env)
        limits.check_world_model(self.world_model)
        limits.check_dream(self.dream, self.world_model, self.training.actor_critic.batch)
        limits.check_control(self.control, self.dream)
        limits.check_training(self.training, self.world_model)
        limits.check_capacity(self.collect, self.dream, self.world_model)

    def to_json(self) -> str:
        """The config as JSON text, with the format's version."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=2) + "\n"

    @staticmethod
    def from_json(text: str) -> Config:
        """Read `to_json`'s text, or an older one's. Raises ConfigError naming what is unknown or of another type."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"config is not JSON: {error}") from None
        if not isinstance(data, dict):
            raise ConfigError(f"config must be a JSON object, not {type(data).__name__}")
        version = data.pop("format", None)
        if version not in (1, FORMAT):
            raise ConfigError(f"config has format {shorten(version)}; this tokendream reads formats 1 and {FORMAT}")
        return read(Config, from_format_1(data) if version == 1 else data, "config")


def vary(config: Config, part: str, **changes: Any) -> Config:
    """The config with other values in one of its parts."""
    return dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **changes)})


def leaves(group: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The fields of a config as a dict, parts of parts too, by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in group.items():
        found |= leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found
