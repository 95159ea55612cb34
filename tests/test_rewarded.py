"""Segments and dreams that begin shortly before a reward: where, how often rare ones are drawn, that a run goes on."""

import dataclasses

import numpy as np
import pytest
import torch
from test_trainer import cut_after, everything, finish, gone_on, same, trainer

from tokendream.agent.masked import cross_entropy
from tokendream.agent.rewards import Adjusted
from tokendream.config.config import vary
from tokendream.config.presets import TINY, preset
from tokendream.data.replay import ReplayBuffer
from tokendream.data.rewarded import draw_rewarded, frequencies, soon_rewarded, with_rewarded
from tokendream.errors import ConfigError, once

FRAME = np.zeros((3, 2, 2), np.uint8)


def filled(rng: np.random.Generator, envs: int, rewarded: float = 0.1, rows: int = 240) -> ReplayBuffer:
    """Short episodes with rewards of either sign, the first rows overwritten."""
    replay = ReplayBuffer(120, FRAME.shape, envs=envs)
    for _ in range(rows):
        reward = float(rng.choice([-1.0, 2.0])) if rng.random() < rewarded else 0.0
        replay.add(FRAME, 0, reward, False, bool(rng.random() < 0.08))
    return replay


def fill(replay: ReplayBuffer, rng: np.random.Generator) -> None:
    """The same with a reward in one step of thirty, in black frames of the size that this replay has."""
    black = np.zeros((120, *replay.frame_shape), np.uint8)
    replay.restore({**filled(rng, 1, 0.03, 120).export(0, 120), "frame": black}, 0)


@pytest.mark.parametrize("envs", [1, 3])
@pytest.mark.parametrize("ahead", [range(1), range(4), range(30), range(2, 5), range(7, 8)])
@pytest.mark.parametrize("before", [0, 2])
def test_they_are_the_rows_with_a_reward_ahead_in_their_episode(envs, ahead, before, rng):
    replay = filled(rng, envs)
    rows = replay.rows(np.arange(replay.oldest, replay.total))
    begun, reward = rows["episode_start"], rows["reward"]
    expected = {}
    for i in range(len(reward)):
        steps = [j for j in (i + envs * k for k in ahead) if j < len(reward) and begun[j] == begun[i]]
        behind = sum(begun[j] == begun[i] for j in range(i % envs, i, envs))
        if behind >= before and any(reward[j] for j in steps):
            expected[i + replay.oldest] = next(reward[j] for j in steps if reward[j])
    assert 0 < len(expected) < len(reward)
    found, coming = soon_rewarded(replay, ahead, before)
    assert len(found) == len(expected)
    assert dict(zip(found.tolist(), coming.tolist(), strict=True)) == expected


@pytest.mark.parametrize("before", [0, 2])
def test_without_any_reward_segments_are_as_they_were_drawn(before, rng):
    replay = filled(rng, 1, rewarded=0.0)
    segments = replay.draw(8, 4, align="end", rng=rng, before=before)
    assert with_rewarded(replay, segments, 0.5, range(8), rng, align="end", rare=0.5, before=before) is segments


def test_a_new_reward_is_met():
    replay, rng = ReplayBuffer(50, FRAME.shape), np.random.default_rng(0)
    for reward in (0.0, 1.0, 0.0):
        replay.add(FRAME, 0, reward, False, False)
    assert set(draw_rewarded(replay, 100, range(1), rng).tolist()) == {1}
    replay.add(FRAME, 0, 1.0, False, False)
    assert set(draw_rewarded(replay, 100, range(1), rng).tolist()) == {1, 3}


@pytest.mark.parametrize("rare", [0.0, 0.5, 1.0])
def test_moments_before_a_rare_reward_are_drawn_more_often_than_they_came(rare, rng):
    """64 moments before a reward of 1 and 4 before one of 5: 64 to 4, 8 to 2 or 1 to 1, within four deviations."""
    replay = ReplayBuffer(200, FRAME.shape)
    for i in range(80):
        replay.add(FRAME, 0, 1.0 if i < 64 else 5.0 * (64 <= i < 68), False, i == 79)
    drawn = draw_rewarded(replay, 4000, range(1), rng, rare=rare)
    expected = {0.0: 4 / 68, 0.5: 2 / 10, 1.0: 1 / 2}[rare]
    assert set(drawn.tolist()) == set(range(68))
    assert abs((drawn >= 64).mean() - expected) <= 4 * np.sqrt(expected * (1 - expected) / 4000)


@pytest.mark.parametrize(("share", "context_starts"), [(0.0, False), (0.5, False), (0.5, True), (1.0, False)])
def test_that_share_of_the_dreams_begins_there(share, context_starts, rng):
    """Of 40 draws of 8: those that must and, of the others, as many as all rows have, within four deviations."""
    config = vary(TINY, "dream", rewarded_starts=share, context_starts=context_starts)
    t = trainer(vary(config, "training", actor_critic=dataclasses.replace(config.training.actor_critic, batch=8)))
    fill(t.replay, rng)
    before = config.world_model.context if context_starts else 0
    soon, _ = soon_rewarded(t.replay, range(config.dream.horizon - 1), before)
    rate = np.isin(soon, t.replay.anchors(before, 0)).sum() / len(t.replay.anchors(before, 0))
    anchors = np.concatenate([t.phases["actor_critic"].draw()[0].row[:, -1] for _ in range(40)])
    assert len(anchors) == 320
    drawn, n = np.isin(anchors, soon).mean(), 320 * (1 - share)
    expected = share + (1 - share) * rate
    assert abs(drawn - expected) <= 4 * np.sqrt(n * rate * (1 - rate)) / 320
    assert np.isin(anchors, t.replay.anchors(before, 0)).all()


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("outcome_from", ["action", "frame"])
def test_that_share_of_m_s_segments_begins_there(share, outcome_from, rng):
    """A reward is scored in each of them."""
    config = vary(TINY, "world_model", rewarded_segments=share, outcome_from=outcome_from)
    t = trainer(vary(config, "training", world_model=dataclasses.replace(config.training.world_model, batch=8)))
    fill(t.replay, rng)
    for _ in range(20):
        segments, batch = t.phases["world_model"].draw()
        _, scored = t.agent.world_model.outcomes
        rewarded = ((batch.steps.reward != 0) & batch.steps.mask)[:, scored].any(1)
        assert rewarded[: round(8 * share)].all()
        assert segments.row.shape == (8, config.world_model.segment_length)


@pytest.mark.parametrize("rare", [0.0, 0.5])
@pytest.mark.parametrize(("newest", "after"), [((0, 0), 0), ((4, 30), 0), ((4, 30), 2)])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.75])
def test_frequencies_are_those_of_what_is_drawn(share, newest, after, rare, rng):
    """Of 1,500 batches of 8: within four deviations, as if a segment's rewards were one."""
    replay, ahead = filled(rng, 1), range(1, 4)
    found = frequencies(replay, 8, share, ahead, rare=rare, newest=newest, after=after)
    for expected, replaced in ((found.came, 0.0), (found.drawn, share)):
        met = []
        for _ in range(1500):
            segments = replay.draw(8, 4, align="start", rng=rng, after=after, newest=newest)
            segments = with_rewarded(replay, segments, replaced, ahead, rng, align="start", rare=rare)
            met.append(replay.rewards[segments.row - replay.oldest][:, 1:][segments.mask[:, 1:]])
        met = np.concatenate(met)
        seen = [(met == value).mean() for value in found.value]
        assert found.value.tolist() == [-1, 0, 2]
        assert expected.sum() == pytest.approx(1)
        assert np.abs(seen - expected).max() <= 4 * np.sqrt(3 * 0.25 / len(met))
    if share == 0:
        assert (found.came == found.drawn).all()


def test_frequencies_without_a_reward_are_of_none(rng):
    found = frequencies(filled(rng, 3, rewarded=0.0), 8, 0.5, range(4), rare=0.5)
    assert (found.value.tolist(), found.came.tolist(), found.drawn.tolist()) == ([0], [1], [1])


def test_what_is_learned_of_adjusted_logits_is_how_often_a_class_came():
    """Logits alone, fitted to draws in which class 1 is nine times as frequent: in the game it has a tenth."""
    adjusted, logits = Adjusted(3), torch.zeros(3, requires_grad=True)
    adjusted.fit(torch.tensor([0, 1, 1]), np.array([0.9, 0.04, 0.06]), np.array([0.5, 0.2, 0.3]))
    assert adjusted.excess[2] == 0
    drawn, optimiser = torch.tensor([0, 1]).repeat(50), torch.optim.SGD([logits], 2.0)
    for _ in range(2000):
        optimiser.zero_grad()
        cross_entropy(adjusted(logits.expand(100, 3)), drawn, torch.ones(100, dtype=torch.bool)).backward()
        optimiser.step()
    p = logits.detach().softmax(0)
    assert (p[1] / p[0]).item() == pytest.approx(0.1 / 0.9, rel=1e-3)


@pytest.mark.parametrize("adjusted", [False, True])
def test_an_epoch_of_m_begins_with_how_often_it_meets_each_reward(adjusted, rng):
    """Where a game pays one step in thirty, and half of the segments are drawn from before that."""
    config = vary(TINY, "dream", expected_reward=True)
    t = trainer(vary(config, "world_model", rewarded_segments=0.5, logit_adjustment=adjusted, reward_heads=2))
    fill(t.replay, rng)
    t.update("world_model")
    M = t.agent.world_model
    assert isinstance(M.adjusted, Adjusted) == adjusted
    if adjusted:
        lost, none, won = M.adjusted.excess.tolist()
        assert none < 0 < min(x for x in (lost, won) if x)
    assert not any("adjusted" in name for name in t.agent.state_dict())


@pytest.mark.parametrize("outcome_from", ["action", "frame"])
@pytest.mark.parametrize("length", [1, 2, 3])
def test_episodes_from_which_nothing_is_learnt_are_said(outcome_from, length, capsys):
    """With a context of two, an outcome is scored in an episode's third step, or in its second from its frame."""
    once.cache_clear()
    t = trainer(vary(TINY, "world_model", outcome_from=outcome_from))
    for i in range(12):
        t.replay.add(np.zeros(t.replay.frame_shape, np.uint8), 0, 1.0, False, i % length == length - 1)
    t.update("world_model")
    first = 2 if outcome_from == "action" else 1
    said = capsys.readouterr().err
    assert (f"no episode is longer than {length}, " in said) == (length <= first)
    if length <= first:
        assert f"learns from what follows the first {first} steps: lower --world-model.context" in said
        assert ("or --world-model.outcome-from frame" in said) == (outcome_from == "action")


def test_segments_by_loss_are_not_drawn_by_reward_too():
    with pytest.raises(ConfigError, match=r"rewarded_segments must be 0 with world_model\.by_loss"):
        vary(preset("simulus"), "world_model", rewarded_segments=0.25)


def test_only_classes_of_rewards_are_adjusted():
    with pytest.raises(ConfigError, match=r"logit_adjustment must be false with world_model\.reward_head symlog"):
        vary(TINY, "world_model", logit_adjustment=True, reward_head="symlog")


@pytest.mark.parametrize("adjusted", [False, True])
@pytest.mark.parametrize("moment", [69, 73])  # before the second update of M in an epoch, and in collecting
def test_a_run_goes_on_to_the_bit(adjusted, moment):
    config = vary(TINY, "dream", rewarded_starts=0.5)
    config = vary(config, "world_model", rewarded_segments=0.5, logit_adjustment=adjusted)
    config = vary(config, "training", rare_rewards=0.5)
    cut = cut_after(moment, config)
    resumed = gone_on(cut, cut.snapshot())
    assert same(everything(finish(cut)), everything(resumed))
