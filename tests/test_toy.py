"""Catch: what its docstring says about scores, and that a frame shows everything."""

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env

from tokendream.config.presets import TINY
from tokendream.envs.registry import make
from tokendream.envs.toy import BACKGROUND, BALL, CATCH, PADDLE, Catch, register


def look(frame: np.ndarray) -> tuple[int, int, int]:
    """Row and column of the ball and centre of the paddle, read from a frame 3x64x64."""
    cells = frame[:, 4::8, 4::8].transpose(1, 2, 0)
    ((row, column),) = np.argwhere((cells == BALL).all(-1))
    paddle = np.flatnonzero((cells[-1] == PADDLE).all(-1) | ((row == 7) & (np.arange(8) == column)))
    if row == 7 and len(paddle) == 4:
        paddle = paddle[paddle != column]
    return int(row), int(column), int(np.median(paddle))


def perfect(frame: np.ndarray) -> int:
    row, column, paddle = look(frame)
    if row == 7:
        return 0
    return 0 if column == paddle else (1 if column < paddle else 2)


def test_registered_once_and_conforming() -> None:
    register()
    register()
    check_env(gymnasium.make(CATCH).unwrapped, skip_render_check=True)


def test_best_score_from_every_start() -> None:
    envs = make(TINY, 1, evaluation=True)
    starts = set()
    for seed in range(300):
        frame = envs.reset([seed])[0]
        starts.add(look(frame)[1:])
        if seed > 60:
            continue
        score, steps, over = 0.0, 0, False
        while not over:
            transition = envs.step(np.array([perfect(frame)]))
            frame, over = transition.frame[0], bool(transition.over[0])
            score, steps = score + float(transition.reward[0]), steps + 1
            assert bool(transition.end[0]) == over
        assert (score, steps) == (5.0, 39)
    assert len(starts) == 8 * 6


def test_random_score() -> None:
    rng = np.random.default_rng(0)
    env = Catch()
    games = []
    for seed in range(400):
        env.reset(seed=seed)
        games.append(sum(float(env.step(int(action))[1]) for action in rng.integers(3, size=39)))
    assert abs(np.mean(games) + 1.26) < 4 * 1.8 / 20
    assert abs(np.std(games) - 1.8) < 0.3


def test_rewards_come_with_the_landing_only() -> None:
    env = Catch()
    env.reset(seed=3)
    rewards = [env.step(0)[1] for _ in range(39)]
    assert [i for i, reward in enumerate(rewards) if reward] == [6, 14, 22, 30, 38]
    assert set(rewards) <= {0.0, 1.0, -1.0}


def test_next_frame_follows_from_this_one() -> None:
    """Two games that show the same frame go on alike: nothing that matters is hidden, nothing is random."""
    rng = np.random.default_rng(0)
    env = Catch()
    after: dict[tuple[tuple[int, ...], int], tuple[int, ...]] = {}
    for seed in range(200):
        seen = look(env.reset(seed=seed)[0].transpose(2, 0, 1))
        for action in rng.integers(3, size=38):
            frame = env.step(int(action))[0]
            now = look(frame.transpose(2, 0, 1))
            # A caught ball hides a part of the paddle, from whose edge cells the place still follows.
            assert after.setdefault((seen, int(action)), now) == now
            seen = now


def test_cells_are_plain() -> None:
    frame = Catch().render()
    assert set(map(tuple, frame.reshape(-1, 3).tolist())) == {BACKGROUND, PADDLE, BALL}
    assert (frame.reshape(8, 8, 8, 8, 3) == frame[::8, ::8][:, None, :, None]).all()
