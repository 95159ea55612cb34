import dataclasses

import pytest
import torch

from tokendream.agent.agent import Agent
from tokendream.config.presets import TINY
from tokendream.data.batch import Steps
from tokendream.dream import imagine
from tokendream.dream.objective import actor_critic_loss, dream_loss

B, L, A = 3, 6, 4
K, V = TINY.tokens_per_frame, TINY.tokenizer.codebook_size


@pytest.fixture
def agent():
    agent = Agent.from_config(TINY, A).double().eval()
    torch.nn.init.normal_(agent.tokenizer.quantizer.codebook)  # a fresh one is nearly zero, and all frames alike
    return agent


@pytest.fixture
def tokens():
    return torch.randint(V, (B, L, K))


@pytest.fixture
def steps():
    return Steps(
        action=torch.randint(A, (B, L)),
        reward=torch.zeros(B, L),
        end=torch.zeros(B, L, dtype=torch.bool),
        mask=torch.ones(B, L, dtype=torch.bool),
    )


def test_a_dream_starts_at_the_last_frame_with_both_memories_warm(agent, tokens, steps):
    """The LSTM has lived through the frames before it, M has absorbed the one block before it and nothing else."""
    dream = imagine.start(agent, tokens, steps, TINY.dream)
    codes = agent.tokenizer.codes(tokens)
    assert torch.equal(dream.tokens, tokens[:, -1])

    block = torch.cat((codes[:, -2], agent.world_model.action_embedding(steps.action[:, -2])), dim=1)
    _, world = agent.world_model.backbone.absorb(block[:, None], agent.world_model.initial_state(B))
    assert torch.allclose(dream.world.S, world.S, atol=1e-12)
    assert int(dream.world.position) == K + 1

    policy = agent.actor_critic.burn_in(codes[:, :-1], steps.action[:, :-1], steps.mask[:, :-1], TINY.dream)
    assert torch.equal(dream.policy.h, policy.h)
    steps.action[:, -1] = (steps.action[:, -1] + 1) % A  # what was done at the start itself is not known yet
    again = imagine.start(agent, tokens, steps, TINY.dream)
    assert torch.equal(again.policy.h, dream.policy.h)
    assert torch.equal(again.world.S, dream.world.S)


def test_a_dream_may_begin_with_more_blocks_in_memory(agent, tokens, steps):
    """Those of its own episode: what is padded is not remembered."""
    settings = dataclasses.replace(TINY.dream, context_blocks=3)
    steps.mask[0, :4], steps.mask[1, :5] = False, False
    dream = imagine.start(agent, tokens, steps, settings)
    M, codes, after = agent.world_model, agent.tokenizer.codes(tokens), torch.randn(B, 1, K + 1, 16).double()
    for b, blocks in enumerate((1, 0, 3)):
        one, state = slice(b, b + 1), M.initial_state(1)
        for t in range(5 - blocks, 5):
            block = slice(t, t + 1)
            _, state = M(codes[one, block], tokens[one, block], steps.action[one, block], state, slice(0, 0))
        # Positions count from the first block for all, so that states are compared by what follows.
        follows = [M.backbone.absorb(after[one], s)[0] for s in (state, dream.world.take(torch.tensor([b])))]
        assert torch.allclose(*follows, atol=1e-11)
    assert torch.equal(imagine.start(agent, tokens, steps, TINY.dream).policy.h, dream.policy.h)


def test_where_an_episode_has_just_begun_nothing_is_remembered(agent, tokens, steps):
    steps.mask[0, :-1] = False
    dream = imagine.start(agent, tokens, steps, TINY.dream)
    assert not dream.world.S[:, 0].any()
    assert not dream.policy.h[0].any()
    assert dream.world.S[:, 1:].any()
    assert dream.policy.h[1:].any()


def test_a_step_is_one_call_of_each_part(agent, tokens, steps):
    dream = imagine.start(agent, tokens, steps, TINY.dream)
    after, one = imagine.step(dream, agent, torch.Generator().manual_seed(5))

    codes = agent.tokenizer.codes(dream.tokens)
    output, policy = agent.actor_critic(codes, dream.policy)
    assert torch.equal(one.logits, output.logits)
    assert torch.equal(one.value, output.value)
    assert torch.equal(after.policy.h, agent.actor_critic.absorb_action(one.action, policy).h)

    _, given = imagine.step(dream, agent, torch.Generator().manual_seed(5), action=one.action)
    assert torch.equal(given.action, one.action)
    outcome, _, world = agent.world_model.imagine(
        codes, dream.tokens, one.action, dream.world, torch.Generator().manual_seed(5), embed=agent.tokenizer.codes
    )
    for mine, theirs in zip(given.outcome, outcome, strict=True):
        assert torch.equal(mine, theirs)
    assert torch.equal(after.world.S, world.S)
    assert torch.equal(after.tokens, one.outcome.tokens)
    assert set(one.outcome.reward.tolist()) <= {-1.0, 0.0, 1.0}


def test_a_rollout_shows_what_was_seen_when_each_action_was_taken(agent, tokens, steps):
    horizon = 4
    dream = imagine.start(agent, tokens, steps, TINY.dream)
    rollout = imagine.imagine(dream, agent, horizon, torch.Generator().manual_seed(6))
    assert rollout.tokens.shape == (B, horizon, K)
    assert rollout.logits.shape == (B, horizon, A)
    generator = torch.Generator().manual_seed(6)
    for t in range(horizon):
        assert torch.equal(rollout.tokens[:, t], dream.tokens)
        dream, one = imagine.step(dream, agent, generator)
        assert torch.equal(rollout.actions[:, t], one.action)
        assert torch.equal(rollout.rewards[:, t], one.outcome.reward)
        assert torch.equal(rollout.ends[:, t], one.outcome.end)
        assert torch.equal(rollout.values[:, t], one.value)


def test_recorded_actions_are_taken(agent, tokens, steps):
    dream = imagine.start(agent, tokens, steps, TINY.dream)
    actions = torch.randint(A, (B, 3))
    rollout = imagine.imagine(dream, agent, 3, torch.Generator().manual_seed(0), actions=actions)
    assert torch.equal(rollout.actions, actions)


@pytest.mark.parametrize("scale", [False, True])
def test_what_a_dream_teaches_does_not_need_its_last_answer(agent, tokens, steps, scale, monkeypatch):
    """Losses and gradients to the bit, with a call of M less."""
    settings = dataclasses.replace(TINY.dream, scale_advantage=scale, mask_after_end=scale, entropy_weight=0.1)
    answers, answer = [], agent.world_model.imagine
    monkeypatch.setattr(agent.world_model, "imagine", lambda *a, **k: answers.append(1) or answer(*a, **k))
    start = imagine.start(agent, tokens, steps, settings)
    whole = imagine.imagine(start, agent, settings.horizon, torch.Generator().manual_seed(1))
    found = []
    for losses in (
        actor_critic_loss(whole, agent.actor_critic.actions, settings),
        dream_loss(agent, tokens, steps, settings, torch.Generator().manual_seed(1)),
    ):
        gradients = torch.autograd.grad(losses.total, [p for p in agent.actor_critic.parameters() if p.requires_grad])
        found.append([*losses.terms.values(), *losses.info.values(), *gradients])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert len(answers) == 2 * settings.horizon - 1


def test_a_reward_can_be_a_function_of_the_prediction(agent, tokens, steps):
    """The same dream, paid by what M was unsure of; each prediction is seen once, and none is kept."""
    dream = imagine.start(agent, tokens, steps, TINY.dream)
    seen = []

    def surprise(prediction, outcome):
        seen.append(prediction.next_frame.shape)
        log_p = prediction.next_frame[:, 0].log_softmax(-1)
        return -log_p.gather(-1, outcome.tokens[..., None]).sum((1, 2))

    plain = imagine.imagine(dream, agent, 3, torch.Generator().manual_seed(0))
    paid = imagine.imagine(dream, agent, 3, torch.Generator().manual_seed(0), reward=surprise)
    assert seen == [(B, 1, K, V)] * 3
    assert torch.equal(paid.tokens, plain.tokens)
    assert torch.equal(paid.actions, plain.actions)
    assert (paid.rewards > 0).all()
    assert set(plain.rewards.unique().tolist()) <= {-1.0, 0.0, 1.0}
    assert not any(tensor.numel() >= B * K * V for tensor in vars(paid).values())
