"""The page of `benchmarks sweeps`: how every cost grows, in words, tables and a plot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.figures import Spread
from benchmarks.growth import Curve, Sweeps, in_words
from benchmarks.page import Section, head, header, line, plot, short

AXES = {
    "tokens": ("K", "K, tokens a frame"),
    "batch": ("B", "B, the batch"),
    "length": ("T", "T: length of a segment, of the memory, of a dream"),
    "layers": ("N", "N, the layers of the world model"),
    "width": ("D", "D, the width of the world model"),
}
"""Symbol and name of each kind of size."""

LISTED = "AMX"
"""The kind of processor whose sizes docs/speed.md lists one by one; of another its plot and its JSON have them."""

COLOURS = {
    "tokenizer update": "#7a7a7a",
    "world-model update": "#1f6fb4",
    "actor-critic update": "#c4581b",
    "dream alone": "#2c8c4a",
}


def section(kind: str) -> Section:
    """The section of docs/speed.md about how cost grows on a kind of processor."""
    return Section("sweeps", kind)


def markdown(found: Sweeps, plots: dict[str, str] | None = None) -> Iterator[str]:
    """Everything that was found. `plots` are the files of the plots, by their names."""
    kind = found.environment["kind"]
    yield from (f"## How cost grows: {kind}", "")
    yield header(
        section(kind).command, found.preset, found.environment,
        quick=found.quick, clock=found.clock, how="the sizes of a curve in turn in one process",
    )  # fmt: skip
    yield ""
    for file in (plots or {}).values():
        yield from (f"![Milliseconds of a frame or an imagined step against each size]({file})", "")
    listed = kind == LISTED or not plots  # without a page there is no plot
    if not listed:
        yield from ("The JSON has every size, with its spread.", "")
    for axis, (_, title) in AXES.items():
        curves = found.of(axis)
        if curves:
            yield from (f"### Over {title}", "")
            yield from (f"- {_sentence(curve)}" for curve in curves)
            yield ""
            if listed:
                yield from _table(curves)
    if found.left_out:
        yield from ("**Left out for lack of time**: " + "; ".join(found.left_out) + ".", "")


def _sentence(curve: Curve) -> str:
    """What a curve says, computed from its points."""
    first, last = curve.points[0], curve.points[-1]
    x, p = AXES[curve.axis][0], curve.exponent
    times = last.cost.median / first.cost.median
    compared = f"{short(times)} times as much" if times > 1.005 else f"{short(1 / times)} times less"
    if abs(times - 1) <= 0.005:
        compared = "the same"
    said = (
        f"**{curve.work[0].upper()}{curve.work[1:]}** ({curve.fixed}): {'an' if curve.unit[0] in 'aeiou' else 'a'} "
        f"{curve.unit} costs {short(1e3 * first.cost.median)} ms at {curve.size.format(first.x)} and "
        f"{short(1e3 * last.cost.median)} at {curve.size.format(last.x)}, {compared}. The cost "
        f"{in_words(p.median, x)}: it goes as {x}^{p.median:z.2f} ({p.low:z.2f} to {p.high:z.2f}), its arithmetic as "
        f"{x}^{curve.arithmetic:z.2f}"
    )
    if len(curve.points) > 2:
        said += f"; between the two largest, as {x}^{curve.last_exponent:z.2f}"
    return said + "."


def _table(curves: list[Curve]) -> Iterator[str]:
    yield from head("", "size", "ms an update", "ms of one", "a second", "GFLOP of one")
    for curve in curves:
        for p in curve.points:
            update = Spread(*(s * p.units for s in p.cost))
            yield line(
                f"{curve.work}, {curve.unit}", curve.size.format(p.x), _ms(update), _ms(p.cost),
                short(1 / p.cost.median), short(p.flops / p.units / 1e9),
            )  # fmt: skip
    yield ""


def _ms(s: Spread) -> str:
    return f"{short(1e3 * s.median)} ({short(1e3 * s.low)}–{short(1e3 * s.high)})"


def draw(found: Sweeps) -> dict[str, str]:
    """The plot as SVG, by its name; nothing where there is nothing to show."""
    axes = [axis for axis in AXES if found.of(axis)]
    name = f"growth-{found.environment['kind']}"
    return {name: plot(lambda figure: _draw(figure, found, axes), 12.0, 6.4)} if axes else {}


def _draw(figure: Any, found: Sweeps, names: list[str]) -> None:
    """A panel for each kind of size; both axes are logarithmic and y is shared, so that a slope is an exponent."""
    from matplotlib.ticker import LogLocator, NullFormatter

    panels = figure.subplots(2, 3, sharey=True).flat
    panels[len(AXES)].set_visible(False)
    for axes, name in zip(panels, AXES, strict=False):
        symbol, title = AXES[name]
        axes.set_visible(name in names)
        for curve in found.of(name):
            y = [p.cost for p in curve.points]
            size = curve.size.partition(f" {symbol} = ")[0].removeprefix("a ").removesuffix(" of")
            axes.errorbar(
                [p.x for p in curve.points], [1e3 * s.median for s in y],
                yerr=([1e3 * (s.median - s.low) for s in y], [1e3 * (s.high - s.median) for s in y]),
                color=COLOURS[curve.work], marker="o", markersize=3, linewidth=1.4, capsize=2,
                label=f"{curve.work}{f', {size}' if name == 'length' else ''}: {symbol}^{curve.exponent.median:z.2f}",
            )  # fmt: skip
        ticks: list[int] = []
        for x in sorted({p.x for curve in found.of(name) for p in curve.points}):
            if not ticks or x > 1.2 * ticks[-1]:  # their labels would run into each other
                ticks.append(x)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(ticks, [str(x) for x in ticks])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(title)
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel("ms a frame or imagined step")
        if name in names:
            axes.legend(frameon=False, fontsize=7)
