"""Scores: against hand numbers, against what REM published, and by the properties that define them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rem_published import REM_PUBLISHED

from tokendream.envs import atari100k
from tokendream.envs.atari100k import ATARI_100K
from tokendream.evaluation import scores
from tokendream.evaluation.scores import ScoreError

MATRIX = arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 7)), elements=st.floats(-2, 20))


def rem_means() -> np.ndarray:
    return np.array([[scores.human_normalised(game, row.rem) for game, row in ATARI_100K.items()]])


def test_rem_as_published() -> None:
    got = scores.aggregate(rem_means())
    assert len(ATARI_100K) == 26
    assert got.mean == pytest.approx(REM_PUBLISHED.mean, abs=5e-4)
    assert got.median == pytest.approx(REM_PUBLISHED.median, abs=5e-4)
    assert got.superhuman == REM_PUBLISHED.superhuman
    # The published IQM and optimality gap are over runs, of which the table has only means: near, not equal.
    assert got.iqm == pytest.approx(REM_PUBLISHED.iqm, abs=0.06)
    assert got.optimality_gap == pytest.approx(REM_PUBLISHED.optimality_gap, abs=0.01)


def test_human_normalised() -> None:
    assert scores.human_normalised("Pong", -20.7) == 0
    assert scores.human_normalised("Pong", 14.6) == 1
    assert scores.human_normalised("ms_pacman", 6951.6) == 1
    assert scores.human_normalised("Breakout", 16.1) == pytest.approx(0.5)
    with pytest.raises(ScoreError, match=r"'Brakeout'; nearest .*Breakout"):
        scores.human_normalised("Brakeout", 1.0)


def test_benchmark_name() -> None:
    assert [atari100k.benchmark_name(name) for name in ("up_n_down", "JAMESBOND", "Kung Fu Master", "Tetris")] == [
        "UpNDown",
        "Jamesbond",
        "KungFuMaster",
        None,
    ]


def test_by_hand() -> None:
    matrix = np.array([[0.0, 2.0, 1.0], [1.0, 4.0, 0.5]])
    got = scores.aggregate(matrix)
    assert got.mean == pytest.approx(8.5 / 6)
    assert got.median == 0.75  # the games' means are 0.5, 3, 0.75
    assert got.iqm == pytest.approx((0.5 + 1 + 1 + 2) / 4)  # one of six cut on each side
    assert got.optimality_gap == pytest.approx(1.5 / 6)
    assert got.superhuman == 1


def test_iqm_cuts_whole_scores_only() -> None:
    assert scores.iqm(np.array([[0.0, 1.0, 5.0]])) == 2.0
    assert scores.iqm(np.arange(8.0).reshape(2, 4)) == 3.5
    assert scores.iqm(np.array([[-100.0, 1.0, 2.0, 900.0]])) == 1.5


@given(MATRIX)
def test_properties(matrix: np.ndarray) -> None:
    got = scores.aggregate(matrix)
    assert matrix.min() - 1e-9 <= got.iqm <= matrix.max() + 1e-9
    assert got.optimality_gap >= -1e-12
    assert 0 <= got.superhuman <= matrix.shape[1]
    # Games have no order, and neither have runs.
    turned = scores.aggregate(matrix[::-1, ::-1])
    for name in scores.AGGREGATES:
        assert getattr(turned, name) == pytest.approx(getattr(got, name), abs=1e-9)
    # Capping at a human leaves the gap as it is.
    assert scores.aggregate(np.minimum(matrix, 1)).optimality_gap == pytest.approx(got.optimality_gap)


def test_stratified_intervals(rng: np.random.Generator) -> None:
    matrix = rng.normal(1, 0.3, (5, 6)) + np.arange(6)
    intervals = scores.stratified_intervals(matrix, np.random.default_rng(1))
    figures = scores.aggregate(matrix)
    for name, (low, high) in intervals.items():
        assert low <= getattr(figures, name) <= high, name
    assert intervals == scores.stratified_intervals(matrix, np.random.default_rng(1))
    # Only runs are resampled: games differ by 1 or more here, yet the mean is known far better than that.
    low, high = intervals["mean"]
    assert 0.05 < high - low < 0.4


def test_one_run_has_no_spread() -> None:
    for low, high in scores.stratified_intervals(rem_means(), np.random.default_rng(0), resamples=10).values():
        assert low == high


def test_stratified_coverage() -> None:
    """The 95% interval of the mean of 12 runs of one game covers the truth nine times in ten and more."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        low, high = scores.stratified_intervals(rng.normal(size=(12, 1)), rng, resamples=300)["mean"]
        hits += low <= 0 <= high
    assert 262 <= hits <= 294


def test_mean_interval(rng: np.random.Generator) -> None:
    episodes = rng.normal(10, 2, 400).tolist()
    low, high = scores.mean_interval([episodes], rng)
    error = 1.96 * np.std(episodes) / 20
    assert low == pytest.approx(np.mean(episodes) - error, abs=0.03)
    assert high == pytest.approx(np.mean(episodes) + error, abs=0.03)
    assert scores.mean_interval([[3.0]], rng) == (3.0, 3.0)


def test_runs_apart_widen_no_interval_over_their_episodes() -> None:
    """Each run's episodes are drawn again by themselves, so that what differs between runs is no noise."""
    rng = np.random.default_rng(0)
    episodes = rng.normal(size=(3, 40))
    apart = episodes + 100 * np.arange(3)[:, None]
    near = scores.mean_interval(episodes.tolist(), np.random.default_rng(1))
    far = scores.mean_interval(apart.tolist(), np.random.default_rng(1))
    assert np.allclose(np.array(far) - 100, near)
    expected = 1.96 * np.sqrt((episodes.var(1) / 40).sum()) / 3
    assert abs((near[1] - near[0]) / 2 / expected - 1) < 0.1
    with pytest.raises(scores.ScoreError):
        scores.mean_interval([[1.0], []], rng)


@pytest.mark.parametrize("bad", [np.zeros((0, 3)), np.array([[np.nan]]), np.array([[np.inf, 1.0]])])
def test_refuses(bad: np.ndarray, rng: np.random.Generator) -> None:
    with pytest.raises(ScoreError):
        scores.aggregate(bad)
    with pytest.raises(ScoreError):
        scores.stratified_intervals(bad, rng)
    with pytest.raises(ScoreError):
        scores.mean_interval([bad.ravel().tolist()], rng)


@given(MATRIX)
def test_a_profile_falls(matrix: np.ndarray) -> None:
    levels = np.array([-3.0, 0.0, 0.5, 1.0, 8.0, 20.0])
    profile = scores.performance_profile(matrix, levels)
    assert profile[0] == 1
    assert profile[-1] == 0
    assert (np.diff(profile) <= 0).all()
    assert profile[2] == (matrix > 0.5).mean()


def test_probability_of_improvement() -> None:
    x = np.array([[1.0, 5.0], [3.0, 5.0]])
    y = np.array([[2.0, 5.0]])
    # First game: one of two runs is better. Second: equal, which counts half.
    assert scores.probability_of_improvement(x, y) == 0.5
    assert scores.probability_of_improvement(x + 9, y) == 1
    assert scores.probability_of_improvement(y, x + 9) == 0
    low, high = scores.improvement_interval(x, y, np.random.default_rng(0))
    assert (low, high) == (0.25, 0.75)  # of two runs drawn again, both may be the worse or the better


@given(MATRIX)
def test_improvement_is_a_comparison(matrix: np.ndarray) -> None:
    assert scores.probability_of_improvement(matrix, matrix) == pytest.approx(0.5)
    other = matrix[:1] + 0.5
    both = scores.probability_of_improvement(matrix, other) + scores.probability_of_improvement(other, matrix)
    assert both == pytest.approx(1)
