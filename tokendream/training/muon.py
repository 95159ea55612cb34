"""Muon: matrices step along their orthogonalised momentum; whatever else there is steps by AdamW.

Source: Jordan et al. (2024), "Muon: an optimizer for hidden layers in neural networks". The one of torch.optim
computes in bf16, which most CPUs only emulate, and cannot leave out a step whose gradient is not finite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tokendream.training.adamw import AdamW

MOMENTUM = 0.95

QUINTIC = 3.4445, -4.7750, 2.0315
"""a, b, c of the polynomial a s + b s³ + c s⁵, which five times over brings singular values from (0, 1] close to 1."""


class Muon(AdamW):
    """AdamW whose groups with `orthogonal` step by Muon instead, at the same learning rate and decay.

    The root mean square of such a step's entries is about the learning rate, as of an early step of Adam's.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step, or none where `found_inf` is set, as in AdamW; nothing waits for the device."""
        matrices = [(p, group) for group in self.param_groups if group.get("orthogonal") for p in group["params"]]
        matrices = sorted((each for each in matrices if each[0].grad is not None), key=_shape)
        for _, same in groupby(matrices, _shape):
            self._step_along(list(same))
        for p, _ in matrices:
            p.grad = None  # AdamW passes over it
        return super().step(closure)

    def _step_along(self, matrices: Sequence[tuple[Tensor, dict[str, Any]]]) -> None:
        """Step matrices of one shape."""
        found_inf = getattr(self, "found_inf", None)
        skip = torch.zeros_like(matrices[0][0][0, 0], dtype=torch.bool) if found_inf is None else found_inf > 0
        directions = []
        for p, _ in matrices:
            state, gradient = self.state[p], p.grad
            assert gradient is not None
            if not state:
                state["step"], state["exp_avg"] = p.new_zeros(()), torch.zeros_like(p)
            state["step"] += (~skip).to(p.dtype)
            state["exp_avg"].copy_(torch.where(skip, state["exp_avg"], state["exp_avg"].lerp(gradient, 1 - MOMENTUM)))
            directions.append(gradient.lerp(state["exp_avg"], MOMENTUM))
        steps = orthogonalised(torch.stack(directions))
        for (p, group), step in zip(matrices, steps, strict=True):
            moved = p * (1 - group["lr"] * group["weight_decay"]) - group["lr"] * max(p.shape) ** 0.5 * step
            p.copy_(torch.where(skip, p, moved))


def _shape(matrix: tuple[Tensor, dict[str, Any]]) -> tuple[int, ...]:
    return tuple(matrix[0].shape)


def orthogonalised(x: Float[Tensor, "N R C"]) -> Float[Tensor, "N R C"]:
    """U Vᵀ of each matrix U S Vᵀ, nearly: singular values that are not tiny become 0.7 to 1.2."""
    a, b, c = QUINTIC
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = x.baddbmm(square.baddbmm(square, square, beta=b, alpha=c), x, beta=a)  # a x + (b square + c square²) x
    return x.mT if tall else x
