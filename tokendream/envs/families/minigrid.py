"""MiniGrid and BabyAI as maps: of each cell in view what it is, its colour and its state; and where the agent looks.

Wrappers of the package show more, or pictures (`--env.wrappers minigrid.wrappers:RGBImgPartialObsWrapper`).
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from tokendream.config.env import EnvConfig
from tokendream.envs.families.common import find, need, repeated
from tokendream.errors import once


def names() -> list[str]:
    """The ids that the package registers."""
    need("minigrid", "minigrid")
    return [name for name in gymnasium.registry if name.startswith(("MiniGrid-", "BabyAI-"))]


def make(name: str, config: EnvConfig) -> gymnasium.Env[Any, Any]:
    """The environment of that id. Raises EnvError."""
    name = find("minigrid", name, names())
    env = gymnasium.make(name, disable_env_checker=True, **config.arguments)
    if name.startswith("BabyAI") or env.observation_space["mission"].ordered_placeholders:  # type: ignore[index]
        once(f"{name}: its mission, a text that changes from game to game, is left out")
    return repeated(Symbolic(env), config)


class Symbolic(gymnasium.ObservationWrapper[Any, Any, Any]):
    """The observation without its text, each field of the map with as many values as there are."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        constants = need("minigrid.core.constants", "minigrid")
        fields = [constants.OBJECT_TO_IDX, constants.COLOR_TO_IDX, constants.STATE_TO_IDX]
        values = [max(field.values()) + 1 for field in fields]
        shape = env.observation_space["image"].shape  # type: ignore[index]
        image = spaces.MultiDiscrete(np.broadcast_to(values, shape), dtype=np.uint8)
        self.observation_space = spaces.Dict({"image": image, "direction": spaces.Discrete(4)})

    def get_action_meanings(self) -> list[str]:
        """Names of the actions, in order."""
        return [action.name.upper() for action in self.unwrapped.actions]  # type: ignore[attr-defined]

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        return {"image": observation["image"], "direction": observation["direction"]}
