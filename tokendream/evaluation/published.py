"""What other agents reached on Atari 100K, run by run, as data: `assets/atari100k.json` and where each figure is from.

Only figures that were read in a stored source are in the file; it names that source for every agent.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from tokendream.envs.atari100k import ATARI_100K
from tokendream.errors import nearest
from tokendream.evaluation.scores import ScoreError, human_normalised

FILE = Path(__file__).parents[1] / "assets" / "atari100k.json"

ENV_STEPS = 100_000
"""Env steps of every published run."""


@dataclass(frozen=True)
class Published:
    """The runs of an agent on the 26 games, in score units of the game."""

    name: str
    paper: str
    source: str
    runs: Mapping[str, tuple[float, ...]]

    def matrix(self, games: Sequence[str]) -> Float64[np.ndarray, "runs games"]:
        """Human-normalised scores of these games. Raises ScoreError for a game that is not among the 26."""
        for game in games:
            if game not in self.runs:
                raise ScoreError(f"no published score of {game!r}; nearest: {nearest(game, self.runs)}")
        return np.array([[human_normalised(game, score) for score in self.runs[game]] for game in games]).T


@functools.cache
def agents() -> Mapping[str, Published]:
    """Every published agent by its name; REM last."""
    found = json.loads(FILE.read_text(encoding="utf-8"))["agents"]
    return {
        name: Published(name, a["paper"], a["source"], {g: tuple(map(float, a["runs"][g])) for g in ATARI_100K})
        for name, a in found.items()
    }
