"""Each control cuts the link it names, and no other."""

import dataclasses

import numpy as np
import pytest
import torch

from tokendream.agent.agent import Agent
from tokendream.config.config import vary
from tokendream.config.presets import TINY
from tokendream.data.batch import Steps
from tokendream.dream.reward import reward_function

A, B, T, K = 4, 64, 5, 16


def agent(control: str, head: str = "sign", heads: int = 1) -> Agent:
    torch.manual_seed(0)
    base = vary(TINY, "dream", expected_reward=heads > 1)
    config = dataclasses.replace(vary(base, "world_model", reward_head=head, reward_heads=heads), control=control)
    made = Agent.from_config(config, A).eval()
    if head == "seen":
        made.world_model.rewards.fit(1.2 ** np.arange(63, dtype=np.float32))
    torch.nn.init.normal_(made.tokenizer.quantizer.codebook)
    return made


@pytest.fixture
def moment():
    """Tokens, actions and steps of B short segments."""
    torch.manual_seed(1)
    return (
        torch.randint(16, (B, T, K)),
        Steps(torch.randint(A, (B, T)), torch.zeros(B, T), torch.zeros(B, T).bool(), torch.ones(B, T).bool()),
    )


def behaviour(made: Agent, tokens, steps):
    """What the agent's world model and controller make of a moment: M's loss, an outcome, the policy."""
    torch.manual_seed(2)
    codes = made.tokenizer.codes(tokens)
    M, C = made.world_model, made.actor_critic
    with torch.no_grad():
        loss = M.loss(codes, tokens, steps).total
        draws = torch.Generator().manual_seed(3)
        outcome, prediction, _ = M.imagine(
            codes[:, 0], tokens[:, 0], steps.action[:, 0], M.initial_state(B), draws, embed=made.tokenizer.codes
        )
        expected = reward_function(made, dataclasses.replace(TINY.dream, expected_reward=True))(prediction, outcome)
        view = made.view(tokens, codes)
        memory = C.burn_in(view[:, :-1], steps.action[:, :-1], steps.mask[:, :-1], TINY.dream)
        output, _ = C(view[:, -1], memory)
    return loss, outcome, output, expected


def test_shuffled_actions_reach_the_training_of_M_only(moment):
    loss, outcome, output, _ = behaviour(agent("none"), *moment)
    other_loss, other_outcome, other_output, _ = behaviour(agent("shuffled-actions"), *moment)
    assert other_loss != loss
    assert torch.equal(other_outcome.tokens, outcome.tokens)
    assert torch.equal(other_output.logits, output.logits)
    tokens, steps = moment  # where all took the same action, a shuffle changes nothing
    same = steps._replace(action=torch.full_like(steps.action, 2))
    assert behaviour(agent("shuffled-actions"), tokens, same)[0] == behaviour(agent("none"), tokens, same)[0]


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize(("head", "kinds"), [("sign", 3), ("seen", 20), ("symlog", B)])
def test_rewards_are_shuffled_or_not_paid(moment, head, kinds, heads):
    _, outcome, output, expected = behaviour(agent("none", head, heads), *moment)
    assert len(outcome.reward.unique()) >= kinds  # an untrained M
    for control in ("shuffled-rewards", "zero-rewards"):
        _, other, other_output, paid = behaviour(agent(control, head, heads), *moment)
        assert torch.equal(other.tokens, outcome.tokens)
        assert torch.equal(other.end, outcome.end)
        assert torch.equal(other_output.logits, output.logits)
        assert not torch.equal(other.reward, outcome.reward)
        if control == "shuffled-rewards":
            assert torch.equal(other.reward.sort().values, outcome.reward.sort().values)
            assert torch.equal(paid.sort().values, expected.sort().values)  # as `dream.expected_reward` pays
            assert not torch.equal(paid, expected)
        else:
            assert not other.reward.any()
            assert not paid.any()


def test_a_blind_policy_sees_no_frame_but_hears_its_actions(moment):
    tokens, steps = moment
    same = steps._replace(action=torch.full_like(steps.action, 2))
    blind = agent("blind-policy")
    assert len(behaviour(agent("none"), tokens, same)[2].logits.unique(dim=0)) == B
    assert len(behaviour(blind, tokens, same)[2].logits.unique(dim=0)) == 1
    assert len(behaviour(blind, tokens, steps)[2].logits.unique(dim=0)) > 1
    assert torch.equal(behaviour(blind, *moment)[0], behaviour(agent("none"), *moment)[0])
