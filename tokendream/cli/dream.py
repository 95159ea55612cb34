"""`tokendream dream`: its flags and the function that it calls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from tokendream.cli.demo import chosen


@dataclass(frozen=True)
class Dream:
    """Film a dream: real, reconstruction and dream side by side, or many futures of one moment."""

    run: tyro.conf.Positional[Path | None] = None
    """Folder of the run, or a file that `export` made of one."""
    demo: bool = False
    """In place of a run: the trained agent that comes with the package."""
    out: Path = Path("dream.mp4")
    """File to write: .mp4 or .gif for a film, .png for a picture of some of its moments."""
    at: int = 300
    """Env step of freshly played games near which the dream starts."""
    length: int = 32
    """Dreamed steps."""
    futures: int = 0
    """Number of futures of one moment to show as a grid; 0 for a dream beside what really happened."""
    temperature: float | None = None
    """Temperature at which actions are sampled; by default the run's collect.temperature for the game and its
    evaluation.temperature for the futures."""
    seed: int = 0
    """Seed of the fresh game and of the dreams."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


def run(options: Dream) -> int:
    flags = vars(options) | {"run": chosen(options.run, demo=options.demo)}
    del flags["demo"]
    from tokendream.reports import films

    return films.film(**flags)
