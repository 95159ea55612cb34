"""Heads that classify a number: what targets are, what is read back, and what learns from it."""

import dataclasses

import pytest
import torch

from tokendream.agent.agent import Agent
from tokendream.config.config import vary
from tokendream.config.presets import TINY
from tokendream.dream.imagine import Rollout
from tokendream.dream.objective import actor_critic_loss
from tokendream.nn.hl_gauss import SIGMA, HLGauss, symexp, symlog, value_error
from tokendream.nn.sign import Sign

BOTH = pytest.mark.parametrize("bins", [HLGauss(129, 10.4).double(), HLGauss(129, 15.0).double()], ids=["10.4", "15"])


def numbers(bins: HLGauss, n: int = 401) -> torch.Tensor:
    """All over what the bins hold, evenly in symlog space."""
    return symexp(torch.linspace(float(bins.centres[0]), float(bins.centres[-1]), n, dtype=torch.float64))


def test_symexp_takes_symlog_back():
    x = torch.tensor([-1e6, -3.0, -0.01, 0.0, 0.5, 20.0], dtype=torch.float64)
    assert torch.allclose(symexp(symlog(x)), x)
    assert torch.equal(symlog(-x), -symlog(x))


@BOTH
def test_a_target_is_a_gaussian_integrated_over_the_bins(bins):
    x = numbers(bins)
    target = bins.target(x)
    assert torch.allclose(target.sum(-1), torch.ones(len(x), dtype=torch.float64))
    gaussian = torch.distributions.Normal(symlog(x)[:, None], SIGMA * bins.width)
    mass = gaussian.cdf(bins.edges[1:]) - gaussian.cdf(bins.edges[:-1])
    assert torch.allclose(target, mass / mass.sum(-1, keepdim=True), atol=1e-9)


@BOTH
def test_what_is_learned_perfectly_is_read_back_within_half_a_bin(bins):
    x = numbers(bins)
    found = bins.number(bins.target(x).log())
    assert float((symlog(found) - symlog(x)).abs().max()) < bins.width / 2
    assert (found.diff() > 0).all()
    assert torch.allclose(found.flip(0), -found, atol=1e-9)  # symmetric around 0
    inner = x[8:-8]  # away from the limits nothing of the Gaussian is cut off
    assert torch.allclose(symlog(bins.number(bins.target(inner).log())), symlog(inner), atol=1e-3)


def test_an_agent_s_heads_have_the_published_bins_and_expect_nothing_at_first():
    """129 bins, rewards over ±10.4 and values over ±15, the first bias -0.2 |centre|; in symlog space."""
    config = vary(vary(TINY, "world_model", reward_head="symlog"), "actor_critic", value_head="symlog")
    agent = Agent.from_config(config, 3)
    M, C = agent.world_model, agent.actor_critic
    for bins, last, limit in ((M.rewards, M.reward[-1], 10.4), (C.bins, C.critic, 15.0)):
        centre = (torch.arange(129) - 64) * (2 * limit / 129)
        assert torch.allclose(bins.centres, centre, atol=1e-5)
        assert torch.allclose(last.bias, -0.2 * centre.abs(), atol=1e-5)


@BOTH
def test_numbers_beyond_the_limits_count_as_the_outermost(bins):
    far = bins.target(torch.tensor([-1e30, 1e30], dtype=torch.float64))
    ends = bins.target(symexp(bins.centres[[0, -1]]))
    assert torch.allclose(far, ends)


@BOTH
def test_the_gradient_vanishes_at_the_target_and_points_to_it(bins):
    x = torch.tensor([-30.0, 0.0, 7.0], dtype=torch.float64)
    logits = bins.target(x).clamp(min=1e-300).log().requires_grad_()
    bins.loss(logits, x).sum().backward()
    assert float(logits.grad.abs().max()) < 1e-9
    logits = torch.zeros(3, 129, dtype=torch.float64, requires_grad=True)
    bins.loss(logits, x).sum().backward()
    assert torch.allclose(logits.grad, 1 / 129 - bins.target(x))


def test_a_fresh_head_says_nearly_nothing():
    bins = HLGauss(129, 15.0)
    last = torch.nn.Linear(32, 129)
    bins.begin(last)
    assert torch.allclose(last.bias, -0.2 * bins.centres.abs())
    assert float(bins.number(last(torch.randn(200, 32)).detach()).abs().mean()) < 1


@BOTH
def test_signs_are_those_of_rewards_of_ordinary_size(bins):
    rewards = torch.tensor([-400.0, -1.0, 0.0, 1.0, 30.0], dtype=torch.float64)
    assert bins.signs(rewards).tolist() == Sign().signs(rewards).tolist() == [0, 0, 1, 2, 2]
    p = bins.sign_logits(bins.target(rewards).log()).softmax(-1)
    assert torch.equal(p.argmax(-1), bins.signs(rewards))
    assert torch.allclose(p.sum(-1), torch.ones(5, dtype=torch.float64))


def test_of_a_reward_s_size_a_dream_pays_the_expectation():
    agent = Agent.from_config(vary(TINY, "world_model", reward_head="symlog"), 3).eval()
    M, V, n = agent.world_model, agent.tokenizer, 5
    tokens = torch.randint(16, (n, agent.block.K))
    codes, action = V.codes(tokens), torch.zeros(n, dtype=torch.int64)
    outcome, prediction, _ = M.imagine(codes, tokens, action, M.initial_state(n), embed=V.codes)
    assert torch.equal(outcome.reward, M.rewards.number(prediction.reward[:, 0]))
    assert prediction.reward.shape[-1] == 129


def test_a_critic_of_bins_learns_values_of_any_size():
    config = vary(TINY, "actor_critic", value_head="symlog")
    C = Agent.from_config(config, 3).actor_critic
    codes, target = torch.randn(3, 16, 16), torch.tensor([-400.0, 0.3, 20.0])
    optimiser = torch.optim.AdamW(C.parameters(), lr=1e-2)
    for _ in range(300):
        output, _ = C(codes, C.initial_state(3))
        loss = value_error(output.critic, target, C.bins).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found = C(codes, C.initial_state(3))[0].value
    assert float((symlog(found) - symlog(target)).abs().max().detach()) < 0.2


def test_the_objective_s_value_term_is_the_bins_cross_entropy():
    bins, B, T = HLGauss(129, 15.0), 2, 4
    critic = torch.randn(B, T, 129, requires_grad=True)
    tokens, actions = torch.zeros(B, T, 4, dtype=torch.int64), torch.randint(3, (B, T))
    rollout = Rollout(tokens, torch.zeros(B, T, 3), bins.number(critic), actions, torch.randn(B, T),
                      torch.zeros(B, T, dtype=torch.bool), critic)  # fmt: skip
    space = Agent.from_config(TINY, 3).actor_critic.actions
    settings = dataclasses.replace(TINY.dream, discount=0.0, lam=0.0)
    term = actor_critic_loss(rollout, space, settings, bins).terms["value"]
    expected = -(bins.target(rollout.rewards[:, :-1]) * critic[:, :-1].log_softmax(-1)).sum(-1).mean()
    assert torch.allclose(term, expected)
    term.backward()
    assert not critic.grad[:, -1].any()
