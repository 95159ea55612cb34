"""An agent in one file: it comes back as it was, plays the same, and what is wrong with one is said in one line."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from checkpoints import damage_cut, damage_flip, damage_pickle
from playing import make_run
from torch._subclasses.fake_tensor import FakeTensorMode
from torture.folders import reseal_agent
from torture.tally import Tally

import tokendream
from tokendream.agent.agent import Agent
from tokendream.cli.main import main
from tokendream.config.config import Config, vary
from tokendream.config.cuts import ABLATIONS
from tokendream.config.presets import PRESETS, TINY, preset
from tokendream.errors import TokendreamError
from tokendream.runfolder import agent_file
from tokendream.runfolder.agent_file import SavedAgent
from tokendream.runfolder.load import Trained


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "agent.safetensors"
    assert main(["export", str(run), "--out", str(path)]) == 0
    return path


@pytest.fixture
def file(exported, tmp_path) -> Path:
    """A copy, which a test may spoil."""
    return Path(shutil.copy(exported, tmp_path / "agent.safetensors"))


def test_it_is_the_agent_to_the_bit_and_plays_the_same(run, file):
    of_run, of_file = tokendream.load(run, "cpu"), tokendream.load(file, "cpu")
    assert of_file.config == of_run.config
    assert (of_file.epoch, of_file.action_names) == (3, of_run.action_names)
    weights = of_run.agent.state_dict()
    assert of_file.agent.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in of_file.agent.state_dict().items())
    score, frames = of_run.play_game(seed=5)
    again, same = of_file.play_game(seed=5)
    assert again == score
    assert np.array_equal(frames, same)


def test_it_holds_weights_and_text_alone(run, file):
    with safetensors.safe_open(file, "np") as opened:
        assert set(opened.keys()) == set(tokendream.load(run, "cpu").agent.state_dict())
        metadata = opened.metadata()
    assert set(metadata) == {"tokendream", "epoch", "config", "facts", "seal"}
    assert json.loads(metadata["config"])["preset"] == "tiny"
    assert json.loads(metadata["facts"])["preset"] == "tiny"
    assert file.stat().st_size < 1.1 * sum(t.nbytes for t in safetensors.torch.load_file(file).values())


def test_half_is_half_and_chooses_the_same_but_for_rounding(run, file, tmp_path, capsys):
    """float16 has 11 bits: a rounded weight is off by 0.05%, probabilities by less than 1%."""
    path = tmp_path / "half.safetensors"
    assert main(["export", str(file), "--half", "--out", str(path)]) == 0
    assert path.stat().st_size < 0.55 * file.stat().st_size
    whole, half = Trained.load(run, "cpu"), Trained.load(path, "cpu")
    assert half.facts == Trained.load(file, "cpu").facts  # which `export` handed on
    frames = torch.from_numpy(whole.play_game(seed=1)[1])
    with torch.no_grad():
        tokens = whole.agent.tokenizer.encode(frames)
        assert (half.agent.tokenizer.encode(frames) == tokens).float().mean() > 0.95
        for agent in (whole.agent, half.agent):
            view = agent.view(tokens, whole.agent.tokenizer.codes(tokens))
            output, _ = agent.actor_critic(view, agent.actor_critic.initial_state(len(tokens)))
            probs = output.logits.softmax(-1)
            if agent is whole.agent:
                exact, value = probs, output.value
        assert (probs - exact).abs().max() < 0.01
        assert (output.value - value).abs().max() < 0.01
    assert half.play_game(seed=1)[1].shape[1:] == (3, 64, 64)


def test_the_sizes_of_rewards_are_not_rounded(tmp_path):
    config = vary(TINY, "world_model", reward_head="seen")
    agent = Agent.from_config(config, 3)
    agent.world_model.rewards.fit(np.array([0, 3001, 100_000], np.float32))
    agent_file.write(tmp_path / "x", SavedAgent(config, 3, agent.state_dict()), half=True)
    weights = agent_file.read(tmp_path / "x").weights
    assert weights["world_model.rewards.values"][:3].tolist() == [0, 3001, 100_000]
    assert weights["world_model.end.0.weight"].dtype == torch.float16


def test_what_float16_cannot_hold_is_refused(run, tmp_path):
    trained = Trained.load(run, "cpu")
    weights = {**trained.agent.state_dict(), "actor_critic.critic.bias": torch.tensor([7e4])}
    with pytest.raises(TokendreamError, match=r"actor_critic\.critic\.bias must be small enough for float16"):
        agent_file.write(tmp_path / "x", SavedAgent(trained.config, 3, weights), half=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("base", PRESETS)
def test_the_weights_of_every_preset_are_enough_for_their_config(base, tmp_path):
    as_large = ("simulus-dmc", "simulus-a", "easimulus", "itc", "best")  # as rem or simulus
    ablations = () if base in as_large else ABLATIONS
    for name in (base, *(f"{base}-{ablation}" for ablation in ablations)):
        config = preset(name)
        with FakeTensorMode(allow_non_fake_inputs=True):  # by shapes alone
            weights = Agent.from_config(config, 3).state_dict()
        agent_file._check_size(tmp_path, SavedAgent(config, 1, weights))


def renamed(data: bytes) -> bytes:
    return data.replace(b"actor_critic.critic.bias", b"actor_critic.critic.bIas")


def without_end(data: bytes) -> bytes:
    return data[:7]


def huge_header(data: bytes) -> bytes:
    return (2**62).to_bytes(8, "little") + data[8:]


def long_header(data: bytes) -> bytes:
    """One of 2 MB: as JSON it would become many times that."""
    return (2**21).to_bytes(8, "little") + b"{" + b" " * (2**21 - 2) + b"}" + data


def other_tensors(data: bytes) -> bytes:
    return safetensors.torch.save({"frame": torch.zeros(3)}, {"message": "a batch"})


def text(data: bytes) -> bytes:
    return b"# Play\n\nthis is no safetensors file at all\n"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damage_cut, "does not match its seal"), (damage_flip, "does not match its seal"),
        (renamed, "does not match its seal"), (damage_pickle, "does not begin as a safetensors file"),
        (without_end, "does not begin as a safetensors file"),
        (huge_header, "does not begin as a safetensors file"), (long_header, "does not begin as a safetensors file"),
        (text, "does not begin as a safetensors file"), (other_tensors, "is no agent: a file of one is made by"),
        (lambda data: b"", "does not begin as a safetensors file"),
        (lambda data: data.replace(b'"tokendream":"1"', b'"tokendream":"2"'), "has format 2; this tokendream reads 1"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["eval", "play", "dream", "diagnose", "export"])
def test_a_damaged_file_is_refused_in_one_line(file, capsys, damage, said, command, tally: Tally):
    file.write_bytes(damage(file.read_bytes()))
    assert main([command, str(file), "--device", "cpu"] if command != "export" else [command, str(file)]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    tally("exported agents damaged", 1, 0)


def nan(weights: dict) -> None:
    weights["actor_critic.critic.bias"][0] = float("nan")


def infinite(weights: dict) -> None:
    weights["tokenizer.pre.weight"][0] = float("inf")


def wrong_shape(weights: dict) -> None:
    weights["actor_critic.critic.bias"] = torch.zeros(2)


def missing(weights: dict) -> None:
    del weights["tokenizer.pre.weight"]


def another(weights: dict) -> None:
    weights["extra"] = torch.zeros(2)


def wrong_type(weights: dict) -> None:
    weights["actor_critic.critic.bias"] = torch.zeros(1, dtype=torch.complex64)


def other_game(weights: dict) -> None:
    weights["actor_critic.actor.weight"] = torch.zeros(5, 16)


@pytest.mark.parametrize(
    ("change", "said"),
    [(nan, "critic.bias is not finite"), (infinite, "pre.weight is not finite"), (wrong_shape, "do not fit the config"),
     (missing, "do not fit the config"), (another, "do not fit the config"), (wrong_type, "is of type torch.complex64"),
     (other_game, "has 3 actions, but the run was trained with 5")],
)  # fmt: skip
def test_weights_that_do_not_serve_are_refused_though_sealed(file, capsys, change, said, tally: Tally):
    reseal_agent(file, change)
    assert main(["eval", str(file), "--device", "cpu"]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    tally("exported agents forged and sealed", 1, 0)


def large(size: int, **tokenizer) -> Config:
    env, V = dataclasses.replace(TINY.env, size=size), dataclasses.replace(TINY.tokenizer, **tokenizer)
    return dataclasses.replace(TINY, env=env, tokenizer=V)


HUGE = [
    vary(TINY, "world_model", width=2**20, heads=1),
    vary(TINY, "world_model", layers=2**31 - 1),
    vary(TINY, "world_model", ffn_factor=2**31 - 1),
    vary(TINY, "tokenizer", codebook_size=2**31 - 1),
    vary(TINY, "tokenizer", code_width=2**31 - 1),
    vary(TINY, "tokenizer", channels=2**30),
    vary(TINY, "tokenizer", channels=40),  # 23 times the file's numbers
    vary(TINY, "actor_critic", lstm_width=2**31 - 1),
    large(2**17, downsamples=16),
    large(2**11, downsamples=7, kind="dictionary", code_width=4),
    large(2**11, downsamples=7, kind="pretrained", code_width=4),
]


@pytest.mark.parametrize("config", HUGE, ids=range(len(HUGE)))
def test_a_small_file_cannot_ask_for_a_huge_agent(file, capsys, config, tally: Tally):
    reseal_agent(file, config=config.to_json())
    assert main(["eval", str(file), "--device", "cpu"]) == 2
    err = capsys.readouterr().err
    assert "where it asks for more" in err or "asks for frames of" in err
    assert err.count("\n") == 1
    tally("exported agents that ask for more memory than they are", 1, 0)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [({"config": "{"}, "config is not JSON"), ({"config": "[" * 100_000}, "config is not JSON"),
     ({"config": '{"format": 9}'}, "config has format 9"), ({"epoch": "-1"}, "has the epoch -1"),
     ({"epoch": "²"}, "has the epoch ²"), ({"facts": "[]"}, "holds no JSON object"),
     ({"config": TINY.to_json().replace("tokendream/Catch-v0", "nowhere-v0")}, "nowhere")],
)  # fmt: skip
def test_text_that_does_not_serve_is_refused_though_sealed(file, capsys, metadata, said, tally: Tally):
    reseal_agent(file, **metadata)
    assert main(["eval", str(file), "--device", "cpu"]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    tally("exported agents forged and sealed", 1, 0)


def test_facts_cannot_steer_a_terminal_nor_fill_it(file, capsys):
    reseal_agent(
        file, facts=json.dumps({"a\x1b[2J": "b\x1b[2J\nc", "long": "x" * 10_000, **{str(i): i for i in range(99)}})
    )
    facts = Trained.load(file, "cpu").facts
    assert facts["a[2J"] == "b[2Jc"
    assert len(facts["long"]) == 300
    assert len(facts) == 32
