"""Which runs a sweep has: games x seeds of one config, each in a folder of its own.

SWEEP/sweep.json             the runs that are meant to be there, for the report
      runs/Boxing-seed0/     an ordinary run folder
      jobs/Boxing-seed0/1/   the logs of the first job of that run
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokendream.config.config import Config, leaves
from tokendream.envs.atari100k import ATARI_100K, benchmark_name
from tokendream.envs.registry import make
from tokendream.errors import ConfigError, nearest
from tokendream.runfolder import files
from tokendream.runfolder.folder import contents, finished
from tokendream.runfolder.load import read_config

FORMAT = 1
"""Version of sweep.json."""

SUITES: Mapping[str, tuple[str, ...]] = {"atari100k": tuple(ATARI_100K)}
"""Games of a suite, for `--games all`."""


@dataclass(frozen=True)
class Trial:
    """One run of a sweep: a config, and the folder that it is trained in."""

    config: Config
    run_dir: Path

    @property
    def game(self) -> str:
        """What is played."""
        return self.config.env_name

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.run_dir.name

    @property
    def finished(self) -> bool:
        """Whether its final evaluation is there."""
        return finished(self.run_dir)


def plan(suite: str, games: Sequence[str], seeds: int, base: Config, folder: Path) -> list[Trial]:
    """The runs, all seeds of a game before the next game's. Raises ConfigError or EnvError for what cannot be run.

    `games` are names of the suite, `all` of them, or any other environment as `env.id` has it.
    """
    if suite not in SUITES:
        raise ConfigError(f"unknown suite {suite!r}; nearest: {nearest(suite, SUITES)}")
    if seeds < 1:
        raise ConfigError(f"seeds must be at least 1, not {seeds}")
    if base.device.startswith("cuda:"):
        raise ConfigError(f"device must be auto, cpu or cuda, not {base.device!r}: a sweep assigns the GPUs itself")
    trials = []
    named = [_playing(base, game) for game in _games(suite, games)]
    for config in {config.env_name: config for config in named}.values():  # a game may be spelt in several ways
        make(config, 1, evaluation=False).close()
        stem = re.sub(r"[^\w.-]+", "-", config.env_name)
        for seed in range(seeds):
            run_dir = folder / "runs" / f"{stem}-seed{seed}"
            trials.append(Trial(dataclasses.replace(config, seed=seed), run_dir))
    return trials


def prepare(trials: Sequence[Trial], folder: Path, *, one_agent: bool = True) -> None:
    """Write the runs' configs and the list of runs. Raises ConfigError, before any of it, where one has another, or a
    run that the folder has besides is of another agent, unless there may be several."""
    ours = {trial.run_dir: trial for trial in trials}
    besides = [folder / "runs" / name for name, _ in expected(folder)] if one_agent else []
    for run_dir in ours | dict.fromkeys(besides):
        if contents(run_dir):
            trial, may_differ = (ours[run_dir], ()) if run_dir in ours else (trials[0], ("seed", "env.id"))
            for name, old, new in fields_that_differ(read_config(run_dir), trial.config):
                if name not in may_differ:
                    raise ConfigError(f"{run_dir} was started with {name} {old}, not {new}; "
                                      "name another folder with --out")  # fmt: skip
    for trial in trials:
        if not (trial.run_dir / "config.json").exists():
            files.replace_text(trial.run_dir / "config.json", trial.config.to_json())
    names = {**dict(expected(folder)), **{trial.name: (trial.game, trial.config.seed) for trial in trials}}
    runs = [{"folder": name, "game": game, "seed": seed} for name, (game, seed) in names.items()]
    files.replace_text(folder / "sweep.json", json.dumps({"format": FORMAT, "runs": runs}, indent=1) + "\n")


def expected(folder: Path) -> list[tuple[str, tuple[str, int]]]:
    """(folder, (game, seed)) of every run that a sweep was meant to have; [] for a folder that is no sweep.

    Raises ConfigError for a damaged sweep.json.
    """
    path = folder / "sweep.json"
    if not path.is_file():
        return []
    data = files.parse(path, files.read(path))
    if data.get("format") != FORMAT:
        raise ConfigError(f"{path} has format {data.get('format')!r}; this tokendream reads format {FORMAT}")
    try:
        return [(_name(r["folder"]), (str(r["game"]), int(r["seed"]))) for r in data["runs"]]
    except (KeyError, TypeError, ValueError):
        raise ConfigError(f"{path}: runs must be a list of folder, game and seed") from None


def fields_that_differ(a: Config, b: Config) -> Iterator[tuple[str, Any, Any]]:
    """Name and both values of every field in which two configs differ."""
    other = leaves(dataclasses.asdict(b))
    return ((name, value, other[name]) for name, value in leaves(dataclasses.asdict(a)).items() if value != other[name])


def _name(value: object) -> str:
    """A folder's plain name: what came from a file must not lead out of the sweep."""
    if not isinstance(value, str) or not re.fullmatch(r"[\w-][\w.-]*", value):  # Path("..").name is ".."
        raise ValueError(value)
    return value


def named(games: Sequence[str]) -> list[str]:
    """The words after --games; commas separate as spaces do."""
    return [word for game in games for word in game.split(",") if word]


def _games(suite: str, games: Sequence[str]) -> list[str]:
    """The games asked for, in their order."""
    words = named(games)
    if not words:
        raise ConfigError("no game is named: give names after --games, or all")
    return [game for word in words for game in (SUITES[suite] if word == "all" else (word,))]


def _playing(base: Config, game: str) -> Config:
    env = dataclasses.replace(base.env, id=game)
    if env.game is not None:
        name = benchmark_name(env.game)
        if name is None and env.id == env.game:
            near = nearest(game, ATARI_100K)
            raise ConfigError(f"unknown game {game!r}; nearest of Atari 100K: {near} (any other is written atari:NAME)")
        env = dataclasses.replace(env, id=f"atari:{name or env.game}")
    return dataclasses.replace(base, env=env)
