"""`python -m benchmarks claims`: what POP gives and what RetNet gives, each against its alternative, two by two.

Four world models that differ in two fields of the config alone, `world_model.backbone` and `world_model.decoding`,
do the same work in turn. What is found is `Claims`; `claims_page` makes a page of it.
"""

from __future__ import annotations

import dataclasses
import gc
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.claims_page import SECTION, draw, markdown, summary
from benchmarks.command import Progress, begin, chosen_effort, clock_name, publish, save
from benchmarks.figures import ABSORB, FOUR, REM, Cell, Claims
from benchmarks.machine import environment
from benchmarks.measure import Effort, Work, fitting_batch, measure
from benchmarks.page import Section
from benchmarks.workload import DOWNSAMPLES, Workload, grids, require_image
from tokendream.agent.agent import Agent
from tokendream.config.config import Config, vary
from tokendream.config.cuts import NO_WINDOWS, OF_POP
from tokendream.device import Compute
from tokendream.envs.registry import spaces_of
from tokendream.spaces.observations import Spaces
from tokendream.tokenizers.build import build
from tokendream.training.synthetic import ACTIONS, synthetic_replay
from tokendream.training.workload import frames_encoded

QUICK = Effort(least=3, most=5, seconds=0.5, longest=4.0, settle=2.0, total=480.0)
FULL = Effort(least=5, most=20, seconds=5.0, longest=60.0)

BATCHES = (1, 16, 128)

MEMORIES = (1, 4, 16, 48)
"""Blocks in memory at which a step is timed."""

REPLAY = 256
"""Rows of synthetic experience."""


def main(
    config: Config, device: str, *, quick: bool, cpu_time: bool, out: Path | None, page: Path | None, env: str = ""
) -> int:
    """Measure, print the page, and write JSON and page where asked. Raises ConfigError for what cannot be.

    With `env`, of what that environment shows, at its own number of tokens, instead of images; its page has a summary.
    """
    section = Section(f"{SECTION.command} --env {env}") if env else SECTION
    bare = vary(config, "world_model", **OF_POP, **NO_WINDOWS)
    spaces: Spaces | None = None
    if env:
        bare = vary(bare, "env", id=env)
        spaces = spaces_of(bare)
    else:
        require_image(bare)
        grids(bare)  # raises, where there are none
    section.check(page)
    compute = begin(bare, device, cpu_time=cpu_time, out=out, page=page)
    progress = Progress()
    effort = chosen_effort(QUICK if quick else FULL, cpu_time)
    claims = run(bare, compute, effort, spaces, quick=quick, say=progress)
    progress.close()
    save(dataclasses.asdict(claims), out)
    short = page is not None and env  # what is only printed lists everything
    publish(
        section,
        page,
        {} if env else draw(claims),
        lambda plots: summary(claims, section) if short else markdown(claims, plots, section),
    )
    return 0


def run(
    config: Config,
    compute: Compute,
    effort: Effort,
    spaces: Spaces | None = None,
    *,
    quick: bool,
    say: Callable[[str], object],
) -> Claims:
    """Measure everything, the largest cell last: where time is short, it is what is left out."""
    began = effort.clock()
    bench = _Bench(config, compute, effort, spaces)
    M, C = config.training.world_model, config.training.actor_critic
    claims = Claims(
        config.preset, quick, clock_name(effort.clock),
        environment(compute), bench.tokens(bench.own), bench.parameters(),
        frames=M.updates * M.batch * config.world_model.segment_length,
        steps=C.updates * C.batch * config.dream.group * config.dream.horizon,
    )  # fmt: skip
    for title, found in bench.items(quick=quick):
        if effort.clock() - began > effort.total:
            claims.left_out.append(title)
            continue
        say(title)
        gc.collect()
        cell = found()
        if isinstance(cell, dict):
            claims.phases |= cell
        elif cell is None:
            claims.left_out.append(title)
        else:
            claims.cells.append(cell)
    return claims


class _Bench:
    """The four world models at every number of tokens a frame, and what is timed of them."""

    def __init__(self, config: Config, compute: Compute, effort: Effort, spaces: Spaces | None) -> None:
        self._config, self._compute, self._effort, self._spaces = config, compute, effort, spaces
        self._replay = synthetic_replay(REPLAY, spaces or config.env.size, compute.device)
        # The tokenizer is not timed here but for an epoch's own.
        self._grids = grids(config, DOWNSAMPLES) if spaces is None else [config]
        self.own = self._grids[min(1, len(self._grids) - 1)]
        self._seen = len(build(config.tokenizer, spaces.observation)[1]) if spaces else 0
        self._limited: set[int] = set()  # tokens a frame at which some batch was too large to train with

    def tokens(self, grid: Config) -> int:
        """K."""
        return self._seen or grid.tokens_per_frame

    def parameters(self) -> dict[str, int]:
        """Of each world model, at the preset's own tokens a frame."""
        return {
            name: sum(p.numel() for p in Agent.from_config(config, self._spaces or ACTIONS).world_model.parameters())
            for name, config in self._four(self.own).items()
        }

    def _workloads(self, grid: Config) -> dict[str, Workload]:
        compute = self._compute
        return {name: Workload(c, compute, self._replay, self._spaces) for name, c in self._four(grid).items()}

    def items(self, *, quick: bool) -> Iterator[tuple[str, Callable[[], Cell | dict[str, float] | None]]]:
        """What is measured: a title, and a function that does it."""
        sizes = [(grid, batch) for grid in self._grids for batch in BATCHES]
        for grid, batch in sizes[:-1]:
            yield f"dream, {self.tokens(grid)} tokens, batch {batch}", self._dreamer(grid, batch, quick)
        for grid in self._grids:
            for batch in BATCHES:
                yield f"training, {self.tokens(grid)} tokens, batch {batch}", self._trainer(grid, batch)
        for history in MEMORIES:
            title = f"dream, {self.tokens(self.own)} tokens, {history} blocks in memory"
            yield title, lambda history=history: self._steps("memory", self.own, 16, 2, history)  # type: ignore[misc]
        yield "the other parts of an epoch", self._phases
        grid, batch = sizes[-1]
        yield f"dream, {self.tokens(grid)} tokens, batch {batch}", self._dreamer(grid, batch, quick)

    def _four(self, config: Config) -> dict[str, Config]:
        return {name: vary(config, "world_model", backbone=b, decoding=d) for name, (b, d) in FOUR.items()}

    def _dreamer(self, grid: Config, batch: int, quick: bool) -> Callable[[], Cell]:
        """Steps of a dream: all of it, or those in its middle, where the memory is as long as it is on average."""
        horizon = grid.dream.horizon
        if not quick:
            return lambda: self._steps("dream", grid, batch, horizon, 1)
        some = 3 if batch * self.tokens(grid) <= 16 * 64 else 1
        return lambda: self._steps("dream", grid, batch, some, 1 + (horizon - some) // 2)

    def _steps(self, kind: str, grid: Config, batch: int, horizon: int, history: int) -> Cell:
        dtype = self._compute.dtype
        four = self._workloads(grid)
        works = {name: work.dream(batch, dtype, horizon, history) for name, work in four.items()}
        if kind == "dream":
            works[ABSORB] = four[REM].absorb(batch, dtype, history + horizon // 2)
        return self._cell(kind, grid, batch, batch, history + (horizon - 1) / 2, works)

    def _trainer(self, grid: Config, batch: int) -> Callable[[], Cell | None]:
        def measured() -> Cell | None:
            if self.tokens(grid) in self._limited:
                return None
            device, dtype = self._compute.device, self._compute.dtype
            four = self._workloads(grid)
            fits = min(
                fitting_batch(lambda n, w=work: w.phase("world_model", n, dtype), batch, device, self._effort)  # type: ignore[misc]
                for work in four.values()
            )
            if fits < batch:
                self._limited.add(self.tokens(grid))
            if any(fits <= smaller < batch for smaller in BATCHES):
                return None  # a smaller batch was measured already
            works = {name: work.phase("world_model", fits, dtype) for name, work in four.items()}
            return self._cell("training", grid, fits, batch, 0.0, works)

        return measured

    def _cell(self, kind: str, grid: Config, batch: int, wanted: int, history: float, works: dict[str, Work]) -> Cell:
        rows = dict(zip(works, measure(list(works.values()), self._compute.device, self._effort), strict=True))
        each = {name: row.label.imagined or row.label.frames for name, row in rows.items()}
        return Cell(
            kind, self.tokens(grid), batch, wanted, history,
            {name: [s / each[name] for s in row.seconds] for name, row in rows.items()},
            {name: row.flops / each[name] for name, row in rows.items()},
        )  # fmt: skip

    def _phases(self) -> dict[str, float]:
        """Seconds an epoch of what no world model changes: env steps, V, encoding, and C without its dreams."""
        config, device, dtype = self._config, self._compute.device, self._compute.dtype
        work, training = Workload(config, self._compute, self._replay, self._spaces), config.training

        def fit(build: Callable[[int], Work], batch: int) -> Work:
            return build(fitting_batch(build, batch, device, self._effort))

        settings = training.actor_critic
        update = fit(lambda n: work.phase("actor_critic", n, dtype), settings.batch)
        works = [
            work.phase("collect", 1, dtype),
            fit(lambda n: work.phase("tokenizer", n, dtype), training.tokenizer.batch),
            fit(lambda n: work.encode(n, dtype), training.tokenizer.batch),
            update,
            work.dream(update.label.batch * config.dream.group, dtype, config.dream.horizon),
        ]
        collect, tokenizer, encode, actor_critic, dream = measure(works, device, self._effort)
        # What C costs beside its dreams is the difference of two figures that were timed in turn.
        own = [a - b for a, b in zip(actor_critic.seconds, dream.seconds, strict=True)]
        return {
            "collection": config.collect.steps * collect.median,
            "tokenizer": training.tokenizer.updates * training.tokenizer.batch / tokenizer.label.batch
            * tokenizer.median + frames_encoded(config, config.epochs) / encode.rate(encode.label.frames),
            "controller": settings.updates * settings.batch / update.label.batch * statistics.median(own),
        }  # fmt: skip
