"""CONTRIBUTING.md's recipes, followed: what is added works without another line."""

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

    def expand(self, n):
        return Mean(self.total.expand(n, -1), self.count.expand(n, -1))

    def one(self, i):
        return Mean(self.total[i : i + 1], self.count[i : i + 1])


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
    model = copy / "agent" / "world_model.py"
    edit(model, '"transformer": Transformer}', '"transformer": Transformer, "mean": MeanNet}')
    edit(model, "from tokendream.nn.retnet import RetNet\n",
         "from tokendream.nn.mean import MeanNet\nfrom tokendream.nn.retnet import RetNet\n")  # fmt: skip
    edit(copy / "config" / "parts.py", 'Literal["retnet", "transformer"]', 'Literal["retnet", "transformer", "mean"]')
    flags = ["--world-model.backbone", "mean", "--epochs", "3", "--collect.steps", "40", "--evaluation.episodes", "1"]
    ended = tokendream(copy, "train", "tiny", *flags, "--run-dir", "run")
    assert ended.returncode == 0, ended.stderr
    last = (copy.parent / "run" / "metrics.jsonl").read_text().splitlines()[-1]
    assert "world_model/" in last
    assert "actor_critic/" in last


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
