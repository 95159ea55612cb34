"""Where the runs of a sweep run: submitit, on this machine or on SLURM, by the same call.

What is submitted is a command, `python -m tokendream train --resume RUN`, never an object of ours. submitit writes
the command down in a serialised form that only its own worker reads back, in a folder that is made new and empty for
each job; we read log files and nothing else of it, and delete that form when the job is over.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tokendream.errors import ConfigError, nearest
from tokendream.runfolder import lock
from tokendream.sweep.plan import Cell

CLUSTERS = ("local", "slurm")

LOCAL_MINUTES = 10 * 365 * 24 * 60
"""submitit ends a local job after 2 minutes unless it is told another time."""

AGAIN = 10.0
"""Seconds after which a run that was asked to stop and has not yet is asked again: it may not have listened yet."""


@runtime_checkable
class Job(Protocol):
    """A run that was started, here or elsewhere."""

    def done(self) -> bool:
        """Whether it has ended, in whatever way."""

    def stop(self) -> None:
        """Ask it to save and end; may be called again and again."""

    def log(self) -> tuple[Path, Path] | None:
        """Its standard output and its standard error, where they are known."""


@dataclass(frozen=True)
class Resources:
    """What each run gets. `gpus`, `partition` and `minutes` are SLURM's; here the machine's GPUs are dealt out."""

    cluster: str = "local"
    cores: int = 0
    gpus: int = 1
    partition: str = ""
    minutes: int = 0

    def __post_init__(self) -> None:
        if self.cluster not in CLUSTERS:
            raise ConfigError(f"cluster must be one of {', '.join(CLUSTERS)}, not {self.cluster!r}; "
                              f"nearest: {nearest(self.cluster, CLUSTERS)}")  # fmt: skip
        if self.cores < 0 or self.gpus < 0 or self.minutes < 0:
            raise ConfigError("cores, gpus and minutes must not be negative")
        if self.cluster == "local" and (self.partition or self.minutes):
            raise ConfigError("partition and minutes are for --cluster slurm")
        if self.cluster == "slurm" and self.minutes < 20:
            raise ConfigError(f"minutes must be at least 20 on SLURM, not {self.minutes}: runs stop 10 minutes before")
        if not re.fullmatch(r"[\w.,-]*", self.partition):
            raise ConfigError(f"partition must be a plain name, not {self.partition!r}")


class Running:
    """A run that another process already has: left over from a sweep that was killed, or started by hand."""

    def __init__(self, cell: Cell) -> None:
        self._run_dir, self._asked, self._out_of_reach = cell.run_dir, 0.0, False

    def done(self) -> bool:
        return self._out_of_reach or lock.holder(self._run_dir) is None

    def stop(self) -> None:
        pid = lock.holder(self._run_dir)
        self._out_of_reach = pid == 0  # on another machine: nothing to wait for
        if pid and time.monotonic() > self._asked + AGAIN:
            self._asked = time.monotonic()
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGINT)

    def log(self) -> None:
        return None


class LocalJob:
    """A submitted job on this machine. submitit's own way to cancel one leaves it a second; a checkpoint may take
    longer, so the signal goes to the process that trains, which says who it is in the run folder's lock."""

    def __init__(self, job: Any, cell: Cell) -> None:
        self._job, self._running = job, Running(cell)

    def done(self) -> bool:
        return _over(self._job)

    def stop(self) -> None:
        self._running.stop()

    def log(self) -> tuple[Path, Path]:
        return self._job.paths.stdout, self._job.paths.stderr


class SlurmJob:
    """A submitted job on SLURM; stopping is `scancel`, whose SIGTERM makes a run save and end."""

    def __init__(self, job: Any) -> None:
        self._job, self._asked = job, False

    def done(self) -> bool:
        return _over(self._job)

    def stop(self) -> None:
        if not self._asked:
            self._asked = True
            self._job.cancel(check=False)

    def log(self) -> tuple[Path, Path]:
        return self._job.paths.stdout, self._job.paths.stderr


class Engine:
    """Starts the runs of one sweep."""

    def __init__(self, folder: Path, resources: Resources, jobs: int) -> None:
        import submitit

        if jobs < 0:
            raise ConfigError(f"jobs must not be negative, but is {jobs}")
        if resources.cluster == "slurm" and shutil.which("srun") is None:
            raise ConfigError("--cluster slurm needs SLURM's commands, and there is no srun here")
        self._submitit, self._folder, self.resources = submitit, folder.absolute(), resources
        self._gpus = visible_gpus() if resources.cluster == "local" else []
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.jobs = jobs or (max(1, len(self._gpus)) if resources.cluster == "local" else sys.maxsize)
        self.cores = resources.cores or (max(1, cores // self.jobs) if resources.cluster == "local" else 0)

    def found(self, cell: Cell) -> Job | None:
        """The job that a run still has from an earlier sweep, if it has one."""
        submitted = [
            (int(path.parent.name), path.name.removesuffix("_submission.sh"), path.parent)
            for path in (self._folder / "jobs" / cell.name).glob("*/*_submission.sh")
            if path.parent.name.isdigit() and path.name.removesuffix("_submission.sh").isdigit()  # no flag for scancel
        ]
        if self.resources.cluster == "slurm" and submitted:
            _, job_id, home = max(submitted)
            job: Any = self._submitit.SlurmJob(folder=home, job_id=job_id, tasks=[0])
            if not _over(job):
                return SlurmJob(job)
        return Running(cell) if lock.holder(cell.run_dir) is not None else None

    def start(self, cell: Cell, slot: int) -> Job:
        """Start a run, or go on with it. `slot` counts the runs of this machine, for its GPU."""
        home = _empty_folder(self._folder / "jobs" / cell.name)
        for left in home.parent.glob("*/*.pkl"):  # of a sweep that was killed before it could clean up
            left.unlink(missing_ok=True)
        local = self.resources.cluster == "local"
        executor = self._submitit.AutoExecutor(home, cluster=self.resources.cluster)
        executor.update_parameters(**self._parameters(cell))
        command = self._submitit.helpers.CommandFunction(self.command(cell, slot))
        with ignoring_interrupts() if local else contextlib.nullcontext():
            try:
                job = executor.submit(command)
            except self._submitit.core.utils.FailedJobError as error:
                raise ConfigError(f"SLURM refused the job of {cell.name}: {error}") from None
        return LocalJob(job, cell) if local else SlurmJob(job)

    def command(self, cell: Cell, slot: int) -> list[str]:
        """What is run, word by word."""
        # submitit decodes what comes through the pipe in pieces, and would kill the run over half a character.
        words = ["env", "PYTHONIOENCODING=ascii:backslashreplace"]
        if self.cores:
            words += [f"OMP_NUM_THREADS={self.cores}"]
        if self._gpus:
            words += [f"CUDA_VISIBLE_DEVICES={self._gpus[slot % len(self._gpus)]}"]
        words += [sys.executable, "-m", "tokendream", "train", "--resume", str(cell.run_dir)]
        if self.resources.minutes:
            words += ["--time-limit", str(self.resources.minutes - 10)]
        return words

    def _parameters(self, cell: Cell) -> dict[str, Any]:
        if self.resources.cluster == "local":
            return {"timeout_min": LOCAL_MINUTES}
        wanted: dict[str, Any] = {"name": cell.name, "timeout_min": self.resources.minutes}
        if self.resources.gpus:
            wanted["gpus_per_node"] = self.resources.gpus
        if self.cores:
            wanted["cpus_per_task"] = self.cores
        if self.resources.partition:
            wanted["slurm_partition"] = self.resources.partition
        return wanted


def why(job: Job) -> str:
    """One line about a job that ended before its run was finished; `timed out` where it stopped by its time limit."""
    log = job.log()
    if log is None:
        return "ended before it was finished; its log is where it was started"
    out, err = (path.read_text(errors="replace") if path.is_file() else "" for path in log)
    if "stopped (time limit)" in out:
        return TIMED_OUT
    ours = re.findall(r"^tokendream: (.+)$", err, re.M)
    killed = re.findall(r"died with <Signals\.(\w+)", err)
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    if ours:
        line = ours[-1]
    elif killed:
        line = f"killed by {killed[-1]}" + (" (out of memory?)" if killed[-1] == "SIGKILL" else "")
    elif stopped := re.findall(r"^(stopped \(\w+\))", out, re.M):
        line = stopped[-1]
    else:
        line = lines[-1] if lines else "ended without a word"
    return line if len(line) <= 300 else line[:299] + "…"


TIMED_OUT = "timed out"


def clean(job: Job) -> None:
    """Delete submitit's serialised command and result of a job that is over."""
    log = job.log()
    for path in log[0].parent.glob("*.pkl") if log else ():
        path.unlink(missing_ok=True)


def visible_gpus() -> Sequence[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [word.strip() for word in named.split(",") if word.strip() not in ("", "-1")]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


@contextlib.contextmanager
def ignoring_interrupts() -> Iterator[None]:
    """Children started inside ignore Ctrl-C unless they ask for it, as a training run does: submitit's helpers
    between us and a run would otherwise kill it a second after the terminal's Ctrl-C, in the middle of saving."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _over(job: Any) -> bool:
    """Whether a job has ended. Never asks for its result, which would be deserialised."""
    return bool(job.done())


def _empty_folder(home: Path) -> Path:
    for n in itertools.count(1):
        try:
            (home / str(n)).mkdir(parents=True)
        except FileExistsError:
            continue
        return home / str(n)
    raise AssertionError("unreachable")
