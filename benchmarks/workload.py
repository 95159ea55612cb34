"""The pieces of work, made from a config: each phase of training as the trainer does it, and parts of it alone.

Frames are synthetic and the environment answers at once, so what is timed is the agent. Weights are fresh: no piece
of work costs more or less for having learnt.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch

from benchmarks.measure import Label, Work
from tokendream.agent.agent import Agent
from tokendream.config.config import Config, vary
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute
from tokendream.dream import imagine
from tokendream.errors import ConfigError
from tokendream.kernels.install import install, uninstalled
from tokendream.spaces.observations import Spaces, image_spaces
from tokendream.training import workload
from tokendream.training.synthetic import ACTIONS, shown

DOWNSAMPLES = (1, 0, -1)
"""Of the grid's side, beside the preset's own: a quarter of its tokens a frame, its own, four times as many."""


def require_image(config: Config) -> None:
    """Raise ConfigError for a config whose environment shows anything but one image."""
    if not shown(config).observation.is_image:
        name, env = config.preset, config.env.id
        raise ConfigError(f"preset {name} plays without an image: try claims --preset {name} --env {env}")


def grids(config: Config, downsamples: Sequence[int] = DOWNSAMPLES) -> list[Config]:
    """The config at other numbers of tokens a frame, with a cheap tokenizer, which costs C and M nothing else.

    Raises ConfigError for a config that has no such grids.
    """
    own = config.tokenizer.downsamples
    if own < 2 or config.env.size % (2 << own):
        raise ConfigError(f"preset {config.preset} has no grids of half and of twice its side: try rem")
    cheap = vary(config, "tokenizer", network="patch", perceptual="none")
    return [vary(cheap, "tokenizer", downsamples=own + more) for more in downsamples]


class Workload:
    """An agent of the config's sizes, a replay buffer, and pieces of work on them at any batch and precision."""

    def __init__(self, config: Config, compute: Compute, replay: ReplayBuffer, spaces: Spaces | None = None) -> None:
        """`spaces`: of what the replay buffer holds; by default one image and ACTIONS actions."""
        self.config, self.device, self._replay, self._base = config, compute.device, replay, compute
        torch.manual_seed(0)
        self._spaces = spaces or image_spaces(config.env.size, ACTIONS)
        self._agent = Agent.from_config(config, self._spaces).to(self.device).eval()
        self.block = self._agent.world_model.block
        install(self._agent, compute)

    def phase(self, name: str, batch: int, dtype: torch.dtype) -> Work:
        """`update()` of one of the trainer's phases, at another batch than the config's if need be.

        World model and controller find all tokens encoded, as they do for most of an epoch; `encode` times that.
        """
        compute = self._compute(dtype)
        update = workload.phase(name, batch, self.config, self._agent, self._replay, compute, self._spaces)
        return self._work(self._label(name, batch, dtype), update)

    def dream(self, batch: int, dtype: torch.dtype, horizon: int, history: int = 1) -> Work:
        """Imagination alone, from `history` blocks in the world model's memory on: no burn-in, no gradient."""
        compute = self._compute(dtype)
        run = workload.dream(self._start(batch, compute, history), horizon, self._agent, compute)
        # Token by token, the last token of a frame is sampled and not taken through the layers.
        ahead = self.block.K - (self.config.world_model.decoding == "token")
        tokens = batch * horizon * (self.block.K1 + ahead)
        label = Label("dream", dtype, batch, f"{batch} dreams x {horizon}", 0, batch * horizon, tokens)
        return self._work(label, run)

    def absorb(self, batch: int, dtype: torch.dtype, history: int = 1) -> Work:
        """A block into the world model's memory and nothing predicted: what a step token by token begins with."""
        compute = self._compute(dtype)
        dream = self._start(batch, compute, history)

        @torch.no_grad()
        def run() -> object:
            with compute.autocast():
                return self._absorbed(dream)

        tokens = batch * self.block.K1
        return self._work(Label("absorb", dtype, batch, f"{batch} blocks", 0, batch, tokens), run)

    @torch.no_grad()
    def _start(self, batch: int, compute: Compute, history: int) -> imagine.Dream:
        """Dreams at their start, with that many blocks in the world model's memory."""
        dream = workload.dream_start(batch, self.config, self._agent, self._replay, compute)
        with compute.autocast():
            for _ in range(history - 1):
                dream = self._absorbed(dream)
        return dream

    def _absorbed(self, dream: imagine.Dream) -> imagine.Dream:
        """The dream with its frame and an action in the world model's memory."""
        frame = dream.tokens[:, None]
        action = torch.zeros(frame.shape[:2], dtype=torch.int64, device=self.device)
        _, world = self._agent.world_model(self._agent.tokenizer.codes(frame), frame, action, dream.world, slice(0, 0))
        return dataclasses.replace(dream, world=world)

    def encode(self, batch: int, dtype: torch.dtype) -> Work:
        """Frames of the replay buffer to tokens."""
        label = Label("encode", dtype, batch, f"{batch} frames", batch, 0, batch * self.block.K)
        return self._work(label, workload.encode(batch, self._agent, self._replay, self._compute(dtype)))

    def policy(self, batch: int, dtype: torch.dtype) -> Work:
        """The choice of an action from a frame: encoder and controller."""
        compute, generator = self._compute(dtype), torch.Generator(self.device).manual_seed(0)
        frame = self._replay.frames(np.arange(batch) % len(self._replay))
        memory = self._agent.actor_critic.initial_state(batch)

        def run() -> object:
            with compute.autocast():
                return self._agent.act(frame, memory, generator, temperature=1.0)

        return self._work(Label("policy", dtype, batch, "1 frame" if batch == 1 else f"{batch} frames", batch), run)

    def _work(self, label: Label, run: Callable[[], object]) -> Work:
        return Work(label, run, functools.partial(uninstalled, self._agent))

    def _compute(self, dtype: torch.dtype) -> Compute:
        return dataclasses.replace(self._base, dtype=dtype)

    def _label(self, name: str, batch: int, dtype: torch.dtype) -> Label:
        config, K, K1 = self.config, self.block.K, self.block.K1
        if name == "tokenizer":
            return Label(name, dtype, batch, f"{batch} frames", batch, 0, batch * K)
        if name == "world_model":
            T = config.world_model.segment_length
            tokens = batch * (T * K1 + (T - config.world_model.context) * K)
            return Label(name, dtype, batch, f"{batch} segments x {T}", batch * T, 0, tokens)
        if name == "actor_critic":
            dreams, horizon = batch * config.dream.group, config.dream.horizon
            tokens = dreams * horizon * (K1 + K)
            return Label(name, dtype, batch, f"{dreams} dreams x {horizon}", 0, dreams * horizon, tokens)
        return Label(name, dtype, 1, "1 env step", 1)
