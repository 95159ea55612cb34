"""`tokendream diagnose`: its flags and the function that it calls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Diagnose:
    """Measure each part of a trained agent on fresh games, beside what is healthy; writes a page and JSON."""

    run_dir: tyro.conf.Positional[Path]
    """Folder of the run, or a file that `export` made of one."""
    steps: int = 2000
    """Env steps of fresh games to measure on. With other settings than the defaults the results go to files named after
    the settings, and the run's own diagnosis and report stay as they are."""
    temperature: float | None = None
    """Temperature at which actions are sampled; by default the run's collect.temperature for the games and its
    evaluation.temperature for the figures of the controller."""
    seed: int = 0
    """Seed of those games and of the dreams."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


def run(options: Diagnose) -> int:
    from tokendream.reports.diagnose import diagnose

    return diagnose(**vars(options))
