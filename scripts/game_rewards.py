"""The game's own rewards along dreamed actions: the emulator, set back to the moments of a replay buffer.

With `rewards=game` behind it, `controller.py` pays C's dreams so: frames are M's, rewards and ends the game's. For runs
on Atari with one environment whose replay buffer still holds their first step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import ale_py
import numpy as np
import torch
from ale_py import roms
from dream_signal import seen
from jaxtyping import Bool, Float, Int64

from tokendream.agent.agent import Agent
from tokendream.agent.collect import game_seed
from tokendream.config.config import Config
from tokendream.data.batch import Segments
from tokendream.data.replay import ReplayBuffer
from tokendream.dream.objective import Experience, dream_from
from tokendream.envs.atari import SEEDS, AtariEnvs, find_game


class Emulator:
    """The game of a config as `AtariEnvs` plays it in training, without pictures."""

    def __init__(self, config: Config) -> None:
        self._protocol, self._envs = config.env.atari, AtariEnvs(config.env, 1)
        rom = roms.get_rom_path(find_game(config.env.name)[1])
        assert rom is not None, "ale-py has the ROM of every game that it lists"
        self._rom = rom
        self._ale = ale_py.ALEInterface()
        self._ale.setFloat("repeat_action_probability", 0.0)

    def reset(self, seed: int) -> None:
        """A new game, after as many no-ops as `AtariEnvs` begins it with."""
        _, info = self._envs._open().reset(seed=np.array([seed % SEEDS]), options={"reset_mask": np.array([True])})
        self._ale.setInt("random_seed", seed % SEEDS)
        self._ale.loadROM(self._rom)
        self._ale.reset_game()  # as `AtariEnvs` does; without, Boxing begins a moment further on
        for _ in range(int(info["frame_number"][0])):
            self._ale.act(0)

    def step(self, action: int) -> tuple[float, bool, bool]:
        """The reward, whether a life was lost or the game is over, whether it is over."""
        key, lives, reward = self._ale.getMinimalActionSet()[action], self._ale.lives(), 0.0
        for _ in range(self._protocol.frame_skip):
            reward += self._ale.act(key)
            if self._ale.game_over():
                break
        over = self._ale.game_over()
        return reward, over or (self._protocol.life_loss_ends and 0 < self._ale.lives() < lives), over

    def states(self, replay: ReplayBuffer, run_seed: int) -> Iterator[ale_py.ALEState]:
        """Of every row held, before its action. Raises RuntimeError where the game is not the one that was played."""
        rows, over, game = replay.rows(np.arange(replay.oldest, replay.total)), True, 0
        for row, (action, reward, end) in enumerate(zip(rows["action"], rows["reward"], rows["end"], strict=True)):
            if over:
                self.reset(game_seed(run_seed, game))
                game += 1
            yield self._ale.cloneState()
            found, ended, over = self.step(int(action))
            if (found, ended) != (float(reward), bool(end)):
                raise RuntimeError(f"row {row}: the game gives {found}, {ended}, the run had {reward}, {end}")

    def along(
        self, state: ale_py.ALEState, actions: Int64[np.ndarray, " T"]
    ) -> tuple[Float[np.ndarray, " T"], Bool[np.ndarray, " T"]]:
        """Rewards and ends of these actions from a state on, until the first end."""
        self._ale.restoreState(state)
        rewards, ends = np.zeros(len(actions), np.float32), np.zeros(len(actions), bool)
        for t, action in enumerate(actions):
            rewards[t], ends[t], _ = self.step(int(action))
            if ends[t]:
                break
        return rewards, ends


class GameRewards:
    """C's dreams from the moments of a run, paid by its game."""

    def __init__(self, agent: Agent, replay: ReplayBuffer, config: Config) -> None:
        assert replay.oldest == 0, "the replay buffer has dropped the run's first steps"
        assert replay.envs == 1, "the run had several environments"
        self._agent, self._replay, self._config = agent, replay, config
        self._emulator = Emulator(config)
        self._states = list(self._emulator.states(replay, config.seed))

    @torch.no_grad()
    def dreamed(self, segments: Segments, generator: torch.Generator) -> Experience:
        """What dreams from where these rows end are to teach."""
        agent, dream, head = self._agent, self._config.dream, self._agent.world_model.rewards
        memory, rollout = dream_from(agent, *seen(agent, self._replay, segments), dream, generator)
        rewards, ends = torch.zeros_like(rollout.rewards), torch.zeros_like(rollout.ends)
        for i, row in enumerate(np.repeat(segments.row[:, -1], dream.group)):
            actions = rollout.actions[i, :-1].cpu().numpy()
            paid, ended = self._emulator.along(self._states[row], actions)
            rewards[i, :-1] = head.paid(torch.from_numpy(paid)) / head.unit
            ends[i, :-1] = torch.from_numpy(ended)
        rollout = dataclasses.replace(rollout, rewards=rewards, ends=ends)
        return Experience.of(rollout, memory, agent.actor_critic.actions, dream)
