"""Puts faster layers into a tree of modules, and takes them out again: nothing but the class of a module changes.

Parameters, names and state dicts stay what they are. Whoever puts an agent on its device for work installs, once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from tokendream.device import Compute
from tokendream.kernels.cpu import build
from tokendream.kernels.cpu.fused import FUSED
from tokendream.kernels.norms import STORED


def install(tree: nn.Module, compute: Compute) -> None:
    """Let a tree's layers compute by what the config asks for and this machine has, whatever was installed before."""
    faster: dict[type[nn.Module], type[nn.Module]] = {}
    if compute.device.type != "cpu" and compute.dtype is torch.bfloat16:
        faster = STORED
    if compute.compile:
        from tokendream.kernels.compiled import COMPILED

        faster = faster | COMPILED
    elif compute.kernels and compute.device.type == "cpu" and build.library() is not None:
        faster = FUSED
    for module in tree.modules():
        module.__class__ = faster.get(_plain(module), _plain(module))


@contextlib.contextmanager
def uninstalled(tree: nn.Module) -> Iterator[None]:
    """The context in which a tree's layers are nn's own, for whoever counts or compares."""
    before = [(module, type(module)) for module in tree.modules()]
    for module, _ in before:
        module.__class__ = _plain(module)
    try:
        yield
    finally:
        for module, kind in before:
            module.__class__ = kind


def _plain(module: nn.Module) -> type[nn.Module]:
    """Its class, or the one that a class of this folder stands in for."""
    kind = type(module)
    return kind.__bases__[0] if kind.__module__.startswith(__package__ or "") else kind


def describe(compute: Compute) -> str:
    """Device, precision and what computes, for people."""
    said = compute.describe()
    if compute.compile:
        return f"{said}, torch.compile"
    if compute.device.type == "cpu" and compute.kernels:
        said += ", own kernels" if (missing := build.why_not()) is None else f", no kernels ({missing})"
    return said
