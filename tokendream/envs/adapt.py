"""Gymnasium environments as people write them, read with care: what is meant is taken, the rest refused in one line.

Rewards in arrays of one, names of actions that cannot be asked for, a close() that raises are taken. Refused are
signatures of gym before 0.26, with what would help, and rewards that are no finite numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import gymnasium
import numpy as np
from gymnasium import spaces

from tokendream.envs.vector import EnvError
from tokendream.errors import once, one_line
from tokendream.stop import Terminated

T = TypeVar("T")

OLD_API = (
    "Gymnasium's reset(seed=..., options=...) returns (observation, info) and its step(action) five values, "
    "observation, reward, terminated, truncated, info; shimmy's GymV21CompatibilityV0 wraps environments of older gym"
)

LARGEST_REWARD = float(np.finfo(np.float32).max)

Path = tuple[Any, ...]
"""The keys that lead to a part of an observation."""


def call(where: str, what: str, do: Callable[[], T]) -> T:
    """Call into an environment. Whatever comes out of it, sys.exit() too, is an EnvError naming place and call."""
    try:
        return do()
    except (KeyboardInterrupt, Terminated, EnvError):
        raise
    except SystemExit as error:
        raise EnvError(f"{where}: {what} wanted to end the process: sys.exit({error.code!r})") from error
    except BaseException as error:
        text = f"{type(error).__name__}: {one_line(error)}"
        old = "values to unpack" in text or ("unexpected keyword" in text and ("'seed'" in text or "'options'" in text))
        raise EnvError(f"{where}: {what} failed: {text}{f' ({OLD_API})' if old else ''}") from error


def close(env_id: str, env: gymnasium.Env[Any, Any]) -> None:
    """Close an environment; one that cannot be is left as it is, with one line."""
    try:
        call(env_id, "close", lambda: env.close())  # the attribute may be None
    except EnvError as error:
        once(str(error))


def check_reset(where: str, result: Any) -> Any:
    """The observation of a reset."""
    if not (isinstance(result, tuple | list) and len(result) == 2):
        raise EnvError(f"{where}: reset must return (observation, info), but it returned {_kind(result)}: {OLD_API}")
    return result[0]


def check_step(where: str, result: Any) -> tuple[Any, float, bool, bool]:
    """Observation, reward, terminated and truncated of a step."""
    if not (isinstance(result, tuple | list) and len(result) == 5):
        raise EnvError(f"{where}: step must return five values, but it returned {_kind(result)}: {OLD_API}")
    observation, reward, terminated, truncated, _ = result
    return (
        observation,
        _number(where, reward),
        _flag(where, "terminated", terminated),
        _flag(where, "truncated", truncated),
    )


def _kind(result: Any) -> str:
    if isinstance(result, tuple | list):
        return f"a {type(result).__name__} of {len(result)}"
    return f"{result.dtype} {result.shape}" if isinstance(result, np.ndarray) else type(result).__name__


def _number(where: str, reward: Any) -> float:
    """A reward: any number, or an array of one."""
    try:
        value = float(reward) if isinstance(reward, float | int) else np.asarray(reward, np.float64).item()
    except (TypeError, ValueError, OverflowError, RuntimeError):
        value = None
    if value is None or reward is None:
        raise EnvError(f"{where}: expected a number as reward, but got {one_line(repr(reward))}")
    if not abs(value) <= LARGEST_REWARD:  # NaN too
        raise EnvError(f"{where}: expected a finite reward, but got {value}")
    return value


def _flag(where: str, name: str, value: Any) -> bool:
    try:
        return bool(value)
    except (TypeError, ValueError):
        raise EnvError(f"{where}: expected true or false as {name}, but got {one_line(repr(value))}") from None


def leaves(space: spaces.Space[Any], path: Path = ()) -> Iterator[tuple[Path, spaces.Space[Any]]]:
    """What a space is made of, each by the keys that lead there."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        for key, part in parts:
            yield from leaves(part, (*path, key))
    else:
        yield path, space


def sizes(leaf: spaces.Space[Any], bins: int = 1) -> tuple[int, ...]:
    """How many values each number of a leaf has; each of a Box has `bins`."""
    if isinstance(leaf, spaces.Discrete):
        return (int(leaf.n),)
    if isinstance(leaf, spaces.MultiDiscrete):
        return tuple(leaf.nvec.ravel().tolist())
    return (2 if isinstance(leaf, spaces.MultiBinary) else bins,) * math.prod(leaf.shape or ())


def check_names(env_id: str, what: str, names: Sequence[str]) -> None:
    """Raise EnvError where two have one name."""
    if len(set(names)) < len(names):
        name = max(names, key=names.count)
        raise EnvError(f"{env_id}: two {what} are called {name}: a wrapper can rename one (--env.wrappers)")


def get(observation: Any, path: Path) -> Any:
    """The part of an observation that these keys lead to; None where there is none."""
    try:
        for key in path:
            observation = observation[key]
    except (KeyError, IndexError, TypeError):
        return None
    return observation


def action_names(env: gymnasium.Env[Any, Any], n_actions: int) -> tuple[str, ...]:
    """The names an environment gives its actions (Atari's convention), or their numbers."""
    try:
        names = call("", "", lambda: tuple(map(str, env.get_wrapper_attr("get_action_meanings")())))
    except EnvError:  # most have none
        names = ()
    return names if len(names) == n_actions else tuple(str(a) for a in range(n_actions))
