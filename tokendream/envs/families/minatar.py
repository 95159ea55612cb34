"""MinAtar: five Atari games on a board of 10x10 cells, each with 4 to 10 flags that say what is there.

As its authors play it: the actions that matter, sticky with probability 0.1, and levels that get harder
(`--env.kwargs '{"sticky_action_prob": 0.0, "difficulty_ramping": false}'`).
"""

from __future__ import annotations

import functools
import re
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from jaxtyping import UInt8

from tokendream.config.env import EnvConfig
from tokendream.envs.families.common import find, need, repeated

GAMES = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")

ACTIONS = {"n": "NOOP", "l": "LEFT", "u": "UP", "r": "RIGHT", "d": "DOWN", "f": "FIRE"}


def names() -> list[str]:
    """The games."""
    return list(GAMES)


def make(name: str, config: EnvConfig) -> gymnasium.Env[Any, Any]:
    """The game of that name. Raises EnvError."""
    game = re.sub("(?<=.)(?=[A-Z])", "_", find("minatar", name, GAMES)).lower()  # space_invaders, as the package has it
    package = need("minatar", "minatar")
    return repeated(MinAtar(functools.partial(package.Environment, game, **config.arguments)), config)


class MinAtar(gymnasium.Env[Any, Any]):
    """A game as a Gymnasium environment; `new()` makes one, for each reset, as a reset leaves the sticky action as it
    was."""

    def __init__(self, new: Any) -> None:
        self._new, self._game = new, new()
        self._actions = self._game.minimal_action_set()
        self.action_space = spaces.Discrete(len(self._actions))
        self.observation_space = spaces.Box(0, 1, tuple(self._game.state_shape()), np.uint8)

    def get_action_meanings(self) -> list[str]:
        """Names of the actions, in order."""
        return [ACTIONS[self._game.env.action_map[action]] for action in self._actions]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[UInt8[np.ndarray, "10 10 F"], dict[str, Any]]:
        self._game = self._new()
        self._game.seed(None if seed is None else seed % 2**32)
        self._game.reset()
        return self._state(), {}

    def step(self, action: int | np.int64) -> tuple[UInt8[np.ndarray, "10 10 F"], float, bool, bool, dict[str, Any]]:
        reward, over = self._game.act(self._actions[int(action)])
        return self._state(), float(reward), bool(over), False, {}

    def _state(self) -> UInt8[np.ndarray, "10 10 F"]:
        return self._game.state().astype(np.uint8)
