"""`tokendream eval`: its flags and the function that it calls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Eval:
    """Play full games with a trained agent and report its score."""

    run_dir: tyro.conf.Positional[Path]
    """Folder of the run, or a file that `export` made of one."""
    episodes: int | None = None
    """Games to play; by default as many as the run's own evaluation."""
    temperature: float | None = None
    """Temperature at which actions are sampled; by default that of the run's evaluation."""
    seed: int | None = None
    """Seed of the games and of the sampling; by default that of the run, whose own evaluation plays the same games."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    films: bool = True
    """Write films of the best and of the median game."""


def run(options: Eval) -> int:
    from tokendream.reports.evaluate import evaluate_run

    return evaluate_run(**vars(options))
