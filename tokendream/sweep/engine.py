"""What a sweep needs from the place where its runs run, and how a run that ended is judged.

`local` runs them on this machine, `slurm` on a cluster. Either way what is started is a command, `python -m tokendream
train --resume RUN`, and what became of it is read from the run's folder and the command's exit code.
"""

from __future__ import annotations

import itertools
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from tokendream.stop import EXIT_CODES
from tokendream.sweep.plan import Trial


class Status(NamedTuple):
    """A job at this moment, and what is worth showing beside that. A job that SLURM holds back is waiting."""

    state: Literal["waiting", "running", "over"]
    note: str = ""


@dataclass(frozen=True)
class End:
    """How a job ended: its exit code, the scheduler's word and its standard error, each where it is known."""

    code: int | None = None
    word: str = ""
    errors: Path | None = None

    @property
    def taken_away(self) -> bool:
        """Whether the cluster took its machine away."""
        return self.word in ("PREEMPTED", "NODE_FAIL")

    @property
    def out_of_time(self) -> bool:
        """Whether its time was over, if its run is not finished; SLURM warns by SIGUSR2."""
        return self.word in ("TIMEOUT", "COMPLETED") or self.code in (EXIT_CODES["time limit"], 128 + signal.SIGUSR2)

    def why(self) -> str:
        """One line for a reader, out of the log where nothing else says it."""
        if self.out_of_time:
            return "out of time"
        if self.word in ("OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL", *(("CANCELLED",) if self.code is None else ())):
            return f"ended by SLURM: {self.word}"
        for reason, code in EXIT_CODES.items():
            if self.code == code:
                return f"stopped ({reason})"
        if self.code is not None and (self.code < 0 or self.code > 128):
            number = -self.code if self.code < 0 else self.code - 128
            name = signal.Signals(number).name if number in list(signal.Signals) else f"signal {number}"
            return f"killed by {name}" + (" (out of memory?)" if number == signal.SIGKILL else "")
        if self.errors is None:
            return "ended before it was finished; its log is where it was started"
        lines = self.errors.read_text(encoding="utf-8", errors="replace").splitlines() if self.errors.is_file() else []
        said = [line.strip() for line in lines if line.strip() and not line.startswith(("srun: ", "slurmstepd: "))]
        ours = [line.removeprefix("tokendream: ") for line in said if line.startswith("tokendream: ")]
        line = (ours or said or ["ended without a word"])[-1]
        return line if len(line) <= 300 else line[:299] + "…"


@runtime_checkable
class Job(Protocol):
    """A run that was started, here or elsewhere."""

    def status(self) -> Status:
        """What it does now."""

    def stop(self) -> None:
        """Ask it to save and end; may be called again and again."""

    def end(self) -> End:
        """How it ended, once it is over."""


@runtime_checkable
class Engine(Protocol):
    """Starts the runs of one sweep, at most `jobs` at a time."""

    jobs: int

    def trouble(self) -> str:
        """Why nothing can be started or found at this moment; empty where all is well."""

    def found(self, trial: Trial) -> Job | None:
        """The job that a run still has from an earlier sweep, if it has one."""

    def start(self, trial: Trial, slot: int) -> Job:
        """Start a run, or go on with it. `slot` counts the runs at a time. Raises Refused."""


class Refused(Exception):
    """A job that the scheduler does not take: now, or ever as it is."""

    def __init__(self, reason: str, *, for_good: bool = False) -> None:
        super().__init__(reason)
        self.for_good = for_good


def command(trial: Trial, cores: int, *, gpu: str = "", minutes: int = 0) -> list[str]:
    """What is run, word by word; 0 leaves the cores to PyTorch, and sets no limit of time."""
    words = ["env", "PYTHONUNBUFFERED=1"]
    if cores:
        words += [f"OMP_NUM_THREADS={cores}"]
    if gpu:
        words += [f"CUDA_VISIBLE_DEVICES={gpu}"]
    words += [sys.executable, "-m", "tokendream", "train", "--resume", str(trial.run_dir)]
    return [*words, "--time-limit", str(minutes)] if minutes else words


def new_home(folder: Path, trial: Trial) -> Path:
    """A new, empty folder for the logs of a run's next job."""
    homes = (folder / "jobs" / trial.name / str(n) for n in itertools.count(1))
    home = next(home for home in homes if not home.exists())
    home.mkdir(parents=True)
    return home
