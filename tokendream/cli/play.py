"""`tokendream play`: its flags and the function that it calls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from tokendream.cli.demo import chosen


@dataclass(frozen=True)
class Play:
    """Watch the agent and its dreams in a browser, and play inside its world model."""

    run: tyro.conf.Positional[Path | None] = None
    """Folder of the run, which may still be training, or a file that `export` made of one."""
    demo: bool = False
    """In place of a run: a trained agent that comes with the package, its game and its dream side by side."""
    host: str = "127.0.0.1"
    """Address to serve at. On any but loopback the browser must give the token that is printed."""
    port: int = 8008
    """Port to serve at; where it is in use, the next free one. 0 for any."""
    token: bool = False
    """Ask for a token on loopback too, where others share this machine."""
    recording: Path | None = None
    """A recording (.safetensors) to open."""
    recordings: Path | None = None
    """Folder for recordings and pictures; by default recordings/<name of the run>."""
    temperature: float | None = None
    """Temperature at which the agent's actions are sampled; by default that of the run's evaluation."""
    seed: int = 0
    """Seed of the games and of the dreams."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


def run(options: Play) -> int:
    flags = vars(options) | {"run": chosen(options.run, demo=options.demo)}
    flags["mode"] = "agent-both" if flags.pop("demo") else "agent-game"
    from tokendream.play.run import play

    return play(**flags)
