"""Rewards as those that were seen: which classes there are, and what a dream of them pays."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tokendream.agent.agent import Agent
from tokendream.config.config import vary
from tokendream.config.presets import CPU, TINY, preset
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute
from tokendream.envs.registry import make
from tokendream.errors import ConfigError
from tokendream.nn.seen import Seen
from tokendream.training.trainer import Trainer

KUNG_FU = np.array([0, 0, 100, 0, 200, 0, 200, 500, 0, -100], np.float32)


def fitted(rewards: np.ndarray) -> Seen:
    seen = Seen()
    seen.fit(rewards)
    return seen


def values(seen: Seen) -> list[float]:
    return seen.values[: int(seen.known)].tolist()


def test_classes_are_the_rewards_in_the_order_in_which_they_came():
    seen = fitted(KUNG_FU)
    assert values(seen) == [0, 100, 200, 500, -100]
    assert float(seen.unit) == pytest.approx((100 + 200 + 200 + 500 + 100) / 5)
    x = torch.from_numpy(KUNG_FU)
    assert torch.equal(seen.values[seen.target(x)], x)
    assert torch.equal(seen.paid(x), x)
    assert seen.signs(x).tolist() == [1, 1, 2, 1, 2, 1, 2, 2, 1, 0]


def test_a_class_keeps_its_meaning_when_more_is_seen():
    seen = fitted(KUNG_FU[:3])
    seen.fit(KUNG_FU)
    assert values(seen) == values(fitted(KUNG_FU))
    seen.fit(KUNG_FU[3:5])  # what the replay buffer has dropped stays known
    assert values(seen) == values(fitted(KUNG_FU))
    assert float(seen.unit) == 200
    seen.fit(np.array([0, 0], np.float32))
    assert float(seen.unit) == 200


def test_the_unit_is_never_nothing():
    """Where what is held is all too small for the classes that there are."""
    seen = fitted(1000 * 1.2 ** np.arange(63, dtype=np.float32))
    before = float(seen.unit)
    seen.fit(np.array([1, 1, 0], np.float32))
    assert int(seen.known) == 64
    assert float(seen.unit) == before


def test_sizes_within_ten_percent_are_one_whichever_came_first():
    assert values(fitted(np.array([100, 109, 112], np.float32))) == [0, 100, 112]
    assert values(fitted(np.array([112, 100, 109], np.float32))) == [0, 112, 100]


def test_what_was_never_seen_has_its_sign():
    assert fitted(KUNG_FU[:3]).signs(torch.tensor([40.0, -5.0, 0.0])).tolist() == [2, 0, 1]


def test_before_there_is_a_reward_nothing_is_paid():
    seen = fitted(np.zeros(5, np.float32))
    assert not seen.number(torch.randn(3, 64)).any()
    assert not seen.sample(torch.randn(3, 64), None).any()
    assert seen.target(torch.tensor([0.0, 7.0, -7.0])).tolist() == [0, 0, 0]


def test_what_is_expected_is_the_mean_of_what_is_drawn():
    seen, logits = fitted(KUNG_FU), torch.randn(64)
    p = logits.double().softmax(-1)
    expected = (p[:5] * torch.tensor([0, 100, 200, 500, -100])).sum()
    assert float(seen.number(logits)) == pytest.approx(float(expected), rel=1e-5)
    drawn = seen.sample(logits.expand(20_000, -1), torch.Generator().manual_seed(0))
    assert abs(drawn.mean() - expected) < 4 * drawn.std() / 20_000**0.5


def test_signs_have_the_mass_of_their_classes():
    seen, logits = fitted(KUNG_FU), torch.randn(7, 64)
    p = logits.softmax(-1)
    by_hand = torch.stack((p[:, 4], 1 - p[:, 1:5].sum(-1), p[:, 1:4].sum(-1)), -1)
    assert torch.allclose(seen.sign_logits(logits).softmax(-1), by_hand, atol=1e-6)


def test_more_sizes_than_classes_are_their_nearest():
    rewards = np.random.default_rng(0).uniform(-1000, 1000, 5000).astype(np.float32)
    seen = fitted(rewards)
    assert int(seen.known) == 64
    assert len(set(values(seen))) == 64
    x = torch.from_numpy(rewards)
    error = (seen.values[seen.target(x)] - x).abs()
    assert torch.equal(error, (x[:, None] - seen.values).abs().amin(-1))
    assert float((error / x.abs().clamp(min=1)).median()) < 0.1


def test_a_rare_large_reward_is_worth_its_expectation():
    seen = fitted(np.array([0, 1, 100], np.float32))
    p = torch.tensor([0.9, 0.0, 0.1] + [0.0] * 61)
    assert float(seen.number(p.log())) == pytest.approx(10)


def test_training_looks_rewards_up_and_goes_on_with_them_to_the_bit():
    """Broken off within M's updates, when the replay buffer is not looked at again."""
    config = vary(TINY, "world_model", reward_head="seen")
    config = dataclasses.replace(config, epochs=5, collect=dataclasses.replace(config.collect, steps=60))
    first = config.training.world_model.first_epoch

    def trainer() -> Trainer:
        torch.manual_seed(0)
        envs = make(config, 1, evaluation=False)
        replay = ReplayBuffer.of(envs.spaces, config.collect.capacity)
        agent = Agent.from_config(config, envs.spaces)
        return Trainer(config, agent, envs, replay, Compute(torch.device("cpu"), torch.float32))

    def state(of: Trainer) -> dict[str, torch.Tensor]:
        return of.agent.world_model.state_dict()

    whole = trainer()
    for _ in range(first):
        assert whole.run_epoch()
        whole.close_epoch()
    assert sorted(values(whole.agent.world_model.rewards)) == [-1, 0, 1]
    left = iter(range(config.collect.steps + config.training.tokenizer.updates + 1))
    assert not whole.run_epoch(stop=lambda: next(left, None) is None)
    whole.agent.world_model.rewards.unit.fill_(0.7)  # by which it would be noticed
    saved, rows = copy.deepcopy(whole.snapshot()), whole.replay.export(0, whole.replay.total)
    assert whole.run_epoch()
    again = trainer()
    again.replay.restore(rows, 0)
    again.restore(saved)
    assert float(again.agent.world_model.rewards.unit) == pytest.approx(0.7)
    assert again.run_epoch()
    assert all(torch.equal(x, state(again)[name]) for name, x in state(whole).items())


def test_the_class_of_what_pays_learns_what_it_pays():
    """As M's reward head does: the expectation of a reward of two sizes, at a frequency of one in ten."""
    seen, head = fitted(np.array([0, 100, 200], np.float32)), torch.nn.Linear(1, 64)
    optimiser = torch.optim.AdamW(head.parameters(), lr=0.05)
    x = torch.tensor([[0.0], [1.0]]).repeat(10, 1)
    paid = torch.zeros(20)
    paid[0], paid[1] = 100, 200
    for _ in range(300):
        loss = F.cross_entropy(head(x), seen.target(paid))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    expected = seen.number(head(x[:2]).detach()).tolist()
    assert expected == pytest.approx([10, 20], abs=2)


def test_the_preset_of_two_cores_learns_sizes():
    assert CPU.world_model.reward_head == "seen"
    assert preset("cpu-no-seen").world_model.reward_head == "sign"
    with pytest.raises(ConfigError, match="nothing that -no-symlog-rewards could cut"):
        preset("cpu-no-symlog-rewards")
