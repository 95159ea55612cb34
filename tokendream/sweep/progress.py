"""How far each run of a sweep is, read from its folder, and how that is shown.

On a terminal a table that is redrawn in place; elsewhere a line when a run changes its state, and one a minute for
each that trains.
"""

from __future__ import annotations

import contextlib
import heapq
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tokendream.config.config import Config
from tokendream.config.schedule import schedule
from tokendream.evaluation.evaluation import Evaluation, EvaluationError
from tokendream.reports import page
from tokendream.reports.display import Lines, Redrawn, Remaining, clock
from tokendream.runfolder.folder import FINAL
from tokendream.runfolder.metrics import MetricsError, Record, read_metrics
from tokendream.sweep.plan import Trial

EVERY = 60.0
"""Seconds between two lines of a run in a log."""

STYLES = {"waiting": "dim", "running": "cyan", "finished": "green", "failed": "red", "stopped": "yellow"}
"""States of a run, in the order of a run's life, with their colour."""

NARROWER = ("env steps", "last return", "epoch", "score", "time left", "state")
"""Columns of the table that give way on a narrow terminal, in this order."""

GAP = 2
"""Columns of the terminal between two of the table."""


@dataclass(frozen=True)
class Progress:
    """What a run's folder says."""

    epoch: int = 0
    env_steps: int = 0
    last_return: float | None = None
    left: str = ""
    score: float | None = None
    trained: float = 0.0
    """Seconds of training so far."""
    to_train: float | None = None
    """Seconds of training still due, as far as they are known; None before the first epoch."""
    bound: bool = False
    """Whether they are only a lower bound."""


class Reader:
    """Reads a run's progress, again only when its files have changed."""

    def __init__(self, trial: Trial) -> None:
        self._trial, self._seen = trial, [-1.0]
        self._progress = Progress()

    def read(self) -> Progress:
        """How far the run is now; what cannot be read at this instant stays as it was."""
        metrics = self._trial.run_dir / "metrics.jsonl"
        final = self._trial.run_dir / FINAL
        seen = [path.stat().st_mtime if path.exists() else 0.0 for path in (metrics, final)]
        if seen != self._seen:
            self._seen = seen
            with contextlib.suppress(MetricsError, EvaluationError, OSError):
                score = Evaluation.from_json(final.read_text(encoding="utf-8")).mean if final.exists() else None
                self._progress = progress(self._trial.config, read_metrics(metrics), score)
        return self._progress


def progress(config: Config, records: Sequence[Record], score: float | None = None) -> Progress:
    """What the records of a run say about how far it is."""
    if not records:
        return Progress(score=score)
    remaining = Remaining(schedule(config), config.epochs)
    for record in records[-20:]:
        remaining.learn(record)
    returns = [r["collect/return"] for r in records if r.get("collect/return") is not None]
    epoch = int(records[-1]["epoch"])
    left = remaining.describe(epoch + 1) if epoch < config.epochs else "evaluating"
    seconds, complete = remaining.seconds(epoch + 1)
    return Progress(
        epoch, int(records[-1]["env_steps"]), returns[-1] if returns else None, "" if score is not None else left,
        score, records[-1].get("seconds") or 0.0, seconds, not complete,
    )  # fmt: skip


def time_left(states: Mapping[str, str], at: Mapping[str, Progress]) -> str:
    """What a whole sweep still has to train, for people: nothing while no run has a measured epoch.

    A run still to begin costs what the others do, and as many run at once as do now. Evaluations are not counted.
    """
    known = {
        name: p for name, p in at.items() if p.to_train is not None and states.get(name) in ("running", "finished")
    }
    if not known or "running" not in states.values():
        return ""
    cost = sum(p.trained + (p.to_train or 0.0) for p in known.values()) / len(known)
    running = [at[name].to_train for name, state in states.items() if state == "running"]
    heap = sorted(cost if seconds is None else seconds for seconds in running)
    for state in states.values():
        if state == "waiting":  # takes the place of the run that ends first
            heapq.heapreplace(heap, heap[0] + cost)
    bound = "more than" if any(p.bound for p in known.values()) else "about"
    return f"{bound} {clock(max(heap))} of training left" if max(heap) else ""


class Dashboard(Lines):
    """Where a sweep shows its runs: lines for a log."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._trials, self._readers = trials, {trial.name: Reader(trial) for trial in trials}
        self._told: dict[str, tuple[str, str, float]] = {}

    def show(self, states: Mapping[str, str], notes: Mapping[str, str]) -> None:
        """The state of every run, by name, and what there is to say beside it."""
        now = time.monotonic()
        for trial in self._trials:
            state, note = states[trial.name], notes.get(trial.name, "")
            before, told, when = self._told.get(trial.name, ("waiting", "", now))
            later = now - when > EVERY and (state == "running" or note != told)
            if state != before or (note and not told) or later:
                self._told[trial.name] = state, note, now
                if state == "failed":  # was said, with its reason
                    continue
                beside = f", {note}" if note else ""
                self.say(f"{trial.name}: {state}{_words(trial, self._readers[trial.name].read())}{beside}")


class LiveDashboard(Redrawn, Dashboard):
    """A table: what runs and what failed above, then as many of the others as the screen holds.

    The screen is its own from the first `show` on: until then a sweep may be refused, and nobody closes it.
    """

    def __init__(self, trials: Sequence[Trial], console: Console | None = None) -> None:
        super().__init__(trials)
        self._live = Live(console=console or Console(), auto_refresh=False)

    def show(self, states: Mapping[str, str], notes: Mapping[str, str]) -> None:
        order = {"running": 0, "failed": 1, "stopped": 1, "finished": 2, "waiting": 3}
        trials = sorted(self._trials, key=lambda trial: order[states[trial.name]])
        room = max(3, self._live.console.height - 4)
        at = {trial.name: self._readers[trial.name].read() for trial in self._trials}
        rows = [_row(trial, states[trial.name], at[trial.name]) for trial in trials[:room]]
        widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in rows[0]}
        for name in NARROWER:
            if sum(widths.values()) + GAP * (len(widths) - 1) > self._live.console.width:
                del widths[name]
        beside = self._live.console.width - sum(widths.values()) - GAP * len(widths)
        table = Table(box=None, pad_edge=False, padding=(0, GAP // 2), header_style="dim")
        for name in (*widths, ""):
            table.add_column(
                name,
                justify="left" if name in ("game", "state", "time left", "") else "right",
                no_wrap=True,
                min_width=len(name) if name == "seed" else None,
            )
        for trial, row in zip(trials, rows, strict=False):
            note = Text(notes.get(trial.name, ""), style="dim")
            note.truncate(max(0, beside), overflow="ellipsis")
            cells = [Text(row[name], style=STYLES[row[name]] if name == "state" else "") for name in widths]
            table.add_row(*cells, note)
        count = ", ".join(filter(None, (_count(states), time_left(states, at))))
        self._live.start()
        self._live.update(Group(table, Text(count, style="dim")), refresh=True)


def dashboard_for(trials: Sequence[Trial]) -> Dashboard:
    """The table where there is a terminal, lines elsewhere."""
    return LiveDashboard(trials) if sys.stdout.isatty() else Dashboard(trials)


def _row(trial: Trial, state: str, at: Progress) -> dict[str, str]:
    """A run's cells, by the column."""
    return {
        "game": trial.game,
        "seed": str(trial.config.seed),
        "state": state,
        "epoch": f"{at.epoch}/{trial.config.epochs}",
        "env steps": f"{at.env_steps:,}",
        "last return": _figure(at.last_return),
        "time left": at.left.removesuffix(" left").removeprefix("time left "),
        "score": _figure(at.score),
    }


def _words(trial: Trial, at: Progress) -> str:
    parts = [f"epoch {at.epoch}/{trial.config.epochs}, {at.env_steps:,} env steps"] if at.epoch else []
    parts += [f"last return {_figure(at.last_return)}"] if at.last_return is not None else []
    parts += [at.left] if at.left else []
    parts += [f"score {_figure(at.score)}"] if at.score is not None else []
    return f", {', '.join(parts)}" if parts else ""


def _figure(value: float | None) -> str:
    return "" if value is None else page.score(value)


def _count(states: Mapping[str, str]) -> str:
    counts = Counter(states.values())
    return f"{len(states)} runs: " + ", ".join(f"{counts[state]} {state}" for state in STYLES if counts[state])
