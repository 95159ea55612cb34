"""The runs of a sweep as jobs of SLURM: what sbatch is given, and what squeue says.

`squeue --me` is the only source of a job's state. It needs no accounting, and it knows a requeued job as pending,
where a result or a record of its first start would say that it is over. A job whose submission got no answer is found
there too, by its script.

    jobs/Boxing-seed0/1/job.sh        what was submitted
                        123_log.out   what job 123 said, over all its starts
                        exit_code     of its last start, where it came to an end by itself
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from tokendream.errors import ConfigError, one_line
from tokendream.runfolder import lock
from tokendream.sweep.engine import End, Job, Refused, Status, command, new_home
from tokendream.sweep.local import OtherProcess
from tokendream.sweep.plan import Trial
from tokendream.sweep.resources import Resources

EVERY, HURRY = 10.0, 1.0
"""Seconds between two calls of squeue, as a rule and while stopping."""

ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
         "TIMEOUT")  # fmt: skip
"""SLURM's states of a job that is over. Between two starts of a requeued job one of them may pass by."""

NEVER = ("AccountNotAllowed", "AssocMaxWallDurationPerJobLimit", "BadConstraints", "DependencyNeverSatisfied",
         "InvalidAccount", "InvalidQOS", "PartitionConfig", "PartitionNodeLimit", "PartitionTimeLimit", "QOSNotAllowed",
         "QOSMaxWallDurationPerJobLimit")  # fmt: skip
"""SLURM's reasons for a job that waits in vain."""

MEMORY = {"rem": 16, "cpu": 3, "toy": 3, "tiny": 2}
"""GiB asked for by preset: half as much again as its runs were seen to need, at least 2; 16 for any other."""

WARNING = 120
"""Seconds before the end of a job at which SLURM sends SIGUSR2, should the run still be there."""


class Entry(NamedTuple):
    """A line of squeue."""

    state: str
    reason: str
    script: Path


class SlurmError(Exception):
    """A command of SLURM's failed; the message is its own."""


class Queue:
    """All jobs of this user, by id, in one call; what it knew last stays where the controller does not answer."""

    def __init__(self) -> None:
        self.every, self.trouble = EVERY, "not asked yet"
        self.calls = 0
        self._entries: dict[str, Entry] = {}
        self._before: dict[str, Entry] = {}
        self._asked = -float("inf")

    def ask(self) -> dict[str, Entry]:
        """The jobs, not older than `every`."""
        if time.monotonic() > self._asked + self.every:
            try:
                lines = call("squeue", "--me", "--noheader", "--states=all", "--format=%i|%T|%r|%o").splitlines()
            except SlurmError as error:
                self.trouble = str(error)
            else:
                self.trouble, self.calls, self._before = "", self.calls + 1, self._entries
                rows = [line.strip().split("|", 3) for line in lines if line.count("|") >= 3]
                self._entries = {job_id: Entry(state, why, Path(script)) for job_id, state, why, script in rows}
            self._asked = time.monotonic()
        return self._entries

    def forget(self) -> None:
        """Ask at the next question."""
        self._asked = -float("inf")

    def over(self, job_id: str, since: int) -> bool:
        """Whether two answers one after the other, both after call `since`, said that a job is over."""
        seen = [entries.get(job_id) for entries in (self._before, self._entries)]
        return self.calls >= since + 2 and all(entry is None or entry.state in ENDED for entry in seen)


class SlurmJob:
    """A submitted job; `scancel` ends it, whose SIGTERM makes a run save."""

    def __init__(self, queue: Queue, job_id: str, home: Path) -> None:
        self._queue, self._id, self._home, self._since = queue, job_id, home, queue.calls
        self._last, self._cancelled = Entry("PENDING", "", home), False

    def status(self) -> Status:
        self._last = self._queue.ask().get(self._id, self._last)
        if self._queue.over(self._id, self._since):
            return Status("over")
        note = f"job {self._id} {self._last.state}"
        if self._last.reason not in ("", "None"):
            note += f" ({self._last.reason})"
        if self._last.state == "PENDING" and self._last.reason in NEVER:
            note += ": can never start as it is"
        if self._queue.trouble:
            note += f"; {self._queue.trouble}"
        return Status("waiting" if self._last.state.startswith(("PENDING", "REQUEUE")) else "running", note)

    def stop(self) -> None:
        self._queue.every = HURRY
        if not self._cancelled:
            try:
                call("scancel", self._id)
                self._cancelled = True
            except SlurmError as error:
                self._queue.trouble = str(error)

    def end(self) -> End:
        try:
            code = int((self._home / "exit_code").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            code = None
        word = self._last.state if self._last.state in ENDED else ""
        return End(code, word, self._home / f"{self._id}_log.err")


class SlurmEngine:
    """Submits runs."""

    def __init__(self, folder: Path, resources: Resources) -> None:
        if shutil.which("sbatch") is None:
            raise ConfigError("--cluster slurm needs SLURM's commands, and there is no sbatch here")
        self._folder, self._resources, self._queue = folder, resources, Queue()
        self.jobs = resources.jobs or sys.maxsize

    def trouble(self) -> str:
        self._queue.ask()
        return self._queue.trouble

    def found(self, trial: Trial) -> Job | None:
        for job_id, entry in self._queue.ask().items():
            if entry.script.parent.parent == self._folder / "jobs" / trial.name and entry.state not in ENDED:
                return SlurmJob(self._queue, job_id, entry.script.parent)
        return OtherProcess(trial) if lock.holder(trial.run_dir) is not None else None

    def start(self, trial: Trial, slot: int) -> Job:
        home = new_home(self._folder, trial)
        script = home / "job.sh"
        script.write_text(self.script(trial, home), encoding="utf-8")
        try:
            said = call("sbatch", str(script))
        except SlurmError as error:
            self._queue.forget()  # it may have been accepted, and the answer lost
            wrong = re.search(r"invalid|unrecognized|node configuration is not available|denied", str(error), re.I)
            raise Refused(str(error), for_good=wrong is not None) from None
        found = re.search(r"\bjob (\d+)", said)
        if found is None:
            raise Refused(f"sbatch says {one_line(said)}", for_good=True)
        return SlurmJob(self._queue, found[1], home)

    def script(self, trial: Trial, home: Path) -> str:
        """A job's script. Its exit code is the run's; the trap lets it live until the run has saved."""
        asked = self._resources
        logs = str(home).replace("%", "%%") + "/%j_log"
        options = [f"job-name={trial.name}", f"time={asked.minutes}", f"signal=USR2@{WARNING}", "requeue"]
        options += ["open-mode=append", f"output={logs}.out", f"error={logs}.err"]
        if asked.gpus:
            options += [f"gpus-per-node={asked.gpus}"]
        if asked.cores:
            options += [f"cpus-per-task={asked.cores}"]
        if asked.partition:
            options += [f"partition={asked.partition}"]
        if not any(option.startswith("mem") for option in asked.sbatch):
            options += [f"mem={MEMORY.get(trial.config.preset.partition('-')[0], 16)}G"]
        code = shlex.quote(str(home / "exit_code"))
        task = ["srun", *([f"--cpus-per-task={asked.cores}"] if asked.cores else [])]
        lines = [
            "#!/bin/bash",
            *(f"#SBATCH {shlex.quote(f'--{option}')}" for option in (*options, *asked.sbatch)),
            f"rm -f {code}",
            *asked.setup,
            "trap : TERM",
            shlex.join([*task, *command(trial, asked.cores, minutes=asked.minutes - 10)]),
            f"code=$?; echo $code > {code}; exit $code",
        ]
        return "\n".join(lines) + "\n"


def call(*words: str) -> str:
    """What a command of SLURM's prints. Raises SlurmError.

    It is run in a session of its own, so that Ctrl-C does not cut a submission in two, and without what describes the
    job that a sweep may run in: sbatch would take that for wishes.
    """
    kept = {name: text for name, text in os.environ.items() if not name.startswith("SLURM_") or name == "SLURM_CONF"}
    try:
        done = subprocess.run(
            words, env=kept, stdin=subprocess.DEVNULL, capture_output=True, start_new_session=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(one_line(error)) from None
    if done.returncode:
        said = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        errors = [line for line in said if " error: " in f" {line}"]
        raise SlurmError(one_line((errors[-1:] or said or [f"exit code {done.returncode}"])[0]))
    return done.stdout.decode(errors="replace")
