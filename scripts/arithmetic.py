"""What an epoch of a preset computes, phase by phase, counted on its own updates as they run.

    python scripts/arithmetic.py cpu

Matrix products and convolutions, forwards and backwards; the rest is not counted. The epoch is one in which every phase
is due; frames are encoded when they are new. One JSON line.
"""

from __future__ import annotations

import dataclasses
import json
import sys

import torch

from benchmarks.counting import count_flops
from benchmarks.workload import Workload
from tokendream.config.presets import preset
from tokendream.config.schedule import PARTS
from tokendream.kernels.machine import compute_for
from tokendream.training.synthetic import shown, synthetic_replay
from tokendream.training.workload import frames_encoded

ROWS, FRAMES = 1600, 64


def main(name: str) -> None:
    """Count."""
    config = dataclasses.replace(preset(name), device="cpu", precision="float32", kernels=False)
    compute, spaces = compute_for(config), shown(config)
    work = Workload(config, compute, synthetic_replay(ROWS, spaces, compute.device), spaces)
    GFLOP = {"collect": config.collect.steps * count_flops(work.phase("collect", 1, torch.float32).run) / 1e9}
    for part in PARTS:
        phase = getattr(config.training, part)
        GFLOP[part] = phase.updates * count_flops(work.phase(part, phase.batch, torch.float32).run) / 1e9
    new = frames_encoded(config, config.epochs, changing=False)
    GFLOP["encode"] = new * count_flops(work.encode(FRAMES, torch.float32).run) / FRAMES / 1e9
    GFLOP["epoch"] = sum(GFLOP.values())
    print(json.dumps({"preset": name, "GFLOP": {part: round(n, 1) for part, n in GFLOP.items()}}))


if __name__ == "__main__":
    main(*sys.argv[1:])
