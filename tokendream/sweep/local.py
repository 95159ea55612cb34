"""The runs of a sweep as processes of this machine, each in a session of its own: they outlive a sweep that is killed,
and a terminal's Ctrl-C reaches them through the sweep alone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tokendream.errors import ConfigError
from tokendream.runfolder import lock
from tokendream.sweep.engine import End, Job, Status, command, new_home
from tokendream.sweep.plan import Trial
from tokendream.sweep.resources import Resources


class OtherProcess:
    """A run that another process has: left over from a sweep that was killed, or started by hand."""

    def __init__(self, trial: Trial) -> None:
        self._run_dir, self._asked, self._out_of_reach = trial.run_dir, 0, False

    def status(self) -> Status:
        over = self._out_of_reach or lock.holder(self._run_dir) is None
        return Status("over" if over else "running")

    def stop(self) -> None:
        """Once for each process: who holds the folder listens, and a second SIGINT would end it without saving."""
        pid = lock.holder(self._run_dir)
        self._out_of_reach = pid == 0  # on another machine: nothing to wait for
        if pid and pid != self._asked:
            self._asked = pid
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGINT)

    def end(self) -> End:
        return End()


class LocalJob:
    """A process that this sweep started."""

    def __init__(self, trial: Trial, process: subprocess.Popen[bytes], errors: Path) -> None:
        self._process, self._errors, self._holder = process, errors, OtherProcess(trial)

    def status(self) -> Status:
        return Status("running" if self._process.poll() is None else "over")

    def stop(self) -> None:
        self._holder.stop()

    def end(self) -> End:
        return End(self._process.poll(), errors=self._errors)


class LocalEngine:
    """Starts runs here."""

    def __init__(self, folder: Path, resources: Resources) -> None:
        self._folder, self.gpus = folder, visible_gpus()
        if resources.runs_per_gpu > 1 and not self.gpus:
            raise ConfigError("runs-per-gpu is for GPUs, of which this machine has none: --jobs is for its cores")
        self.jobs = resources.jobs or max(1, resources.runs_per_gpu * len(self.gpus))
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.cores = resources.cores or max(1, cores // self.jobs)

    def trouble(self) -> str:
        return ""

    def found(self, trial: Trial) -> Job | None:
        return OtherProcess(trial) if lock.holder(trial.run_dir) is not None else None

    def start(self, trial: Trial, slot: int) -> Job:
        home = new_home(self._folder, trial)
        errors = home / "run_log.err"
        with (home / "run_log.out").open("wb") as out, errors.open("wb") as err:
            process = subprocess.Popen(
                self.command(trial, slot), stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
            )
        return LocalJob(trial, process, errors)

    def command(self, trial: Trial, slot: int) -> list[str]:
        """What is run, with a GPU for each slot in turn."""
        return command(trial, self.cores, gpu=self.gpus[slot % len(self.gpus)] if self.gpus else "")


def visible_gpus() -> Sequence[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [word.strip() for word in named.split(",") if word.strip() not in ("", "-1")]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]
