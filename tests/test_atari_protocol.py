"""The protocol against the bare emulator: four raw frames a step, the maximum of the last two, nothing sticky.

`reset_game` belongs to the comparison. An emulator that has only loaded its ROM is in another state than one that was
reset, and stays so: frames then differ in Assault, Boxing (from step 9 or 10 on), DemonAttack, Freeway, Frostbite and
PrivateEye, and in no other of the 26 games. ALE's vector environment, ours and Gymnasium's all reset it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import ale_py
import numpy as np
import pytest
from ale_py import ALEInterface, roms
from ale_py.vector_env import AtariVectorEnv
from jaxtyping import UInt8

from tokendream.config.env import AtariConfig, EnvConfig
from tokendream.envs.atari import AtariEnvs, find_game
from tokendream.envs.atari100k import ATARI_100K
from tokendream.envs.resize import resize


def protocol(game: str, *, max_frames: int = 20_000, **atari: Any) -> EnvConfig:
    return EnvConfig(game, max_frames=max_frames, atari=AtariConfig(**atari))


def emulator(game: str, *, seed: int = 0, noops: int = 0) -> ALEInterface:
    """A game at its start, after so many raw frames without an action."""
    ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    bare = ALEInterface()
    bare.setFloat("repeat_action_probability", 0.0)
    bare.setInt("random_seed", seed)
    bare.loadROM(roms.get_rom_path(find_game(game)[1]))
    bare.reset_game()
    for _ in range(noops):
        bare.act(0)
    return bare


def act(bare: ALEInterface, action: int) -> tuple[float, list[UInt8[np.ndarray, "H W 3"]]]:
    """Four raw frames under one action of the minimal set: (the sum of their rewards, the last two pictures)."""
    move, reward, screens = bare.getMinimalActionSet()[action], 0.0, []
    for frame in range(4):
        reward += bare.act(move)
        if frame >= 2:
            screens.append(bare.getScreenRGB())
    return reward, screens


def shown(screens: Sequence[UInt8[np.ndarray, "H W 3"]]) -> UInt8[np.ndarray, "3 64 64"]:
    """What the agent should see of them."""
    return resize(np.maximum(screens[-1], screens[-2]), 64).transpose(2, 0, 1)


def close(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal but for rounding: OpenCV shrinks pictures here and inside ALE, in two versions of it."""
    return bool(np.abs(a.astype(int) - b).max() <= 1)


def check(game: str, steps: int, rng: np.random.Generator) -> Iterator[tuple[float, bool]]:
    """Random steps of an environment and of the emulator; yields each reward and whether the frames flickered."""
    envs, bare = AtariEnvs(protocol(game, noop_max=1), 1), emulator(game, seed=int(rng.integers(100)))
    first = envs.reset([0])[0]
    assert envs.spaces.actions.n == len(bare.getMinimalActionSet())
    assert close(resize(bare.getScreenRGB(), 64).transpose(2, 0, 1), first)
    for step in range(steps):
        action = int(rng.integers(envs.spaces.actions.n))
        reward, screens = act(bare, action)
        transition = envs.step(np.array([action]))
        assert transition.reward[0] == reward, step  # not clipped: a point of MsPacman is 10
        assert bool(transition.over[0]) == bare.game_over(), step
        if bare.game_over():
            return
        assert close(shown(screens), transition.frame[0]), step
        yield reward, bool((screens[-1] != screens[-2]).any())


@pytest.mark.parametrize("game", list(ATARI_100K))
def test_every_game_is_that_of_the_bare_emulator(game: str, rng: np.random.Generator) -> None:
    """Whatever the emulator's seed: without sticky actions nothing in it is random."""
    assert len(list(check(game, 40, rng))) == 40


@pytest.mark.parametrize("game", ["MsPacman", "Breakout", "Alien"])
def test_a_step_is_four_frames_of_the_bare_emulator(game: str, rng: np.random.Generator) -> None:
    rewards, flickers = zip(*check(game, 200, rng), strict=True)
    assert any(rewards)
    assert any(flickers)


def test_noops_at_the_start_are_fewer_than_their_bound() -> None:
    """`noop_max` = 3: a game starts after 0, 1 or 2 raw frames without an action, by its seed, and never after 3."""
    actions = np.random.default_rng(0).integers(3, size=4)
    bares = [emulator("Freeway", noops=n) for n in range(5)]
    plays = [np.stack([shown(act(bare, action)[1]) for action in actions]) for bare in bares]
    assert len({play.tobytes() for play in plays}) == len(plays)
    envs, found = AtariEnvs(protocol("Freeway", noop_max=3), 1), []
    for seed in range(12):
        envs.reset([seed])
        frames = np.stack([envs.step(np.array([action])).frame[0] for action in actions])
        (noops,) = [n for n, play in enumerate(plays) if close(play, frames)]
        found.append(noops)
    assert set(found) == {0, 1, 2}


@pytest.mark.parametrize("evaluation", [False, True])
def test_boxing_is_that_of_ales_vector_environment(evaluation: bool, rng: np.random.Generator) -> None:
    """Under the settings of training and of evaluation: our environments add and lose nothing."""
    limits = {"noop_max": 1, "max_frames": 108_000} if evaluation else {"noop_max": 30, "max_frames": 20_000}
    ours = AtariEnvs(protocol("Boxing", life_loss_ends=not evaluation, **limits), 2)
    ale = AtariVectorEnv(
        "boxing", 2, img_height=64, img_width=64, grayscale=False, stack_num=1, frameskip=4, maxpool=True,
        noop_max=limits["noop_max"], max_num_frames_per_episode=limits["max_frames"], repeat_action_probability=0.0,
        use_fire_reset=False, reward_clipping=False,
    )  # fmt: skip
    frame, _ = ale.reset(seed=np.array([3, 4]), options={"reset_mask": np.ones(2, bool)})
    assert np.array_equal(ours.reset([3, 4]), frame[:, 0].transpose(0, 3, 1, 2))
    for _ in range(100):
        actions = rng.integers(ours.spaces.actions.n, size=2)
        frame, reward, _, _, _ = ale.step(actions.astype(np.int32))
        transition = ours.step(actions)
        assert np.array_equal(transition.frame, frame[:, 0].transpose(0, 3, 1, 2))
        assert np.array_equal(transition.reward, reward)
