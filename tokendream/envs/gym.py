"""Any Gymnasium environment with RGB image observations and discrete actions, by its id.

A user's own game needs no line of ours: `module:MyGame-v0` imports `module` first, which registers the id. Images
of any size are resized to SxS by area averaging. What does not fit is refused with what was expected and what came.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import gymnasium
import numpy as np
from gymnasium import spaces
from jaxtyping import Float64, Int, UInt8

from tokendream.envs.toy import CATCH
from tokendream.envs.vector import EnvError, Transition, check_actions, check_seeds

T = TypeVar("T")

RGB = "an RGB image (Box of uint8, height x width x 3), alone or under the key 'image' of a Dict"


class GymEnvs:
    """`n` lanes of one Gymnasium environment, stepped one after the other.

    `max_frames` truncates games that would not end by themselves; an env step counts as one frame here.
    Determinism is the environment's promise: it must obey the seed of its reset.
    """

    def __init__(self, env_id: str, n: int, *, size: int = 64, max_frames: int = 20_000) -> None:
        self.env_id = env_id
        self.n = n
        self._size, self._max_frames = size, max_frames
        self._lanes = [_make(env_id) for _ in range(n)]
        self._image = _image_space(env_id, self._lanes[0].observation_space)
        actions = self._lanes[0].action_space
        if not isinstance(actions, spaces.Discrete):
            raise EnvError(f"{env_id}: expected Discrete actions, but its action space is {actions}")
        self._first_action = int(actions.start)
        self.n_actions = int(actions.n)
        self.action_names = _action_names(self._lanes[0], self.n_actions)
        self._frame = np.zeros((n, 3, size, size), np.uint8)
        self._over = np.ones(n, bool)
        self._steps = np.zeros(n, np.int64)

    def reset(self, seeds: Sequence[int | None]) -> UInt8[np.ndarray, "n 3 S S"]:
        check_seeds(seeds, self.n)
        for lane, seed in enumerate(seeds):
            if seed is not None:
                self._steps[lane] = 0
                observation, _ = self._call(lane, "reset", functools.partial(self._lanes[lane].reset, seed=seed))
                self._frame[lane] = self._read(observation, lane)
                self._over[lane] = False
        return self._frame.copy()

    def step(self, actions: Int[np.ndarray, " n"]) -> Transition:
        check_actions(actions, self.n, self.n_actions)
        reward = np.zeros(self.n, np.float32)
        end = np.zeros(self.n, bool)
        for lane in np.flatnonzero(~self._over).tolist():
            self._steps[lane] += 1
            action = self._first_action + int(actions[lane])
            step = functools.partial(self._lanes[lane].step, action)
            observation, gain, terminated, truncated, _ = self._call(lane, "step", step)
            self._frame[lane] = self._read(observation, lane)
            reward[lane] = self._finite(gain, lane)
            end[lane] = terminated
            self._over[lane] = terminated or truncated or self._steps[lane] >= self._max_frames
        return Transition(self._frame.copy(), reward, end, self._over.copy())

    def close(self) -> None:
        for env in self._lanes:
            env.close()
        self._lanes = []

    def _where(self, lane: int) -> str:
        return f"{self.env_id}, step {self._steps[lane]}"

    def _call(self, lane: int, what: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except Exception as error:
            raise EnvError(f"{self._where(lane)}: {what} failed: {type(error).__name__}: {_line(error)}") from error

    def _read(self, observation: Any, lane: int) -> UInt8[np.ndarray, "3 S S"]:
        image = observation.get("image") if isinstance(observation, dict) else observation
        if not isinstance(image, np.ndarray) or image.shape != self._image.shape or image.dtype != np.uint8:
            got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise EnvError(f"{self._where(lane)}: expected an observation uint8 {self._image.shape}, but got {got}")
        return resize(image, self._size).transpose(2, 0, 1)

    def _finite(self, reward: Any, lane: int) -> float:
        try:
            value = float(reward)
        except (TypeError, ValueError):
            raise EnvError(f"{self._where(lane)}: expected a number as reward, but got {reward!r}") from None
        if not np.isfinite(value):
            raise EnvError(f"{self._where(lane)}: expected a finite reward, but got {value}")
        return value


def resize(image: UInt8[np.ndarray, "H W 3"], size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """The image as `size x size` pixels, each the mean of the area that it covers, rounded to the nearest.

    Where both sides are multiples of `size` the arithmetic is in integers; otherwise pixels on a border count by
    the part that is covered, in float64. An image smaller than `size` is enlarged by the same rule.
    """
    height, width, _ = image.shape
    if (height, width) == (size, size):
        return image
    if height % size == 0 and width % size == 0:
        rows, columns = height // size, width // size
        total = image.reshape(size, rows, size, columns, 3).sum((1, 3), dtype=np.uint32)
        return ((total + rows * columns // 2) // (rows * columns)).astype(np.uint8)
    down = _coverage(height, size) @ image.reshape(height, width * 3).astype(np.float64)
    both = _coverage(width, size) @ down.reshape(size, width, 3)
    return np.rint(both).astype(np.uint8)


@functools.cache
def _coverage(old: int, new: int) -> Float64[np.ndarray, "new old"]:
    """Which share of each new pixel every old pixel covers along one side; rows sum to 1."""
    edges = np.arange(new + 1) * (old / new)
    low = np.maximum(edges[:-1, None], np.arange(old))
    high = np.minimum(edges[1:, None], np.arange(1, old + 1))
    return np.maximum(high - low, 0) * (new / old)


def _make(env_id: str) -> gymnasium.Env[Any, Any]:
    if env_id.startswith("ALE/"):
        import ale_py  # noqa: F401  (importing it registers its ids)
    try:
        return gymnasium.make(env_id, disable_env_checker=True)
    except gymnasium.error.DependencyNotInstalled as error:
        raise EnvError(f"environment {env_id!r} lacks a package: {_line(error)}") from None
    except gymnasium.error.UnregisteredEnv:
        raise EnvError(_unknown(env_id)) from None
    except gymnasium.error.Error as error:
        # A malformed id is a plain Error, like much else.
        unknown = env_id not in gymnasium.registry
        raise EnvError(_unknown(env_id) if unknown else f"environment {env_id!r}: {_line(error)}") from None
    except ImportError as error:
        raise EnvError(f"environment {env_id!r} cannot be imported: {_line(error)}") from error
    except Exception as error:
        raise EnvError(f"environment {env_id!r} cannot be made: {type(error).__name__}: {_line(error)}") from error


def _unknown(env_id: str) -> str:
    # Compared without namespace and version, which make short names look alike. Of several ids with one name the
    # last one counts: without namespace, then the highest version.
    specs = sorted(gymnasium.registry.values(), key=lambda spec: (spec.namespace is None, spec.version or 0))
    latest = {spec.name.lower(): spec.id for spec in specs}
    name = re.sub(r"^(.*:)?(.*/)?|-v\d+$", "", env_id).lower()
    close = [latest[match] for match in difflib.get_close_matches(name, latest, n=3, cutoff=0.4)]
    return (
        f"unknown environment {env_id!r}; nearest: {', '.join(close or [CATCH])} "
        "(an id of your own package is written module:Name-v0, so that the module is imported first)"
    )


def _line(something: object) -> str:
    return " ".join(str(something).split())


def _image_space(env_id: str, space: spaces.Space[Any]) -> spaces.Box:
    inner = space.spaces.get("image") if isinstance(space, spaces.Dict) else space
    if (
        not isinstance(inner, spaces.Box)
        or inner.dtype != np.uint8
        or len(inner.shape) != 3
        or inner.shape[-1] != 3
        or 0 in inner.shape
    ):
        raise EnvError(f"{env_id}: expected observations that are {RGB}, but its observation space is {_line(space)}")
    return inner


def _action_names(env: gymnasium.Env[Any, Any], n_actions: int) -> tuple[str, ...]:
    """The names an environment gives its actions (Atari's convention), or their numbers."""
    meanings = getattr(env.unwrapped, "get_action_meanings", None)
    names = tuple(str(name) for name in meanings()) if callable(meanings) else ()
    return names if len(names) == n_actions else tuple(str(a) for a in range(n_actions))
