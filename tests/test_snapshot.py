"""What a run goes on from: random states and optimisers, exact, and refused where they do not fit."""

import numpy as np
import pytest
import torch

from tokendream.runfolder.checkpoint import Checkpoints
from tokendream.runfolder.files import CheckpointError
from tokendream.runfolder.snapshot import Snapshot, capture_random, optimiser_tensors, restore_optimiser, restore_random


def test_random_states_go_on_where_they_were(tmp_path):
    generators = {"a": np.random.default_rng(1), "b": torch.Generator().manual_seed(2)}
    generators["a"].random(3)
    generators["a"].integers(0, 9, 3, dtype=np.int32)  # leaves half a word in the generator

    def draws() -> list[float]:
        return [
            *generators["a"].integers(0, 2**31, 5, dtype=np.int32).tolist(),
            *torch.rand(5, generator=generators["b"]).tolist(),
            *torch.randn(3).tolist(),
        ]

    tensors, state = capture_random(generators)
    Checkpoints(tmp_path).save(1, Snapshot({"random": tensors}, {"random": state}), None)
    expected = draws()
    _, content = Checkpoints(tmp_path).load()
    restore_random(generators, content.tensors["random"], content.state["random"])
    assert draws() == expected


@pytest.mark.parametrize(
    "change",
    [
        {"generator.b": torch.zeros(5056, dtype=torch.uint8)},
        {"generator.b": torch.zeros(7, dtype=torch.uint8)},
        {"generator.b": torch.zeros(5056)},
        {"torch.cpu": torch.zeros(3, dtype=torch.uint8)},
        {"a": {}},
        {"a": 3},
        {"a": {"bit_generator": "MT19937"}},
        {"a": {"bit_generator": "PCG64", "state": {"state": "x", "inc": 2**300}, "has_uint32": 0, "uinteger": 0}},
        {"a": {"bit_generator": "PCG64", "state": {"state": -1, "inc": 2**300}, "has_uint32": 0, "uinteger": 0}},
    ],
)
def test_random_states_that_do_not_fit_are_refused(change):
    generators = {"a": np.random.default_rng(1), "b": torch.Generator().manual_seed(2)}
    tensors, state = capture_random(generators)
    for key, value in change.items():
        (tensors if key in tensors else state)[key] = value
    with pytest.raises(CheckpointError, match="random state"):
        restore_random(generators, tensors, state)
    with pytest.raises(CheckpointError, match="'c' is missing"):
        restore_random({"c": np.random.default_rng()}, tensors, state)


def test_a_random_state_of_another_kind_of_device_seeds_this_one():
    """A run that began on a GPU goes on here, as far as its random numbers are concerned always in the same way."""
    generators = {"b": torch.Generator().manual_seed(2)}
    tensors, state = capture_random(generators)
    draws = []
    for last in (0, 0, 1):
        tensors["generator.b"] = torch.tensor([7] * 15 + [last], dtype=torch.uint8)  # of a CUDA device
        restore_random(generators, tensors, state)
        draws.append(torch.rand(3, generator=generators["b"]).tolist())
    assert draws[0] == draws[1] != draws[2]


def trained(steps: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    matrices, vectors = ([p for p in module.parameters() if (p.ndim > 1) == m] for m in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=1e-2)
    for i in range(steps):
        step(module, optimiser, i)
    return module, optimiser


def step(module: torch.nn.Module, optimiser: torch.optim.Optimizer, i: int) -> None:
    optimiser.zero_grad()
    module(torch.randn(5, 3, generator=torch.Generator().manual_seed(i))).square().sum().backward()
    optimiser.step()


@pytest.mark.parametrize("steps", [0, 4])
def test_optimisers_go_on_exactly(tmp_path, steps):
    module, optimiser = trained(steps)
    tensors = {"agent": module.state_dict(), "optimiser": optimiser_tensors(optimiser)}
    Checkpoints(tmp_path).save(1, Snapshot(dict(tensors), {}), None)
    copy, resumed = trained(2)  # already used: all it remembers must go
    _, content = Checkpoints(tmp_path).load()
    copy.load_state_dict(content.tensors["agent"])
    restore_optimiser(resumed, content.tensors["optimiser"])
    for i in range(steps, steps + 3):
        step(module, optimiser, i)
        step(copy, resumed, i)
    for a, b in zip(module.parameters(), copy.parameters(), strict=True):
        assert torch.equal(a, b)
    a, b = optimiser_tensors(optimiser), optimiser_tensors(resumed)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"4.step": torch.zeros(())}, "of 4 parameters does not remember '4.step'"),
        ({"x.step": torch.zeros(())}, "does not remember 'x.step'"),
        ({"²": torch.zeros(())}, "does not remember"),
        ({"9" * 5000: torch.zeros(())}, "does not remember"),
        ({"0.hook": torch.zeros(())}, "does not remember"),
        ({"0.exp_avg": torch.zeros(4, 4)}, "must be floating point"),
        ({"0.exp_avg": torch.zeros(4, 3, dtype=torch.int64)}, "must be floating point"),
        ({"0.exp_avg": None}, "lacks exp_avg"),
    ],
)
def test_optimiser_states_that_do_not_fit_are_refused(change, message):
    _, optimiser = trained(1)
    tensors = {k: v for k, v in {**optimiser_tensors(optimiser), **change}.items() if v is not None}
    with pytest.raises(CheckpointError, match=message):
        restore_optimiser(optimiser, tensors)
