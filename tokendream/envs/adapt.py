"""Gymnasium environments as people write them, read with care: what is meant is taken, the rest refused in one line.

Rewards in arrays of one, an image under any key, names of actions that cannot be asked for, a close() that raises are
taken. Refused, with what would help: signatures of gym before 0.26, codes that have the shape of an RGB image, spaces
that are no image or no choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import gymnasium
import numpy as np
from gymnasium import spaces

from tokendream.envs.vector import EnvError
from tokendream.errors import one_line
from tokendream.notice import once
from tokendream.stop import Terminated

T = TypeVar("T")

RGB = "an RGB image (Box of uint8, height x width x 3), alone or in a Dict"

OLD_API = (
    "Gymnasium's reset(seed=..., options=...) returns (observation, info) and its step(action) five values, "
    "observation, reward, terminated, truncated, info; shimmy's GymV21CompatibilityV0 wraps environments of older gym"
)

SMALL = 32
"""An image with a side below this may be a map, one cell a pixel."""

CODES = 32
"""A map's codes stay below this; a picture's colours do not."""

DARK = 16
"""A game whose frames never reach this value, of 255, is hardly one to look at."""

MOST_ACTIONS = 2**16
"""More than anybody means: each has an embedding and an output of its own."""

LARGEST_REWARD = float(np.finfo(np.float32).max)

Path = tuple[Any, ...]
"""The keys that lead to a part of an observation."""


def call(where: str, what: str, do: Callable[[], T]) -> T:
    """Call into an environment. Whatever comes out of it, sys.exit() too, is an EnvError naming place and call."""
    try:
        return do()
    except (KeyboardInterrupt, Terminated):
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


def find_image(env_id: str, space: spaces.Space[Any]) -> tuple[Path, spaces.Box]:
    """Where in an observation the RGB image is, and its space: the only one, or of several that under `image`.

    Raises EnvError naming the keys that there are, and what would help.
    """
    images = {path: leaf for path, leaf in _leaves(space) if isinstance(leaf, spaces.Box) and _is_rgb(leaf)}
    path = ("image",) if ("image",) in images else next(iter(images), ())
    if not images or (len(images) > 1 and path != ("image",)):
        raise EnvError(
            f"{env_id}: expected observations that are {RGB}, but its observation space is {one_line(space)}; "
            f"{_help(space, list(images))}"
        )
    image = images[path]
    if int(image.high.max()) < CODES:
        raise EnvError(f"{env_id}: {_codes(image.shape, int(image.high.max()))}")
    return path, image


def _leaves(space: spaces.Space[Any], path: Path = ()) -> Iterator[tuple[Path, spaces.Space[Any]]]:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        for key, part in parts:
            yield from _leaves(part, (*path, key))
    else:
        yield path, space


def _is_rgb(box: spaces.Box) -> bool:
    return box.dtype == np.uint8 and len(box.shape) == 3 and box.shape[-1] == 3 and 0 not in box.shape


def _help(space: spaces.Space[Any], images: list[Path]) -> str:
    """What a user can do about a space without one RGB image."""
    if images:
        keys = ", ".join(".".join(map(str, path)) for path in images)
        return f"it has {len(images)} images, {keys}: call the one to be looked at 'image'"
    for path, leaf in _leaves(space):
        if isinstance(leaf, spaces.Box) and len(leaf.shape) in (2, 3) and min(leaf.shape) > 0:
            name = f"{'.'.join(map(str, path)) or 'it'} is {leaf.dtype} {leaf.shape}"
            return f"{name}: gymnasium.wrappers.TransformObservation can make it uint8, height x width x 3, 0 to 255"
    return "gymnasium.wrappers.AddRenderObservation shows what it renders instead"


def _codes(shape: tuple[int, ...], most: int) -> str:
    return (
        f"its observations are {shape[0]}x{shape[1]}x3 with values up to {most}, which are codes of a map rather than "
        "an RGB image: register it with a wrapper that shows colours (MiniGrid: RGBImgPartialObsWrapper)"
    )


def check_colours(where: str, image: np.ndarray) -> None:
    """Raise EnvError for the first observation of a game if it holds codes in the shape of an image."""
    if min(image.shape[:2]) < SMALL and 0 < (most := int(image.max())) < CODES:
        raise EnvError(f"{where}: {_codes(image.shape, most)}")


def get(observation: Any, path: Path) -> Any:
    """The part of an observation that these keys lead to; None where there is none."""
    try:
        for key in path:
            observation = observation[key]
    except (KeyError, IndexError, TypeError):
        return None
    return observation


def check_choice(env_id: str, space: spaces.Space[Any]) -> spaces.Discrete:
    """The action space, if it is one choice. Raises EnvError with what would make it one."""
    if not isinstance(space, spaces.Discrete):
        wrapper = "DiscretizeAction" if isinstance(space, spaces.Box) else "TransformAction"
        raise EnvError(
            f"{env_id}: expected Discrete actions, but its action space is {one_line(space)}; "
            f"gymnasium.wrappers.{wrapper} can make it Discrete"
        )
    if space.n > MOST_ACTIONS:
        raise EnvError(f"{env_id}: expected at most {MOST_ACTIONS} actions, but it has {space.n}")
    return space


def action_names(env: gymnasium.Env[Any, Any], n_actions: int) -> tuple[str, ...]:
    """The names an environment gives its actions (Atari's convention), or their numbers."""
    try:
        names = call("", "", lambda: tuple(str(name) for name in env.unwrapped.get_action_meanings()))  # type: ignore[attr-defined]
    except EnvError:  # most have none
        names = ()
    return names if len(names) == n_actions else tuple(str(a) for a in range(n_actions))
