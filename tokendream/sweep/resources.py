"""What the runs of a sweep get, and where they run: the flags of `tokendream sweep` beside the config's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from tokendream.config import ranges
from tokendream.config.ranges import Count, CountOrZero
from tokendream.errors import ConfigError

OURS = ("array", "error", "job-name", "open-mode", "output", "partition", "signal", "time")
"""Options of sbatch that a sweep sets itself."""


@dataclass(frozen=True)
class Resources:
    """What each run gets. All but `jobs`, `cores` and `runs_per_gpu` is SLURM's; here the runs take the machine's GPUs
    in turn."""

    jobs: CountOrZero = 0
    """Runs at a time. 0: `runs_per_gpu` on each GPU, one where there is no GPU, no limit on SLURM."""
    runs_per_gpu: Count = 1
    """Runs at a time on each GPU of this machine; more than fit into its memory are refused."""
    cores: CountOrZero = 0
    """Cores of each run; 0 shares out those of this machine, and leaves it to SLURM there."""
    cluster: Literal["local", "slurm"] = "local"
    """Where the runs run: on this machine, or as jobs of SLURM."""
    partition: str = ""
    """SLURM's partition."""
    gpus: CountOrZero = 1
    """GPUs of each run on SLURM; here the runs take the visible ones in turn."""
    minutes: CountOrZero = 0
    """Time of a SLURM job; a run saves 10 minutes before its end and is queued again."""
    sbatch: tuple[str, ...] = ()
    """KEY=VALUE for sbatch, such as account=NAME, mem=32G or constraint=a100."""
    setup: tuple[str, ...] = ()
    """A line of shell to run before each run, such as "module load cuda"."""

    def __post_init__(self) -> None:
        ranges.check(self)
        if self.cluster == "local" and (self.partition or self.minutes or self.sbatch or self.setup):
            raise ConfigError("partition, minutes, sbatch and setup are for --cluster slurm")
        if self.runs_per_gpu > 1 and (self.jobs or self.cluster == "slurm"):
            raise ConfigError("runs-per-gpu is for runs of this machine, and takes the place of jobs")
        if self.cluster == "slurm" and self.minutes < 20:
            raise ConfigError(f"minutes must be at least 20 on SLURM, not {self.minutes}: runs stop 10 minutes before")
        if not re.fullmatch(r"[\w.,-]*", self.partition):
            raise ConfigError(f"partition must be a plain name, not {self.partition!r}")
        for option in self.sbatch:
            if not re.fullmatch(r"[a-z][a-z-]*(=[^\n]*)?", option):
                raise ConfigError(f"--sbatch takes KEY=VALUE, an option of sbatch without its dashes, not {option!r}")
            if option.partition("=")[0] in OURS:
                raise ConfigError(f"--sbatch {option}: a sweep sets {', '.join(OURS)} itself (--partition, --minutes)")
