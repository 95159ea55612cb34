"""Any id that Gymnasium knows, or will know once the module before its colon is imported."""

from __future__ import annotations

from typing import Any

import gymnasium

from tokendream.config.parts import EnvConfig
from tokendream.envs.families.common import repeated


def make(name: str, config: EnvConfig) -> gymnasium.Env[Any, Any]:
    """The environment of an id. Raises Gymnasium's errors, which `envs.gym` puts into words."""
    return repeated(gymnasium.make(name, disable_env_checker=True, **config.arguments), config)
