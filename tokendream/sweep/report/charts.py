"""The charts of a benchmark report, drawn and coloured as those of a run's report are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tokendream.envs.atari100k import ATARI_100K
from tokendream.evaluation import published
from tokendream.evaluation.scores import Interval, human_normalised
from tokendream.reports.charts import BLUE, FAINT, GREEN, INK, ORANGE, RED, VIOLET, legend, level
from tokendream.reports.page import score
from tokendream.sweep.report.summary import LEVELS, Improvement, Point, Summary, shortened

OURS = (BLUE, GREEN, RED)
DASHES: tuple[Any, ...] = (
    (0, (1, 1)), (0, (4, 1.5)), (0, (6, 1.5, 1, 1.5)), (0, (3, 3)), (0, (8, 2)), (0, (2, 1)), (0, (9, 1, 2, 1)),
    (0, (5, 4)),
)  # fmt: skip
"""How the published agents of one colour are told from each other."""


def colours(summary: Summary) -> dict[str, str]:
    """Our agents in colours of their own, REM in orange, its successors in violet, the others in ink."""
    found = {name: OURS[i % len(OURS)] for i, name in enumerate(summary.results.agents)}
    later = {f"{a.name}, published": VIOLET for a in published.agents().values() if a.later}
    return {a.name: INK for a in summary.agents} | later | {"REM, published": ORANGE} | found


def aggregate(axes: Any, summary: Summary, name: str) -> None:
    """A point an agent, its interval as a bar."""
    for y, agent in enumerate(reversed(summary.agents)):
        interval = agent.intervals[name] if agent.intervals else None
        _bar(axes, y, getattr(agent.figures, name), interval, colours(summary)[agent.name], 7 if agent.ours else 5)
    _rows(axes, [short(agent.name) for agent in reversed(summary.agents)])


def profiles(axes: Any, summary: Summary) -> None:
    """Share of runs above each human-normalised score."""
    colour, dashes = colours(summary), {INK: iter(DASHES), VIOLET: iter(DASHES)}
    for agent in summary.agents:
        lead = colour[agent.name] not in dashes
        if agent.band and lead:
            axes.fill_between(LEVELS, *agent.band, color=colour[agent.name], alpha=0.15, linewidth=0)
        style = "-" if lead else next(dashes[colour[agent.name]], "-")
        axes.plot(LEVELS, agent.profile, color=colour[agent.name], linewidth=2 if agent.ours else 1.4 if lead else 1,
                  linestyle=style, alpha=1 if lead else 0.65, label=short(agent.name))  # fmt: skip
    axes.axvline(1, color=FAINT, linewidth=0.8)
    axes.annotate("human", (1, 1), xycoords=("data", "axes fraction"), xytext=(3, -9),
                  textcoords="offset points", color=INK, fontsize=8)  # fmt: skip
    axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), lambda x: x**2))
    axes.set_xlim(0, 8)
    axes.set_xticks([0, 0.1, 0.25, 0.5, 1, 2, 4, 8], ["0", "0.1", "0.25", "0.5", "1", "2", "4", "8"])
    axes.set_ylim(0, 1)
    axes.set_xlabel("human-normalised score τ")
    axes.set_ylabel("share of runs with a score above τ")
    legend(axes)


def improvements(axes: Any, found: Sequence[Improvement], colour: Mapping[str, str]) -> None:
    """P(x > y) with its interval, the line at a half."""
    for y, one in enumerate(reversed(found)):
        _bar(axes, y, one.probability, one.interval, colour[one.x], 7)
    _rows(axes, [f"{short(one.x)} > {short(one.y)}" for one in reversed(found)])
    axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_xlim(0, 1)
    axes.set_xlabel("probability that a run is better on a game drawn at random")


def _bar(axes: Any, y: int, value: float, interval: Interval | None, colour: str, width: int) -> None:
    """A figure as a stroke on its interval's bar."""
    axes.plot(interval or (value, value), [y, y], color=colour, linewidth=width, alpha=0.35, solid_capstyle="butt")
    axes.plot([value], [y], "|", color=colour, markersize=11, markeredgewidth=2)


def _rows(axes: Any, names: Sequence[str]) -> None:
    """Names on the y axis, from the bottom up."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.grid(False, axis="y")


def games(axes: Any, summary: Summary) -> None:
    """A row a game: every run of ours as a dot, the published means of REM and of the others."""
    colour = colours(summary)
    shown = sorted(summary.games, key=lambda g: human_normalised(g, ATARI_100K[g].rem))
    y = np.arange(len(shown))
    labels = {"REM, published": "REM, published mean", "SimPLe, published": "earlier agents' means",
              "Simulus, published": "its successors' means"}  # fmt: skip
    for agent in summary.agents:
        runs = agent.runs[:, [summary.games.index(game) for game in shown]]
        lead = colour[agent.name] != INK
        if agent.ours:
            axes.plot(runs.ravel(), np.tile(y, len(runs)), "o", color=colour[agent.name], markersize=4, alpha=0.55,
                      label=short(agent.name))  # fmt: skip
        axes.plot(runs.mean(0), y, "d" if agent.name == "REM, published" else "|",
                  color=colour[agent.name] if lead else FAINT, markersize=9 if agent.ours else 6,
                  markeredgewidth=2 if agent.ours else 1, label=labels.get(agent.name))  # fmt: skip
    axes.axvline(0, color=FAINT, linewidth=0.8)
    axes.axvline(1, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_xscale("symlog", linthresh=0.1, linscale=0.5)
    axes.set_xticks([-0.1, 0, 0.1, 1, 10], ["−0.1", "random", "0.1", "human", "10"])
    axes.set_yticks(y, shown)
    axes.set_ylim(-0.7, len(shown) - 0.3)
    axes.set_xlabel("human-normalised score")
    legend(axes, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4)


def over_steps(
    axes: Any,
    curves: Mapping[str, Sequence[Point]],
    levels: Mapping[str, float],
    what: str,
    colour_of: Mapping[str, str],
) -> None:
    """Curves over env steps with their intervals, and levels to compare with as lines."""
    for name, points in curves.items():
        x, colour = [p.env_steps for p in points], colour_of[name]
        axes.plot(x, [p.value for p in points], "o-", color=colour, markersize=4, linewidth=1.6, label=name)
        bands = [p.interval for p in points if p.interval]
        if len(bands) == len(points) > 0:
            axes.fill_between(x, *zip(*bands, strict=True), color=colour, alpha=0.15, linewidth=0)
    for name, value in levels.items():
        level(axes, f"{name} {score(value)}", value)
    axes.set_xlabel("env steps")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylabel(what)
    legend(axes)


def short(name: str) -> str:
    """An agent's name where there is little room; only REM is ours and published both."""
    return shortened(name if name == "REM, published" else name.removesuffix(", published"))
