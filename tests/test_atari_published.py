"""Atari as the published code shows it, against a bare emulator and an independent writing of the frame filter."""

import dataclasses

import numpy as np
import pytest
from test_atari_protocol import act, emulator, protocol

from tokendream.config.config import Config
from tokendream.config.presets import CPU, REM
from tokendream.envs.atari import AtariEnvs
from tokendream.envs.atari_published import PublishedAtariEnvs, shrink
from tokendream.envs.registry import make
from tokendream.envs.vector import EnvError
from tokendream.errors import ConfigError


def triangle(image: np.ndarray, size: int) -> np.ndarray:
    """Antialiased bilinear shrinking, written out: weights fall linearly to 0 one small pixel away, in raw pixels."""
    for axis in (0, 1):
        n = image.shape[axis]
        scale = n / size
        centre = (np.arange(size) + 0.5) * scale
        distance = np.abs(np.arange(n) + 0.5 - centre[:, None]) / scale
        weight = np.clip(1 - distance, 0, None)
        weight /= weight.sum(1, keepdims=True)
        image = np.moveaxis(np.tensordot(weight, image, (1, axis)), 0, axis)
    return image.transpose(2, 0, 1)


def test_the_frame_filter_is_its_definition(rng):
    for screen in (rng.integers(0, 256, (210, 160, 3), np.uint8), emulator("Breakout", noops=40).getScreenRGB()):
        small = shrink(screen, 64)
        assert small.shape == (3, 64, 64)
        # Pillow rounds after each of its two passes, so that two halves of a level can add up.
        assert np.abs(small - triangle(screen.astype(float), 64)).max() <= 1.01


@pytest.mark.parametrize("game", ["Breakout", "Boxing", "MsPacman"])
def test_a_step_is_the_maximum_of_two_small_frames_after_one_noop(game, rng):
    envs, bare = PublishedAtariEnvs(protocol(game, noop_max=1), 1), emulator(game, noops=1)
    assert np.array_equal(envs.reset([0])[0], shrink(bare.getScreenRGB(), 64))
    for _ in range(120):
        action = int(rng.integers(envs.spaces.actions.n))
        reward, screens = act(bare, action)
        transition = envs.step(np.array([action]))
        assert np.array_equal(transition.frame[0], np.maximum(*(shrink(screen, 64) for screen in screens)))
        assert transition.reward[0] == reward


def test_a_game_has_between_one_and_thirty_noops_by_its_seed():
    envs, started = PublishedAtariEnvs(protocol("Freeway"), 1), []
    for seed in range(40):
        envs.reset([seed])
        started.append(envs._games[0].ale.getEpisodeFrameNumber())
    assert (min(started), max(started)) == (1, 30)
    envs.reset([5])
    assert envs._games[0].ale.getEpisodeFrameNumber() == started[5]


def test_the_ball_of_breakout_is_dimmer_than_under_area_averaging():
    """The only thing between the wall and the paddle, over 200 random steps: the maximum comes after the shrinking."""
    brightest = []
    for kind in (PublishedAtariEnvs, AtariEnvs):
        rng, envs = np.random.default_rng(0), kind(protocol("Breakout", noop_max=1), 1)
        envs.reset([0])
        frames = [envs.step(rng.integers(1, 4, 1)).frame[0] for _ in range(200)]
        brightest.append(max(int(frame[0, 30:56, 4:60].max()) for frame in frames))
    published, area = brightest
    assert area > 1.4 * published > 0


def play(envs: PublishedAtariEnvs, steps: int) -> list[tuple[float, bool, bool, int]]:
    rng, seen = np.random.default_rng(1), []
    envs.reset([0])
    for _ in range(steps):
        transition = envs.step(rng.integers(1, envs.spaces.actions.n, 1))
        game = envs._games[0]
        seen.append(
            (float(transition.reward[0]), bool(transition.end[0]), bool(transition.over[0]), game.ale.getFrameNumber())
        )
        if seen[-1][2]:
            break
    return seen


def test_a_lost_life_is_an_end_and_the_game_goes_on():
    seen = play(PublishedAtariEnvs(protocol("Breakout", noop_max=1), 1), 2000)
    assert sum(end for _, end, _, _ in seen) == 5
    assert [over for _, _, over, _ in seen].index(True) == len(seen) - 1
    seen = play(PublishedAtariEnvs(protocol("Breakout", noop_max=1, life_loss_ends=False), 1), 2000)
    assert [end for _, end, _, _ in seen].index(True) == len(seen) - 1


def test_one_uncounted_noop_step_after_a_lost_life():
    seen = play(PublishedAtariEnvs(protocol("Breakout", noop_max=1, noop_after_life_loss=True), 1), 2000)
    frames = np.diff([1] + [number for _, _, _, number in seen])
    ends = np.array([end for _, end, _, _ in seen])
    assert (frames[ends][:-1] == 8).all()
    assert (frames[~ends] == 4).all()


def test_a_raw_frame_pays_the_sign_of_its_reward_where_that_is_asked_for():
    """In training games; an evaluation counts what the game does."""
    paid, signed = (
        [reward for reward, *_ in play(PublishedAtariEnvs(config, 1), 400)]
        for config in (protocol("Krull", noop_max=1), protocol("Krull", noop_max=1, sign_rewards=True))
    )
    assert max(paid) > 4
    assert set(signed) <= {-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0}
    assert [reward != 0 for reward in signed] == [reward != 0 for reward in paid]
    assert not protocol("Krull", sign_rewards=True).for_evaluation().atari.sign_rewards


@pytest.mark.parametrize("ends", [False, True])
def test_the_time_limit_is_an_end_where_that_is_asked_for(ends):
    seen = play(PublishedAtariEnvs(protocol("Freeway", noop_max=1, max_frames=41, time_limit_ends=ends), 1), 100)
    assert len(seen) == 10
    assert seen[-1][1:3] == (ends, True)
    assert not any(end for _, end, _, _ in seen[:-1])


def test_games_side_by_side_are_the_ones_played_alone(rng):
    several, alone = PublishedAtariEnvs(protocol("Boxing"), 3), PublishedAtariEnvs(protocol("Boxing"), 1)
    frames = several.reset([4, 5, None])
    assert not frames[2].any()
    assert np.array_equal(alone.reset([5])[0], frames[1])
    for _ in range(30):
        actions = rng.integers(several.spaces.actions.n, size=3)
        both, one = several.step(actions), alone.step(actions[1:2])
        assert np.array_equal(both.frame[1], one.frame[0])
        assert both.over.tolist() == [False, False, True]
    several.close()
    several.close()
    with pytest.raises(EnvError, match="closed"):
        several.step(np.zeros(3, np.int64))


def test_the_config_chooses_the_frames_and_refuses_what_does_not_go_together():
    assert type(make(without_timeout(REM), 1, evaluation=False)) is PublishedAtariEnvs
    assert type(make(without_timeout(CPU), 1, evaluation=False)) is AtariEnvs
    for name in ("noop_after_life_loss", "time_limit_ends", "sign_rewards"):
        atari = dataclasses.replace(CPU.env.atari, **{name: True})
        with pytest.raises(ConfigError, match=f"env.atari.{name} must be false where env.atari.frames is ale"):
            dataclasses.replace(CPU, env=dataclasses.replace(CPU.env, atari=atari))


def without_timeout(config: Config) -> Config:
    return dataclasses.replace(config, env=dataclasses.replace(config.env, step_timeout=0.0))
