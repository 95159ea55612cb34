"""A trained agent out of its run folder: for whoever evaluates, diagnoses or plays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tokendream.agent.agent import Agent
from tokendream.agent.collect import Collector
from tokendream.config.config import Config
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute
from tokendream.envs.registry import make
from tokendream.errors import ConfigError, one_line
from tokendream.runfolder import files
from tokendream.runfolder.checkpoint import CheckpointError, Checkpoints


@dataclass(frozen=True)
class Trained:
    """The agent of a run's last checkpoint, on its device and in evaluation mode."""

    config: Config
    agent: Agent
    compute: Compute
    epoch: int
    action_names: tuple[str, ...]

    @staticmethod
    def load(run_dir: Path, device: str = "auto") -> Trained:
        """Raises ConfigError or CheckpointError, one line, for a folder without a usable run."""
        config = read_config(run_dir)
        compute = Compute.of(config, device)
        epoch, snapshot = Checkpoints(run_dir).load(groups=("agent",))
        envs = make(config, 1, evaluation=True)
        agent, names = Agent.from_config(config, envs.n_actions), envs.action_names
        envs.close()
        try:
            agent.load_state_dict(snapshot.tensors["agent"])
        except RuntimeError as error:
            why = one_line(error)
            raise CheckpointError(f"{run_dir}: the checkpoint does not fit the config: {why}") from None
        agent.to(compute.device).eval()
        return Trained(config, agent, compute, epoch, names)

    def play(
        self,
        steps: int,
        seed: int,
        *,
        temperature: float,
        keep: int | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> ReplayBuffer:
        """The last `keep` steps, by default all, of `steps` of fresh games under the training protocol, without ε."""
        envs = make(self.config, 1, evaluation=False)
        try:
            size = self.config.env.size
            replay = ReplayBuffer(min(steps, keep or steps), (3, size, size), self.compute.device)
            games = int(np.random.SeedSequence((self.config.seed, seed, 0xD1A6)).generate_state(1)[0])
            generator = torch.Generator(self.compute.device).manual_seed(seed)
            settings = dataclasses.replace(self.config.collect, epsilon=0.0, temperature=temperature)
            collector = Collector(envs, replay, self.agent, self.compute, settings, seed=games, generator=generator)
            for step in range(steps):
                collector.step()
                progress(step + 1)
        finally:
            envs.close()
        return replay


def read_config(run_dir: Path) -> Config:
    """The config of a run folder. Raises ConfigError saying what is wrong with the folder."""
    path = run_dir / "config.json"
    if not run_dir.is_dir():
        raise ConfigError(f"there is no run folder {run_dir}")
    if not path.is_file():
        raise ConfigError(f"{run_dir} is no run folder: it has no config.json")
    files.refuse_links(run_dir)
    try:
        return Config.from_json(files.read_text(path))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
