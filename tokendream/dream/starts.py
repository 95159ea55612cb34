"""The real moments that C's dreams begin at: drawn from all steps alike, or a share of them shortly before a reward.

Where rewards are rare, dreams from all steps alike meet none: in KungFuMaster one of 15 within eight steps. Not
published; measured in docs/evidence.md.
"""

from __future__ import annotations

import numpy as np

from tokendream.config.parts import DreamConfig
from tokendream.data.batch import Segments
from tokendream.data.replay import ReplayBuffer
from tokendream.data.rewarded import with_rewarded


def draw(
    replay: ReplayBuffer,
    n: int,
    settings: DreamConfig,
    rng: np.random.Generator,
    *,
    context: int = 0,
    newest: tuple[int, int] = (0, 0),
    rare: float = 0.0,
) -> Segments:
    """n segments of up to burn_in + 1 rows, each of which ends where a dream begins.

    With `context_starts` there are at least so many rows of `context` before that. `newest`: see `ReplayBuffer.draw`;
    `rare`: see `draw_rewarded`.
    """
    length, before = settings.burn_in + 1, context if settings.context_starts else 0
    segments = replay.draw(n, length, align="end", rng=rng, before=before, newest=newest)
    share, ahead = settings.rewarded_starts, range(settings.horizon - 1)
    return with_rewarded(replay, segments, share, ahead, rng, align="end", rare=rare, before=before)
