"""Several heads for the reward: what each learns, that a dream pays what all agree on, and that a run goes on."""

import dataclasses

import numpy as np
import pytest
import torch
from test_trainer import cut_after, everything, finish, gone_on, same

from tokendream.agent.agent import Agent
from tokendream.agent.masked import cross_entropy
from tokendream.agent.rewards import REWARDS, RewardHeads
from tokendream.config.config import vary
from tokendream.config.presets import TINY, preset
from tokendream.data.replay import ReplayBuffer
from tokendream.dream import imagine
from tokendream.dream.reward import reward_function
from tokendream.errors import ConfigError

B, R, F, N = 6, 4, 8, 3
SEVERAL = vary(vary(TINY, "dream", expected_reward=True), "world_model", reward_heads=N)


@pytest.fixture
def heads():
    return RewardHeads(N, lambda: torch.nn.Sequential(torch.nn.Linear(F, 3)), REWARDS["sign"]())


def segments(agent: Agent, rng: np.random.Generator, n: int):
    """So many segments of random steps, of which a third is paid for."""
    replay = ReplayBuffer(40, (3, 64, 64))
    for _ in range(40):
        frame = rng.integers(256, size=(3, 64, 64), dtype=np.uint8)
        replay.add(frame, int(rng.integers(4)), float(rng.integers(3) == 0), False, False)
    found = replay.draw(n, 5, align="end", rng=rng)
    return agent.tokenizer.encode(replay.frames(found.row)), replay.steps(found)


def test_the_loss_is_each_head_s_cross_entropy_and_leaves_what_they_read_alone(heads):
    read, target = torch.randn(B, R, F, requires_grad=True), torch.randint(3, (B, R))
    mask = torch.rand(B, R) < 0.7
    loss = heads.loss(read, target, mask, torch.nn.Identity())
    expected = sum(cross_entropy(head(read), target, mask) for head in heads.heads)
    assert torch.allclose(loss, expected)
    loss.backward()
    assert read.grad is None
    assert all(p.grad.abs().sum() > 0 for p in heads.parameters())


def test_what_counts_is_what_all_heads_agree_on(heads):
    """The least gain, the least loss, and nothing where they differ in sign."""
    rewards, read, own = REWARDS["sign"](), 3 * torch.randn(200, F), torch.randn(200).tanh()
    each = torch.stack([own, *((p := head(read).softmax(-1))[:, 2] - p[:, 0] for head in heads.heads)])
    agreed = heads.agreed(read, own, rewards)
    gain, loss = (each > 0).all(0), (each < 0).all(0)
    assert torch.allclose(agreed[gain], each[:, gain].min(0).values, atol=1e-6)
    assert torch.allclose(agreed[loss], each[:, loss].max(0).values, atol=1e-6)
    assert (agreed[~gain & ~loss] == 0).all()
    assert min(gain.sum(), loss.sum(), (~gain & ~loss).sum()) > 5
    assert set(each[:, gain | loss].abs().argmin(0).tolist()) == set(range(N + 1))


@pytest.mark.parametrize("decoding", ["pop", "token"])
def test_a_dreamed_step_pays_it(decoding, rng):
    """M's own head, made to expect a reward of 1 everywhere, is believed only where the others expect it too."""
    config = vary(SEVERAL, "world_model", decoding=decoding)
    agent = Agent.from_config(config, 4).eval()
    M, certain = agent.world_model, torch.tensor([-30.0, -30.0, 30.0])

    def expect(head, bias):
        torch.nn.init.zeros_(head[-1].weight)
        head[-1].bias.data.copy_(bias)

    for head in (M.reward, *M.other_rewards.heads):
        expect(head, certain)
    begin = imagine.start(agent, *segments(agent, rng, B), config.dream)
    paid = reward_function(agent, config.dream)
    with torch.no_grad():
        rollout = imagine.imagine(begin, agent, 4, torch.Generator().manual_seed(0), reward=paid)
        assert torch.allclose(rollout.rewards, torch.ones(B, 4))
        expect(M.other_rewards.heads[-1], torch.tensor([-30.0, 0.0, 0.0]))
        rollout = imagine.imagine(begin, agent, 4, torch.Generator().manual_seed(0), reward=paid)
        assert torch.allclose(rollout.rewards, torch.full((B, 4), 0.5))


def test_they_begin_apart_and_learn_what_m_s_own_head_learns(rng):
    agent = Agent.from_config(SEVERAL, 4)
    M, heads = agent.world_model, agent.world_model.other_rewards.heads
    assert len(heads) == N - 1
    assert not torch.equal(heads[0][0].weight, heads[1][0].weight)
    assert [tuple(p.shape) for p in heads[0].parameters()] == [tuple(p.shape) for p in M.reward.parameters()]
    tokens, steps = segments(agent, rng, 16)
    optimiser, found = torch.optim.AdamW(M.parameters(), lr=3e-3), []
    for _ in range(40):
        losses = M.loss(agent.tokenizer.codes(tokens).detach(), tokens, steps)
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        found.append(losses.terms["reward_heads"].item() / len(heads))
    assert found[-1] < 0.8 * found[0]


def test_one_head_is_the_published_model_and_two_need_expected_rewards():
    M = Agent.from_config(TINY, 4).world_model
    assert M.other_rewards is None
    assert preset("cpu-no-reward-heads").world_model.reward_heads == 1
    with pytest.raises(ConfigError, match=r"reward_heads must be 1 without dream\.expected_reward, not 3"):
        dataclasses.replace(SEVERAL, dream=dataclasses.replace(SEVERAL.dream, expected_reward=False))


def test_a_run_goes_on_to_the_bit():
    cut = cut_after(73, SEVERAL)
    resumed = gone_on(cut, cut.snapshot())
    assert same(everything(finish(cut)), everything(resumed))
