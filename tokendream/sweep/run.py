"""A sweep from its first run to its last: start what is left, look after it, say what failed, stop when asked."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from tokendream.runfolder import lock
from tokendream.runfolder.metrics import MetricsError, read_metrics
from tokendream.stop import EXIT_CODES, StopRequest
from tokendream.sweep.engine import TIMED_OUT, Job, clean, why
from tokendream.sweep.plan import Cell, prepare
from tokendream.sweep.progress import Dashboard

POLL = 0.5
"""Seconds between two looks at the runs."""


@runtime_checkable
class Starts(Protocol):
    """What starts runs; `engine.Engine` is one."""

    jobs: int

    def found(self, cell: Cell) -> Job | None: ...

    def start(self, cell: Cell, slot: int) -> Job: ...


class Sweep:
    """The runs of a sweep while they run."""

    def __init__(self, cells: Sequence[Cell], engine: Starts, dashboard: Dashboard) -> None:
        self._engine, self._dashboard = engine, dashboard
        self._states = {cell.name: "finished" if cell.finished else "waiting" for cell in cells}
        self._waiting = deque(cell for cell in cells if not cell.finished)
        self._running: dict[str, tuple[Cell, Job, int]] = {}
        self._slots: dict[str, int] = {}
        self.failed: dict[str, str] = {}

    def go(self, stop: StopRequest, poll: float = POLL) -> None:
        """Run what is left, at most `engine.jobs` at a time, until all is done or `stop` asks to save and end."""
        for cell in list(self._waiting):
            if job := self._engine.found(cell):
                self._waiting.remove(cell)
                self._dashboard.say(f"{cell.name} is running already: waiting for it")
                self._enter(cell, job, -1)
        while (self._waiting or self._running) and not stop():
            while self._waiting and len(self._running) < self._engine.jobs and not stop():
                cell, slot = self._waiting.popleft(), self._free_slot()
                self._enter(cell, self._engine.start(cell, slot), slot)
            self._look(poll)
        if self._running:
            self._dashboard.say(f"stopping ({stop.reason}): each run saves a checkpoint and ends")
        while self._running:
            for _, job, _ in self._running.values():
                job.stop()
            self._look(poll, stopping=True)
        self._dashboard.show(self._states)

    def _enter(self, cell: Cell, job: Job, slot: int) -> None:
        self._running[cell.name] = cell, job, _epoch(cell)
        self._slots[cell.name] = slot
        self._states[cell.name] = "running"

    def _free_slot(self) -> int:
        return next(n for n in range(len(self._slots) + 1) if n not in self._slots.values())

    def _look(self, poll: float, *, stopping: bool = False) -> None:
        self._dashboard.show(self._states)
        time.sleep(poll)
        for name, (cell, job, epoch) in list(self._running.items()):
            if job.done():
                del self._running[name], self._slots[name]
                self._end(cell, job, epoch, stopping=stopping)

    def _end(self, cell: Cell, job: Job, epoch: int, *, stopping: bool) -> None:
        """What became of a run whose job is over; its folder knows best."""
        reason = why(job)
        clean(job)
        if cell.finished:
            self._states[cell.name] = "finished"
        elif stopping:
            self._states[cell.name] = "stopped"
        elif lock.holder(cell.run_dir) is not None and (other := self._engine.found(cell)):
            self._enter(cell, other, -1)
        elif reason == TIMED_OUT and _epoch(cell) > epoch:
            self._states[cell.name] = "waiting"
            self._waiting.append(cell)
        else:
            self._states[cell.name] = "failed"
            self.failed[cell.name] = f"{reason} without an epoch done" if reason == TIMED_OUT else reason
            log = job.log()
            where = f" (log: {log[1]})" if log else ""
            self._dashboard.say(f"{cell.name} failed: {self.failed[cell.name]}{where}")


def sweep(cells: Sequence[Cell], folder: Path, engine: Starts, dashboard: Dashboard, *, again: str) -> int:
    """Run all cells that are not finished. Returns 0 if all are, 1 if some failed, 130 or 143 if stopped.

    `again` is the command that goes on. Raises ConfigError where another process has the sweep.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stop = StopRequest()
    with lock.hold(folder, f"another sweep is running in {folder}"), stop.listening():
        prepare(cells, folder)
        runs = Sweep(cells, engine, dashboard)
        try:
            runs.go(stop)
        except KeyboardInterrupt:
            dashboard.say("left; the runs save and end by themselves")
        finally:
            dashboard.close()
    done = sum(cell.finished for cell in cells)
    print(f"{done} of {len(cells)} runs are finished, {len(runs.failed)} failed")
    for name, reason in runs.failed.items():
        print(f"  {name}: {reason}")
    if done < len(cells):
        print(f"the same command goes on with what is left: {again}")
    print(f"all of it on a page: tokendream report {folder}")
    if stop.reason:
        return EXIT_CODES[stop.reason]
    return 1 if runs.failed else 0


def _epoch(cell: Cell) -> int:
    """The last epoch that a run has finished."""
    try:
        records = read_metrics(cell.run_dir / "metrics.jsonl")
    except MetricsError:
        return 0
    return int(records[-1]["epoch"]) if records else 0
