"""The training cycle of the paper (`config.schedule`): a loop over phases, and everything that it changes.

Collecting is a phase like any other (an update is a step in every environment), so the trainer can stop between any two
updates, be saved, and go on as if nothing had happened. What a phase does is in `phases`. Nothing here touches the
disk, evaluates or displays. Source: REM (arXiv 2402.05643), section 3 and appendix on the training setup.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokendream import ranks
from tokendream.agent.actor_critic import PolicyState
from tokendream.agent.agent import Agent
from tokendream.agent.collect import Difference, ExperienceError
from tokendream.config import schedule
from tokendream.config.config import Config
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute, Pace, is_out_of_memory
from tokendream.envs.vector import EnvError, Envs
from tokendream.errors import OutOfMemory, one_line
from tokendream.kernels.install import install
from tokendream.nn.seen import Seen
from tokendream.runfolder.files import CheckpointError
from tokendream.runfolder.metrics import Means, Record
from tokendream.runfolder.snapshot import Snapshot, capture_random, optimiser_tensors, restore_optimiser, restore_random
from tokendream.tokenizers.protocol import Learned
from tokendream.training import broadcast
from tokendream.training.guard import Guard
from tokendream.training.phase import GradientPhase, Phase, Shared
from tokendream.training.phases import ActorCriticPhase, Collect, TokenizerPhase, UntrainedTokenizer, WorldModelPhase
from tokendream.training.token_cache import TokenCache

GRADIENT_PHASES: tuple[type[GradientPhase], ...] = (TokenizerPhase, WorldModelPhase, ActorCriticPhase)
"""The phases that train; `config.schedule` says in which order, and how many updates each has."""

WRONG = (KeyError, TypeError, ValueError, RuntimeError, OverflowError, AttributeError, IndexError)
"""What reading a checkpoint may raise that is damaged or not of this config."""


@contextlib.contextmanager
def _damage(*kinds: type[Exception]) -> Iterator[None]:
    """Have a CheckpointError in place of these."""
    try:
        yield
    except (CheckpointError, EnvError):
        raise
    except kinds as error:
        if is_out_of_memory(error):
            raise
        raise CheckpointError(f"the checkpoint does not fit the config or is damaged: {one_line(error)}") from error


class Trainer:
    """Everything that changes while training, and the loop that changes it."""

    def __init__(self, config: Config, agent: Agent, envs: Envs, replay: ReplayBuffer, compute: Compute) -> None:
        self.config, self.agent, self.replay, self.compute = config, agent, replay, compute
        self.epoch, self.seconds = 1, 0.0
        self._phase, self._update, self._told = 0, 0, 0
        self._began, self._before = time.process_time(), 0.0  # of this session, and of those before it
        self._pace = Pace(compute.device)
        self._means = Means()
        self._timings: dict[str, list[float]] = {}
        agent.to(compute.device).eval()  # before the optimisers: where the parameters are decides how they step
        install(agent, compute)
        self._guard = Guard(replay, self._where, waits=compute.device.type == "cpu")
        self.shared = Shared(
            config, agent, replay, compute, TokenCache(agent, replay, compute), self._guard,
            rng=np.random.default_rng(config.seed),
            acting=torch.Generator(compute.device).manual_seed(config.seed),
            dreaming=torch.Generator(compute.device).manual_seed(config.seed + 1),
        )  # fmt: skip
        self.schedule = list(schedule.schedule(config))
        collect = Collect(self.shared, envs)
        self._collector = collect.collector
        trained = isinstance(agent.tokenizer, Learned)
        untrained: list[Phase] = [] if trained else [UntrainedTokenizer(self.shared)]
        gradients = [kind(self.shared) for kind in GRADIENT_PHASES if trained or kind is not TokenizerPhase]
        self._optimisers = {phase.name: phase.optimiser for phase in gradients}
        phases: list[Phase] = [collect, *untrained, *gradients]
        self.phases = {phase.name: phase for phase in phases}

    @property
    def finished(self) -> bool:
        """Whether every epoch is done."""
        return self.epoch > self.config.epochs

    @property
    def process_seconds(self) -> float | None:
        """Of all cores together, in all sessions; None where a checkpoint does not say, as older ones did not."""
        seconds = self._before + time.process_time() - self._began
        return seconds if math.isfinite(seconds) else None

    def run_epoch(
        self,
        stop: Callable[[], bool] = lambda: False,
        progress: Callable[[schedule.ScheduledPhase, int], None] = lambda phase, done: None,
        continued: Callable[[], int] = lambda: 0,
    ) -> bool:
        """Do what is left of the current epoch. Returns False if `stop()` asked to break off between two updates.

        An update in which the process was suspended, by the number that it has `continued`, is not timed.
        """
        while self._phase < len(self.schedule):
            phase = self.schedule[self._phase]
            self._told = broadcast.rows(self.replay, self._told)
            if self._update == 0 and isinstance(rewards := self.agent.world_model.rewards, Seen):
                rewards.fit(self.replay.rewards)
            while phase.due(self.epoch) and self._update < phase.updates:
                if stop():
                    self._check_device()
                    return False
                began, suspensions = time.perf_counter(), continued()
                ranks.seed(self.shared.dreaming, self.config.seed, self.epoch, self._phase, self._update)
                try:
                    self._means.add(phase.name, self.update(phase.name))
                    self._pace.keep()
                except Exception as error:
                    if is_out_of_memory(error):
                        field = self.phases[phase.name].memory_field
                        raise OutOfMemory(f"{self._where(self._update)}: out of memory: lower {field}") from error
                    raise
                self._update += 1
                if continued() == suspensions:
                    self._time(phase.name, time.perf_counter() - began)
                progress(phase, self._update)
            self._check_device()
            self._phase, self._update = self._phase + 1, 0
        return True

    def update(self, name: str) -> Mapping[str, Tensor]:
        """One update of a phase, by its name; returns figures for the log, on the device."""
        return self.phases[name].update(self._update)

    def tell(self) -> None:
        """Of several ranks, bring all to where rank 0 is."""
        if ranks.count() > 1:
            self._told = broadcast.rows(self.replay, self._told)
            known = broadcast.snapshot(self.snapshot())
            if ranks.number() > 0:
                self.restore(known)

    def close_epoch(self) -> Record:
        """Step to the next epoch. Returns the figures of the one that ended."""
        assert self._phase == len(self.schedule), "an epoch can be closed when all its phases are done"
        record: Record = {"epoch": self.epoch, "env_steps": self.replay.total, "seconds": self.seconds}
        record |= self._means.flush()
        for name, (count, seconds) in self._timings.items():
            record[f"{name}/updates_per_s"] = count / max(seconds, 1e-9)
            record[f"{name}/seconds"] = seconds
        self.epoch, self._phase = self.epoch + 1, 0
        self._timings = {}
        return record

    def snapshot(self) -> Snapshot:
        """All that a resumed run needs, except the replay buffer, which is saved by rows.

        Raises NonFiniteError if an update was not finite: none of them is saved as done.
        """
        self._check_device()
        random_tensors, random_state = capture_random(self._generators)
        return Snapshot(
            {
                "agent": self.agent.state_dict(),
                **{f"optimiser.{name}": optimiser_tensors(o) for name, o in self._optimisers.items()},
                **{f"phase.{name}": kept for name, phase in self.phases.items() if (kept := phase.tensors())},
                "collector": {} if (memory := self._collector.memory) is None else memory._asdict(),
                "random": random_tensors,
            },
            {
                "epoch": self.epoch,
                "phase": self._phase,
                "update": self._update,
                "seconds": self.seconds,
                "process_seconds": self.process_seconds,
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
        tensors, state = snapshot.tensors, snapshot.state
        with _damage(*WRONG):
            epoch, phase, update = (int(state[name]) for name in ("epoch", "phase", "update"))
            self._check_moment(epoch, phase, update)
            self.agent.load_state_dict(tensors["agent"])
            for name, optimiser in self._optimisers.items():
                # A phase may be younger than the run, which has none of it.
                used = getattr(self.config.training, name).updates
                restore_optimiser(optimiser, tensors[f"optimiser.{name}"] if used else {})
            games, memory = self._collector.read(state["collector"]), self._memory(tensors["collector"])
        with _damage(ExperienceError):
            different = self._collector.restore(games, memory)
        with _damage(*WRONG):
            restore_random(self._generators, tensors["random"], state["random"])
            self._means.restore(state["means"])
            self._timings = {name: list(pair) for name, pair in state["timings"].items()}
            self.epoch, self._phase, self._update = epoch, phase, update
            self.seconds = float(state["seconds"])
            self._before = float(before) if (before := state.get("process_seconds")) is not None else math.nan
            for name, each in self.phases.items():
                each.restore(tensors.get(f"phase.{name}", {}))
        self.shared.cache.forget()
        self.shared.cache.encode.forget()
        for each in self.phases.values():
            each.forget()
        return different if self._collecting else None  # else the game would not have gone on

    def _check_moment(self, epoch: int, phase: int, update: int) -> None:
        """Raise CheckpointError unless a run of this config has such a moment."""
        updates = self.schedule[phase].updates if 0 <= phase < len(self.schedule) else 0
        if not (1 <= epoch <= self.config.epochs + 1 and 0 <= phase <= len(self.schedule) and 0 <= update <= updates):
            raise CheckpointError(f"the checkpoint is of no moment of this run: epoch {epoch}, phase {phase}, {update}")

    def _memory(self, tensors: Mapping[str, Tensor]) -> PolicyState | None:
        """C's memory of the open games, as it was saved. Raises CheckpointError for another shape than the config's."""
        memory = self.agent.actor_critic.initial_state(self.replay.envs)
        if any(t.shape != getattr(memory, name).shape for name, t in tensors.items()):
            raise CheckpointError("the checkpoint's memory of the open games is of another shape than the config's")
        return PolicyState(*(tensors[name].to(self.compute.device) for name in ("h", "c"))) if tensors else None

    @property
    def _collecting(self) -> bool:
        return self.epoch <= min(self.config.epochs, self.config.collect.last_epoch)

    def play_open_game_again(self) -> Difference | None:
        """Bring the environment, which was closed meanwhile, to where the open game is; see `restore`."""
        collector = self._collector
        return collector.restore(collector.read(collector.state()), collector.memory) if self._collecting else None

    @property
    def captured(self) -> dict[str, str]:
        """Whether a phase is replayed from a captured graph, or why not, by its name."""
        return {name: phase.captured.status for name, phase in self.phases.items()}

    @property
    def _generators(self) -> dict[str, Any]:
        return {"replay": self.shared.rng, "acting": self.shared.acting, "dreaming": self.shared.dreaming}

    def _time(self, name: str, seconds: float, updates: int = 1) -> None:
        count, total = self._timings.get(name, (0, 0.0))
        seconds = max(0.0, seconds)  # some virtual machines' clocks step back when they are moved
        self._timings[name] = [count + updates, total + seconds]
        self.seconds += seconds

    def _where(self, update: int) -> str:
        return f"epoch {self.epoch}, {self.schedule[self._phase].name}, update {update + 1}"

    def _check_device(self) -> None:
        """Raise NonFiniteError if an update was not finite. Waits for the device, on the phase's account."""
        if not self._guard.noted:
            return
        began = time.perf_counter()
        try:
            self._guard.settle()
        finally:
            self._time(self.schedule[self._phase].name, time.perf_counter() - began, updates=0)
