"""Configs of older formats in the words of today's: what is read from a run folder means what it meant when written."""

from __future__ import annotations

from typing import Any

from tokendream.config.env import EnvConfig

SINCE_1 = {
    "kernels": False,
    "capture": False,
    "env.step_timeout": 0.0,
    "env.atari.frames": "ale",
    "world_model.prediction_token_std": 0.02,
    "world_model.scored_starts": False,
    "dream.context_starts": False,
    "training.cache_tokens": False,
}
"""Fields that came while format 1 was written, and what the code did before it had them, where that is not today's
default."""

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
    training = data["training"]
    if isinstance(training, dict) and isinstance(training.get("world_model"), dict):
        training["world_model"].setdefault("decayed", "matrices")  # where a config has that phase
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
    if data.get("control") == "dealt-rewards":
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
