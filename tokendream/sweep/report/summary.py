"""The figures of a benchmark report, computed once for the page, the LaTeX tables and the JSON file.

Agents are compared on the games that every one of ours has complete, with the published agents on those same games.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from tokendream.envs.atari100k import ATARI_100K
from tokendream.evaluation import published, scores
from tokendream.evaluation.scores import Aggregate, Interval, human_normalised
from tokendream.sweep.report.results import Result, SweepResults

AGGREGATES = (
    ("iqm", "IQM", "higher is better"),
    ("median", "median", "higher is better"),
    ("mean", "mean", "higher is better"),
    ("optimality_gap", "optimality gap", "lower is better"),
)
"""Aggregates that are drawn and tabled, with their title; the number of superhuman games follows in tables."""

LEVELS = np.linspace(0, 8**0.5, 161) ** 2
"""Human-normalised scores at which performance profiles are drawn: 0 to 8, denser where most runs are."""


@dataclass(frozen=True)
class AgentScores:
    """An agent on the compared games. Intervals are None with a single run a game: there is nothing to resample."""

    name: str
    ours: bool
    runs: Float64[np.ndarray, "runs games"]
    figures: Aggregate
    intervals: Mapping[str, Interval] | None
    profile: Float64[np.ndarray, " L"]
    band: tuple[Float64[np.ndarray, " L"], Float64[np.ndarray, " L"]] | None


@dataclass(frozen=True)
class Improvement:
    """P(x > y) of two agents on the compared games; no interval where one of them has a single run a game."""

    x: str
    y: str
    probability: float
    interval: Interval | None


@dataclass(frozen=True)
class Point:
    """A place on a curve over env steps: the mean or the IQM of runs, and its interval where there is one."""

    env_steps: float
    value: float
    interval: Interval | None


@dataclass(frozen=True)
class Summary:
    """Everything that the report says."""

    results: SweepResults
    games: tuple[str, ...]
    agents: tuple[AgentScores, ...]
    improvements: tuple[Improvement, ...]
    curves: Mapping[str, tuple[Point, ...]]

    @property
    def ours(self) -> tuple[AgentScores, ...]:
        """The agents that were measured here."""
        return tuple(agent for agent in self.agents if agent.ours)


def summarise(results: SweepResults) -> Summary:
    """All figures. With no results at all, those of the published agents on the 26 games."""
    complete = {agent: results.complete(agent) for agent in results.agents}
    compared = [agent for agent in results.agents if complete[agent]]
    games = tuple(game for game in ATARI_100K if all(game in complete[agent] for agent in compared))
    if results.runs and not compared:
        games = ()
    agents = [_agent(name, True, _matrix(results, name, games)) for name in compared if games]
    agents += [_agent(f"{a.name}, published", False, a.matrix(games)) for a in published.agents().values() if games]
    curves = {name: curve(_of(results, name, games), normalised=True) for name in compared if games}
    shown = {name: points for name, points in curves.items() if points}
    return Summary(results, games, tuple(agents), tuple(_improvements(agents)), shown)


def _matrix(results: SweepResults, agent: str, games: Sequence[str]) -> Float64[np.ndarray, "runs games"]:
    return np.array([[human_normalised(g, s) for s in results.scores(agent, g).values()] for g in games]).T


def _agent(name: str, ours: bool, runs: Float64[np.ndarray, "runs games"]) -> AgentScores:
    several = len(runs) > 1
    return AgentScores(
        name,
        ours,
        runs,
        scores.aggregate(runs),
        scores.stratified_intervals(runs, np.random.default_rng(0)) if several else None,
        scores.performance_profile(runs, LEVELS),
        scores.profile_band(runs, LEVELS, np.random.default_rng(0), resamples=500) if several else None,
    )


def _improvements(agents: Sequence[AgentScores]) -> list[Improvement]:
    """Each of our agents against the published ones and against those of ours that come after it; REM leads where
    there is none of ours."""
    leading = [a for a in agents if a.ours] or [a for a in agents if a.name == "REM, published"]
    found = []
    for i, x in enumerate(leading):
        for y in agents:
            if y is not x and y not in leading[:i]:
                probability = float(scores.probability_of_improvement(x.runs, y.runs))
                several = min(len(x.runs), len(y.runs)) > 1
                interval = scores.improvement_interval(x.runs, y.runs, np.random.default_rng(0)) if several else None
                found.append(Improvement(x.name, y.name, probability, interval))
    return found


def _of(results: SweepResults, agent: str, games: Sequence[str]) -> list[Result]:
    return [run for run in results.runs if run.agent == agent and run.game in games and run.score is not None]


def curve(runs: Sequence[Result], *, normalised: bool) -> tuple[Point, ...]:
    """The evaluations during training and after it, at the env steps that all runs share.

    `normalised`: the IQM over runs and games of human-normalised scores, else the mean over runs of one game's scores.
    """
    at = [_evaluations(run) for run in runs]
    shared = sorted(set.intersection(*map(set, at))) if at else []
    games = list(dict.fromkeys(run.game for run in runs))
    points = []
    for steps in shared:
        values = {game: [e[steps] for e, run in zip(at, runs, strict=True) if run.game == game] for game in games}
        if normalised:
            matrix = np.array([[human_normalised(game, v) for v in values[game]] for game in games]).T
            low, high = scores.stratified_intervals(matrix, np.random.default_rng(0), resamples=500)["iqm"]
            points.append(Point(steps, float(scores.iqm(matrix)), (low, high) if len(matrix) > 1 else None))
        else:
            (only,) = values.values()
            low, high = scores.mean_interval([only], np.random.default_rng(0), resamples=500)
            points.append(Point(steps, float(np.mean(only)), (low, high) if len(only) > 1 else None))
    return tuple(points)


def _evaluations(run: Result) -> dict[float, float]:
    """Mean score by env steps."""
    steps, means = run.folder.series("evaluation/mean")
    found = dict(zip(steps, means, strict=True))
    if run.folder.final and run.folder.records:
        found[float(run.folder.records[-1]["env_steps"])] = run.folder.final.mean
    return found


def shortened(name: str) -> str:
    """A name in 26 letters at most, cut in the middle: agents differ at the end."""
    return name if len(name) <= 26 else f"{name[:12]}…{name[-13:]}"


def text(summary: Summary) -> str:
    """The figures that fit on a terminal."""
    results, lines = summary.results, []
    if summary.agents:
        lines += [f"human-normalised, on {len(summary.games)} of 26 games; the intervals are on the page",
                  f"{'':28}{'mean':>8}{'median':>8}{'IQM':>8}{'gap':>8}  superhuman"]  # fmt: skip
    for agent in summary.agents:
        f = agent.figures
        lines.append(
            f"{shortened(agent.name):28}{f.mean:8.3f}{f.median:8.3f}{f.iqm:8.3f}{f.optimality_gap:8.3f}  "
            f"{f.superhuman:.0f} of {len(summary.games)}"
        )
    for name in results.players:
        if games := results.not_played(name):
            lines.append(f"{name} did not play {len(games)} of the 26 games")
    for game in results.environments:
        for name in results.agents:
            if found := results.scores(name, game):
                lines.append(f"{game}, {name}: {', '.join(f'{score:.2f} (seed {s})' for s, score in found.items())}")
    if missing := results.missing():
        lines.append(f"missing, and in no mean: {len(missing)} of {len(results.wanted)} runs")
        lines += [f"  {game}, seed {seed}, {name}: {state}" for name, game, seed, state in missing[:12]]
        lines += [f"  and {len(missing) - 12} more, on the page"] if len(missing) > 12 else []
    return "\n".join(lines)
