"""The report's charts as inline SVG: matplotlib draws, the page's style sheet colours.

matplotlib is asked for marker colours that stand for roles; in the SVG they become CSS variables, so that one chart
reads on a light page and on a dark one.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

from tokendream.evaluation.evaluation import Evaluation
from tokendream.reports.results import Folder

ROLES = {"#010101": "ink", "#020202": "faint", "#030303": "grid", "#040404": "blue", "#050505": "orange",
         "#060606": "green", "#070707": "red"}  # fmt: skip
INK, FAINT, GRID, BLUE, ORANGE, GREEN, RED = ROLES

LOSSES = (
    ("tokenizer/reconstruction", "V reconstruction", "falls, then flattens"),
    ("tokenizer/perceptual", "V perceptual (LPIPS)", "falls, then flattens"),
    ("tokenizer/changed", "V error on moving pixels", "falls late: small objects come last"),
    ("tokenizer/perplexity", "V codebook perplexity", "tens of codes in use, not a handful"),
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

PHASES = (("collect", FAINT), ("tokenizer", BLUE), ("world_model", ORANGE), ("actor_critic", GREEN))


def learning(folder: Folder) -> str | None:
    """Training returns and evaluations over env steps, with the lines to beat."""
    x, y = folder.series("collect/return")
    evaluated = [e for e in (*folder.during, folder.final) if e is not None]
    if not x and not evaluated:
        return None

    def draw(axes: Any) -> None:
        if x:
            axes.plot(x, y, ".", color=FAINT, markersize=4, label="training games")
            axes.plot(x, _smooth(y), color=BLUE, linewidth=1.5, label="training, smoothed")
        if evaluated:
            at = [float(e.protocol.get("env_steps") or 0) for e in evaluated]
            low = [e.mean - e.interval[0] for e in evaluated]
            high = [e.interval[1] - e.mean for e in evaluated]
            axes.errorbar(at, [e.mean for e in evaluated], yerr=[low, high], color=ORANGE, marker="o", capsize=3,
                          linewidth=1.5, label="evaluation, 95% interval")  # fmt: skip
        shown = [*y, *(e.interval[1] for e in evaluated), *(e.mean for e in evaluated)]
        for label, level in _levels(folder):
            if level <= max(shown) + 1.5 * (max(shown) - min(shown) + 1e-9) or label.startswith("random"):
                axes.axhline(level, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
                axes.annotate(f"{label} {level:g}", (1, level), xycoords=("axes fraction", "data"),
                              xytext=(-2, 3), textcoords="offset points", ha="right", color=INK,
                              fontsize=8)  # fmt: skip
        axes.set_xlabel("env steps")
        axes.set_ylabel("score of a game")
        axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="upper left")

    return svg(draw, 8.0, 3.6)


def losses(folder: Folder) -> list[tuple[str, str, str]]:
    """(title, what is healthy, SVG) of every figure that was recorded more than once."""
    found = []
    for name, title, healthy in LOSSES:
        x, y = folder.series(name)
        if len(x) > 1:

            def draw(axes: Any, x: Sequence[float] = x, y: Sequence[float] = y) -> None:
                axes.plot(x, y, color=BLUE, linewidth=1.4)

            found.append((title, healthy, svg(draw, 3.1, 1.7)))
    return found


def time_spent(folder: Folder) -> str | None:
    """Seconds of every epoch by phase."""
    epochs = [r["epoch"] for r in folder.records]
    if len(epochs) < 2:
        return None

    def draw(axes: Any) -> None:
        parts = [[r.get(f"{name}/seconds") or 0.0 for r in folder.records] for name, _ in PHASES]
        axes.stackplot(epochs, parts, colors=[c for _, c in PHASES], labels=[n.replace("_", " ") for n, _ in PHASES],
                       step="mid", linewidth=0)  # fmt: skip
        axes.set_xlabel("epoch")
        axes.set_ylabel("seconds")
        axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="upper left", ncols=4)
        axes.set_ylim(0, 1.25 * max(sum(column) for column in zip(*parts, strict=True)))

    return svg(draw, 8.0, 2.6)


def histogram(final: Evaluation, chance: Evaluation | None) -> str:
    """Scores of the evaluation's games, the random player's behind them."""

    def draw(axes: Any) -> None:
        everything = [*final.scores, *(chance.scores if chance else ())]
        low, high = min(everything), max(everything)
        bins = [low + (high - low or 1) * i / 20 for i in range(21)]
        if chance:
            axes.hist(chance.scores, bins, color=FAINT, label="random player")
        axes.hist(final.scores, bins, color=BLUE, alpha=0.75, label="agent")
        axes.set_xlabel("score of a game")
        axes.set_ylabel("games")
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)

    return svg(draw, 8.0, 2.4)


def _levels(folder: Folder) -> list[tuple[str, float]]:
    published = folder.reference
    if published is None:
        return [("random", folder.chance.mean)] if folder.chance else []
    return [("random", published.random), ("human", published.human), ("REM, published", published.rem)]


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

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 8.5,
                                "svg.hashsalt": "tokendream"}):  # fmt: skip
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=transparent, metadata={"Date": None, "Creator": None})
    return text.getvalue()


def svg(draw: Callable[[Any], None], width: float, height: float) -> str:
    """One chart as an SVG element without size, which fills the width that the page gives it."""

    def styled(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.set_facecolor("none")
        axes.grid(True, color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK, length=0)
        axes.spines[:].set_visible(False)
        draw(axes)
        axes.xaxis.label.set_color(INK)
        axes.yaxis.label.set_color(INK)

    drawn = figure_svg(styled, width, height, transparent=True)
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.S)
    drawn = re.sub(r' xmlns(:\w+)?="[^"]*"', "", drawn).replace("xlink:href", "href")
    drawn = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 role="img">', drawn, count=1)
    for marker, role in ROLES.items():
        drawn = drawn.replace(marker, f"var(--{role})")
    return drawn
