"""What other agents reached, run by run, as data in `assets`: on Atari 100K, in REM's ablations, in DeepMind's suite.

Only figures that were read in a stored source are in the files; they name that source for every agent.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from tokendream.envs.atari100k import ATARI_100K
from tokendream.evaluation.scores import human_normalised

ASSETS = Path(__file__).parents[1] / "assets"

ENV_STEPS = 100_000
"""Env steps of every published run of Atari 100K."""

Runs = Mapping[str, tuple[float, ...]]
"""Scores of single runs, by game or task."""


@dataclass(frozen=True)
class Published:
    """The runs of an agent on the 26 games, in score units of the game."""

    name: str
    paper: str
    source: str
    runs: Runs
    later: bool
    """Whether it came after REM and builds on it."""

    def matrix(self, games: Sequence[str]) -> Float64[np.ndarray, "runs games"]:
        """Human-normalised scores of these games, which are among the 26."""
        return np.array([[human_normalised(game, score) for score in self.runs[game]] for game in games]).T


@functools.cache
def agents() -> Mapping[str, Published]:
    """Every published agent by its name: those before REM, REM, and its successors."""
    found = _read("atari100k.json")
    names = list(found)
    return {
        name: Published(name, a["paper"], a["source"], _runs(a, ATARI_100K), names.index(name) > names.index("REM"))
        for name, a in found.items()
    }


@functools.cache
def ablations() -> Mapping[str, Runs]:
    """REM's own ablations by the name of our preset's: three to five runs a game, of 8 games, without POP of 26."""
    ours = {"4x4-tokenizer": "coarse-tokens", "no-action-input": "no-action-inputs", "no-latent-ac": "pixels",
            "no-pop": "no-pop", "separate-wm-embeddings": "own-embedding"}  # fmt: skip
    return {ours[name]: _runs(a, a["runs"]) for name, a in _read("rem_ablations.json").items()}


@functools.cache
def control_suite() -> Runs:
    """Simulus on 18 tasks of DeepMind's control suite, from vectors: five runs a task of 1,000,000 control steps."""
    found = _read("dmc.json")["Simulus"]
    return _runs(found, found["runs"])


def _read(file: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ASSETS / file).read_text(encoding="utf-8"))["agents"]
    return found


def _runs(agent: Mapping[str, Any], tasks: Iterable[str]) -> Runs:
    return {task: tuple(map(float, agent["runs"][task])) for task in tasks}
