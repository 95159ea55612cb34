"""Replay by loss: which segments the world model predicted worst when it last saw them.

Source: Simulus (arXiv 2502.11537): a share of each batch is drawn by softmax(last loss), the rest uniformly.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int64

UNSEEN = 10.0
"""The loss of a segment that was never drawn: e^8 times as likely as one of loss 2."""


class Priorities:
    """The last loss of the segment that starts at each row of a replay buffer: row a in slot a mod capacity, as there.

    Rows that were overwritten take their loss with them; new rows are UNSEEN.
    """

    def __init__(self, capacity: int) -> None:
        self._loss = np.full(capacity, UNSEEN, np.float32)
        self._total = 0  # rows from here on are new, whatever stands in their slots

    def draw(
        self, rows: Int64[np.ndarray, " rows"], total: int, n: int, rng: np.random.Generator
    ) -> Int64[np.ndarray, " drawn"]:
        """n of these rows (all, where there are fewer), one after the other, each with the probability that softmax
        gives its loss among those still left. `total`: rows that the buffer was ever given.

        The n largest of loss + Gumbel noise are exactly that.
        """
        self._grow(total)
        n = min(n, len(rows))
        key = self._loss[rows % len(self._loss)] + rng.gumbel(size=len(rows))
        return rows[np.argpartition(key, len(rows) - n)[len(rows) - n :]]

    def note(self, row: Int64[np.ndarray, " n"], loss: Float32[np.ndarray, " n"]) -> None:
        """The losses of segments that start at these rows. One that is not finite says nothing."""
        self._loss[row % len(self._loss)] = np.where(np.isfinite(loss), loss, UNSEEN)

    def of(self, rows: Int64[np.ndarray, " rows"], total: int) -> Float32[np.ndarray, " rows"]:
        """The last losses of these rows, for a checkpoint."""
        self._grow(total)
        return self._loss[rows % len(self._loss)]

    def restore(self, rows: Int64[np.ndarray, " rows"], total: int, loss: Float32[np.ndarray, " saved"]) -> None:
        """Go on from what `of` gave of the last of these rows, or of more than them: a buffer may have another capacity
        now. Rows of which it gave none are UNSEEN."""
        self._total = total
        known = loss[max(0, len(loss) - len(rows)) :]
        self.note(rows, np.append(np.full(len(rows) - len(known), UNSEEN, np.float32), known))

    def _grow(self, total: int) -> None:
        new = np.arange(max(self._total, total - len(self._loss)), total)
        self._loss[new % len(self._loss)] = UNSEEN
        self._total = total
