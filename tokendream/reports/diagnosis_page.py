"""The page of a diagnosis: every figure beside what is healthy, its curves and its bars."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokendream.config.config import Config, leaves
from tokendream.evaluation.diagnosis.figures import Bars, Curve, Figure, PartFigures
from tokendream.evaluation.diagnosis.verdict import findings, unhealthy
from tokendream.reports import page as frame
from tokendream.reports.charts import BLUE, FAINT, GREEN, ORANGE, legend, svg

PARTS = {"Tokenizer": "the tokenizer, V", "World model": "the world model, M", "Controller": "the controller, C"}


def why(parts: Sequence[PartFigures], config: Config) -> list[str]:
    """Why the agent is not better, in a sentence a part, the worst first; what to try first where that is known."""
    found, said = findings(parts, config), []
    values = leaves(dataclasses.asdict(config))
    for i, finding in enumerate(found):
        cause, sentence = finding.cause, _sentence(finding.figure)
        if cause is not None:
            flag = f"--{cause.field.replace('_', '-')} {cause.change}".rstrip()
            sentence += f": {cause.meaning}. To try first: {flag} (now {values[cause.field]})"
        said.append(f"{'Worst' if i == 0 else 'Then'}: {PARTS.get(finding.part, finding.part)}. {sentence}.")
    if not found:
        left = (figure for part in parts for figure in unhealthy(part, config))
        worst = max(left, key=lambda figure: figure.shortfall, default=None)
        none = "No figure is outside what is healthy"
        outside = f"{_sentence(worst)}, for which no flag is known to help" if worst else none
        said.append(
            f"{outside}: what holds the agent back is its budget, or something that these figures do not measure. To "
            f"try first: --epochs more (now {config.epochs})."
        )
    return said


def _sentence(figure: Figure) -> str:
    return f"{figure.name} is {_shown(figure.value)} (healthy: {figure.healthy})"


def page(facts: Mapping[str, object], parts: Sequence[PartFigures], said: Sequence[str]) -> str:
    """One self-contained HTML page; `said` is what `why` says."""
    measured = (
        "Measured on fresh games that the agent was not trained on, played by the agent itself under the training "
        "protocol at its collect temperature; its actions are counted at its evaluation temperature."
    )
    head = ["<h1>Diagnosis</h1>", frame.facts(facts), frame.soft(measured), "<h2>Why is it not better?</h2>"]
    return frame.page("Diagnosis", [*head, frame.sentences(said), *_sections(parts)])


def lines(parts: Sequence[PartFigures]) -> Iterator[str]:
    """The same figures for a terminal."""
    for part in parts:
        yield part.title
        for figure in part.figures:
            yield f"  {figure.name:44} {_shown(figure.value):>9}   healthy: {figure.healthy}"


def _sections(parts: Sequence[PartFigures]) -> Iterator[str]:
    for part in parts:
        yield f"<h2>{html.escape(part.title)}</h2>"
        rows = [(html.escape(f.name), _shown(f.value), html.escape(f.healthy)) for f in part.figures]
        yield frame.card(frame.table("lrl", ("figure", "measured", "healthy"), rows))
        for curve in part.curves:
            yield from _chart(svg(_curve, 8.0, 2.6, curve), curve)
        for bars in part.bars:
            yield from _chart(svg(_bars, 8.0, 2.4, bars), bars)


def _chart(drawn: str, what: Curve | Bars) -> Iterator[str]:
    yield frame.card(drawn, what.title)
    yield frame.soft(f"Healthy: {html.escape(what.healthy)}.")


def _shown(value: float | None) -> str:
    return "none seen" if value is None else f"{value:.3g}"


def _curve(axes: Any, curve: Curve) -> None:
    for (name, y), colour in zip(curve.lines.items(), (BLUE, FAINT, ORANGE, GREEN), strict=False):
        axes.plot(curve.x, y, marker="o", color=colour, linewidth=1.5, label=name)
    axes.set_xlabel(curve.axis)
    axes.set_ylim(bottom=0)
    legend(axes)


def _bars(axes: Any, bars: Bars) -> None:
    axes.bar(range(len(bars.values)), bars.values, tick_label=bars.labels, color=BLUE)  # labels may be equal
    axes.tick_params(axis="x", labelrotation=30)
