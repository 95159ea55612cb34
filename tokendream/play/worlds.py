"""What really happens: the game itself, or a recorded episode. Both go forward by an action and back by steps.

The dream is no third kind: it is what `dream.imagine.step` makes of a moment, and the session holds it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from tokendream.config.config import Config
from tokendream.data.batch import Segments, Steps
from tokendream.envs.registry import make
from tokendream.play.library import Episode


class Happened(NamedTuple):
    """What a step caused: `end` as the world model learns it, `over` when nothing follows."""

    reward: float
    end: bool
    over: bool


class RealGame:
    """The real game under the training protocol, whose ends are those that the world model learns.

    A game is its seed and its actions, so going back is playing them again: 1,000 steps of Atari take a second.
    """

    def __init__(self, config: Config, seed: int) -> None:
        self._envs = make(config, 1, evaluation=False)
        self._seeds = np.random.SeedSequence((config.seed, seed, 0x97A7))
        self.frame: UInt8[np.ndarray, "3 S S"]
        self.begin()

    def begin(self) -> None:
        """A new game."""
        self._seed = int(self._seeds.spawn(1)[0].generate_state(1)[0] >> 1)
        self._replay([])

    def step(self, action: int) -> Happened:
        """Act once. The game may not be over."""
        transition = self._envs.step(np.array([action]))
        self._actions.append(action)
        self.frame = transition.frame[0]
        return Happened(float(transition.reward[0]), bool(transition.end[0]), bool(transition.over[0]))

    def rewind(self, steps: int) -> None:
        """Undo the last steps of this game, of which it has that many."""
        assert steps <= len(self._actions)
        self._replay(self._actions[: len(self._actions) - steps])

    def close(self) -> None:
        """Free the environment."""
        self._envs.close()

    def _replay(self, actions: list[int]) -> None:
        self.frame = self._envs.reset([self._seed])[0]
        self._actions: list[int] = []
        for action in actions:
            self.step(action)


class RecordedEpisode:
    """A recorded episode. It knows its actions, and what is passed to `step` is ignored."""

    def __init__(self, episode: Episode) -> None:
        self.episode, self.at = episode, 0
        rows = episode.replay.export(episode.first, episode.stop)
        self._frames, self._actions = rows["frame"], rows["action"]
        self._reward, self._end = rows["reward"], rows["end"]

    @property
    def frame(self) -> UInt8[np.ndarray, "3 S S"]:
        """The frame shown."""
        return self._frames[self.at]

    @property
    def action(self) -> int | None:
        """The action taken here; None at the last frame, of which nothing follows."""
        return int(self._actions[self.at]) if self.at + 1 < self.episode.length else None

    def step(self, action: int) -> Happened:
        """On to the next frame, of which there must be one."""
        reward, end = float(self._reward[self.at]), bool(self._end[self.at])
        self.at += 1
        return Happened(reward, end, self.at + 1 == self.episode.length)

    def rewind(self, steps: int) -> None:
        """Back by some frames, at most to the first."""
        self.at = max(0, self.at - steps)

    def before(self, frames: int) -> tuple[UInt8[np.ndarray, "L 3 S S"], Steps]:
        """This frame and up to that many before it, with what happened there."""
        first = max(0, self.at - frames)
        row = self.episode.first + np.arange(first, self.at + 1)
        steps = self.episode.replay.steps(Segments(row[None], np.ones((1, len(row)), bool)))
        return self._frames[first : self.at + 1], steps
