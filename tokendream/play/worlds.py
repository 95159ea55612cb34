"""What really happens: the game itself, or a recorded episode. Both go forward by an action and back by steps.

The dream is no third kind: it is what `dream.imagine.step` makes of a moment, and the session holds it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from tokendream.config.config import Config
from tokendream.data.batch import Segments, Steps
from tokendream.envs.registry import FAMILIES, make
from tokendream.envs.vector import play_again
from tokendream.play.library import Episode

SCREEN = 210
"""Rows of an Atari screen. Its 160 columns, wider than high on a television, are stretched to as many."""


class Happened(NamedTuple):
    """What a step caused: `end` as the world model learns it, `over` when nothing follows."""

    reward: float
    end: bool
    over: bool


class RealGame:
    """The real game under the training protocol, whose ends are those that the world model learns.

    A game is its seed and its actions, so going back is playing them again: 1,000 steps of Atari take a second. And so
    a second one of Atari, drawn as large as its screen, is the same game for people to look at.
    """

    def __init__(self, config: Config, seed: int) -> None:
        self._drawn = [make(config, 1, evaluation=False)]
        if config.env.game is not None:
            self._drawn.append(FAMILIES["atari"].make(replace(config.env, size=SCREEN), 1))
        self._seeds = np.random.SeedSequence((config.seed, seed, 0x97A7))
        self.begin()

    def begin(self) -> None:
        """A new game."""
        self._seed = int(self._seeds.spawn(1)[0].generate_state(1)[0] >> 1)
        self._replay([])

    def step(self, action: int) -> Happened:
        """Act once. The game may not be over."""
        transitions = [envs.step(np.array([action])) for envs in self._drawn]
        self._actions.append(action)
        self._show([transition.frame[0] for transition in transitions])
        transition = transitions[0]
        self.over = bool(transition.over[0])
        return Happened(float(transition.reward[0]), bool(transition.end[0]), self.over)

    def rewind(self, steps: int) -> None:
        """Undo the last steps of this game, of which it has that many."""
        assert steps <= len(self._actions)
        self._replay(self._actions[: len(self._actions) - steps])

    def close(self) -> None:
        """Free the environment."""
        for envs in self._drawn:
            envs.close()

    def _replay(self, actions: list[int]) -> None:
        self._actions, self.over, drawn = actions, False, []
        for envs in self._drawn:
            ((_, frame, _),) = deque(play_again(envs, {0: (self._seed, actions)}), maxlen=1)
            drawn.append(frame[0])
        self._show(drawn)

    def _show(self, drawn: list[UInt8[np.ndarray, "*_"]]) -> None:
        self.frame, self.screen = drawn[0], drawn[1] if len(drawn) > 1 else None


class RecordedEpisode:
    """A recorded episode. It knows its actions, and what is passed to `step` is ignored."""

    def __init__(self, episode: Episode) -> None:
        self.episode, self.at = episode, 0
        rows = episode.replay.rows(np.array(episode.rows))
        self._frames, self._actions = rows["frame"], rows["action"]
        self._reward, self._end = rows["reward"], rows["end"]

    @property
    def frame(self) -> UInt8[np.ndarray, "*O"]:
        """The frame shown."""
        return self._frames[self.at]

    @property
    def score(self) -> float:
        """The rewards up to here."""
        return float(self._reward[: self.at].sum(dtype=np.float64))

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

    def before(self, frames: int) -> tuple[UInt8[np.ndarray, " L *O"], Steps]:
        """This frame and up to that many before it, with what happened there."""
        first = max(0, self.at - frames)
        row = np.array(self.episode.rows[first : self.at + 1])
        steps = self.episode.replay.steps(Segments(row[None], np.ones((1, len(row)), bool)))
        return self._frames[first : self.at + 1], steps
