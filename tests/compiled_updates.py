"""Losses of some updates with and without torch.compile, as JSON: a program, since the tests' checks of types (see
`conftest`) are not to be compiled. Its argument is the device.
"""

import json
import sys

import torch

from tokendream.agent.agent import Agent
from tokendream.config.config import vary
from tokendream.config.presets import TINY
from tokendream.device import Compute
from tokendream.training.synthetic import ACTIONS, StillEnvs, synthetic_replay
from tokendream.training.trainer import Trainer

CONFIG = vary(TINY, "world_model", dropout=0.0)  # else the random numbers are others
CONFIG = vary(vary(CONFIG, "tokenizer", downsamples=2), "env", size=16)  # as many tokens of smaller frames
UPDATES = 6


def norms(part: str, device: torch.device, *, compiled: bool) -> tuple[list[float], str]:
    """The gradient's norm at each update, and whether the last ones were replayed from a graph."""
    torch.manual_seed(0)
    compute = Compute(device, torch.float32, kernels=False, compile=compiled)
    agent = Agent.from_config(CONFIG, ACTIONS)
    trainer = Trainer(CONFIG, agent, StillEnvs(16), synthetic_replay(64, 16, device), compute)
    return [float(trainer.update(part)["gradient_norm"]) for _ in range(UPDATES)], trainer.captured[part]


if __name__ == "__main__":
    where = torch.device(sys.argv[1])
    for part in ("tokenizer", "world_model"):
        plain, compiled = (norms(part, where, compiled=on) for on in (False, True))
        print(json.dumps({"part": part, "plain": plain[0], "compiled": compiled[0], "status": compiled[1]}))
