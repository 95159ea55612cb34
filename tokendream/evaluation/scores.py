"""Scores of the Atari 100K benchmark and their statistics, in numpy only.

The aggregates and their intervals follow "Deep RL at the Edge of the Statistical Precipice" (arXiv 2108.13264). A
matrix of scores is `runs x games` of human-normalised scores (reference scores: envs/atari100k.py); every aggregate
reduces the last two axes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from tokendream.envs.atari100k import ATARI_100K, benchmark_name
from tokendream.errors import TokendreamError, nearest

Interval = tuple[float, float]
"""Its lower and its upper end."""

TAILS = (0.025, 0.975)
"""Every interval is one of 95%."""


class ScoreError(TokendreamError):
    """Scores that have no such statistic, or a game without reference scores."""


@dataclass(frozen=True)
class Aggregate:
    """The figures that stand for a whole benchmark; `superhuman` counts games."""

    mean: float
    median: float
    iqm: float
    optimality_gap: float
    superhuman: float


def human_normalised(game: str, score: float) -> float:
    """HNS = (score - random) / (human - random): 0 is random play, 1 a human's.

    Raises ScoreError for a game without reference scores.
    """
    name = benchmark_name(game)
    if name is None:
        raise ScoreError(f"no reference scores of {game!r}; nearest game of Atari 100K: {nearest(game, ATARI_100K)}")
    reference = ATARI_100K[name]
    return (score - reference.random) / (reference.human - reference.random)


def iqm(scores: Float64[np.ndarray, "*B runs games"]) -> Float64[np.ndarray, "*B"]:
    """Interquartile mean: the mean of all runs of all games without the lowest and the highest quarter.

    Whole scores only are cut, floor(n / 4) on each side.
    """
    flat = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    cut = flat.shape[-1] // 4
    return np.asarray(flat[..., cut : flat.shape[-1] - cut].mean(-1))


AGGREGATES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda x: x.mean((-2, -1)),
    "median": lambda x: np.median(x.mean(-2), axis=-1),
    "iqm": iqm,
    "optimality_gap": lambda x: (1 - np.minimum(x, 1)).mean((-2, -1)),
    "superhuman": lambda x: (x.mean(-2) >= 1).sum(-1, dtype=np.float64),
}
"""The median over games, and the games that are superhuman (at least a human's), are of the mean over runs. The
optimality gap is how far the runs stay below a human on average; what exceeds a human counts as a human."""


def aggregate(scores: Float[np.ndarray, "runs games"]) -> Aggregate:
    """All aggregates of a matrix of human-normalised scores. Raises ScoreError where it is empty or not finite."""
    matrix = _checked(scores)
    return Aggregate(**{name: float(figure(matrix)) for name, figure in AGGREGATES.items()})


def stratified_intervals(
    scores: Float[np.ndarray, "runs games"], rng: np.random.Generator, *, resamples: int = 2000
) -> dict[str, Interval]:
    """Percentile bootstrap interval of every aggregate, resampling the runs of each game separately.

    Games are fixed, not sampled: what varies between repetitions of the whole experiment is the seeds. With one
    run there is nothing to resample and every interval is a point. Raises ScoreError as `aggregate` does.
    """
    matrix = _checked(scores)
    figures = _resampled(matrix, rng, resamples)
    return {name: _percentiles(figure(figures)) for name, figure in AGGREGATES.items()}


def performance_profile(
    scores: Float[np.ndarray, "*B runs games"], levels: Float[np.ndarray, " L"]
) -> Float64[np.ndarray, "*B L"]:
    """Share of all runs of all games whose score exceeds each level, P(x > τ); it falls from 1 to 0 over τ."""
    flat = scores.reshape(*scores.shape[:-2], 1, -1)
    return np.asarray((flat > np.asarray(levels)[:, None]).mean(-1))


def profile_band(
    scores: Float[np.ndarray, "runs games"],
    levels: Float[np.ndarray, " L"],
    rng: np.random.Generator,
    *,
    resamples: int = 1000,
) -> tuple[Float64[np.ndarray, " L"], Float64[np.ndarray, " L"]]:
    """Pointwise lower and upper end of the stratified bootstrap interval of a performance profile."""
    profiles = performance_profile(_resampled(_checked(scores), rng, resamples), levels)
    low, high = np.quantile(profiles, TAILS, axis=0)
    return low, high


def probability_of_improvement(
    x: Float[np.ndarray, "*B runs games"], y: Float[np.ndarray, "*B other_runs games"]
) -> Float64[np.ndarray, "*B"]:
    """How likely a run of x beats a run of y on a game drawn at random: mean over games of P(x > y) + P(x = y) / 2.

    Says nothing about by how much. Both matrices hold the same games in the same order.
    """
    a, b = x[..., :, None, :], y[..., None, :, :]
    return np.asarray(((a > b) + 0.5 * (a == b)).mean((-3, -2, -1)))


def improvement_interval(
    x: Float[np.ndarray, "runs games"], y: Float[np.ndarray, "other_runs games"], rng: np.random.Generator
) -> Interval:
    """Stratified bootstrap interval of `probability_of_improvement`; the runs of x and of y are drawn independently."""
    a, b = (_resampled(_checked(m), rng, 2000) for m in (x, y))
    return _percentiles(probability_of_improvement(a, b))


def mean_interval(groups: Sequence[Sequence[float]], rng: np.random.Generator, *, resamples: int = 2000) -> Interval:
    """Percentile bootstrap interval of the mean over groups of the mean over each group's scores, in score units.

    The scores of each group are drawn again separately. Of the episodes of runs it says how well these runs are known,
    not how another seed would do. Raises ScoreError where a group has no scores or one is not finite.
    """
    means = np.zeros(resamples)
    for scores in groups:
        values = _checked(np.asarray(scores, np.float64)[None])[0]
        means += values[rng.integers(len(values), size=(resamples, len(values)))].mean(-1) / len(groups)
    return _percentiles(means)


def _resampled(
    matrix: Float64[np.ndarray, "runs games"], rng: np.random.Generator, resamples: int
) -> Float64[np.ndarray, "R runs games"]:
    """Bootstrap matrices, the runs of each game drawn again separately."""
    runs, games = matrix.shape
    return matrix[rng.integers(runs, size=(resamples, runs, games)), np.arange(games)]


def _percentiles(figures: Float64[np.ndarray, " R"]) -> Interval:
    low, high = np.quantile(figures, TAILS)
    return float(low), float(high)


def _checked(scores: Float[np.ndarray, "runs games"]) -> Float64[np.ndarray, "runs games"]:
    matrix = np.asarray(scores, np.float64)
    if matrix.size == 0:
        raise ScoreError(f"no scores to summarise: the matrix is {matrix.shape[0]} x {matrix.shape[1]}")
    if not np.isfinite(matrix).all():
        raise ScoreError("scores must be finite, but some are NaN or infinite")
    return matrix
