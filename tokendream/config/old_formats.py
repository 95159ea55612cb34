"""Configs of older formats in the words of today's: what is read from a run folder means what it meant when written."""

from __future__ import annotations

from typing import Any

from tokendream.config.env import EnvConfig

SINCE_1 = {
    "control": "none",
    "kernels": False,
    "capture": False,
    "compile": False,
    "deterministic": False,
    "env.step_timeout": 0.0,
    "env.action_repeat": 0,
    "env.kwargs": "{}",
    "env.wrappers": "",
    "env.keys": "",
    "env.read_as": "auto",
    "env.atari.frames": "ale",
    "env.atari.noop_after_life_loss": False,
    "env.atari.time_limit_ends": False,
    "env.atari.sign_rewards": False,
    "tokenizer.kind": "vq",
    "tokenizer.lost_weight": 0.0,
    "tokenizer.map_cells": 1,
    "tokenizer.tap": 2,
    "world_model.token_temperature": 1.0,
    "world_model.copy_or_sample": False,
    "world_model.events": False,
    "world_model.ensemble": 0,
    "dream.curiosity": 0.0,
    "dream.reward_weight": 1.0,
    "world_model.backbone": "retnet",
    "world_model.decoding": "pop",
    "world_model.own_embedding": False,
    "world_model.shortest_window": 0.0,
    "world_model.longest_window": 0.0,
    "world_model.positions": "running",
    "world_model.slot_embedding": False,
    "world_model.by_loss": 0.0,
    "world_model.reward_head": "sign",
    "world_model.head": "relu",
    "actor_critic.separate": False,
    "actor_critic.trunk": "silu",
    "actor_critic.value_head": "scalar",
    "dream.scale_by_quantiles": False,
    "world_model.shared_prediction_token": False,
    "world_model.local_prediction": False,
    "world_model.outcome_from": "action",
    "world_model.logits_from_codes": False,
    "dream.reuse": 1,
    "dream.minibatches": 1,
    "log": "tensorboard",
    "actor_critic.action_inputs": True,
    "actor_critic.sees": "codes",
    "dream.scale_advantage": False,
    "collect.temperature": 1.0,
    "collect.envs": 1,
    "training.cache_tokens": False,
    "world_model.prediction_token_std": 0.02,
    "world_model.scored_starts": False,
    "dream.context_starts": False,
    "dream.context_blocks": 1,
    "collect.forget_every_epoch": False,
}
"""Fields that came while format 1 was written, and what the code did before it had them."""

PHASES_SINCE_1 = {
    part: {"decayed": decayed, "newest": 0.0, "optimiser": "adamw"}
    for part, decayed in {"tokenizer": "all", "world_model": "matrices", "actor_critic": "all"}.items()
}
"""The same of the phases, each of which had these fields only where a config has the phase."""

MOVED = {
    **{f"env.{name}": f"env.atari.{name}" for name in ("frame_skip", "noop_max", "eval_noop_max", "life_loss_ends")},
    "world_model.stay": "world_model.copy_head",
}


def from_format_1(data: dict[str, Any]) -> dict[str, Any]:
    """The data of a format 1 config, changed into format 2; what is wrong in it is left for the reader to refuse.

    `env_id`, which won where it was given, and `game` are one string now; Atari's protocol is a part of its own.
    """
    for path, value in SINCE_1.items():
        group, name = _group(data, path)
        group.setdefault(name, value)
    for part, fields in PHASES_SINCE_1.items():
        phase = data["training"].get(part) if isinstance(data.get("training"), dict) else None
        if isinstance(phase, dict):
            for name, value in fields.items():
                phase.setdefault(name, value)
    for old, new in MOVED.items():
        group, name = _group(data, old)
        if name in group:
            target, new_name = _group(data, new)
            target[new_name] = group.pop(name)
    game, env_id = data.pop("game", "Breakout"), data.pop("env_id", "")
    group, name = _group(data, "env.id")
    group[name] = _id(game, env_id)
    M, V = data.get("world_model"), data.get("tokenizer")
    if isinstance(M, dict) and isinstance(V, dict) and "code_width" in V:
        M.setdefault("width", V["code_width"])  # M was as wide as the codes that it shared
    if data["control"] == "dealt-rewards":
        data["control"] = "shuffled-rewards"
    return data


def _id(game: object, env_id: object) -> object:
    if env_id == "":
        return f"atari:{game}" if isinstance(game, str) else game
    # Every id was Gymnasium's, also one that looks like a game now.
    return f"gym:{env_id}" if isinstance(env_id, str) and EnvConfig(env_id).family != "gym" else env_id


def _group(data: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """The object that holds a dotted field, made where it is missing, and the field's name in it."""
    *way, name = path.split(".")
    for part in way:
        inner = data.setdefault(part, {})
        data = inner if isinstance(inner, dict) else {}
    return data, name
