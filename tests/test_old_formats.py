"""Configs of format 1: those in results/, and what each old name and each missing field means today."""

import json
from pathlib import Path

import pytest

from tokendream.config.config import Config, leaves
from tokendream.config.old_formats import PHASES_SINCE_1, SINCE_1
from tokendream.config.presets import REM, TINY
from tokendream.errors import ConfigError

RESULTS = sorted((Path(__file__).parents[1] / "results").rglob("config.json"))
MOVED = {
    "env.frame_skip": "env.atari.frame_skip",
    "env.noop_max": "env.atari.noop_max",
    "env.eval_noop_max": "env.atari.eval_noop_max",
    "env.life_loss_ends": "env.atari.life_loss_ends",
    "world_model.stay": "world_model.copy_head",
}


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


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.name)
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


def test_the_31_runs_are_there():
    assert len(RESULTS) == 31


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
