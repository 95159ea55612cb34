"""Every ablation as a preset: one field away from its base, trained for an epoch, and dreaming."""

import dataclasses

import pytest
import torch

from benchmarks.workload import Workload
from tokendream.agent.agent import Agent
from tokendream.config.config import vary
from tokendream.config.cuts import ABLATIONS, CUTS, NO_WINDOWS, OF_POP
from tokendream.config.presets import PRESETS, REM, preset
from tokendream.config.schedule import PARTS
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute
from tokendream.envs.registry import make
from tokendream.errors import ConfigError
from tokendream.training.synthetic import synthetic_replay
from tokendream.training.trainer import Trainer


def leaves(config, prefix=""):
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value


def difference(a, b):
    """Names and values of b's fields that are not a's, but for the preset's name."""
    return {name: value for (name, value), (_, other) in zip(leaves(b), leaves(a), strict=True)
            if value != other and name != "preset"}  # fmt: skip


@pytest.mark.parametrize("base", PRESETS)
@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_is_one_field_of_any_preset(base, name):
    varied = preset(f"{base}-{name}")
    assert varied.preset == f"{base}-{name}"
    goes_with = {"no-pop": OF_POP, "transformer": NO_WINDOWS}.get(name, {})
    changed = difference(PRESETS[base], varied).keys() - {f"world_model.{field}" for field in goes_with}
    assert len(changed) == (0 if PRESETS[base].tokenizer.kind == name else 1)


def test_the_fields_are_the_papers_and_the_issues():
    changes = {name: difference(REM, preset(f"rem-{name}")) for name in ABLATIONS}
    assert changes == {
        "no-pop": {"world_model.decoding": "token"},
        "coarse-tokens": {"tokenizer.downsamples": 4},
        "own-embedding": {"world_model.own_embedding": True},
        "no-action-inputs": {"actor_critic.action_inputs": False},
        "pixels": {"actor_critic.sees": "pixels"},
        "one-prediction-token": {"world_model.shared_prediction_token": True},
        "transformer": {"world_model.backbone": "transformer"},
        "fsq": {"tokenizer.kind": "fsq"},
        "dictionary": {"tokenizer.kind": "dictionary"},
        "pretrained": {"tokenizer.kind": "pretrained"},
    }
    assert [preset(f"{name}-coarse-tokens").tokens_per_frame for name in ("rem", "cpu")] == [16, 9]


def test_two_ablations_are_both():
    iris = preset("rem-transformer-no-pop")
    assert difference(REM, iris) == {"world_model.backbone": "transformer", "world_model.decoding": "token"}
    assert preset("rem-no-pop-transformer").world_model == iris.world_model


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rem-nopop", "unknown preset 'rem-nopop'; nearest: rem-no-pop"),
        ("rim-no-pop", "unknown preset 'rim'; nearest: rem"),
        ("-no-pop", "unknown preset ''"),
        ("rem-one-prediction-token-no-pop", "world_model.shared_prediction_token must be false"),
    ],
)
def test_what_is_no_preset_is_named(name, message):
    with pytest.raises(ConfigError, match=message):
        preset(name)


@pytest.mark.parametrize("name", [*ABLATIONS, "transformer-no-pop"])
def test_an_epoch_of_every_ablation(name):
    """All phases run, every part is trained by its own phase alone, and all figures are finite."""
    config = preset(f"tiny-{name}")
    torch.manual_seed(0)
    envs = make(config, 1, evaluation=False)
    agent = Agent.from_config(config, envs.spaces)
    replay = ReplayBuffer(config.collect.capacity, (3, config.env.size, config.env.size), torch.device("cpu"))
    trainer = Trainer(config, agent, envs, replay, Compute(torch.device("cpu"), torch.float32))
    trainer.epoch = 3  # the first that has all phases
    before = {part: {k: v.clone() for k, v in m.state_dict().items()} for part, m in agent.named_children()}
    assert trainer.run_epoch()
    record = trainer.close_epoch()
    assert {"collect", "tokenizer", "world_model", "actor_critic"} == {
        key.partition("/")[0] for key in record if key.endswith("/seconds")
    }
    for part, module in agent.named_children():
        after = module.state_dict()
        assert any(not torch.equal(after[k], before[part][k]) for k in after), part
    untrained = [n for n, p in agent.named_parameters() if p.requires_grad and p.grad is None]
    assert untrained == []
    assert all(torch.isfinite(torch.tensor(v)) for v in record.values() if isinstance(v, float)), record


@pytest.mark.parametrize("name", [*ABLATIONS, "transformer-no-pop"])
def test_every_ablation_runs_at_the_small_preset_s_size(name):
    """With all that cpu has beyond the paper, such as the head for tokens that stay: an update of each part."""
    config = vary(preset(f"cpu-{name}"), "dream", horizon=2)
    device = torch.device("cpu")
    work = Workload(config, Compute.resolve("cpu"), synthetic_replay(64, config.env.size, device))
    for part in PARTS:
        figures = work.phase(part, 2, torch.float32).run()
        assert all(torch.isfinite(value) for value in figures.values()), part


WINDOWS = {f"world_model.{field}" for field in NO_WINDOWS}
SUCCESSORS = {"simulus": 9, "simulus-dmc": 9, "simulus-a": 11, "easimulus": 10, "itc": 10, "best": 3}
"""And what can be cut out of each."""


@pytest.mark.parametrize("base", SUCCESSORS)
def test_a_cut_takes_out_one_ingredient_and_brings_back_rem_s_value(base):
    """Or is refused, naming what the preset does not have."""
    cut = 0
    for name in CUTS:
        try:
            varied = preset(f"{base}-{name}")
        except ConfigError as error:
            assert f"preset {base} has nothing that -{name} could cut" == str(error)
            continue
        changed, rem = difference(PRESETS[base], varied), dict(leaves(REM))
        assert 1 <= len(changed) <= 2
        assert all(value == rem[field] for field, value in changed.items()), changed
        cut += 1
    assert cut == SUCCESSORS[base]


@pytest.mark.parametrize(
    ("base", "fields"),
    [
        ("simulus-a", {"world_model.backbone", "tokenizer.kind", "dream.context_blocks"} | WINDOWS),
        ("easimulus", {"world_model.events", "world_model.segment_length"}),
        ("itc", {"world_model.copy_or_sample"}),
    ],
)
def test_each_successor_is_simulus_and_what_is_its_own(base, fields):
    assert difference(PRESETS["simulus"], PRESETS[base]).keys() == fields


@pytest.mark.parametrize(
    "name", ["easimulus-no-events", "itc-no-copy-or-sample", "simulus-a-no-attention-no-fsq-no-long-context"]
)
def test_a_successor_without_what_is_its_own_is_simulus(name):
    """But for windows where there was attention."""
    assert difference(preset("simulus-no-windows" if "attention" in name else "simulus"), preset(name)) == {}


def test_a_preset_that_has_nothing_to_cut_says_so():
    with pytest.raises(ConfigError, match="preset rem has nothing that -no-events could cut"):
        preset("rem-no-events")
    both = preset("easimulus-no-events-no-curiosity")
    assert (both.world_model.events, both.world_model.ensemble, both.dream.curiosity) == (False, 0, 0.0)
