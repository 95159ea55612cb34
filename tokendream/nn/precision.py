"""Where bf16 is not enough."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def raised(x: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """x in float32 or better: what autocast left in bf16 is raised, float64 stays, as parity tests ask for."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
