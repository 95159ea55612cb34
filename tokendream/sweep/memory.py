"""Whether several runs at a time fit into the memory of this machine or of a GPU."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tokendream.device import free_here
from tokendream.errors import ConfigError, once
from tokendream.sweep.resources import Resources


def check_fits(resources: Resources, jobs: int, gpus: Sequence[str], need: int) -> None:
    """Raise ConfigError where `jobs` runs at a time, each of `need` bytes, do not fit: it names the number that would.

    A single run is not refused: it may be started without a sweep, too.
    """
    devices = max(1, len(gpus))
    each = -(-jobs // devices)
    if each == 1:
        return
    free = min(map(free_on_gpu, gpus)) if gpus else free_here()
    if free < 0:
        once(f"how much memory is free is not known here: whether {each} runs fit was not checked")
        return
    fit = max(1, free // need)
    if each > fit:
        a_gpu = resources.runs_per_gpu > 1
        raise ConfigError(
            f"--{'runs-per-gpu' if a_gpu else 'jobs'} must be at most {fit if a_gpu else fit * devices}: a run of this "
            f"config takes about {need / 2**30:.1f} GiB (computed), and {free / 2**30:.1f} are free"
        )
    if gpus and not mps_runs():
        once(f"CUDA MPS does not run: the {each} runs of a GPU take turns on it (nvidia-cuda-mps-control -d starts it)")


def free_on_gpu(gpu: str) -> int:
    """Bytes that are free on a GPU, by its name in CUDA_VISIBLE_DEVICES; -1 if unknown.

    As nvidia-smi says: asking through PyTorch would take half a gigabyte of them.
    """
    ask = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits", "-i", gpu]
    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        return 2**20 * int(subprocess.run(ask, capture_output=True, check=True, timeout=30).stdout)
    return -1


def mps_runs() -> bool:
    """Whether processes share a GPU through NVIDIA's Multi-Process Service."""
    return (Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")) / "control").exists()
