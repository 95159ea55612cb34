"""How the ops are called: tensors as addresses, numbers as what C takes."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from tokendream.kernels.cpu import build

STORED = {torch.float32: 0, torch.bfloat16: 1}
"""Types that the ops read and write, and what the library calls them."""

Grads = tuple[Tensor | None, ...]


def call(name: str, like: Tensor, *arguments: Tensor | int | float | None) -> None:
    """Call a function of the library on tensors stored as `like` is; a missing tensor is a null pointer."""
    library = build.library()
    assert library is not None, "asked for a kernel where there are none"
    getattr(library, f"td_{name}")(STORED[like.dtype], *map(_as_c, arguments))


def _as_c(argument: Any) -> Any:
    if isinstance(argument, int):
        return ctypes.c_int64(argument)
    if isinstance(argument, float):
        return ctypes.c_double(argument)
    return ctypes.c_void_p(None if argument is None else argument.data_ptr())


def rows(x: Tensor) -> tuple[int, int]:
    """How many rows, and how long."""
    return x.numel() // x.shape[-1], x.shape[-1]


def draw_seed(p: float) -> int:
    """The seed of one dropout, from torch's default generator."""
    return int(torch.randint(2**63 - 1, ())) if p > 0 else 0
