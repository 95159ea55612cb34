import dataclasses
import json
import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from tokendream.config.config import Config
from tokendream.config.env import FAMILIES, EnvConfig
from tokendream.config.parts import WorldModelConfig
from tokendream.config.presets import PRESETS, REM, preset
from tokendream.config.ranges import Range
from tokendream.config.training import PhaseConfig
from tokendream.envs import registry
from tokendream.errors import ConfigError

SOURCE = "\n".join(
    path.read_text()
    for path in (Path(__file__).parents[1] / "tokendream").rglob("*.py")
    if path.name not in ("config.py", "parts.py", "presets.py")
)


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name):
    assert Config.from_json(preset(name).to_json()) == preset(name)
    assert preset(name).preset == name


def fields(cls):
    for f in dataclasses.fields(cls):
        kind = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        if dataclasses.is_dataclass(kind):
            yield from fields(type(kind))
        else:
            yield f.name


@pytest.mark.parametrize("name", sorted({*fields(Config), *fields(PhaseConfig)}))
def test_every_field_is_read_by_somebody(name):
    """No key is swallowed silently."""
    assert re.search(rf"\.{name}\b", SOURCE)


@pytest.mark.parametrize(
    "cls", [Config, *(type(v) for v in vars(REM).values() if dataclasses.is_dataclass(v)), PhaseConfig]
)
def test_every_number_says_what_it_may_be(cls):
    hints = get_type_hints(cls, include_extras=True)
    for f in dataclasses.fields(cls):
        if get_type_hints(cls)[f.name] in (int, float):
            assert any(isinstance(a, Range) for a in get_args(hints[f.name])), f.name


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (2**31, "epochs must be at most 2147483647, not 2147483648"),
        (-1, "epochs must be at least 1, not -1"),
    ],
)
def test_whole_numbers_are_counted_in_32_bits(value, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(REM, epochs=value)


def test_a_seed_may_be_larger():
    assert dataclasses.replace(REM, seed=2**62).seed == 2**62
    with pytest.raises(ConfigError, match=f"seed must be between 0 and {2**62}"):
        dataclasses.replace(REM, seed=2**62 + 1)


@pytest.mark.parametrize(
    ("id", "family", "name"),
    [
        ("atari:Breakout", "atari", "Breakout"),
        ("Breakout", "atari", "Breakout"),
        ("ms_pacman", "atari", "ms_pacman"),
        ("CartPole-v1", "gym", "CartPole-v1"),
        ("gym:CartPole-v1", "gym", "CartPole-v1"),
        ("gym:Breakout", "gym", "Breakout"),
        ("tokendream/Catch-v0", "gym", "tokendream/Catch-v0"),
        ("my_package.envs:Game-v0", "gym", "my_package.envs:Game-v0"),
        ("gym:my_package:Game-v0", "gym", "my_package:Game-v0"),
        ("gym:atari:Game-v0", "gym", "atari:Game-v0"),
        ("dmc:walker-walk", "dmc", "walker-walk"),
        ("minatar:Breakout", "minatar", "Breakout"),
        ("gym:minigrid:MiniGrid-Empty-5x5-v0", "gym", "minigrid:MiniGrid-Empty-5x5-v0"),
    ],
)
def test_one_string_names_any_environment(id, family, name):
    """A prefix that is no family is a module to import; `gym:` forces that."""
    config = dataclasses.replace(REM, env=EnvConfig(id))
    assert (config.env.family, config.env.name) == (family, name)
    assert config.env_name == (name if EnvConfig(name).family == family else id)
    assert EnvConfig(config.env_name).family == family
    assert config.env.game == (name if family == "atari" else None)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"kwargs": "[1]"}, r'env\.kwargs must be a JSON object, such as {"size": 8}, not \'\[1\]\''),
        ({"kwargs": "{size: 8}"}, r"env\.kwargs must be a JSON object"),
        ({"wrappers": "Wrapper"}, r"env\.wrappers must be module:Wrapper, or several with commas between them"),
        ({"id": "Pong", "action_repeat": 4}, r"env\.action_repeat must be 0 for an Atari game, not 4"),
        ({"id": "Pong", "keys": "ram"}, r"env\.keys must be '' for an Atari game, not 'ram'"),
        ({"id": "Pong", "read_as": "map"}, r"env\.read_as must be 'auto' for an Atari game, not 'map'"),
    ],
)
def test_a_protocol_that_makes_no_sense_is_refused(env, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(REM, env=EnvConfig(**{"id": "CartPole-v1", **env}))


def test_the_registry_has_every_family():
    assert tuple(registry.FAMILIES) == FAMILIES


def test_derived_sizes_are_the_papers():
    assert REM.tokens_per_frame == 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"env": EnvConfig(size=20)}, "tokenizer.downsamples must be such that a 20-pixel frame"),
        ({"world_model": WorldModelConfig(width=30)}, "world_model.width must be a multiple of 8"),
        ({"world_model": WorldModelConfig(dropout=1.0)}, "world_model.dropout must be between 0 and 0.95"),
        (
            {"world_model": WorldModelConfig(decoding="token", shared_prediction_token=True)},
            "world_model.shared_prediction_token must be false where world_model.decoding is token",
        ),
        ({"world_model": WorldModelConfig(context=10)}, "segment_length must be greater than world_model.context"),
    ],
)
def test_what_cannot_run_is_refused_naming_the_field(changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        dataclasses.replace(REM, **changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["training"]["tokenizer"].pop("batch"), "config.training.tokenizer.batch is missing"),
        (lambda d: d["dream"].update(horizn=3), "config.dream.horizn is unknown; nearest: horizon"),
        (lambda d: d["dream"].update(horizon=True), "config.dream.horizon must be of type int"),
        (lambda d: d.update(dream=[1]), "config.dream must be an object, not list"),
        (lambda d: d.update(format=3), "config has format 3; this tokendream reads formats 1 and 2"),
        (lambda d: d.update(precision="fp8"), "config.precision must be one of auto, bf16, float32"),
        (lambda d: d["world_model"].update(backbone="rwkv"), "world_model.backbone must be one of retnet, transformer"),
        (lambda d: d["world_model"].update(decoding="pops"), "config.world_model.decoding must be one of pop, token"),
        (lambda d: d["actor_critic"].update(sees="frames"), "config.actor_critic.sees must be one of codes, pixels"),
    ],
)
def test_a_wrong_file_is_refused_naming_the_field(change, message):
    data = json.loads(REM.to_json())
    change(data)
    with pytest.raises(ConfigError, match=re.escape(message)):
        Config.from_json(json.dumps(data))


def test_what_an_older_version_wrote_can_be_read():
    """A field that came later takes its default."""
    data = json.loads(dataclasses.replace(REM, seed=3).to_json())
    del data["control"], data["world_model"]["token_temperature"]
    assert Config.from_json(json.dumps(data)) == dataclasses.replace(REM, seed=3)


def test_what_the_paper_does_not_have_is_off_in_rem():
    rem = REM
    assert rem.tokenizer.network == "conv"
    assert rem.control == "none"
    assert not rem.deterministic
    assert rem.tokenizer.revive_after == 0
    assert rem.tokenizer.changed_weight == 0
    assert rem.tokenizer.lost_weight == 0
    assert not rem.world_model.copy_head
    assert rem.world_model.token_temperature == 1
    assert (rem.world_model.backbone, rem.world_model.decoding) == ("retnet", "pop")
    assert not rem.world_model.own_embedding
    assert not rem.world_model.shared_prediction_token
    assert not rem.world_model.local_prediction
    assert rem.world_model.outcome_from == "action"
    assert rem.actor_critic.action_inputs
    assert rem.actor_critic.sees == "codes"
    assert not rem.dream.centre_advantage
    assert not rem.dream.scale_advantage
    assert rem.dream.reuse == 1
    assert rem.collect.temperature == 1
    assert not rem.dream.mask_after_end
