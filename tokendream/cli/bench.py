"""`tokendream bench`: this machine's speed, in minutes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokendream.cli.train import usual_preset
from tokendream.config.presets import preset


@dataclass(frozen=True)
class Bench:
    """Time every phase of a run as this machine would do it, and compute what an epoch and a run take.

    More is measured in a clone, by python -m benchmarks."""

    preset: str = ""
    """Preset whose sizes are timed; by default the one that train would take: rem where there is a GPU, else cpu."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    quick: bool = False
    """A minute or two instead of three, at smaller batches where the full ones take long."""
    out: Path | None = None
    """Write the rows to this JSON file too."""


def run(options: Bench) -> int:
    config = preset(options.preset or usual_preset())
    from tokendream.training import timing

    return timing.main(config, options.device, quick=options.quick, out=options.out)
