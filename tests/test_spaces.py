"""Action spaces: the policy over them, their tokens and draws; and the layout of a block."""

import math

import numpy as np
import pytest
import torch
from blocks import image_block

from tokendream.agent.agent import Agent
from tokendream.config.presets import preset
from tokendream.spaces.actions import Discrete

N = 5


@pytest.fixture
def logits():
    return torch.randn(3, 4, N)


def test_a_policy_is_the_softmax_of_its_logits(logits):
    policy = Discrete(N).policy(logits)
    action = torch.randint(N, (3, 4))
    pi = logits.softmax(-1)
    torch.testing.assert_close(policy.log_prob(action).exp(), pi.gather(-1, action[..., None])[..., 0])
    torch.testing.assert_close(policy.entropy(), -(pi * pi.log()).sum(-1))
    assert Discrete(N).policy(torch.zeros(N)).entropy() == pytest.approx(math.log(N))


def test_a_policy_is_float32_whatever_it_is_made_of(logits):
    policy = Discrete(N).policy(logits.bfloat16())
    assert policy.entropy().dtype == policy.log_prob(torch.zeros(3, 4, dtype=torch.int64)).dtype == torch.float32


def test_samples_come_from_the_policy_at_a_temperature_and_with_epsilon():
    space, n = Discrete(3), 20_000
    logits, rng = torch.tensor([1.0, 0.0, -1.0]).expand(n, 3), torch.Generator().manual_seed(0)
    for temperature, epsilon in ((1.0, 0.0), (0.5, 0.0), (0.5, 0.3)):
        drawn = space.sample(logits, rng, temperature=temperature, epsilon=epsilon).bincount(minlength=3) / n
        expected = (1 - epsilon) * (logits[0] / temperature).softmax(0) + epsilon / 3
        assert (drawn - expected).abs().max() < 0.015  # four standard errors


def test_a_sample_carries_no_gradient_and_repeats_with_its_generator(logits):
    draws = [Discrete(N).sample(logits.requires_grad_(), torch.Generator().manual_seed(1), epsilon=0.5) for _ in "ab"]
    assert torch.equal(*draws)
    assert not draws[0].requires_grad


def test_an_action_is_one_token():
    space, action = Discrete(N), torch.tensor([4, 0, 2])
    table = space.embedding(8)
    assert table(action).shape == (3, space.tokens, 8)
    assert torch.equal(table(action)[:, 0], table.weight[action])


def test_random_actions_are_uniform():
    share = np.bincount(Discrete(N).random(np.random.default_rng(0), 20_000), minlength=N) / 20_000
    assert np.abs(share - 1 / N).max() < 0.012


def test_a_frame_and_an_action_are_a_block_row_by_row():
    block = image_block(3, 16, Discrete(N))
    assert (block.K, block.K1, block.vocabulary, block.grid) == (9, 10, 16, (3, 3))
    assert [slot.position for slot in block.observation[:4]] == [(0, 0), (0, 1), (0, 2), (1, 0)]


@pytest.mark.parametrize("name", ["tiny", "cpu", "rem", "cpu-coarse-tokens"])
def test_an_agent_s_block_is_that_of_its_config(name):
    config = preset(f"{name}")
    agent = Agent.from_config(config, 3)
    assert (config.tokens_per_frame, config.tokens_per_frame + 1) == (agent.block.K, agent.block.K1)
    assert agent.block.vocabulary == config.tokenizer.codebook_size
    side = config.env.size
    frame = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    assert agent.tokenizer.encode(frame).shape == (1, agent.block.K)
