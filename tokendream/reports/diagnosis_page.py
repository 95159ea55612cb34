"""The page of a diagnosis: every figure beside what is healthy, its curves and its bars."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokendream.evaluation.diagnosis.figures import Bars, Curve, Part
from tokendream.reports import page as frame
from tokendream.reports.charts import BLUE, FAINT, GREEN, ORANGE, svg

COLOURS = (BLUE, FAINT, ORANGE, GREEN)


def page(facts: Mapping[str, object], parts: Sequence[Part]) -> str:
    """One self-contained HTML page."""
    said = (
        "Measured on fresh games that the agent was not trained on, played by the agent itself under the training "
        "protocol at its collect temperature; its actions are counted at its evaluation temperature."
    )
    head = f'<h1>Diagnosis</h1>{frame.facts(facts)}<p class="soft">{said}</p>'
    return frame.page("Diagnosis", [head, *_sections(parts)])


def lines(parts: Sequence[Part]) -> Iterator[str]:
    """The same figures for a terminal."""
    for part in parts:
        yield part.title
        for figure in part.figures:
            yield f"  {figure.name:44} {_shown(figure.value):>9}   healthy: {figure.healthy}"


def _sections(parts: Sequence[Part]) -> Iterator[str]:
    for part in parts:
        yield f"<h2>{html.escape(part.title)}</h2>"
        rows = "".join(
            f'<tr><td>{html.escape(f.name)}</td><td class="n">{_shown(f.value)}</td>'
            f"<td>{html.escape(f.healthy)}</td></tr>"
            for f in part.figures
        )
        head = '<tr><th>figure</th><th class="n">measured</th><th>healthy</th></tr>'
        yield f'<div class="card scroll"><table>{head}{rows}</table></div>'
        charts = [(c.title, _curve(c), c.healthy) for c in part.curves] + [
            (b.title, _bars(b), b.healthy) for b in part.bars
        ]
        for title, drawn, healthy in charts:
            yield f'<div class="card"><h3>{html.escape(title)}</h3>{drawn}</div>'
            yield f'<p class="soft">Healthy: {html.escape(healthy)}.</p>'


def _shown(value: float | None) -> str:
    return "none seen" if value is None else f"{value:.3g}"


def _curve(curve: Curve) -> str:
    def draw(axes: Any) -> None:
        for (name, y), colour in zip(curve.lines.items(), COLOURS, strict=False):
            axes.plot(curve.x, y, marker="o", color=colour, linewidth=1.5, label=name)
        axes.set_xlabel(curve.axis)
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=8)

    return svg(draw, 8.0, 2.6)


def _bars(bars: Bars) -> str:
    def draw(axes: Any) -> None:
        axes.bar(bars.labels, bars.values, color=BLUE)
        axes.tick_params(axis="x", labelrotation=30)

    return svg(draw, 8.0, 2.4)
