"""The real moments that C's dreams begin at: drawn from all steps alike, or a share of them shortly before a reward.

Where rewards are rare, dreams from all steps alike meet none: in KungFuMaster one of 15 within eight steps. Not
published; measured in docs/evidence.md.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

from tokendream.config.parts import DreamConfig
from tokendream.data.batch import Segments
from tokendream.data.replay import ReplayBuffer


def draw(
    replay: ReplayBuffer,
    n: int,
    settings: DreamConfig,
    rng: np.random.Generator,
    *,
    context: int = 0,
    newest: tuple[int, int] = (0, 0),
) -> Segments:
    """n segments of up to burn_in + 1 rows, each of which ends where a dream begins.

    With `context_starts` there are at least so many rows of `context` before that. `newest`: see `ReplayBuffer.draw`.
    """
    length, before = settings.burn_in + 1, context if settings.context_starts else 0
    segments = replay.draw(n, length, align="end", rng=rng, before=before, newest=newest)
    if rewarded := round(settings.rewarded_starts * n):
        rows, anchor = soon_rewarded(replay, settings.horizon - 1, before), segments.row[:, -1].copy()
        anchor[:rewarded] = rows[rng.integers(len(rows), size=rewarded)]
        segments = replay.segments(anchor, length, align="end")
    return segments


def soon_rewarded(replay: ReplayBuffer, steps: int, before: int = 0) -> Int64[np.ndarray, " n"]:
    """The rows held of which one of so many steps, their own first, earned or cost something; steps end with their
    episode. `before` leaves out rows with fewer rows before them. Where that leaves none: all of `replay.anchors`.
    """
    earned, found = replay.rewards != 0, [np.empty(0, np.int64)]
    for episode in replay.episodes():
        rows = np.arange(episode.start, episode.stop, episode.step)
        at, place = np.flatnonzero(earned[rows - replay.oldest]), np.arange(len(rows))
        following = np.append(at, len(rows) + steps)[np.searchsorted(at, place)]
        found.append(rows[(following - place < steps) & (place >= before)])
    rows = np.concatenate(found)
    return rows if len(rows) else replay.anchors(before, 0)
