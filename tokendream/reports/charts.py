"""The report's charts as inline SVG: matplotlib draws, the page's style sheet colours.

Every chart is a function that draws on matplotlib's axes, and `svg` makes an element of it. matplotlib is asked for
marker colours that stand for roles; in the SVG they become CSS variables, so that one chart reads on a light page and
on a dark one.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tokendream.config.schedule import schedule
from tokendream.evaluation.evaluation import Evaluation
from tokendream.reports.page import score
from tokendream.reports.results import RunFolder

ROLES = {"#010101": "ink", "#020202": "faint", "#030303": "grid", "#040404": "blue", "#050505": "orange",
         "#060606": "green", "#070707": "red", "#080808": "violet"}  # fmt: skip
INK, FAINT, GRID, BLUE, ORANGE, GREEN, RED, VIOLET = ROLES

MOST_POINTS = 2000
"""Points of a curve that are drawn."""

LOSSES = (
    ("tokenizer/reconstruction", "V reconstruction", "falls, then flattens"),
    ("tokenizer/perceptual", "V perceptual (LPIPS)", "falls, then flattens"),
    ("tokenizer/changed", "V error on moving pixels", "falls late: small objects come last"),
    ("tokenizer/perplexity", "V codebook perplexity", "tens of codes in use, not a handful"),
    ("tokenizer/codes", "V codes in use", "rises, then is full or flattens"),
    ("tokenizer/changed_codes", "V codes changed", "falls towards 0: M's targets stay"),
    ("world_model/next_frame", "M next-frame cross-entropy", "falls; jumps when V changes its tokens"),
    ("world_model/accuracy", "M next-frame token accuracy", "rises towards 1 as frames become predictable"),
    ("world_model/reward", "M reward cross-entropy", "falls below the entropy of the reward's frequency"),
    ("world_model/end", "M end cross-entropy", "small: ends are rare"),
    ("actor_critic/return", "C dreamed return", "rises as the policy improves"),
    ("actor_critic/value", "C value error", "stays bounded"),
    ("actor_critic/policy_entropy", "C policy entropy", "falls slowly; zero early means collapse"),
    ("actor_critic/gradient_norm", "C gradient norm", "no lasting explosion"),
)
"""Figures of the small multiples: name, title, what a healthy curve does."""


def learning(axes: Any, folder: RunFolder) -> None:
    """Training returns and evaluations over env steps, with the lines to beat."""
    x, y = folder.returns
    evaluated = folder.evaluations
    if x:
        axes.plot(*thinned(x, y), ".", color=FAINT, markersize=4, label="training games")
        axes.plot(*thinned(x, _smooth(y)), color=BLUE, linewidth=1.5, label="training, smoothed")
    if evaluated:
        at = [float(e.protocol.get("env_steps") or 0) for e in evaluated]
        low = [e.mean - e.interval[0] for e in evaluated]
        high = [e.interval[1] - e.mean for e in evaluated]
        axes.errorbar(at, [e.mean for e in evaluated], yerr=[low, high], color=ORANGE, marker="o", capsize=3,
                      linewidth=1.5, label="evaluation, 95% interval")  # fmt: skip
    seen = [*y, *(e.interval[1] for e in evaluated), *(e.mean for e in evaluated)]
    highest = max(seen) + 1.5 * (max(seen) - min(seen) + 1e-9)
    published, random = folder.reference, folder.random_player
    levels = {}
    if published:
        levels = {"random": published.random, "human": published.human, "REM, published": published.rem}
    if random:  # measured here, under the same protocol
        levels["random"] = random.mean
    above = [f"{name} {score(value)}" for name, value in levels.items() if name != "random" and value > highest]
    for name, value in levels.items():
        if name == "random" or value <= highest:
            level(axes, f"{name} {score(value)}", value)
    if above:
        axes.annotate(f"↑ further up: {'; '.join(above)}", (1, 1), xycoords="axes fraction", xytext=(-2, -3),
                      textcoords="offset points", ha="right", va="top", color=INK, fontsize=8)  # fmt: skip
    axes.set_xlabel("env steps")
    axes.set_ylabel("score of a game")
    legend(axes, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)  # above: a level may be anywhere inside


def loss(axes: Any, x: Sequence[float], y: Sequence[float]) -> None:
    """One figure of the small multiples."""
    axes.plot(*thinned(x, y), color=BLUE, linewidth=1.4)


def thinned(x: Sequence[float], y: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    """At most `MOST_POINTS` of a curve's points: of each stretch the lowest and the highest, so no peak is lost."""
    if len(y) <= MOST_POINTS:
        return x, y
    kept: set[int] = {0, len(y) - 1}
    for stretch in np.array_split(np.arange(len(y)), MOST_POINTS // 2 - 1):
        kept |= {min(stretch, key=y.__getitem__), max(stretch, key=y.__getitem__)}
    return [x[i] for i in sorted(kept)], [y[i] for i in sorted(kept)]


def time_spent(axes: Any, folder: RunFolder) -> None:
    """Seconds of every epoch by phase."""
    names, every = [phase.name for phase in schedule(folder.config)], 1 + len(folder.records) // MOST_POINTS
    records = [*folder.records[:-1:every], folder.records[-1]]
    parts = [[r.get(f"{name}/seconds") or 0.0 for r in records] for name in names]
    axes.stackplot([r["epoch"] for r in records], parts, colors=(FAINT, BLUE, ORANGE, GREEN),
                   labels=[name.replace("_", " ") for name in names], step="mid", linewidth=0)  # fmt: skip
    axes.set_xlabel("epoch")
    axes.set_ylabel("seconds")
    legend(axes, loc="upper left", ncols=4)
    axes.set_ylim(0, 1.25 * max(map(sum, zip(*parts, strict=True))))


def histogram(axes: Any, final: Evaluation, random: Evaluation | None) -> None:
    """Scores of the evaluation's games, the random player's behind them."""
    everything = [*final.scores, *(random.scores if random else ())]
    low, high = min(everything), max(everything)
    bins = [low + (high - low or 1) * i / 20 for i in range(21)]
    if random:
        axes.hist(random.scores, bins, color=FAINT, label="random player")
    axes.hist(final.scores, bins, color=BLUE, alpha=0.75, label="agent")
    axes.set_xlabel("score of a game")
    axes.set_ylabel("games")
    legend(axes)


def level(axes: Any, text: str, y: float) -> None:
    """A dashed line across the chart with its name at the right."""
    axes.axhline(y, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.annotate(text, (1, y), xycoords=("axes fraction", "data"), xytext=(-2, 3), textcoords="offset points",
                  ha="right", color=INK, fontsize=8)  # fmt: skip


def legend(axes: Any, **more: Any) -> None:
    """The legend in the page's style."""
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, **more)


def _smooth(y: Sequence[float], weight: float = 0.8) -> list[float]:
    """Exponential moving average, corrected for its start."""
    out, total, norm = [], 0.0, 0.0
    for value in y:
        total, norm = weight * total + (1 - weight) * value, weight * norm + (1 - weight)
        out.append(total / norm)
    return out


def figure_svg(draw: Callable[[Any], None], width: float, height: float, *, transparent: bool = False) -> str:
    """What `draw` puts on a figure of so many inches, as an SVG file; the same figures give the same text."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 8.5,
                                "svg.hashsalt": "tokendream"}):  # fmt: skip
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=transparent, metadata={"Date": None, "Creator": None})
    return text.getvalue()


def svg(draw: Callable[..., None], width: float, height: float, *data: Any) -> str:
    """`draw(axes, *data)` as an SVG element without size, which fills the width that the page gives it."""

    def styled(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.set_facecolor("none")
        axes.grid(True, color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK, length=0)
        axes.spines[:].set_visible(False)
        draw(axes, *data)
        axes.xaxis.label.set_color(INK)
        axes.yaxis.label.set_color(INK)

    drawn = figure_svg(styled, width, height, transparent=True)
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn[drawn.index("<svg") :], flags=re.S)
    drawn = re.sub(r' xmlns(:\w+)?="[^"]*"', "", drawn).replace("xlink:href", "href")
    drawn = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 role="img">', drawn, count=1)
    for marker, role in ROLES.items():
        drawn = drawn.replace(marker, f"var(--{role})")
    return drawn
