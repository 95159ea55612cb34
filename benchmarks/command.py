"""What every bench command does around its measuring: check the flags first, say how far it is, write files last."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Effort
from benchmarks.page import PROCESSOR, WALL, Section, Text
from tokendream.config.config import Config
from tokendream.device import Compute, keep_freed_memory
from tokendream.errors import ConfigError
from tokendream.kernels.install import describe
from tokendream.kernels.machine import compute_for
from tokendream.runfolder import files


def begin(config: Config, device: str, *, cpu_time: bool, out: Path | None, page: Path | None) -> Compute:
    """Where to measure. Raises ConfigError for whatever cannot be, before anything is timed."""
    compute = compute_for(config, device, threads=True)
    if cpu_time and (compute.device.type != "cpu" or torch.get_num_threads() != 1):
        raise ConfigError(f"--cpu-time needs a CPU and one thread (OMP_NUM_THREADS=1), not {describe(compute)}")
    files.make_place("--out", out)
    files.make_place("--page", page)
    keep_freed_memory()  # as in training
    return compute


def chosen_effort(effort: Effort, cpu_time: bool) -> Effort:
    """The effort by the clock that was asked for; by processor time, one thread has the work of two."""
    return dataclasses.replace(effort, clock=time.process_time, total=2 * effort.total) if cpu_time else effort


def save(figures: dict[str, Any], out: Path | None) -> None:
    """Write figures as JSON where a file was asked for; it appears complete or not at all."""
    if out is not None:
        files.replace_text(out, json.dumps(figures, indent=1) + "\n")
        print(f"Written to {out}")


def named(out: Path | None, kind: str) -> Path | None:
    """A file with the kind of processor for KIND in its name."""
    return out and out.with_name(out.name.replace("KIND", kind))


def publish(section: Section, page: Path | None, plots: dict[str, str], text: Text) -> None:
    """Write a page's section with its plots, or print it where no page was asked for."""
    if page is None:
        print("\n".join(text({})))
    else:
        print("Written to " + ", ".join(map(str, section.write(page, plots, text))))


def clock_name(clock: Callable[[], float]) -> str:
    """The clock that repetitions are timed by, for people."""
    return PROCESSOR if clock is time.process_time else WALL


class Progress:
    """Says on stderr what is being measured: on one line where there is a terminal, on one each elsewhere."""

    def __init__(self) -> None:
        self._began, self._terminal = time.perf_counter(), sys.stderr.isatty()

    def __call__(self, what: str) -> None:
        line = f"{time.perf_counter() - self._began:5.0f} s  {what}"
        end = "\x1b[K\r" if self._terminal else "\n"
        print(line, end=end, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave no line behind on a terminal."""
        if self._terminal:
            print(end="\x1b[K", file=sys.stderr, flush=True)
