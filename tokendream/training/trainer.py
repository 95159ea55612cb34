"""The training cycle of the paper (`config.schedule`), and everything that it changes.

Collecting is a phase like any other (an update is one env step), so the trainer can stop between any two updates,
be saved, and go on as if nothing had happened. Files, evaluation and display are not known here.
Source: REM (arXiv 2402.05643), section 3 and appendix on the training setup.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tokendream.agent.agent import Agent
from tokendream.agent.collect import Collector, Difference
from tokendream.agent.token_cache import TokenCache
from tokendream.config.config import Config
from tokendream.config.parts import PhaseConfig
from tokendream.config.schedule import PARTS, Phase, schedule
from tokendream.data.batch import Segments, Steps
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute, Pace, is_out_of_memory
from tokendream.dream.objective import dream_loss
from tokendream.envs.vector import EnvError, Envs
from tokendream.errors import OutOfMemory, one_line
from tokendream.kernels.cuda_graph import Captured, Output
from tokendream.kernels.install import install
from tokendream.nn.losses import Losses
from tokendream.runfolder.files import CheckpointError
from tokendream.runfolder.metrics import Means, Record
from tokendream.runfolder.snapshot import (
    Snapshot,
    capture_random,
    optimiser_tensors,
    restore_optimiser,
    restore_random,
)
from tokendream.training.guard import Guard
from tokendream.training.update import Update, adamw


class Trainer:
    """Everything that changes while training, and the loop that changes it."""

    def __init__(self, config: Config, agent: Agent, envs: Envs, replay: ReplayBuffer, compute: Compute) -> None:
        self.config, self.agent, self.replay, self.compute = config, agent, replay, compute
        self.epoch, self.seconds = 1, 0.0
        self._phase, self._update = 0, 0
        self._guard = Guard(replay, waits=compute.device.type == "cpu")
        self._pace = Pace(compute.device)
        self._rng = np.random.default_rng(config.seed)
        self._acting = torch.Generator(compute.device).manual_seed(config.seed)
        self._dreaming = torch.Generator(compute.device).manual_seed(config.seed + 1)
        self._cache = TokenCache(agent, replay, compute)
        self._means = Means()
        self._timings: dict[str, list[float]] = {}
        agent.to(compute.device).eval()  # before the optimisers: where the parameters are decides how they step
        install(agent, compute)
        self._captured: dict[str, Captured] = {}
        self._collector = Collector(
            envs, replay, agent, compute, config.collect, seed=config.seed, generator=self._acting,
            capture=lambda act: self._capture(act, "collect", self._acting),
        )  # fmt: skip
        self._modules: dict[str, nn.Module] = {name: getattr(agent, name) for name in PARTS}
        self._optimisers = {
            name: adamw(module, getattr(config.training, name)) for name, module in self._modules.items()
        }
        M, C = config.world_model, config.dream
        segments = functools.partial(
            self._segments, M.segment_length, "start", after=M.context if M.scored_starts else 0
        )
        pasts = functools.partial(self._segments, C.burn_in + 1, "end", before=M.context if C.context_starts else 0)
        self.phases = list(schedule(config))
        self._do = {
            "collect": self._collect,
            "tokenizer": self._updating("tokenizer", self._frames, self._tokenizer_loss),
            "world_model": self._updating("world_model", segments, self._world_model_loss),
            "actor_critic": self._updating("actor_critic", pasts, self._actor_critic_loss),
        }

    @property
    def finished(self) -> bool:
        """Whether every epoch is done."""
        return self.epoch > self.config.epochs

    def run_epoch(
        self,
        stop: Callable[[], bool] = lambda: False,
        progress: Callable[[Phase, int], None] = lambda phase, done: None,
    ) -> bool:
        """Do what is left of the current epoch. Returns False if `stop()` asked to break off between two updates."""
        while self._phase < len(self.phases):
            phase = self.phases[self._phase]
            while phase.due(self.epoch) and self._update < phase.updates:
                if stop():
                    self._check_device()
                    return False
                began = time.perf_counter()
                try:
                    self._means.add(phase.name, self.update(phase.name))
                    self._pace.keep()
                except Exception as error:
                    if is_out_of_memory(error):
                        raise OutOfMemory(
                            f"{self._where(self._update)}: out of memory: lower {self._lower(phase)}"
                        ) from error
                    raise
                self._update += 1
                self._time(phase.name, time.perf_counter() - began)
                progress(phase, self._update)
            self._check_device()
            self._phase, self._update = self._phase + 1, 0
            self._guard.drawn.clear()
        return True

    def update(self, name: str) -> Mapping[str, Tensor]:
        """One update of a phase, by its name; returns figures for the log, on the device."""
        return self._do[name]()

    def close_epoch(self) -> Record:
        """Step to the next epoch. Returns the figures of the one that ended."""
        assert self._phase == len(self.phases), "an epoch can be closed when all its phases are done"
        record: Record = {"epoch": self.epoch, "env_steps": self.replay.total, "seconds": self.seconds}
        record |= self._means.flush()
        for name, (count, seconds) in self._timings.items():
            record[f"{name}/updates_per_s"] = count / max(seconds, 1e-9)
            record[f"{name}/seconds"] = seconds
        self.epoch, self._phase = self.epoch + 1, 0
        self._timings = {}
        return record

    def snapshot(self) -> Snapshot:
        """All that a resumed run needs, except the replay buffer, which is saved by rows."""
        random_tensors, random_state = capture_random(self._generators)
        return Snapshot(
            {
                "agent": self.agent.state_dict(),
                **{f"optimiser.{name}": optimiser_tensors(o) for name, o in self._optimisers.items()},
                "collector": self._collector.tensors(),
                "random": random_tensors,
            },
            {
                "epoch": self.epoch,
                "phase": self._phase,
                "update": self._update,
                "seconds": self.seconds,
                "timings": self._timings,
                "means": self._means.state(),
                "collector": self._collector.state(),
                "random": random_state,
            },
        )

    def restore(self, snapshot: Snapshot) -> Difference | None:
        """Go on from a snapshot; the replay buffer must hold its rows already.

        Returns where the environment did not give the open game again, if that matters to what is still to come.
        Raises CheckpointError for a snapshot of another config, or one that nobody took.
        """
        try:
            return self._restore(snapshot.tensors, snapshot.state)
        except (CheckpointError, EnvError):
            raise
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError, AttributeError, IndexError) as error:
            raise CheckpointError(f"the checkpoint does not fit the config or is damaged: {one_line(error)}") from error

    def _restore(self, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Difference | None:
        epoch, phase, update = (int(state[name]) for name in ("epoch", "phase", "update"))
        updates = self.phases[phase].updates if 0 <= phase < len(self.phases) else 0
        if not (1 <= epoch <= self.config.epochs + 1 and 0 <= phase <= len(self.phases) and 0 <= update <= updates):
            raise CheckpointError(f"the checkpoint is of no moment of this run: epoch {epoch}, phase {phase}, {update}")
        memory = self.agent.actor_critic.initial_state(1)
        if any(t.shape != getattr(memory, name).shape for name, t in tensors["collector"].items()):
            raise CheckpointError("the checkpoint's memory of the open game is of another width than the config's")
        self.agent.load_state_dict(tensors["agent"])
        for name, optimiser in self._optimisers.items():
            restore_optimiser(optimiser, tensors[f"optimiser.{name}"])
        different = self._collector.restore(state["collector"], tensors["collector"])
        restore_random(self._generators, tensors["random"], state["random"])
        self._means.restore(state["means"])
        self._timings = {name: list(pair) for name, pair in state["timings"].items()}
        self.epoch, self._phase, self._update = epoch, phase, update
        self.seconds = float(state["seconds"])
        self._cache.forget()
        for captured in self._captured.values():
            captured.forget()
        collecting = self.epoch <= min(self.config.epochs, self.config.collect.last_epoch)
        return different if collecting else None  # else the game would not have gone on

    @property
    def captured(self) -> dict[str, str]:
        """Whether a phase is replayed from a captured graph, or why not, by its name."""
        return {name: captured.status for name, captured in self._captured.items()}

    @property
    def _generators(self) -> dict[str, Any]:
        return {"replay": self._rng, "acting": self._acting, "dreaming": self._dreaming}

    def _time(self, name: str, seconds: float, updates: int = 1) -> None:
        count, total = self._timings.get(name, (0, 0.0))
        seconds = max(0.0, seconds)  # some virtual machines' clocks step back when they are moved
        self._timings[name] = [count + updates, total + seconds]
        self.seconds += seconds

    def _where(self, update: int) -> str:
        return f"epoch {self.epoch}, {self.phases[self._phase].name}, update {update + 1}"

    def _lower(self, phase: Phase) -> str:
        """The field to lower where a phase needs too much memory, and what it is."""
        if phase.name in PARTS:
            return f"training.{phase.name}.batch ({getattr(self.config.training, phase.name).batch})"
        return f"collect.capacity ({self.config.collect.capacity})"

    def _check_device(self) -> None:
        """Raise NonFiniteError if an update was not finite. Waits for the device, on the phase's account."""
        if not self._guard.noted:
            return
        began = time.perf_counter()
        try:
            self._guard.settle(self._where)
        finally:
            self._time(self.phases[self._phase].name, time.perf_counter() - began, updates=0)

    def _draw(
        self, batch: int, length: int, align: Literal["start", "end"], *, before: int = 0, after: int = 0
    ) -> Segments:
        segments = self.replay.draw(batch, length, align=align, rng=self._rng, before=before, after=after)
        self._guard.drawn[self._update] = segments
        return segments

    def _updating(
        self, name: str, draw: Callable[[int], tuple[Tensor, ...]], loss: Callable
    ) -> Callable[[], Mapping[str, Tensor]]:
        """An update by `loss` of what `draw` drew on the host: only the former is captured."""
        settings: PhaseConfig = getattr(self.config.training, name)
        step = Update(loss, self._modules[name], self._optimisers[name], settings.clip, self.compute)
        captured = self._capture(step, name, self._dreaming)

        def update() -> Mapping[str, Tensor]:
            losses, norm = captured(*draw(settings.batch))
            self._guard.watch(self._update, losses, norm, self._where(self._update))
            return {**losses.figures(), "gradient_norm": norm}

        return update

    def _capture(self, run: Callable[..., Output], phase: str, generator: torch.Generator) -> Captured[Output]:
        """What a phase repeats, as a GPU may replay it."""
        captured = self._captured[phase] = Captured(run, self.compute, [generator], f"phase {phase}")
        return captured

    def _collect(self) -> Mapping[str, Tensor]:
        if self.config.collect.forget_every_epoch and self._update == 0:
            self._collector.rewarm(self.config.dream)
        score = self._collector.step()
        return {} if score is None else {"return": torch.tensor(score)}

    def _frames(self, batch: int) -> tuple[Tensor]:
        """Random frames of the replay, for V, which is about to change."""
        segments = self._draw(batch, 1, "start")
        self._cache.forget()
        return (self.replay.frames(segments.row[:, 0]),)

    def _segments(
        self, length: int, align: Literal["start", "end"], batch: int, *, before: int = 0, after: int = 0
    ) -> tuple[Tensor, ...]:
        """Random segments of the replay: their tokens, `B T K`, and the fields of their `Steps`."""
        segments = self._draw(batch, length, align, before=before, after=after)
        if not self.config.training.cache_tokens:
            self._cache.forget()
        return self._cache.tokens(segments.row, segments.mask), *vars(self.replay.steps(segments)).values()

    def _tokenizer_loss(self, frame: Tensor) -> Losses:
        return self.agent.tokenizer.loss(frame)

    def _world_model_loss(self, tokens: Tensor, *steps: Tensor) -> Losses:
        # The codebook is shared, but M sends no gradient into V.
        return self.agent.world_model.loss(self.agent.tokenizer.codes(tokens).detach(), tokens, Steps(*steps))

    def _actor_critic_loss(self, tokens: Tensor, *steps: Tensor) -> Losses:
        return dream_loss(self.agent, tokens, Steps(*steps), self.config.dream, self._dreaming)
