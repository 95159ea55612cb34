"""Maps of cells under every preset: squares that do not divide, frames that V has not seen, blocks too long."""

import dataclasses
import re

import any_spaces
import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from tokendream import errors
from tokendream.agent.agent import Agent
from tokendream.cli.main import main
from tokendream.config.config import vary
from tokendream.config.presets import TINY, preset
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute
from tokendream.envs.registry import make
from tokendream.errors import ConfigError
from tokendream.spaces.actions import Discrete
from tokendream.spaces.layout import Layout, Part, image
from tokendream.spaces.observations import Spaces
from tokendream.training import run
from tokendream.training.trainer import Trainer


def spaces_of(*parts: Part) -> Spaces:
    return Spaces(Layout(parts), Discrete(3), ("a", "b", "c"))


@pytest.mark.parametrize(("cells", "tokens"), [((7, 7), 49), ((8, 8), 16), ((7, 8), 56)])
def test_a_map_that_does_not_divide_into_squares_has_a_token_a_cell(cells, tokens):
    """MiniGrid sees 7x7 cells, and preset `grid` takes four in a token."""
    agent = Agent.from_config(preset("grid"), spaces_of(Part("map", "map", (3, *cells))))
    assert tokens == agent.block.K


def test_more_tokens_than_m_can_take_are_refused_by_name():
    assert Agent.from_config(preset("grid"), spaces_of(Part("map", "map", (1, 30, 30)))).block.K == 225
    with pytest.raises(ConfigError, match=r"at most 768 .*--tokenizer.map-cells\), not 901"):
        Agent.from_config(preset("cpu"), spaces_of(Part("map", "map", (1, 30, 30))))
    eyes = [image(128, f"eye {i}") for i in range(3)]
    with pytest.raises(ConfigError, match=r"tokens of a step must be at most 768 .*--env.keys.*, not 769"):
        Agent.from_config(vary(preset("cpu"), "env", size=128), spaces_of(*eyes))
    large = vary(preset("tiny"), "env", size=512)
    with pytest.raises(ConfigError, match=r"tokens of a step must be at most 768 .*, not 1025"):
        Agent.from_config(large, 3)
    assert Agent.from_config(vary(large, "world_model", backbone="transformer"), 3).block.K == 1024


def test_a_long_step_is_said_once_where_training_starts(tmp_path, monkeypatch, capsys):
    shown = {"shows": spaces.Box(0, 5, (20, 18), np.int64), "takes": spaces.Discrete(2)}
    kind = type("Wide", (any_spaces.Worlds,), shown)
    monkeypatch.setitem(gymnasium.registry, "Wide-v0", EnvSpec("Wide-v0", kind, disable_env_checker=True))
    monkeypatch.setattr(run.Run, "go", lambda self, stop: 0)
    for name in ("tiny", "grid"):  # which takes four cells in a token
        errors.once.cache_clear()
        run.start(vary(preset(name), "env", id="gym:Wide-v0"), tmp_path / name)
    assert re.findall(r"a step has \d+ tokens", capsys.readouterr().err) == ["a step has 361 tokens"]


@pytest.mark.parametrize("first_epoch", [1, 3])
@pytest.mark.parametrize("kind", ["dictionary", "vq"])
def test_v_sees_every_frame_once_whatever_its_schedule(kind, first_epoch, monkeypatch):
    """A preset for trained tokenizers begins V late and gives it few updates; the cells of a map are fitted all the
    same, those of the epochs before it too."""
    config = vary(vary(vary(TINY, "env", id="gym:AnyMap-v0"), "tokenizer", kind=kind), "collect", steps=14)
    training, off = config.training, {"updates": 0}
    config = vary(
        config,
        "training",
        tokenizer=dataclasses.replace(training.tokenizer, first_epoch=first_epoch),
        world_model=dataclasses.replace(training.world_model, **off),
        actor_critic=dataclasses.replace(training.actor_critic, **off),
    )
    envs = make(config, 1, evaluation=False)
    agent = Agent.from_config(config, envs.spaces)
    seen, fit = list[torch.Tensor](), agent.tokenizer.fit
    monkeypatch.setattr(agent.tokenizer, "fit", lambda frames: seen.append(frames) or fit(frames))
    trainer = Trainer(config, agent, envs, ReplayBuffer.of(envs.spaces, 100), Compute.resolve("cpu"))
    for _ in range(4):
        trainer.run_epoch()
        trainer.close_epoch()
    assert torch.equal(torch.cat(seen), trainer.replay.frames(np.arange(56)))


def test_a_config_that_does_not_go_with_the_environment_leaves_no_folder(tmp_path, capsys):
    """C cannot be fed pixels where there are none."""
    folder = tmp_path / "run"
    assert main(["train", "tiny-pixels", "--env", "gym:CartPole-v1", "--run-dir", str(folder)]) == 2
    assert "actor_critic.sees must be codes" in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.parametrize(("change", "said"), [({"last_epoch": 0}, r"last_epoch must be at least first_epoch \(1\)"),
                                              ({"updates": 0}, "updates must be at least 1")])  # fmt: skip
def test_a_book_that_would_never_be_fitted_is_refused(change, said):
    """A kind that is trained on images is fitted on maps."""
    phase = dataclasses.replace(TINY.training.tokenizer, **change)
    frozen = vary(vary(TINY, "tokenizer", kind="vq"), "training", tokenizer=phase)
    with pytest.raises(ConfigError, match=said):
        Agent.from_config(frozen, spaces_of(Part("map", "map", (3, 8, 8))))
    Agent.from_config(vary(frozen, "tokenizer", kind="dictionary"), spaces_of(Part("map", "map", (3, 8, 8))))
    Agent.from_config(frozen, spaces_of(Part("x", "vector", (4,))))
