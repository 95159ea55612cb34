"""What every phase of training is: an object with its entry of the schedule, and one update at a time.

A phase with gradients is a subclass of `GradientPhase`: what it draws on the host, and the loss of that on the device.
Its settings are the field of its name in `config.training`, from which the schedule, the flags and the plan follow.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from tokendream import ranks
from tokendream.agent.agent import Agent
from tokendream.config.config import Config
from tokendream.config.training import PhaseConfig
from tokendream.data.batch import Segment, Segments
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute
from tokendream.kernels.cuda_graph import Captured
from tokendream.nn.losses import Losses
from tokendream.training.guard import Guard
from tokendream.training.token_cache import TokenCache
from tokendream.training.update import gradient_update, optimiser_for


class Phase(Protocol):
    """One share of an epoch, as the trainer sees it."""

    name: ClassVar[str]
    """As in the schedule, in logs and checkpoints."""
    captured: Captured
    """What it repeats, as a GPU may replay it."""
    memory_field: str
    """The field of the config to lower where it needs too much memory, and what it is."""

    def update(self, number: int) -> Mapping[str, Tensor]:
        """The epoch's update of this number, from 0; returns figures for the log, on the device."""

    def forget(self) -> None:
        """Drop what is captured: the run goes on from a checkpoint."""
        self.captured.forget()

    def tensors(self) -> dict[str, Tensor]:
        """What it remembers beside weights and moments, for a checkpoint; empty for most."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave. Raises ValueError or KeyError for anything else."""
        return


@dataclass(frozen=True)
class Shared:
    """What all phases work on: the agent, its experience, and the run's random numbers."""

    config: Config
    agent: Agent
    replay: ReplayBuffer
    compute: Compute
    cache: TokenCache
    guard: Guard
    rng: np.random.Generator
    """Of the draws from the replay."""
    acting: torch.Generator
    dreaming: torch.Generator

    def mine(self, segments: Segments) -> Segments:
        """This rank's part of a batch."""
        return Segments(ranks.part(segments.row), ranks.part(segments.mask))

    def tokenised(self, segments: Segments) -> Segment:
        """Segments of the replay on the device, their frames as tokens; of a batch, this rank's."""
        segments = self.mine(segments)
        if not self.config.training.cache_tokens:
            self.cache.forget()
        return Segment(self.cache.tokens(segments.row, segments.mask), self.replay.steps(segments))


class GradientPhase(Phase):
    """Updates of one part of the agent: a batch is drawn, its loss minimised, the update guarded."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.settings: PhaseConfig = getattr(shared.config.training, self.name)
        self.memory_field = f"training.{self.name}.batch ({self.settings.batch})"
        self.optimiser = optimiser_for(self.module, self.settings)
        step = functools.partial(
            gradient_update, loss=self.loss, module=self.module, optimiser=self.optimiser, clip=self.settings.clip,
            compute=shared.compute,
        )  # fmt: skip
        self.captured = Captured(step, shared.compute, [shared.dreaming], f"phase {self.name}")

    @property
    def module(self) -> nn.Module:
        """The part of the agent that is trained."""
        return getattr(self.shared.agent, self.name)

    @property
    def newest_rows(self) -> tuple[int, int]:
        """How many segments of a batch are drawn from how many of the newest rows alone."""
        return round(self.settings.newest * self.settings.batch), self.shared.config.collect.steps

    def draw(self) -> tuple[Segments, Any]:
        """Segments of the replay, and what the loss takes of them: tensors in any nesting of named tuples.

        Of several ranks each draws the same segments and takes its part of them.
        """
        raise NotImplementedError

    def loss(self, batch: Any) -> Losses:
        """The loss of what was drawn. A GPU captures it: nothing in it may wait for the device."""
        raise NotImplementedError

    def note(self, segments: Segments, losses: Losses) -> None:
        """Remember of an update what later ones draw by. Outside of what is captured: it may wait for the device."""

    def update(self, number: int) -> Mapping[str, Tensor]:
        return self.step(number, *self.draw())

    def step(self, number: int, segments: Segments, batch: Any) -> Mapping[str, Tensor]:
        """One gradient update from what was drawn, or from what was made of it."""
        losses, norm = self.captured(batch)
        self.shared.guard.watch(number, segments, losses, norm)
        self.note(segments, losses)
        return {**losses.figures(), "gradient_norm": norm}
