"""What the families share: packages that may be missing, misspelt names, repeated actions, a user's own wrappers."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import gymnasium

from tokendream.config.env import EnvConfig
from tokendream.envs.vector import EnvError
from tokendream.errors import nearest, one_line


def installed(package: str) -> bool:
    """Whether a package is there, which is not imported to find out."""
    return importlib.util.find_spec(package) is not None


def install_command(family: str) -> str:
    """What installs the packages of a family."""
    return f'pip install "tokendream[{family}]"'


def need(module: str, family: str) -> ModuleType:
    """A module of a family's package. Raises EnvError with the command that installs it."""
    if not installed(module.partition(".")[0]):
        raise EnvError(f"{family}: its package is not installed: {install_command(family)}")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EnvError(f"{family}: its package cannot be imported: {one_line(error)}") from error


def find(family: str, name: str, names: Iterable[str]) -> str:
    """The name as the family spells it, in any case and with - or _. Raises EnvError with the nearest names."""
    names = list(names)
    for known in names:
        if _folded(known) == _folded(name):
            return known
    raise EnvError(f"unknown environment {family}:{name}; nearest: {nearest(name, names)}")


def _folded(name: str) -> str:
    return name.lower().replace("_", "-")


class Repeated(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Every action is taken `times` times, or until the game is over; the rewards are summed."""

    def __init__(self, env: gymnasium.Env[Any, Any], times: int) -> None:
        super().__init__(env)
        self._times = times

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        total: Any = 0.0
        for _ in range(self._times):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += reward
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info


def repeated(env: gymnasium.Env[Any, Any], config: EnvConfig) -> gymnasium.Env[Any, Any]:
    """The environment with the config's action repeat."""
    return Repeated(env, config.repeat) if config.repeat > 1 else env


def wrapped(env: gymnasium.Env[Any, Any], config: EnvConfig) -> gymnasium.Env[Any, Any]:
    """The environment in the config's wrappers, the first one innermost. Raises EnvError for one that is not there."""
    for name in config.wrappers.split(",") if config.wrappers else ():
        module, _, wrapper = name.partition(":")
        try:
            around = getattr(importlib.import_module(module), wrapper)
        except (ImportError, AttributeError, ValueError) as error:
            raise EnvError(f"env.wrappers: {name!r} is no module:Wrapper: {one_line(error)}") from error
        env = around(env)
    return env
