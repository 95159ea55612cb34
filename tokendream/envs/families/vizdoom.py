"""ViZDoom: what one sees in Doom, 240x320 in colour, and the numbers that a scenario shows (health, ammunition)."""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import Any

import gymnasium

from tokendream.config.env import EnvConfig
from tokendream.envs.families.common import find, need


def names() -> list[str]:
    """The ids that the package registers."""
    need("vizdoom.gymnasium_wrapper", "vizdoom")
    return [name for name in gymnasium.registry if name.startswith("Vizdoom")]


def make(name: str, config: EnvConfig) -> gymnasium.Env[Any, Any]:
    """The scenario of that id. Raises EnvError."""
    name = find("vizdoom", name, names())
    env = gymnasium.make(name, disable_env_checker=True, frame_skip=config.repeat, **config.arguments)
    game = env.unwrapped.game  # type: ignore[attr-defined]
    # The game writes its settings and a folder to where it is started, which is where the user is.
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        game.set_doom_config_path(os.devnull)
        game.init()
    return LastScreen(env)


class LastScreen(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A game that is over shows what it showed last, where the package has a black screen and zeros; one whose time is
    over is truncated and not, as the package says, terminated too."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._seen, info = self.env.reset(seed=seed, options=options)
        return self._seen, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if not (terminated or truncated):
            self._seen = observation
        return self._seen, reward, terminated and not truncated, truncated, info
