"""What was found, as plain data for JSON and for `speed_page`."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.machine import PRECISIONS
from benchmarks.measure import Row
from benchmarks.page import WALL
from benchmarks.profiling import Operator
from benchmarks.reference import PUBLISHED, PUBLISHED_MACHINE, TARGETS
from tokendream.config.config import Config
from tokendream.config.presets import REM
from tokendream.config.schedule import PARTS, schedule
from tokendream.training.workload import frames_encoded


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
    only: str = ""
    """The one thing that was asked for; all where that is empty."""

    def published(self, row: Row) -> float | None:
        """The published code's figure for this very workload; None where the sizes or the kind of machine differ."""
        sizes = ("env", "tokenizer", "world_model", "actor_critic", "dream")
        if self.environment.get("kind") != "AMX" or any(getattr(self.config, s) != getattr(REM, s) for s in sizes):
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
            "preset": self.config.preset,
            "quick": self.quick,
            "only": self.only,
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
