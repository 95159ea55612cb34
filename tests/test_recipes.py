"""CONTRIBUTING.md's recipes, followed: what is added works without another line."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECIPES = (ROOT / "CONTRIBUTING.md").read_text().split("## Recipes")[1].split("## House rules")[0]

BACKBONE = '''
"""The smallest backbone that remembers anything."""

from typing import NamedTuple

import torch
from torch import nn


class Mean(NamedTuple):
    """Sum and number of the tokens so far: a state of fixed size, and a value."""

    total: torch.Tensor
    count: torch.Tensor

    def keep(self, mask):
        return Mean(self.total * mask[:, None], self.count * mask[:, None])

    def take(self, rows):
        return Mean(self.total[rows], self.count[rows])


class MeanNet(nn.Module):
    """Every token sees the mean of the tokens up to itself: the smallest backbone that remembers anything."""

    def __init__(self, width, layers, heads, ffn_factor=4, dropout=0.0):
        super().__init__()
        self.width = width
        self.mix = nn.Linear(width, width)

    def initial_state(self, batch):
        zero = self.mix.weight.new_zeros
        return Mean(zero(batch, self.width), zero(batch, 1))

    def chunk(self, x, state):
        total = state.total[:, None] + x.cumsum(1)
        count = state.count[:, None] + torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
        return x + self.mix(total / count), Mean(total[:, -1], count[:, -1].expand_as(state.count))

    def step(self, x, state):
        y, state = self.chunk(x[:, None], state)
        return y[:, 0], state

    def absorb(self, x, state, tail=None):
        y, state = self.chunk(x.flatten(1, 2), state)
        y = y.unflatten(1, x.shape[1:3])
        return (y if tail is None else y[:, :, -tail:]), state

    def pop(self, x, u, state, predict=slice(None), tail=None):
        outputs, predictions = [], []
        for t in range(x.shape[1]):
            y, state = self.absorb(x[:, t : t + 1], state, tail)
            outputs.append(y)
            predictions.append(self.chunk(u.expand(len(x), -1, -1), state)[0])
        stacked = torch.stack(predictions, 1)
        return torch.cat(outputs, 1), stacked[:, predict], state
'''


FAMILY = '''
"""A corridor: one pixel column walks right or left, the right end pays and is the end."""

import numpy as np

from tokendream.envs.vector import Transition, check_actions, check_seeds
from tokendream.spaces.observations import image_spaces


class Corridors:
    def __init__(self, length, n, size):
        self.n, self._length, self._size = n, length, size
        self.spaces = image_spaces(size, 2, ("LEFT", "RIGHT"))
        self._at = np.zeros(n, np.int64)
        self._over = np.ones(n, bool)

    def _frame(self):
        frame = np.zeros((self.n, 3, self._size, self._size), np.uint8)
        frame[np.arange(self.n), :, :, self._at * self._size // self._length] = 255
        return frame

    def reset(self, seeds):
        check_seeds(seeds, self.n)
        fresh = np.array([seed is not None for seed in seeds])
        self._at[fresh], self._over[fresh] = 0, False
        return self._frame()

    def step(self, actions):
        check_actions(actions, self.n, self.spaces.actions.n)
        self._at = np.where(self._over, self._at, np.clip(self._at + 2 * actions - 1, 0, self._length - 1))
        end = ~self._over & (self._at == self._length - 1)
        self._over |= end
        return Transition(self._frame(), end.astype(np.float32), end, self._over.copy())

    def close(self):
        pass
'''


PHASE = '''
"""More updates for one head of the world model."""

from tokendream.nn.losses import Losses
from tokendream.training.phase import GradientPhase


class RewardHeadPhase(GradientPhase):
    """M's reward head alone, on segments."""

    name = "reward_head"

    @property
    def module(self):
        return self.shared.agent.world_model.reward

    def draw(self):
        shared = self.shared
        segments = shared.replay.draw(self.settings.batch, 5, align="start", rng=shared.rng)
        return segments, shared.tokenised(segments)

    def loss(self, batch):
        codes = self.shared.agent.tokenizer.codes(batch.tokens).detach()
        return Losses({"reward": self.shared.agent.world_model.loss(codes, *batch).terms["reward"]})
'''


@pytest.fixture
def copy(tmp_path):
    """A copy of the package to follow a recipe in; the weights of LPIPS are shared."""
    package = tmp_path / "tokendream"
    shutil.copytree(ROOT / "tokendream", package, ignore=shutil.ignore_patterns("assets", "__pycache__"))
    (package / "assets").symlink_to(ROOT / "tokendream" / "assets")
    return package


def edit(path, before, after):
    text = path.read_text()
    assert text.count(before) == 1, path
    path.write_text(text.replace(before, after))


def tokendream(copy, *argv):
    env = {**os.environ, "PYTHONPATH": str(copy.parent)}
    command = [sys.executable, "-m", "tokendream", *argv]
    return subprocess.run(command, cwd=copy.parent, env=env, capture_output=True, text=True, check=False)


def test_a_backbone_is_added_by_its_recipe(copy):
    """A file and its name in two others: it trains, dreams and is a choice of the flag."""
    (copy / "nn" / "mean.py").write_text(BACKBONE)
    model = copy / "agent" / "backbones.py"
    edit(model, '"transformer": Transformer,', '"transformer": Transformer,\n    "mean": MeanNet,')
    edit(model, "from tokendream.nn.retnet import RetNet\n",
         "from tokendream.nn.mean import MeanNet\nfrom tokendream.nn.retnet import RetNet\n")  # fmt: skip
    edit(copy / "config" / "parts.py", 'Literal["retnet", "transformer"', 'Literal["retnet", "transformer", "mean"')
    flags = ["--world-model.backbone", "mean", "--epochs", "3", "--collect.steps", "40", "--evaluation.episodes", "1"]
    ended = tokendream(copy, "train", "tiny", *flags, "--run-dir", "run")
    assert ended.returncode == 0, ended.stderr
    last = (copy.parent / "run" / "metrics.jsonl").read_text().splitlines()[-1]
    assert "world_model/" in last
    assert "actor_critic/" in last


def test_a_family_of_environments_is_added_by_its_recipe(copy):
    """A file, an entry in the registry, a name and a field: a run plays it, and its protocol is in the scores."""
    (copy / "envs" / "corridor.py").write_text(FAMILY)
    registry = copy / "envs" / "registry.py"
    edit(registry, "from tokendream.envs.gym import GymEnvs\n",
         "from tokendream.envs.corridor import Corridors\nfrom tokendream.envs.gym import GymEnvs\n")  # fmt: skip
    entry = """    "corridor": Family(
        lambda env, n: Corridors(env.corridor.length, n, env.size),
        lambda env: {"length": env.corridor.length},
    ),
"""
    edit(registry, '    "gym": Family(', entry + '    "gym": Family(')
    parts = copy / "config" / "env.py"
    edit(parts, 'FAMILIES = ("atari", "gym", ', 'FAMILIES = ("corridor", "atari", "gym", ')
    edit(parts, "@dataclass(frozen=True)\nclass EnvConfig:",
         '@dataclass(frozen=True)\nclass CorridorConfig:\n    length: Count = 5\n    """Cells from end to end."""\n\n\n'
         "@dataclass(frozen=True)\nclass EnvConfig:")  # fmt: skip
    edit(parts, "    atari: AtariConfig = AtariConfig()\n",
         "    corridor: CorridorConfig = CorridorConfig()\n    atari: AtariConfig = AtariConfig()\n")  # fmt: skip
    flags = ["--env", "corridor:short", "--env.corridor.length", "4", "--epochs", "1", "--evaluation.episodes", "3"]
    ended = tokendream(copy, "train", "tiny", *flags, "--run-dir", "run")
    assert ended.returncode == 0, ended.stderr
    final = json.loads((copy.parent / "run" / "evaluation" / "final.json").read_text())
    assert final["protocol"]["length"] == 4
    assert final["scores"] == [1.0] * 3


def test_a_phase_of_training_is_added_by_its_recipe(copy):
    """A file, a name in the trainer and a field: it is planned, trained, logged, saved and timed."""
    (copy / "training" / "reward_head.py").write_text(PHASE)
    trainer = copy / "training" / "trainer.py"
    edit(trainer, "WorldModelPhase, ActorCriticPhase)", "WorldModelPhase, RewardHeadPhase, ActorCriticPhase)")
    edit(
        trainer,
        "\n\nGRADIENT_PHASES",
        "\nfrom tokendream.training.reward_head import RewardHeadPhase\n\nGRADIENT_PHASES",
    )
    edit(copy / "config" / "training.py", "    actor_critic: PhaseConfig = ",
         "    reward_head: PhaseConfig = PhaseConfig(2, 0, 2, 1e-3, 0.0, 1.0)\n"
         '    """Updates of M\'s reward head alone."""\n    actor_critic: PhaseConfig = ')  # fmt: skip
    flags = ["--training.reward-head.updates", "3", "--epochs", "2", "--evaluation.episodes", "1"]
    ended = tokendream(copy, "train", "tiny", *flags, "--run-dir", "run")
    assert ended.returncode == 0, ended.stderr
    assert "world model 2 x 2 from epoch 2, reward head 3 x 2 from epoch 2, actor critic" in ended.stdout
    run = copy.parent / "run"
    first, last = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    assert not any(name.startswith("reward_head/") for name in first)
    assert {"reward_head/reward", "reward_head/gradient_norm", "reward_head/updates_per_s"} <= last.keys()
    assert (run / "checkpoints" / "epoch-000002" / "optimiser.reward_head.safetensors").stat().st_size > 1000


def test_every_recipe_names_files_that_are_there_and_at_most_three():
    recipes = re.findall(r"\*\*(?:An?|Another) ([\w ]+)\*\*[^\n]*:\n((?:\d\. .*\n(?:   .*\n)*)+)", RECIPES)
    assert len(recipes) == 5
    for _, steps in recipes:
        files = re.findall(r"^\d\. `([\w/]+\.py)", steps, re.M)
        assert 1 <= len(files) <= 3
        for file in files:
            assert "yours" in file or (ROOT / "tokendream" / file).is_file(), file


@pytest.mark.parametrize("page", ["README.md"])
def test_the_first_page_is_short(page):
    assert len((ROOT / page).read_text().split()) <= 1000
