"""`tokendream sweep`: its flags and the function that it calls."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from tokendream.config.config import Config
from tokendream.sweep.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokendream.sweep.local import LocalEngine
    from tokendream.sweep.plan import Trial


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Train many runs, games x seeds, here or on SLURM; the same command again goes on with what is left.

    --games and --seeds take the place of train's --env and --seed, which are listed but refused. Without --preset it is
    chosen as train does; games that ask for several are refused."""

    suite: tyro.conf.Positional[str] = "atari100k"
    """Suite whose games `--games all` means: atari100k, the 26 games."""
    games: tuple[str, ...] = ("all",)
    """Names of games, all, or other environments as train's --env has them, such as tokendream/Catch-v0."""
    seeds: int = 5
    """Number of seeds of each game: 0, 1, ..."""
    out: Path | None = None
    """Folder of the sweep; by default sweeps/SUITE-PRESET."""
    resources: Annotated[Resources, tyro.conf.arg(name=""), tyro.conf.UseAppendAction]
    config: Annotated[Config, tyro.conf.arg(name="")]


def run(options: Sweep) -> int:
    from tokendream.runfolder import wandb_log
    from tokendream.sweep.local import LocalEngine
    from tokendream.sweep.plan import plan
    from tokendream.sweep.progress import dashboard_for
    from tokendream.sweep.run import sweep
    from tokendream.sweep.slurm import SlurmEngine

    if options.config.log == "wandb":
        wandb_log.load()  # before any run has begun
    # The same command finds the same folder. An environment may change the working folder.
    folder = (options.out or Path("sweeps") / f"{options.suite}-{options.config.preset}").absolute()
    trials = plan(options.suite, options.games, options.seeds, options.config, folder)
    engine = (SlurmEngine if options.resources.cluster == "slurm" else LocalEngine)(folder, options.resources)
    if isinstance(engine, LocalEngine):
        _check_memory(options.resources, engine, trials)
    return sweep(trials, folder, engine, dashboard_for(trials), again=f"tokendream {shlex.join(sys.argv[1:])}")


def _check_memory(resources: Resources, engine: LocalEngine, trials: Sequence[Trial]) -> None:
    """Raise ConfigError where the runs at a time do not fit into memory; not where some of them run already."""
    from tokendream.envs.registry import spaces_of
    from tokendream.kernels.machine import compute_for
    from tokendream.sweep import memory
    from tokendream.training.memory import needed

    config, left = trials[0].config, [trial for trial in trials if not trial.finished]
    gpus = [] if config.device == "cpu" else engine.gpus
    if not left or engine.jobs <= max(1, len(gpus)) or any(engine.found(trial) for trial in left):
        return
    bf16 = config.precision != "float32" if gpus else compute_for(config).dtype.itemsize == 2
    memory.check_fits(resources, min(engine.jobs, len(left)), gpus, needed(config, spaces_of(config), bf16=bf16))
