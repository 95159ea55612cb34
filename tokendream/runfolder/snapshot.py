"""What a run consists of at a moment, as named tensors and plain data, and how random and optimiser states become so.

Nothing here touches the disk. Everything comes back to the bit, or CheckpointError says what does not fit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokendream.errors import one_line
from tokendream.runfolder.files import CheckpointError

RANDOM_BYTES = (5056, 16)
"""How long the states of torch's generators are: on a CPU, on a CUDA device."""

MOMENTS = {"step", "exp_avg", "exp_avg_sq"}
"""What AdamW remembers of a parameter."""

MUON = {"step", "exp_avg"}
"""What Muon remembers of a matrix."""


@dataclass(frozen=True)
class Snapshot:
    """What is saved of a run beside its replay buffer: groups of named tensors, and plain data for JSON.

    Plain means None, bool, int, float, str, list and dict with string keys, and exactly these types.
    """

    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def capture_random(
    generators: Mapping[str, torch.Generator | np.random.Generator],
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The states of these generators and of torch's default ones, as tensors (torch) and plain data (numpy)."""
    tensors, state = {"torch.cpu": torch.get_rng_state()}, {}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        tensors |= {f"torch.cuda.{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    for name, generator in generators.items():
        if isinstance(generator, np.random.Generator):
            state[name] = dict(generator.bit_generator.state)
        else:
            tensors[f"generator.{name}"] = generator.get_state()
    return tensors, state


def restore_random(
    generators: Mapping[str, torch.Generator | np.random.Generator],
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
) -> None:
    """Put these generators and torch's default ones back into captured states.

    A run that goes on with another kind of device could not do so to the bit anyway: states of CUDA devices that this
    machine lacks are left out, and a generator whose state was of the other kind is seeded by it.
    """
    for name, generator in generators.items():
        on_numpy = isinstance(generator, np.random.Generator)
        if not (name in state if on_numpy else f"generator.{name}" in tensors):
            raise CheckpointError(f"the random state {name!r} is missing")
    try:
        torch.set_rng_state(tensors["torch.cpu"])
        for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            if f"torch.cuda.{i}" in tensors:
                torch.cuda.set_rng_state(tensors[f"torch.cuda.{i}"], i)
        for name, generator in generators.items():
            if isinstance(generator, np.random.Generator):
                generator.bit_generator.state = state[name]
            else:
                saved = tensors[f"generator.{name}"]
                if len(saved) != len(generator.get_state()) and len(saved) in RANDOM_BYTES:
                    seed = hashlib.sha256(saved.numpy().tobytes()).digest()
                    generator.manual_seed(int.from_bytes(seed[:8], "little") >> 1)
                else:
                    generator.set_state(saved)
    except (RuntimeError, KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise CheckpointError(f"a random state does not fit this machine or is damaged: {one_line(error)}") from error


def optimiser_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimiser remembers, as "<number of the parameter>.<exp_avg | exp_avg_sq | step>".

    Settings such as the learning rate are not in it: they come from the config.
    """
    return {
        f"{index}.{name}": value
        for index, moments in optimizer.state_dict()["state"].items()
        for name, value in moments.items()
    }


def restore_optimiser(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimiser_tensors` gave, into an optimiser of the same parameters in the same order."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    known = [MUON if g.get("orthogonal") else MOMENTS for g in optimizer.param_groups for _ in g["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        index = int(number) if number.isdecimal() and len(number) < 10 else len(parameters)
        if index >= len(parameters) or name not in known[index]:
            raise CheckpointError(f"an optimiser of {len(parameters)} parameters does not remember {key!r}")
        shape = torch.Size() if name == "step" else parameters[index].shape
        if value.shape != shape or not value.is_floating_point():
            got = f"{value.dtype} {tuple(value.shape)}"
            raise CheckpointError(f"optimiser state {key} must be floating point {tuple(shape)}, not {got}")
        state.setdefault(index, {})[name] = value.clone()
    for index, moments in state.items():
        if lacking := ", ".join(sorted(known[index] - moments.keys())):
            raise CheckpointError(f"optimiser state of parameter {index} lacks {lacking}")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
