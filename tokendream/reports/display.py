"""What a person sees while a run trains: progress, figures, and the time that is left.

On a terminal a live panel; elsewhere (a log file, CI) one line an epoch, and in a long one a line a minute. Nothing
here waits for the device.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from tokendream.config.config import Config
from tokendream.config.schedule import ScheduledPhase
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

SILENCE = 60.0
"""Seconds without a line after which a log says how far a phase is."""

LONG_ENOUGH = 2.0
"""Seconds of a phase after which the cost of an update of it is known."""


class Remaining:
    """Time left, from the measured cost of an update of each phase and the updates still scheduled."""

    def __init__(self, phases: Sequence[ScheduledPhase], epochs: int) -> None:
        self._phases, self._epochs = phases, epochs
        self._cost: dict[str, float] = {}
        self._guessed: set[str] = set()
        self._epoch, self._done, self._began = 0, dict[str, int](), (0.0, 0)

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

    def follow(self, epoch: int, phase: ScheduledPhase, done: int) -> None:
        """Note that `done` updates of a phase of this epoch are finished. Their own time replaces a cost that was only
        guessed, or not known."""
        now = time.monotonic()
        if epoch != self._epoch or done < self._done.get(phase.name, done + 1):
            self._done = self._done if epoch == self._epoch else {}
            self._began = now, done
        self._epoch, self._done[phase.name] = epoch, done
        since, before = self._began
        if now - since >= LONG_ENOUGH and (phase.name in self._guessed or phase.name not in self._cost):
            self._cost[phase.name] = (now - since) / (done - before)
            self._guessed.add(phase.name)

    def seconds(self, epoch: int) -> tuple[float, bool]:
        """Seconds from where `epoch` is to the end of training, and whether every phase still due has a cost.

        Where one has none, the seconds are those of the others: a lower bound.
        """
        total, complete = 0.0, True
        for phase in self._phases:
            due = range(max(epoch, phase.first_epoch), min(self._epochs, phase.last_epoch) + 1)
            updates = len(due) * phase.updates - (self._done.get(phase.name, 0) if epoch == self._epoch else 0)
            if updates > 0:
                total += updates * self._cost.get(phase.name, 0.0)
                complete = complete and phase.name in self._cost
        return total, complete

    def describe(self, epoch: int) -> str:
        """The time left, for people."""
        if epoch > self._epochs:
            return "evaluation next"
        seconds, complete = self.seconds(epoch)
        if complete:
            return f"{'about ' if self._guessed else ''}{clock(seconds)} left"
        return f"more than {clock(seconds)} left" if seconds else "time left unknown yet"


class Lines:
    """What there is to say, as lines of a log."""

    def say(self, line: str) -> None:
        """One line that stays."""
        print(line, flush=True)

    def close(self) -> None:
        """Leave the screen as it is."""


class Redrawn(Lines):
    """The same above a picture on the terminal that is redrawn in place."""

    _live: Live

    def say(self, line: str) -> None:
        self._live.console.print(line, highlight=False, markup=False)

    def close(self) -> None:
        self._live.stop()


class Display(Lines):
    """Where a run reports what it does, for logs: one line an epoch, and one a minute where that takes longer."""

    def __init__(self, config: Config, phases: Sequence[ScheduledPhase]) -> None:
        self._epochs, self._remaining = config.epochs, Remaining(phases, config.epochs)
        self._said = time.monotonic()

    def say(self, line: str) -> None:
        super().say(line)
        self._said = time.monotonic()

    def expect(self, seconds: Mapping[str, float]) -> None:
        """What an update of each phase takes here, as far as that is known before the run."""
        self._remaining.expect(seconds)

    def update(self, epoch: int, phase: ScheduledPhase, done: int) -> None:
        """An update of a phase is done."""
        self._remaining.follow(epoch, phase, done)
        if self._silent:
            left = self._remaining.describe(epoch)
            self.say(f"epoch {epoch}/{self._epochs}, {phase.name.replace('_', ' ')} {done}/{phase.updates}, {left}")

    def games(self, what: str, done: int, total: int, steps: int = 0) -> None:
        """So many of these games, or steps, are done; of games, those that are open included, `steps` steps."""
        if self._silent:
            self.say(", ".join(filter(None, (f"{what} {done}/{total}", _steps(steps)))))

    @property
    def _silent(self) -> bool:
        return time.monotonic() - self._said >= SILENCE

    def epoch(self, record: Record) -> None:
        """An epoch has ended."""
        self._remaining.learn(record)
        figures = [f"{label} {record[key]:.4g}" for key, label in SHOWN if record.get(key) is not None]
        parts = [f"epoch {int(record['epoch'])}/{self._epochs}", f"{int(record['env_steps'])} env steps", *figures]
        parts.append(f"{clock(record['seconds'])} trained")
        parts.append(self._remaining.describe(int(record["epoch"]) + 1))
        self.say(", ".join(parts))


class LiveDisplay(Redrawn, Display):
    """A panel that is redrawn in place, four times a second; of games alone where there are no phases of training."""

    def __init__(self, config: Config, phases: Sequence[ScheduledPhase]) -> None:
        super().__init__(config, phases)
        self._record: Record = {}
        self._trains = bool(phases)
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(36), MofNCompleteColumn(), TextColumn("{task.fields[beside]}")
        )
        self._epoch = self._bars.add_task("epoch", total=config.epochs, beside="", visible=self._trains)
        self._phase = self._bars.add_task("", beside="")
        self._live = Live(get_renderable=self._panel, console=Console(), refresh_per_second=4)
        self._live.start()

    def update(self, epoch: int, phase: ScheduledPhase, done: int) -> None:
        self._remaining.follow(epoch, phase, done)
        self._bars.update(self._epoch, completed=epoch - 1, beside=self._remaining.describe(epoch))
        speed = self._bars.tasks[1].speed
        self._show(phase.name.replace("_", " "), done, phase.updates, f"{speed:.1f}/s" if speed else "")

    def games(self, what: str, done: int, total: int, steps: int = 0) -> None:
        self._show(what, done, total, _steps(steps))

    def _show(self, what: str, done: int, total: int, beside: str) -> None:
        task = self._bars.tasks[1]
        if what != task.description or done < task.completed:
            self._bars.reset(self._phase)
        self._bars.update(self._phase, description=what, completed=done, total=total, beside=beside)

    def epoch(self, record: Record) -> None:
        self._remaining.learn(record)
        self._record |= record
        done = int(record["epoch"])
        self._bars.update(self._epoch, completed=done, beside=self._remaining.describe(done + 1))

    def _panel(self) -> Group:
        if not self._trains:
            return Group(self._bars)
        figures = Table.grid(padding=(0, 2))
        shown = {label: f"{self._record[key]:.4g}" for key, label in SHOWN if self._record.get(key) is not None}
        figures.add_row(*(Text(label, style="dim") for label in shown))
        figures.add_row(*shown.values())
        steps, seconds = int(self._record.get("env_steps", 0)), self._record.get("seconds", 0.0)
        foot = f"{steps} env steps, {clock(seconds)} trained, peak memory {peak_memory() / 2**30:.1f} GiB"
        return Group(self._bars, figures, Text(foot, style="dim"))


def display_for(config: Config, phases: Sequence[ScheduledPhase]) -> Display:
    """The live panel where there is a terminal, lines elsewhere."""
    return LiveDisplay(config, phases) if sys.stdout.isatty() else Display(config, phases)


def _steps(n: int) -> str:
    return f"{n:,} env steps" if n else ""


def roughly(seconds: float) -> str:
    """A time that was computed from few samples: "3 hours", "45 minutes"; no more digits than it deserves."""
    size, unit = next((size, unit) for size, unit in ((3600, "hours"), (60, "minutes"), (1, "seconds"))
                      if seconds >= 2 * size or size == 1)  # fmt: skip
    value = max(2.0, seconds / size)
    return f"{float(f'{value:.{1 if value < 10 else 2}g}'):,.0f} {unit}"


def clock(seconds: float) -> str:
    """Seconds as 1h02m, 3m20s or 45s."""
    s = int(seconds)
    if s >= 3600:
        return f"{s // 3600}h{s % 3600 // 60:02d}m"
    return f"{s // 60}m{s % 60:02d}s" if s >= 60 else f"{s}s"
