"""`python -m benchmarks gpu`: what a GPU can say about this code in one command of at most eight minutes.

The machine's limits, the tests that need a GPU, every phase and its variants, and one whole epoch, each by itself:
what fails is written down, and the rest goes on. The JSON is written again after every part, so that a machine that is
taken away leaves what it had found. Nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import operator
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import speed
from benchmarks.command import Progress
from benchmarks.machine import copy_bandwidth, environment, matmul_peak, precisions
from benchmarks.measure import Effort
from benchmarks.page import head, line, short
from benchmarks.report import Findings
from benchmarks.speed import Build, Item, items, take
from benchmarks.speed_page import markdown
from benchmarks.workload import Workload, require_image
from tokendream.agent.agent import Agent
from tokendream.config.config import Config
from tokendream.config.schedule import PARTS, ScheduledPhase
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute
from tokendream.errors import one_line
from tokendream.kernels.machine import compute_for
from tokendream.runfolder import files
from tokendream.training.synthetic import ACTIONS, EPISODE, StillEnvs, synthetic_replay
from tokendream.training.trainer import Trainer

SECONDS = 450.0
"""After these no further part is begun; one takes some ten seconds."""

TEST_SECONDS = 150.0
"""Most that the tests may take."""

EFFORT = Effort(least=5, most=20, seconds=3.0, longest=3.0)

EPOCH_ROWS = 100_000
"""Most rows of the replay buffer in the timed epoch: as many as a run collects, which is its slowest epoch."""

EPOCH_SECONDS, POP_TIMES, COLLECT_SECONDS = 5.0, 15.0, 0.25
"""The figures to reach on an H100: an epoch of `rem`, POP against token by token, 200 env steps."""

TESTS = Path(__file__).resolve().parents[1] / "tests"


def main(config: Config, device: str, *, out: Path | None) -> int:
    """Measure, write, print. Raises ConfigError where the device is not there."""
    compute = compute_for(config, device)
    require_image(config)
    name = torch.cuda.get_device_name(compute.device) if compute.device.type == "cuda" else "cpu"
    if out is None:
        out = Path("results") / f"gpu-{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}" / "bench.json"
    files.make_place("--out", out)
    progress = Progress()
    bench = Bench(config, compute, out, progress)
    bench.run()
    progress.close()
    print("\n".join(bench.lines()))
    print(f"Written to {out}")
    return 0


class Bench:
    """What has been found so far, and the parts that find it."""

    def __init__(self, config: Config, compute: Compute, out: Path, say: Callable[[str], object]) -> None:
        self.config, self.compute, self._out, self._say = config, compute, out, say
        self.findings = Findings(config, False, environment(compute), compute.device, compute.dtype)
        self.facts: dict[str, Any] = {}
        """What the parts other than the phases returned, by their names."""
        self.errors: dict[str, str] = {}
        self._compiled = dataclasses.replace(compute, compile=True, tuned=())
        self._began = time.perf_counter()

    def run(self) -> None:
        """Every part in turn, the many phases last."""
        for name, part in self._parts():
            if time.perf_counter() - self._began > SECONDS:
                self.findings.skipped.append(name)
            else:
                self._say(name)
                with self._kept(name):
                    found = part()
                    if found is not None:
                        self.facts[name] = found

    def _parts(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """One after the other, as work that is made takes memory."""
        yield "machine", self._machine
        yield "epoch", lambda: epoch(self.config, self.compute)
        yield "epoch, compiled", lambda: epoch(self.config, self._compiled)
        yield "tests", lambda: run_tests(self.compute)
        with self._kept("phases"):
            for item in self._items():
                yield f"phases: {item.title}", functools.partial(self._phase, item)

    @contextlib.contextmanager
    def _kept(self, name: str) -> Iterator[None]:
        """Write down what fails, which must not take the other parts with it, and save."""
        try:
            yield
        except Exception as error:
            self.errors[name] = f"{type(error).__name__}: {one_line(error)}"
            self._say(f"{name} failed: {self.errors[name]}")
        if self.compute.device.type == "cuda":
            torch.cuda.empty_cache()
        self.save()

    def _machine(self) -> None:
        device = self.compute.device
        for dtype in precisions(self.compute):
            self.findings.peaks[dtype] = matmul_peak(device, dtype)
        self.findings.bandwidth = copy_bandwidth(device)

    def _phase(self, item: Item) -> None:
        if not self.findings.peaks:
            raise RuntimeError("the machine's peak is not known")
        take(item, self.findings, EFFORT)

    def _items(self) -> Iterator[Item]:
        """Captured against plain and compiled against captured first, then what `benchmarks speed` measures."""
        config, device, dtype = self.config, self.compute.device, self.compute.dtype
        replay = synthetic_replay(speed.ROWS, config.env.size, device)
        plain, captured = (
            Workload(config, dataclasses.replace(self.compute, capture=on), replay) for on in (False, True)
        )
        compiled = Workload(config, self._compiled, replay)
        for name in ("collect", *PARTS):
            batch = getattr(config.training, name).batch if name in PARTS else 1

            def of(work: Workload, title: str, name: str = name) -> Build:
                return lambda n: work.phase(name, n, dtype).named(title)

            replayed = of(captured, name)
            eager, fused = of(plain, f"{name}, plain"), of(compiled, f"{name}, compiled")
            yield Item(f"{name}, captured", (eager, replayed), batch, ("plain", "captured"))
            if name in PARTS:
                yield Item(f"{name}, compiled", (replayed, fused), batch, ("captured", "captured and compiled"))
        yield from (item for item in items(config, self.compute, quick=False) if item.title not in ("collect", *PARTS))

    def targets(self) -> list[dict[str, Any]]:
        """The figures to reach, beside what was found: None where it was not measured."""
        measured, compiled = (self.facts.get(name, {}).get("seconds", {}) for name in ("epoch", "epoch, compiled"))
        # Which a bench that is cut, or has no memory for it, leaves out.
        largest = self.config.training.actor_critic.batch * self.config.dream.group
        pop = [
            statistics.median(c.ratios)
            for c in self.findings.comparisons
            if (c.fast, c.slow) == ("POP", "token by token") and f", {largest} " in c.title
        ]
        steps, most, least = self.config.collect.steps, ("at most", operator.le), ("at least", operator.ge)
        figures = [
            ("seconds of an epoch, all phases due, replay full", most, EPOCH_SECONDS, measured.get("total")),
            ("seconds of such an epoch with --compile", most, EPOCH_SECONDS, compiled.get("total")),
            (f"seconds of its {steps} env steps", most, COLLECT_SECONDS, measured.get("collect")),
            (f"POP, times as fast as token by token, batch {largest}", least, POP_TIMES, pop[-1] if pop else None),
        ]
        return [
            {"name": name, "wanted": f"{words} {wanted:g}", "found": found,
             "met": None if found is None else reaches(found, wanted)}
            for name, (words, reaches), wanted, found in figures
        ]  # fmt: skip

    def save(self) -> None:
        """Write everything found so far; the file appears complete or not at all."""
        data = {
            **self.findings.to_json(),
            **self.facts,
            "targets": self.targets(),
            "errors": self.errors,
            "wall_seconds": time.perf_counter() - self._began,
        }
        files.replace_text(self._out, json.dumps(data, indent=1) + "\n")

    def lines(self) -> Iterator[str]:
        """Everything for people, as lines of Markdown, the targets last."""
        if self.findings.peaks:
            yield from markdown(self.findings.to_json(), "gpu")
        for name in ("epoch", "epoch, compiled", "tests"):
            if name in self.facts:
                yield f"{name}: {json.dumps({k: v for k, v in self.facts[name].items() if k != 'said'})}"
        for name, error in self.errors.items():
            yield f"failed: {name}: {error}"
        yield from ("", f"### Targets, {self.findings.environment['device']}", "")
        yield from head("figure", "wanted", "found", "met")
        for t in self.targets():
            found = "not measured" if t["found"] is None else short(t["found"])
            yield line(t["name"], t["wanted"], found, {True: "yes", False: "NO", None: ""}[t["met"]])


def epoch(config: Config, compute: Compute) -> dict[str, Any]:
    """Seconds of a whole epoch in which every phase is due, by phase, after one that warmed up and captured.

    The replay buffer is full and the environment answers at once. The device is waited for after every phase.
    """
    torch.manual_seed(0)
    agent = Agent.from_config(config, ACTIONS)
    replay = _full_replay(min(EPOCH_ROWS, config.collect.capacity), config.env.size, compute.device)
    trainer = Trainer(config, agent, StillEnvs(config.env.size), replay, compute)
    trainer.epoch = max(1, *(phase.first_epoch for phase in trainer.schedule))
    ends: list[tuple[str, float]] = []

    def progress(phase: ScheduledPhase, done: int) -> None:
        if done == phase.updates:
            if compute.device.type == "cuda":
                torch.cuda.synchronize(compute.device)
            ends.append((phase.name, time.perf_counter()))

    for _ in range(2):
        ends.clear()
        began = time.perf_counter()
        trainer.run_epoch(progress=progress)
        trainer.close_epoch()
    moments = [began, *(moment for _, moment in ends)]
    seconds = {name: after - before for (name, after), before in zip(ends, moments[:-1], strict=True)}
    seconds["total"] = sum(seconds.values())
    return {"seconds": seconds, "replay_rows": len(replay), "captured": trainer.captured}


def _full_replay(rows: int, size: int, device: torch.device) -> ReplayBuffer:
    """That many rows, of which 1,600 differ: whole episodes, over and over."""
    some = min(10 * EPISODE, rows)
    small = synthetic_replay(some, size, device).export(0, some)
    replay = ReplayBuffer(rows, (3, size, size), device)
    for start in range(0, rows - some + 1, some):
        replay.restore({**small, "episode_start": small["episode_start"] + start}, start)
        if some % EPISODE:
            break  # the last episode is still open: nothing may follow but its own rows
    return replay


def run_tests(compute: Compute) -> dict[str, Any]:
    """The outcome of the tests that need a GPU, and the end of what they said."""
    if not TESTS.is_dir():
        return {"outcome": "not run: this is no checkout"}
    if compute.device.type != "cuda":
        return {"outcome": "not run: they need a GPU"}
    # Files without such tests may import what the machine lacks.
    marked = [str(path) for path in sorted(TESTS.glob("test_*.py")) if b"pytest.mark.gpu" in path.read_bytes()]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "--maxfail=20", *marked]
    environ = {**os.environ, "GPU_TESTS": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTHONUNBUFFERED": "1"}
    try:
        ran = subprocess.run(
            command,
            cwd=TESTS.parent,
            env=environ,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=TEST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"outcome": f"not finished in {TEST_SECONDS:g} s"}
    lines = ran.stdout.strip().splitlines()
    return {"outcome": lines[-1] if lines else one_line(Exception(ran.stderr)), "said": lines[-60:]}
