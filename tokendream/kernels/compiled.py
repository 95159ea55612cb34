"""torch.compile as another way to compute: fused ops made of nn's own lines, at their first use, for GPUs.

They take a minute to make. Where torch.compile fails, as without a compiler, the plain lines run after one warning.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch

from tokendream.nn.conv import NormSwish
from tokendream.nn.lpips import LPIPS
from tokendream.nn.retnet import RetNetLayer
from tokendream.nn.transformer import TransformerLayer


def _compiled(plain: Callable) -> Callable:
    """A function as torch.compile makes it; shapes are those of a phase, and few: each is compiled by itself."""
    runs: list[Callable] = []

    @functools.wraps(plain)
    def run(*args: Any) -> Any:
        if not runs:  # importing torch.compile takes seconds, and it warns
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
            runs.append(torch.compile(plain, dynamic=False))
        try:
            return runs[-1](*args)
        except torch._dynamo.exc.TorchDynamoException as error:
            runs.append(plain)
            warnings.warn(f"going on without torch.compile: {error}".split("\n")[0], RuntimeWarning, stacklevel=2)
            return run(*args)

    return run


NAMED = {RetNetLayer: "ffn", TransformerLayer: "ffn", NormSwish: "forward", LPIPS: "unit_distance"}
"""What is compiled of which layer."""

COMPILED = {
    plain: type(f"Compiled{plain.__name__}", (plain,), {name: _compiled(getattr(plain, name))})
    for plain, name in NAMED.items()
}
"""Which layer takes which one's place."""
