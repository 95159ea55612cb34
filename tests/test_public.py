"""The public names, and the README's lines of Python, run as they stand there."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tokendream
from tokendream.cli.main import main
from tokendream.errors import TokendreamError

README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("public") / "run"
    flags = ["--epochs", "1", "--collect.steps", "30", "--evaluation.episodes", "1"]
    assert main(["train", "tiny", *flags, "--run-dir", str(folder)]) == 0
    return folder


def test_the_names_are_there_and_nothing_is_imported_for_them():
    said = subprocess.run(
        [sys.executable, "-c", "import sys, tokendream; print(dir(tokendream), 'torch' in sys.modules)"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert said.endswith("False\n")
    assert set(tokendream.__all__) == {"Config", "Trained", "__version__", "load", "preset"}
    assert tokendream.Config is type(tokendream.preset("tiny"))
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        tokendream.lod  # noqa: B018


def test_the_lines_of_the_readme_play_a_game(run, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    code, found = re.subn(r'"runs/[^"]*"', repr(str(run)), code)
    assert found == 1
    assert len([line for line in code.splitlines() if line]) <= 8
    scope = {}
    exec(code, scope)
    assert len(scope["frames"]) > 1
    assert str(scope["score"]) in capsys.readouterr().out


def test_a_game_is_its_steps_and_its_seed(run):
    agent = tokendream.load(run)
    score, frames = agent.play_game(seed=3)
    steps = list(agent.steps(seed=3))
    assert score == sum(reward for _, _, reward in steps)
    assert np.array_equal(frames, np.stack([frame for frame, _, _ in steps]))
    assert all(0 <= action < len(agent.action_names) for _, action, _ in steps)
    assert not np.array_equal(frames, agent.play_game(seed=4)[1])


def test_the_agent_acts_on_any_number_of_frames(run):
    agent = tokendream.load(str(run), device="cpu")
    envs = agent.envs(2)
    frame = envs.reset([0, 1])
    assert agent.policy()(frame, np.array([True, True])).shape == (2,)
    envs.close()


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(TokendreamError, match="is no run folder"):
        tokendream.load(tmp_path)
