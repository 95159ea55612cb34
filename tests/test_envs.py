"""Atari under the 100K protocol, and the contract that every environment keeps."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from tokendream.config.config import Config, vary
from tokendream.config.presets import REM, TINY
from tokendream.envs.atari import AtariEnvs, find_game, games
from tokendream.envs.atari100k import ATARI_100K
from tokendream.envs.registry import make
from tokendream.envs.vector import EnvError, Envs, Transition


def game(name: str, **env: Any) -> Config:
    own = {field: env.pop(field) for field in vars(REM.env.atari) if field in env}
    return vary(REM, "env", id=name, atari=dataclasses.replace(REM.env.atari, **own), **env)


def play(envs: Envs, seed: int, actions: np.ndarray, one: int, rng: np.random.Generator) -> list[Transition]:
    """The transitions of one environment, the others acting at random."""
    envs.reset([seed if i == one else None for i in range(envs.n)])
    result = []
    for action in actions:
        others = rng.integers(envs.spaces.actions.n, size=envs.n)
        others[one] = action
        result.append(envs.step(others))
    return result


@pytest.mark.parametrize(
    "config",
    [game("Breakout"), game("Seaquest", frames="ale"), game("Boxing", frames="ale"), game("Boxing"), TINY],
    ids=lambda c: f"{c.env_name}, {c.env.atari.frames}",
)
def test_seed_and_actions_determine_the_game(config: Config, rng: np.random.Generator) -> None:
    alone, many = make(config, 1, evaluation=False), make(config, 3, evaluation=False)
    actions = rng.integers(alone.spaces.actions.n, size=60)
    many.reset([7, 8, 9])
    for _ in range(25):  # whatever was played before
        many.step(rng.integers(many.spaces.actions.n, size=3))
    first = play(alone, 5, actions, 0, rng)
    again = play(alone, 5, actions, 0, rng)
    other = play(many, 5, actions, 1, rng)
    for a, b, c in zip(first, again, other, strict=True):
        assert np.array_equal(a.frame, b.frame)
        assert np.array_equal(a.frame[0], c.frame[1])
        assert a.reward[0] == b.reward[0] == c.reward[1]
        assert a.end[0] == b.end[0] == c.end[1]
        assert a.over[0] == b.over[0] == c.over[1]


def test_partial_reset_leaves_the_other_environments(rng: np.random.Generator) -> None:
    envs = make(game("Breakout"), 3, evaluation=False)
    before = envs.reset([1, 2, 3])
    for _ in range(10):
        before = envs.step(rng.integers(envs.spaces.actions.n, size=3)).frame
    after = envs.reset([None, 9, None])
    assert np.array_equal(before[[0, 2]], after[[0, 2]])
    assert not np.array_equal(before[1], after[1])
    assert np.array_equal(after, envs.reset([None] * 3))


@pytest.mark.parametrize(
    "config",
    [game("Breakout"), game("Breakout", frames="ale"), TINY],
    ids=lambda c: f"{c.env_name}, {c.env.atari.frames}",
)
def test_environments_never_reset_are_over(config: Config, rng: np.random.Generator) -> None:
    envs = make(config, 3, evaluation=True)
    frame = envs.reset([None, 4, None])
    assert not frame[[0, 2]].any()
    assert frame[1].any()
    for _ in range(5):
        transition = envs.step(rng.integers(envs.spaces.actions.n, size=3))
        assert transition.over.tolist() == [True, False, True]
        assert not transition.frame[[0, 2]].any()
    assert np.array_equal(frame[1], envs.reset([4, None, None])[0])


ACTIONS = np.random.default_rng(1).integers(4, size=(1000, 1))


def breakout(max_steps: int, **config: int | bool) -> tuple[Envs, list[Transition]]:
    """One game of Breakout under the same random actions, until it is over."""
    envs = make(game("Breakout", noop_max=1, frames="ale", **config), 1, evaluation=False)
    envs.reset([0])
    result: list[Transition] = []
    while len(result) < max_steps and not (result and result[-1].over[0]):
        result.append(envs.step(ACTIONS[len(result)]))
    return envs, result


def test_a_lost_life_ends_but_the_game_goes_on() -> None:
    envs, played = breakout(1000)
    ends = [i for i, transition in enumerate(played) if transition.end[0]]
    overs = [i for i, transition in enumerate(played) if transition.over[0]]
    assert len(ends) == 5  # four lives lost, then the game
    assert overs == [ends[-1]] == [len(played) - 1]
    # After a lost life the same game goes on: the bricks that were hit stay away, and the environment was never reset.
    assert sum(float(transition.reward[0]) for transition in played[: ends[0]]) > 0
    bricks = slice(17, 29)
    assert (envs.reset([0])[0][:, bricks] != played[ends[3] + 1].frame[0][:, bricks]).any()


def test_without_life_loss_only_the_game_ends() -> None:
    _, with_lives = breakout(1000)
    _, played = breakout(1000, life_loss_ends=False)
    assert [i for i, t in enumerate(played) if t.end[0]] == [len(played) - 1]
    for a, b in zip(with_lives, played, strict=True):
        assert np.array_equal(a.frame, b.frame)
    # Evaluation is the same whatever training does.
    envs = make(game("Breakout", frames="ale"), 1, evaluation=True)
    envs.reset([0])
    steps = [envs.step(action) for action in ACTIONS[: len(played)]]
    assert [bool(t.end[0]) for t in steps] == [bool(t.end[0]) for t in played]


def test_an_environment_that_is_over_stays() -> None:
    envs, played = breakout(1000)
    last = played[-1]
    for _ in range(30):
        transition = envs.step(np.array([1]))
        assert np.array_equal(transition.frame, last.frame)
        assert (transition.reward[0], bool(transition.end[0]), bool(transition.over[0])) == (0, False, True)
    envs.reset([0])
    assert not envs.step(np.array([1])).over[0]


def test_truncation_is_no_end() -> None:
    _, played = breakout(1000, max_frames=82)
    assert len(played) == 21  # 20 whole steps and one that the limit cuts
    assert played[-1].over[0]
    assert not played[-1].end[0]


def test_life_lost_on_the_step_of_truncation() -> None:
    """ALE's own life_loss_info hides such a truncation, and the game would restart unasked."""
    _, played = breakout(1000)
    first = next(i for i, transition in enumerate(played) if transition.end[0])
    _, cut = breakout(1000, max_frames=4 * (first + 1))
    assert len(cut) == first + 1
    assert cut[-1].end[0]
    assert cut[-1].over[0]


def test_evaluation_has_its_own_limits() -> None:
    config = game("Pong", max_frames=8, eval_max_frames=16, noop_max=1, eval_noop_max=1)
    for evaluation, steps in ((False, 2), (True, 4)):
        envs = make(config, 1, evaluation=evaluation)
        envs.reset([0])
        overs = [bool(envs.step(np.array([0])).over[0]) for _ in range(steps)]
        assert overs == [False] * (steps - 1) + [True]


def test_noops_vary_the_start() -> None:
    envs = AtariEnvs(game("Freeway", noop_max=30).env, 4)
    assert len({frame.tobytes() for frame in envs.reset([0, 1, 2, 3])}) > 1
    envs = AtariEnvs(game("Freeway", noop_max=1).env, 4)
    assert len({frame.tobytes() for frame in envs.reset([0, 1, 2, 3])}) == 1


@pytest.mark.parametrize("name", ATARI_100K)
def test_all_26_games(name: str) -> None:
    envs = make(game(name), 1, evaluation=False)
    frame = envs.reset([2**40])
    assert frame.shape == (1, 3, 64, 64)
    assert frame.dtype == np.uint8
    transition = envs.step(np.array([envs.spaces.actions.n - 1]))
    assert transition.frame.any()
    assert 3 <= envs.spaces.actions.n == len(envs.spaces.action_names) <= 18
    assert envs.spaces.action_names[0] == "NOOP"
    assert not transition.over[0]
    envs.close()
    envs.close()


def test_frames_handed_out_do_not_change(rng: np.random.Generator) -> None:
    envs = make(game("Boxing"), 2, evaluation=False)
    frame = envs.reset([0, 1])
    copy = frame.copy()
    for _ in range(20):
        envs.step(rng.integers(18, size=2))
    assert np.array_equal(frame, copy)


def test_minimal_action_set() -> None:
    assert AtariEnvs(game("breakout").env, 1).spaces.action_names == ("NOOP", "FIRE", "RIGHT", "LEFT")


@pytest.mark.parametrize(
    ("name", "rom"),
    [("Hero", "hero"), ("JAMESBOND", "jamesbond"), ("up_n_down", "up_n_down"), ("UpNDown", "up_n_down"),
     ("mspacman", "ms_pacman"), ("tetris", "tetris"), ("Kung Fu Master", "kung_fu_master")],
)  # fmt: skip
def test_spellings(name: str, rom: str) -> None:
    assert find_game(name)[1] == rom


def test_unknown_game() -> None:
    with pytest.raises(EnvError, match=r"'Braekout'; nearest of Atari 100K: Breakout") as error:
        make(game("Braekout"), 1, evaluation=False)
    assert "\n" not in str(error.value)
    # ROMs for two players make ALE end the process; they are not games here.
    assert set(ATARI_100K) <= set(games())
    with pytest.raises(EnvError):
        find_game("combat")


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("CartPole", "CartPole-v1"),
        ("catch", "tokendream/Catch-v0"),
        ("walker_walk", "dmc:walker-walk"),
    ],
)
def test_a_name_that_another_family_knows(name: str, other: str) -> None:
    with pytest.raises(EnvError, match=f"unknown .*{name}.*; of another family: {other}$"):
        make(game(name), 1, evaluation=False)


@pytest.mark.parametrize("config", [game("Pong"), TINY], ids=lambda c: c.env_name)
def test_refuses(config: Config) -> None:
    envs = make(config, 2, evaluation=False)
    with pytest.raises(EnvError, match="2 seeds"):
        envs.reset([1])
    with pytest.raises(EnvError, match="-3"):
        envs.reset([1, -3])
    envs.reset([1, 2])
    with pytest.raises(EnvError, match="2 actions"):
        envs.step(np.array([0]))
    for bad in (-1, envs.spaces.actions.n):  # ALE itself would never answer
        with pytest.raises(EnvError, match=f"0..{envs.spaces.actions.n - 1}"):
            envs.step(np.array([0, bad]))
    assert not envs.step(np.array([0, 0])).over.any()


def test_step_before_reset_and_after_close() -> None:
    envs = make(game("Pong"), 1, evaluation=False)
    with pytest.raises(EnvError, match="reset must come"):
        envs.step(np.array([0]))
    envs.close()
    with pytest.raises(EnvError, match="closed"):
        envs.reset([1])
