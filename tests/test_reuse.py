"""Several gradient updates on one batch of dreams, by the clipped objective."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from test_trainer import everything, finish, gone_on, same, trainer

from tokendream.agent.agent import Agent
from tokendream.config.config import vary
from tokendream.config.presets import TINY
from tokendream.data.batch import Steps
from tokendream.dream import imagine
from tokendream.dream.objective import CLIP, actor_critic_loss, clipped_loss, dreamed, minibatches
from tokendream.errors import ConfigError

B, L, A = 5, 6, 4
SETTINGS = dataclasses.replace(TINY.dream, horizon=5, mask_after_end=True, centre_advantage=True, entropy_weight=0.1)
THRICE = vary(TINY, "dream", reuse=3)


@pytest.fixture
def agent():
    agent = Agent.from_config(TINY, A).double().eval()
    torch.nn.init.normal_(agent.tokenizer.quantizer.codebook)
    return agent


@pytest.fixture
def segment():
    tokens = torch.randint(TINY.tokenizer.codebook_size, (B, L, TINY.tokens_per_frame))
    no = torch.zeros(B, L, dtype=torch.bool)
    return tokens, Steps(torch.randint(A, (B, L)), torch.zeros(B, L), no, ~no)


def test_c_along_given_steps_is_c_step_by_step(agent, segment):
    tokens, steps = segment
    C, codes = agent.actor_critic, agent.tokenizer.codes(tokens)
    whole = C.along(codes, steps.action, C.initial_state(B))
    state = C.initial_state(B)
    for t in range(L):
        output, state = C(codes[:, t], state)
        state = C.absorb_action(steps.action[:, t], state)
        assert torch.allclose(whole.logits[:, t], output.logits, atol=1e-6)
        assert torch.allclose(whole.value[:, t], output.value, atol=1e-6)


def test_its_gradient_is_that_of_the_plain_loss_where_the_policy_has_not_moved(agent, segment):
    C = agent.actor_critic
    start = imagine.start(agent, *segment, SETTINGS)
    rollout = imagine.imagine(start, agent, SETTINGS.horizon, torch.Generator().manual_seed(3))
    plain = actor_critic_loss(rollout, C.actions, SETTINGS)
    experience = dreamed(agent, *segment, SETTINGS, torch.Generator().manual_seed(3))
    again = clipped_loss(agent, experience, SETTINGS)
    assert float(again.figures()["clipped"]) == 0
    expected, found = (torch.autograd.grad(losses.total, list(C.parameters())) for losses in (plain, again))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(expected, found, strict=True))
    assert any(float(g.abs().max()) > 1e-3 for g in expected)


@pytest.mark.parametrize("sign", [1, -1])
def test_what_has_moved_far_enough_gains_nothing_more(agent, segment, sign):
    """Each action is now e times as likely as it was, or 1/e: where that paid, the gradient is gone."""
    settings = dataclasses.replace(SETTINGS, entropy_weight=0.0)
    experience = dreamed(agent, *segment, settings, torch.Generator().manual_seed(3))
    for advantage in (1.0, -1.0):
        found = experience.targets._replace(advantage=torch.full_like(experience.log_prob, advantage))
        moved = experience._replace(log_prob=experience.log_prob - sign, targets=found)
        losses = clipped_loss(agent, moved, settings)
        gradient = torch.autograd.grad(losses.terms["policy"], agent.actor_critic.actor.weight)[0]
        gone = advantage * sign > 0
        assert bool((gradient == 0).all()) == gone
        assert float(losses.figures()["clipped"]) == float(gone)
        ratio = 1 + CLIP * sign if gone else math.exp(sign)
        assert float(losses.figures()["policy"]) == pytest.approx(-advantage * ratio, abs=1e-5)


def test_nothing_after_an_end_counts(agent, segment):
    experience = dreamed(agent, *segment, SETTINGS, torch.Generator().manual_seed(3))
    found = experience.targets
    weight = found.weight.clone()
    weight[:, 2:] = 0
    other = found._replace(weight=weight, returns=found.returns.clone(), advantage=found.advantage.clone())
    before = clipped_loss(agent, experience._replace(targets=other), SETTINGS).total
    other.returns[:, 2:] += 7
    other.advantage[:, 2:] -= 7
    assert torch.equal(clipped_loss(agent, experience._replace(targets=other), SETTINGS).total, before)


def test_minibatches_share_all_dreams_out_each_time(agent, segment):
    settings = dataclasses.replace(SETTINGS, mask_after_end=False, reuse=2, minibatches=B)
    experience = dreamed(agent, *segment, settings, torch.Generator().manual_seed(3))
    shares = list(minibatches(experience, settings, np.random.default_rng(0)))
    assert [len(share.tokens) for share in shares] == [1] * 2 * B
    for once in (shares[:B], shares[B:]):
        losses = [float(clipped_loss(agent, share, SETTINGS).terms["value"].detach()) for share in once]
        whole = float(clipped_loss(agent, experience, SETTINGS).terms["value"].detach())
        assert sum(losses) / B == pytest.approx(whole, rel=1e-5)
        log_probs = torch.cat([share.log_prob for share in once])
        assert torch.equal(log_probs.sort(0).values, experience.log_prob.sort(0).values)
    assert not torch.equal(shares[0].log_prob, shares[B].log_prob)  # in an order of its own


def test_dreams_that_cannot_be_shared_out_evenly_are_refused():
    with pytest.raises(
        ConfigError,
        match=r"dream\.minibatches must be a divisor of training\.actor_critic\.batch times dream\.group \(2\)",
    ):
        vary(TINY, "dream", minibatches=3)


@pytest.mark.parametrize(("changes", "updates"), [({"reuse": 3}, 3), ({"reuse": 3, "minibatches": 2}, 6)])
def test_an_update_is_so_many_gradient_updates_of_c_alone_and_logs_their_means(changes, updates, monkeypatch):
    t = trainer(vary(TINY, "dream", **changes))
    t.epoch = 3
    for _ in range(30):
        t.update("collect")
    before = {k: v.clone() for k, v in t.agent.state_dict().items()}
    phase, figures = t.phases["actor_critic"], []
    step = phase.step
    monkeypatch.setattr(phase, "step", lambda *batch: figures.append(step(*batch)) or figures[-1])
    logged = phase.update(0)
    for name, mean in logged.items():
        assert torch.allclose(mean, torch.stack([each[name] for each in figures]).mean(), atol=1e-6)
    changed = {k.split(".")[0] for k, v in t.agent.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"actor_critic"}
    steps = {int(s["step"]) for s in t.phases["actor_critic"].optimiser.state.values()}
    assert steps == {updates}


@pytest.mark.parametrize("config", [THRICE, vary(THRICE, "dream", minibatches=2)], ids=["whole", "minibatches"])
def test_a_run_cut_between_two_updates_goes_on_as_if_it_had_not_been(config):
    cut = trainer(config)
    while cut.epoch < 4:
        cut.run_epoch()
        cut.close_epoch()
    asked = iter(range(TINY.collect.steps + 6))
    assert not cut.run_epoch(lambda: next(asked) == TINY.collect.steps + 5)  # behind the first update of C
    snapshot = cut.snapshot()
    assert (snapshot.state["phase"], snapshot.state["update"]) == (3, 1)
    resumed = gone_on(cut, snapshot)
    assert same(everything(finish(cut)), everything(resumed))
