"""Dreams that begin shortly before a reward: which moments, how often they are drawn, and that a run goes on."""

import dataclasses

import numpy as np
import pytest
from test_trainer import cut_after, everything, finish, gone_on, same, trainer

from tokendream.config.presets import TINY, vary
from tokendream.data.replay import ReplayBuffer
from tokendream.dream.starts import soon_rewarded

FRAME = np.zeros((3, 2, 2), np.uint8)


def filled(rng: np.random.Generator, envs: int, rewarded: float = 0.1, rows: int = 240) -> ReplayBuffer:
    """Short episodes with rewards of either sign, the first rows overwritten."""
    replay = ReplayBuffer(120, FRAME.shape, envs=envs)
    for _ in range(rows):
        reward = float(rng.choice([-1.0, 2.0])) if rng.random() < rewarded else 0.0
        replay.add(FRAME, 0, reward, False, bool(rng.random() < 0.08))
    return replay


@pytest.mark.parametrize("envs", [1, 3])
@pytest.mark.parametrize("steps", [1, 4, 30])
@pytest.mark.parametrize("before", [0, 2])
def test_they_are_the_rows_with_a_reward_ahead_in_their_episode(envs, steps, before, rng):
    replay = filled(rng, envs)
    rows = replay.rows(np.arange(replay.oldest, replay.total))
    begun, reward = rows["episode_start"], rows["reward"]
    expected = []
    for i in range(len(reward)):
        ahead = [j for j in range(i, min(len(reward), i + envs * steps), envs) if begun[j] == begun[i]]
        behind = sum(begun[j] == begun[i] for j in range(i % envs, i, envs))
        if behind >= before and any(reward[j] for j in ahead):
            expected.append(i + replay.oldest)
    assert 0 < len(expected) < len(reward)
    assert sorted(soon_rewarded(replay, steps, before).tolist()) == expected


@pytest.mark.parametrize("before", [0, 2])
def test_without_any_reward_they_are_all_that_a_dream_may_begin_at(before, rng):
    replay = filled(rng, 1, rewarded=0.0)
    assert np.array_equal(soon_rewarded(replay, 8, before), replay.anchors(before, 0))


@pytest.mark.parametrize(("share", "context_starts"), [(0.0, False), (0.5, False), (0.5, True), (1.0, False)])
def test_that_share_of_the_dreams_begins_there(share, context_starts, rng):
    """Of 40 draws of 8: those that must and, of the others, as many as all rows have, within four deviations."""
    config = vary(TINY, "dream", rewarded_starts=share, context_starts=context_starts)
    t = trainer(vary(config, "training", actor_critic=dataclasses.replace(config.training.actor_critic, batch=8)))
    black = np.zeros((120, *t.replay.frame_shape), np.uint8)
    t.replay.restore({**filled(rng, 1, 0.03, 120).export(0, 120), "frame": black}, 0)
    before = config.world_model.context if context_starts else 0
    soon = soon_rewarded(t.replay, config.dream.horizon - 1, before)
    rate = np.isin(soon, t.replay.anchors(before, 0)).sum() / len(t.replay.anchors(before, 0))
    anchors = np.concatenate([t.phases["actor_critic"].draw()[0].row[:, -1] for _ in range(40)])
    assert len(anchors) == 320
    drawn, n = np.isin(anchors, soon).mean(), 320 * (1 - share)
    expected = share + (1 - share) * rate
    assert abs(drawn - expected) <= 4 * np.sqrt(n * rate * (1 - rate)) / 320
    assert np.isin(anchors, t.replay.anchors(before, 0)).all()


def test_a_run_goes_on_to_the_bit():
    cut = cut_after(73, vary(TINY, "dream", rewarded_starts=0.5))
    resumed = gone_on(cut, cut.snapshot())
    assert same(everything(finish(cut)), everything(resumed))
