"""Moments with a reward ahead of them, to begin dreams with. Not published.

Where rewards are rare, dreams from moments drawn alike meet none: in KungFuMaster one of 16 within eight steps.
Measured in docs/evidence.md.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

from tokendream.data.replay import ReplayBuffer


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
