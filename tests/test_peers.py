"""scripts/peers.py without the package that it trains with: what it refuses, what peers see, what is written."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

from tokendream.cli.flags import parse_train
from tokendream.evaluation.evaluation import Evaluation

ROOT = Path(__file__).parents[1]


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("peers")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("ppo", "a number of steps"),
        ("ppo many --env CartPole-v1", "a number of steps"),
        ("ppo 0 --env CartPole-v1", "a number of steps"),
        ("sacc 10 --env CartPole-v1", "nearest: sac"),
        ("sac 10 --env CartPole-v1", "sac cannot play CartPole-v1, whose actions are a Discrete; ppo and dqn can"),
        ("sac 10 --env Breakout", "ppo and dqn can"),
        ("dqn 10 --env Pendulum-v1", "ppo and sac can"),
        ("ppo 10 --env CartPole-v9", "CartPole"),
        ("ppo 10 --env CartPole-v1 --env.keys pose", "left alone"),
    ],
)
def test_what_cannot_be_played_is_refused_in_one_line(peers, words, expected, capsys):
    assert peers.main(words.split()) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert said.count("\n") == 1


def test_a_missing_package_is_named_with_its_command(peers, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(peers, "PEERS", tmp_path)
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    assert peers.main(["ppo", "10", "--env", "CartPole-v1"]) == 2
    assert 'pip install "stable-baselines3==' in capsys.readouterr().err
    assert peers.INSTALL in peers.__doc__


@pytest.mark.parametrize(
    ("env", "shape", "kind"),
    [
        ("CartPole-v1", (4,), "vector"),
        ("minatar:Breakout", (10, 10, 4), "map"),
        ("minigrid:MiniGrid-DoorKey-6x6-v0", (7 * 7 * (11 + 6 + 3) + 4,), "map"),
        ("dmc:cartpole-swingup", (5,), "vector"),
        ("tokendream/Catch-v0", (64, 64, 3), "image"),
    ],
)
def test_peers_see_what_the_families_make_in_a_form_of_theirs(peers, env, shape, kind):
    config = parse_train(["rem", "--env", env, "--env.max-frames", "30"]).config
    made = peers.environment(config.env, training=True)
    observation, _ = made.reset(seed=3)
    assert observation.shape == shape == made.observation_space.shape
    assert peers.kind_of(config, made.observation_space) == kind
    made.action_space.seed(0)
    decisions, terminated, truncated = 0, False, False
    while not (terminated or truncated):
        *_, terminated, truncated, _ = made.step(made.action_space.sample())
        decisions += 1
    assert terminated or decisions * config.env.repeat == 30
    made.close()


def test_every_game_has_a_seed_of_its_own(peers):
    made = peers.environment(parse_train(["rem", "--env", "CartPole-v1"]).config.env, training=True)
    games = [made.reset(seed=seed)[0].tolist() for seed in (1, None, None, 1, None)]
    assert games[0] == games[3]
    assert games[1] == games[4] != games[2]
    made.close()


def test_an_image_in_a_dict_is_resized_and_the_rest_stays(peers):
    class Two(peers.gymnasium.Env):
        observation_space = spaces.Dict({"screen": spaces.Box(0, 255, (240, 320, 3), np.uint8),
                                         "health": spaces.Box(0, 100, (1,), np.float32)})  # fmt: skip

    shown = peers.Resized(Two(), 64).observation(
        {"screen": np.full((240, 320, 3), 7, np.uint8), "health": np.ones(1, np.float32)}
    )
    assert shown["screen"].shape == (64, 64, 3)
    assert shown["screen"].max() == shown["screen"].min() == 7
    assert shown["health"].tolist() == [1]


@pytest.mark.parametrize("algorithm", ["ppo", "dqn", "sac"])
@pytest.mark.parametrize("kind", ["atari", "map", "image", "vector"])
def test_settings_are_data_that_a_reader_can_repeat(peers, algorithm, kind):
    n, chosen, said = peers.settings(algorithm, kind, 1000)
    assert n in (1, 8)
    assert json.loads(json.dumps(said)) == said
    assert chosen.keys() == said.keys()
    if callable(chosen.get("learning_rate")):
        assert [chosen["learning_rate"](left) for left in (1.0, 0.5, 0.0)] == [2.5e-4, 1.25e-4, 0]


def test_games_are_scored_one_seed_after_the_other(peers):
    class Envs:
        def seed(self, seed):
            self.left = seed

        def reset(self):
            return np.zeros(1)

        def step(self, action):
            self.left -= 1
            return np.zeros(1), np.array([2.0]), np.array([self.left == 0]), [{}]

    class Model:
        def predict(self, observation, deterministic):
            return np.zeros(1), None

    assert peers.play(Model(), Envs(), [3, 1], deterministic=False) == ([6.0, 2.0], [3, 1])


def test_the_table_has_a_row_a_file(peers, monkeypatch, tmp_path):
    monkeypatch.setattr(peers, "PEERS", tmp_path)
    protocol = {"player": "dqn", "env_steps": 1000, "seed": 4, "minutes": 2.4}
    Evaluation("minatar:Breakout", protocol, (1.0, 3.0), (5, 6), (7, 8)).write(tmp_path / "a.json")
    assert "| minatar:Breakout | dqn | 1,000 | 4 | 2 | 2.00 (1.00 to 3.00) | 2 |" in peers.table()
