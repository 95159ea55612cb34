"""The page of `benchmarks claims`: tables and answers as Markdown, and two plots; of an environment five lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.figures import ABSORB, FOUR, IRIS, NO_POP, REM, TRANSFORMER_POP, Cell, Claims, Spread
from benchmarks.page import Section, head, header, line, plot, short

SECTION = Section("claims")

PUBLISHED_NO_POP, PUBLISHED_IRIS = 4.6, 15.4
"""The paper's two speed-ups of imagination: against itself without POP, and against the token-based agent before it."""

QUESTIONS = {
    (REM, NO_POP): ("What POP gives RetNet", f" (the paper, against itself without POP: {PUBLISHED_NO_POP}x)"),
    (TRANSFORMER_POP, IRIS): ("What POP gives a Transformer", ""),
    (REM, TRANSFORMER_POP): ("What RetNet gives, both with POP", ""),
    (NO_POP, IRIS): ("What RetNet gives, both token by token", ""),
    (REM, IRIS): (
        "RetNet with POP against a Transformer token by token, as in IRIS",
        f" (the paper, against that agent: {PUBLISHED_IRIS}x)",
    ),
}
"""What is asked of a faster and a slower world model, and the paper's answer where it has one for images."""

COLOURS = {REM: "#1f6fb4", NO_POP: "#7fb2dd", TRANSFORMER_POP: "#c4581b", IRIS: "#e9a97f"}


def markdown(claims: Claims, plots: dict[str, str] | None = None, section: Section = SECTION) -> Iterator[str]:
    """Everything that was found. `plots` are the files of the plots, by their names."""
    plots = plots or {}
    yield from _header(claims, section)
    if claims.of("dream"):
        yield from _answers(claims)
        if "speedup" in plots:
            yield from (f"![Speed-up of a dreamed step against tokens a frame]({plots['speedup']})", "")
        yield from _dreams(claims)
    if claims.of("training"):
        yield from _training(claims)
    if claims.of("memory"):
        yield from _memory(claims, plots)
    yield from _sizes(claims)
    if claims.epoch(REM):
        yield from _epoch(claims)
    yield from _left_out(claims)


def summary(claims: Claims, section: Section) -> Iterator[str]:
    """A line for each question; the figures behind them are in the JSON."""
    yield from _header(claims, section)
    each = [
        (f"{what} a second, batch {_list(c.batch for c in claims.of(kind))}", claims.of(kind))
        for kind, what in (("dream", "imagined steps"), ("training", "frames of training"))
        if claims.of(kind)
    ]
    yield f"How many times as many, with K = {claims.K} tokens a frame:"
    yield ""
    yield from head("", *(title for title, _ in each), "seconds of an epoch")
    for (fast, slow), (question, _) in QUESTIONS.items():
        ratios = (_list(_times(c.times_as_fast(fast, slow)) for c in cells) for _, cells in each)
        totals = [short(epoch["total"]) for epoch in (claims.epoch(fast), claims.epoch(slow)) if epoch]
        yield line(question, *ratios, " instead of ".join(totals))
    yield ""
    yield from _left_out(claims)


def _header(claims: Claims, section: Section) -> Iterator[str]:
    yield header(
        section.command, claims.preset, claims.environment,
        quick=claims.quick, clock=claims.clock, how="the four in turn in one process",
    )  # fmt: skip
    yield ""


def _left_out(claims: Claims) -> Iterator[str]:
    if claims.left_out:
        yield from ("**Left out for lack of time**: " + "; ".join(claims.left_out) + ".", "")


def _answers(claims: Claims) -> Iterator[str]:
    """What the figures say, in sentences, at the preset's own tokens a frame and beside them."""
    dreams = claims.of("dream")
    yield "How many times as many imagined steps a second:"
    yield ""
    sizes = sorted({c.K for c in dreams})
    yield from head("", *(f"K = {K}, batch {_list(c.batch for c in claims.of('dream', K))}" for K in sizes))
    for (fast, slow), (question, published) in QUESTIONS.items():
        yield line(
            question + published,
            *(_list(short(c.times_as_fast(fast, slow).median) for c in claims.of("dream", K)) for K in sizes),
        )
    yield ""


def _dreams(claims: Claims) -> Iterator[str]:
    yield from ("### Imagined steps a second", "")
    yield from head(
        "K", "batch", *FOUR, f"{REM} / {NO_POP}", f"{TRANSFORMER_POP} / {IRIS}", f"{REM} / {IRIS}", "absorbing"
    )
    for c in claims.of("dream"):
        ratios = (c.times_as_fast(*pair) for pair in ((REM, NO_POP), (TRANSFORMER_POP, IRIS), (REM, IRIS)))
        share = c.times_as_fast(NO_POP, ABSORB)  # seconds of absorbing / seconds of a step
        yield line(
            c.K, _batch(c), *(_spread(c.rate(n)) for n in FOUR), *map(_times, ratios), f"{100 * share.median:.0f}%"
        )
    yield ""
    yield (
        "Absorbing: the share of a step of RetNet token by token that takes the whole block into memory a second time, "
        "after its tokens were sampled one by one. A program that kept the memory of the sampling would save that much."
    )
    if claims.quick:
        yield (
            "Quick: up to three steps from the middle of a dream stand for all of it, and one alone where K x batch is "
            "beyond 1,024; the Transformer's cache is copied once in that one, but twice in the nine of a whole dream."
        )
    yield ""


def _training(claims: Claims) -> Iterator[str]:
    yield from ("### Training the world model: frames a second", "")
    yield from head(
        "K", "batch", *FOUR, f"{REM} / {NO_POP}", f"{TRANSFORMER_POP} / {IRIS}", f"{REM} / {TRANSFORMER_POP}"
    )
    for c in claims.of("training"):
        ratios = (c.times_as_fast(*pair) for pair in ((REM, NO_POP), (TRANSFORMER_POP, IRIS), (REM, TRANSFORMER_POP)))
        yield line(c.K, _batch(c), *(_spread(c.rate(n)) for n in FOUR), *map(_times, ratios))
    yield ""


def _memory(claims: Claims, plots: dict[str, str]) -> Iterator[str]:
    cells = claims.of("memory")
    yield from (f"### Milliseconds of an imagined step against its memory, K = {claims.K}, batch {cells[0].batch}", "")
    if "memory" in plots:
        yield from (f"![Cost of a dreamed step against blocks in memory]({plots['memory']})", "")
    yield from head("blocks in memory", *FOUR)
    for c in cells:
        yield line(f"{c.history:g}", *(_spread(Spread(*(1e3 / s for s in c.rate(n)))) for n in FOUR))
    yield line("the last against the first", *(
        f"{cells[0].rate(n).median / cells[-1].rate(n).median:.2f}x" for n in FOUR))  # fmt: skip
    yield ""


def _sizes(claims: Claims) -> Iterator[str]:
    yield from ("### Parameters and arithmetic", "")
    dreams = {c.K: c for c in claims.of("dream")}
    trained = {c.K: c for c in claims.of("training")}
    yield from head("", "parameters of the world model", *(f"GFLOP a step, K = {K}" for K in dreams),
                     *(f"GFLOP a frame trained on, K = {K}" for K in trained))  # fmt: skip
    for n in FOUR:
        each = [c.flops[n] / 1e9 for c in (*dreams.values(), *trained.values())]
        yield line(n, f"{claims.parameters[n]:,}", *map(short, each))
    yield ""
    yield (
        "A step includes actor and critic; attention is counted over all keys, masked or not; training is forwards and "
        "backwards."
    )
    yield ""


def _epoch(claims: Claims) -> Iterator[str]:
    parts = {n: claims.epoch(n) for n in FOUR}
    yield from (f"### Seconds of an epoch, preset {claims.preset}: which part made it faster", "")
    yield from head("", *parts[REM])
    for n in FOUR:
        yield line(n, *map(short, parts[n].values()))
    yield ""
    yield (
        f"All phases due, replay full. {claims.frames:,} frames train the world model and {claims.steps:,} steps are "
        f"imagined, at the rates above for K = {claims.K} and the largest batch measured. Tokenizer: its updates and "
        "the encoding of replay. Actor-critic: its updates without their dreams, burn-in included; the same for all "
        "four, as collection and tokenizer are."
    )
    yield ""


def draw(claims: Claims) -> dict[str, str]:
    """The plots as SVG, by name; those without anything to show are left out."""
    plots = {}
    dreams, memory = claims.of("dream"), claims.of("memory")
    if dreams:
        plots["speedup"] = plot(lambda figure: _draw_speedup(figure, dreams), 8.0, 3.4)
    if memory:
        plots["memory"] = plot(lambda figure: _draw_memory(figure, memory), 6.0, 3.2)
    return plots


def _draw_speedup(figure: Any, dreams: Sequence[Cell]) -> None:
    left, right = figure.subplots(1, 2, sharey=True)
    widths = {batch: 1.0 + 0.8 * i for i, batch in enumerate(sorted({c.wanted for c in dreams}))}
    lines = ((left, REM, NO_POP, REM, "RetNet"), (left, TRANSFORMER_POP, IRIS, TRANSFORMER_POP, "Transformer"),
             (right, REM, IRIS, REM, "RetNet, POP"))  # fmt: skip
    for axes, fast, slow, colour, name in lines:
        for batch, width in widths.items():
            cells = [c for c in dreams if c.wanted == batch]
            y = [c.times_as_fast(fast, slow) for c in cells]
            spread = ([s.median - s.low for s in y], [s.high - s.median for s in y])
            axes.errorbar([c.K for c in cells], [s.median for s in y], yerr=spread, color=COLOURS[colour], marker="o",
                          markersize=3, linewidth=width, capsize=2, label=f"{name}, batch {batch}")  # fmt: skip
    for axes, level, title in ((left, PUBLISHED_NO_POP, "POP over token by token"),
                               (right, PUBLISHED_IRIS, "RetNet with POP over Transformer token by token")):  # fmt: skip
        axes.axhline(level, color="#888888", linewidth=0.8, linestyle=(0, (4, 3)), label=f"the paper: {level}x")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_xticks(sorted({c.K for c in dreams}), [str(K) for K in sorted({c.K for c in dreams})])
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
        axes.set_xlabel("K, tokens a frame")
        axes.set_title(title, fontsize=9)
        axes.legend(frameon=False, fontsize=7)
    left.set_ylabel("times as many imagined steps/s")


def _draw_memory(figure: Any, memory: Sequence[Cell]) -> None:
    axes = figure.subplots()
    for name, colour in COLOURS.items():
        axes.plot([c.history for c in memory], [1e3 / c.rate(name).median for c in memory], color=colour, marker="o",
                  markersize=3, label=name)  # fmt: skip
    axes.set_yscale("log")
    axes.set_xlabel("blocks in memory")
    axes.set_ylabel("ms an imagined step")
    axes.legend(frameon=False, fontsize=7)


def _list(items: Any) -> str:
    return ", ".join(map(str, items))


def _batch(cell: Cell) -> str:
    return str(cell.batch) if cell.batch == cell.wanted else f"{cell.batch} (not {cell.wanted})"


def _spread(s: Spread) -> str:
    return f"{short(s.median)} ({short(min(s[1:]))}–{short(max(s[1:]))})"


def _times(s: Spread) -> str:
    return f"{short(s.median)}x ({short(s.low)}–{short(s.high)})"
