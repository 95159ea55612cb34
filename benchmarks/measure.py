"""Timing, counting and weighing pieces of work. Nothing here knows what the work is about."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from benchmarks.counting import count
from benchmarks.machine import watch_memory
from tokendream.device import most_memory
from tokendream.kernels.cuda_graph import WARM_UP
from tokendream.training.timing import elapsed

SHORTEST = 0.05
"""Seconds of one repetition at least: shorter work is done several times in a row."""


@dataclass(frozen=True)
class Label:
    """What a row of the table is about. The counts are per update."""

    name: str
    precision: torch.dtype
    batch: int
    sizes: str
    """What the batch is made of, for people."""
    frames: int = 0
    """Real frames."""
    imagined: int = 0
    """Imagined steps: dreams x horizon."""
    tokens: int = 0
    """Tokens encoded, or taken through the world model's layers: of blocks and of predictions."""


@dataclass(frozen=True)
class Work:
    """One call of `run` is one update."""

    label: Label
    run: Callable[[], object]
    plain: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
    """The context in which `run` is made of PyTorch's operators alone, to count them."""

    def named(self, name: str) -> Work:
        """The same under another name."""
        return replace(self, label=replace(self.label, name=name))


@dataclass(frozen=True)
class Row:
    """What was measured about a piece of work."""

    label: Label
    seconds: tuple[float, ...]
    """Of one update, per repetition."""
    flops: int
    """Of one update: every matrix product and convolution that ran, forwards and backwards."""
    memory: int
    """Bytes at the highest."""
    traffic: int
    """Bytes that the operators of one update read and wrote, counted as if none stayed in a cache."""

    @property
    def median(self) -> float:
        """Seconds of an update."""
        return statistics.median(self.seconds)

    def rate(self, count: int) -> float:
        """`count` things an update, per second."""
        return count / self.median


@dataclass(frozen=True)
class Effort:
    """How long measuring may take."""

    least: int
    """Repetitions at least."""
    most: int
    """Repetitions at most."""
    seconds: float
    """Of repetitions for one piece of work, once there are `least` of them."""
    longest: float = field(default=math.inf)
    """Seconds of an update; where one takes longer its batch is halved until it does not."""
    settle: float = field(default=math.inf)
    """Seconds of a first call beyond which there is no second one before the first that is timed."""
    total: float = field(default=math.inf)
    """Seconds after which no further piece of work is begun."""
    clock: Callable[[], float] = field(default=time.perf_counter)
    """What repetitions are timed by; `time.process_time` on a machine that does other work, with one thread."""


def measure(works: Sequence[Work], device: torch.device, effort: Effort) -> list[Row]:
    """Time pieces of work in turn (a, b, a, b, ...), so that what slows the machine slows all of them.

    Two calls go before: one in which operations are counted, and one more, as allocators settle in the second (on a
    CPU a large update's second call took 0.8 s of 6 for page faults, its third a tenth of that); `effort` may spare it.
    """
    counts, times, memory = [], [], []
    for work in works:
        began = time.perf_counter()
        with work.plain():
            counts.append(count(work.run))
        once = time.perf_counter() - began
        memory.append(0)
        if device.type == "cuda":
            watch_memory(device)
            elapsed(work.run, device)  # not captured yet: what a replayed graph works in would count as free
            memory[-1] = most_memory(device)
            elapsed(work.run, device, WARM_UP + 1)  # these tune, capture and allocate
        if once < effort.settle:
            once = elapsed(work.run, device)
        times.append(max(1, math.ceil(SHORTEST / once)))
    seconds: list[list[float]] = [[] for _ in works]
    began, rounds = time.perf_counter(), 0
    while rounds < effort.least or (rounds < effort.most and time.perf_counter() - began < effort.seconds * len(works)):
        for i, work in enumerate(works):
            watch_memory(device)
            seconds[i].append(elapsed(work.run, device, times[i], effort.clock))
            memory[i] = max(memory[i], most_memory(device))
        rounds += 1
    return [Row(w.label, tuple(s), f, m, t) for w, s, (f, t), m in zip(works, seconds, counts, memory, strict=True)]


def ratios(slow: Row, fast: Row) -> tuple[float, ...]:
    """How many times faster the second is, in each round in which both were timed."""
    return tuple(a / b for a, b in zip(slow.seconds, fast.seconds, strict=True))


def fitting_batch(build: Callable[[int], Work], batch: int, device: torch.device, effort: Effort) -> int:
    """The largest of batch, batch/2, batch/4, ... whose update is expected to last no longer than `effort` allows.

    Extrapolated from an eighth of the batch.
    """
    if effort.longest == math.inf:
        return batch
    eighth = max(1, batch // 8)
    probe = build(eighth)
    elapsed(probe.run, device)
    each = elapsed(probe.run, device, 1, effort.clock) / eighth
    while batch > 1 and each * batch > effort.longest:
        batch //= 2
    return batch
