import pytest
import torch

from tokendream.config.parts import DreamConfig
from tokendream.dream.imagine import Rollout
from tokendream.dream.objective import actor_critic_loss, lambda_returns
from tokendream.spaces.actions import Discrete

SPACE, TWO = Discrete(3), Discrete(2)


def random_case(B=3, T=6, ends=False):
    rewards, values = torch.randn(2, B, T, dtype=torch.float64)
    return rewards, values, torch.rand(B, T) < 0.3 if ends else torch.zeros(B, T, dtype=torch.bool)


def test_lambda_zero_is_one_step_td():
    rewards, values, ends = random_case()
    G = lambda_returns(rewards, values, ends, discount=0.9, lam=0.0)
    assert torch.allclose(G, rewards[:, :-1] + 0.9 * values[:, 1:])


def test_lambda_one_is_monte_carlo_with_a_bootstrap():
    rewards, values, ends = random_case(T=4)
    G = lambda_returns(rewards, values, ends, discount=0.9, lam=1.0)
    r, v = rewards, values
    assert torch.allclose(G[:, 0], r[:, 0] + 0.9 * r[:, 1] + 0.81 * r[:, 2] + 0.729 * v[:, 3])


def test_by_hand():
    rewards = torch.tensor([[1.0, 2.0, 100.0]])
    values = torch.tensor([[0.5, 4.0, 8.0]])
    G = lambda_returns(rewards, values, torch.zeros(1, 3, dtype=torch.bool), discount=0.5, lam=0.5)
    assert torch.allclose(G, torch.tensor([[1 + 0.5 * (0.5 * 4 + 0.5 * 6), 2 + 0.5 * 8]]))


def test_nothing_after_an_end_matters():
    rewards, values, ends = random_case(T=6)
    ends[:, 2] = True
    G = lambda_returns(rewards, values, ends, discount=0.9, lam=0.7)
    rewards[:, 3:], values[:, 3:] = 1e6, -1e6
    assert torch.equal(lambda_returns(rewards, values, ends, discount=0.9, lam=0.7)[:, :3], G[:, :3])
    assert torch.allclose(G[:, 2], rewards[:, 2])


def test_a_single_step_is_refused():
    with pytest.raises(AssertionError, match="at least 2 steps"):
        lambda_returns(*(x[:, :1] for x in random_case()), discount=0.9, lam=0.9)


def rollout(logits, values, rewards=None, ends=None):
    B, T, A = logits.shape
    return Rollout(
        tokens=torch.zeros(B, T, 4, dtype=torch.int64),
        logits=logits,
        values=values,
        actions=torch.randint(A, (B, T)),
        rewards=torch.randn(B, T) if rewards is None else rewards,
        ends=torch.zeros(B, T, dtype=torch.bool) if ends is None else ends,
        critic=values[..., None],
    )


def test_the_loss_raises_what_paid_off_and_fits_values():
    logits = torch.zeros(1, 2, 3, requires_grad=True)
    values = torch.tensor([[0.0, 2.0]], requires_grad=True)
    r = rollout(logits, values, rewards=torch.tensor([[1.0, 0.0]]))
    losses = actor_critic_loss(r, SPACE, DreamConfig(discount=0.5, lam=0.5, entropy_weight=0.0))
    assert torch.allclose(losses.terms["value"], torch.tensor(4.0))  # (v - (1 + 0.5 * 2))²
    losses.total.backward()
    a = int(r.actions[0, 0])
    assert logits.grad[0, 0, a] < 0  # a descent step makes the rewarded action more likely
    assert not logits.grad[0, 1].any()  # the last step only bootstraps
    assert values.grad[0, 0] == -4.0
    assert values.grad[0, 1] == 0.0  # the target is not pulled


def test_entropy_bonus_flattens_the_policy():
    logits = torch.tensor([[[2.0, 0.0], [0.0, 0.0]]], requires_grad=True)
    r = rollout(logits, torch.zeros(1, 2), rewards=torch.zeros(1, 2))
    actor_critic_loss(r, TWO, DreamConfig(discount=0.9, lam=0.9, entropy_weight=1.0)).total.backward()
    assert logits.grad[0, 0, 0] > 0 > logits.grad[0, 0, 1]


def test_steps_after_an_end_weigh_nothing_when_masked():
    ends = torch.zeros(2, 5, dtype=torch.bool)
    ends[0, 1] = True
    logits = torch.randn(2, 5, 3, requires_grad=True)
    values = torch.randn(2, 5, requires_grad=True)
    r = rollout(logits, values, ends=ends)
    settings = DreamConfig(discount=0.9, lam=0.9, entropy_weight=0.1, mask_after_end=True)
    actor_critic_loss(r, SPACE, settings).total.backward()
    assert not logits.grad[0, 2:].any()
    assert not values.grad[0, 2:].any()
    assert logits.grad[0, :2].abs().sum(-1).all()
    assert logits.grad[1, :4].abs().sum(-1).all()


@pytest.mark.parametrize("centre", [False, True])
def test_centring_takes_out_what_all_actions_share(centre):
    """Every action earns 1 and the values have not noticed: nothing to prefer, though each one looks good."""
    logits, values = torch.zeros(4, 3, 2, requires_grad=True), torch.zeros(4, 3, requires_grad=True)
    r = rollout(logits, values, rewards=torch.ones(4, 3))
    settings = DreamConfig(discount=0.0, lam=0.9, entropy_weight=0.0, centre_advantage=centre)
    losses = actor_critic_loss(r, TWO, settings)
    losses.terms["policy"].backward()
    assert bool(logits.grad.any()) is not centre
    assert losses.terms["value"] == 1.0  # the critic learns as before


def policy_gradient(size, *, scale):
    torch.manual_seed(0)
    logits = torch.zeros(4, 6, 3, requires_grad=True)
    r = rollout(logits, size * torch.randn(4, 6), rewards=size * torch.randn(4, 6))
    losses = actor_critic_loss(r, SPACE, DreamConfig(discount=0.9, lam=0.9, entropy_weight=0.0, scale_advantage=scale))
    losses.terms["policy"].backward()
    return logits.grad


def test_scaled_advantages_do_not_depend_on_the_size_of_rewards():
    assert torch.allclose(policy_gradient(1.0, scale=True), policy_gradient(30.0, scale=True), rtol=1e-4, atol=1e-7)
    assert torch.allclose(30 * policy_gradient(1.0, scale=False), policy_gradient(30.0, scale=False), rtol=1e-4)
    noise = policy_gradient(1e-3, scale=True) / policy_gradient(1.0, scale=True)
    assert noise.nanmean() < 0.1  # below SMALLEST_SCALE small advantages stay small
