"""The guard for what is not finite: which update of a phase went wrong first, and what it had drawn."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from tokendream.data.batch import Segments
from tokendream.data.replay import ReplayBuffer
from tokendream.errors import NonFiniteError
from tokendream.nn.losses import Losses


class Guard:
    """Watches the gradient updates of one phase, numbered from 0. Nothing is collected while it does, so that the
    rows that an update drew are still there when it turns out to be not finite.
    """

    def __init__(self, replay: ReplayBuffer, *, waits: bool) -> None:
        """`waits`: whether each update is looked at when it is over; on a GPU nobody waits for it."""
        self._replay, self.waits = replay, waits
        self.drawn: dict[int, Segments] = {}
        self._first: Tensor | None = None
        """On the device, the first update that was not finite, or -1; None where no update is noted."""

    @property
    def noted(self) -> bool:
        """Whether `settle` has something to look at, for which it waits for the device."""
        return self._first is not None

    def watch(self, update: int, losses: Losses, norm: Float[Tensor, ""], where: str) -> None:
        """Raise NonFiniteError for an update that is not finite, or note it where nobody waits for it."""
        if self.waits:
            try:
                check(losses, norm, where)
            except NonFiniteError as error:
                error.batch = self._content(update)
                raise
            return
        bad = torch.isfinite(losses.total + norm).logical_not()
        none = torch.full_like(norm, -1) if self._first is None else self._first
        self._first = torch.where(bad & (none < 0), torch.full_like(norm, update), none)

    def settle(self, where: Callable[[int], str]) -> None:
        """Raise NonFiniteError, saying where, for the first update noted. Waits for the device."""
        if self._first is None:
            return
        first, self._first = int(self._first), None
        if first >= 0:
            error = NonFiniteError(f"{where(first)}: a loss or the gradient is not finite")
            error.batch = self._content(first)
            raise error

    def _content(self, update: int) -> dict[str, Tensor]:
        """Everything that is known of what an update drew."""
        segments = self.drawn[update]
        rows = {"row": torch.from_numpy(segments.row), "frame": self._replay.frames(segments.row)}
        return {**rows, **vars(self._replay.steps(segments))}


def check(losses: Losses, norm: Tensor, where: str) -> None:
    """Raise NonFiniteError naming the first non-finite loss, or the norm. Waits for the device."""
    for name, term in losses.terms.items():
        if not bool(torch.isfinite(term.detach())):
            raise NonFiniteError(f"{where}: loss {name!r} is {float(term.detach())}")
    if not bool(torch.isfinite(norm)):
        raise NonFiniteError(f"{where}: the gradient's norm is {float(norm)}")
