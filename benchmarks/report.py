"""What was found, as a table and as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.machine import PRECISIONS
from benchmarks.measure import Row
from benchmarks.page import WALL, short
from benchmarks.profiling import Operator
from benchmarks.reference import PUBLISHED, PUBLISHED_MACHINE, TARGETS
from tokendream.config.config import Config
from tokendream.config.presets import REM
from tokendream.config.schedule import PARTS, schedule
from tokendream.training.workload import frames_encoded

FORMAT = 2
"""Version of the JSON."""


@dataclass(frozen=True)
class Entry:
    """A measured row, and the batch that it was meant to have."""

    row: Row
    batch: int


@dataclass(frozen=True)
class Comparison:
    """Two variants of the same work, timed in turn."""

    title: str
    fast: str
    slow: str
    ratios: tuple[float, ...]

    def __str__(self) -> str:
        middle, low, high = statistics.median(self.ratios), min(self.ratios), max(self.ratios)
        return f"{self.title}: {self.fast} is {middle:.2f}x as fast as {self.slow} ({low:.2f} to {high:.2f})"


@dataclass
class Findings:
    """Everything a bench found out."""

    config: Config
    quick: bool
    environment: dict[str, Any]
    device: torch.device
    dtype: torch.dtype
    clock: str = WALL
    peaks: dict[torch.dtype, float] = field(default_factory=dict)
    """FLOP/s of matrix products."""
    bandwidth: float = 0.0
    """Bytes/s of a large copy, read and written."""
    entries: list[Entry] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    profiles: dict[str, list[Operator]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def published(self, row: Row) -> float | None:
        """The published code's figure for this very workload; None where the sizes or the kind of machine differ."""
        sizes = ("env", "tokenizer", "world_model", "actor_critic", "dream")
        if self.device.type != "cpu" or any(getattr(self.config, s) != getattr(REM, s) for s in sizes):
            return None
        if row.label.name == "dream" and row.label.imagined != row.label.batch * REM.dream.horizon:
            return None
        return PUBLISHED.get((row.label.name, row.label.batch))

    def epoch(self) -> dict[str, float]:
        """Seconds of an epoch in which every phase is due and the replay buffer is full, computed from the rows.

        Empty if a row is missing.
        """
        first = {e.row.label.name: e for e in reversed(self.entries) if e.row.label.precision == self.dtype}
        if not {"collect", *PARTS, "encode"} <= first.keys():
            return {}
        config, training = self.config, self.config.training
        seconds = {}
        for phase in schedule(config):
            row = first[phase.name].row
            batch = getattr(training, phase.name).batch if phase.name in PARTS else 1
            seconds[phase.name] = phase.updates * batch / row.label.batch * row.median
        encode = first["encode"].row
        seconds["encode"] = frames_encoded(config, config.epochs) / encode.rate(encode.label.frames)
        return {**seconds, "total": sum(seconds.values())}

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "format": FORMAT,
            "preset": self.config.preset,
            "quick": self.quick,
            "clock": self.clock,
            "config": json.loads(self.config.to_json()),
            "environment": self.environment,
            "peak_tflops": {PRECISIONS[dtype]: peak / 1e12 for dtype, peak in self.peaks.items()},
            "copy_gb_per_s": self.bandwidth / 1e9,
            "rows": [self._row(entry) for entry in self.entries],
            "comparisons": [
                {
                    "title": c.title,
                    "fast": c.fast,
                    "slow": c.slow,
                    "ratio": {"median": statistics.median(c.ratios), "min": min(c.ratios), "max": max(c.ratios)},
                }
                for c in self.comparisons
            ],
            "epoch_seconds": self.epoch(),
            "profiles": {name: [vars(operator) for operator in found] for name, found in self.profiles.items()},
            "skipped": self.skipped,
        }

    def _row(self, entry: Entry) -> dict[str, Any]:
        row, label = entry.row, entry.row.label
        data: dict[str, Any] = {
            "name": label.name,
            "precision": PRECISIONS[label.precision],
            "batch": label.batch,
            "full_batch": entry.batch,
            "sizes": label.sizes,
            "seconds": {
                "median": row.median,
                "min": min(row.seconds),
                "max": max(row.seconds),
                "repetitions": len(row.seconds),
            },
            "updates_per_s": row.rate(1),
            "flop": row.flops,
            "tflops": row.rate(row.flops) / 1e12,
            "share_of_peak": row.rate(row.flops) / self.peaks[label.precision],
            "traffic_bytes": row.traffic,
            "peak_memory_bytes": row.memory,
        }
        for name, count in (("frames", label.frames), ("imagined_steps", label.imagined), ("tokens", label.tokens)):
            if count:
                data[f"{name}_per_s"] = row.rate(count)
        published = self.published(row)
        if published is not None:
            target = TARGETS.get((label.name, label.batch))
            data["published"] = {"rate": published, "machine": PUBLISHED_MACHINE, "target": target}
        return data

    def show(self, console: Console) -> None:
        """Print everything for people."""
        facts = self.environment
        console.print(
            f"[bold]benchmarks speed, preset {self.config.preset}[/]: {facts['device']}, {facts['processor']}, "
            f"torch {facts['torch']}, commit {facts['commit'] or 'unknown'}, {facts['date']}"
        )
        peaks = ", ".join(f"{peak / 1e12:.3g} TFLOP/s {PRECISIONS[dtype]}" for dtype, peak in self.peaks.items())
        console.print(
            f"Matrix products reach {peaks} here, copies {self.bandwidth / 1e9:.3g} GB/s; '% peak' is the share of the "
            f"former. Timed by {self.clock}."
        )
        console.print(self._table())
        for comparison in self.comparisons:
            console.print(str(comparison), highlight=False)
        epoch = self.epoch()
        if epoch:
            parts = ", ".join(f"{name} {short(seconds)}" for name, seconds in epoch.items())
            console.print(f"Seconds of an epoch with all phases and a full replay, computed from the rows: {parts}")
        for name, operators in self.profiles.items():
            console.print(f"{name}: operators by their own time in one update")
            console.print(_operator_table(operators))
        if self.skipped:
            console.print(f"Left out for lack of time: {'; '.join(self.skipped)}")

    def _table(self) -> Table:
        published = [self.published(entry.row) for entry in self.entries]
        table = Table(caption=self._caption(any(p is not None for p in published)), caption_justify="left")
        table.add_column("work")
        table.add_column("batch")
        names = ("ms/update", "updates/s", "frames/s", "imagined/s", "tokens/s", "TFLOP/s", "% peak", "GiB")
        for name in (*names, *(("published",) if any(p is not None for p in published) else ())):
            table.add_column(name, justify="right", no_wrap=True)
        for entry, reference in zip(self.entries, published, strict=True):
            row, label = entry.row, entry.row.label
            table.add_row(
                f"{label.name}, {PRECISIONS[label.precision]}",
                label.sizes + (f" (not {entry.batch})" if label.batch != entry.batch else ""),
                f"{short(1e3 * row.median)} ({short(1e3 * min(row.seconds))}–{short(1e3 * max(row.seconds))})",
                short(row.rate(1)),
                *(short(row.rate(n)) if n else "" for n in (label.frames, label.imagined, label.tokens)),
                short(row.rate(row.flops) / 1e12),
                short(100 * row.rate(row.flops) / self.peaks[label.precision]),
                short(row.memory / 2**30),
                *((("" if reference is None else short(reference)),) if len(table.columns) == 11 else ()),
            )
        return table

    def _caption(self, published: bool) -> str:
        memory = "allocated on the GPU" if self.device.type == "cuda" else "resident, whole process"
        lines = [
            f"ms: median of repetitions (min–max). FLOP: products and convolutions, counted. GiB: peak, {memory}.",
            "world_model and actor_critic find their frames encoded; encode times that.",
            "dream by tokens: world_model.decoding = token: a call for the block, then one a token but the last.",
        ]
        if published:
            lines.append(f"published: REM's code, frames/s or imagined steps/s, on {PUBLISHED_MACHINE}.")
        return "\n".join(lines)


def _operator_table(operators: Sequence[Operator]) -> Table:
    table = Table()
    for column in ("operator", "ms", "%", "calls"):
        table.add_column(column, justify="left" if column == "operator" else "right", no_wrap=True)
    for o in operators:
        table.add_row(o.name[:70], short(1e3 * o.seconds), f"{100 * o.share:.1f}", str(o.calls))
    return table
