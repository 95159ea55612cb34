"""Action spaces of Gymnasium as components of an action, and what the environment gets for one.

Discrete, MultiDiscrete and MultiBinary are choices as they are; each number of a Box is one of `BINS` evenly spaced
values between its bounds; Dict and Tuple are those of their parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from gymnasium import spaces

from tokendream.envs import adapt
from tokendream.envs.vector import EnvError
from tokendream.errors import once, one_line
from tokendream.spaces.actions import LARGEST_JOINT, ActionSpace, Discrete

BINS = 51
"""Values of a number of a Box, unless its action has so many that fewer must do. Source: Simulus (arXiv 2502.11537)."""

MOST = 128
"""Components of an action."""

MOST_ACTIONS = 2**16
"""More than anybody means: each has an embedding and an output of its own."""

EXACT, LARGEST = 2**53, float(np.finfo(np.float64).max) / 2
"""Of a bound: whole numbers up to here are floats, and numbers have a difference."""

ToEnv = Callable[[Iterator[int]], Any]
"""What the environment gets, from the choices of its components."""


class Choices:
    """The actions of an environment. Raises EnvError for a space without choices or bounds, with what would help."""

    def __init__(self, env_id: str, space: spaces.Space[Any]) -> None:
        first = () if isinstance(space, spaces.Dict) else ("action",)
        leaves = [(".".join(map(str, (*first, *path))), leaf) for path, leaf in adapt.leaves(space)]
        for name, leaf in leaves:
            _check(env_id, name, leaf)
        others = math.prod(n for _, leaf in leaves for n in adapt.sizes(leaf))
        numbers = sum(math.prod(leaf.shape) for _, leaf in leaves if isinstance(leaf, spaces.Box))
        components = sum(len(adapt.sizes(leaf)) for _, leaf in leaves)
        if not components:
            raise EnvError(f"{env_id}: its action space is empty, which leaves nothing to choose: {one_line(space)}")
        fit = [bins for bins in range(BINS, 1, -2) if others * bins**numbers <= LARGEST_JOINT]
        if components > MOST or not fit:
            largest, _ = max(leaves, key=lambda named: sum(map(math.log, adapt.sizes(named[1], 3))))
            raise EnvError(
                f"{env_id}: its actions have {components} components, most of them in {largest}: more than {MOST}, or "
                "more combinations than 64 bits count; gymnasium.wrappers.TransformAction can choose fewer"
            )
        self.bins = fit[0]
        if numbers and self.bins < BINS:
            once(f"{env_id}: an action has {numbers} numbers, each one of {self.bins} values instead of {BINS}")
        self.sizes = tuple(n for _, leaf in leaves for n in adapt.sizes(leaf, self.bins))
        self.names = tuple(name for key, leaf in leaves for name in _names(key, leaf))
        adapt.check_names(env_id, "components of an action", self.names)
        box = [isinstance(leaf, spaces.Box) for _, leaf in leaves for _ in adapt.sizes(leaf)]
        self.numbers = tuple(i for i, is_number in enumerate(box) if is_number)
        self._make = _maker(space, self.bins)
        self.is_choice = isinstance(space, spaces.Discrete)

    @property
    def space(self) -> ActionSpace:
        """The same as the agent sees it."""
        return Discrete(self.sizes[0]) if self.is_choice else ActionSpace(self.sizes)

    def to_env(self, action: int) -> Any:
        """What the environment receives: what its space samples, of the same type and shape."""
        parts = []
        for size in self.sizes:
            action, part = divmod(action, size)
            parts.append(part)
        return self._make(iter(parts))


def _check(env_id: str, name: str, leaf: spaces.Space[Any]) -> None:
    if not isinstance(leaf, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        raise EnvError(
            f"{env_id}: {name} of its actions is a {type(leaf).__name__}: gymnasium.wrappers.TransformAction can make "
            "it a Box or a choice"
        )
    if isinstance(leaf, spaces.Box):
        widest = float(np.abs([leaf.low, leaf.high], dtype=np.float64).max(initial=0))
        if widest > (EXACT if np.issubdtype(leaf.dtype, np.integer) else LARGEST):
            raise EnvError(
                f"{env_id}: {name} of its actions has {'no bounds' if widest == np.inf else 'bounds too far apart'}: "
                "gymnasium.wrappers.TransformAction can give it some"
            )
    most = max(adapt.sizes(leaf), default=1)
    if most > MOST_ACTIONS:
        raise EnvError(
            f"{env_id}: expected at most {MOST_ACTIONS} choices, but {name} of its actions has {most}: "
            "gymnasium.wrappers.TransformAction can make it a Box, or offer fewer"
        )


def _names(name: str, leaf: spaces.Space[Any]) -> list[str]:
    n = len(adapt.sizes(leaf))
    return [name] if n == 1 else [f"{name}[{i}]" for i in range(n)]


def _maker(space: spaces.Space[Any], bins: int) -> ToEnv:
    if isinstance(space, spaces.Dict):
        parts = {key: _maker(part, bins) for key, part in space.spaces.items()}
        return lambda chosen: {key: make(chosen) for key, make in parts.items()}
    if isinstance(space, spaces.Tuple):
        makers = [_maker(part, bins) for part in space.spaces]
        return lambda chosen: tuple(make(chosen) for make in makers)
    if isinstance(space, spaces.Discrete):
        return lambda chosen: space.dtype.type(space.start + next(chosen))
    shape, dtype = space.shape or (), space.dtype
    n = math.prod(shape)

    def numbers(chosen: Iterator[int]) -> np.ndarray:
        return np.array([next(chosen) for _ in range(n)]).reshape(shape)

    if isinstance(space, spaces.Box):
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        whole = np.issubdtype(dtype, np.integer)

        def scaled(chosen: Iterator[int]) -> np.ndarray:
            value = low + numbers(chosen) / (bins - 1) * (high - low)
            return (value.round() if whole else value).clip(low, high).astype(dtype)

        return scaled
    start = space.start if isinstance(space, spaces.MultiDiscrete) else 0
    return lambda chosen: (numbers(chosen) + start).astype(dtype)
