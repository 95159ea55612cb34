"""Puts faster layers into a tree of modules, and takes them out again: nothing but the class of a module changes.

Parameters, names and state dicts stay what they are. Whoever puts an agent on its device for work installs, once.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator

import torch
from torch import nn

from tokendream.device import Compute
from tokendream.kernels.chunkwise import WrittenRetNet
from tokendream.kernels.cpu import build
from tokendream.kernels.cpu.fused import FUSED
from tokendream.kernels.frozen import RoundedConv
from tokendream.kernels.norms import StoredLayerNorm, StoredNormSwish
from tokendream.nn.conv import NormSwish
from tokendream.nn.lpips import LPIPS, FrozenConv
from tokendream.nn.retnet import RetNet

PLAIN, COMPILED, TRITON = "PyTorch", "torch.compile", "Triton"
"""Ways to compute on a GPU: PyTorch's own operators, what torch.compile makes of them, a kernel of ours."""

IN_BF16: dict[type[nn.Module], type[nn.Module]] = {
    RetNet: WrittenRetNet,
    nn.LayerNorm: StoredLayerNorm,
    NormSwish: StoredNormSwish,
    FrozenConv: RoundedConv,
}
"""Which layer takes which one's place on a GPU."""


def install(tree: nn.Module, compute: Compute) -> None:
    """Let a tree's layers compute by what the config asks for and this machine has, whatever was installed before.

    Of an agent, each part in its own way where `tokendream machine --tune` found one.
    """
    tuned, usual = dict(compute.tuned), COMPILED if compute.compile else PLAIN
    layers = {way: _layers(way, compute) for way in {usual, *tuned.values()}}
    for name, module in tree.named_modules():
        faster = layers[tuned.get(name.partition(".")[0], usual)]
        module.__class__ = faster.get(_plain(module), _plain(module))


def _layers(way: str, compute: Compute) -> dict[type[nn.Module], type[nn.Module]]:
    """Which layer takes which one's place."""
    if compute.device.type == "cpu":
        own = way == PLAIN and compute.kernels and build.library() is not None
        found: dict[type[nn.Module], type[nn.Module]] = FUSED if own else {}
    else:
        found = IN_BF16 if compute.dtype is torch.bfloat16 else {}
    if way == COMPILED:
        from tokendream.kernels import compiled

        return found | compiled.COMPILED
    if way == TRITON and compute.device.type == "cuda" and has_triton():
        from tokendream.kernels.lpips import TritonLPIPS

        return found | {LPIPS: TritonLPIPS}
    return found


def has_triton() -> bool:
    """Whether Triton is installed, as it is beside a torch that is built for CUDA."""
    return importlib.util.find_spec("triton") is not None


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
    return next(kind for kind in type(module).__mro__ if not kind.__module__.startswith(__package__ or ""))


def describe(compute: Compute) -> str:
    """Device, precision and what computes, for people."""
    said = compute.describe()
    if compute.compile:
        return f"{said}, torch.compile"
    if compute.tuned:
        return f"{said}, tuned: " + ", ".join(f"{part} by {way}" for part, way in compute.tuned)
    if compute.device.type == "cuda":
        return f"{said}, not tuned"
    if compute.device.type == "cpu" and compute.kernels:
        said += ", own kernels" if (missing := build.why_not()) is None else f", no kernels ({missing})"
    return said
