import numpy as np
import pytest
import torch

from tokendream.agent.agent import Agent, AgentPolicy
from tokendream.config.presets import TINY
from tokendream.device import Compute

A = 4
CPU = Compute(torch.device("cpu"), torch.float32)


@pytest.fixture
def agent():
    agent = Agent.from_config(TINY, A).eval()
    torch.nn.init.normal_(agent.tokenizer.quantizer.codebook)
    return agent


def frames(n):
    return torch.randint(256, (n, 3, 64, 64), dtype=torch.uint8)


def sharpen(agent, action):
    """Let the controller prefer one action beyond doubt."""
    torch.nn.init.zeros_(agent.actor_critic.actor.weight)
    with torch.no_grad():
        agent.actor_critic.actor.bias.copy_(50.0 * torch.nn.functional.one_hot(torch.tensor(action), A))


@pytest.fixture
def seen(agent, monkeypatch):
    """1,000 times one frame, which V encodes once."""
    frame, encode = frames(1), agent.tokenizer.encode
    monkeypatch.setattr(agent.tokenizer, "encode", lambda seen: encode(frame).expand(len(seen), -1))
    return frame.expand(1000, -1, -1, -1)


def test_an_action_is_uniformly_random_with_probability_epsilon(agent, seen):
    sharpen(agent, 2)
    n = len(seen)
    memory, generator = agent.actor_critic.initial_state(n), torch.Generator().manual_seed(0)
    action, _ = agent.act(seen, memory, generator, temperature=1.0)
    assert (action == 2).all()
    action, _ = agent.act(seen, memory, generator, temperature=1.0, epsilon=0.2)
    share = action.bincount(minlength=A) / n
    expected = torch.tensor([0.05, 0.05, 0.85, 0.05])
    assert (share - expected).abs().max() < 0.045  # four standard errors


def test_a_sticky_action_is_the_one_before_with_that_probability_and_is_remembered(agent, seen):
    sharpen(agent, 2)
    n = len(seen)
    before = torch.full((n,), 1)
    before[-1] = -1  # a game that has just begun
    memory, generator = agent.actor_critic.initial_state(n), torch.Generator().manual_seed(0)
    action, after = agent.act(seen, memory, generator, temperature=1.0, before=before, sticky=0.3)
    assert set(action.tolist()) == {1, 2}
    assert abs((action == 1).float().mean() - 0.3) < 0.06  # four standard errors
    always, _ = agent.act(seen, memory, generator, temperature=1.0, before=before, sticky=1.0)
    assert torch.equal(always, before.where(before >= 0, torch.tensor(2)))
    one, other = (int((action == a).nonzero()[0]) for a in (1, 2))
    assert not torch.equal(after.h[one], after.h[other])


def test_temperature_is_that_of_the_sampled_distribution(agent, seen):
    torch.nn.init.zeros_(agent.actor_critic.actor.weight)
    with torch.no_grad():
        agent.actor_critic.actor.bias.copy_(torch.tensor([1.0, 0.0, -1.0, 0.5]))
    n = len(seen)
    memory, generator = agent.actor_critic.initial_state(n), torch.Generator().manual_seed(0)
    for temperature in (0.5, 1.0, 2.0):
        action, _ = agent.act(seen, memory, generator, temperature=temperature)
        expected = (agent.actor_critic.actor.bias / temperature).softmax(0)
        assert (action.bincount(minlength=A) / n - expected).abs().max() < 0.06


def test_acting_remembers_frame_and_action_as_burn_in_does(agent):
    state = agent.actor_critic.initial_state(2)
    seen, taken = [], []
    for _ in range(3):
        frame = frames(2)
        action, state = agent.act(frame, state, temperature=1.0)
        seen.append(agent.tokenizer.codes(agent.tokenizer.encode(frame)))
        taken.append(action)
    codes, action = torch.stack(seen, dim=1), torch.stack(taken, dim=1)
    expected = agent.actor_critic.burn_in(codes, action, torch.ones_like(action, dtype=torch.bool), TINY.dream)
    assert torch.allclose(state.h, expected.h, atol=1e-6)


def test_a_policy_s_choice_may_be_captured(agent):
    """What is captured draws from the generator that is named, and chooses as it would without."""
    seen = []

    def capture(run, generator):
        def replayed(*inputs):
            seen.append((len(inputs), generator.initial_seed()))
            return run(*inputs)

        return replayed

    seen_frames = torch.randint(256, (6, 2, 3, 64, 64), dtype=torch.uint8).numpy()
    plain, captured = (AgentPolicy(agent, CPU, temperature=1.0, seed=3, **how) for how in ({}, {"capture": capture}))
    for i, frame in enumerate(seen_frames):
        first = np.array([i == 0, i in (0, 3)])
        assert plain(frame, first).tolist() == captured(frame, first).tolist()
    assert seen == [(3, 3)] * 6


def test_a_policy_forgets_its_lane_when_a_new_game_begins(agent):
    """With the same random numbers, an environment that begins again acts as if nothing had been before."""
    old, new = frames(1).numpy(), frames(1).numpy()
    yes, no = np.array([True]), np.array([False])
    torch.nn.init.normal_(agent.actor_critic.actor.weight, std=20.0)  # nearly deterministic

    def play(history, first):
        policy = AgentPolicy(agent, CPU, temperature=0.01, seed=0)
        for frame in history:
            policy(frame, yes)
        policy(new, first)
        return policy._memory

    fresh, again, going_on = play([], yes), play([old], yes), play([old], no)
    assert torch.allclose(fresh.h, again.h)
    assert not torch.allclose(fresh.h, going_on.h)
