import dataclasses
import subprocess
import sys

import pytest
import torch
from torch import nn

from tokendream.agent.agent import Agent
from tokendream.config.presets import REM
from tokendream.config.training import PhaseConfig
from tokendream.errors import NonFiniteError
from tokendream.nn.losses import Losses
from tokendream.runfolder.snapshot import optimiser_tensors, restore_optimiser
from tokendream.training.adamw import AdamW
from tokendream.training.guard import check
from tokendream.training.muon import orthogonalised
from tokendream.training.update import apply, optimiser_for

PHASE = PhaseConfig(first_epoch=1, updates=1, batch=1, learning_rate=0.1, weight_decay=0.5, clip=1.0)
MUON = dataclasses.replace(PHASE, optimiser="muon")


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
    groups = optimiser_for(module, dataclasses.replace(PHASE, decayed=decayed)).param_groups
    assert {found[id(p)] for g in groups if g["weight_decay"] == 0.5 for p in g["params"]} == names
    assert {found[id(p)] for g in groups if g["weight_decay"] == 0.0 for p in g["params"]} == {*found.values()} - names


def test_in_preset_rem_decay_spares_embeddings_prediction_tokens_norms_and_biases():
    with torch.device("meta"):
        agent = Agent.from_config(REM, 18)
    groups = optimiser_for(agent.world_model, REM.training.world_model).param_groups
    names = {id(p): name for name, p in agent.world_model.named_parameters()}
    (decayed,) = [[names[id(p)] for p in g["params"]] for g in groups if g["weight_decay"] == 0.05]
    assert len(decayed) == 5 * 4 + 3 * 2  # qkvg, out and two of the feed-forward network a layer; two a head
    assert all(name.endswith(".weight") and "norm" not in name and "embedding" not in name for name in decayed)


def test_a_frozen_parameter_is_left_out():
    module = nn.Linear(3, 3)
    module.bias.requires_grad_(False)
    assert sum(len(g["params"]) for g in optimiser_for(module, PHASE).param_groups) == 1


def test_an_update_descends_and_clips():
    module = nn.Linear(2, 1)
    optimiser = optimiser_for(module, PHASE)
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
    optimiser = optimiser_for(module, PHASE)
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


@pytest.mark.parametrize("shape", [(8, 8), (32, 8), (8, 32)])
def test_orthogonalised_matrices_have_the_same_axes_and_singular_values_near_one(shape):
    x = torch.randn(3, *shape)
    U, S, V = torch.linalg.svd(x, full_matrices=False)
    found = U.mT @ orthogonalised(x) @ V.mT
    along = found.diagonal(dim1=1, dim2=2)
    assert (found - torch.diag_embed(along)).abs().max() < 1e-4
    known = 0.02 * S.norm(dim=1, keepdim=True) < S
    assert known.float().mean() > 0.8
    assert along[known].min() > 0.6
    assert along[known].max() < 1.3


class Backboned(nn.Module):
    """Two matrices of one shape inside, and a head that stays AdamW's."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone, self.head = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)), nn.Linear(6, 6)

    def forward(self, x):
        return self.head(self.backbone(x))


def test_muon_steps_matrices_inside_by_the_learning_rate_and_the_rest_as_adamw():
    modules, x = (Backboned(), Backboned()), torch.randn(16, 6)
    phases = [dataclasses.replace(phase, weight_decay=0.0) for phase in (MUON, PHASE)]
    before = {name: p.detach().clone() for name, p in modules[0].named_parameters()}
    for module, phase in zip(modules, phases, strict=True):
        apply(Losses({"square": module(x).square().mean()}), optimiser_for(module, phase), 1e9)
    for (name, p), (_, other) in zip(*(m.named_parameters() for m in modules), strict=True):
        if name.startswith("backbone.") and p.ndim == 2:
            step = (p - before[name]).square().mean().sqrt()
            assert 0.6 * PHASE.learning_rate < step < 1.3 * PHASE.learning_rate
            assert not torch.equal(p, other)
        else:
            assert torch.equal(p, other)


def test_muon_s_non_finite_update_changes_neither_weights_nor_momentum():
    module, x = Backboned(), torch.randn(16, 6)
    optimiser = optimiser_for(module, MUON)
    apply(Losses({"fine": module(x).square().mean()}), optimiser, 1.0)
    before = [x.clone() for x in (*module.parameters(), *optimiser_tensors(optimiser).values())]
    apply(Losses({"bad": module(x).sum() * float("nan")}), optimiser, 1.0)
    after = [*module.parameters(), *optimiser_tensors(optimiser).values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    restored = optimiser_for(module, MUON)
    restore_optimiser(restored, optimiser_tensors(optimiser))
    assert all(torch.equal(a, b) for a, b in zip(after[6:], optimiser_tensors(restored).values(), strict=True))


def test_adamw_is_torch_s_to_the_bit():
    kinds, states, weights = (AdamW, torch.optim.AdamW), [], []
    for kind in kinds:
        torch.manual_seed(0)
        module, found_inf = nn.Linear(5, 3), torch.zeros(())
        optimiser = kind(module.parameters(), lr=0.1, weight_decay=0.5, fused=True)
        for step in range(4):
            optimiser.zero_grad(set_to_none=True)
            (module(torch.randn(8, 5)) * 10**step).square().mean().backward()
            setattr(optimiser, "found_inf", found_inf.fill_(step == 2))  # noqa: B010, undeclared there
            optimiser.step()
            optimiser.load_state_dict(optimiser.state_dict())
        weights.append(module.weight.detach())
        states.append(optimiser.state_dict()["state"])
    assert torch.equal(*weights)
    for index in states[0]:
        assert all(torch.equal(states[0][index][name], states[1][index][name]) for name in ("exp_avg", "exp_avg_sq"))
        assert states[0][index]["step"] == states[1][index]["step"] == 3


def test_a_run_and_its_resuming_do_without_the_compiler(tmp_path):
    """Importing it takes a second and 145 MB in each process."""
    code = """
import dataclasses, sys
from pathlib import Path
from tokendream.config.presets import TINY
from tokendream.training.run import resume, start

folder = Path(sys.argv[1])
assert start(dataclasses.replace(TINY, device="cpu"), folder) == 0
(folder / "evaluation" / "final.json").unlink()
assert resume(folder) == 0
print("torch._dynamo" in sys.modules)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")], capture_output=True, text=True, check=True
    )
    assert ran.stdout.splitlines()[-1] == "False"
