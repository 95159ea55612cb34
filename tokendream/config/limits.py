"""Combinations of fields that would only fail once a run is under way; what one number may be stands on its field."""

from __future__ import annotations

import json
import re

from tokendream.config.env import EnvConfig
from tokendream.config.parts import CollectConfig, DreamConfig, TokenizerConfig, WorldModelConfig
from tokendream.config.training import TrainingConfig
from tokendream.errors import require

LONGEST_BLOCK = 768
"""Tokens of a block that retention takes at once; beyond it float32 cannot hold its decays."""

LONG = 300
"""Tokens of a block from which on it is slow: worth a line."""

SMALLEST_FRAME = {"vgg16": 16, "alexnet": 31, "none": 0}
"""Pixels below which a network of the LPIPS loss has a pooling with nothing left to pool."""


def check_frame(env: EnvConfig, tokenizer: TokenizerConfig) -> None:
    """Raise ConfigError unless a frame halves to a grid, and LPIPS can see it."""
    size, grid = env.size, env.size >> tokenizer.downsamples
    require(size % (1 << tokenizer.downsamples) == 0 and grid >= 2, "tokenizer.downsamples",
            f"such that a {size}-pixel frame halves that often to a grid of 2x2 or more",
            tokenizer.downsamples)  # fmt: skip
    V = tokenizer.codebook_size
    require(tokenizer.kind != "fsq" or V & (V - 1) == 0, "tokenizer.codebook_size",
            "a power of two where tokenizer.kind is fsq", V)  # fmt: skip
    require(tokenizer.kind != "pretrained" or tokenizer.tap <= tokenizer.downsamples + 1, "tokenizer.tap",
            f"at most {tokenizer.downsamples + 1}: tap n of VGG16 has halved a frame n - 1 times, the grid of tokens "
            f"{tokenizer.downsamples} times", tokenizer.tap)  # fmt: skip
    require(tokenizer.kind != "pretrained" or size >= SMALLEST_FRAME["vgg16"], "env.size",
            f"at least {SMALLEST_FRAME['vgg16']} for tokenizer.kind pretrained", size)  # fmt: skip
    least = SMALLEST_FRAME[tokenizer.perceptual]
    require(size >= least, "env.size", f"at least {least} for tokenizer.perceptual {tokenizer.perceptual}", size)


def check_env(env: EnvConfig) -> None:
    """Raise ConfigError for kwargs that are no JSON object, wrappers that are no names, and what Atari has not."""
    try:
        is_object = isinstance(json.loads(env.kwargs), dict)
    except (ValueError, RecursionError):
        is_object = False
    require(is_object, "env.kwargs", 'a JSON object, such as {"size": 8}', env.kwargs)
    names = env.wrappers.split(",") if env.wrappers else []
    require(all(re.fullmatch(r"[\w.]+:\w+", name) for name in names), "env.wrappers",
            "module:Wrapper, or several with commas between them", env.wrappers)  # fmt: skip
    for name, none in (("keys", ""), ("read_as", "auto"), ("action_repeat", 0), ("kwargs", "{}"), ("wrappers", "")):
        got = getattr(env, name)
        require(env.family != "atari" or got == none, f"env.{name}", f"{none!r} for an Atari game", got)
    for name in ("noop_after_life_loss", "time_limit_ends", "sign_rewards"):
        wanted = getattr(env.atari, name)
        require(env.atari.frames == "published" or not wanted, f"env.atari.{name}",
                "false where env.atari.frames is ale", wanted)  # fmt: skip


def check_world_model(world_model: WorldModelConfig) -> None:
    """Raise ConfigError for a width that the heads cannot share, and for a segment or ablation of no effect."""
    M = world_model
    require(M.width % (2 * M.heads) == 0, "world_model.width",
            f"a multiple of {2 * M.heads} (twice world_model.heads)", M.width)  # fmt: skip
    require(M.longest_window == 0 or M.shortest_window >= 1, "world_model.shortest_window",
            "at least 1 where there is a world_model.longest_window", M.shortest_window)  # fmt: skip
    require(M.longest_window >= M.shortest_window, "world_model.longest_window",
            f"at least world_model.shortest_window ({M.shortest_window:g})", M.longest_window)  # fmt: skip
    require(M.backbone == "retnet" or M.shortest_window == 0, "world_model.shortest_window",
            f"0 where world_model.backbone is {M.backbone}, which does not decay", M.shortest_window)  # fmt: skip
    for name, why in (("shared_prediction_token", "there are no prediction tokens"),
                      ("copy_or_sample", "a token is drawn given those before it"),
                      ("local_prediction", "there are no prediction tokens")):  # fmt: skip
        require(M.decoding == "pop" or not getattr(M, name), f"world_model.{name}",
                f"false where world_model.decoding is token: {why}", getattr(M, name))  # fmt: skip
    require(M.decoding == "pop" or M.outcome_from == "action", "world_model.outcome_from",
            "action where world_model.decoding is token: the frame comes after them",
            M.outcome_from)  # fmt: skip
    require(not M.events or M.segment_length > M.context + 1, "world_model.segment_length",
            f"greater than world_model.context + 1 ({M.context + 1}) where there are world_model.events",
            M.segment_length)  # fmt: skip
    require(M.segment_length > M.context, "world_model.segment_length",
            f"greater than world_model.context ({M.context})", M.segment_length)  # fmt: skip


def check_dream(dream: DreamConfig, world_model: WorldModelConfig, batch: int) -> None:
    """Raise ConfigError for advantages that would be scaled twice, a context longer than the burn-in, uneven shares,
    an ensemble of one, curiosity without an ensemble, and a choice among rewards where one is drawn.

    `batch`: the starts of an update of C.
    """
    dreams = batch * dream.group
    require(dreams % dream.minibatches == 0, "dream.minibatches",
            f"a divisor of training.actor_critic.batch times dream.group ({dreams})", dream.minibatches)  # fmt: skip
    require(dream.context_blocks <= dream.burn_in, "dream.context_blocks",
            f"at most dream.burn_in ({dream.burn_in})", dream.context_blocks)  # fmt: skip
    require(not (dream.scale_advantage and dream.scale_by_quantiles), "dream.scale_by_quantiles",
            "false where dream.scale_advantage is true", dream.scale_by_quantiles)  # fmt: skip
    heads = world_model.ensemble
    require(heads != 1, "world_model.ensemble", "0 or at least 2: one head disagrees with nobody", heads)
    require(world_model.reward_heads == 1 or dream.expected_reward, "world_model.reward_heads",
            "1 without dream.expected_reward", world_model.reward_heads)  # fmt: skip
    require(heads > 0 or dream.curiosity == 0, "dream.curiosity", "0 without a world_model.ensemble", dream.curiosity)


def check_control(control: str, dream: DreamConfig) -> None:
    """Raise ConfigError for rewards that are cut while dreams pay something else too."""
    if control in ("zero-rewards", "shuffled-rewards"):
        require(dream.curiosity == 0, "dream.curiosity", f"0 with control {control}", dream.curiosity)


def check_training(training: TrainingConfig, world_model: WorldModelConfig) -> None:
    """Raise ConfigError for Muon where there is no backbone, and for segments that would be drawn by two rules."""
    for name in ("tokenizer", "actor_critic"):
        optimiser = getattr(training, name).optimiser
        require(optimiser == "adamw", f"training.{name}.optimiser", "adamw, as only M has a backbone", optimiser)
    by_loss, newest = world_model.by_loss, training.world_model.newest
    require(by_loss == 0 or newest == 0, "training.world_model.newest", "0 with world_model.by_loss", newest)
    rewarded = world_model.rewarded_segments
    require(by_loss == 0 or rewarded == 0, "world_model.rewarded_segments", "0 with world_model.by_loss", rewarded)
    classes = world_model.reward_head != "symlog"
    require(classes or not world_model.logit_adjustment, "world_model.logit_adjustment",
            "false with world_model.reward_head symlog", world_model.logit_adjustment)  # fmt: skip


def check_capacity(collect: CollectConfig, dream: DreamConfig, world_model: WorldModelConfig) -> None:
    """Raise ConfigError for a replay buffer that holds no whole segment or burn-in of an environment, or for an epoch
    that they cannot share.
    """
    n = collect.envs
    require(collect.steps % n == 0, "collect.envs", f"a divisor of collect.steps ({collect.steps})", n)
    require(collect.capacity > n * max(dream.burn_in, world_model.segment_length), "collect.capacity",
            f"greater than a segment and the burn-in{f' of {n} environments' if n > 1 else ''}",
            collect.capacity)  # fmt: skip
