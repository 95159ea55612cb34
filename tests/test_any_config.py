"""Configs that nobody thought of: refused at the start, with the field named, or one epoch runs."""

import contextlib
import dataclasses
import json
import math
import re
import typing
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torture import count
from torture.tally import Tally

from tokendream.agent.agent import Agent
from tokendream.cli.main import main
from tokendream.config.config import Config
from tokendream.config.limits import LONGEST_BLOCK, SMALLEST_FRAME
from tokendream.config.presets import TINY
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute
from tokendream.envs.registry import make
from tokendream.envs.vector import EnvError
from tokendream.errors import ConfigError
from tokendream.nn.retention import decay_scaling
from tokendream.tokenizers.perceptual import read_lpips
from tokendream.training.trainer import Trainer

CHECKS = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


def leaves(group: Any, prefix: str = "") -> dict[str, Any]:
    """Every field of a config by its dotted name, with its value."""
    found: dict[str, Any] = {}
    for f in dataclasses.fields(group):
        value = getattr(group, f.name)
        found |= leaves(value, f"{prefix}{f.name}.") if dataclasses.is_dataclass(value) else {prefix + f.name: value}
    return found


FIELDS = leaves(TINY)


def kind(name: str) -> Any:
    """The annotated type of a field."""
    cls: Any = Config
    *way, last = name.split(".")
    for part in way:
        cls = typing.get_type_hints(cls)[part]
    return typing.get_type_hints(cls)[last]


def changed(values: dict[str, Any]) -> str:
    """TINY as JSON with these fields changed, whatever they are."""
    data = json.loads(TINY.to_json())
    for name, value in values.items():
        group = data
        *way, last = name.split(".")
        for part in way:
            group = group[part]
        group[last] = value
    return json.dumps(data)


SMALL = {
    "env.size": [8, 16, 24, 32], "tokenizer.channels": [8, 16], "tokenizer.downsamples": [1, 2, 3, 4],
    "tokenizer.code_width": [8, 12, 16, 24, 32], "world_model.heads": [1, 2, 3, 4], "collect.steps": [1, 3, 20],
    "world_model.width": [8, 12, 16, 24],
    "tokenizer.perceptual": ["none", "none", "alexnet"], "collect.capacity": [7, 12, 50],
    "env.id": ["tokendream/Catch-v0"], "preset": ["tiny"], "device": ["cpu"], "epochs": [1],
    "seed": [0, 1, 2**61], "env.step_timeout": [0.0, 30.0], "env.max_frames": [1, 2, 10, 20000],
    "env.kwargs": ["{}", "[]"], "env.wrappers": ["", "-"],
}  # fmt: skip
"""Values that keep a run small; other whole numbers are drawn from 1..4."""


def small(name: str) -> st.SearchStrategy[Any]:
    """A value of this field with which a run takes a moment, right or wrong in combination."""
    annotation = kind(name)
    if name in SMALL:
        return st.sampled_from(SMALL[name])
    if typing.get_origin(annotation) is typing.Literal:
        return st.sampled_from(typing.get_args(annotation))
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        return st.integers(0 if "first" not in name else 1, 4)
    return st.floats(0, 1.2, allow_subnormal=False)


@st.composite
def changes(draw: st.DrawFn) -> dict[str, Any]:
    """Up to six fields changed at once; every phase trains in epoch 1."""
    drawn = draw(st.sets(st.sampled_from([n for n in FIELDS if "first_epoch" not in n]), max_size=6))
    return {n: 1 for n in FIELDS if "first_epoch" in n} | {n: draw(small(n)) for n in sorted(drawn)}


def names_a_field(message: str) -> bool:
    """Whether a refusal says which field it is about."""
    return any(re.search(rf"(^|\W){re.escape(name)}(\W|$)", message) for name in FIELDS)


TRAINED = {"trained": 0, "refused": 0}


# What is drawn depends on which modules are loaded, whose constants Hypothesis takes up: a third is trained, or half.
@settings(max_examples=count(80, 450), deadline=None, suppress_health_check=CHECKS, derandomize=True, database=None)
@given(changes())
def draw_and_train(values: dict[str, Any]) -> None:
    """One draw: refused at once by name, or an epoch of it runs and can be saved."""
    torch.manual_seed(0)
    with contextlib.ExitStack() as stack:
        try:
            config = Config.from_json(changed(values | {"epochs": 1}))
            envs = make(config, config.collect.envs, evaluation=False)
            stack.callback(envs.close)
            agent = Agent.from_config(config, envs.spaces)
        except (ConfigError, EnvError) as error:  # what an environment shows may not be read in every way
            assert names_a_field(str(error)), error
            TRAINED["refused"] += 1
            return
        replay = ReplayBuffer.of(envs.spaces, config.collect.capacity, envs=config.collect.envs)
        trainer = Trainer(config, agent, envs, replay, Compute.resolve(config.device, config.precision))
        assert trainer.run_epoch()
        record = trainer.close_epoch()
        trainer.snapshot()
    assert record["env_steps"] == config.collect.steps
    assert all(math.isfinite(v) for v in record.values()), record
    TRAINED["trained"] += 1


def test_every_small_config_trains_or_is_refused_by_name(tally: Tally):
    draw_and_train()
    assert TRAINED["trained"] >= count(20, 200), TRAINED
    tally(
        "random small configs trained one epoch", TRAINED["trained"], 0, f"another {TRAINED['refused']} refused by name"
    )


WRONG = [None, "x", [], {}, -1, 0, 2**40, 10**400, True, -0.5, 1e308, math.nan, math.inf, -math.inf, "\n", [[]]]


@pytest.mark.parametrize("name", FIELDS)
def test_a_wrong_value_is_refused_and_the_field_is_named(name, tally: Tally):
    """Every field times every wrong kind of value: those that are taken are right ones."""
    refused = 0
    for value in WRONG:
        try:
            config = Config.from_json(changed({name: value}))
        except ConfigError as error:
            assert name in str(error) or names_a_field(str(error)), error
            assert "\n" not in str(error)
            assert len(str(error)) < 300
            refused += 1
        else:
            taken = leaves(config)[name]
            assert type(taken) is type(FIELDS[name])
            assert not isinstance(taken, float) or math.isfinite(taken)
    assert refused > 5
    tally("wrong values in a config", refused, 0, f"{len(FIELDS)} fields, each refused by name")


@pytest.mark.parametrize("name", [n for n in FIELDS if kind(n) in (int, float) and n not in ("seed",)])
def test_the_command_line_refuses_before_any_work(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flag = f"--{name.replace('_', '-')}"
    assert main(["train", "tiny", flag, "-3", "--run-dir", "run"]) == 2
    assert name in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_longest_block_is_that_of_retention():
    decay_scaling(torch.ones(1), LONGEST_BLOCK)
    with pytest.raises(AssertionError, match="at most"):
        decay_scaling(torch.ones(1), LONGEST_BLOCK + 1)


def test_the_smallest_frames_are_those_of_the_networks():
    assert {name: read_lpips(name).smallest for name in ("vgg16", "alexnet")} == {
        k: v for k, v in SMALLEST_FRAME.items() if k != "none"
    }
