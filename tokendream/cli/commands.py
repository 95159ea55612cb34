"""The commands of the command line: one module each, with a dataclass of flags and the function `run` that takes it.

A command imports what it runs when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokendream.cli import bench, diagnose, dream, envs, evaluate, export, machine, play, report, sweep, train

COMMANDS: dict[str, tuple[type[Any], Callable[[Any], int]]] = {
    "train": (train.Train, train.run),
    "sweep": (sweep.Sweep, sweep.run),
    "eval": (evaluate.Eval, evaluate.run),
    "play": (play.Play, play.run),
    "dream": (dream.Dream, dream.run),
    "diagnose": (diagnose.Diagnose, diagnose.run),
    "export": (export.Export, export.run),
    "envs": (envs.Envs, envs.run),
    "machine": (machine.Machine, machine.run),
    "bench": (bench.Bench, bench.run),
    "report": (report.Report, report.run),
}
