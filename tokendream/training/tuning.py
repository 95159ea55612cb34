"""`tokendream machine --tune`: times what could compute each part of an agent on a GPU, and keeps what is fastest.

Each way runs the same updates of the same fresh weights, captured as in a run, at the sizes of a preset.
"""

from __future__ import annotations

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable

import torch

from tokendream.agent.agent import Agent
from tokendream.config.config import Config
from tokendream.device import Compute
from tokendream.errors import one_line
from tokendream.kernels import tuned
from tokendream.kernels.cuda_graph import WARM_UP, Captured
from tokendream.kernels.install import PLAIN, TRITON, describe, has_triton
from tokendream.kernels.tuned import PHASES, WAYS, Timed
from tokendream.training.phase import GradientPhase
from tokendream.training.synthetic import ACTIONS, StillEnvs, synthetic_replay
from tokendream.training.timing import elapsed
from tokendream.training.trainer import Trainer

SECONDS = 100.0
"""After which nothing else is begun; what is begun takes seconds, or a minute where torch.compile is at work."""

REPETITIONS = 10


def main(config: Config, compute: Compute) -> int:
    """Time, say what was found, keep it. Returns the exit code."""
    if compute.device.type == "cpu":
        print("Nothing to tune: torch finds no GPU, and what a CPU uses is measured without --tune.")
        return 0
    print(f"Tuning {compute.describe()} for preset {config.preset}, in about two minutes", flush=True)
    timed = tune(config, compute, lambda line: print(f"  {line}", flush=True))
    updates = {phase: getattr(config.training, phase).updates for phases in PHASES.values() for phase in phases}
    if PLAIN not in timed or any(phase not in timed[PLAIN] for phase in updates):
        print("Not tuned: PyTorch's own operators could not be timed, and others are measured by them.")
        return 1
    found = tuned.decide(timed, updates, compute.dtype)
    tuned.keep(compute, found)
    print(f"a run uses: {describe(dataclasses.replace(compute, tuned=found))}")
    return 0


def tune(config: Config, compute: Compute, say: Callable[[str], object]) -> dict[str, dict[str, Timed]]:
    """Every way by the phases that it changes, PyTorch's own first. What fails is said, and not there."""
    timed: dict[str, dict[str, Timed]] = {}
    began = time.perf_counter()
    for way, changed in WAYS.items():
        if way == TRITON and not has_triton():
            say(f"{way}: not installed")
            continue
        for part, phase in [(part, phase) for part, phases in PHASES.items() for phase in phases if part in changed]:
            if Captured.broken or time.perf_counter() - began > SECONDS:
                say(f"{phase} by {way}: not tried, {Captured.broken or 'time is up'}")
                continue
            try:
                found = time_phase(phase, config, dataclasses.replace(compute, compile=False, tuned=((part, way),)))
            except Exception as error:  # of a compiler, a driver, memory: whatever it is, this way is out
                say(f"{phase} by {way}: failed, {one_line(error)}")
                continue
            gc.collect()  # a trainer and its phases refer to each other
            timed.setdefault(way, {})[phase] = found
            say(f"{phase} by {way}: {1e3 * found.seconds:.3g} ms an update")
    return timed


def time_phase(name: str, config: Config, compute: Compute) -> Timed:
    """Median seconds of a captured update, and what the updates before the capture found."""
    torch.manual_seed(0)
    agent = Agent.from_config(config, ACTIONS)
    rows = max(64, config.training.tokenizer.batch)
    replay = synthetic_replay(rows, config.env.size, compute.device)
    trainer = Trainer(config, agent, StillEnvs(config.env.size), replay, compute)
    if name != "tokenizer":
        trainer.shared.cache.refresh()
    phase, figures = trainer.phases[name], []
    assert isinstance(phase, GradientPhase)
    for _ in range(WARM_UP):
        losses, norm = phase.captured(phase.draw()[1])
        figures += [float(losses.total), float(norm)]
    trainer.update(name)  # a GPU captures it
    seconds = [elapsed(lambda: trainer.update(name), compute.device) for _ in range(REPETITIONS)]
    return Timed(statistics.median(seconds), tuple(figures))
