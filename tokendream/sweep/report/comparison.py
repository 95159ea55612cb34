"""What is published beside ours and is no agent on the 26 games: REM's ablations, and DeepMind's control suite."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

import numpy as np

from tokendream.envs.atari100k import ATARI_100K
from tokendream.evaluation import published, scores
from tokendream.evaluation.scores import human_normalised
from tokendream.reports.page import soft, table
from tokendream.sweep.report.results import Result
from tokendream.sweep.report.summary import Summary


def ablations(summary: Summary) -> Iterator[str]:
    """REM with one thing changed, as published, and ours where they have games in common."""
    rem, rows = published.agents()["REM"].runs, []
    for ablation, runs in published.ablations().items():
        games = [game for game in ATARI_100K if game in runs]
        rows.append((f"REM, {ablation}", *_figures(runs, games)))
        rows.append(("REM on those games", *_figures(rem, games)))
        for agent in summary.results.players:
            common = [game for game in games if game in summary.results.complete(agent)]
            if common and agent.partition(", ")[0].endswith(f"-{ablation}"):
                own = {game: tuple(summary.results.scores(agent, game).values()) for game in common}
                rows.append((f"<b>{escape(agent)}</b>", *_figures(own, common)))
    yield "<h2>One thing changed</h2>" + table("lrrrr", ("agent", "games", "runs", "mean", "IQM"), rows, small=True)
    yield soft(
        "Human-normalised; REM's ablations by the names of our presets (rem-no-pop), from leor-c/REM, results/data/"
        "ablations at 34828c30. The mean is that of the games' means, the IQM that of single runs."
    )


def _figures(runs: published.Runs, games: list[str]) -> tuple[str, str, str, str]:
    each = [[human_normalised(game, score) for score in runs[game]] for game in games]
    flat = np.concatenate(each)
    mean, iqm = float(np.mean([np.mean(of_game) for of_game in each])), float(scores.iqm(flat[:, None]))
    return str(len(games)), str(len(flat)), f"{mean:.3f}", f"{iqm:.3f}"


def levels(runs: list[Result]) -> dict[str, float]:
    """The published means beside runs of one environment that is not of the 26."""
    found = {}
    for env in {run.folder.config.env.id: run.folder.config.env for run in runs}.values():
        if env.family == "dmc" and (known := published.control_suite().get(env.name)):
            found["Simulus, published, from vectors, 1,000,000 control steps"] = float(np.mean(known))
    return found
