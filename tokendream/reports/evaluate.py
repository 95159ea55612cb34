"""A trained run played and scored again (`tokendream eval`), and films of the games that an evaluation played."""

from __future__ import annotations

import math
from pathlib import Path

from tokendream.agent.agent import AgentPolicy
from tokendream.config.config import Config
from tokendream.envs.registry import make
from tokendream.envs.vector import SeedError
from tokendream.errors import one_line, require
from tokendream.evaluation.evaluation import Evaluation, evaluate
from tokendream.evaluation.games import Game, replay_game
from tokendream.reports import media
from tokendream.reports.display import display_for
from tokendream.runfolder.load import Trained

FILM_STEPS = 1200
"""Steps of a game that its film shows; Atari games can last an hour."""


def evaluate_run(
    run_dir: Path, *, episodes: int, temperature: float, seed: int = 0, device: str = "auto", with_films: bool = True
) -> int:
    """Evaluate a run's last checkpoint: print the score, write it, and films of two games, into the run folder."""
    require(episodes >= 1, "episodes", "at least 1", episodes)
    require(0 < temperature < math.inf, "temperature", "positive and finite", temperature)
    trained = Trained.load(run_dir, device)
    config = trained.config
    policy = AgentPolicy(trained.agent, trained.compute, temperature=temperature, seed=seed)
    display = display_for(config, ())
    try:
        result, games = evaluate(
            config, policy, episodes, seed, temperature=temperature, epoch=trained.epoch,
            progress=lambda done, total: display.games("games", done, total),
        )  # fmt: skip
    finally:
        display.close()
    path = run_dir / "evaluation" / f"{episodes}-games-temperature-{temperature:g}-seed-{seed}.json"
    result.write(path)
    print(result.describe())
    print(f"scores of every game: {path}")
    if with_films:
        print(write_films(config, result, games, run_dir))
    return 0


def write_films(config: Config, result: Evaluation, games: list[Game], run_dir: Path) -> str:
    """Films of the best and of the median game, played again from their seeds and actions.

    Returns a line to say: where they are, or why there are none, for which no scores should be lost.
    """
    try:
        for name, index in (("best", result.best), ("median", result.middle)):
            envs = make(config, 1, evaluation=True)
            try:
                replayed = enumerate(
                    replay_game(envs, games[index])
                )  # to its end: only there it is known to be the same
                shown = (frame for step, frame in replayed if step < FILM_STEPS)
                media.write_mp4(run_dir / "films" / f"{name}.mp4", shown, fps=15)
            finally:
                envs.close()
    except SeedError as error:
        return f"no films: {error}"
    except OSError as error:
        return f"no films: {one_line(error)}; tokendream eval {run_dir} makes them"
    return f"films of the best and the median game: {run_dir / 'films'}"
