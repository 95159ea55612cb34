"""Real experience: one env step at a time into the replay buffer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8

from tokendream.agent.actor_critic import PolicyState
from tokendream.agent.agent import Agent
from tokendream.config.parts import CollectConfig, DreamConfig
from tokendream.data.batch import Segments
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute
from tokendream.envs.vector import Envs


def game_seed(run_seed: int, game: int) -> int:
    """The seed of the run's n-th game. Every game has its own, so that an open one can be replayed on resume."""
    return int(np.random.SeedSequence((run_seed, game)).generate_state(1)[0] >> 1)


class Difference(NamedTuple):
    """Where a game came out differently when it was played again."""

    after: int
    """Steps until then, of `steps`."""
    steps: int
    what: str
    """What differed, in a few words."""


class Collector:
    """Plays one environment with the agent's current policy and remembers where it stands.

    After an `end` (a lost life) the game goes on, but the agent's memory and the replay's episode start again.
    """

    def __init__(
        self,
        envs: Envs,
        replay: ReplayBuffer,
        agent: Agent,
        compute: Compute,
        config: CollectConfig,
        *,
        seed: int,
        generator: torch.Generator,
        capture: Callable[[Callable, torch.Generator], Any] = lambda run, generator: run,
    ) -> None:
        if envs.n != 1:
            raise ValueError(f"collection plays one environment, not {envs.n}")
        self._envs, self._replay, self._agent, self._compute = envs, replay, agent, compute
        self._config, self._seed, self._generator = config, seed, generator
        self.choose = capture(self._act, generator)
        self._game = -1
        self._memory: PolicyState | None = None
        self._frame: UInt8[np.ndarray, 1 * O]
        self._score: float
        self._actions: list[int]
        self._begin()

    def step(self) -> float | None:
        """One env step. Returns the score of the game if it is over, else None."""
        if self._memory is None:
            self._memory = self._agent.actor_critic.initial_state(1)
        chosen, self._memory = self.choose(torch.from_numpy(self._frame), self._memory)
        actions = self._agent.actor_critic.actions.to_env(chosen)  # the one wait of a step
        action = int(actions[0])
        transition = self._envs.step(actions)
        reward, end, over = float(transition.reward[0]), bool(transition.end[0]), bool(transition.over[0])
        self._replay.add(self._frame[0], action, reward, end, end or over)
        self._actions.append(action)
        self._score += reward
        self._frame = transition.frame
        if end or over:
            self._memory = None
        if not over:
            return None
        score = self._score
        self._begin()
        return score

    def rewarm(self, dream: DreamConfig) -> None:
        """Clear the agent's memory, then warm it on the last `burn_in` steps since the open episode began."""
        first, stop = self._replay.episodes()[-1] if len(self._replay) else (0, 0)
        if self._memory is None or stop == first:
            return
        row = np.arange(max(first, stop - dream.burn_in), stop)[None]
        steps = self._replay.steps(Segments(row, np.ones_like(row, dtype=bool)))
        with torch.no_grad(), self._compute.autocast():
            tokens = self._agent.tokenizer.encode(self._replay.frames(row))
            view = self._agent.view(tokens, self._agent.tokenizer.codes(tokens))
            C = self._agent.actor_critic
            self._memory = C.burn_in(view, steps.action, steps.mask, dream)

    def _act(self, frame: torch.Tensor, memory: PolicyState) -> tuple[torch.Tensor, PolicyState]:
        """One choice of an action, and the memory after it; a GPU may replay it (`capture`)."""
        with self._compute.autocast():
            return self._agent.act(
                frame.to(self._compute.device), memory, self._generator,
                temperature=self._config.temperature, epsilon=self._config.epsilon,
            )  # fmt: skip

    def state(self) -> dict[str, Any]:
        """Plain data from which `restore` rebuilds the open game: its number and the actions taken in it.

        Also the hash of the frame that they led to, which no row of the replay buffer holds yet.
        """
        return {"game": self._game, "actions": list(self._actions), "frame": self._frame_hash()}

    def tensors(self) -> dict[str, torch.Tensor]:
        """The agent's memory of the open game."""
        return {} if self._memory is None else self._memory._asdict()

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Difference | None:
        """Replay the open game's actions from its seed; any environment that obeys its seed ends up as it was.

        What it gives is compared with the rows of the replay buffer, which must be there again. Where it differs,
        those rows stay as a truncated episode, a new game begins, and the first difference is returned; else None.
        Raises ValueError for a state whose actions are not the ones in the rows, EnvError where the environment breaks.
        """
        self._game = int(state["game"]) - 1
        self._begin()
        actions = [int(action) for action in state["actions"]]
        self._memory = None
        if different := self._play_again(actions, state.get("frame")):
            self._replay.close_episode()
            self._begin()
            return different
        if tensors:
            self._memory = PolicyState(*(tensors[name].to(self._compute.device) for name in ("h", "c")))
        return None

    def _play_again(self, actions: Sequence[int], frame_hash: object) -> Difference | None:
        """Take these actions in the game that has begun; stops at the first difference and returns it.

        They are those of the newest rows, the oldest of which the replay buffer may have dropped. `frame_hash` is
        of the frame that they lead to, None in checkpoints of older versions.
        """
        n, first = len(actions), self._replay.total - len(actions)
        for i, action in enumerate(actions):
            row = first + i
            known = self._replay.export(row, row + 1) if row >= self._replay.oldest else None
            if known is not None and known["action"][0] != action:
                raise ValueError(f"action {i + 1} of the open game is not the one in row {row} of the replay buffer")
            if known is not None and not np.array_equal(known["frame"], self._frame):
                return Difference(i, n, "another frame")
            transition = self._envs.step(np.array([action]))
            reward, end = transition.reward[0], transition.end[0]
            if transition.over[0]:
                return Difference(i + 1, n, "the game is over")
            if known is not None and end != known["end"][0]:
                return Difference(i + 1, n, f"{'an' if end else 'no'} end")
            if known is not None and reward != known["reward"][0]:
                return Difference(i + 1, n, f"a reward of {reward:g}, not {known['reward'][0]:g}")
            self._frame = transition.frame
            self._score += float(reward)
            self._actions.append(action)
        return None if frame_hash in (None, self._frame_hash()) else Difference(n, n, "another frame")

    def _frame_hash(self) -> str:
        return hashlib.sha256(self._frame.tobytes()).hexdigest()

    def _begin(self) -> None:
        self._game += 1
        self._frame = self._envs.reset([game_seed(self._seed, self._game)])
        self._actions, self._score = [], 0.0
