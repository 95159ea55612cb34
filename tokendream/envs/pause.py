"""One environment that can be closed for a while, for emulators of which a process may have only one.

An evaluation in the middle of training needs an emulator of its own. Where there can be no second one, training's is
closed, and made again when it is needed: the open game is then played again from its seed and its actions, as when a
run is resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int, UInt8

from tokendream.envs.vector import Envs, Transition
from tokendream.notice import once


class Pausable:
    """What `make` makes, one environment. After `close` it is made again by the next reset or step.

    An open game that comes out differently when it is played again ends there: it is over, which is no `end`.
    """

    def __init__(self, make: Callable[[], Envs]) -> None:
        self._make = make
        self._envs: Envs | None = make()
        self.n, self.n_actions, self.action_names = self._envs.n, self._envs.n_actions, self._envs.action_names
        assert self.n == 1, "only one environment can be played again step by step"
        self._seed: int | None = None
        self._taken: list[int] = []
        self._frame: UInt8[np.ndarray, "1 3 S S"]

    def reset(self, seeds: Sequence[int | None]) -> UInt8[np.ndarray, "1 3 S S"]:
        self._envs = self._envs or self._make()
        self._frame = self._envs.reset(seeds)
        self._seed, self._taken = seeds[0], []
        return self._frame

    def step(self, actions: Int[np.ndarray, " 1"]) -> Transition:
        if self._envs is None:
            self._envs = self._make()
            if not self._play_again(self._envs):
                once("the open game came out differently when played again after an evaluation: it ends there")
                return Transition(self._frame.copy(), np.zeros(1, np.float32), np.zeros(1, bool), np.ones(1, bool))
        transition = self._envs.step(actions)
        self._taken.append(int(actions[0]))
        self._frame = transition.frame
        return transition

    def close(self) -> None:
        """Close it until it is needed again."""
        if self._envs is not None:
            self._envs.close()
        self._envs = None

    def _play_again(self, envs: Envs) -> bool:
        frame = envs.reset([self._seed])
        for action in self._taken:
            transition = envs.step(np.array([action]))
            frame = transition.frame
            if transition.over[0]:
                return False
        return np.array_equal(frame, self._frame)
