"""A benchmark report for other programs: LaTeX tables and a JSON file. What is missing is `--` there, null here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokendream.envs.atari100k import ATARI_100K
from tokendream.evaluation import published
from tokendream.runfolder import files
from tokendream.sweep.report.page import page
from tokendream.sweep.report.results import protocol_of, read_results
from tokendream.sweep.report.summary import AGGREGATES, Summary, summarise

FORMAT = 1
"""Version of report.json."""

ESCAPES = {"\\": r"\textbackslash{}", **{c: f"\\{c}" for c in "&%$#_{}"}, "~": r"\textasciitilde{}", "^": r"\^{}"}


def write_benchmark(paths: Sequence[Path], out: Path) -> Summary:
    """Read results and write report.html, report.tex and report.json into `out`. Raises a ValueError, before writing,
    for results that cannot be reported; with no paths the published agents are reported."""
    summary = summarise(read_results(paths))
    for name, text in (("html", page(summary)), ("tex", latex(summary)), ("json", to_json(summary))):
        files.replace_text(out / f"report.{name}", text)
    return summary


def latex(summary: Summary) -> str:
    """Two booktabs tables: the aggregates with their intervals, and the means of every game."""
    lines = [
        "% Made by `tokendream report`; needs \\usepackage{booktabs}.",
        *_aggregates(summary),
        "",
        *_games(summary),
    ]
    for agent, game, seed, state in summary.results.missing():
        lines.append(f"% missing: {game}, seed {seed}, {agent}: {state}".replace("\n", " "))
    return "\n".join(lines) + "\n"


def _aggregates(summary: Summary) -> list[str]:
    heads = " & ".join(title for _, title, _ in AGGREGATES)
    lines = [r"\begin{tabular}{lrrrrr}", r"\toprule", rf"agent & {heads} & superhuman \\", r"\midrule"]
    for agent in summary.agents:
        cells = []
        for name, *_ in AGGREGATES:
            value = f"{getattr(agent.figures, name):.3f}"
            if agent.intervals:
                low, high = agent.intervals[name]
                value += rf" {{\scriptsize [{low:.3f}, {high:.3f}]}}"
            cells.append(value)
        lines.append(rf"{_escaped(agent.name)} & {' & '.join(cells)} & {agent.figures.superhuman:.0f} \\")
    return [f"% over {len(summary.games)} of the 26 games", *lines, r"\bottomrule", r"\end{tabular}"]


def _games(summary: Summary) -> list[str]:
    others, agents = published.agents(), summary.results.players
    names = ["game", "random", "human", *others, *agents]
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(names) - 1)}}}", r"\toprule",
             rf"{' & '.join(map(_escaped, names))} \\", r"\midrule"]  # fmt: skip
    for game, reference in ATARI_100K.items():
        cells = [_score(reference.random), _score(reference.human)]
        cells += [_score(float(np.mean(other.runs[game]))) for other in others.values()]
        cells += [_mean(summary, agent, game) for agent in agents]
        lines.append(rf"{game} & {' & '.join(cells)} \\")
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _mean(summary: Summary, agent: str, game: str) -> str:
    """The mean of all seeds, or nothing."""
    found = summary.results.scores(agent, game)
    return _score(float(np.mean(list(found.values())))) if summary.results.has_all_seeds(agent, game) else "--"


def _score(value: float) -> str:
    """One decimal as the literature has it, none above a thousand."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}"


def _escaped(text: str) -> str:
    return "".join(ESCAPES.get(character, character) for character in text)


def to_json(summary: Summary) -> str:
    """Every figure of the page, and the scores that they come from."""
    results = summary.results
    atari = [run for run in results.runs if run.game in ATARI_100K]
    data: dict[str, Any] = {
        "format": FORMAT,
        "protocol": dict(protocol_of(atari)),
        "games_compared": list(summary.games),
        "aggregates": {
            agent.name: {
                "runs_a_game": len(agent.runs), **dataclasses.asdict(agent.figures),
                "intervals_95": agent.intervals and {k: list(v) for k, v in agent.intervals.items()},
            }
            for agent in summary.agents
        },
        "probability_of_improvement": [
            {"x": i.x, "y": i.y, "probability": i.probability, "interval_95": i.interval} for i in summary.improvements
        ],
        "iqm_over_env_steps": {
            name: [{"env_steps": p.env_steps, "iqm": p.value, "interval_95": p.interval} for p in points]
            for name, points in summary.curves.items()
        },
        "scores": [
            {"agent": agent, "game": game, "seed": seed, "score": results.scores(agent, game).get(seed)}
            for agent, game, seed in results.wanted
        ],
        "games_not_played": {agent: results.not_played(agent) for agent in results.players},
        "missing": [
            {"agent": agent, "game": game, "seed": seed, "state": state}
            for agent, game, seed, state in results.missing()
        ],
        "published": {a.name: {"paper": a.paper, "source": a.source} for a in published.agents().values()},
    }  # fmt: skip
    return json.dumps(data, indent=1, allow_nan=False) + "\n"
