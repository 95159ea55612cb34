"""`tokendream train`: its flags and the function that it calls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from tokendream.config.config import Config


@dataclass(frozen=True)
class Train:
    """Train an agent from scratch, evaluate it and write its report; or go on with a run that was cut.

    PRESET: rem, best, cpu, night, control, grid, toy, tiny or a successor's, perhaps with an ablation behind
    it (rem-no-pop); by default the one for what the environment shows: control for features, grid for maps, else rem
    where there is a GPU and cpu where there is none. Every flag changes one field of it; the defaults listed are the
    preset's. Sources that they name: Simulus, arXiv 2502.11537; EASimulus, 2601.19336; ITC, 2605.16457;
    VideoRoPE, 2502.05173; HL-Gauss, 2403.03950; FSQ, 2309.15505.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    run_dir: Path | None = None
    """Folder of the run; by default a free name under runs/. An existing run is never overwritten."""
    resume: Path | None = None
    """Folder of a run to go on with, from its last checkpoint and with its own config."""
    time_limit: float | None = None
    """Minutes after which to stop at a checkpoint, ready for --resume."""


def usual_preset() -> str:
    """The preset where none is named: rem where there is a GPU, else cpu."""
    import torch

    return "rem" if torch.cuda.is_available() else "cpu"


def run(options: Train) -> int:
    from tokendream.training import run as experiment

    if options.resume is not None:
        return experiment.resume(options.resume, time_limit=options.time_limit)
    return experiment.start(options.config, options.run_dir, time_limit=options.time_limit)
