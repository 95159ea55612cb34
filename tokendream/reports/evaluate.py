"""A trained run played and scored again (`tokendream eval`), and films of the games that an evaluation played."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from tokendream.config.config import Config
from tokendream.envs.registry import make
from tokendream.envs.vector import EnvError, SeedError
from tokendream.errors import one_line, require
from tokendream.evaluation.evaluation import Evaluation, evaluate
from tokendream.evaluation.games import Game, replay_game
from tokendream.kernels.install import describe
from tokendream.reports import media
from tokendream.reports.display import display_for
from tokendream.reports.paint import painted
from tokendream.reports.wrapped import wrapped
from tokendream.runfolder.load import Trained, results_folder
from tokendream.runfolder.names import shown

FILM_STEPS = 1200
"""Steps of a game that its film shows; Atari games can last an hour."""

MOST_GAMES = 10_000
"""Most games of an evaluation: the interval of their mean then takes 320 MB."""


def evaluate_run(
    run_dir: Path, *, episodes: int | None, temperature: float | None, seed: int | None, device: str, films: bool
) -> int:
    """Evaluate a run's last checkpoint, or an exported agent: print the score, then write it, and films of two games,
    into `results_folder`.

    What is not given is as in the run's own evaluation, and only where all is do films take the place of its own.
    """
    require(episodes is None or 1 <= episodes <= MOST_GAMES, "episodes", f"in 1..{MOST_GAMES}", episodes)
    trained = Trained.load(run_dir, device)
    config = trained.config
    own = (config.evaluation.episodes, config.evaluation.temperature, config.seed, config.epochs)
    episodes, temperature, seed = episodes or own[0], temperature or own[1], config.seed if seed is None else seed
    policy = trained.policy(seed, temperature)
    display = display_for(config, ())
    try:
        result, games = evaluate(
            config, policy, episodes, seed, temperature=temperature, epoch=trained.epoch, player="agent",
            device=describe(trained.compute),
            progress=partial(display.games, "games of the agent"),
        )  # fmt: skip
    finally:
        display.close()
    folder = results_folder(run_dir)
    name = f"{episodes}-games-epoch-{trained.epoch}-temperature-{temperature:g}-seed-{seed}"
    path = folder / "evaluation" / f"{name}.json"
    print(wrapped(result.describe()), flush=True)  # before anything is written: a folder may be read-only, a disk full
    result.write(path)
    print(f"scores of every game: {shown(path)}")
    if films:
        of_its_own = (episodes, temperature, seed, trained.epoch) == own
        write_films(config, result, games, folder / "films" if of_its_own else folder / "films" / name, print)
    return 0


def write_films(
    config: Config, result: Evaluation, games: list[Game], films: Path, say: Callable[[str], None], again: str = ""
) -> None:
    """Films of the best and of the median game into a folder, played again from their seeds and actions.

    `say` gets one line: where they are, or why there are none, for which no scores should be lost; `again`
    is the command that would make them then.
    """
    try:
        for name, index in (("best", result.best), ("median", result.middle)):
            envs = make(config, 1, evaluation=True)
            try:  # to the game's end: only there it is known to be the same
                frames = enumerate(replay_game(envs, games[index]))
                film = painted((frame for step, frame in frames if step < FILM_STEPS), envs.spaces.observation)
                media.write_mp4(films / f"{name}.mp4", film, fps=15)
            finally:
                envs.close()
    except SeedError as error:
        say(f"no films: {error}")
    except (EnvError, OSError) as error:
        say(f"no films: {one_line(error)}{f'; {again} makes them' if again else ''}")
    else:
        say(f"films of the best and the median game: {shown(films)}")
