"""Curiosity: what heads disagree about, what each is trained on, and what a dream then pays."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from blocks import image_block

from tokendream import ranks
from tokendream.agent.agent import Agent
from tokendream.agent.ensemble import Ensemble, divergence
from tokendream.agent.world_model import WorldModel
from tokendream.config.config import vary
from tokendream.config.parts import DreamConfig, WorldModelConfig
from tokendream.config.presets import TINY
from tokendream.data.batch import Steps
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute
from tokendream.dream import imagine
from tokendream.dream.reward import reward_function
from tokendream.envs.registry import make
from tokendream.errors import ConfigError
from tokendream.spaces.actions import Discrete
from tokendream.spaces.observations import Block, Slot
from tokendream.training.trainer import Trainer

B, P, K, D, V, N = 8, 3, 4, 16, 7, 4
CURIOUS = vary(vary(TINY, "world_model", ensemble=N), "dream", curiosity=2.0, reward_weight=0.5)


@pytest.fixture
def ensemble():
    return Ensemble(N, lambda: torch.nn.Linear(D, V), image_block(2, V, Discrete(3))).double()


def test_divergence_is_jensen_shannon_s_in_nats():
    """The mean Kullback-Leibler divergence from the mean distribution; 0 for equal ones, ln N for disjoint ones."""
    p = torch.randn(N, 5, V, dtype=torch.float64).softmax(-1)
    mean = p.mean(0)
    expected = (p * (p / mean).log()).sum(-1).mean(0)
    assert torch.allclose(divergence(p), expected, atol=1e-12)
    assert (divergence(p) <= math.log(N)).all()
    assert torch.equal(divergence(p[:1].expand(N, -1, -1)), torch.zeros(5).double())
    disjoint = torch.eye(V)[:N, None]
    assert divergence(disjoint).item() == pytest.approx(math.log(N))


def test_equal_heads_do_not_disagree(ensemble):
    hidden = torch.randn(B, K, D, dtype=torch.float64)
    assert (ensemble.disagreement(hidden) > 0).all()
    for head in ensemble.heads[1:]:
        head.load_state_dict(ensemble.heads[0].state_dict())
    assert torch.allclose(ensemble.disagreement(hidden), torch.zeros(B).double(), atol=1e-12)


def test_disagreement_is_a_mean_over_a_part_s_tokens_and_then_over_parts():
    slots = [Slot("image", "image", V, (0, i)) for i in range(3)] + [Slot("vector", "vector", V, (0,))]
    ensemble = Ensemble(2, lambda: torch.nn.Linear(D, V), Block(tuple(slots), Discrete(2)))
    hidden = torch.randn(B, 4, D)
    each = divergence(torch.stack([head(hidden).softmax(-1) for head in ensemble.heads]))
    assert torch.allclose(ensemble.disagreement(hidden), (each[:, :3].mean(1) + each[:, 3]) / 2)


def test_each_head_learns_from_its_own_quarter_of_a_batch(ensemble):
    hidden = torch.randn(B, P, K, D, dtype=torch.float64, requires_grad=True)
    tokens, mask = torch.randint(V, (B, P, K)), torch.rand(B, P, K) < 0.8

    def gradients(hidden, tokens):
        loss = ensemble.loss(hidden, tokens, mask)
        return loss, [torch.autograd.grad(loss, head.weight, retain_graph=True)[0] for head in ensemble.heads]

    loss, before = gradients(hidden, tokens)
    assert torch.autograd.grad(loss, hidden, allow_unused=True) == (None,)  # nothing reaches the network
    other = tokens.clone()
    other[2::N] = (other[2::N] + 1) % V
    _, after = gradients(hidden, other)
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, True, False, True]
    by_hand = sum(
        -ensemble.heads[b % N](hidden[b]).log_softmax(-1).gather(-1, tokens[b][..., None])[..., 0][mask[b]].sum()
        for b in range(B)
    )
    assert torch.allclose(loss, by_hand / mask.sum())


def test_a_batch_smaller_than_the_ensemble_trains_some_heads(ensemble):
    loss = ensemble.loss(torch.randn(2, P, K, D).double(), torch.zeros(2, P, K).long(), torch.ones(2, P, K).bool())
    loss.backward()
    assert [bool(head.weight.grad.any()) for head in ensemble.heads] == [True, True, False, False]


@pytest.mark.parametrize("each", [3, 5])
def test_ranks_share_a_batch_s_segments_out_as_one_process_does(ensemble, each, monkeypatch):
    hidden, tokens = torch.randn(2 * each, P, K, D).double(), torch.randint(V, (2 * each, P, K))
    mask = torch.ones(2 * each, P, K, dtype=torch.bool)
    whole = ensemble.loss(hidden, tokens, mask)
    found = []
    for rank, part in enumerate((slice(0, each), slice(each, None))):
        monkeypatch.setattr(ranks, "number", lambda rank=rank: rank)
        found.append(ensemble.loss(hidden[part], tokens[part], mask[part]))
    assert torch.allclose(sum(found) / 2, whole)


def test_a_dreamed_step_pays_reward_and_disagreement():
    torch.manual_seed(0)
    agent = Agent.from_config(CURIOUS, 3).eval()
    tokens = torch.randint(TINY.tokenizer.codebook_size, (2, 4, TINY.tokens_per_frame))
    no = torch.zeros(2, 4, dtype=torch.bool)
    steps = Steps(torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2, 4), no, ~no)
    dream = imagine.start(agent, tokens, steps, CURIOUS.dream)
    paid = imagine.imagine(
        dream, agent, 3, torch.Generator().manual_seed(0), reward=reward_function(agent, CURIOUS.dream)
    )
    generator = torch.Generator().manual_seed(0)
    for t in range(3):
        dream, one = imagine.step(dream, agent, generator)
        disagreement = agent.world_model.ensemble.disagreement(one.prediction.hidden[:, 0])
        assert (disagreement > 0).all()
        assert torch.allclose(paid.rewards[:, t], 0.5 * one.outcome.reward + 2 * disagreement)
    assert torch.equal(reward_function(agent, DreamConfig())(one.prediction, one.outcome), one.outcome.reward)


@pytest.mark.parametrize("head", ["sign", "seen", "symlog"])
def test_an_expected_reward_is_the_mean_of_drawn_ones(head):
    torch.manual_seed(0)
    agent = Agent.from_config(vary(TINY, "world_model", reward_head=head), 3).eval()
    if head == "seen":
        agent.world_model.rewards.fit(np.array([0, 1, 3], np.float32))
    expected = reward_function(agent, DreamConfig(expected_reward=True))
    M, n = agent.world_model, 4000
    tokens = torch.randint(TINY.tokenizer.codebook_size, (1, TINY.tokens_per_frame)).expand(n, -1)
    action, state = torch.zeros(n, dtype=torch.int64), M.initial_state(n)
    with torch.no_grad():
        codes = agent.tokenizer.codes(tokens)
        outcome, prediction, _ = M.imagine(codes, tokens, action, state, embed=agent.tokenizer.codes)
    paid, drawn = expected(prediction, outcome), reward_function(agent, DreamConfig())(prediction, outcome)
    assert paid.std() < 1e-6
    if head == "seen":
        assert torch.equal(drawn, outcome.reward / 2)  # the mean of what was seen is 2
    deviation = drawn.std() / math.sqrt(n)
    assert abs(drawn.mean() - paid[0]) <= 4 * deviation + 1e-6
    assert (deviation > 1e-6) == (head != "symlog")  # which draws nothing


def test_what_frames_are_read_from_is_in_the_prediction():
    torch.manual_seed(0)
    for decoding in ("pop", "token"):
        agent = Agent.from_config(vary(TINY, "world_model", decoding=decoding), 3).eval()
        M, K = agent.world_model, TINY.tokens_per_frame
        tokens = torch.randint(TINY.tokenizer.codebook_size, (2, K))
        codes, action = agent.tokenizer.codes(tokens), torch.zeros(2, dtype=torch.int64)
        _, prediction, _ = M.imagine(codes, tokens, action, M.initial_state(2), embed=agent.tokenizer.codes)
        assert torch.allclose(M.next_frame(prediction.hidden), prediction.next_frame, atol=1e-5)


def test_curiosity_ends_with_the_last_experience():
    """And what was captured with it is forgotten."""
    config = dataclasses.replace(CURIOUS, epochs=5, collect=dataclasses.replace(CURIOUS.collect, last_epoch=4))
    torch.manual_seed(0)
    envs = make(config, 1, evaluation=False)
    agent = Agent.from_config(config, envs.spaces)
    replay = ReplayBuffer(config.collect.capacity, (3, config.env.size, config.env.size), torch.device("cpu"))
    trainer = Trainer(config, agent, envs, replay, Compute(torch.device("cpu"), torch.float32))
    phase, seen = trainer.phases["actor_critic"], []
    for _ in range(5):
        assert trainer.run_epoch()
        record = trainer.close_epoch()
        seen.append(phase._dream_settings.curiosity)
    assert "world_model/ensemble" in record
    assert 0 < record["world_model/disagreement"] <= math.log(N)
    assert seen == [2.0, 2.0, 2.0, 0.0, 0.0]


def test_a_head_has_each_part_s_own_vocabulary():
    """Not one softmax over all: what a part has not is impossible there, so that it cannot be disagreed about."""
    slots = (*image_block(2, 9, Discrete(2)).observation, Slot("vector", "vector", 5, (0,)))
    config = WorldModelConfig(width=D, heads=2, layers=1, ensemble=N)
    M = WorldModel(config, Block(slots, Discrete(2)), D)
    for head in M.ensemble.heads:
        p = head(torch.randn(B, 5, D)).softmax(-1)
        assert (p[:, :4] > 0).all()
        assert (p[:, 4, :5] > 0).all()
        assert (p[:, 4, 5:] == 0).all()


def test_curiosity_needs_an_ensemble_and_an_ensemble_two():
    with pytest.raises(ConfigError, match=r"dream.curiosity must be 0 without"):
        vary(TINY, "dream", curiosity=1.0)
    with pytest.raises(ConfigError, match=r"dream.curiosity must be 0 with control zero-rewards"):
        dataclasses.replace(CURIOUS, control="zero-rewards")
    with pytest.raises(ConfigError, match=r"world_model.ensemble must be 0 or at least 2"):
        vary(TINY, "world_model", ensemble=1)
    assert WorldModelConfig().ensemble == 0
