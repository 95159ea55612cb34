"""An evaluation: the scores of full games, their statistics, and the file that keeps them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokendream.config.config import Config
from tokendream.envs import atari100k
from tokendream.envs.registry import evaluation_protocol, make
from tokendream.envs.vector import EnvError
from tokendream.errors import TokendreamError, shorten
from tokendream.evaluation import scores
from tokendream.evaluation.games import Game, Player, play_games
from tokendream.runfolder import files

FORMAT = 1
"""Version of an evaluation's JSON; a file with another number is refused by name."""

LARGEST = 1e15
"""No score is as large; beyond it a mean would lose whole points, and far beyond it overflow."""

Scalar = str | int | float | bool | None


class EvaluationError(TokendreamError):
    """An evaluation's file that cannot be read; the message says what was expected and what came."""


@dataclass(frozen=True)
class Evaluation:
    """The scores of one evaluation, in the order of its games, with the protocol that they were made under.

    `protocol` holds what a reader needs to repeat it: temperature, frames, no-ops, the seed of the games and of the
    agent's random numbers, how many games were played side by side (they share those numbers), device, who played, ...
    """

    env: str
    protocol: Mapping[str, Scalar]
    scores: tuple[float, ...]
    lengths: tuple[int, ...]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.scores or not len(self.scores) == len(self.lengths) == len(self.seeds):
            counts = f"{len(self.scores)}, {len(self.lengths)} and {len(self.seeds)}"
            raise EvaluationError(f"expected as many scores as lengths and seeds, at least one, not {counts}")
        if not all(abs(score) < LARGEST for score in self.scores):  # false for NaN too
            raise EvaluationError(f"scores must be finite and below {LARGEST:g}, but some are not")

    @property
    def mean(self) -> float:
        """Mean score."""
        return float(np.mean(self.scores))

    @property
    def median(self) -> float:
        """Median score."""
        return float(np.median(self.scores))

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean, s / √n; None with one game."""
        n = len(self.scores)
        return float(np.std(self.scores, ddof=1) / math.sqrt(n)) if n > 1 else None

    @property
    def interval(self) -> tuple[float, float]:
        """95% percentile bootstrap interval of the mean, always from the same draws."""
        return scores.mean_interval([self.scores], np.random.default_rng(0))

    @property
    def human_normalised(self) -> float | None:
        """HNS of the mean score; None where the game is not one of Atari 100K."""
        return scores.human_normalised(self.env, self.mean) if atari100k.benchmark_name(self.env) else None

    @property
    def best(self) -> int:
        """Index of the game with the highest score; of several the first."""
        return int(np.argmax(self.scores))

    @property
    def middle(self) -> int:
        """Index of the median game: the one with the ceil(n / 2)-th lowest score."""
        return int(np.argsort(self.scores, kind="stable")[(len(self.scores) - 1) // 2])

    def describe(self) -> str:
        """The result in one line."""
        low, high = self.interval
        normalised = "" if self.human_normalised is None else f", human-normalised {self.human_normalised:.3f}"
        spread = "" if self.standard_error is None else f" ± {self.standard_error:.2g} (standard error)"
        return (
            f"{self.env}: mean {self.mean:.2f}{spread}, 95% interval {low:.2f} to {high:.2f}, "
            f"median {self.median:.2f}, best {max(self.scores):.2f} over {len(self.scores)} games{normalised}"
        )

    def write(self, path: Path) -> None:
        """Write `to_json` to a file, whole or not at all; makes its folder."""
        files.replace_text(path, self.to_json())

    def to_json(self) -> str:
        """Everything as JSON text; the summary is there for readers and is not read back."""
        data = {
            "format": FORMAT,
            "env": self.env,
            "protocol": dict(self.protocol),
            "summary": {
                "episodes": len(self.scores),
                "mean": self.mean,
                "median": self.median,
                "standard_error": self.standard_error,
                "interval_95": list(self.interval),
                "human_normalised": self.human_normalised,
                "lowest": min(self.scores),
                "highest": max(self.scores),
            },
            "scores": self.scores,
            "lengths": self.lengths,
            "seeds": self.seeds,
        }
        return json.dumps(data, indent=1, allow_nan=False) + "\n"

    @staticmethod
    def from_json(text: str) -> Evaluation:
        """Read `to_json`'s text. Raises EvaluationError, one line, for anything else."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise EvaluationError(f"evaluation is not JSON: {error}") from None
        if not isinstance(data, dict):
            raise EvaluationError(f"evaluation must be a JSON object, not {type(data).__name__}")
        if data.get("format") != FORMAT:
            version = data.get("format")
            raise EvaluationError(f"evaluation has format {shorten(version)}; this tokendream reads format {FORMAT}")
        _expect(data, "env", "a string", lambda v: isinstance(v, str))
        _expect(
            data,
            "protocol",
            "an object of plain values",
            lambda v: isinstance(v, dict) and all(isinstance(x, Scalar) for x in v.values()),
        )
        _expect(data, "scores", "a list of numbers", _are_scores)
        for name in ("lengths", "seeds"):
            _expect(data, name, "a list of whole numbers from 0", lambda v: _is_list(v, (int,)) and min([0, *v]) == 0)
        found = tuple(map(float, data["scores"]))
        return Evaluation(data["env"], data["protocol"], found, tuple(data["lengths"]), tuple(data["seeds"]))


def _are_scores(value: object) -> bool:
    return _is_list(value, (int, float)) and not any(abs(x) >= LARGEST for x in value)  # type: ignore[attr-defined]


def _is_list(value: object, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, list) and all(isinstance(x, kinds) and not isinstance(x, bool) for x in value)


def _expect(data: Mapping[str, Any], name: str, expected: str, valid: Callable[[Any], bool]) -> None:
    if name not in data:
        raise EvaluationError(f"evaluation.{name} is missing")
    if not valid(data[name]):
        raise EvaluationError(f"evaluation.{name} must be {expected}, not {shorten(data[name])}")


def summarise(
    config: Config, games: Sequence[Game], *, seed: int, temperature: float | None, **extra: Scalar
) -> Evaluation:
    """The evaluation of `games`, played under `config`'s protocol with environments made for evaluation.

    `temperature` is that at which actions were sampled, None where the notion does not apply (a random player).
    `extra` joins the protocol, for instance `player="random"` or `epoch=50`.
    """
    protocol: dict[str, Scalar] = {"seed": seed, "temperature": temperature, **evaluation_protocol(config.env)}
    name = atari100k.benchmark_name(config.env.game) or config.env_name
    return Evaluation(
        name,
        protocol | extra,
        tuple(game.score for game in games),
        tuple(game.length for game in games),
        tuple(game.seed for game in games),
    )


def evaluate(
    config: Config,
    policy: Player,
    episodes: int,
    seed: int,
    *,
    together: int = 16,
    make_room: Callable[[], None] = lambda: None,
    temperature: float | None = None,
    progress: Callable[[int, int, int], None] = lambda done, total, steps: None,
    **extra: Scalar,
) -> tuple[Evaluation, list[Game]]:
    """Play `episodes` full games under `config`'s evaluation protocol, `together` at a time, and sum up.

    Where so many environments cannot be made, `make_room` is called, which closes others, and one alone is tried:
    some emulators exist once a process. The games come back too, in the same order, for films:
    `replay_game(envs, games[evaluation.best])`.
    """
    try:
        envs = make(config, max(1, min(together, episodes)), evaluation=True)
    except EnvError:
        make_room()
        envs = make(config, 1, evaluation=True)
    try:
        games = play_games(envs, policy, episodes, seed, progress=progress)
    finally:
        envs.close()
    return summarise(config, games, seed=seed, temperature=temperature, envs=envs.n, **extra), games
