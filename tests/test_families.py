"""Families of environments: repeatable to the bit, the same whatever was played before, and refused in one line."""

import dataclasses
import hashlib
import importlib
import math
import subprocess
import sys
import tomllib
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from tokendream.cli.main import main
from tokendream.config.config import vary
from tokendream.config.env import FAMILIES, EnvConfig
from tokendream.config.presets import TINY
from tokendream.envs import registry
from tokendream.envs.families import crafter, dmc, gymnasium_ids, minatar, minigrid, vizdoom
from tokendream.envs.families.common import Repeated, installed, wrapped
from tokendream.envs.vector import EnvError

MODULES = {"gym": gymnasium_ids, "dmc": dmc, "minatar": minatar, "minigrid": minigrid, "vizdoom": vizdoom,
           "crafter": crafter}  # fmt: skip

REPEATABLE = [
    "CartPole-v1",
    "tokendream/Catch-v0",
    "dmc:walker-walk",
    "dmc:reacher-hard",
    "dmc:cartpole-swingup-pixels",
    "minatar:Breakout",
    "minatar:Seaquest",
    "minigrid:MiniGrid-DoorKey-6x6-v0",
    "minigrid:MiniGrid-Dynamic-Obstacles-6x6-v0",
    "vizdoom:VizdoomBasic-v1",
    "crafter:Reward",
]
"""Of every family; some draw random numbers at every step, some only at a reset."""


def make(id: str, **fields) -> gymnasium.Env:
    """One environment, or the reason why it cannot be made here."""
    config = EnvConfig(id, **fields)
    package = registry.FAMILIES[config.family].package
    if package and not installed(package):
        pytest.skip(f"{package} is not installed")
    try:
        return wrapped(MODULES[config.family].make(config.name, config), config)
    except EnvError as error:
        if "drawn by EGL" in str(error):
            pytest.skip(str(error))
        raise


def parts(observation):
    return [observation[key] for key in sorted(observation)] if isinstance(observation, dict) else [observation]


def play(env: gymnasium.Env, seed: int, steps: int) -> str:
    """The hash of all that a game shows and pays."""
    env.action_space.seed(seed)
    seen = hashlib.sha256()
    observation, _ = env.reset(seed=seed)
    for _ in range(steps):
        assert observation in env.observation_space
        for part in parts(observation):
            seen.update(np.ascontiguousarray(part).tobytes())
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        seen.update(np.float64(reward).tobytes())
        if terminated or truncated:
            break
    return seen.hexdigest()


@pytest.mark.parametrize("id", REPEATABLE)
def test_a_seed_and_actions_give_the_same_game_whatever_was_played_before(id):
    first, second = make(id), make(id)
    steps = 8 if "pixels" in id else 220
    game = play(first, 1, steps)
    assert play(first, 1, steps) == game
    other = play(first, 2, steps // 3)  # left in the middle
    assert play(second, 2, steps // 3) == other != game
    assert play(second, 1, steps) == game
    assert play(first, 1, steps) == game
    first.close()
    second.close()


def test_every_family_has_an_example_and_its_module():
    assert set(MODULES) == set(FAMILIES) - {"atari"}
    for name, family in registry.FAMILIES.items():
        assert EnvConfig(family.example).family == name
        assert bool(family.package) == (name not in ("atari", "gym"))


@pytest.mark.parametrize("family", [name for name in MODULES if name != "gym"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(family, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    env = EnvConfig(registry.FAMILIES[family].example)
    with pytest.raises(
        EnvError, match=rf'^{family}: its package is not installed: pip install "tokendream\[{family}\]"$'
    ):
        registry.FAMILIES[family].make(env, 1)


@pytest.mark.parametrize(
    ("id", "nearest"),
    [
        ("dmc:walker-wolk", "walker-walk"),
        ("minatar:Braekout", "Breakout"),
        ("minigrid:MiniGrid-DorKey-6x6-v0", "MiniGrid-DoorKey-6x6-v0"),
        ("vizdoom:VizdoomBasik-v1", "VizdoomBasic-v1"),
        ("crafter:", "Reward"),
    ],
)
def test_a_misspelt_name_is_refused_with_the_nearest(id, nearest):
    with pytest.raises(EnvError, match=f"unknown environment {id}; nearest: .*{nearest}"):
        make(id)


def test_spellings_of_one_name():
    assert make("dmc:ball_in_cup-catch").action_space == make("dmc:ball-in-cup-catch").action_space
    assert make("minatar:breakout").action_space.n == 3


def test_a_walker_in_its_parts():
    env = make("dmc:walker-walk")
    assert {key: box.shape for key, box in env.observation_space.spaces.items()} == {
        "orientations": (14,), "height": (1,), "velocity": (9,),
    }  # fmt: skip
    assert env.action_space.shape == (6,)
    env.reset(seed=0)
    steps = 0
    while True:
        _, reward, terminated, truncated, _ = env.step(np.zeros(6))
        steps += 1
        assert 0 <= reward <= 2
        if terminated or truncated:
            break
    assert (steps, terminated, truncated) == (500, False, True)


def test_a_camera_sees_what_the_vectors_say():
    env = make("dmc:cartpole-swingup-pixels", size=32)
    before, _ = env.reset(seed=0)
    after = env.step(np.ones(1))[0]
    assert before.shape == (32, 32, 3)
    assert (before != after).any()


def test_what_pytorch_compiles_with_can_be_imported_behind_the_drawing_of_control():
    pytest.importorskip("triton")
    code = (
        "from tokendream.envs.families import dmc; from tokendream.config.env import EnvConfig;"
        "dmc.make('cartpole-swingup', EnvConfig()).reset(seed=0); import torch._dynamo, triton"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_minatar_in_its_parts():
    env = make("minatar:Breakout")
    observation, _ = env.reset(seed=0)
    assert observation.shape == (10, 10, 4)
    assert observation.sum() > 30  # the bricks
    assert env.get_action_meanings() == ["NOOP", "LEFT", "RIGHT"]


def test_a_reset_leaves_no_sticky_action_behind():
    always = make("minatar:Breakout", kwargs='{"sticky_action_prob": 1.0}')
    always.reset(seed=0)
    moved = [always.step(1)[0] for _ in range(3)]
    assert (moved[0][..., 0] == moved[2][..., 0]).all()  # the paddle


def test_minigrid_in_its_parts():
    env = make("minigrid:MiniGrid-DoorKey-6x6-v0")
    image = env.observation_space["image"]
    assert image.shape == (7, 7, 3)
    assert image.nvec[0, 0].tolist() == [11, 6, 3]
    assert set(env.observation_space.spaces) == {"image", "direction"}
    config = vary(TINY, "env", id="minigrid:MiniGrid-DoorKey-6x6-v0")
    assert registry.make(config, 1, evaluation=False).spaces.action_names[:3] == ("LEFT", "RIGHT", "FORWARD")


@pytest.mark.parametrize("name", ["MiniGrid-GoToDoor-5x5-v0", "BabyAI-GoToObj-v0"])
def test_a_text_that_matters_is_said_to_be_left_out(name, capsys):
    make(f"minigrid:{name}")
    assert "its mission, a text that changes from game to game, is left out" in capsys.readouterr().err


def test_doom_leaves_nothing_behind_and_ends_with_a_screen(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    env = make("vizdoom:VizdoomBasic-v1", action_repeat=10)
    env.reset(seed=0)
    steps, over = 0, False
    while not over:
        observation, _, terminated, truncated, _ = env.step(np.int64(0))
        steps, over = steps + 1, terminated or truncated
    assert (steps, terminated, truncated) == (30, False, True)  # 300 tics
    assert observation["screen"].max() > 50
    env.close()
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_crafter_lasts_as_long_as_it_is_told():
    env = make("crafter:NoReward", size=48, kwargs='{"length": 3}')
    assert env.reset(seed=0)[0].shape == (48, 48, 3)
    ends = [env.step(0)[1:4] for _ in range(3)]
    assert ends == [(0.0, False, False), (0.0, False, False), (0.0, False, True)]


class Counter(gymnasium.Env):
    """Pays 1 a step and ends after five."""

    observation_space = gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, last: int = 5) -> None:
        self.last = last

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return self.observation_space.low, {}

    def step(self, action):
        self.steps += 1
        return self.observation_space.high, 1.0, self.steps == self.last, False, {}


class Doubled(gymnasium.RewardWrapper):
    """Twice the reward."""

    def reward(self, reward):
        return 2 * reward


class Plus(gymnasium.RewardWrapper):
    """One more."""

    def reward(self, reward):
        return reward + 1


@pytest.fixture
def counter():
    gymnasium.register("Counter-v0", entry_point=Counter, disable_env_checker=True)
    yield
    del gymnasium.registry["Counter-v0"]


@pytest.mark.parametrize("times", [2, 3, 7])
def test_an_action_repeats_until_the_game_is_over_and_its_rewards_are_summed(times):
    env = Repeated(Counter(), times)
    env.reset(seed=0)
    rewards, over = [], False
    while not over:
        _, reward, over, _, _ = env.step(0)
        rewards.append(reward)
    assert sum(rewards) == 5
    assert len(rewards) == math.ceil(5 / times)


def test_a_gymnasium_id_obeys_the_protocol_of_the_config(counter):
    env = EnvConfig("Counter-v0", action_repeat=2, kwargs='{"last": 100}', max_frames=9, size=8,
                    wrappers=f"{__name__}:Doubled,{__name__}:Plus")  # fmt: skip
    envs = registry.FAMILIES["gym"].make(env, 1)
    envs.reset([0])
    steps = [envs.step(np.zeros(1, np.int64)) for _ in range(5)]
    assert [float(step.reward[0]) for step in steps] == [5.0] * 5  # (1 + 1) * 2 + 1
    assert [bool(step.over[0]) for step in steps] == [False] * 4 + [True]  # 9 frames are 5 decisions
    chosen = {"keys": "observation", "read_as": "image"}
    assert registry.evaluation_protocol(dataclasses.replace(env, **chosen)) == chosen | {
        "size": 8, "max_frames": 108_000, "life_loss_ends": False,
        "action_repeat": 2, "kwargs": env.kwargs, "wrappers": env.wrappers,
    }  # fmt: skip


@pytest.mark.parametrize("wrapper", ["nowhere:Wrapper", f"{__name__}:Nobody", "gymnasium:Nobody"])
def test_a_wrapper_that_is_not_there_is_named(wrapper, counter):
    with pytest.raises(EnvError, match=f"env.wrappers: '{wrapper}' is no module:Wrapper"):
        registry.FAMILIES["gym"].make(EnvConfig("Counter-v0", wrappers=wrapper), 1)


def test_the_list_of_families_says_what_is_installed_and_how_to_install_the_rest(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name == "minatar" else None)
    assert main(["envs"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:8]}
    assert list(lines) == list(FAMILIES)
    assert lines["atari"].endswith("installed")
    assert lines["minatar"].endswith("installed")
    assert lines["dmc"].endswith('pip install "tokendream[dmc]"')


def test_the_environments_of_a_family(capsys):
    assert main(["envs", "crafter:"]) == 0
    assert capsys.readouterr().out.split() == ["crafter:Reward", "crafter:NoReward"]
    assert main(["envs", "minitar"]) == 2
    assert "unknown family 'minitar'; nearest: minatar" in capsys.readouterr().err


def test_an_extra_of_every_family_that_needs_one():
    extras = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert {name for name, family in registry.FAMILIES.items() if family.package} <= set(extras)
