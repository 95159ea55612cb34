import pytest
import torch
from torch import nn

from tokendream.config.parts import PhaseConfig
from tokendream.errors import NonFiniteError
from tokendream.nn.losses import Losses
from tokendream.training.guard import check
from tokendream.training.update import adamw, apply

PHASE = PhaseConfig(first_epoch=1, updates=1, batch=1, learning_rate=0.1, weight_decay=0.5, clip=1.0)


def test_decay_acts_on_matrices_only():
    module = nn.Linear(3, 3)
    decayed, spared = adamw(module, PHASE, decay_matrices_only=True).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.5, 0.0)
    assert decayed["params"] == [module.weight]
    assert spared["params"] == [module.bias]
    (everything,) = adamw(module, PHASE).param_groups
    assert len(everything["params"]) == 2
    assert everything["weight_decay"] == 0.5


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
