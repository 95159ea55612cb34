import dataclasses

import pytest
import torch
from torch import nn

from tokendream.agent.agent import Agent
from tokendream.config.presets import REM
from tokendream.config.training import PhaseConfig
from tokendream.errors import NonFiniteError
from tokendream.nn.losses import Losses
from tokendream.training.guard import check
from tokendream.training.update import adamw, apply

PHASE = PhaseConfig(first_epoch=1, updates=1, batch=1, learning_rate=0.1, weight_decay=0.5, clip=1.0)


@pytest.mark.parametrize(
    ("decayed", "names"),
    [
        ("all", {"0.weight", "1.weight", "1.bias", "2.weight", "2.bias", "tokens"}),
        ("matrices", {"0.weight", "1.weight", "tokens"}),
        ("linear", {"1.weight"}),
    ],
)
def test_decay_acts_on_what_the_phase_names(decayed, names):
    module = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 3), nn.LayerNorm(3))
    module.register_parameter("tokens", nn.Parameter(torch.zeros(4, 3)))
    found = {id(p): name for name, p in module.named_parameters()}
    groups = adamw(module, dataclasses.replace(PHASE, decayed=decayed)).param_groups
    assert {found[id(p)] for g in groups if g["weight_decay"] == 0.5 for p in g["params"]} == names
    assert {found[id(p)] for g in groups if g["weight_decay"] == 0.0 for p in g["params"]} == {*found.values()} - names


def test_in_preset_rem_decay_spares_embeddings_prediction_tokens_norms_and_biases():
    with torch.device("meta"):
        agent = Agent.from_config(REM, 18)
    groups = adamw(agent.world_model, REM.training.world_model).param_groups
    names = {id(p): name for name, p in agent.world_model.named_parameters()}
    (decayed,) = [[names[id(p)] for p in g["params"]] for g in groups if g["weight_decay"] == 0.05]
    assert len(decayed) == 5 * 4 + 3 * 2  # qkvg, out and two of the feed-forward network a layer; two a head
    assert all(name.endswith(".weight") and "norm" not in name and "embedding" not in name for name in decayed)


def test_a_frozen_parameter_is_left_out():
    module = nn.Linear(3, 3)
    module.bias.requires_grad_(False)
    assert sum(len(g["params"]) for g in adamw(module, PHASE).param_groups) == 1


def test_an_update_descends_and_clips():
    module = nn.Linear(2, 1)
    optimiser = adamw(module, PHASE)
    x = torch.randn(8, 2) * 100

    def loss():
        return Losses({"square": module(x).square().mean()})

    before = loss()
    norm = apply(before, optimiser, max_norm=1.0)
    assert norm > 1
    clipped = torch.stack([p.grad.norm() for p in module.parameters()]).norm()
    assert torch.allclose(clipped, torch.tensor(1.0), atol=1e-3)
    assert loss().total < before.total


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_update_changes_nothing_and_is_named(value):
    module = nn.Linear(2, 1)
    optimiser = adamw(module, PHASE)
    apply(Losses({"fine": module(torch.ones(2)).sum()}), optimiser, 1.0)
    before = [p.detach().clone() for p in module.parameters()]
    losses = Losses({"fine": module(torch.ones(2)).sum(), "bad": module(torch.ones(2)).sum() * value})
    norm = apply(losses, optimiser, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    with pytest.raises(NonFiniteError, match="epoch 3, update 7: loss 'bad' is"):
        check(losses, norm, "epoch 3, update 7")


def test_a_non_finite_gradient_of_a_finite_loss_is_named():
    losses = Losses({"fine": torch.tensor(1.0)})
    check(losses, torch.tensor(2.0), "here")
    with pytest.raises(NonFiniteError, match="here: the gradient's norm is inf"):
        check(losses, torch.tensor(float("inf")), "here")
