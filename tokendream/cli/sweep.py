"""`tokendream sweep`: its flags and the function that it calls."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from tokendream.config.config import Config


@dataclass(frozen=True)
class Sweep:
    """Train many runs, games x seeds, here or on SLURM; the same command again goes on with what is left.

    --games and --seeds take the place of train's --env and --seed, which are listed but refused."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    suite: tyro.conf.Positional[str] = "atari100k"
    """Suite whose games `--games all` means: atari100k, the 26 games."""
    games: tuple[str, ...] = ("all",)
    """Names of games, all, or other environments as train's --env has them, such as tokendream/Catch-v0."""
    seeds: int = 5
    """Seeds of each game: 0, 1, ..."""
    out: Path | None = None
    """Folder of the sweep; by default sweeps/SUITE-PRESET."""
    jobs: int = 0
    """Runs at a time; 0 for one a GPU, one where there is none, and all on SLURM."""
    cores: int = 0
    """Cores of each run; 0 shares out those of this machine, and leaves it to SLURM there."""
    cluster: str = "local"
    """local or slurm."""
    partition: str = ""
    """SLURM's partition."""
    gpus: int = 1
    """GPUs of each run on SLURM; here the runs take the visible ones in turn."""
    minutes: int = 0
    """Time of a SLURM job; a run saves 10 minutes before its end and is queued again."""
    sbatch: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """KEY=VALUE for sbatch, such as account=NAME, mem=32G or constraint=a100."""
    setup: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A line of shell to run before each run, such as "module load cuda"."""


def run(options: Sweep) -> int:
    from tokendream.sweep.engine import Resources
    from tokendream.sweep.local import LocalEngine
    from tokendream.sweep.plan import default_folder, plan
    from tokendream.sweep.progress import dashboard_for
    from tokendream.sweep.run import sweep
    from tokendream.sweep.slurm import SlurmEngine

    asked = (options.partition, options.minutes, options.sbatch, options.setup)
    resources = Resources(options.cluster, options.cores, options.gpus, *asked)
    folder = options.out or default_folder(options.suite, options.config)
    trials = plan(options.suite, options.games, options.seeds, options.config, folder)
    engine = (SlurmEngine if options.cluster == "slurm" else LocalEngine)(folder, resources, options.jobs)
    return sweep(trials, folder, engine, dashboard_for(trials), again=f"tokendream {shlex.join(sys.argv[1:])}")
