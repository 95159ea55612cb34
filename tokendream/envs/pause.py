"""One environment that can be closed for a while, for emulators of which a process may have only one.

An evaluation in the middle of training needs an emulator of its own. Where there can be no second one, training's is
closed, and made again afterwards: its open game is then played again, as when a run is resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int, UInt8

from tokendream.envs.vector import Envs, Transition


class Pausable:
    """What `make` makes. After `close` it is made again by the next reset."""

    def __init__(self, make: Callable[[], Envs]) -> None:
        self._make = make
        self._envs: Envs | None = make()
        self.n, self.spaces = self._envs.n, self._envs.spaces

    @property
    def closed(self) -> bool:
        """Whether it must be reset before it is stepped."""
        return self._envs is None

    def reset(self, seeds: Sequence[int | None]) -> UInt8[np.ndarray, " n *O"]:
        self._envs = self._envs or self._make()
        return self._envs.reset(seeds)

    def step(self, actions: Int[np.ndarray, " n"]) -> Transition:
        assert self._envs is not None, "closed, and not reset since"
        return self._envs.step(actions)

    def close(self) -> None:
        """Close it until it is needed again."""
        if self._envs is not None:
            self._envs.close()
        self._envs = None
