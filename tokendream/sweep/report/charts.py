"""The charts of a benchmark report, drawn and coloured as those of a run's report are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tokendream.envs.atari100k import ATARI_100K
from tokendream.evaluation.scores import human_normalised
from tokendream.reports.charts import BLUE, FAINT, GREEN, INK, ORANGE, RED, svg
from tokendream.sweep.report.summary import LEVELS, Improvement, Point, Row, Summary

OURS = (BLUE, GREEN, RED)
DASHES: tuple[Any, ...] = ((0, (1, 1)), (0, (4, 1.5)), (0, (6, 1.5, 1, 1.5)), (0, (3, 3)), (0, (8, 2)))
"""How the published agents but REM are told from each other."""

AXES = {
    "iqm": ("Interquartile mean", "higher is better"),
    "median": ("Median", "higher is better"),
    "mean": ("Mean", "higher is better"),
    "optimality_gap": ("Optimality gap", "lower is better"),
}
"""The aggregates that are drawn, with their title."""


def colours(rows: Sequence[Row]) -> dict[str, str]:
    """Our agents in colours of their own, REM in orange, the others in ink."""
    ours = [row.name for row in rows if row.ours]
    found = {name: OURS[i % len(OURS)] for i, name in enumerate(ours)}
    return found | {row.name: ORANGE if row.name.startswith("REM,") else INK for row in rows if not row.ours}


def aggregates(summary: Summary) -> list[tuple[str, str, str]]:
    """(title, what is better, SVG) of each aggregate: a point an agent, its interval as a bar."""
    rows, colour = summary.rows, colours(summary.rows)
    found = []
    for name, (title, better) in AXES.items():

        def draw(axes: Any, name: str = name) -> None:
            for y, row in enumerate(reversed(rows)):
                value = getattr(row.figures, name)
                low, high = row.intervals[name] if row.intervals else (value, value)
                width = 7 if row.ours else 5
                axes.plot([low, high], [y, y], color=colour[row.name], linewidth=width, alpha=0.35,
                          solid_capstyle="butt")  # fmt: skip
                axes.plot([value], [y], "|", color=colour[row.name], markersize=11, markeredgewidth=2)
            axes.set_yticks(range(len(rows)), [short(row.name) for row in reversed(rows)])
            axes.set_ylim(-0.7, len(rows) - 0.3)
            axes.grid(False, axis="y")

        found.append((title, better, svg(draw, 3.9, 0.5 + 0.24 * len(rows))))
    return found


def profiles(summary: Summary) -> str:
    """Share of runs above each human-normalised score."""
    colour, dashes = colours(summary.rows), iter(DASHES)

    def draw(axes: Any) -> None:
        for row in summary.rows:
            lead = colour[row.name] != INK
            if row.band and lead:
                axes.fill_between(LEVELS, *row.band, color=colour[row.name], alpha=0.15, linewidth=0)
            style = "-" if lead else next(dashes, "-")
            axes.plot(LEVELS, row.profile, color=colour[row.name], linewidth=2 if row.ours else 1.4 if lead else 1,
                      linestyle=style, alpha=1 if lead else 0.65, label=short(row.name))  # fmt: skip
        axes.axvline(1, color=FAINT, linewidth=0.8)
        axes.annotate("human", (1, 1), xycoords=("data", "axes fraction"), xytext=(3, -9),
                      textcoords="offset points", color=INK, fontsize=8)  # fmt: skip
        axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), lambda x: x**2))
        axes.set_xlim(0, 8)
        axes.set_xticks([0, 0.1, 0.25, 0.5, 1, 2, 4, 8], ["0", "0.1", "0.25", "0.5", "1", "2", "4", "8"])
        axes.set_ylim(0, 1)
        axes.set_xlabel("human-normalised score τ")
        axes.set_ylabel("share of runs with a score above τ")
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)

    return svg(draw, 8.0, 3.8)


def improvements(found: Sequence[Improvement], colour: Mapping[str, str]) -> str:
    """P(x > y) with its interval, the line at a half."""

    def draw(axes: Any) -> None:
        for y, one in enumerate(reversed(found)):
            axes.plot(
                one.interval or (one.probability,) * 2,
                [y, y],
                color=colour[one.x],
                linewidth=7,
                alpha=0.35,
                solid_capstyle="butt",
            )
            axes.plot([one.probability], [y], "|", color=colour[one.x], markersize=11, markeredgewidth=2)
        axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set_yticks(range(len(found)), [f"{short(one.x)} > {short(one.y)}" for one in reversed(found)])
        axes.set_ylim(-0.7, len(found) - 0.3)
        axes.set_xlim(0, 1)
        axes.set_xlabel("probability that a run is better on a game drawn at random")
        axes.grid(False, axis="y")

    return svg(draw, 8.0, 0.7 + 0.26 * len(found))


def games(summary: Summary) -> str:
    """A row a game: every run of ours as a dot, the published means of REM and of the others."""
    colour = colours(summary.rows)
    shown = sorted(summary.games, key=lambda g: human_normalised(g, ATARI_100K[g].rem))

    def draw(axes: Any) -> None:
        for row in summary.rows:
            lead = colour[row.name] != INK
            for y, game in enumerate(shown):
                values = row.runs[:, summary.games.index(game)]
                if row.ours:
                    axes.plot(values, [y] * len(values), "o", color=colour[row.name], markersize=4, alpha=0.55,
                              label=short(row.name) if y == 0 else None)  # fmt: skip
                axes.plot([values.mean()], [y], "d" if row.name.startswith("REM,") else "|",
                          color=colour[row.name] if lead else FAINT, markersize=9 if row.ours else 6,
                          markeredgewidth=2 if row.ours else 1,
                          label=_label(row) if y == 0 and not row.ours else None)  # fmt: skip
        axes.axvline(0, color=FAINT, linewidth=0.8)
        axes.axvline(1, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set_xscale("symlog", linthresh=0.1, linscale=0.5)
        axes.set_xticks([-0.1, 0, 0.1, 1, 10], ["−0.1", "random", "0.1", "human", "10"])
        axes.set_yticks(range(len(shown)), shown)
        axes.set_ylim(-0.7, len(shown) - 0.3)
        axes.set_xlabel("human-normalised score")
        axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4)

    return svg(draw, 8.0, 1.0 + 0.23 * len(shown))


def _label(row: Row) -> str | None:
    """The legend names REM, and all the others together."""
    return {"REM, published": "REM, published mean", "SimPLe, published": "the other published means"}.get(row.name)


def over_steps(curves: Mapping[str, Sequence[Point]], levels: Mapping[str, float], what: str) -> str | None:
    """Curves over env steps with their intervals, and levels to compare with as lines."""
    if not any(len(points) > 1 for points in curves.values()):
        return None

    def draw(axes: Any) -> None:
        for i, (name, points) in enumerate(curves.items()):
            x, colour = [p.env_steps for p in points], OURS[i % len(OURS)]
            axes.plot(x, [p.value for p in points], "o-", color=colour, markersize=4, linewidth=1.6, label=name)
            if all(p.interval for p in points):
                low, high = zip(*[p.interval or (0, 0) for p in points], strict=True)
                axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        for label, level in levels.items():
            axes.axhline(level, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
            axes.annotate(f"{label} {level:.3g}", (1, level), xycoords=("axes fraction", "data"), xytext=(-2, 3),
                          textcoords="offset points", ha="right", color=INK, fontsize=8)  # fmt: skip
        axes.set_xlabel("env steps")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_ylabel(what)
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)

    return svg(draw, 8.0, 3.2)


def short(name: str) -> str:
    """An agent's name where there is little room; only REM is ours and published both."""
    name = name.removesuffix(", published") if not name.startswith("REM,") else "REM, published"
    return name if len(name) <= 26 else name[:25] + "…"
