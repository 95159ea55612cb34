"""Rows of the replay buffer that a reward follows soon, drawn so that rare rewards are not lost among frequent ones.

Where rewards are rare, rows drawn from all alike meet none, and of those that meet one nearly all meet the kind that
the policy has settled on. Not published; measured in docs/evidence.md.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64

from tokendream.data.batch import Segments
from tokendream.data.replay import ReplayBuffer


def with_rewarded(
    replay: ReplayBuffer,
    segments: Segments,
    share: float,
    ahead: range,
    rng: np.random.Generator,
    *,
    align: Literal["start", "end"],
    rare: float,
    before: int = 0,
) -> Segments:
    """Segments drawn with this `align`, the first share of them replaced by those of rows from `draw_rewarded`, to
    which the rest is given; as they are where no row has such a reward."""
    rewarded = round(share * len(segments.row))
    drawn = draw_rewarded(replay, rewarded, ahead, rng, rare=rare, before=before) if rewarded else ()
    if not len(drawn):
        return segments
    anchor = segments.row[:, 0 if align == "start" else -1].copy()
    anchor[:rewarded] = drawn
    return replay.segments(anchor, segments.row.shape[1], align=align)


def draw_rewarded(
    replay: ReplayBuffer, n: int, ahead: range, rng: np.random.Generator, *, rare: float = 0.0, before: int = 0
) -> Int64[np.ndarray, " n"]:
    """n of the rows of which a step so far `ahead` earned or cost something; none where there is no such row.

    The rows before a reward of one value, c of them, are each drawn with a weight of c**-rare: as often as they came
    with 0, all values alike with 1. `before` leaves out rows with fewer rows of their episode before them.
    """
    rows, coming = _remembered(replay, ahead, before)
    if not len(rows):
        return rows
    if rare == 0:
        return rows[rng.integers(len(rows), size=n)]
    return rows[rng.choice(len(rows), size=n, p=_chances(coming, rare))]


def _remembered(
    replay: ReplayBuffer, ahead: range, before: int
) -> tuple[Int64[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """`soon_rewarded`, which is found once for what is held."""
    return replay.remembered(("rewarded", ahead, before), lambda: soon_rewarded(replay, ahead, before))


def _chances(coming: Float32[np.ndarray, " n"], rare: float) -> Float64[np.ndarray, " n"]:
    """With which probability each row is drawn that has this reward ahead."""
    _, value, often = np.unique(coming, return_inverse=True, return_counts=True)
    weight = often[value] ** -rare
    return weight / weight.sum()


def soon_rewarded(
    replay: ReplayBuffer, ahead: range, before: int = 0
) -> tuple[Int64[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """The rows held of which a step so far `ahead` (0 is their own) earned or cost something; the first such reward.

    Steps end with their episode. `before` leaves out rows with fewer rows of their episode before them.
    """
    first = replay.first_held()
    order = np.argsort(first, kind="stable")  # one episode after the other
    episode, reward = first[order], replay.rewards[order]
    at, place = np.flatnonzero(reward), np.arange(len(order))
    following = np.append(at, len(order) + ahead.stop)[np.searchsorted(at, place + ahead.start)]
    found = (following - place < ahead.stop) & (place - np.searchsorted(episode, episode) >= before)
    found[found] = episode[following[found]] == episode[found]
    return order[found] + replay.oldest, reward[following[found]]


class Frequencies(NamedTuple):
    """How often each reward is among the steps that are learned from."""

    value: Float32[np.ndarray, " n"]
    came: Float64[np.ndarray, " n"]
    """Were segments drawn as if none were replaced."""
    drawn: Float64[np.ndarray, " n"]
    """As they are drawn."""


def frequencies(
    replay: ReplayBuffer,
    n: int,
    share: float,
    ahead: range,
    *,
    rare: float,
    newest: tuple[int, int] = (0, 0),
    after: int = 0,
) -> Frequencies:
    """Of the steps so far `ahead` of where n segments begin that `ReplayBuffer.draw` and then `with_rewarded` draw."""
    rows, (m, recent) = replay.anchors(0, after), newest
    late = rows >= min(max(replay.oldest, replay.total - recent), rows[-1])
    alike, of_newest = 1 / len(rows), late / late.sum()
    came = ((n - m) * alike + m * of_newest) / n
    first, coming = _remembered(replay, ahead, 0)
    k = round(share * n) if len(first) else 0
    kept = max(n - m - k, 0), min(m, n - k)  # the newest come last
    drawn = (kept[0] * alike + kept[1] * of_newest) / n
    segments = replay.segments(np.concatenate((rows, first)), ahead.stop, align="start")
    values, kind = np.unique(replay.rewards, return_inverse=True)
    kind = kind[segments.row[:, ahead.start :] - replay.oldest]

    def among(of_rows: Float64[np.ndarray, " r"], of_first: Float64[np.ndarray, " f"]) -> Float64[np.ndarray, " v"]:
        weight = np.concatenate((of_rows, of_first))[:, None] * segments.mask[:, ahead.start :]
        total = np.bincount(kind.ravel(), weight.ravel(), minlength=len(values))
        return total / (total.sum() or 1)  # episodes may be too short for any step so far ahead

    nothing = np.zeros(len(first))
    return Frequencies(values, among(came, nothing), among(drawn, k / n * _chances(coming, rare) if k else nothing))
