"""The published scores: complete, those of REM's table, and summarised as REM's authors and `rliable` do."""

import re

import numpy as np
import pytest
from rem_published import REM_PUBLISHED

from tokendream.config.cuts import ABLATIONS
from tokendream.envs.atari100k import ATARI_100K
from tokendream.evaluation import published, scores
from tokendream.evaluation.scores import human_normalised

GAMES = tuple(ATARI_100K)

RLIABLE = {
    "IRIS": {
        "mean": (1.0459, 0.9649, 1.1270),
        "median": (0.2888, 0.2488, 0.4127),
        "iqm": (0.5012, 0.4419, 0.5638),
        "optimality_gap": (0.5117, 0.4917, 0.5329),
    },
    "REM": {
        "mean": (1.2220, 1.1734, 1.2679),
        "median": (0.2804, 0.2362, 0.3965),
        "iqm": (0.6732, 0.6168, 0.7303),
        "optimality_gap": (0.4823, 0.4700, 0.4943),
    },
}
"""Figure, lower and upper end of its 95% interval, as rliable 1.2.0 (arch 7.2.0, numpy 2.4.6, pandas 2.3.3) gave them
in a separate environment for the matrices of `published.agents()[name].matrix(GAMES)`: `get_interval_estimates` with
20,000 resamples and RandomState(0)."""

RLIABLE_LEVELS = (0.0, 0.1, 0.5, 1.0, 2.0)
RLIABLE_PROFILE = (
    (0.98461538, 0.65384615, 0.46923077, 0.43076923, 0.27692308),
    (0.96923077, 0.61538462, 0.46153846, 0.40769231, 0.25384615),
    (1.0, 0.68461538, 0.48461538, 0.45384615, 0.3),
)
"""REM's performance profile at these levels with its band, by the same installation's `create_performance_profile`
with 4,000 resamples."""

RLIABLE_IMPROVEMENT = (0.5938461538461538, 0.53692308, 0.65153846)
"""P(REM > IRIS) and its interval, by the same installation's `probability_of_improvement`, 4,000 resamples."""


SUCCESSORS = {
    "Simulus": (1.645, 0.982, 0.990, 0.412),
    "Simulus, re-run": (1.609, 0.737, 0.913, 0.424),
    "EASimulus": (1.818, 0.773, 1.004, 0.394),
}
"""Mean, median, IQM and optimality gap."""


ABLATED = {
    "coarse-tokens": 1.341, "no-action-inputs": 1.571, "pixels": 1.340, "own-embedding": 1.778, "no-pop": 2.357
}  # fmt: skip
"""Human-normalised means of REM's ablations over their eight games, from their raw scores."""


def matrix(name: str) -> np.ndarray:
    return published.agents()[name].matrix(GAMES)


def test_every_agent_has_every_game_and_says_where_from() -> None:
    found = published.agents()
    before = ["SimPLe", "TWM", "IRIS", "DreamerV3", "STORM", "DIAMOND", "HarmonyDream", "EADream", "REM"]
    assert list(found) == [*before, *SUCCESSORS]
    for agent in found.values():
        assert agent.matrix(GAMES).shape == (3 if agent.name == "HarmonyDream" else 5, 26)
        assert re.search(r"arXiv \d{4}\.\d{5}", agent.paper)
        assert "json at " in agent.source
        assert agent.later is (agent.name in SUCCESSORS)


@pytest.mark.parametrize("name", SUCCESSORS)
def test_rems_successors_come_out_as_published(name: str) -> None:
    got = scores.aggregate(matrix(name))
    assert (got.mean, got.median, got.iqm, got.optimality_gap) == pytest.approx(SUCCESSORS[name], abs=5e-4)


def test_rems_ablations_have_its_eight_games_and_no_pop_all() -> None:
    games = sorted(published.ablations()["pixels"])
    for name, runs in published.ablations().items():
        assert name in ABLATIONS
        of_them = [[human_normalised(game, score) for score in runs[game]] for game in games]
        assert np.mean([np.mean(of_game) for of_game in of_them]) == pytest.approx(ABLATED[name], abs=5e-4), name
        assert len(runs) == (26 if name == "no-pop" else 8)
        assert {len(of_game) for of_game in runs.values()} <= ({3, 4, 5} if name == "no-pop" else {5})


def test_simulus_in_the_control_suite_has_the_mean_of_its_paper() -> None:
    suite = published.control_suite()
    assert {len(runs) for runs in suite.values()} == {5}
    assert np.mean([np.mean(runs) for runs in suite.values()]) == pytest.approx(795.6, abs=0.05)
    assert np.mean(suite["walker-walk"]) == pytest.approx(970, abs=0.5)


def test_rem_run_by_run_gives_what_rem_published() -> None:
    """All five published figures, IQM and optimality gap among them, which the table of means cannot give."""
    got = scores.aggregate(matrix("REM"))
    for name in scores.AGGREGATES:
        assert getattr(got, name) == pytest.approx(getattr(REM_PUBLISHED, name), abs=5e-4), name


def test_the_runs_have_the_means_of_rems_table() -> None:
    for game, row in ATARI_100K.items():
        assert np.mean(published.agents()["REM"].runs[game]) == pytest.approx(row.rem, abs=0.0501), game


@pytest.mark.parametrize("name", RLIABLE)
def test_intervals_are_rliables(name: str) -> None:
    """Bootstrap intervals of two draws differ by noise only: 0.006 is twice what 4,000 resamples leave."""
    figures = scores.aggregate(matrix(name))
    intervals = scores.stratified_intervals(matrix(name), np.random.default_rng(0), resamples=4000)
    for aggregate, (figure, low, high) in RLIABLE[name].items():
        assert getattr(figures, aggregate) == pytest.approx(figure, abs=6e-5)
        assert intervals[aggregate] == pytest.approx((low, high), abs=0.006), aggregate


def test_the_profile_is_rliables() -> None:
    levels = np.array(RLIABLE_LEVELS)
    rem = matrix("REM")
    figure, low, high = RLIABLE_PROFILE
    assert scores.performance_profile(rem, levels) == pytest.approx(figure, abs=1e-7)
    got = scores.profile_band(rem, levels, np.random.default_rng(0))
    assert got[0] == pytest.approx(low, abs=0.009)  # one run of 130 is 0.0077
    assert got[1] == pytest.approx(high, abs=0.009)


def test_the_probability_of_improvement_is_rliables() -> None:
    rem, iris = matrix("REM"), matrix("IRIS")
    figure, low, high = RLIABLE_IMPROVEMENT
    assert scores.probability_of_improvement(rem, iris) == pytest.approx(figure, abs=1e-12)
    assert scores.improvement_interval(rem, iris, np.random.default_rng(0)) == pytest.approx((low, high), abs=0.006)
