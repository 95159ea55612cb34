"""Run folders as the results of a benchmark: which agent each belongs to, one protocol for all, what is missing.

An agent is all runs whose configs differ in nothing but game, seed and machine. Runs that are compared must have
been made under one protocol; what was meant to be there and is not is listed, and left out of every mean together
with its game.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokendream.config.config import Config, leaves
from tokendream.config.presets import preset
from tokendream.envs.atari100k import ATARI_100K, benchmark_name
from tokendream.errors import ConfigError, TokendreamError
from tokendream.reports.results import RunFolder
from tokendream.sweep.plan import expected, fields_that_differ

MOST_NAMED, LONGEST = 4, 80
"""Fields that an agent's name may list, and their letters: a table and a plot must have room for it."""

NOT_THE_AGENT = {"preset", "seed", "device", "precision", "kernels", "capture", "compile",
                 "deterministic", "log", "checkpoint_every", "training.cache_tokens"}  # fmt: skip
"""Fields in which the runs of one agent may differ. `evaluation` and most of `env` are not the agent's either: what
counts of them is the protocol, which must be equal anyway."""

INGREDIENT = "env.atari.sign_rewards"
"""A field of `env` that is the agent's: what it learns from. No evaluation pays by it."""

PER_RUN = {"seed", "epoch", "player", "device", "envs"}
"""Parts of an evaluation's protocol that differ from run to run. Actions are drawn for `envs` games together."""


class ResultError(TokendreamError):
    """Results that cannot be reported together; the message names what differs and where."""


@dataclass(frozen=True)
class Result:
    """One run."""

    folder: RunFolder
    agent: str
    game: str

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.folder.config.seed

    @property
    def score(self) -> float | None:
        """Mean score of the final evaluation; None for a run that is not finished."""
        return self.folder.final.mean if self.folder.final else None

    @property
    def state(self) -> str:
        """How far a run is that has no score."""
        records = self.folder.records
        return f"epoch {int(records[-1]['epoch'])} of {self.folder.config.epochs}" if records else "not started"

    @property
    def protocol(self) -> dict[str, Any]:
        """What must be equal in runs that are compared."""
        config, final = self.folder.config, self.folder.final
        planned = config.collect.steps * min(config.epochs, config.collect.last_epoch)
        known: dict[str, Any] = leaves(dataclasses.asdict(config.env), "env.")
        left_out = {"env.id", "env.step_timeout", INGREDIENT}  # what is played, and for how long one waits for it
        if config.env.game is None:  # there features and maps may be all that is seen
            left_out |= {"env.size", "evaluated size", *(name for name in known if name.startswith("env.atari."))}
        known |= {
            "env_steps": planned,
            "evaluation.episodes": config.evaluation.episodes,
            "evaluation.temperature": config.evaluation.temperature,
        }
        if final:
            known["evaluation.episodes"] = len(final.scores)
            known |= {f"evaluated {name}": v for name, v in final.protocol.items() if name not in PER_RUN}
        return {name: value for name, value in known.items() if name not in left_out}


@dataclass(frozen=True)
class SweepResults:
    """All runs, and the (agent, game, seed) that were meant to be there."""

    runs: tuple[Result, ...]
    wanted: tuple[tuple[str, str, int], ...]

    @functools.cached_property
    def agents(self) -> tuple[str, ...]:
        """Names of the agents, those with the fewest changes to their preset first."""
        return tuple(sorted(dict.fromkeys(run.agent for run in self.runs), key=lambda name: name.count(", ")))

    @property
    def players(self) -> tuple[str, ...]:
        """The agents that were meant to play some of the 26 games."""
        there = {agent for agent, game, _ in self.wanted if game in ATARI_100K}
        return tuple(agent for agent in self.agents if agent in there)

    @property
    def environments(self) -> tuple[str, ...]:
        """What is played besides the 26 games."""
        return tuple(dict.fromkeys(game for _, game, _ in self.wanted if game not in ATARI_100K))

    @functools.cached_property
    def seeds(self) -> dict[str, tuple[int, ...]]:
        """The seeds that each agent was meant to be run with."""
        found: dict[str, set[int]] = {}
        for agent, _, seed in self.wanted:
            found.setdefault(agent, set()).add(seed)
        return {agent: tuple(sorted(seeds)) for agent, seeds in found.items()}

    def scores(self, agent: str, game: str) -> dict[int, float]:
        """The finished runs' scores by seed."""
        return self._scores.get((agent, game), {})

    @functools.cached_property
    def _scores(self) -> dict[tuple[str, str], dict[int, float]]:
        found: dict[tuple[str, str], dict[int, float]] = {}
        for run in sorted(self.runs, key=lambda run: run.seed):
            if run.score is not None:
                found.setdefault((run.agent, run.game), {})[run.seed] = run.score
        return found

    def has_all_seeds(self, agent: str, game: str) -> bool:
        """Whether an agent has a score of a game for every one of its seeds."""
        return tuple(self.scores(agent, game)) == self.seeds[agent]

    def complete(self, agent: str) -> list[str]:
        """The games of the 26 that an agent has with every one of its seeds."""
        return [game for game in ATARI_100K if self.has_all_seeds(agent, game)]

    def not_played(self, agent: str) -> list[str]:
        """The games of the 26 that an agent was never meant to play."""
        meant = {game for name, game, _ in self.wanted if name == agent}
        return [game for game in ATARI_100K if game not in meant]

    def missing(self) -> list[tuple[str, str, int, str]]:
        """(agent, game, seed, how far it is) of every run that is wanted and has no score."""
        there = {(run.agent, run.game, run.seed): run for run in self.runs}
        return [
            (*key, there[key].state if key in there else "no run")
            for key in self.wanted
            if key not in there or there[key].score is None
        ]


def read_results(paths: Sequence[Path]) -> SweepResults:
    """Read run folders, sweeps and folders of run folders.

    Raises ResultError where protocols are mixed or a run is there twice, and a ValueError for what is no result.
    """
    runs: list[Result] = []
    wanted: list[tuple[str, str, int]] = []
    for path in paths:
        planned = expected(path)
        folders = [path / "runs" / name for name, _ in planned] if planned else list(_folders(path))
        found = [_read(folder) for folder in folders if not planned or folder.is_dir()]
        runs += found
        for name, (game, seed) in planned:
            if not (path / "runs" / name).is_dir():  # nothing says whose it was
                game = benchmark_name(game) or game
                players = [run.agent for run in found if run.game == game] or [run.agent for run in found]
                wanted += [(agent, game, seed) for agent in dict.fromkeys(players)]
    wanted += [(run.agent, run.game, run.seed) for run in runs]
    for agent in dict.fromkeys(run.agent for run in runs):
        # Whoever ran one game with three seeds and another with two lacks a seed.
        seeds = sorted({seed for name, _, seed in wanted if name == agent})
        games = dict.fromkeys(game for name, game, _ in wanted if name == agent)
        wanted += [(agent, game, seed) for game in games for seed in seeds]
    _refuse_twice(runs)
    _refuse_mixed(runs)
    return SweepResults(tuple(runs), tuple(dict.fromkeys(wanted)))


def label(config: Config) -> str:
    """Name of the agent that a config describes: its preset, and the fields in which it differs from that.

    Of many or long fields the first two are named, and a number stands for all, so that no two agents share a name.
    """
    try:
        base = preset(config.preset)
    except ConfigError:  # of a version that had others
        base = Config()
    changed = [
        f"{_leaf(name)} {value}"
        for name, value, _ in fields_that_differ(config, base)
        if name not in NOT_THE_AGENT and (name == INGREDIENT or not name.startswith(("env.", "evaluation.")))
    ]
    if len(changed) > MOST_NAMED or len(", ".join(changed)) > LONGEST:
        number = zlib.crc32(", ".join(changed).encode()) % 10_000
        changed = [*changed[:2], f"{len(changed) - 2} more ({number:04})"]
    return ", ".join([config.preset, *changed])


def _leaf(name: str) -> str:
    """A field's name without its groups, where no other field is called that."""
    leaf = name.rpartition(".")[2]
    return leaf if _leaves()[leaf] == 1 else name


@functools.cache
def _leaves() -> Counter[str]:
    return Counter(field.rpartition(".")[2] for field in leaves(dataclasses.asdict(Config())))


def _folders(path: Path) -> Iterator[Path]:
    """A run folder itself, or the run folders inside."""
    if (path / "config.json").is_file():
        yield path
        return
    inside = sorted(p.parent for p in path.glob("*/config.json")) if path.is_dir() else []
    if not inside:
        what = "holds no run (no config.json, no sweep.json)" if path.is_dir() else "is no folder"
        raise ConfigError(f"{path} {what}")
    yield from inside


def _read(path: Path) -> Result:
    folder = RunFolder.read(path)
    config = folder.config
    game = benchmark_name(config.env.game) or config.env_name
    if folder.final and folder.final.env != game:
        raise ResultError(f"{path}: final.json is an evaluation of {folder.final.env}, but the run played {game}")
    return Result(folder, label(config), game)


def _refuse_twice(runs: Sequence[Result]) -> None:
    seen: dict[tuple[str, str, int], Result] = {}
    for run in runs:
        key = (run.agent, run.game, run.seed)
        if key in seen:
            where = f"{seen[key].folder.path} and {run.folder.path}"
            raise ResultError(f"{run.game}, agent {run.agent}, seed {run.seed} is there twice: {where}")
        seen[key] = run


def _refuse_mixed(runs: Sequence[Result]) -> None:
    """One protocol over all of the 26 games, and over all runs of any other environment."""
    first: dict[tuple[str, str], tuple[Any, Path]] = {}
    for run in runs:
        scope = "Atari 100K" if run.game in ATARI_100K else run.game
        for name, value in run.protocol.items():
            before, where = first.setdefault((scope, name), (value, run.folder.path))
            if before != value:
                raise ResultError(
                    f"mixed protocols: {name} is {before} in {where}, but {value} in {run.folder.path}; "
                    "report them separately"
                )


def protocol_of(runs: Sequence[Result]) -> Mapping[str, Any]:
    """The protocol that these runs share."""
    return {name: value for run in runs for name, value in run.protocol.items()}
