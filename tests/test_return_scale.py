"""The scale of advantages by quantiles of returns: what it is, what it forgets, and that a run goes on with it."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from test_trainer import cut_after, everything, finish, gone_on, same, trainer

from tokendream.config.config import vary
from tokendream.config.presets import TINY
from tokendream.dream import return_scale
from tokendream.dream.return_scale import ReturnScale
from tokendream.errors import ConfigError

CPU = torch.device("cpu")
SCALED = vary(TINY, "dream", scale_by_quantiles=True)


def expected(seen: list[np.ndarray]) -> float:
    low, high = np.quantile(np.concatenate(seen), [0.025, 0.975])
    return max(1.0, (high - low) / 2)


def test_it_is_half_the_distance_of_the_quantiles_of_the_last_updates(monkeypatch, rng):
    monkeypatch.setattr(return_scale, "UPDATES", 5)
    scale, seen = ReturnScale(60, CPU), []
    for update in range(12):
        returns = torch.from_numpy(rng.normal(update, 1 + 3 * update, size=(20, 3)))
        weight = torch.from_numpy(rng.random((20, 3)) < 0.7).float()
        weight[:, 0] = 1
        seen.append(returns[weight > 0].numpy())
        assert float(scale(returns, weight)) == pytest.approx(expected(seen[-5:]), rel=1e-5)


def test_small_returns_are_not_blown_up():
    scale = ReturnScale(8, CPU)
    assert float(scale(torch.full((8, 1), 0.3), torch.ones(8, 1))) == 1


def test_one_return_is_enough():
    assert float(ReturnScale(1, CPU)(torch.tensor([[70.0]]), torch.ones(1, 1))) == 1


def test_the_advantage_alone_is_divided():
    """By the scale of the returns, in both ways to learn from a dream."""
    figures = []
    for config in (TINY, SCALED):
        t = trainer(config)
        t.epoch = 3
        for _ in range(30):
            t.update("collect")
        torch.nn.init.constant_(t.agent.actor_critic.critic.bias, 50.0)  # so that returns differ by far more than 1
        torch.nn.init.normal_(t.agent.actor_critic.critic.weight, std=100.0)
        figures.append({k: float(v) for k, v in t.update("actor_critic").items()})
    plain, scaled = figures
    returns = t.phases["actor_critic"]._scale.history
    size = expected([returns[returns.isfinite()].numpy()])
    assert size > 2
    assert scaled["policy"] == pytest.approx(plain["policy"] / size, rel=1e-4)
    assert scaled["value"] == plain["value"]
    assert scaled["advantage_scale"] == plain["advantage_scale"]


@pytest.mark.parametrize("reuse", [1, 2])
def test_a_run_goes_on_with_its_window_to_the_bit(reuse):
    config = vary(SCALED, "dream", reuse=reuse)
    cut = cut_after(74, config)
    snapshot = cut.snapshot()
    assert snapshot.tensors["phase.actor_critic"]["history"].isfinite().any()
    resumed = gone_on(cut, snapshot)
    assert same(everything(finish(cut)), everything(resumed))


@pytest.mark.parametrize("now", [4, 6, 8])
def test_a_run_goes_on_with_updates_of_another_size(now):
    """As it must where memory ran out and the batch was lowered."""
    before, after = ReturnScale(6, CPU), ReturnScale(now, CPU)
    returns = torch.arange(6.0)[None]
    before(returns, torch.ones(1, 6))
    after.restore(before.tensors())
    kept = min(now, 6)
    assert after.history[-1, :kept].tolist() == returns[0, :kept].tolist()
    assert (after.history[-1, kept:] == math.inf).all()
    assert (after.history[:-1] == math.inf).all()


def test_advantages_are_scaled_once():
    with pytest.raises(ConfigError, match="scale_by_quantiles"):
        vary(SCALED, "dream", scale_advantage=True)
    assert not dataclasses.replace(SCALED.dream, scale_by_quantiles=False).scale_advantage
