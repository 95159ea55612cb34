"""`tokendream export`: its flags and the function that it calls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Export:
    """Write a trained agent, with what is known of it, into one file for eval, play, dream and diagnose."""

    run: tyro.conf.Positional[Path]
    """Folder of the run; it may still be training."""
    out: Path | None = None
    """File to write, ending in .safetensors; by default named after the run, here."""
    half: bool = False
    """Weights as float16: half the size, and a little rounding."""


def run(options: Export) -> int:
    from tokendream.reports.export import export

    return export(options.run, options.out, half=options.half)
