"""A sweep from its first run to its last: start what is left, look after it, say what failed, stop when asked."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from tokendream.runfolder import lock
from tokendream.runfolder.checkpoint import Checkpoints
from tokendream.runfolder.files import CheckpointError
from tokendream.runfolder.metrics import MetricsError, read_metrics
from tokendream.runfolder.names import quoted
from tokendream.stop import EXIT_CODES, StopRequest
from tokendream.sweep.engine import Engine, Job, Refused
from tokendream.sweep.plan import Trial, prepare
from tokendream.sweep.progress import Dashboard

POLL = 0.5
"""Seconds between two looks at the runs."""

RETRY = 30.0
"""Seconds until a job that was refused is submitted again."""


class RunningSweep:
    """The runs of a sweep while they run."""

    def __init__(self, trials: Sequence[Trial], engine: Engine, dashboard: Dashboard) -> None:
        self._engine, self._dashboard = engine, dashboard
        self._states = {trial.name: "finished" if trial.finished else "waiting" for trial in trials}
        self._notes: dict[str, str] = {}
        self._waiting = deque(trial for trial in trials if not trial.finished)
        self._jobs: dict[str, tuple[Trial, Job, tuple[int, ...]]] = {}
        self._slots: dict[str, int] = {}
        self._adopted, self._complaint, self._next_start = False, "", 0.0
        self.failed: dict[str, str] = {}

    def go(self, stop: StopRequest, poll: float = POLL) -> None:
        """Run what is left, at most `engine.jobs` at a time, until all is done or `stop` asks to save and end."""
        while (self._waiting or self._jobs) and not stop():
            if trouble := self._engine.trouble():
                self._complain(trouble)
            else:
                self._adopt()
                self._fill(stop)
            self._look(poll)
        if self._jobs:
            self._dashboard.say(f"stopping ({stop.reason}): each run saves a checkpoint and ends")
        while self._jobs:
            for _, job, _ in self._jobs.values():
                job.stop()
            self._look(poll, stopping=True)
        self._dashboard.show(self._states, self._notes)

    def _adopt(self) -> None:
        """Once: take over what still runs of an earlier sweep, be it more than `engine.jobs`."""
        for trial in () if self._adopted else list(self._waiting):
            if job := self._engine.found(trial):
                self._waiting.remove(trial)
                self._dashboard.say(f"{trial.name} is running already: waiting for it")
                self._enter(trial, job, -1)
        self._adopted = True

    def _fill(self, stop: StopRequest) -> None:
        """Start what may be started; what is refused for now waits at the head of the queue."""
        while self._waiting and len(self._jobs) < self._engine.jobs and time.monotonic() >= self._next_start:
            if stop():
                return
            trial = self._waiting.popleft()
            slot = next(n for n in range(len(self._slots) + 1) if n not in self._slots.values())
            try:
                job = self._engine.found(trial) or self._engine.start(trial, slot)
            except Refused as refusal:
                if refusal.for_good:
                    self._fail(trial, f"its job is refused: {refusal}")
                else:
                    self._waiting.appendleft(trial)
                    self._next_start = time.monotonic() + RETRY
                    self._notes[trial.name] = f"refused: {refusal}"
                    self._complain(str(refusal))
            else:
                self._complaint = ""
                self._enter(trial, job, slot)

    def _complain(self, trouble: str) -> None:
        """Say once why nothing is started."""
        if trouble != self._complaint:
            self._complaint = trouble
            self._dashboard.say(f"waiting, and trying again: {trouble}")

    def _enter(self, trial: Trial, job: Job, slot: int) -> None:
        self._jobs[trial.name] = trial, job, _position(trial)
        self._slots[trial.name] = slot

    def _look(self, poll: float, *, stopping: bool = False) -> None:
        for name, (trial, job, began) in list(self._jobs.items()):
            status = job.status()
            if status.state == "over":
                del self._jobs[name], self._slots[name]
                self._notes.pop(name, None)
                self._end(trial, job, began, stopping=stopping)
            else:
                self._states[name], self._notes[name] = status
        self._dashboard.show(self._states, self._notes)
        time.sleep(poll)

    def _end(self, trial: Trial, job: Job, began: tuple[int, ...], *, stopping: bool) -> None:
        """What became of a run whose job is over; its folder knows best."""
        end = job.end()
        if trial.finished:
            self._states[trial.name] = "finished"
        elif stopping:
            self._states[trial.name] = "stopped"
        elif lock.holder(trial.run_dir) is not None and (other := self._engine.found(trial)):
            self._enter(trial, other, -1)
        elif end.taken_away or (end.out_of_time and _position(trial) > began):
            self._states[trial.name] = "waiting"
            self._waiting.append(trial)
        else:
            self._fail(trial, end.why() + (", without an update done" if end.out_of_time else ""), end.errors)

    def _fail(self, trial: Trial, reason: str, log: Path | None = None) -> None:
        self._states[trial.name], self.failed[trial.name] = "failed", reason
        self._dashboard.say(f"{trial.name} failed: {reason}{f' (log: {log})' if log else ''}")


def sweep(
    trials: Sequence[Trial], folder: Path, engine: Engine, dashboard: Dashboard, *, again: str, one_agent: bool = True
) -> int:
    """Run every trial that is not finished. Returns 0 if all are, 1 if some failed, 130 or 143 if stopped.

    `again` is the command that goes on; unless `one_agent`, the folder may have runs of other agents. Raises
    ConfigError where another process has the sweep.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stop = StopRequest()
    with lock.hold(folder, f"another sweep is running in {folder}"), stop.listening():
        prepare(trials, folder, one_agent=one_agent)
        runs = RunningSweep(trials, engine, dashboard)
        try:
            runs.go(stop)
        except KeyboardInterrupt:
            dashboard.say("not waiting any longer: each run saves a checkpoint and ends")
        finally:
            dashboard.close()
    done = sum(trial.finished for trial in trials)
    print(f"{done} of {len(trials)} runs are finished, {len(runs.failed)} failed")
    for name, reason in runs.failed.items():
        print(f"  {name}: {reason}")
    if done < len(trials):
        print(f"the same command goes on with what is left: {again}")
    print(f"all of it on a page: tokendream report {quoted(folder)}")
    if stop.reason:
        return EXIT_CODES[stop.reason]
    return 1 if runs.failed else 0


def _position(trial: Trial) -> tuple[int, ...]:
    """How far a run is: the last epoch that it has finished, then the phase and the update of its last checkpoint."""
    epoch, phase, update = 0, 0, 0
    with contextlib.suppress(MetricsError):
        records = read_metrics(trial.run_dir / "metrics.jsonl")
        epoch = int(records[-1]["epoch"]) if records else 0
    with contextlib.suppress(CheckpointError, KeyError):
        _, saved = Checkpoints(trial.run_dir).load(groups=(), say=lambda line: None)
        phase, update = saved.state["phase"], saved.state["update"]
    return epoch, phase, update
