"""A moving average of a part's weights: the agent uses the average, the optimiser steps the weights themselves.

Steps of a constant size leave weights that scatter around where they are going; their average scatters less. Source:
Polyak and Juditsky (1992); with this decay as in Mean Teacher (arXiv 1703.01780). Measured in docs/evidence.md. The
first updates are averaged alike, so that nothing is left of the weights before any.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class MovingAverage:
    """The average of a module's trainable weights over its updates, held by the module itself.

    The weights that are stepped lie beside it, and are in the module only while an update runs. Values change places
    and tensors stay, so that an optimiser and captured graphs hold on to what they know.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        """`decay`: what at most is left of the average before at each update."""
        self._decay, self._updates = decay, 0
        self._shown: dict[str, Tensor] = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._stepped = {name: p.detach().clone() for name, p in self._shown.items()}

    @contextlib.contextmanager
    def stepping(self) -> Iterator[None]:
        """An update: within, the module has the weights that are stepped; behind it, their average with these in it."""
        shown, stepped = list(self._shown.values()), list(self._stepped.values())
        average = [p.detach().clone() for p in shown]
        with torch.no_grad():
            torch._foreach_copy_(shown, stepped)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(stepped, shown)
                torch._foreach_lerp_(average, stepped, 1 - min(self._decay, self._updates / (self._updates + 1)))
                torch._foreach_copy_(shown, average)
            self._updates += 1

    def tensors(self) -> dict[str, Tensor]:
        """The weights that are stepped, and how often they were, for a checkpoint."""
        return {"updates": torch.tensor(self._updates)} | {f"stepped.{name}": p for name, p in self._stepped.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave. Raises KeyError or ValueError for anything else."""
        for name, p in self._stepped.items():
            saved = tensors[f"stepped.{name}"]
            if saved.shape != p.shape:  # `copy_` would spread it
                raise ValueError(f"stepped weights {name} must be {tuple(p.shape)}, not {tuple(saved.shape)}")
            p.copy_(saved)
        self._updates = int(tensors.get("updates", torch.tensor(2**31)))  # an older checkpoint: many
