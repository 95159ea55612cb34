"""Environments of every kind of space, for tests: registered on import, each a small deterministic world."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Worlds(gymnasium.Env[Any, Any]):
    """Ten steps; what is seen follows a counter, the seed and the last action; the reward is a small fraction."""

    shows: spaces.Space[Any]
    takes: spaces.Space[Any]

    def __init__(self) -> None:
        self.observation_space, self.action_space = self.shows, self.takes

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.t, self.last = 0, 0.0
        self.phase = int(self.np_random.integers(100))
        return self.look(self.observation_space), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        assert type(action) is type(self.action_space.sample())
        self.t += 1
        self.last = _sum(action)
        return self.look(self.observation_space), 0.01 * self.last, self.t == 10, False, {}

    def look(self, space: spaces.Space[Any]) -> Any:
        """An observation that lies in the space."""
        k = self.t + self.phase
        if isinstance(space, spaces.Dict):
            return {key: self.look(part) for key, part in space.spaces.items()}
        if isinstance(space, spaces.Tuple):
            return tuple(self.look(part) for part in space.spaces)
        if isinstance(space, spaces.Discrete):
            return int(space.start + k % space.n)
        if isinstance(space, spaces.MultiDiscrete):
            return (space.start + k % space.nvec).astype(space.dtype)
        if isinstance(space, spaces.MultiBinary):
            return (np.arange(np.prod(space.shape)).reshape(space.shape) + k).astype(np.int8) % 2
        if isinstance(space, spaces.Text):
            return "go"
        assert isinstance(space, spaces.Box)
        n = np.arange(np.prod(space.shape)).reshape(space.shape)
        if np.issubdtype(space.dtype, np.floating):
            return np.clip(np.sin(n + k) + self.last, space.low, space.high).astype(space.dtype)
        span = space.high.astype(int) - space.low + 1
        return (space.low + (n * 7 + k * 13) % span).astype(space.dtype)


def _sum(action: Any) -> float:
    parts = action.values() if isinstance(action, dict) else action if isinstance(action, tuple) else None
    return float(np.sum(action)) if parts is None else sum(map(_sum, parts))


IMAGE = spaces.Box(0, 255, (40, 48, 3), np.uint8)

KINDS: dict[str, tuple[spaces.Space[Any], spaces.Space[Any]]] = {
    "Vector": (spaces.Box(-np.inf, np.inf, (5,), np.float64), spaces.Box(-2, 1, (3,), np.float32)),
    "Map": (spaces.Box(0, 5, (6, 6), np.int64), spaces.MultiDiscrete([3, 2])),
    "Nested": (
        spaces.Dict({
            "image": IMAGE,
            "inner": spaces.Tuple((spaces.Discrete(3, start=1), spaces.Box(-1, 1, (2, 2), np.float32))),
            "words": spaces.Text(8),
        }),
        spaces.Dict({"drive": spaces.Box(-1, 1, (2,), np.float64), "gear": spaces.Discrete(4, start=-1)}),
    ),
    "Robot": (
        spaces.Dict({"camera": IMAGE, "pose": spaces.Box(-9, 9, (4,), np.float32), "mode": spaces.Discrete(3)}),
        spaces.Box(-1, 1, (2,), np.float32),
    ),
    "Grey": (spaces.Box(0, 1, (40, 40, 1), np.float32), spaces.MultiBinary(3)),
    "Fields": (spaces.Box(0, 1, (6, 6, 4), bool), spaces.Discrete(3, start=5)),
    "Bits": (spaces.MultiBinary(6), spaces.Tuple((spaces.Discrete(2), spaces.Box(0, 4, (1,), np.int32)))),
}  # fmt: skip

for name, (shows, takes) in KINDS.items():
    if f"Any{name}-v0" not in gymnasium.registry:
        kind = type(name, (Worlds,), {"shows": shows, "takes": takes})
        gymnasium.register(f"Any{name}-v0", entry_point=kind, disable_env_checker=True)  # type: ignore[arg-type]
