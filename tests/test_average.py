"""A moving average of M's weights: what it is, who sees it, and that a run goes on."""

import dataclasses

import pytest
import torch
from test_trainer import cut_after, everything, finish, gone_on, same, trainer

from tokendream.config.config import vary
from tokendream.config.presets import TINY
from tokendream.errors import ConfigError
from tokendream.training.average import MovingAverage

DECAY = 0.8
AVERAGED = vary(TINY, "world_model", ema_decay=DECAY)


def weights(t):
    return {name: p.detach().clone() for name, p in t.agent.world_model.named_parameters()}


def filled(config):
    """A trainer with an epoch's experience, whose M has not been trained."""
    t = trainer(config)
    t.run_epoch()
    t.close_epoch()
    return t


def test_the_agent_has_the_average_of_the_weights_that_are_stepped():
    """The same updates without it give the weights of which it is the average."""
    plain, averaged = filled(TINY), filled(AVERAGED)
    average = weights(averaged)
    assert same(average, weights(plain))
    for number in range(8):
        decay = min(DECAY, number / (number + 1))
        with torch.random.fork_rng(devices=[]):
            expected = plain.update("world_model")
        assert same(dict(averaged.update("world_model")), dict(expected))
        average = {name: decay * average[name] + (1 - decay) * p for name, p in weights(plain).items()}
    found, stepped = weights(averaged), averaged.phases["world_model"].tensors()
    assert all(torch.allclose(found[name], average[name], atol=1e-6) for name in average)
    assert stepped.pop("updates") == 8
    assert same({f"stepped.{name}": p for name, p in weights(plain).items()}, stepped)
    assert not any(torch.equal(found[name], p) for name, p in weights(plain).items() if p.any())


def test_an_update_that_fails_leaves_the_average_in_place():
    module = torch.nn.Linear(2, 2)
    average, before = MovingAverage(module, DECAY), module.weight.detach().clone()

    def fails():
        with average.stepping():
            module.weight.data.add_(1)
            raise KeyboardInterrupt

    for seen, stepped in ((1, 1), (1.5, 2)):  # the first two are averaged alike
        with pytest.raises(KeyboardInterrupt):
            fails()
        assert torch.allclose(module.weight, before + seen)
        assert torch.allclose(average.tensors()["stepped.weight"], before + stepped)


def test_an_older_checkpoint_goes_on_with_the_whole_decay():
    module = torch.nn.Linear(2, 2)
    average, before = MovingAverage(module, DECAY), module.weight.detach().clone()
    average.restore({name: x for name, x in average.tensors().items() if name != "updates"})
    with average.stepping():
        module.weight.data.add_(1)
    assert torch.allclose(module.weight, before + 1 - DECAY)


def test_weights_of_another_shape_are_refused():
    average = MovingAverage(torch.nn.Linear(2, 2), DECAY)
    with pytest.raises(ValueError, match=r"stepped weights bias must be \(2,\), not \(1,\)"):
        average.restore(average.tensors() | {"stepped.bias": torch.zeros(1)})
    with pytest.raises(KeyError):
        average.restore({})


def test_a_run_goes_on_to_the_bit():
    cut = cut_after(73, AVERAGED)
    resumed = gone_on(cut, cut.snapshot())
    assert same(everything(finish(cut)), everything(resumed))


def test_an_average_that_never_moves_is_refused():
    with pytest.raises(ConfigError, match=r"world_model\.ema_decay must be between 0 and 0\.9999, not 1\.0"):
        dataclasses.replace(AVERAGED, world_model=dataclasses.replace(AVERAGED.world_model, ema_decay=1.0))
