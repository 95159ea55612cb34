"""Games: exactly those asked for, each by its seed, in any number of environments, and the same when played again."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from tokendream.agent.collect import game_seed
from tokendream.config.env import AtariConfig, EnvConfig
from tokendream.config.presets import REM, TINY
from tokendream.envs.registry import make
from tokendream.envs.vector import EnvError, Transition, play_again
from tokendream.evaluation.games import Game, Player, game_seeds, play_games, random_player, replay_game
from tokendream.spaces.actions import Discrete
from tokendream.spaces.observations import image_spaces


class Fake:
    """A game of 1 + seed % 13 steps whose steps are worth the action plus its number; frames show the step."""

    def __init__(self, n: int) -> None:
        self.n, self.spaces = n, image_spaces(8, 3, ("A", "B", "C"))
        self.seeds = [0] * n
        self.t = np.zeros(n, int)
        self.over = np.ones(n, bool)
        self.started: list[int] = []

    def reset(self, seeds: Sequence[int | None]) -> np.ndarray:
        for i, seed in enumerate(seeds):
            if seed is not None:
                assert self.over[i], "a game was cut short"
                self.seeds[i], self.t[i], self.over[i] = seed, 0, False
                self.started.append(seed)
        return self.frame()

    def step(self, actions: np.ndarray) -> Transition:
        live = ~self.over
        self.t += live
        reward = live * (actions + self.t).astype(np.float32)
        self.over = self.over | (self.t >= [length(seed) for seed in self.seeds])
        return Transition(self.frame(), reward, self.over & live, self.over.copy())

    def frame(self) -> np.ndarray:
        return np.broadcast_to(self.t[:, None, None, None], (self.n, 3, 8, 8)).astype(np.uint8)

    def close(self) -> None: ...


def length(seed: int) -> int:
    return 1 + seed % 13


def test_games_that_are_played_again_end_together() -> None:
    """Those with fewer actions begin later, one without any at the end, and an environment without a game never."""
    envs, seen = Fake(4), []
    games = {0: (12, [1, 2, 0]), 1: (11, [2]), 3: (10, [])}
    for left, frame, transition in play_again(envs, games):
        reward = None if transition is None else transition.reward[:2].tolist()
        seen.append((left, frame[:2, 0, 0, 0].tolist(), reward))
        assert (transition is None) == (left == 0)
        assert envs.started == {3: [12], 2: [12], 1: [12, 11], 0: [12, 11, 10]}[left]
    assert seen == [(3, [0, 0], [2, 0]), (2, [1, 0], [4, 0]), (1, [2, 0], [3, 3]), (0, [3, 1], None)]
    assert envs.over.tolist() == [False, False, True, False]


def by_frame(frame: np.ndarray, first: np.ndarray) -> np.ndarray:
    """A deterministic policy that sees its own environment only."""
    return frame.reshape(len(first), -1).sum(-1, dtype=np.int64) % 3


@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_every_game_is_played_once_to_its_end(n: int) -> None:
    envs = Fake(n)
    heard: list[tuple[int, int, int]] = []
    games = play_games(envs, by_frame, 20, seed=4, progress=lambda *so_far: heard.append(so_far))
    assert [game.seed for game in games] == game_seeds(4, 20)
    assert sorted(envs.started) == sorted(game_seeds(4, 20))
    assert heard[0] == (0, 20, 0)
    assert heard[-1] == (20, 20, sum(game.length for game in games))
    assert heard == sorted(heard)
    assert all(after[2] - before[2] <= n for before, after in itertools.pairwise(heard))
    for game in games:
        T = length(game.seed)
        actions = np.arange(T) * 192 % 3
        assert game.length == T
        assert game.actions.tolist() == actions.tolist()
        assert game.score == (actions + np.arange(1, T + 1)).sum()


def test_first_marks_new_games_only() -> None:
    envs = Fake(3)
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def policy(frame: np.ndarray, first: np.ndarray) -> np.ndarray:
        seen.append((frame[:, 0, 0, 0].copy(), first.copy()))
        return np.zeros(3, np.int64)

    play_games(envs, policy, 7, seed=0)
    assert sum(int(first.sum()) for _, first in seen) == 7
    for frame, first in seen:
        assert (frame[first] == 0).all()  # the first frame of its game, not the last of the one before


def test_more_environments_than_games_and_none_at_all() -> None:
    envs = Fake(8)
    assert len(play_games(envs, by_frame, 3, seed=1)) == 3
    assert len(envs.started) == 3
    with pytest.raises(EnvError, match="at least 1 episode"):
        play_games(envs, by_frame, 0, seed=1)


def test_game_seeds() -> None:
    assert game_seeds(7, 10)[:4] == game_seeds(7, 4)
    assert len(set(game_seeds(0, 500)) | set(game_seeds(1, 500))) == 1000
    # Evaluation never plays the training run's own games.
    assert not set(game_seeds(0, 500)) & {game_seed(0, i) for i in range(500)}


def same(a: list[Game], b: list[Game]) -> bool:
    return all(
        x.seed == y.seed and x.score == y.score and np.array_equal(x.actions, y.actions)
        for x, y in zip(a, b, strict=True)
    )


def test_the_number_of_environments_does_not_matter_on_real_games() -> None:
    short = dataclasses.replace(REM, env=EnvConfig("Boxing", eval_max_frames=100, atari=AtariConfig(eval_noop_max=30)))
    for config in (TINY, short):
        games = [play_games(make(config, n, evaluation=True), by_frame, 6, seed=2) for n in (1, 4)]
        assert same(*games)


def test_a_random_player_is_reproducible() -> None:
    def games(n: int) -> list[Game]:
        return play_games(
            make(TINY, n, evaluation=True), random_player(Discrete(3).random, np.random.default_rng(5)), 5, seed=3
        )

    assert same(games(2), games(2))
    assert {game.length for game in games(2)} == {39}


@pytest.mark.parametrize("n", [1, 3])
def test_replayed_frames_are_those_that_were_played(n: int) -> None:
    envs = make(TINY, n, evaluation=True)
    shown: list[np.ndarray] = []
    policy = random_player(Discrete(3).random, np.random.default_rng(0))

    def watching(frame: np.ndarray, first: np.ndarray) -> np.ndarray:
        shown.append(frame[0])
        return policy(frame, first)

    game = play_games(make(TINY, 1, evaluation=True), watching, 1, seed=3)[0]
    frames = list(replay_game(envs, game))
    assert len(frames) == game.length + 1
    assert np.array_equal(frames[:-1], shown)


def test_games_are_told_apart_by_their_frames() -> None:
    one, again, other = (
        play_games(make(TINY, n, evaluation=True), by_frame, 1, seed=seed)[0] for n, seed in ((1, 3), (2, 3), (1, 4))
    )
    assert one.checksum == again.checksum != other.checksum


@pytest.mark.parametrize(
    "change",
    [{"score": 77.0}, {"actions": np.zeros(3, np.uint8)}, {"actions": np.zeros(50, np.uint8)}, {"checksum": 7}],
)
def test_replay_notices_another_game(change: dict[str, object]) -> None:
    envs = make(TINY, 1, evaluation=True)
    game = play_games(envs, by_frame, 1, seed=3)[0]
    with pytest.raises(EnvError, match="does not obey its seed"):
        list(replay_game(envs, dataclasses.replace(game, **change)))  # type: ignore[arg-type]


def test_a_function_is_a_player() -> None:
    assert isinstance(by_frame, Player)
