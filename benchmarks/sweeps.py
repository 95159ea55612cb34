"""`python -m benchmarks sweeps`: how a phase's cost grows with tokens a frame, batch, sequence length, layers
and width.

A curve is one phase over one size; its points are timed in turn. What is found is `Sweeps`; `sweeps_page` makes a
page of it.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.command import Progress, begin, chosen_effort, clock_name, named, publish, save
from benchmarks.growth import Curve, Point, Sweeps
from benchmarks.machine import PRECISIONS, environment, give_back_freed_memory, kind
from benchmarks.measure import Effort, Work, measure
from benchmarks.sweeps_page import draw, markdown, section
from benchmarks.workload import Workload, grids, require_image
from tokendream.config.config import Config, vary
from tokendream.device import Compute
from tokendream.training.synthetic import synthetic_replay
from tokendream.training.timing import elapsed

QUICK = Effort(least=3, most=5, seconds=0.5, longest=2.5, total=240.0)
FULL = Effort(least=5, most=20, seconds=4.0, longest=30.0)

BATCHES = (1, 4, 16, 64, 128)
SEGMENTS = (5, 10, 20, 40)
"""Env steps of a training segment."""
MEMORIES = (1, 4, 16, 64)
"""Blocks in the world model's memory when a dream goes on."""
HORIZONS = (3, 9, 27)
"""Imagined steps of a dream."""
LAYERS = (1, 2, 5, 10)
HEADS = (16, 32, 64, 128)
"""Width of a head of the world model: with the four of `rem`, D = 64 to 512."""

BATCH = {"world_model": 4, "actor_critic": 8, "dream": 16}
"""Where another size is swept: small, so that the largest size is still timed within seconds."""

STEPS = 3
"""Imagined steps of a dream that is timed alone; every step costs the same."""

REPLAY = 256
"""Rows of synthetic experience."""

NAMES = {
    "tokenizer": ("tokenizer update", "frame"),
    "world_model": ("world-model update", "frame"),
    "actor_critic": ("actor-critic update", "imagined step"),
    "dream": ("dream alone", "imagined step"),
}
"""Of each phase, what it is called and what its cost is counted by."""


@dataclass(frozen=True)
class Setting:
    """One size of everything."""

    config: Config
    batch: int
    history: int = 1
    """Blocks in the world model's memory, for a dream."""


@dataclass(frozen=True)
class CurvePlan:
    """A curve to be measured, and what each of its sizes, in rising order, means."""

    curve: Curve
    phase: str
    settings: dict[int, Setting]

    def called(self, sizes: Iterable[int]) -> str:
        """Some of its sizes, for people."""
        return f"{self.curve.work} at " + ", ".join(map(self.curve.size.format, sizes))


def main(config: Config, device: str, *, quick: bool, cpu_time: bool, out: Path | None, page: Path | None) -> int:
    """Measure, print the page, and write JSON and page where asked. Raises ConfigError for what cannot be."""
    require_image(config)
    grids(config)  # raises, where there are none
    compute = begin(config, device, cpu_time=cpu_time, out=out, page=page)
    where = section(kind(compute))
    where.check(page)
    progress = Progress()
    found = run(config, compute, chosen_effort(QUICK if quick else FULL, cpu_time), quick=quick, say=progress)
    progress.close()
    save(dataclasses.asdict(found), named(out, where.kind))
    publish(where, page, draw(found), lambda plots: markdown(found, plots))
    return 0


def run(config: Config, compute: Compute, effort: Effort, *, quick: bool, say: Callable[[str], object]) -> Sweeps:
    """Measure everything. What time does not allow is named in `left_out`."""
    began = effort.clock()
    found = Sweeps(config.preset, quick, clock_name(effort.clock), PRECISIONS[compute.dtype], environment(compute))
    replay = synthetic_replay(REPLAY, config.env.size, compute.device)

    def work(phase: str, at: Setting) -> Work:
        sized = Workload(at.config, compute, replay)
        if phase == "dream":
            return sized.dream(at.batch, compute.dtype, STEPS, at.history)
        return sized.phase(phase, at.batch, compute.dtype)

    for sweep in sweeps(config):
        if effort.clock() - began > effort.total:
            found.left_out.append(sweep.called(sweep.settings))
            continue
        say(f"{sweep.curve.work}, {sweep.curve.axis}")
        gc.collect()
        give_back_freed_memory()
        works, too_long = _within(sweep, work, compute.device, effort)
        if too_long:
            found.left_out.append(sweep.called(too_long))
        points = [
            Point(x, row.label.imagined or row.label.frames, list(row.seconds), row.flops)
            for x, row in zip(works, measure(list(works.values()), compute.device, effort), strict=True)
        ]
        found.curves.append(dataclasses.replace(sweep.curve, points=points))
    return found


def _within(
    sweep: CurvePlan, work: Callable[[str, Setting], Work], device: torch.device, effort: Effort
) -> tuple[dict[int, Work], list[int]]:
    """The work at every size whose update is expected to last no longer than `effort` allows, and the sizes beyond.

    Expected from the size before it, by the ratio of tokens or of sizes, whichever is larger.
    """
    works: dict[int, Work] = {}
    longest, tokens, last = 0.0, 1, 1
    for x, at in sweep.settings.items():
        made = work(sweep.phase, at)
        if longest * max(x / last, made.label.tokens / tokens) > effort.longest:
            return works, [other for other in sweep.settings if other >= x]
        elapsed(made.run, device)  # the first call is slower
        works[x], longest, tokens, last = made, elapsed(made.run, device, 1, effort.clock), made.label.tokens, x
    return works, []


def sweeps(config: Config) -> Iterator[CurvePlan]:
    """What is measured, tokens a frame first."""
    cheap = grids(config)
    own, M = cheap[1], config.world_model

    def over(axis: str, phase: str, size: str, settings: dict[int, Setting]) -> CurvePlan:
        held = {
            "tokens": f"K = {config.tokens_per_frame}",
            "batch": f"batch {BATCH.get(phase)}",
            "layers": f"{M.layers} layers",
            "width": f"D = {M.width}",
            "length": {"world_model": f"segments of {M.segment_length}", "dream": f"{STEPS} steps from 1 block on",
                       "actor_critic": f"horizon {config.dream.horizon}"}.get(phase),
        }  # fmt: skip
        if phase == "tokenizer":
            held |= {"layers": f"LPIPS {config.tokenizer.perceptual}", "width": None}
        work, unit = NAMES[phase]
        fixed = ", ".join(text for name, text in held.items() if text and name != axis)
        return CurvePlan(Curve(axis, work, size, unit, fixed), phase, settings)

    for phase, batch in BATCH.items():
        yield over("tokens", phase, "K = {}", {c.tokens_per_frame: Setting(c, batch) for c in cheap})
    for phase in NAMES:
        # What the tokenizer costs is its own affair alone.
        base = config if phase == "tokenizer" else own
        yield over("batch", phase, "B = {}", {batch: Setting(base, batch) for batch in BATCHES})
    segments = {T: vary(own, "world_model", segment_length=T) for T in SEGMENTS if M.context < T}
    horizons = {T: vary(own, "dream", horizon=T) for T in HORIZONS}
    for phase, size, lengths in (
        ("world_model", "segments of T = {}", {T: Setting(c, BATCH["world_model"]) for T, c in segments.items()}),
        ("dream", "a memory of T = {}", {n: Setting(own, BATCH["dream"], n) for n in MEMORIES}),
        ("actor_critic", "horizon T = {}", {T: Setting(c, BATCH["actor_critic"]) for T, c in horizons.items()}),
    ):
        yield over("length", phase, size, lengths)
    for phase, batch in BATCH.items():
        deep = {n: Setting(vary(own, "world_model", layers=n), batch) for n in LAYERS}
        yield over("layers", phase, "N = {}", deep)
        wide = {M.heads * d: Setting(vary(own, "world_model", width=M.heads * d), batch) for d in HEADS}
        yield over("width", phase, "D = {}", wide)
