"""What this machine is fast at, measured once: by it a run chooses precision, own kernels and threads on a CPU.

The figures are kept in the user's cache folder, beside the compiled kernels, for this processor, torch, kernels and
number of threads. What a run chose stands in its facts, and the run keeps it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from tokendream.config.config import Config
from tokendream.device import Compute, cpuinfo, processor
from tokendream.kernels import cache, tuned
from tokendream.kernels.cpu import build
from tokendream.kernels.install import install
from tokendream.nn.conv import Down, Up
from tokendream.nn.lstm import LSTM
from tokendream.nn.retnet import RetNet

CPU = torch.device("cpu")
PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}
OWN = ", own kernels"

GAIN = 1.1
"""So many times faster must bf16 be to be taken, as it is less exact, and own kernels, as they are more code."""

GAIN_OF_THREADS = 1.25
"""So many times faster must fewer threads be than torch's own number: a clock on the wall is less exact."""

THREADS = torch.get_num_threads()
"""Torch's own number, before anybody changes it."""

LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
"""What limits the instructions that PyTorch takes."""


@dataclass(frozen=True)
class Calibration:
    """What was measured on a CPU, and what follows."""

    products: dict[str, float]
    """FLOP/s of a matrix product by precision: on all threads, but of one thread where float32 is faster."""
    copies: float
    """Bytes/s, read and written."""
    updates: dict[str, float]
    """Seconds of one thread for an update of some layers, by precision; with OWN behind it, by own kernels. Without
    bf16 where its products are slower than float32's."""
    threads: dict[str, float]
    """Seconds on the wall of such an update, by the number of threads; the first is torch's own number, and alone
    where OMP_NUM_THREADS gave it or the machine was busy."""

    @property
    def bf16(self) -> bool:
        """Whether an update is faster in bf16."""
        return self.fastest("bf16") * GAIN < self.fastest("float32")

    def fastest(self, precision: str) -> float:
        """Seconds of an update in a precision, by whichever kernels; infinite where it was not timed."""
        return min((s for name, s in self.updates.items() if name.startswith(precision)), default=math.inf)

    def kernels(self, precision: str) -> bool:
        """Whether own kernels are faster by GAIN in a precision; what was not timed is left to them."""
        return self.updates.get(precision + OWN, 0.0) * GAIN < self.updates.get(precision, math.inf)

    @property
    def best_threads(self) -> int:
        """The number of threads to take."""
        own, *fewer = self.threads
        best = min([own, *fewer], key=lambda n: self.threads[n])
        return int(best if self.threads[best] * GAIN_OF_THREADS < self.threads[own] else own)


def compute_for(
    config: Config, device: str = "", facts: Mapping[str, str] | None = None, *, threads: bool = False
) -> Compute:
    """What a config asks for, or on another device; what it leaves open is what is fastest here.

    `facts` are those of a run: what it began with, it keeps on the same processor or GPU, and torch. With `threads`,
    for commands, the whole process computes with the fastest number of them, unless OMP_NUM_THREADS is set or nothing
    else is left open. Raises ConfigError for a device that is not there.
    """
    switches = {name: getattr(config, name) for name in ("kernels", "capture", "compile", "deterministic")}
    compute = Compute.resolve(device or config.device, config.precision, **switches)
    if compute.device.type == "cuda" and not compute.compile:
        return dataclasses.replace(compute, tuned=tuned.ways(compute, facts or {}))
    if compute.device.type != "cpu":
        return compute
    if began := _began(facts or {}):
        count, precision, kernels = min(int(began[1]), THREADS), began[2], began[3].startswith(OWN)
    elif not config.kernels and config.precision != "auto":  # nothing is left open but threads, which stay torch's own
        return compute
    else:
        found = calibration(kernels=config.kernels)
        bf16 = found.bf16 if config.precision == "auto" else config.precision == "bf16"
        precision = "bf16" if bf16 else "float32"
        count, kernels = found.best_threads, found.kernels(precision)
    if threads and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(count)
    return dataclasses.replace(compute, dtype=PRECISIONS[precision], kernels=config.kernels and kernels)


def _began(facts: Mapping[str, str]) -> re.Match[str] | None:
    """Threads, precision and what computes, as `kernels.install.describe` wrote them on this processor and torch."""
    if (facts.get("torch"), facts.get("processor")) != (torch.__version__, processor()):
        return None
    return re.fullmatch(r"CPU, ([1-9]\d{0,3}) threads?, (bf16|float32)(.*)", facts.get("device", ""))


@functools.cache
def calibration(*, kernels: bool = True, again: bool = False) -> Calibration:
    """The figures of this machine, out of a cache folder or measured now, which takes a second or two.

    Where no folder can be written, every process measures. Of two that measure at once, both take the first one's.
    What a busy machine left without other numbers of threads is measured again once it is idle.
    """
    library = build.library() if kernels else None
    info = [processor(), cpuinfo().get("flags", ""), cpuinfo().get("Features", "")]
    given = [os.environ.get(limit, "") for limit in ("OMP_NUM_THREADS", *LIMITS)]
    own = Path(library._name).name if library else ""
    machine = [torch.__version__, str(os.cpu_count()), str(THREADS)]
    name = cache.name("machine", *info, *given, own, *machine, str(_update.__doc__))  # other work, other figures
    known = _known(name)
    if known and not again and (len(known.threads) > 1 or len(_counts()) == 1):
        return known
    print("Measuring this machine (once, a second or two)", file=sys.stderr, flush=True)
    found = measure(kernels=library is not None)
    cache.write(name, dataclasses.asdict(found), again=again or known is not None)
    return _known(name) or found


def _known(name: str) -> Calibration | None:
    """What an earlier process measured."""
    with contextlib.suppress(TypeError):
        return Calibration(**(cache.read(name) or {}))
    return None


def measure(*, kernels: bool) -> Calibration:
    """Measure now. Precision and kernels by one thread's processor time, which other work disturbs least."""
    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        try:
            torch.set_num_threads(1)
            small = _fastest({name: _product(256, dtype) for name, dtype in PRECISIONS.items()}, time.process_time, 0.1)
            fast = [name for name in PRECISIONS if small[name] <= small["float32"]]
            work = {name + OWN * own: _update(PRECISIONS[name], own) for name in fast for own in {False, kernels}}
            updates = _fastest(work, time.process_time, 1.0)
            torch.set_num_threads(THREADS)
            large = _fastest({name: _product(1024, PRECISIONS[name]) for name in fast}, time.perf_counter, 0.2)
            products = {name: 2 * 256**3 / small[name] for name in PRECISIONS}  # by one thread, where it is slow
            products |= {name: 2 * 1024**3 / seconds for name, seconds in large.items()}
            block = torch.zeros(2**26, dtype=torch.uint8)
            copied = _fastest({"copy": functools.partial(torch.empty_like(block).copy_, block)}, time.perf_counter, 0.1)
            update = work[min(updates, key=lambda name: updates[name])]
            walls = _fastest({str(n): _with_threads(n, update) for n in _counts()}, time.perf_counter, 0.4)
        finally:
            torch.set_num_threads(before)
    return Calibration(products, 2 * block.numel() / copied["copy"], updates, walls)


def busy() -> bool:
    """Whether in the last minute more wanted to compute than there are cores."""
    return os.getloadavg()[0] > (os.cpu_count() or 1)


CROWDED = (
    "this machine is busy, and threads that wait for each other may make a run ten times as long: OMP_NUM_THREADS=1 "
    "before the command gives it one"
)
"""REM on Catch beside three processes of one thread, on two AMX cores: 60 updates of M took 64 and 98 s with two
threads; with one, beside four processes, 6.7 to 7.0."""


def _counts() -> list[int]:
    """Numbers of threads to try: torch's own, its half, ... 1. A container may have fewer cores than it shows."""
    if "OMP_NUM_THREADS" in os.environ or busy():
        return [THREADS]
    return [THREADS >> i for i in range(THREADS.bit_length())]


def _with_threads(n: int, run: Callable[[], object]) -> Callable[[], object]:
    def limited() -> None:
        torch.set_num_threads(n)
        run()

    return limited


def _product(n: int, dtype: torch.dtype) -> Callable[[], object]:
    a, b = (torch.randn(n, n).to(dtype) for _ in range(2))
    return functools.partial(torch.mm, a, b, out=torch.empty_like(a))


def _update(dtype: torch.dtype, own: bool) -> Callable[[], None]:
    """Forwards and backwards through a layer of M, with the dropout of preset `rem`, two of V, and C's LSTM."""
    M, V, C = RetNet(256, 1, 4, 4, 0.1), nn.Sequential(Down(32), Up(64)), LSTM(256, 256)
    compute = Compute(CPU, dtype, kernels=own)
    blocks, predicted, pixels = torch.randn(1, 2, 65, 256), torch.randn(64, 256), torch.randn(4, 32, 32, 32)
    steps, zero = torch.randn(16, 20, 256), torch.zeros(16, 256)
    for tree in (M, V, C):
        install(tree, compute)

    def run() -> None:
        for tree in (M, V, C):
            tree.zero_grad()
        with compute.autocast():
            y, y_next, _ = M.pop(blocks, predicted, M.initial_state(1))
            made = (y, y_next, V(pixels), C.along(steps, zero, zero))
        torch.stack([x.float().square().sum() for x in made]).sum().backward()

    return run


def _fastest(runs: Mapping[str, Callable[[], object]], clock: Callable[[], float], seconds: float) -> dict[str, float]:
    """Least seconds of each, in turn, after a call that is not counted; some rounds, or `seconds` of them."""
    for run in runs.values():
        run()
    best, rounds, began = dict.fromkeys(runs, math.inf), 0, time.perf_counter()
    while rounds < 3 or (rounds < 20 and time.perf_counter() - began < seconds):
        for name, run in runs.items():
            before = clock()
            run()
            best[name] = min(best[name], clock() - before)
        rounds += 1
    return best
