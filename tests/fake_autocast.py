"""Autocast for the fake GPU (see `fake_gpu`): what CUDA's does, by the lists of operators in torch's own header.

Torch gives a device that Python registers no rules of autocast: without these, everything there is float32.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

HEADER = Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h"
KEY = torch._C.DispatchKey.AutocastPrivateUse1


def listed(macro: str) -> list[Any]:
    """The operators that the header lists there."""
    body = re.search(rf"#define AT_FORALL_{macro}\(_\)(.*?)\n\n", HEADER.read_text(), re.DOTALL)
    assert body is not None, f"{HEADER} has no list {macro}"
    found = re.findall(r"_\((\w+)(?:, (\w+))?\)", body[1])
    return [
        getattr(getattr(torch.ops.aten, name), overload or "default")
        for name, overload in found
        if overload != "deprecated"
    ]


casts: dict[tuple[Any, ...], tuple[torch.Tensor, torch.Tensor]] = {}
"""Parameters and what they are in bf16, which torch keeps until the outermost autocast ends (see `fake_gpu`).

The parameter is kept too, so that no other tensor gets its id."""


def _cast(x: Any, dtype: torch.dtype) -> Any:
    if not _eligible(x) or x.dtype is dtype:
        return x
    if not (x.is_leaf and x.requires_grad and dtype is torch.bfloat16):
        return x.to(dtype)
    key = id(x), torch.is_grad_enabled()
    if key not in casts:
        casts[key] = x, x.to(dtype)
    return casts[key][1]


def _eligible(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.device.type != "cpu" and x.dtype in (torch.float32, torch.bfloat16)


def _casting(op: Any, choose: Callable[[list[torch.dtype]], torch.dtype]) -> Callable[..., Any]:
    """An operator that casts its tensors first; `choose` gets their types. float64 stays, as on CUDA."""

    def run(*args: Any, **kwargs: Any) -> Any:
        leaves, form = pytree.tree_flatten((args, kwargs))
        found = [x.dtype for x in leaves if _eligible(x)]
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(KEY)):
            cast = [_cast(x, choose(found)) for x in leaves]
            args, kwargs = pytree.tree_unflatten(cast, form)
            return op(*args, **kwargs)

    return run


def _promote(found: list[torch.dtype]) -> torch.dtype:
    return torch.float32 if torch.float32 in found else torch.bfloat16


def register() -> tuple[torch.library.Library, ...]:
    """Give the device its rules, for as long as what is returned lives."""
    rules = {
        "LOWER_PRECISION_FP": lambda found: torch.bfloat16,
        "FP32": lambda found: torch.float32,
        "FP32_SET_OPT_DTYPE": lambda found: torch.float32,
        "PROMOTE": _promote,
    }
    others, library = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    others.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for macro, choose in rules.items():
        for op in listed(macro):
            library.impl(op, _casting(op, choose), "AutocastPrivateUse1")
    # Else torch makes the gradient of swish of four operators on a device that it does not know.
    library.impl("silu_backward", torch.library.fallthrough_kernel, "AutogradPrivateUse1")
    return others, library
