"""What a person sees while a run trains: progress, figures, and the time that is left.

On a terminal a live panel; elsewhere (a log file, CI) one line an epoch. Nothing here waits for the device.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tokendream.config.config import Config
from tokendream.config.schedule import Phase
from tokendream.device import peak_memory
from tokendream.runfolder.metrics import Record

SHOWN = (
    ("collect/return", "return"),
    ("tokenizer/reconstruction", "V reconstruction"),
    ("tokenizer/codes", "V codes"),
    ("world_model/next_frame", "M next frame"),
    ("world_model/accuracy", "M accuracy"),
    ("actor_critic/return", "C dreamed return"),
    ("actor_critic/policy_entropy", "C entropy"),
    ("evaluation/mean", "evaluation"),
)
"""Figures of an epoch that are worth a place on the screen."""


class Remaining:
    """Time left, from the measured cost of an update of each phase and the updates still scheduled."""

    def __init__(self, phases: Sequence[Phase], epochs: int) -> None:
        self._phases, self._epochs = phases, epochs
        self._cost: dict[str, float] = {}
        self._guessed: set[str] = set()

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Take seconds of an update, by phase, that were timed before the run: until the phase itself is."""
        self._cost, self._guessed = dict(seconds), set(seconds)

    def learn(self, record: Record) -> None:
        """Take the costs of the epoch that ended; the newest count most."""
        for phase in self._phases:
            rate = record.get(f"{phase.name}/updates_per_s")
            if rate:
                old = self._cost.get(phase.name, 1 / rate) if phase.name not in self._guessed else 1 / rate
                self._cost[phase.name] = 0.7 * old + 0.3 / rate
                self._guessed.discard(phase.name)

    def seconds(self, epoch: int) -> tuple[float, bool]:
        """Seconds from the start of `epoch` to the end of training, and whether every phase still due has a cost.

        Where one has none, the seconds are those of the others: a lower bound.
        """
        total, complete = 0.0, True
        for phase in self._phases:
            due = range(max(epoch, phase.first_epoch), min(self._epochs, phase.last_epoch) + 1)
            if len(due) and phase.updates:
                total += len(due) * phase.updates * self._cost.get(phase.name, 0.0)
                complete = complete and phase.name in self._cost
        return total, complete

    def describe(self, epoch: int) -> str:
        """The time left, for people."""
        seconds, complete = self.seconds(epoch)
        if complete:
            return f"{'about ' if self._guessed else ''}{clock(seconds)} left"
        return f"more than {clock(seconds)} left" if seconds else "time left unknown yet"


class Display:
    """Where a run reports what it does: one line an epoch, for logs."""

    def __init__(self, config: Config, phases: Sequence[Phase]) -> None:
        self._epochs, self._remaining = config.epochs, Remaining(phases, config.epochs)

    def expect(self, seconds: Mapping[str, float]) -> None:
        """What an update of each phase takes here, as far as that is known before the run."""
        self._remaining.expect(seconds)

    def update(self, epoch: int, phase: Phase, done: int) -> None:
        """An update of a phase is done; a log has no use for it."""

    def games(self, what: str, done: int, total: int) -> None:
        """A game of an evaluation is done; in a log its result is said by `epoch`."""

    def epoch(self, record: Record) -> None:
        """An epoch has ended."""
        self._remaining.learn(record)
        figures = [f"{label} {record[key]:.4g}" for key, label in SHOWN if record.get(key) is not None]
        parts = [f"epoch {int(record['epoch'])}/{self._epochs}", f"{int(record['env_steps'])} env steps", *figures]
        parts.append(f"{clock(record['seconds'])} trained")
        parts.append(self._remaining.describe(int(record["epoch"]) + 1))
        print(", ".join(parts), flush=True)

    def say(self, line: str) -> None:
        """One line that stays."""
        print(line, flush=True)

    def close(self) -> None:
        """Leave the screen as it is."""


class LiveDisplay(Display):
    """A panel that is redrawn in place, at most four times a second."""

    def __init__(self, config: Config, phases: Sequence[Phase]) -> None:
        self._config, self._phases = config, phases
        self._remaining = Remaining(phases, config.epochs)
        self._record: Record = {}
        self._now = ("", 0, 1)
        self._epoch, self._rate, self._drawn = 1, 0.0, 0.0
        self._began = (time.perf_counter(), "", 0)
        self._live = Live(console=Console(), auto_refresh=False, transient=False)
        self._live.start()

    def update(self, epoch: int, phase: Phase, done: int) -> None:
        now = time.perf_counter()
        since, name, at = self._began
        if name != phase.name or done <= at:
            self._began = (now, phase.name, done)
        elif now > since:
            self._rate = (done - at) / (now - since)
        self._epoch, self._now = epoch, (phase.name, done, phase.updates)
        self._draw(now)

    def games(self, what: str, done: int, total: int) -> None:
        self._now, self._rate = (what, done, total), 0.0
        self._draw(time.perf_counter())

    def epoch(self, record: Record) -> None:
        self._remaining.learn(record)
        self._record |= record
        self._draw(0.0)

    def say(self, line: str) -> None:
        self._live.console.print(line, highlight=False)

    def close(self) -> None:
        self._draw(0.0)
        self._live.stop()

    def _draw(self, now: float) -> None:
        if now and now - self._drawn < 0.25:
            return
        self._drawn = now
        self._live.update(self._panel(), refresh=True)

    def _panel(self) -> Group:
        what, done, total = self._now
        rate = f"{self._rate:.1f}/s" if self._rate else ""
        head = Table.grid(padding=(0, 2))
        head.add_row("epoch", ProgressBar(self._config.epochs, self._epoch - 1, width=36),
                     f"{self._epoch}/{self._config.epochs}",
                     self._remaining.describe(self._epoch))  # fmt: skip
        head.add_row(what.replace("_", " "), ProgressBar(max(total, 1), done, width=36), f"{done}/{total}", rate)
        facts = Table.grid(padding=(0, 2))
        facts.add_row(*(Text(label, style="dim") for key, label in SHOWN if self._record.get(key) is not None))
        facts.add_row(*(f"{self._record[key]:.4g}" for key, _ in SHOWN if self._record.get(key) is not None))
        steps, seconds = int(self._record.get("env_steps", 0)), self._record.get("seconds", 0.0)
        foot = f"{steps} env steps, {clock(seconds)} trained, peak memory {peak_memory() / 2**30:.1f} GiB"
        return Group(head, facts, Text(foot, style="dim"))


def display_for(config: Config, phases: Sequence[Phase]) -> Display:
    """The live panel where there is a terminal, lines elsewhere."""
    return LiveDisplay(config, phases) if sys.stdout.isatty() else Display(config, phases)


def clock(seconds: float) -> str:
    """Seconds as 1h02m, 3m20s or 45s."""
    s = int(seconds)
    if s >= 3600:
        return f"{s // 3600}h{s % 3600 // 60:02d}m"
    return f"{s // 60}m{s % 60:02d}s" if s >= 60 else f"{s}s"
