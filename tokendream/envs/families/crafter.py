"""Crafter: a world of blocks seen from above, 22 achievements, 10,000 steps; `Reward`, or `NoReward` for curiosity."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from jaxtyping import UInt8

from tokendream.config.env import EnvConfig
from tokendream.envs.families.common import find, need, repeated

NAMES = {"Reward": True, "NoReward": False}


def names() -> list[str]:
    """With the rewards of its achievements, and without."""
    return list(NAMES)


def make(name: str, config: EnvConfig) -> gymnasium.Env[Any, Any]:
    """The world, with rewards or without. Raises EnvError."""
    given: dict[str, Any] = {"size": (config.size, config.size), "reward": NAMES[find("crafter", name, NAMES)]}
    return repeated(Crafter(need("crafter", "crafter").Env(**given | config.arguments)), config)


class Crafter(gymnasium.Env[Any, Any]):
    """The world as a Gymnasium environment that obeys the seed of its reset."""

    def __init__(self, world: Any) -> None:
        self._world = world
        self._world._world.__class__ = _ordered(type(world._world))
        self.action_space = spaces.Discrete(world.action_space.n)
        self.observation_space = spaces.Box(0, 255, world.observation_space.shape, np.uint8)

    def get_action_meanings(self) -> list[str]:
        """Names of the actions, in order."""
        return [name.upper() for name in self._world.action_names]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[UInt8[np.ndarray, "S S 3"], dict[str, Any]]:
        if seed is not None:
            self._world._seed, self._world._episode = seed, 0  # it seeds a world by hash((seed, episode))
        return self._world.reset(), {}

    def step(self, action: int | np.int64) -> tuple[UInt8[np.ndarray, "S S 3"], float, bool, bool, dict[str, Any]]:
        image, reward, over, info = self._world.step(int(action))
        dead = info["discount"] == 0
        return image, float(reward), dead, over and not dead, {}


def _ordered(world: type[Any]) -> type[Any]:
    """A world whose creatures stand in the order in which they came, not in that of their addresses in memory: one of
    them is drawn at random to disappear, so that no two games with the same seed would be the same."""

    class Ordered(world):
        @property
        def chunks(self) -> dict[Any, list[Any]]:
            return {
                area: sorted(creatures, key=lambda creature: self._obj_map[tuple(creature.pos)])
                for area, creatures in super().chunks.items()
            }

    return Ordered
