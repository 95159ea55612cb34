"""Dreams in groups: chance falls alike in those of a start, and each is measured against the others of its group."""

import dataclasses

import pytest
import torch

from tokendream.agent.agent import Agent
from tokendream.config.config import vary
from tokendream.config.presets import CPU, TINY, preset
from tokendream.data.batch import Steps
from tokendream.dream import imagine
from tokendream.dream.imagine import Rollout
from tokendream.dream.objective import dreamed, targets
from tokendream.errors import ConfigError
from tokendream.nn.sampling import sample, uniform

S, G, A, T = 3, 4, 3, 6
GROUPS = dataclasses.replace(TINY.dream, group=G)


@pytest.fixture(params=["tiny", "transformer", "no-pop"])
def agent(request):
    changes = {"tiny": {}, "transformer": {"backbone": "transformer"}, "no-pop": {"decoding": "token"}}[request.param]
    agent = Agent.from_config(vary(TINY, "world_model", **changes), A).double().eval()
    torch.nn.init.normal_(agent.tokenizer.quantizer.codebook)
    return agent


def start(agent):
    tokens = torch.randint(TINY.tokenizer.codebook_size, (S, 4, TINY.tokens_per_frame))
    steps = Steps(torch.randint(A, (S, 4)), torch.zeros(S, 4), torch.zeros(S, 4).bool(), torch.ones(S, 4).bool())
    return tokens, steps


def test_neighbours_share_their_random_numbers_and_no_others():
    u = uniform(torch.zeros(S * G, 5, 7), torch.Generator().manual_seed(0), G)
    assert u.shape == (S * G, 5, 1)
    assert torch.equal(u.view(S, G, 5), u.view(S, G, 5)[:, :1].expand(S, G, 5))
    assert len(u.unique()) == S * 5
    n = 200_000
    drawn = sample(torch.tensor([0.5, 0.2, 0.3]).log().expand(n, 3), torch.Generator().manual_seed(0), alike=4)
    assert torch.bincount(drawn).double().div(n).tolist() == pytest.approx([0.5, 0.2, 0.3], abs=0.006)


def test_dreams_of_a_start_that_act_alike_are_alike(agent):
    """Every number that is drawn beside actions is the same: frames, rewards, ends."""
    begun = imagine.start(agent, *start(agent), GROUPS).expand(G, alike=True)
    actions = torch.randint(A, (S, 1, T)).expand(S, G, T).reshape(S * G, T)
    rollout = imagine.imagine(begun, agent, T, torch.Generator().manual_seed(1), actions=actions)
    for drawn in (rollout.tokens, rollout.rewards, rollout.ends):
        of_groups = drawn.view(S, G, *drawn.shape[1:])
        assert torch.equal(of_groups, of_groups[:, :1].expand_as(of_groups))
    assert len(rollout.tokens[:, 1:].flatten(1).unique(dim=0)) == S  # and those of other starts are others
    own = imagine.start(agent, *start(agent), GROUPS).expand(G)
    rollout = imagine.imagine(own, agent, T, torch.Generator().manual_seed(1), actions=actions)
    assert len(rollout.tokens[:, 1:].flatten(1).unique(dim=0)) == S * G


def test_their_actions_are_drawn_apart(agent):
    experience = dreamed(agent, *start(agent), dataclasses.replace(GROUPS, horizon=T), torch.Generator().manual_seed(0))
    assert experience.actions.shape == (S * G, T - 1)
    assert all(len(group.unique(dim=0)) > 1 for group in experience.actions.view(S, G, -1))


@pytest.mark.parametrize("masked", [False, True])
def test_an_advantage_is_what_a_dream_has_beyond_the_others(masked):
    rewards, values, logits = torch.randn(S * G, T), torch.randn(S * G, T), torch.zeros(S * G, T, A)
    ends = torch.rand(S * G, T) < 0.3
    rollout = Rollout(torch.zeros(S * G, T, 4, dtype=torch.int64), logits, values,
                      torch.zeros(S * G, T, dtype=torch.int64), rewards, ends, values[..., None])  # fmt: skip
    settings = dataclasses.replace(GROUPS, mask_after_end=masked)
    found, _ = targets(rollout, settings)
    alone, _ = targets(rollout, dataclasses.replace(settings, group=1))
    assert torch.equal(found.returns, alone.returns)
    for i in range(S * G):
        for t in range(T - 1):
            others = [j for j in range(i // G * G, i // G * G + G) if j != i and alone.weight[j, t]]
            baseline = sum(float(alone.advantage[j, t]) for j in others) / max(1, len(others))
            assert float(found.advantage[i, t]) == pytest.approx(float(alone.advantage[i, t]) - baseline, abs=1e-5)


def test_what_all_dreams_of_a_start_share_teaches_nothing():
    """A start that pays more, be it for luck, favours none of the actions taken there."""
    values = torch.zeros(S * G, T)
    luck = torch.tensor([5.0, -2.0, 0.0]).repeat_interleave(G)[:, None] * torch.ones(S * G, T)
    rollout = Rollout(torch.zeros(S * G, T, 4, dtype=torch.int64), torch.zeros(S * G, T, A), values,
                      torch.zeros(S * G, T, dtype=torch.int64), luck, torch.zeros(S * G, T).bool(),
                      values[..., None])  # fmt: skip
    found, _ = targets(rollout, GROUPS)
    assert found.advantage.abs().max() < 1e-5
    assert found.returns.abs().max() > 5


def test_a_group_of_one_is_a_plain_dream(agent):
    begun = start(agent)
    one = dreamed(agent, *begun, TINY.dream, torch.Generator().manual_seed(3))
    plain = imagine.imagine(
        imagine.start(agent, *begun, TINY.dream), agent, TINY.dream.horizon, torch.Generator().manual_seed(3),
        bootstrap=True,
    )  # fmt: skip
    assert torch.equal(one.actions, plain.actions[:, :-1])
    assert torch.equal(one.tokens, plain.tokens[:, :-1])


def test_shares_are_of_all_dreams_of_all_groups():
    batch = TINY.training.actor_critic.batch
    vary(TINY, "dream", group=3, minibatches=3 * batch)
    with pytest.raises(
        ConfigError, match=rf"a divisor of training.actor_critic.batch times dream.group \({2 * batch}\)"
    ):
        vary(TINY, "dream", group=2, minibatches=3)


def test_without_groups_there_are_as_many_dreams():
    alone = preset("cpu-no-group")
    assert (alone.dream.group, alone.training.actor_critic.batch) == (1, 64)
    assert CPU.training.actor_critic.batch * CPU.dream.group == 64
