"""`tokendream bench`: what a run would cost on this machine, in a minute or a few.

Every phase is timed as a run would do it here: same precision, kernels and threads. What a laboratory asks beyond
that (shares of the machine's peak, variants, growth, the paper's claims) is in `benchmarks/`, in a clone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from tokendream.agent.agent import Agent
from tokendream.config.config import Config
from tokendream.config.schedule import PARTS, schedule
from tokendream.device import Compute, is_out_of_memory, keep_freed_memory, most_memory
from tokendream.errors import TokendreamError
from tokendream.kernels.cuda_graph import WARM_UP
from tokendream.kernels.install import install
from tokendream.kernels.machine import compute_for
from tokendream.reports.display import clock
from tokendream.runfolder import files
from tokendream.runfolder.folder import facts
from tokendream.spaces.observations import Spaces
from tokendream.training import workload
from tokendream.training.synthetic import shown, synthetic_replay

QUICK, WHOLE = 75.0, 200.0
"""Seconds for all rows. A row whose full batch does not fit into its share is timed at a smaller one."""

LEAST, MOST = 3, 20
"""Repetitions of a row; fewer than the first where they do not fit into its share even at a batch of 1."""

GUESS = 15.0
"""Seconds for all rows before a run, which then says how long it takes."""

SHORT = 500
"""Updates of a run that is not timed before: it is over too soon."""

ROWS = 64
"""Of the replay buffer: few, as all are encoded before a phase is timed."""


@dataclasses.dataclass(frozen=True)
class PhaseSpeed:
    """What was timed of one phase."""

    name: str
    batch: int
    full_batch: int
    """The preset's own."""
    unit: str
    """What an update makes: env steps, frames or imagined steps."""
    each: int
    """So many of them for each item of the batch."""
    seconds: list[float]
    """Of an update, per repetition."""
    alone: float
    """Seconds of an update at a batch of 1."""

    @property
    def per_unit(self) -> float:
        """Seconds of one frame or step: the median of the repetitions."""
        return statistics.median(self.seconds) / (self.batch * self.each)

    @property
    def full_update(self) -> float:
        """Seconds of an update at the preset's batch; on a line through two smaller ones where it took too long."""
        timed = statistics.median(self.seconds)
        return timed + (self.full_batch - self.batch) * _each(self.alone, timed, self.batch)


@dataclasses.dataclass
class Speed:
    """All that a bench found, and what follows for a run."""

    config: Config
    compute: Compute
    rows: list[PhaseSpeed] = dataclasses.field(default_factory=list)
    skipped: list[str] = dataclasses.field(default_factory=list)

    def epoch(self, epoch: int) -> dict[str, float]:
        """Seconds of an epoch by phase, computed; empty if a row is missing. Evaluation and saving are not counted."""
        rows = {row.name: row for row in self.rows}
        if not {"collect", *PARTS, "encode"} <= rows.keys():
            return {}
        due = [phase for phase in schedule(self.config) if phase.due(epoch)]
        seconds = {phase.name: phase.updates * rows[phase.name].full_update for phase in due}
        changing = any(phase.name == "tokenizer" for phase in due)
        seconds["encode"] = workload.frames_encoded(self.config, epoch, changing=changing) * rows["encode"].per_unit
        return seconds

    @property
    def full_epoch(self) -> dict[str, float]:
        """The dearest epoch of a run."""
        return max((self.epoch(e) for e in range(1, self.config.epochs + 1)), key=lambda found: sum(found.values()))

    @property
    def hours(self) -> float:
        """Of a whole run."""
        return sum(sum(self.epoch(e).values()) for e in range(1, self.config.epochs + 1)) / 3600

    def to_json(self) -> dict[str, Any]:
        """Plain data: the rows of the table, the machine, and the most memory so far."""
        return {
            "format": 1,
            "preset": self.config.preset,
            "machine": facts(self.compute),
            "rows": [
                {
                    **dataclasses.asdict(row),
                    "per_second": 1 / row.per_unit,
                    "median": statistics.median(row.seconds),
                    "least": min(row.seconds),
                    "most": max(row.seconds),
                }
                for row in self.rows
            ],
            "skipped": self.skipped,
            "epoch_seconds": self.full_epoch,
            "run_hours": self.hours if self.full_epoch else None,
            "peak_memory_bytes": most_memory(self.compute.device),
        }

    def show(self, console: Console) -> None:
        """The table and what follows from it, for people."""
        machine = facts(self.compute)
        table = Table(title=f"preset {self.config.preset}: {machine['device']}, {machine['processor']}")
        for column in ("phase", "batch", "ms an update", "least to most", "a second"):
            table.add_column(column, justify="left" if column == "phase" else "right")
        for row in self.rows:
            spread = min(row.seconds), statistics.median(row.seconds), max(row.seconds)
            low, middle, high = (_figure(1e3 * s) for s in spread)
            batch = f"{row.batch} (a run: {row.full_batch})" if row.batch != row.full_batch else f"{row.batch}"
            table.add_row(row.name, batch, middle, f"{low} to {high}", f"{_figure(1 / row.per_unit)} {row.unit}")
        console.print(table)
        for line in self.skipped:
            console.print(f"Skipped: {line}", markup=False)
        if self.compute.dtype is torch.float32:
            console.print("Not timed: bf16, which no run uses here, as it is slower (see tokendream machine).")
        if epoch := self.full_epoch:
            parts = ", ".join(f"{name} {_figure(seconds)}" for name, seconds in epoch.items())
            console.print(
                f"Computed from these rows: {_figure(sum(epoch.values()))} seconds the most expensive epoch ({parts}), "
                f"{clock(3600 * self.hours)} the {self.config.epochs} epochs of a run, evaluation not counted.",
                highlight=False,
            )


def main(config: Config, device: str, *, quick: bool, out: Path | None) -> int:
    """Time, print, and write JSON where asked. Raises ConfigError for a device or a file that cannot be."""
    compute = compute_for(config, device, threads=True)
    files.make_place("--out", out)
    console, spaces = Console(), shown(config)
    keep_freed_memory()  # as in training
    with console.status("timing ...") as status:
        seconds, say = QUICK if quick else WHOLE, lambda what: status.update(f"timing {what} ...")
        speed = measure(config, compute, seconds=seconds, say=say, spaces=spaces)
    speed.show(console if console.is_terminal else Console(width=120))
    if out is not None:
        files.replace_text(out, json.dumps(speed.to_json(), indent=1) + "\n")
        print(f"Written to {out}")
    return 0


def guess(config: Config, compute: Compute, spaces: Spaces, say: Callable[[str], object]) -> dict[str, float]:
    """Seconds of an update by phase, encoding with M's, timed on a CPU in some seconds before a run that is not short.

    Nothing on a GPU, where every graph would be captured twice, nor where something goes wrong: the run will say what.
    """
    phases = schedule(config)
    if compute.device.type != "cpu" or config.epochs * sum(phase.updates for phase in phases[1:]) < SHORT:
        return {}
    with contextlib.suppress(TokendreamError):
        speed = measure(config, compute, seconds=GUESS, say=say, brief=True, spaces=spaces)
        if epoch := speed.epoch(config.epochs):
            costs = {row.name: row.full_update for row in speed.rows}
            costs["world_model"] += epoch["encode"] / max(1, config.training.world_model.updates)
            return {phase.name: costs[phase.name] for phase in phases if phase.name in costs}
    return {}


def measure(
    config: Config,
    compute: Compute,
    *,
    spaces: Spaces,
    seconds: float,
    say: Callable[[str], object],
    brief: bool = False,
) -> Speed:
    """Every phase in turn, each within its share of what is left of `seconds`. `brief`: once, and no dream alone."""
    torch.manual_seed(0)
    agent = Agent.from_config(config, spaces).to(compute.device).eval()
    install(agent, compute)
    replay = synthetic_replay(max(ROWS, config.training.tokenizer.batch), spaces, compute.device)
    training, horizon, group = config.training, config.dream.horizon, config.dream.group

    def phase(name: str) -> Callable[[int], Callable[[], object]]:
        return lambda batch: workload.phase(name, batch, config, agent, replay, compute, spaces)

    def dream(batch: int) -> Callable[[], object]:
        start = workload.dream_start(batch, config, agent, replay, compute)
        return workload.dream(start, horizon, agent, compute)

    def encode(batch: int) -> Callable[[], object]:
        return workload.encode(batch, agent, replay, compute)

    length, imagined = config.world_model.segment_length, group * horizon
    units = {"world_model": ("frames", length), "actor_critic": ("imagined steps", imagined)}
    kinds = [
        ("collect", phase("collect"), 1, "env steps", config.collect.envs),
        *((part, phase(part), getattr(training, part).batch, *units.get(part, ("frames", 1))) for part in PARTS),
        ("dream", dream, training.actor_critic.batch * group, "imagined steps", horizon),
        ("encode", encode, training.tokenizer.batch, "frames", 1),
    ]
    if brief:
        kinds = [kind for kind in kinds if kind[0] != "dream"]
    speed, began = Speed(config, compute), time.perf_counter()
    for i, (name, make, full, unit, each) in enumerate(kinds):
        say(name)
        share = max(0.0, seconds - (time.perf_counter() - began)) / (len(kinds) - i)
        try:
            batch, timed, alone = _timed(make, full, share, compute.device, 1 if brief else MOST)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            speed.skipped.append(f"{name}: out of memory")
        else:
            speed.rows.append(PhaseSpeed(name, batch, full, unit, each, timed, alone))
        gc.collect()  # a trainer and its phases refer to each other
    return speed


def _timed(
    make: Callable[[int], Callable[[], object]], full: int, share: float, device: torch.device, most: int
) -> tuple[int, list[float], float]:
    """The largest batch whose repetitions fit into `share` seconds, what they took, and what a batch of 1 takes.

    Batches of 1 and 4 say how large a larger one may be, and that the next. A first call that takes longer than `share`
    stands for itself: on the slowest processor, too, no row takes much more than that call.
    """
    began = time.perf_counter()
    warm_up = 1 if device.type == "cpu" else WARM_UP + 1  # a GPU captures its graph after them

    def begin(batch: int) -> tuple[Callable[[], object], float]:
        update = make(batch)
        for _ in range(warm_up):
            once = elapsed(update, device)
        return update, once if once > share else elapsed(update, device)

    batch = 1
    update, once = begin(batch)
    alone, calls = once, min(LEAST, most) + warm_up
    for larger in sorted({min(4, full), full // 16, full // 4, full}):
        left = share - (time.perf_counter() - began)
        each = max(_each(alone, once, batch), once / batch / 5)  # two short calls are not known to be on a line
        while larger > max(4, batch) and (once + (larger - batch) * each) * calls > left:
            larger //= 2
        if larger > batch and once < share / 2:
            batch = larger
            update, once = begin(batch)
    seconds = [once]
    while len(seconds) < most and time.perf_counter() - began + once < share:
        seconds.append(elapsed(update, device))
    return batch, seconds, alone


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _each(alone: float, seconds: float, batch: int) -> float:
    """Seconds of one more item in a batch, by those of a batch of 1 and of a larger one."""
    return seconds if batch == 1 else max(0.0, seconds - alone) / (batch - 1)


def elapsed(
    run: Callable[[], object], device: torch.device, times: int = 1, clock: Callable[[], float] | None = None
) -> float:
    """Seconds that one of `times` calls in a row took; a GPU is idle before the first and after the last."""
    clock = clock or time.perf_counter
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda device: None
    wait(device)
    began = clock()
    for _ in range(times):
        run()
    wait(device)
    return (clock() - began) / times
