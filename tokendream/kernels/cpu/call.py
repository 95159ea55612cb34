"""How the ops are called: tensors as addresses, numbers as what C takes."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tokendream.kernels.cpu import build

STORED = {torch.float32: 0, torch.bfloat16: 1}
"""Types that the ops read and write, and where each is in a table of the library (`EXPORT`)."""

Grads = tuple[Tensor | None, ...]


def call(name: str, *arguments: Tensor | int | float | None) -> None:
    """Call an op of the library in the type of the first tensor; a missing tensor is a null pointer."""
    stored = next(a.dtype for a in arguments if isinstance(a, Tensor))
    _function(name, STORED[stored])(*map(_as_c, arguments))


@functools.cache
def _function(name: str, stored: int) -> Callable[..., None]:
    library = build.library()
    assert library is not None, "asked for a kernel where there are none"
    address = (ctypes.c_void_p * 2).in_dll(library, f"td_{name}")[stored]
    assert address is not None, f"{name} does not take this type"
    return ctypes.CFUNCTYPE(None)(address)


def _as_c(argument: Any) -> Any:
    if isinstance(argument, int):
        return ctypes.c_int64(argument)
    if isinstance(argument, float):
        return ctypes.c_double(argument)
    return ctypes.c_void_p(None if argument is None else argument.data_ptr())


def differentiable(forward: Callable[..., Any], backward: Callable[..., Grads]) -> Callable[..., Any]:
    """An op and its gradient as one function of tensors and numbers.

    `forward(*inputs)` gives its outputs, the tensors that the gradient needs, and whatever else it needs;
    `backward(kept, facts, *gradients)` takes those and gives the gradient of every input, None where it has none.
    """

    class Op(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            outputs, kept, ctx.facts = forward(*inputs)
            ctx.save_for_backward(*kept)
            return outputs

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, *grads: Tensor | None) -> Grads:
            return backward(ctx.saved_tensors, ctx.facts, *grads)

    return Op.apply


def rows(x: Tensor) -> tuple[int, int]:
    """How many rows, and how long."""
    return x.numel() // x.shape[-1], x.shape[-1]


def draw_seed(p: float) -> int:
    """The seed of one dropout, from torch's default generator."""
    return int(torch.randint(2**63 - 1, ())) if p > 0 else 0
