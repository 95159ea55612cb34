"""Real experience: an env step in every environment at a time into the replay buffer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from tokendream.agent.actor_critic import PolicyState
from tokendream.agent.agent import Agent
from tokendream.config.parts import CollectConfig, DreamConfig
from tokendream.data.batch import Segments
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute
from tokendream.envs.vector import EnvError, Envs, Transition, play_again
from tokendream.errors import TokendreamError


def game_seed(run_seed: int, game: int) -> int:
    """The seed of the run's n-th game. Every game has its own, so that an open one can be replayed on resume."""
    return int(np.random.SeedSequence((run_seed, game)).generate_state(1)[0] >> 1)


class ExperienceError(TokendreamError):
    """Open games and replay buffer that are not of one run."""


class Difference(NamedTuple):
    """Where a game came out differently when it was played again."""

    after: int
    """Steps until then, of `steps`."""
    steps: int
    what: str
    """What differed, in a few words."""


@dataclass
class OpenGame:
    """The game that an environment is in: the run's game of this number, after these actions."""

    number: int
    actions: list[int] = field(default_factory=list)
    score: float = 0.0
    led_to: object = None
    """Hash of the frame after them, where it was saved with one."""


class Collector:
    """Plays environments with the agent's current policy and remembers where they stand.

    A game that is over is followed by the next of the run's games that nobody has begun, in the same environment. After
    an `end` (a lost life) a game goes on, but the agent's memory and the replay's episode start again.
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
        assert envs.n == replay.envs, f"expected a replay buffer for {envs.n} environments, not for {replay.envs}"
        self._envs, self._replay, self._agent, self._compute = envs, replay, agent, compute
        self._config, self._seed, self._generator = config, seed, generator
        self.choose = capture(self._act, generator)
        self.memory: PolicyState | None = None
        """The agent's, of the open games; None where all have just begun."""
        self._frame: UInt8[np.ndarray, " n *O"]
        self._games = [OpenGame(-1)] * envs.n  # none yet
        self._begin(range(envs.n))

    def step(self) -> list[float]:
        """One env step in every environment. Returns the scores of the games that are over.

        Where an environment raises EnvError, everything is as before the step, so that a saved run takes it again.
        """
        if self.memory is None:
            self.memory = self._agent.actor_critic.initial_state(self._envs.n)
        games, frame, drawn = self._games, self._frame, self._generator.get_state()
        memory = PolicyState(*(tensor.clone() for tensor in self.memory))  # a captured choice writes over its own
        try:
            before = torch.tensor([game.actions[-1] if game.actions else -1 for game in games])
            chosen, self.memory = self.choose(torch.from_numpy(frame), before, self.memory)
            actions = chosen.cpu().numpy()  # the one wait of a step
            transition = self._envs.step(actions)
            over = np.flatnonzero(transition.over).tolist()
            self._frame = transition.frame
            self._begin(over)
        except EnvError:
            self._games, self._frame, self.memory = games, frame, memory
            self._generator.set_state(drawn)
            raise
        last = transition.end | transition.over
        for i, game in enumerate(games):
            action, reward = int(actions[i]), float(transition.reward[i])
            self._replay.add(frame[i], action, reward, bool(transition.end[i]), bool(last[i]))
            game.actions.append(action)
            game.score += reward
        self._forget(last)
        return [games[i].score for i in over]

    def rewarm(self, dream: DreamConfig) -> None:
        """Clear the agent's memory, then warm it on the last `burn_in` steps since the open episodes began."""
        if len(self._replay) == 0:
            return
        newest = self._replay.open_episodes(dream.burn_in)
        if not newest.mask.any():
            return
        held = newest.mask.any(axis=0)
        segments = Segments(newest.row[:, held], newest.mask[:, held])
        steps = self._replay.steps(segments)
        with torch.no_grad(), self._compute.autocast():
            tokens = self._agent.tokenizer.encode(self._replay.frames(segments.row))
            view = self._agent.view(tokens, self._agent.tokenizer.codes(tokens))
            C = self._agent.actor_critic
            self.memory = C.burn_in(view, steps.action, steps.mask, dream)

    def _act(
        self, frame: UInt8[Tensor, " n *O"], before: Int64[Tensor, " n"], memory: PolicyState
    ) -> tuple[Int64[Tensor, " n"], PolicyState]:
        """One choice of actions, and the memory after it; a GPU may replay it (`capture`)."""
        device, config = self._compute.device, self._config
        with self._compute.autocast():
            return self._agent.act(
                frame.to(device), memory, self._generator, temperature=config.temperature, epsilon=config.epsilon,
                before=before.to(device), sticky=config.sticky_actions,
            )  # fmt: skip

    def state(self) -> dict[str, Any]:
        """Plain data of the open games for `read`: the number of each and the actions taken in it.

        Also the hash of the frame that they led to, which no row of the replay buffer holds yet.
        """
        games = [
            {"game": game.number, "actions": list(game.actions), "frame": self._frame_hash(i)}
            for i, game in enumerate(self._games)
        ]
        return {"games": games} if len(games) > 1 else games[0]

    def read(self, state: Mapping[str, Any]) -> list[OpenGame]:
        """The open games of a `state`, without their scores. Raises ValueError where they cannot be."""
        saved = state.get("games", [state])
        if len(saved) != self._envs.n:
            raise ValueError(f"expected the open games of {self._envs.n} environments, not of {len(saved)}")
        games = [
            OpenGame(int(each["game"]), [int(a) for a in each["actions"]], led_to=each.get("frame")) for each in saved
        ]
        if not all(0 <= number < 2**63 for game in games for number in (game.number, *game.actions)):
            raise ValueError("an open game or an action of it has a number that none can have")
        return games

    def restore(self, games: Sequence[OpenGame], memory: PolicyState | None) -> Difference | None:
        """Replay these games' actions from their seeds; environments that obey their seed end up as they were.

        What they give is compared with the rows of the replay buffer, which must be there again. Where a game differs,
        its rows stay as a truncated episode and a new game begins; the first difference is returned, None without any.
        Raises ExperienceError for actions that are not the ones in the rows, EnvError where an environment breaks.
        """
        different = self._play_again(games)
        self.memory = memory
        self._forget(np.isin(np.arange(self._envs.n), list(different)))
        for i in different:
            self._replay.close_episode(i)
        self._begin(different)
        return next(iter(different.values()), None)

    def _play_again(self, games: Sequence[OpenGame]) -> dict[int, Difference]:
        """Take the actions of these games, side by side as they were taken; the first difference of each that has one.

        They are those of the newest rows, the oldest of which the replay buffer may have dropped.
        """
        n, found = self._envs.n, dict[int, Difference]()
        self._games = [OpenGame(game.number) for game in games]
        seeds = {i: (game_seed(self._seed, game.number), game.actions) for i, game in enumerate(games)}
        for left, frame, transition in play_again(self._envs, seeds):
            self._frame = frame
            for i, game in enumerate(games):
                taken = len(game.actions) - left
                if taken < 0 or i in found:
                    continue
                if transition is None:
                    what = "" if game.led_to in (None, self._frame_hash(i)) else "another frame"
                else:
                    action = game.actions[taken]
                    row = self._recorded(self._replay.total - left * n + i, action)
                    if row and not np.array_equal(row["frame"][0], self._frame[i]):
                        what = "another frame"
                    elif what := _difference(transition, i, row):
                        taken += 1
                    self._games[i].actions.append(action)
                    self._games[i].score += float(transition.reward[i])
                if what:
                    found[i] = Difference(taken, len(game.actions), what)
            if len(found) == n:
                break
        return found

    def _recorded(self, row: int, action: int) -> dict[str, np.ndarray]:
        """What the replay buffer holds of a row, nothing if dropped. Raises ExperienceError for another action."""
        if row < self._replay.oldest:
            return {}
        known = self._replay.export(row, row + 1)
        if known["action"][0] != action:
            raise ExperienceError(
                f"an action of an open game is {action}, and not the one in row {row} of the replay buffer"
            )
        return known

    def _frame_hash(self, i: int) -> str:
        return hashlib.sha256(self._frame[i].tobytes()).hexdigest()

    def _forget(self, which: Bool[np.ndarray, " n"]) -> None:
        """Clear the agent's memory of these environments' games."""
        if which.all():
            self.memory = None
        elif which.any() and self.memory is not None:
            self.memory = self.memory.keep(torch.from_numpy(~which).to(self._compute.device))

    def _begin(self, where: Iterable[int]) -> None:
        """Begin the run's next games in these environments."""
        newest = max(game.number for game in self._games)
        games = {i: OpenGame(newest + k) for k, i in enumerate(where, start=1)}
        if games:
            seeds = {i: game_seed(self._seed, game.number) for i, game in games.items()}
            self._games = [games.get(i, game) for i, game in enumerate(self._games)]
            self._frame = self._envs.reset([seeds.get(i) for i in range(self._envs.n)])


def _difference(now: Transition, i: int, row: Mapping[str, np.ndarray]) -> str:
    """What a game brought at this step that is not in its row, in a few words; an open game is not over."""
    reward, end = now.reward[i], now.end[i]
    if now.over[i]:
        return "the game is over"
    if row and end != row["end"][0]:
        return f"{'an' if end else 'no'} end"
    if row and reward != row["reward"][0]:
        return f"a reward of {reward:g}, not {row['reward'][0]:g}"
    return ""
