"""How much memory a run takes, computed from its config: for whoever starts several on one device."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tokendream.agent.agent import Agent
from tokendream.config.config import Config
from tokendream.data.batch import Steps
from tokendream.nn.losses import Losses
from tokendream.spaces.observations import Spaces
from tokendream.tokenizers.protocol import Learned

PROCESS = 2**29
"""Bytes of Python, PyTorch and the rest of a process, or of a GPU's context: a run of preset `tiny` has .39 GiB on a
CPU, all told."""

BACKWARD = 2
"""So many times what a forward pass keeps for its gradient is taken at most: on a CPU 1.7 for M and 1.8 for V of
preset `rem`. Its run is computed as 13.1 GiB, where 9.4 were measured beside a small replay and a whole one has 1.1;
1.3 were computed and measured for an earlier `cpu` (docs/results.md, docs/speed.md)."""

TRAINED = 20
"""Bytes a parameter: the weight, its gradient, two moments, and a copy in bf16 or for the gradient's norm."""


def needed(config: Config, spaces: Spaces, *, bf16: bool) -> int:
    """Bytes that a run takes on the device where it trains: replay, weights and the larger update of V and M.

    C's update is not computed.

    By shapes alone: tensors without content go through V's and M's losses at their full batches. What a GPU's libraries
    work in was not measured.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        agent = Agent.from_config(config, spaces)
        row = math.prod(spaces.observation.frame_shape) + 4 * agent.block.K + 25
        parameters = sum(p.numel() for p in agent.parameters() if p.requires_grad)
        kept = max(_kept(agent, config, spaces, part, bf16=bf16) for part in ("tokenizer", "world_model"))
    return PROCESS + row * config.kept_steps + TRAINED * parameters + BACKWARD * kept


def _kept(agent: Agent, config: Config, spaces: Spaces, part: str, *, bf16: bool) -> int:
    """Bytes that the forward pass of an update keeps for its gradient."""
    phase, held = getattr(config.training, part), dict[int, Tensor]()

    def keep(x: Tensor) -> Tensor:
        held[x.untyped_storage()._cdata] = x
        return x

    if phase.updates == 0 or (part == "tokenizer" and not isinstance(agent.tokenizer, Learned)):
        return 0
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16),
    ):
        losses = _loss(agent.train(), config, spaces, part, phase.batch)
        assert losses.terms
    return sum(x.untyped_storage().nbytes() for x in held.values())


def _loss(agent: Agent, config: Config, spaces: Spaces, part: str, B: int) -> Losses:
    """Of a batch whose content does not matter."""
    if part == "tokenizer":
        assert isinstance(agent.tokenizer, Learned)
        return agent.tokenizer.loss(torch.zeros(B, *spaces.observation.frame_shape, dtype=torch.uint8))
    T, K = config.world_model.segment_length, agent.block.K
    tokens = torch.zeros(B, T, K, dtype=torch.int64)
    no = torch.zeros(B, T, dtype=torch.bool)
    steps = Steps(torch.zeros(B, T, dtype=torch.int64), torch.zeros(B, T), no, ~no)
    changed = torch.zeros(B, T - 1, K, dtype=torch.bool) if config.world_model.events else None
    return agent.world_model.loss(agent.tokenizer.codes(tokens), tokens, steps, changed)
