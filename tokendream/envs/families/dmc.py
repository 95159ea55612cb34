"""DeepMind's control suite on MuJoCo: `walker-walk` from vectors, `walker-walk-pixels` from a camera.

The name is domain-task. The arguments of a task (`--env.kwargs '{"time_limit": 10}'`) are passed on. A game lasts
1,000 steps, 500 decisions with the usual action repeat of 2, and is then truncated.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from jaxtyping import Float

from tokendream.config.env import EnvConfig
from tokendream.envs.families.common import find, installed, need
from tokendream.envs.vector import EnvError

PIXELS = "-pixels"

MUJOCO_GL = "MUJOCO_GL"
"""Environment variable that says how the package draws."""

BLIND = "disabled"
"""Its value where there is nothing to draw with."""

CAMERAS = {"quadruped": 2}
"""Cameras that follow what they film, where that is not camera 0."""


def names() -> list[str]:
    """The tasks, domain-task, each from vectors and from pixels."""
    return [name + seen for name in _tasks() for seen in ("", PIXELS)]


def make(name: str, config: EnvConfig) -> gymnasium.Env[Any, Any]:
    """The task of that name. Raises EnvError."""
    name = find("dmc", name, names())
    if name.endswith(PIXELS) and os.environ.get(MUJOCO_GL) == BLIND:
        raise EnvError(f"dmc:{name} is drawn by EGL, which does not work here: apt install libegl1, or see {MUJOCO_GL}")
    domain, task = _tasks()[name.removesuffix(PIXELS)]
    # Some models are built at random; resets, which seed the rest, do not build them again.
    env = _suite().load(domain, task, task_kwargs={"random": 0, **config.arguments})
    return Suite(env, config.repeat, (config.size, CAMERAS.get(domain, 0)) if name.endswith(PIXELS) else None)


class Suite(gymnasium.Env[Any, Any]):
    """A task as a Gymnasium environment that shows a Dict of vectors, or the image of a camera (size, number)."""

    def __init__(self, env: Any, repeat: int, camera: tuple[int, int] | None) -> None:
        self._env, self._repeat, self._camera = env, repeat, camera
        action = env.action_spec()
        self.action_space = spaces.Box(action.minimum, action.maximum, dtype=action.dtype)
        if camera is None:
            shapes = {key: spec.shape or (1,) for key, spec in env.observation_spec().items()}
            boxes: dict[str, spaces.Space[Any]] = {
                key: spaces.Box(-np.inf, np.inf, shape, np.float64) for key, shape in shapes.items()
            }
            self.observation_space = spaces.Dict(boxes)
        else:
            self.observation_space = spaces.Box(0, 255, (camera[0], camera[0], 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self._env.task.random.seed(seed % 2**32)
        return self._observe(self._env.reset()), {}

    def step(self, action: Float[np.ndarray, " A"]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = 0.0
        for _ in range(self._repeat):
            now = self._env.step(action)
            reward += now.reward
            if now.last():
                break
        return self._observe(now), reward, now.last() and now.discount == 0, now.last() and now.discount > 0, {}

    def close(self) -> None:
        self._env.close()

    def _observe(self, now: Any) -> Any:
        if self._camera is None:
            return {key: np.atleast_1d(np.asarray(part, np.float64)) for key, part in now.observation.items()}
        size, number = self._camera
        return self._env.physics.render(size, size, camera_id=number)


def _suite() -> Any:
    if installed("triton"):  # which PyTorch imports sooner or later: behind EGL's LLVM that ends the process
        with contextlib.suppress(Exception):
            importlib.import_module("triton")
    if MUJOCO_GL not in os.environ and installed("dm_control"):
        # Left alone, the package looks for a screen first and complains that there is none.
        os.environ[MUJOCO_GL] = "egl"
        try:
            importlib.import_module("dm_control.suite")
        except Exception:  # of several kinds
            os.environ[MUJOCO_GL] = BLIND
    return need("dm_control.suite", "dmc")


def _tasks() -> dict[str, tuple[str, str]]:
    return {f"{domain}-{task}".replace("_", "-"): (domain, task) for domain, task in _suite().ALL_TASKS}
