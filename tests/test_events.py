"""Events: labels are a plain comparison of frames, the loss is its definition, and a run trains the head."""

import dataclasses

import pytest
import torch
from blocks import image_block

from tokendream.agent.agent import Agent
from tokendream.agent.events import ALPHA, GAMMA, OTHER_PARTS, Events, changes, focal
from tokendream.config.config import vary
from tokendream.config.presets import TINY
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute
from tokendream.envs.registry import make
from tokendream.errors import ConfigError
from tokendream.spaces.actions import Discrete
from tokendream.spaces.observations import Block, Slot
from tokendream.training.trainer import Trainer

B, T, S, K, D, V = 3, 5, 12, 9, 8, 6
MIXED = Block(
    (*image_block(2, V, Discrete(2)).observation, Slot("vector", "vector", V, (0,)), Slot("vector", "vector", V, (1,))),
    Discrete(2),
)


def test_changes_are_a_plain_comparison_of_frames():
    """A token is marked where any pixel of its cell differs, in any colour; whatever the tokens say."""
    frames = torch.zeros(B, T, 3, S, S, dtype=torch.uint8)
    for _ in range(20):
        b, t, c, y, x = (int(torch.randint(n, ())) for n in (B, T, 3, S, S))
        frames[b, t, c, y, x] += 1
    block = image_block(3, V, Discrete(2))
    changed = changes([frames], torch.randint(V, (B, T, K)), block)
    assert changed.any()
    assert not changed.all()
    for b in range(B):
        for t in range(T - 1):
            for k, slot in enumerate(block.observation):
                row, column = (4 * place for place in slot.position)
                before, after = (f[:, row : row + 4, column : column + 4] for f in frames[b, t : t + 2])
                assert changed[b, t, k] == (not torch.equal(before, after))


def test_parts_without_pixels_change_with_their_tokens():
    block = Block(tuple(Slot("vector", "vector", V, (i,)) for i in range(4)), Discrete(2))
    tokens = torch.randint(3, (B, T, 4))
    changed = changes([], tokens, block)
    assert torch.equal(changed, tokens[:, 1:] != tokens[:, :-1])


def test_the_focal_loss_is_its_definition():
    logit = torch.linspace(-4, 4, 9, dtype=torch.float64)
    p = logit.sigmoid()
    for changed, p_t, alpha in ((True, p, ALPHA), (False, 1 - p, 1 - ALPHA)):
        found = focal(-p_t.log(), torch.full((9,), changed))
        assert torch.allclose(found, -alpha * (1 - p_t) ** GAMMA * p_t.log())


def test_the_loss_is_its_definition():
    events = Events(D, MIXED, "relu").double()
    hidden, changed = torch.randn(B, T, 6, D, dtype=torch.float64), torch.rand(B, T - 1, 6) < 0.5
    mask = torch.ones(B, T, dtype=torch.bool)
    mask[0, 3:] = mask[2] = False
    loss, of_each = events.loss(hidden, changed, mask)
    segments, pairs = [], []
    for b in range(B):
        each = []
        for t in range(T - 1):
            if not (mask[b, t] and mask[b, t + 1]):
                continue
            total = 0.0
            for k in range(6):
                p = events.head(torch.cat((hidden[b, t, k], hidden[b, t + 1, k]))).sigmoid().detach()
                p_t = p if changed[b, t, k] else 1 - p
                alpha = ALPHA if changed[b, t, k] else 1 - ALPHA
                total += float(-alpha * (1 - p_t) ** GAMMA * p_t.log() / 4 if k < 4 else -OTHER_PARTS * p_t.log() / 2)
            each.append(total)
        segments.append(sum(each) / max(len(each), 1))
        pairs += each
    assert of_each.tolist() == pytest.approx(segments)
    assert loss.item() == pytest.approx(sum(pairs) / len(pairs))


def test_the_later_output_gets_no_gradient():
    events, mask = Events(D, MIXED, "norm"), torch.ones(1, 2, dtype=torch.bool)
    hidden = torch.randn(1, 2, 6, D, requires_grad=True)
    events.loss(hidden, torch.ones(1, 1, 6, dtype=torch.bool), mask)[0].backward()
    assert hidden.grad[:, 0].any()
    assert not hidden.grad[:, 1].any()


@pytest.mark.parametrize("by_loss", [0.0, 0.5])
def test_a_run_predicts_events_and_their_loss_is_part_of_the_priority(by_loss):
    config = vary(TINY, "world_model", events=True, by_loss=by_loss)
    torch.manual_seed(0)
    envs = make(config, 1, evaluation=False)
    agent = Agent.from_config(config, envs.spaces)
    replay = ReplayBuffer(config.collect.capacity, (3, config.env.size, config.env.size), torch.device("cpu"))
    trainer = Trainer(config, agent, envs, replay, Compute(torch.device("cpu"), torch.float32))
    trainer.epoch = 2
    assert trainer.run_epoch()
    assert trainer.close_epoch()["world_model/events"] > 0
    phase = trainer.phases["world_model"]
    _, batch = phase.draw()
    losses = phase.loss(batch)
    assert (losses.segments is not None) == (by_loss > 0)
    if by_loss:
        other = phase.loss(batch._replace(changed=~batch.changed))
        assert not torch.allclose(losses.segments, other.segments)


def test_events_need_two_frames_to_predict():
    with pytest.raises(ConfigError, match=r"segment_length must be greater than world_model.context \+ 1"):
        vary(TINY, "world_model", events=True, context=2, segment_length=3)
    assert dataclasses.replace(TINY).world_model.events is False
