"""Replay by loss: what is drawn how often, what is remembered of which row, and that a run goes on with it."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from test_trainer import cut_after, everything, finish, gone_on, same, trainer

from tokendream.agent.masked import segment_loss
from tokendream.config.config import vary
from tokendream.config.presets import TINY, preset
from tokendream.data.priorities import UNSEEN, Priorities

BY_LOSS = vary(TINY, "world_model", by_loss=0.5, scored_starts=True)


def test_the_draw_is_softmax_without_replacement(rng):
    """Pairs of five rows come as often as two draws one after the other give them: chi-square, 9 degrees of freedom."""
    rows, loss = np.arange(20, 25), np.array([0.0, 0.5, 1.0, 1.5, 2.0], np.float32)
    priorities = Priorities(30)
    priorities.draw(rows, 25, 1, rng)
    priorities.note(rows, loss)
    n, found = 20_000, dict.fromkeys(itertools.combinations(rows.tolist(), 2), 0)
    for _ in range(n):
        found[tuple(sorted(priorities.draw(rows, 25, 2, rng).tolist()))] += 1
    p = dict(zip(rows.tolist(), np.exp(loss) / np.exp(loss).sum(), strict=True))
    expected = {(i, j): n * p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j])) for i, j in found}
    assert sum(expected.values()) == pytest.approx(n)
    assert sum((found[pair] - expected[pair]) ** 2 / expected[pair] for pair in found) < 27.9  # one in a thousand


def test_fewer_rows_than_asked_for_are_all_drawn(rng):
    assert sorted(Priorities(8).draw(np.array([3, 5]), 6, 4, rng)) == [3, 5]


def test_new_rows_are_unseen_and_take_the_place_of_old_ones(rng):
    priorities, held = Priorities(6), np.arange(6)
    priorities.draw(held, 6, 2, rng)
    priorities.note(held, np.arange(6, dtype=np.float32))
    assert priorities.of(np.arange(2, 8), 8).tolist() == [2, 3, 4, 5, UNSEEN, UNSEEN]
    assert (priorities.of(np.arange(100, 106), 106) == UNSEEN).all()


def test_a_loss_that_is_not_finite_says_nothing():
    priorities = Priorities(4)
    priorities.of(np.arange(3), 3)
    priorities.note(np.arange(3), np.array([1, np.nan, np.inf], np.float32))
    assert priorities.of(np.arange(3), 3).tolist() == [1, UNSEEN, UNSEEN]


@pytest.mark.parametrize(("oldest", "expected"), [(3, [3, 4]), (1, [1, 2, 3, 4]), (0, [UNSEEN, 1, 2, 3, 4])])
def test_a_run_goes_on_with_another_capacity(oldest, expected):
    """As it must where memory ran out and the capacity was lowered; the newest rows are the same."""
    priorities = Priorities(8)
    priorities.restore(np.arange(oldest, 5), 5, np.arange(1, 5, dtype=np.float32))
    assert priorities.of(np.arange(oldest, 5), 5).tolist() == expected


def test_a_segment_s_loss_is_that_of_its_own_entries():
    logits, target = torch.randn(3, 4, 5, 7), torch.randint(7, (3, 4, 5))
    mask = torch.rand(3, 4, 5) < 0.5
    mask[1] = False
    found = segment_loss(logits, target, mask)
    for b in range(3):
        each = [-logits[b, t, k].log_softmax(-1)[target[b, t, k]] for t, k in mask[b].nonzero().tolist()]
        assert float(found[b]) == pytest.approx(float(torch.stack(each).mean()) if each else 0.0, rel=1e-5)
    probabilities = torch.nn.functional.one_hot(target, 7).float()
    assert torch.allclose(segment_loss(logits, probabilities, mask), found, atol=1e-6)


def learning(config=BY_LOSS, steps=60):
    t = trainer(config)
    t.epoch = 3
    for _ in range(steps):
        t.update("collect")
    return t


def test_an_update_notes_the_loss_of_tokens_and_reward_of_what_it_drew():
    t = learning()
    phase, replay = t.phases["world_model"], t.replay
    segments, batch = phase.draw()
    phase.step(0, segments, batch)
    noted = phase.tensors()["loss"]
    drawn = np.unique(segments.row[:, 0]) - replay.oldest
    assert (noted[drawn] != UNSEEN).all()
    assert (noted != UNSEEN).sum() == len(drawn)
    assert float(noted[drawn].mean()) == pytest.approx(np.log(16) + np.log(3), rel=0.3)  # a fresh model's guesses


def test_its_mean_over_whole_segments_is_the_loss_itself():
    t = learning(vary(BY_LOSS, "world_model", dropout=0.0))
    _, batch = t.phases["world_model"].draw()
    batch = batch._replace(steps=batch.steps._replace(mask=torch.ones_like(batch.steps.mask)))
    losses = t.phases["world_model"].loss(batch)
    assert torch.allclose(losses.segments.mean(), losses.terms["next_frame"] + losses.terms["reward"], atol=1e-5)
    assert not losses.segments.requires_grad


@pytest.mark.parametrize(("share", "drawn"), [(0.3, 10), (0.5, 16)])
def test_a_share_of_a_batch_is_so_many_segments(share, drawn):
    M = dataclasses.replace(TINY.training.world_model, batch=32)
    t = learning(vary(vary(BY_LOSS, "world_model", by_loss=share, scored_starts=False), "training", world_model=M))
    phase, asked = t.phases["world_model"], []
    draw = phase._priorities.draw
    phase._priorities.draw = lambda rows, total, n, rng: asked.append(n) or draw(rows, total, n, rng)
    segments, _ = phase.draw()
    assert asked == [drawn]
    assert len(segments.row) == 32


def test_half_of_a_batch_goes_where_the_loss_is_high():
    t = learning(vary(BY_LOSS, "world_model", scored_starts=False))
    phase = t.phases["world_model"]
    phase.settings = preset("rem").training.world_model
    phase._by_loss = 32
    bad = np.arange(10, 42)
    loss = np.zeros(60, np.float32)
    loss[bad] = 50
    phase._priorities.restore(np.arange(60), 60, loss)
    segments, _ = phase.draw()
    assert len(segments.row) == 64
    assert set(bad.tolist()) <= set(segments.row[:, 0].tolist())


def test_without_it_nothing_is_computed_or_saved():
    t = learning(TINY)
    _, batch = t.phases["world_model"].draw()
    assert t.phases["world_model"].loss(batch).segments is None
    assert "phase.world_model" not in t.snapshot().tensors


@pytest.mark.parametrize("capacity", [1000, 30])
def test_a_run_goes_on_with_its_losses_to_the_bit(capacity):
    """Also where the buffer has begun to overwrite rows."""
    config = vary(BY_LOSS, "collect", capacity=capacity)
    cut = cut_after(73, config)
    snapshot = cut.snapshot()
    assert (snapshot.tensors["phase.world_model"]["loss"] != UNSEEN).any()
    resumed = gone_on(cut, snapshot)
    straight = finish(cut)
    assert same(straight.snapshot().tensors, resumed.snapshot().tensors)
    if capacity == 1000:
        assert same(everything(straight), everything(resumed))
