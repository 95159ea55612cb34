"""Results of a layer as it is installed and as it is plain, and how far they are apart."""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TypeVar

import torch
from torch import nn

from tokendream.device import Compute
from tokendream.kernels.install import install

CPU = torch.device("cpu")
Tree = TypeVar("Tree", bound=nn.Module)


def choose(tree: Tree, *, kernels: bool) -> Tree:
    """The same tree with kernels in it, or without."""
    install(tree, Compute(CPU, torch.float32, kernels=kernels))
    return tree


def autocast(dtype: torch.dtype) -> torch.autocast:
    return Compute(CPU, dtype).autocast()


def results(
    run: Callable[..., Sequence[torch.Tensor]],
    shapes: Sequence[tuple[int, ...]],
    module: nn.Module,
    dtype: torch.dtype,
    seed: int = 1,
) -> list[torch.Tensor]:
    """Outputs, then the gradients of all inputs and parameters, of a layer over large and small numbers."""
    torch.manual_seed(seed)
    inputs = [(3 * torch.randn(shape)).to(dtype).requires_grad_() for shape in shapes]
    with autocast(dtype):
        outputs = run(*inputs)
    seen = [torch.randn(o.shape) for o in outputs]
    loss = sum((o.float() * s).sum() for o, s in zip(outputs, seen, strict=True))
    gradients = torch.autograd.grad(loss, [*inputs, *module.parameters()], allow_unused=True)
    return [t.detach().float() for t in (*outputs, *gradients) if t is not None]


def apart(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    """The largest distance of two tensors, as a share of their length."""
    assert [t.shape for t in a] == [t.shape for t in b]
    return max(float((p - q).detach().norm() / q.detach().norm()) for p, q in zip(a, b, strict=True))


def draws(
    run: Callable[..., Sequence[torch.Tensor]], shapes: Sequence[tuple[int, ...]], module: nn.Module, dtype: torch.dtype
) -> list[list[torch.Tensor]]:
    """`results` of eight seeds: the ratio of two `rounding`s deviates by .13 from seed to seed, by .045 over eight."""
    return [results(run, shapes, module, dtype, seed) for seed in range(8)]


def rounding(rough: list[list[torch.Tensor]], exact: list[list[torch.Tensor]]) -> float:
    """How far `draws` in bf16 are from those in float32, on average."""
    return fmean(apart(a, b) for a, b in zip(rough, exact, strict=True))
