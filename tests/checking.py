"""Shapes and types are checked at a call whose like the test has not made before: the same function, the same shapes.

Training calls the same functions with the same shapes for a thousand steps; to check every call doubles a suite's time.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Hashable
from typing import Any

import jaxtyping
import numpy as np
import torch

CHECKED: set[Hashable] = set()
"""Calls that were found right; `conftest` empties it before each test."""

PLAIN = {type(None), bool, int, str, type}

jaxtyped = jaxtyping.jaxtyped


def once(*, typechecker: Any) -> Callable[[Any], Any]:
    """In the place of `jaxtyping.jaxtyped`, which the import hook puts before every function and class."""

    def decorate(what: Any) -> Any:
        checked = jaxtyped(typechecker=typechecker)(what)
        if not isinstance(what, types.FunctionType):
            return checked
        if set(what.__annotations__.values()) <= {"Any", "None"}:
            return what

        @functools.wraps(what)
        def call(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            like = (what, *map(_like, args), *map(_like, kwargs.items()))
            if like in CHECKED:
                return what(*args, **kwargs)
            found = checked(*args, **kwargs)
            CHECKED.add(like)
            return found

        return call

    return decorate


def _like(value: Any) -> Hashable:
    """What two arguments have in common that are right or wrong together: a shape, a number; else they are the same."""
    kind = type(value)
    if isinstance(value, torch.Tensor):
        return kind, value.shape, value.dtype
    if kind in PLAIN:
        return kind, value
    if isinstance(value, np.ndarray):
        return kind, value.shape, value.dtype.str
    if isinstance(value, tuple):
        return kind, *map(_like, value)
    return kind, id(value)


def install() -> Any:
    """Check the package's modules that are imported from now on."""
    jaxtyping.jaxtyped = once
    return jaxtyping.install_import_hook("tokendream", "beartype.beartype")
