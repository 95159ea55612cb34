"""Configs of format 1: those in results/, and what each old name and each missing field means today."""

import json
from pathlib import Path

import pytest

from tokendream.config.config import Config, leaves
from tokendream.config.presets import REM, TINY
from tokendream.errors import ConfigError

RESULTS = sorted((Path(__file__).parents[1] / "results").rglob("config.json"))
FIRST = [path for path in RESULTS if json.loads(path.read_text())["format"] == 1]
MOVED = {
    "env.frame_skip": "env.atari.frame_skip",
    "env.noop_max": "env.atari.noop_max",
    "env.eval_noop_max": "env.atari.eval_noop_max",
    "env.life_loss_ends": "env.atari.life_loss_ends",
    "world_model.stay": "world_model.copy_head",
}

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
    "tokenizer.stretched": False,
    "tokenizer.tap": 2,
    "world_model.token_temperature": 1.0,
    "world_model.copy_or_sample": False,
    "world_model.events": False,
    "world_model.ensemble": 0,
    "dream.curiosity": 0.0,
    "dream.reward_weight": 1.0,
    "dream.expected_reward": False,
    "dream.group": 1,
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
    "dream.rewarded_starts": 0.0,
    "collect.sticky_actions": 0.0,
    "world_model.reward_heads": 1,
    "world_model.rewarded_segments": 0.0,
    "world_model.logit_adjustment": False,
    "world_model.ema_decay": 0.0,
    "training.rare_rewards": 0.0,
    "collect.forget_every_epoch": False,
}
"""Fields that came while format 1 was written, and what the code did before it had them."""

PHASES_SINCE_1 = {
    part: {"decayed": decayed, "newest": 0.0, "optimiser": "adamw"}
    for part, decayed in {"tokenizer": "all", "world_model": "matrices", "actor_critic": "all"}.items()
}
"""The same of the phases, each of which had these fields only where a config has the phase."""


def old(**changes):
    """A config of format 1 with a few fields, the rest as they were when format 1 began."""
    training = json.loads(REM.to_json())["training"]
    del training["cache_tokens"]
    for part, fields in PHASES_SINCE_1.items():
        for name in fields:
            del training[part][name]
    return {"format": 1, "preset": "rem", "training": training, **changes}


def read(data):
    return Config.from_json(json.dumps(data))


@pytest.mark.parametrize("path", FIRST, ids=lambda path: path.parent.name)
def test_what_lies_in_results_means_what_it_meant(path):
    data = json.loads(path.read_text())
    assert data.pop("format") == 1
    config = Config.from_json(path.read_text())
    now, then = leaves(json.loads(config.to_json())), leaves(data)
    folder = path.parent.name
    assert config.env_name == ("tokendream/Catch-v0" if folder.startswith("Catch") else folder.split("-")[0])
    assert config.env.game == (None if folder.startswith("Catch") else folder.split("-")[0])
    assert config.control == ("shuffled-rewards" if "dealt" in folder else then.get("control", "none"))
    for name in then.keys() - {"game", "env_id", "control"}:
        assert now.pop(MOVED.get(name, name)) == then[name], name
    assert now.pop("world_model.width") == then["tokenizer.code_width"]
    phases = {f"training.{part}.{name}": x for part, fields in PHASES_SINCE_1.items() for name, x in fields.items()}
    since = SINCE_1 | phases
    for name in now.keys() - {"format", "env.id", "control"}:
        assert now[name] == since[name], f"{name} was not there: it has its old meaning, whatever its default is"


@pytest.mark.parametrize("path", sorted({*RESULTS} - {*FIRST}), ids=lambda path: path.parent.name)
def test_what_lies_there_in_today_s_format_means_what_it_meant(path):
    then, now = leaves(json.loads(path.read_text())), leaves(json.loads(Config.from_json(path.read_text()).to_json()))
    assert then["format"] == 2
    assert {name: now[name] for name in then} == then
    assert {name: now[name] for name in now.keys() - then} == {name: SINCE_1[name] for name in now.keys() - then}


def test_the_31_runs_are_there():
    assert len(FIRST) == 31


def test_a_first_config_ran_without_what_came_later():
    config = read(old())
    assert (config.control, config.world_model.backbone, config.collect.temperature) == ("none", "retnet", 1.0)
    assert not any([config.kernels, config.capture, config.training.cache_tokens])
    assert (config.world_model.prediction_token_std, config.training.world_model.decayed) == (0.02, "matrices")
    assert not config.world_model.scored_starts
    assert not config.dream.context_starts
    assert config.env.step_timeout == 0  # nothing watched an environment


@pytest.mark.parametrize(
    ("game", "env_id", "id", "family", "name"),
    [
        ("ms_pacman", "", "atari:ms_pacman", "atari", "ms_pacman"),
        ("Breakout", "tokendream/Catch-v0", "tokendream/Catch-v0", "gym", "tokendream/Catch-v0"),
        ("Breakout", "my.module:Game-v3", "my.module:Game-v3", "gym", "my.module:Game-v3"),
        ("Breakout", "Game", "gym:Game", "gym", "Game"),
        ("Breakout", "atari:Game-v0", "gym:atari:Game-v0", "gym", "atari:Game-v0"),
    ],
)
def test_game_and_env_id_became_one_string(game, env_id, id, family, name):
    env = read(old(game=game, env_id=env_id)).env
    assert (env.id, env.family, env.name) == (id, family, name)


def test_an_older_run_s_world_model_is_as_wide_as_its_codes():
    assert read(old(tokenizer={"code_width": 64})).world_model.width == 64


def test_old_words():
    config = read(old(control="dealt-rewards", world_model={"stay": True}, env={"noop_max": 7, "size": 48}))
    assert config.control == "shuffled-rewards"
    assert config.world_model.copy_head
    assert (config.env.atari.noop_max, config.env.size) == (7, 48)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env": 3}, "config.env must be an object, not int"),
        ({"dream": [1]}, "config.dream must be an object, not list"),
        ({"game": 3}, "config.env.id must be of type str"),
        ({"env_id": ["a"]}, "config.env.id must be of type str"),
        ({"control": {}}, "config.control must be one of none"),
        ({"env": {"noop_max": "x"}}, "config.env.atari.noop_max must be of type int"),
        ({"world_model": {"stya": True}}, "config.world_model.stya is unknown"),
    ],
)
def test_a_wrong_old_config_is_refused_in_one_line(changes, message):
    with pytest.raises(ConfigError, match=message):
        read(old(**changes))


def test_old_names_are_unknown_in_a_new_config():
    data = json.loads(TINY.to_json())
    with pytest.raises(ConfigError, match=r"config\.env_id is unknown"):
        read(data | {"env_id": "tokendream/Catch-v0"})
