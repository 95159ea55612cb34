"""The pieces of work, made from a config: each phase of training as the trainer does it, and parts of it alone.

Frames are synthetic and the environment answers at once, so what is timed is the agent. Weights are fresh: no piece
of work costs more or less for having learnt.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int, UInt8

from tokendream.agent.agent import Agent
from tokendream.bench.measure import Label, Work
from tokendream.config.config import Config
from tokendream.config.presets import vary
from tokendream.config.schedule import PARTS
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute
from tokendream.dream import imagine
from tokendream.envs.vector import Transition
from tokendream.errors import ConfigError
from tokendream.kernels.cuda_graph import Captured
from tokendream.training.trainer import Trainer

ACTIONS = 18
"""Actions of the agent: the most that an Atari game has."""

EPISODE = 160
"""Rows of a synthetic episode."""

HALVINGS = (1, 0, -1)
"""Of the grid's side, beside the preset's own: a quarter of its tokens a frame, its own, four times as many."""


def synthetic_frames(n: int, size: int, seed: int = 0) -> UInt8[np.ndarray, "n 3 S S"]:
    """Smooth random pictures: noise on a grid of 8-pixel cells, interpolated."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, max(2, size // 8), max(2, size // 8), generator=generator)
    smooth = F.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False)
    return (smooth * 255).byte().numpy()


def synthetic_replay(rows: int, size: int, device: torch.device) -> ReplayBuffer:
    """Episodes of EPISODE rows with some rewards; every other one ends, the rest are truncated."""
    rng = np.random.default_rng(0)
    replay = ReplayBuffer(rows, (3, size, size), device)
    for i, frame in enumerate(synthetic_frames(rows, size)):
        last = (i + 1) % EPISODE == 0
        end = last and (i // EPISODE) % 2 == 0
        reward = float(rng.choice([-1.0, 0.0, 1.0], p=[0.05, 0.85, 0.1]))
        replay.add(frame, int(rng.integers(ACTIONS)), reward, end, last)
    return replay


class StillEnvs:
    """An environment that costs nothing: it shows its synthetic frames in turn, without rewards."""

    n = 1
    n_actions = ACTIONS
    action_names = tuple(f"action {i}" for i in range(ACTIONS))

    def __init__(self, size: int) -> None:
        self._frames, self._shown = synthetic_frames(16, size, seed=1), 0

    def reset(self, seeds: Sequence[int | None]) -> UInt8[np.ndarray, "n 3 S S"]:
        """The first frame."""
        self._shown = 0
        return self._frames[:1]

    def step(self, actions: Int[np.ndarray, " n"]) -> Transition:
        """The next frame; a game is over after EPISODE steps."""
        self._shown += 1
        i, over = self._shown % len(self._frames), self._shown % EPISODE == 0
        zero, no = np.zeros(1, np.float32), np.zeros(1, np.bool_)
        return Transition(self._frames[i : i + 1], zero, no, np.array([over]))

    def close(self) -> None:
        """Nothing to free."""


def grids(config: Config, halvings: Sequence[int] = HALVINGS) -> list[Config]:
    """The config at other numbers of tokens a frame, with a cheap tokenizer, which costs C and M nothing else.

    Raises ConfigError for a config that has no such grids.
    """
    own = config.tokenizer.downsamples
    if own < 2 or config.env.size % (2 << own):
        raise ConfigError(f"preset {config.preset} has no grids of half and of twice its side: try rem")
    cheap = vary(config, "tokenizer", network="patch", perceptual="none")
    return [vary(cheap, "tokenizer", downsamples=own + more) for more in halvings]


def frames_encoded(config: Config) -> float:
    """Frames that M's and C's segments encode in an epoch with a full replay: each row once, as V no longer changes.

    Of N rows, n uniform draws meet N (1 - e^(-n/N)).
    """
    M, C = config.training.world_model, config.training.actor_critic
    rows = min(config.collect.capacity, config.collect.steps * min(config.epochs, config.collect.last_epoch))
    draws = M.updates * M.batch * config.world_model.segment_length + C.updates * C.batch * (config.dream.burn_in + 1)
    return rows * -math.expm1(-draws / rows)


class Workload:
    """An agent of the config's sizes, a replay buffer, and pieces of work on them at any batch and precision."""

    def __init__(self, config: Config, device: torch.device, replay: ReplayBuffer, *, capture: bool = True) -> None:
        self.config, self.device, self._replay, self._capture = config, device, replay, capture
        torch.manual_seed(0)
        self._agent = Agent.from_config(config, ACTIONS).to(device).eval()

    def phase(self, name: str, batch: int, dtype: torch.dtype) -> Work:
        """`update()` of one of the trainer's phases, at another batch than the config's if need be.

        World model and controller find all tokens encoded, as they do for most of an epoch; `encode` times that.
        """
        config = self.config
        if name in PARTS:
            settings = dataclasses.replace(getattr(config.training, name), batch=batch)
            config = dataclasses.replace(config, training=dataclasses.replace(config.training, **{name: settings}))
            replay = self._replay
        else:  # collecting writes into the replay buffer: it gets its own
            replay = ReplayBuffer(EPISODE, (3, config.env.size, config.env.size), self.device)
        trainer = Trainer(config, self._agent, StillEnvs(config.env.size), replay, self._compute(dtype))
        if name in ("world_model", "actor_critic"):
            trainer._cache.refresh()
        return Work(self._label(name, batch, dtype), functools.partial(trainer.update, name))

    def dream(self, batch: int, dtype: torch.dtype, horizon: int, history: int = 1) -> Work:
        """Imagination alone, from `history` blocks in the world model's memory on: no burn-in, no gradient."""
        compute, generator = self._compute(dtype), torch.Generator(self.device).manual_seed(0)
        start = self._start(batch, compute, history)

        @torch.no_grad()
        def run() -> object:
            with compute.autocast():
                return imagine.imagine(start, self._agent, horizon, generator)

        dream = Captured(run, compute, [generator], "the dream")

        # Token by token, the last token of a frame is sampled and not taken through the layers.
        ahead = self.config.tokens_per_frame - (self.config.world_model.decoding == "token")
        tokens = batch * horizon * (self.config.block_length + ahead)
        return Work(Label("dream", dtype, batch, f"{batch} dreams x {horizon}", 0, batch * horizon, tokens), dream)

    def absorb(self, batch: int, dtype: torch.dtype, history: int = 1) -> Work:
        """A block into the world model's memory and nothing predicted: what a step token by token begins with."""
        compute = self._compute(dtype)
        dream = self._start(batch, compute, history)

        @torch.no_grad()
        def run() -> object:
            with compute.autocast():
                return self._absorbed(dream)

        tokens = batch * self.config.block_length
        return Work(Label("absorb", dtype, batch, f"{batch} blocks", 0, batch, tokens), run)

    @torch.no_grad()
    def _start(self, batch: int, compute: Compute, history: int) -> imagine.Dream:
        """Dreams at their start, with that many blocks in the world model's memory."""
        settings = self.config.dream
        segments = self._replay.draw(batch, settings.burn_in + 1, align="end", rng=np.random.default_rng(0))
        with compute.autocast():
            seen = self._agent.tokenizer.encode(self._replay.frames(segments.row))
            dream = imagine.start(self._agent, seen, self._replay.steps(segments), settings)
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
        compute, rng = self._compute(dtype), np.random.default_rng(0)
        row = rng.integers(0, len(self._replay), size=batch)

        def run() -> object:
            with compute.autocast():
                return self._agent.tokenizer.encode(self._replay.frames(row))

        label = Label("encode", dtype, batch, f"{batch} frames", batch, 0, batch * self.config.tokens_per_frame)
        return Work(label, run)

    def policy(self, batch: int, dtype: torch.dtype) -> Work:
        """The choice of an action from a frame: encoder and controller."""
        compute, generator = self._compute(dtype), torch.Generator(self.device).manual_seed(0)
        frame = self._replay.frames(np.arange(batch) % len(self._replay))
        memory = self._agent.actor_critic.initial_state(batch)

        def run() -> object:
            with compute.autocast():
                return self._agent.act(frame, memory, generator)

        return Work(Label("policy", dtype, batch, "1 frame" if batch == 1 else f"{batch} frames", batch), run)

    def _compute(self, dtype: torch.dtype) -> Compute:
        return Compute(self.device, dtype, self.config.kernels, self._capture, self.config.compile)

    def _label(self, name: str, batch: int, dtype: torch.dtype) -> Label:
        config, K, K1 = self.config, self.config.tokens_per_frame, self.config.block_length
        if name == "tokenizer":
            return Label(name, dtype, batch, f"{batch} frames", batch, 0, batch * K)
        if name == "world_model":
            T = config.world_model.segment_length
            tokens = batch * (T * K1 + (T - config.world_model.context) * K)
            return Label(name, dtype, batch, f"{batch} segments x {T}", batch * T, 0, tokens)
        if name == "actor_critic":
            horizon = config.dream.horizon
            tokens = batch * horizon * (K1 + K)
            return Label(name, dtype, batch, f"{batch} dreams x {horizon}", 0, batch * horizon, tokens)
        return Label(name, dtype, 1, "1 env step", 1)
