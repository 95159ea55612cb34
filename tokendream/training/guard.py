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

    def __init__(self, replay: ReplayBuffer, where: Callable[[int], str], *, waits: bool) -> None:
        """`where`: an update of the phase in words. `waits`: whether each update is looked at when it is over; on a
        GPU nobody waits for it.
        """
        self._replay, self._where, self.waits = replay, where, waits
        self._drawn: dict[int, Segments] = {}
        self._first: Tensor | None = None
        """On the device, the first update that was not finite, or -1; None where no update is noted."""

    @property
    def noted(self) -> bool:
        """Whether `settle` has something to look at, for which it waits for the device."""
        return self._first is not None

    def watch(self, update: int, drawn: Segments, losses: Losses, norm: Float[Tensor, ""]) -> None:
        """Raise NonFiniteError for an update that is not finite, or note it where nobody waits for it."""
        if self.waits:
            try:
                check(losses, norm, self._where(update))
            except NonFiniteError as error:
                error.batch = self._content(drawn)
                raise
            return
        self._drawn[update] = drawn
        bad = torch.isfinite(losses.total + norm).logical_not()
        none = torch.full_like(norm, -1) if self._first is None else self._first
        self._first = torch.where(bad & (none < 0), torch.full_like(norm, update), none)

    def settle(self) -> None:
        """Raise NonFiniteError for the first update noted, and forget the rest. Waits for the device."""
        first = -1 if self._first is None else int(self._first)
        drawn, self._drawn, self._first = self._drawn, {}, None
        if first >= 0:
            error = NonFiniteError(f"{self._where(first)}: a loss or the gradient is not finite")
            error.batch = self._content(drawn[first])
            raise error

    def _content(self, segments: Segments) -> dict[str, Tensor]:
        """Everything that is known of what an update drew."""
        rows = {"row": torch.from_numpy(segments.row), "frame": self._replay.frames(segments.row)}
        return {**rows, **self._replay.steps(segments)._asdict()}


def check(losses: Losses, norm: Tensor, where: str) -> None:
    """Raise NonFiniteError naming the first non-finite loss, or the norm. Waits for the device."""
    for name, term in losses.terms.items():
        if not bool(torch.isfinite(term.detach())):
            raise NonFiniteError(f"{where}: loss {name!r} is {float(term.detach())}")
    if not bool(torch.isfinite(norm)):
        raise NonFiniteError(f"{where}: the gradient's norm is {float(norm)}")
