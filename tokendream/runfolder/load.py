"""A trained agent out of its run folder or of an exported file: for whoever evaluates, diagnoses or plays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from tokendream.agent.agent import Agent, AgentPolicy
from tokendream.agent.collect import Collector
from tokendream.config.config import Config
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute
from tokendream.envs.registry import make, spaces_of
from tokendream.envs.vector import Envs
from tokendream.errors import ConfigError, one_line
from tokendream.kernels.cuda_graph import capturing
from tokendream.kernels.install import install
from tokendream.kernels.machine import compute_for
from tokendream.runfolder import agent_file, files
from tokendream.runfolder.agent_file import SavedAgent
from tokendream.runfolder.checkpoint import Checkpoints
from tokendream.runfolder.files import CheckpointError
from tokendream.runfolder.folder import read_facts
from tokendream.runfolder.names import shown
from tokendream.spaces.actions import ActionSpace
from tokendream.spaces.observations import Spaces


@dataclass(frozen=True)
class Trained:
    """A trained agent, on its device and in evaluation mode. `facts`: what an exported file says of it, for people."""

    config: Config
    agent: Agent
    compute: Compute
    epoch: int
    spaces: Spaces
    facts: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def load(run: Path, device: str = "auto") -> Trained:
        """The agent of a run folder's last checkpoint, or of a file that `tokendream export` made.

        Raises ConfigError or CheckpointError, one line, for a folder without a usable run or for another file.
        """
        if run.is_file():
            saved = agent_file.read(run)
        else:
            config = read_config(run)
            epoch, snapshot = Checkpoints(run).load(groups=("agent",))
            saved = SavedAgent(config, epoch, snapshot.tensors["agent"])
        config = saved.config
        compute = compute_for(config, device, read_facts(run))
        spaces = spaces_of(config)
        check_actions(config, spaces.actions, saved.weights)
        agent = Agent.from_config(config, spaces)
        try:
            agent.load_state_dict(saved.weights)
        except RuntimeError as error:
            raise CheckpointError(f"{run}: the weights do not fit the config: {one_line(error)}") from None
        agent.to(compute.device).eval()
        install(agent, compute)
        return Trained(config, agent, compute, saved.epoch, spaces, saved.facts)

    @property
    def action_names(self) -> tuple[str, ...]:
        """Of every action where it is one choice, else of every component of one."""
        return self.spaces.action_names

    def envs(self, n: int = 1) -> Envs:
        """`n` fresh environments under the evaluation protocol; whoever asked for them closes them."""
        return make(self.config, n, evaluation=True)

    def policy(self, seed: int = 0, temperature: float | None = None) -> AgentPolicy:
        """The agent as a player with a memory of its own: frames `n *O` and `first` in, actions out.

        `temperature` is by default that of the run's evaluation.
        """
        if temperature is None:
            temperature = self.config.evaluation.temperature
        return player(self.agent, self.compute, seed=seed, temperature=temperature)

    def steps(
        self, seed: int = 0, temperature: float | None = None
    ) -> Iterator[tuple[UInt8[np.ndarray, "*O"], int, float]]:
        """A game under the evaluation protocol, one env step at a time: the frame seen, the action, its reward."""
        envs, policy = self.envs(), self.policy(seed, temperature)
        try:
            frame, first, over = envs.reset([seed]), np.array([True]), False
            while not over:
                actions = policy(frame, first)
                after = envs.step(actions)
                yield frame[0], int(actions[0]), float(after.reward[0])
                frame, first, over = after.frame, np.array([False]), bool(after.over[0])
        finally:
            envs.close()

    def play_game(self, seed: int = 0, temperature: float | None = None) -> tuple[float, UInt8[np.ndarray, " T *O"]]:
        """A whole game: its score, and the frames that the agent saw; other than images, `spaces.observation.unpack`
        reads a frame's bytes."""
        frames, _, rewards = zip(*self.steps(seed, temperature), strict=True)
        return sum(rewards), np.stack(frames)

    def play(
        self,
        steps: int,
        seed: int,
        *,
        temperature: float,
        keep: int | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> ReplayBuffer:
        """The last `keep` steps, by default all, of `steps` of fresh games as in training, by C's choices alone."""
        envs = make(self.config, 1, evaluation=False)
        try:
            replay = ReplayBuffer.of(envs.spaces, min(steps, keep or steps), self.compute.device)
            games = int(np.random.SeedSequence((self.config.seed, seed, 0xD1A6)).generate_state(1)[0])
            generator = torch.Generator(self.compute.device).manual_seed(seed)
            settings = dataclasses.replace(
                self.config.collect, epsilon=0.0, sticky_actions=0.0, temperature=temperature
            )
            collector = Collector(
                envs, replay, self.agent, self.compute, settings, seed=games, generator=generator,
                capture=capturing(self.compute, "the policy"),
            )  # fmt: skip
            for step in range(steps):
                collector.step()
                progress(step + 1)
        finally:
            envs.close()
        return replay


def player(agent: Agent, compute: Compute, *, seed: int, temperature: float) -> AgentPolicy:
    """An agent as a player of evaluations, its steps captured on a GPU."""
    return AgentPolicy(agent, compute, temperature=temperature, seed=seed, capture=capturing(compute, "evaluation"))


def check_actions(config: Config, actions: ActionSpace, weights: Mapping[str, Tensor]) -> None:
    """Raise ConfigError if the environment has another number of actions than when the agent was trained."""
    actor = weights.get("actor_critic.actor.weight")
    if actor is not None and actor.ndim == 2 and len(actor) != actions.logits:
        raise ConfigError(f"{config.env_name} has {actions.logits} actions, but the run was trained with {len(actor)}")


def results_folder(run: Path) -> Path:
    """Where results about an agent go: its run folder; beside an exported file, a folder named after it."""
    return run.with_name(f"{run.stem}-results") if run.is_file() else run


def read_config(run_dir: Path) -> Config:
    """The config of a run folder. Raises ConfigError saying what is wrong with the folder."""
    path = run_dir / "config.json"
    if run_dir.is_file():
        raise ConfigError(f"{shown(run_dir)} is a file, no run folder")
    if not run_dir.is_dir():
        raise ConfigError(f"there is no run folder {shown(run_dir)}")
    if not path.is_file():
        raise ConfigError(f"{shown(run_dir)} is no run folder: it has no config.json")
    files.refuse_links(run_dir)
    try:
        return Config.from_json(files.read_text(path))
    except ConfigError as error:
        raise ConfigError(f"{shown(path)}: {error}") from None
