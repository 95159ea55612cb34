"""Evaluation: full games played by a policy, their statistics, and the films of two of them.

Numpy only; the agent comes in as a `Policy`. A finished game is its seed and its actions: whatever else is wanted
of it, above all its frames, is played again from those (`replay_game`), because environments obey their seeds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int64, Integer, UInt8

from tokendream import scores
from tokendream.config import Config
from tokendream.envs.vector import EnvError, Envs

FORMAT = 1
"""Version of an evaluation's JSON; a file with another number is refused by name."""

Scalar = str | int | float | bool | None


class EvaluationError(ValueError):
    """An evaluation's file that cannot be read; the message says what was expected and what came."""


@runtime_checkable
class Policy(Protocol):
    """Chooses an action in every lane; `first` marks lanes where a new game starts, whose memory is to be forgotten."""

    def __call__(
        self, frame: UInt8[np.ndarray, "n 3 S S"], first: Bool[np.ndarray, " n"]
    ) -> Int64[np.ndarray, " n"]: ...


def random_policy(n_actions: int, rng: np.random.Generator) -> Policy:
    """Uniformly random actions, one draw for all lanes together."""

    def act(frame: UInt8[np.ndarray, "n 3 S S"], first: Bool[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        return rng.integers(n_actions, size=len(first))

    return act


@dataclass(frozen=True)
class Game:
    """A finished game: played again from `seed` with `actions` it is the same to the bit."""

    seed: int
    score: float
    actions: Integer[np.ndarray, " T"]

    @property
    def length(self) -> int:
        """Agent steps."""
        return len(self.actions)


@dataclass
class _Open:
    """A game being played in a lane."""

    index: int
    score: float = 0.0
    actions: list[int] = field(default_factory=list)


def game_seeds(seed: int, episodes: int) -> list[int]:
    """The seed of every game of an evaluation; game i has the same one however many follow it.

    A stream of its own: no game of the training run with the same seed starts from one of these.
    """
    children = np.random.SeedSequence(seed).spawn(episodes)
    return [int(child.generate_state(1)[0] >> 1) for child in children]


def play_games(
    envs: Envs,
    policy: Policy,
    episodes: int,
    seed: int,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[Game]:
    """Play exactly `episodes` full games, in the order of their seeds; a lane that finishes takes the next one.

    Every game that is started counts, so short games are not favoured, and game i has its own seed whatever the
    number of lanes: a deterministic policy gives the same games with 1 lane and with 16. A policy that draws for
    all lanes from one generator is reproducible too, but only with the same number of lanes. `progress` is called
    with (games finished, `episodes`) at the start and after each game. Raises EnvError when `episodes` < 1.
    """
    if episodes < 1:
        raise EnvError(f"expected at least 1 episode to play, not {episodes}")
    seeds = game_seeds(seed, episodes)
    small = np.uint8 if envs.n_actions <= 256 else np.int32
    done: dict[int, Game] = {}
    waiting = iter(range(episodes))
    lanes: list[_Open | None] = [None] * envs.n
    first = np.zeros(envs.n, bool)
    if progress:
        progress(0, episodes)
    frame = _refill(envs, lanes, first, waiting, seeds)
    while len(done) < episodes:
        actions = policy(frame, first)
        transition = envs.step(actions)
        frame = transition.frame
        first = np.zeros(envs.n, bool)
        finished = False
        for lane, game in enumerate(lanes):
            if game is None:
                continue
            game.actions.append(int(actions[lane]))
            game.score += float(transition.reward[lane])
            if transition.over[lane]:
                done[game.index] = Game(seeds[game.index], game.score, np.array(game.actions, small))
                lanes[lane] = None
                finished = True
                if progress:
                    progress(len(done), episodes)
        if finished and len(done) < episodes:
            frame = _refill(envs, lanes, first, waiting, seeds)
    return [done[i] for i in range(episodes)]


def _refill(
    envs: Envs, lanes: list[_Open | None], first: Bool[np.ndarray, " n"], waiting: Iterator[int], seeds: Sequence[int]
) -> UInt8[np.ndarray, "n 3 S S"]:
    """Start the next games in the free lanes, marking them in `first`; returns every lane's frame."""
    starting: list[int | None] = [None] * envs.n
    for lane, game in enumerate(lanes):
        if game is None and (index := next(waiting, None)) is not None:
            lanes[lane] = _Open(index)
            starting[lane] = seeds[index]
            first[lane] = True
    return envs.reset(starting)


def replay_game(envs: Envs, game: Game) -> Iterator[UInt8[np.ndarray, "3 S S"]]:
    """The frames of a finished game, its length + 1 of them, played again in lane 0 one at a time.

    Raises EnvError where the game does not come out with the same score, which means that the environment does
    not obey its seed.
    """
    rest: list[None] = [None] * (envs.n - 1)
    yield envs.reset([game.seed, *rest])[0]
    score = 0.0
    for i, action in enumerate(game.actions.tolist()):
        actions = np.zeros(envs.n, np.int64)
        actions[0] = action
        transition = envs.step(actions)
        score += float(transition.reward[0])
        if bool(transition.over[0]) != (i == game.length - 1):
            break
        yield transition.frame[0]
    else:
        if score == game.score:
            return
    raise EnvError(
        f"the game with seed {game.seed} came out differently when played again: the environment does not obey its seed"
    )


@dataclass(frozen=True)
class Evaluation:
    """The scores of one evaluation, in the order of its games, with the protocol that they were made under.

    `protocol` holds what a reader needs to repeat it: temperature, frames, no-ops, seed, who played, ...
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
        if not all(map(math.isfinite, self.scores)):
            raise EvaluationError("scores must be finite, but some are NaN or infinite")

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
        return scores.mean_interval(self.scores, np.random.default_rng(0))

    @property
    def human_normalised(self) -> float | None:
        """HNS of the mean score; None where the game is not one of Atari 100K."""
        return scores.human_normalised(self.env, self.mean) if scores.benchmark_name(self.env) else None

    @property
    def best(self) -> int:
        """Index of the game with the highest score; of several the first."""
        return int(np.argmax(self.scores))

    @property
    def middle(self) -> int:
        """Index of the median game: the one with the ceil(n / 2)-th lowest score."""
        return int(np.argsort(self.scores, kind="stable")[(len(self.scores) - 1) // 2])

    def summary(self) -> dict[str, Any]:
        """The figures that follow from the scores, as plain data."""
        return {
            "episodes": len(self.scores),
            "mean": self.mean,
            "median": self.median,
            "standard_error": self.standard_error,
            "interval_95": list(self.interval),
            "human_normalised": self.human_normalised,
            "lowest": min(self.scores),
            "highest": max(self.scores),
        }

    def to_json(self) -> str:
        """Everything as JSON text; the summary is there for readers and is not read back."""
        return (
            json.dumps(
                {
                    "format": FORMAT,
                    "env": self.env,
                    "protocol": dict(self.protocol),
                    "summary": self.summary(),
                    "scores": self.scores,
                    "lengths": self.lengths,
                    "seeds": self.seeds,
                },
                indent=1,
                allow_nan=False,
            )
            + "\n"
        )

    @staticmethod
    def from_json(text: str) -> Evaluation:
        """Read `to_json`'s text. Raises EvaluationError, one line, for anything else."""
        try:
            data = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise EvaluationError(f"evaluation is not JSON: {error}") from None
        if not isinstance(data, dict):
            raise EvaluationError(f"evaluation must be a JSON object, not {type(data).__name__}")
        if data.get("format") != FORMAT:
            version = data.get("format")
            raise EvaluationError(f"evaluation has format {version!r}; this tokendream reads format {FORMAT}")
        _expect(data, "env", "a string", lambda v: isinstance(v, str))
        _expect(
            data,
            "protocol",
            "an object of plain values",
            lambda v: isinstance(v, dict) and all(isinstance(x, Scalar) for x in v.values()),
        )
        _expect(data, "scores", "a list of numbers", lambda v: _is_list(v, (int, float)))
        for name in ("lengths", "seeds"):
            _expect(data, name, "a list of whole numbers from 0", lambda v: _is_list(v, (int,)) and min([0, *v]) == 0)
        return Evaluation(
            data["env"],
            data["protocol"],
            tuple(map(float, data["scores"])),
            tuple(data["lengths"]),
            tuple(data["seeds"]),
        )


def _is_list(value: object, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, list) and all(isinstance(x, kinds) and not isinstance(x, bool) for x in value)


def _expect(data: Mapping[str, Any], name: str, expected: str, valid: Callable[[Any], bool]) -> None:
    if name not in data:
        raise EvaluationError(f"evaluation.{name} is missing")
    if not valid(data[name]):
        raise EvaluationError(f"evaluation.{name} must be {expected}, not {str(data[name])[:60]}")


def summarise(
    config: Config, games: Sequence[Game], *, seed: int, temperature: float | None, **extra: Scalar
) -> Evaluation:
    """The evaluation of `games`, played under `config`'s protocol with environments made for evaluation.

    `temperature` is that at which actions were sampled, None where the notion does not apply (a random player).
    `extra` joins the protocol, for instance `policy="random"` or `epoch=50`.
    """
    protocol: dict[str, Scalar] = {
        "seed": seed,
        "temperature": temperature,
        "size": config.env.size,
        "max_frames": config.env.eval_max_frames,
        "life_loss_ends": False,
    }
    if not config.env_id:
        protocol |= {
            "frame_skip": config.env.frame_skip,
            "noop_max": config.env.eval_noop_max,
            "sticky_actions": 0.0,
        }
    name = config.env_id or scores.benchmark_name(config.game) or config.game
    return Evaluation(
        name,
        protocol | extra,
        tuple(game.score for game in games),
        tuple(game.length for game in games),
        tuple(game.seed for game in games),
    )
