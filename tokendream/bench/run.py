"""The command: what is measured, in which order, and how long it may take."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from tokendream.bench.machine import PRECISIONS, environment, matmul_peak
from tokendream.bench.measure import Effort, Work, fitting_batch, measure, ratios
from tokendream.bench.profiling import top_operators
from tokendream.bench.report import Comparison, Entry, Findings
from tokendream.bench.workload import Workload, synthetic_replay
from tokendream.compute import Compute
from tokendream.config import Config
from tokendream.plain import ConfigError
from tokendream.presets import vary
from tokendream.trainer import PARTS

QUICK = Effort(least=2, most=10, seconds=2.0, longest=8.0, total=120.0)
FULL = Effort(least=5, most=50, seconds=20.0)

SMALL = {"tokenizer": 64, "world_model": 8, "actor_critic": 16, "dream": 16}
"""Batches at which variants are compared: those at which the published code was timed."""

BY_TOKENS_STEPS = 2
"""Imagined steps when POP is compared with token by token; every step costs the same."""


@dataclass(frozen=True)
class Item:
    """One or more pieces of work, timed in turn; of two, the first is the slower one."""

    title: str
    builds: tuple[Callable[[int], Work], ...]
    batch: int
    names: tuple[str, ...] = ()
    """What the variants are called when they are compared."""
    profiled: bool = False


def main(config: Config, device: str, *, quick: bool, profile: bool, out: Path | None) -> int:
    """Time a preset's phases and print what was found. Raises ConfigError for a device or file that cannot be."""
    compute = Compute.resolve(device, config.precision)
    prepare("--out", out)
    progress = Progress()
    findings = run(config, compute, QUICK if quick else FULL, quick=quick, profile=profile, say=progress)
    progress.close()
    console = Console()
    findings.show(console if console.is_terminal else Console(width=170))
    if out is not None:
        findings.save(out)
        print(f"Written to {out}")
    return 0


def prepare(flag: str, path: Path | None) -> None:
    """Make the folder of a file to be written, before anything is timed. Raises ConfigError if it is a folder."""
    if path is not None:
        if path.is_dir():
            raise ConfigError(f"{flag} must be a file, and {path} is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)


def run(
    config: Config, compute: Compute, effort: Effort, *, quick: bool, profile: bool, say: Callable[[str], object]
) -> Findings:
    """Measure everything."""
    began, device = time.perf_counter(), compute.device
    findings = Findings(config, quick, environment(compute), device, compute.dtype)

    def find_peaks() -> None:
        for dtype in PRECISIONS:
            findings.peaks[dtype] = max(findings.peaks.get(dtype, 0.0), matmul_peak(device, dtype))

    say("matrix products")
    find_peaks()
    for item in items(config, compute, quick=quick):
        if time.perf_counter() - began > effort.total:
            findings.skipped.append(item.title)
            continue
        say(item.title)
        take(item, findings, effort, profile=profile)
    say("matrix products again")  # what a busy machine hid the first time
    find_peaks()
    return findings


def take(item: Item, findings: Findings, effort: Effort, *, profile: bool = False) -> None:
    """Measure one item and put what was found into `findings`."""
    device = findings.device
    gc.collect()  # a trainer and its phases refer to each other: the last one would weigh on this row's memory
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
    """The phases first, then their parts, then the variants."""
    device, dtype, horizon = compute.device, compute.dtype, config.dream.horizon
    replay = synthetic_replay(256 if quick else 1536, config.env.size, device)
    work = Workload(config, device, replay)
    batches = {name: getattr(config.training, name).batch for name in PARTS}
    batches["dream"] = batches["actor_critic"]
    small = {name: min(batch, batches[name]) for name, batch in SMALL.items()}

    def phase(name: str, dtype: torch.dtype = dtype) -> Callable[[int], Work]:
        return lambda batch: work.phase(name, batch, dtype)

    def dream(dtype: torch.dtype = dtype, horizon: int = horizon) -> Callable[[int], Work]:
        return lambda batch: work.dream(batch, dtype, horizon)

    yield Item("collect", (phase("collect"),), 1, profiled=True)
    for name in PARTS:
        yield Item(name, (phase(name),), batches[name], profiled=True)
    yield Item("dream", (dream(),), batches["dream"], profiled=True)
    yield Item("encode", (lambda batch: work.encode(batch, dtype),), batches["tokenizer"])
    yield Item("policy", (lambda batch: work.policy(batch, dtype),), 1)

    steps = min(BY_TOKENS_STEPS, horizon)
    sequential = Workload(vary(config, "world_model", decoding="token"), device, replay)

    def by_tokens(batch: int) -> Work:
        return sequential.dream(batch, dtype, steps).named("dream by tokens")

    builds = (by_tokens, dream(horizon=steps))
    for batch in [small["dream"]] if quick else sorted({small["dream"], batches["dream"]}):
        yield Item(f"dream by tokens, batch {batch}", builds, batch, ("token by token", "POP"))

    if config.tokenizer.perceptual != "none":
        bare = Workload(vary(config, "tokenizer", perceptual="none"), device, replay)

        def without(batch: int) -> Work:
            return bare.phase("tokenizer", batch, dtype).named("tokenizer without LPIPS")

        yield Item("tokenizer without LPIPS", (without,), small["tokenizer"])
    variants = tuple(reversed(PRECISIONS))  # float32, bf16
    names = tuple(PRECISIONS[v] for v in variants)
    for name in PARTS:
        yield Item(f"{name}, precisions", tuple(phase(name, v) for v in variants), small[name], names)
    yield Item("dream, precisions", tuple(dream(v) for v in variants), small["dream"], names)


class Progress:
    """Says on stderr what is being measured: on one line where there is a terminal, on one each elsewhere."""

    def __init__(self) -> None:
        self._began, self._terminal = time.perf_counter(), sys.stderr.isatty()

    def __call__(self, what: str) -> None:
        line = f"{time.perf_counter() - self._began:5.0f} s  {what}"
        end = "\x1b[K\r" if self._terminal else "\n"
        print(line, end=end, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave no line behind on a terminal."""
        if self._terminal:
            print(end="\x1b[K", file=sys.stderr, flush=True)
