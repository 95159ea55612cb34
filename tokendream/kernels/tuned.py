"""What computes each part of an agent on a GPU: the fastest of what `tokendream machine --tune` has timed there.

What it found is kept for this GPU, precision, torch and Triton, and stands in a run's facts, which the run keeps. A GPU
that was not tuned computes with PyTorch's own operators.
"""

from __future__ import annotations

import importlib.metadata
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from tokendream.device import Compute
from tokendream.kernels import cache
from tokendream.kernels.install import COMPILED, PLAIN, TRITON, has_triton

PHASES = {"tokenizer": ("tokenizer",), "world_model": ("world_model", "actor_critic")}
"""The parts that have layers to choose for, and the phases that run through them."""

WAYS = {PLAIN: tuple(PHASES), TRITON: ("tokenizer",), COMPILED: tuple(PHASES)}
"""The parts that each way computes otherwise than PyTorch; the slowest to make is the last."""

GAIN = 1.02
"""So many times faster than PyTorch's own operators must a way be to be taken."""

BOUNDS = {torch.float32: 1e-3, torch.bfloat16: 2e-2}
"""How far losses and gradient norms of a way may be from PyTorch's, as a share of them."""

Tuned = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Timed:
    """What an update of a phase took and found, one way."""

    seconds: float
    figures: tuple[float, ...]
    """Losses and gradient norms of its first updates, from the same weights and draws."""

    def agrees(self, other: Timed, bound: float) -> bool:
        """Whether the figures are another one's."""
        return len(self.figures) == len(other.figures) and all(
            math.isfinite(a) and abs(a - b) <= bound * abs(b) for a, b in zip(self.figures, other.figures, strict=True)
        )


def decide(timed: Mapping[str, Mapping[str, Timed]], updates: Mapping[str, int], dtype: torch.dtype) -> Tuned:
    """For each part the way that saves most of an epoch, of those that agree with PyTorch in the part's own phase.

    `timed`: of each way the phases that were timed. In dreams a rounded number may change what is sampled, so that the
    figures of C's phase say nothing of M's layers.
    """
    chosen = []
    for part, phases in PHASES.items():
        epoch = {
            way: sum(updates[phase] * found[phase].seconds for phase in phases)
            for way, found in timed.items()
            if all(phase in found for phase in phases) and found[part].agrees(timed[PLAIN][part], BOUNDS[dtype])
        }
        best = min(epoch, key=lambda way: epoch[way], default=PLAIN)
        chosen.append((part, best if best != PLAIN and epoch[best] * GAIN < epoch[PLAIN] else PLAIN))
    return tuple(chosen)


def keep(compute: Compute, found: Tuned) -> None:
    """Let every later run on such a GPU compute by it."""
    cache.write(_name(compute), dict(found), again=True)


def ways(compute: Compute, facts: Mapping[str, str]) -> Tuned:
    """What a run with these facts began with on such a GPU, or else what tuning found; empty where it was not tuned."""
    said = facts.get("device", "") if facts.get("torch") == torch.__version__ else ""
    began = re.fullmatch(re.escape(compute.describe()) + ", (?:not tuned|tuned: (.*))", said)
    found = dict(re.findall(r"(\w+) by ([\w.]+)", began[1] or "")) if began else cache.read(_name(compute)) or {}
    if any(part not in PHASES or part not in WAYS.get(str(way), ()) for part, way in found.items()):
        return ()
    return tuple(found.items())


def _name(compute: Compute) -> str:
    """Of the file, by all that the choice depends on."""
    triton = importlib.metadata.version("triton") if has_triton() else ""
    return cache.name("gpu", compute.describe(), torch.__version__, triton)
