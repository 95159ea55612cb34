"""The machine: what its products and its memory reach, measured, and the facts without which a figure means nothing."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tokendream.config.config import Config
from tokendream.device import Compute, kind_of_processor
from tokendream.kernels.machine import compute_for
from tokendream.runfolder.folder import facts
from tokendream.training.timing import elapsed

PRECISIONS = {torch.bfloat16: "bf16", torch.float32: "float32"}
"""The names of the precisions in tables and JSON."""

COPIED = 2**29
"""Bytes of the block whose copying is timed."""


def precisions(compute: Compute) -> list[torch.dtype]:
    """What is worth timing here: float32, the config's own, and bf16 where the device is fast at it."""
    chosen = {torch.float32, compute.dtype, compute_for(Config(), str(compute.device)).dtype}
    return [dtype for dtype in PRECISIONS if dtype in chosen]


def matmul_peak(
    device: torch.device, dtype: torch.dtype, seconds: float = 0.5, clock: Callable[[], float] = time.perf_counter
) -> float:
    """FLOP/s of a large square matrix product, the best of some tries: what no phase can beat."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * n**3 / best_of(lambda: torch.mm(a, b, out=out), device, seconds, clock)


def copy_bandwidth(device: torch.device, seconds: float = 0.5, clock: Callable[[], float] = time.perf_counter) -> float:
    """Bytes/s read and written by a copy of half a gigabyte, which fits into few caches: the best of some tries."""
    a = torch.zeros(COPIED, dtype=torch.uint8, device=device)
    out = torch.empty_like(a)
    return 2 * COPIED / best_of(lambda: out.copy_(a), device, seconds, clock)


def best_of(
    run: Callable[[], object], device: torch.device, seconds: float, clock: Callable[[], float] = time.perf_counter
) -> float:
    """The shortest of as many calls as fit into `seconds`, at least three, the first left out."""
    run()
    began, best, calls = time.perf_counter(), float("inf"), 0
    while calls < 3 or time.perf_counter() - began < seconds:
        best = min(best, elapsed(run, device, clock=clock))
        calls += 1
    return best


def give_back_freed_memory() -> None:
    """Let glibc return what it kept (see `device.keep_freed_memory`), or it would weigh on what is measured next."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)


def watch_memory(device: torch.device) -> None:
    """Forget the highest memory use so far, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    # Linux: the high-water mark becomes the current use. Where it fails, the figure is the highest so far.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_bytes(b"5")


def kind(compute: Compute) -> str:
    """The kind of processor that figures are of: a newer one that ONEDNN_MAX_CPU_ISA keeps to less counts as that."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    kept = "" if "AMX" in limit else {"AVX512": "AVX-512", "AVX2": "AVX2"}.get(limit.partition("_")[0], "")
    return kept if kept and compute.device.type == "cpu" else kind_of_processor(compute.device)


def environment(compute: Compute) -> dict[str, Any]:
    """What a reader must know to compare figures."""
    known: dict[str, Any] = facts(compute)
    kept = f", kept to {kind(compute)}" if kind(compute) != known["kind"] else ""
    known |= {
        "kind": kind(compute),
        "processor": known["processor"] + kept,
        "date": known.pop("started"),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
    with contextlib.suppress(OSError, AttributeError):  # processes that wanted a core, on average of the last minute
        known["load"] = os.getloadavg()[0]
    if compute.device.type == "cuda":
        known["device"] = torch.cuda.get_device_name(compute.device)
        known["cuda"] = torch.version.cuda
        known["tf32"] = torch.backends.cuda.matmul.allow_tf32
    return known
