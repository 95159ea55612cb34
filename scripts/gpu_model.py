"""What every phase of a preset asks of a GPU, computed without one: products, memory traffic and kernels of an update.

    python scripts/gpu_model.py [PRESET]

Updates run at full size on the fake GPU of the tests, under CUDA's rules of autocast. Of each operator that is no view
its operands and results are counted once, as a GPU reads and writes them where nothing is fused, and its products by
torch's own formulas. Prints the table of docs/gpu.md: computed seconds are those of an H100 by the rates below,
measured ones those of results/gpu-*/bench.json where there is one.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fake_gpu import DEVICE, fake_gpu, trainer_on

from tokendream.agent.agent import Agent
from tokendream.config.presets import preset
from tokendream.config.schedule import PARTS
from tokendream.spaces.observations import image_spaces
from tokendream.tokenizers.vq import CHUNK
from tokendream.training.phase import GradientPhase
from tokendream.training.synthetic import ACTIONS
from tokendream.training.workload import frames_encoded

RATES = {torch.bfloat16: 600e12, torch.float32: 50e12}
"""FLOP/s of an H100's products that can be reached, by precision; without TF32."""
NAMES = {"encode": f"encode {CHUNK} frames", "world_model": "world-model", "actor_critic": "actor-critic"}
NONE = "not measured"
RESULTS = Path(__file__).parents[1] / "results"
BANDWIDTH, LAUNCH = 2.8e12, 2e-6
"""Bytes/s that can be reached, and seconds of the smallest kernel in a graph."""


class Counted(TorchDispatchMode):
    """Adds up what the operators within it ask for."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.bytes = self.kernels = 0
        self.seconds = 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        read, written = (
            [x for x in pytree.tree_leaves(tree) if isinstance(x, torch.Tensor) and x.device.type != "cpu"]
            for tree in ((args, kwargs), out)
        )
        held = {x.untyped_storage()._cdata for x in read}
        alias = all(x.untyped_storage()._cdata in held for x in written)
        if not written or (alias and not func._schema.is_mutable):  # a view
            return out
        moved = sum(map(_size, {id(x): x for x in (*read, *written)}.values()))
        formula = flop_registry.get(func.overloadpacket)
        flops = formula(*args, **(kwargs or {}), out_val=out) if formula else 0
        products, memory = flops / RATES.get(read[0].dtype, 50e12) if flops else 0.0, moved / BANDWIDTH
        self.flops, self.bytes, self.kernels = self.flops + flops, self.bytes + moved, self.kernels + 1
        self.seconds += max(products, memory, LAUNCH)
        return out


def _size(x: torch.Tensor) -> int:
    """Bytes of it in memory: what is expanded lies there once."""
    numbers = math.prod(n if stride else min(n, 1) for n, stride in zip(x.shape, x.stride(), strict=True))
    return numbers * x.element_size()


def measured(name: str) -> dict[str, str]:
    """Milliseconds that `python -m benchmarks gpu` found for a preset at its full batches, on the first GPU."""
    for path in sorted(RESULTS.glob("gpu-*/bench.json")):
        data = json.loads(path.read_text())
        if data["preset"] == name:
            rows = [row for row in reversed(data["rows"]) if row["batch"] == row["full_batch"]]
            rows = [row for row in rows if row["name"] != "encode" or row["batch"] == CHUNK]
            found = {row["name"]: row["seconds"]["median"] for row in rows}  # the first of a name is as training runs
            found |= {"an epoch": data["epoch"]["seconds"]["total"]} if "epoch" in data else {}
            return {title: f"{1e3 * seconds:.3g}" for title, seconds in found.items()}
    return {}


def main(name: str) -> None:
    """Print the table."""
    config, spaces = preset(name), image_spaces(preset(name).env.size, ACTIONS)
    agent = Agent.from_config(config, spaces)
    found: dict[str, tuple[Counted, float]] = {}
    with fake_gpu():
        trainer = trainer_on(agent, config, torch.bfloat16, spaces, 128)
        cache, memory = trainer.shared.cache, agent.actor_critic.initial_state(1)
        frames = trainer.replay.frames(np.arange(CHUNK))
        before = torch.empty(1, dtype=torch.int64, device=DEVICE)  # no action of an open game yet
        with Counted() as counted:
            trainer._collector.choose(frames[:1], before, memory)
        found["collect"] = counted, config.collect.steps
        with Counted() as counted:
            cache.encode(frames)
        found["encode"] = counted, frames_encoded(config, config.epochs) / CHUNK
        cache.refresh()
        updated = [part for part in PARTS if isinstance(trainer.phases[part], GradientPhase)]
        drawn = {part: trainer.phases[part].draw()[1] for part in reversed(updated)}
        for part in updated:
            with Counted() as counted:
                trainer.phases[part].captured(drawn[part])
            found[part] = counted, getattr(config.training, part).updates
    print(
        "| an update of | products, TFLOP | memory, GB | kernels | ms, computed | ms, measured | updates | s an epoch |"
    )
    print("|---|---|---|---|---|---|---|---|")
    timed = measured(name)
    for title, (one, times) in found.items():
        figures = f"{one.flops / 1e12:.3g} | {one.bytes / 1e9:.3g} | {one.kernels:,} | {1e3 * one.seconds:.3g}"
        figures += f" | {timed.get(title, NONE)} | {times:,.0f} | {times * one.seconds:.2g} |"
        print(f"| {NAMES.get(title, title)} | {figures}", flush=True)
    epoch = sum(one.seconds * times for one, times in found.values())
    print(f"| an epoch | | | | | {timed.get('an epoch', NONE)} | | {epoch:.2g} |")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "rem")
