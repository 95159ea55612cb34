"""The commands of the command line: one module each, with a dataclass of flags and the function `run` that takes it.

What is listed is loaded when it is run, and imports what it runs when it runs it, so that `--help` answers at once.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

COMMANDS = {
    "train": "Train an agent from scratch, evaluate it and write its report; or go on with a run that was cut.",
    "sweep": "Train many runs, games x seeds, here or on SLURM; the same command again goes on with what is left.",
    "eval": "Play full games with a trained agent and report its score.",
    "play": "Watch the agent and its dreams in a browser, and play inside its world model.",
    "dream": "Film a dream: real, reconstruction and dream side by side, or many futures of one moment.",
    "diagnose": "Measure each part of a trained agent on fresh games, beside what is healthy; writes a page and JSON.",
    "export": "Write a trained agent, with what is known of it, into one file for eval, play, dream and diagnose.",
    "envs": "List families of environments and what is installed, the environments of one (envs FAMILY), or check one.",
    "machine": "Say what this machine reaches, what a run uses of it and why; measured once, in a second or two.",
    "bench": "Time every phase of a run as this machine would do it, and compute what an epoch and a run take.",
    "report": "Rebuild a run's page; of many runs, or a sweep, write one report: page, LaTeX tables and JSON.",
}
"""What each does, in the first words of its dataclass."""


def command(name: str) -> tuple[type[Any], Callable[[Any], int]]:
    """The flags of one, named as it is, and the function that takes them."""
    module = importlib.import_module(f"tokendream.cli.{'evaluate' if name == 'eval' else name}")
    return getattr(module, name.capitalize()), module.run
