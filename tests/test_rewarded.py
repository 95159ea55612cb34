"""Segments and dreams that begin shortly before a reward: where, how often rare ones are drawn, that a run goes on."""

import dataclasses

import numpy as np
import pytest
from test_trainer import cut_after, everything, finish, gone_on, same, trainer

from tokendream.config.config import vary
from tokendream.config.presets import TINY, preset
from tokendream.data.replay import ReplayBuffer
from tokendream.data.rewarded import draw_rewarded, soon_rewarded
from tokendream.errors import ConfigError

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
    expected = {}
    for i in range(len(reward)):
        ahead = [j for j in range(i, min(len(reward), i + envs * steps), envs) if begun[j] == begun[i]]
        behind = sum(begun[j] == begun[i] for j in range(i % envs, i, envs))
        if behind >= before and any(reward[j] for j in ahead):
            expected[i + replay.oldest] = next(reward[j] for j in ahead if reward[j])
    assert 0 < len(expected) < len(reward)
    found, coming = soon_rewarded(replay, steps, before)
    assert len(found) == len(expected)
    assert dict(zip(found.tolist(), coming.tolist(), strict=True)) == expected


@pytest.mark.parametrize("before", [0, 2])
def test_without_any_reward_all_rows_are_drawn_that_a_dream_may_begin_at(before, rng):
    replay = filled(rng, 1, rewarded=0.0)
    drawn = draw_rewarded(replay, 5000, 8, rng, rare=0.5, before=before)
    assert set(drawn.tolist()) == set(replay.anchors(before, 0).tolist())


@pytest.mark.parametrize("rare", [0.0, 0.5, 1.0])
def test_moments_before_a_rare_reward_are_drawn_more_often_than_they_came(rare, rng):
    """64 moments before a reward of 1 and 4 before one of 5: 64 to 4, 8 to 2 or 1 to 1, within four deviations."""
    replay = ReplayBuffer(200, FRAME.shape)
    for i in range(80):
        replay.add(FRAME, 0, 1.0 if i < 64 else 5.0 * (64 <= i < 68), False, i == 79)
    drawn = draw_rewarded(replay, 4000, 1, rng, rare=rare)
    expected = {0.0: 4 / 68, 0.5: 2 / 10, 1.0: 1 / 2}[rare]
    assert set(drawn.tolist()) == set(range(68))
    assert abs((drawn >= 64).mean() - expected) <= 4 * np.sqrt(expected * (1 - expected) / 4000)


@pytest.mark.parametrize(("share", "context_starts"), [(0.0, False), (0.5, False), (0.5, True), (1.0, False)])
def test_that_share_of_the_dreams_begins_there(share, context_starts, rng):
    """Of 40 draws of 8: those that must and, of the others, as many as all rows have, within four deviations."""
    config = vary(TINY, "dream", rewarded_starts=share, context_starts=context_starts)
    t = trainer(vary(config, "training", actor_critic=dataclasses.replace(config.training.actor_critic, batch=8)))
    black = np.zeros((120, *t.replay.frame_shape), np.uint8)
    t.replay.restore({**filled(rng, 1, 0.03, 120).export(0, 120), "frame": black}, 0)
    before = config.world_model.context if context_starts else 0
    soon, _ = soon_rewarded(t.replay, config.dream.horizon - 1, before)
    rate = np.isin(soon, t.replay.anchors(before, 0)).sum() / len(t.replay.anchors(before, 0))
    anchors = np.concatenate([t.phases["actor_critic"].draw()[0].row[:, -1] for _ in range(40)])
    assert len(anchors) == 320
    drawn, n = np.isin(anchors, soon).mean(), 320 * (1 - share)
    expected = share + (1 - share) * rate
    assert abs(drawn - expected) <= 4 * np.sqrt(n * rate * (1 - rate)) / 320
    assert np.isin(anchors, t.replay.anchors(before, 0)).all()


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_that_share_of_m_s_segments_begins_there(share, rng):
    """A reward lies in each of them, and not in its last block, which is not scored."""
    config = vary(TINY, "world_model", rewarded_segments=share)
    t = trainer(vary(config, "training", world_model=dataclasses.replace(config.training.world_model, batch=8)))
    black = np.zeros((120, *t.replay.frame_shape), np.uint8)
    t.replay.restore({**filled(rng, 1, 0.03, 120).export(0, 120), "frame": black}, 0)
    for _ in range(20):
        segments, batch = t.phases["world_model"].draw()
        rewarded = ((batch.steps.reward != 0) & batch.steps.mask)[:, :-1].any(1)
        assert rewarded[: round(8 * share)].all()
        assert segments.row.shape == (8, config.world_model.segment_length)


def test_segments_by_loss_are_not_drawn_by_reward_too():
    with pytest.raises(ConfigError, match=r"rewarded_segments must be 0 with world_model\.by_loss"):
        vary(preset("simulus"), "world_model", rewarded_segments=0.25)


def test_a_run_goes_on_to_the_bit():
    config = vary(TINY, "dream", rewarded_starts=0.5)
    config = vary(vary(config, "world_model", rewarded_segments=0.5), "training", rare_rewards=0.5)
    cut = cut_after(73, config)
    resumed = gone_on(cut, cut.snapshot())
    assert same(everything(finish(cut)), everything(resumed))
