"""`python -m benchmarks speed`: what is measured, in which order, and how long it may take."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.command import Progress, begin, chosen_effort, clock_name, named, publish, save
from benchmarks.machine import (
    PRECISIONS,
    copy_bandwidth,
    environment,
    give_back_freed_memory,
    kind,
    matmul_peak,
    precisions,
)
from benchmarks.measure import Effort, Work, fitting_batch, measure, ratios
from benchmarks.page import Section
from benchmarks.profiling import top_operators
from benchmarks.report import Comparison, Entry, Findings
from benchmarks.speed_page import titled
from benchmarks.workload import Workload
from tokendream.config.config import Config, vary
from tokendream.config.cuts import ABLATIONS
from tokendream.config.parts import FITTED
from tokendream.config.schedule import PARTS
from tokendream.device import Compute
from tokendream.errors import nearest, require
from tokendream.kernels.cpu import build
from tokendream.training.synthetic import shown, synthetic_replay

QUICK = Effort(least=2, most=10, seconds=2.0, longest=8.0, total=120.0)
FULL = Effort(least=5, most=50, seconds=20.0)

SMALL = {"tokenizer": 64, "world_model": 8, "actor_critic": 16, "dream": 16}
"""Batches at which variants are compared: those at which the published code was timed."""

QUICK_ROWS, ROWS = 256, 1536
"""Rows of synthetic experience."""

BY_TOKENS_STEPS = 2
"""Imagined steps when POP is compared with token by token; every step costs the same."""


Build = Callable[[int], Work]
"""From a batch to a piece of work."""


@dataclass(frozen=True)
class Item:
    """One or more pieces of work, timed in turn; of two, the first is the slower one."""

    title: str
    builds: tuple[Build, ...]
    batch: int
    names: tuple[str, ...] = ()
    """What the variants are called when they are compared."""
    profiled: bool = False


def main(
    config: Config,
    device: str,
    *,
    quick: bool,
    profile: bool,
    out: Path | None,
    cpu_time: bool = False,
    page: Path | None = None,
    only: str = "",
) -> int:
    """Time a preset's phases, or only what has this title, and print what was found. Raises ConfigError for a device or
    file that cannot be, and where nothing has the title."""
    compute = begin(config, device, cpu_time=cpu_time, out=out, page=page)
    section = Section("speed", kind(compute))
    section.check(page)
    progress = Progress()
    effort = chosen_effort(QUICK if quick else FULL, cpu_time)
    findings = run(config, compute, effort, quick=quick, profile=profile, say=progress, only=only)
    progress.close()
    figures = findings.to_json()
    save(figures, named(out, section.kind))
    publish(section, page, {}, lambda plots: titled(figures))
    return 0


def run(
    config: Config,
    compute: Compute,
    effort: Effort,
    *,
    quick: bool,
    profile: bool,
    say: Callable[[str], object],
    only: str = "",
) -> Findings:
    """Measure everything."""
    device, clock = compute.device, effort.clock
    began = clock()
    findings = Findings(config, quick, environment(compute), device, compute.dtype, clock_name(clock), only=only)

    def find_peaks() -> None:
        for dtype in precisions(compute):
            peak = matmul_peak(device, dtype, clock=clock)
            findings.peaks[dtype] = max(findings.peaks.get(dtype, 0.0), peak)
        findings.bandwidth = max(findings.bandwidth, copy_bandwidth(device, clock=clock))

    say("matrix products and copies")
    find_peaks()
    titles = []
    for item in items(config, compute, quick=quick):
        titles.append(item.title)
        if only not in ("", item.title):
            continue
        if clock() - began > effort.total:
            findings.skipped.append(item.title)
            continue
        say(item.title)
        take(item, findings, effort, profile=profile)
        if only:
            break
    require(only in ("", *titles), "--only", f"a title; nearest: {nearest(only, titles)}", only)
    say("matrix products and copies again")  # what a busy machine hid the first time
    find_peaks()
    return findings


def take(item: Item, findings: Findings, effort: Effort, *, profile: bool = False) -> None:
    """Measure one item and put what was found into `findings`."""
    device = findings.device
    gc.collect()  # a trainer and its phases refer to each other: the last one would weigh on this row's memory
    give_back_freed_memory()
    batch = min(fitting_batch(build, item.batch, device, effort) for build in item.builds)
    works = [build(batch) for build in item.builds]
    rows = measure(works, device, effort)
    findings.entries += [Entry(row, item.batch) for row in rows]
    if len(rows) == 2:
        title = f"{rows[1].label.name}, {rows[1].label.sizes}"
        findings.comparisons.append(Comparison(title, item.names[1], item.names[0], ratios(*rows)))
    if profile and item.profiled:
        findings.profiles[item.title] = top_operators(works[0].run, device)


def items(config: Config, compute: Compute, *, quick: bool) -> Iterator[Item]:
    """The phases first, then their parts, then the variants: two pieces of work that differ in one switch.

    A switch is another `Workload`, of the config or of where it runs with that field changed.
    """
    device, horizon = compute.device, config.dream.horizon
    spaces = shown(config)
    replay = synthetic_replay(QUICK_ROWS if quick else ROWS, spaces, device)

    def made(config: Config, compute: Compute = compute) -> Workload:
        return Workload(config, compute, replay, spaces)

    work = made(config)
    batches = {name: getattr(config.training, name).batch for name in PARTS}
    batches["dream"] = batches["actor_critic"] * config.dream.group
    small = {name: min(batch, batches[name]) for name, batch in SMALL.items()}

    def update(name: str, dtype: torch.dtype = compute.dtype, work: Workload = work) -> Build:
        return lambda batch: work.dream(batch, dtype, horizon) if name == "dream" else work.phase(name, batch, dtype)

    yield Item("collect", (update("collect"),), 1, profiled=True)
    for name, batch in batches.items():
        yield Item(name, (update(name),), batch, profiled=True)
    yield Item("encode", (lambda batch: work.encode(batch, compute.dtype),), batches["tokenizer"])
    yield Item("policy", (lambda batch: work.policy(batch, compute.dtype),), 1)

    if config.world_model.decoding == "pop":
        steps = min(BY_TOKENS_STEPS, horizon)
        sequential = made(ABLATIONS["no-pop"](vary(config, "world_model", shared_prediction_token=False)))

        def by_tokens(batch: int) -> Work:
            return sequential.dream(batch, compute.dtype, steps).named("dream by tokens")

        def by_frames(batch: int) -> Work:
            return work.dream(batch, compute.dtype, steps)

        for batch in [small["dream"]] if quick else sorted({small["dream"], batches["dream"]}):
            yield Item(f"dream by tokens, batch {batch}", (by_tokens, by_frames), batch, ("token by token", "POP"))

        copying, drawing = (made(vary(config, "world_model", copy_or_sample=copies)) for copies in (True, False))
        yield Item(
            "dream, copy or sample",
            (
                lambda batch: copying.dream(batch, compute.dtype, horizon).named("dream, copy or sample"),
                lambda batch: drawing.dream(batch, compute.dtype, horizon),
            ),
            small["dream"],
            ("copy or sample", "sampled"),
        )
    if spaces.observation.is_image and config.tokenizer.perceptual != "none" and config.tokenizer.kind not in FITTED:
        bare = update("tokenizer", work=made(vary(config, "tokenizer", perceptual="none")))
        name = "tokenizer without LPIPS"
        yield Item(name, (_named(bare, name),), small["tokenizer"])
    if device.type == "cpu" and config.kernels and build.library() is not None:
        plain, own = (made(config, dataclasses.replace(compute, kernels=on)) for on in (False, True))
        for name, batch in small.items():
            yield Item(
                f"{name}, kernels",
                (_named(update(name, work=plain), f"{name} without kernels"), update(name, work=own)),
                batch,
                ("PyTorch's operators", "own kernels"),
            )
    variants = tuple(reversed(precisions(compute)))  # float32, and bf16 where it is fast
    names = tuple(PRECISIONS[v] for v in variants)
    for name, batch in small.items() if len(variants) > 1 else ():
        each = tuple(update(name, v, made(config)) for v in variants)  # layers of its own: they go by precision
        yield Item(f"{name}, precisions", each, batch, names)


def _named(build: Build, name: str) -> Build:
    return lambda batch: build(batch).named(name)
