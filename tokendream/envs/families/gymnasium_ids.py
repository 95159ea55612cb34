"""Any id that Gymnasium knows, or will know once the module before its colon is imported."""

from __future__ import annotations

from typing import Any

import gymnasium

from tokendream.config.env import EnvConfig
from tokendream.envs.families.common import repeated


def names() -> list[str]:
    """The ids that are known, without Atari's, which are a family of their own."""
    return sorted(name for name in gymnasium.registry if not name.startswith("ALE/"))


def make(name: str, config: EnvConfig) -> gymnasium.Env[Any, Any]:
    """The environment of an id. Raises Gymnasium's errors, which `envs.gym` puts into words."""
    return repeated(gymnasium.make(name, disable_env_checker=True, **config.arguments), config)
