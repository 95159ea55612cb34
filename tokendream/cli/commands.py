"""The commands: one dataclass of flags each, and the one function that it calls.

A command imports what it runs when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from tokendream.cli import bench
from tokendream.config.config import Config
from tokendream.errors import ConfigError


@dataclass(frozen=True)
class Train:
    """Train an agent from scratch, evaluate it and write its report; or go on with a run that was cut.

    PRESET: rem, cpu, toy or tiny, perhaps with an ablation behind it (rem-no-pop); by default rem where there is a GPU,
    cpu where there is none. Every flag changes one field of it; the defaults listed are the preset's.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    run_dir: Path | None = None
    """Folder of the run; by default a free name under runs/. An existing run is never overwritten."""
    resume: Path | None = None
    """Folder of a run to go on with, from its last checkpoint and with its own config."""
    time_limit: float | None = None
    """Minutes after which to stop at a checkpoint, ready for --resume."""


@dataclass(frozen=True)
class Sweep:
    """Train many runs, games x seeds, here or on SLURM; the same command again goes on with what is left.

    --games and --seeds take the place of train's --env and --seed, which are listed but refused."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    suite: tyro.conf.Positional[str] = "atari100k"
    """Suite whose games `--games all` means: atari100k, the 26 games."""
    games: tuple[str, ...] = ("all",)
    """Names of games, all, or other environments as train's --env has them, such as tokendream/Catch-v0."""
    seeds: int = 5
    """Seeds of each game: 0, 1, ..."""
    out: Path | None = None
    """Folder of the sweep; by default sweeps/SUITE-PRESET."""
    jobs: int = 0
    """Runs at a time; 0 for one a GPU, one where there is none, and all on SLURM."""
    cores: int = 0
    """Cores of each run; 0 shares out those of this machine, and leaves it to SLURM there."""
    cluster: str = "local"
    """local or slurm."""
    partition: str = ""
    """SLURM's partition."""
    gpus: int = 1
    """GPUs of each run on SLURM; here the runs take the visible ones in turn."""
    minutes: int = 0
    """Time of a SLURM job; a run saves 10 minutes before its end and is queued again."""
    sbatch: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """KEY=VALUE for sbatch, such as account=NAME, mem=32G or constraint=a100."""
    setup: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A line of shell to run before each run, such as "module load cuda"."""


@dataclass(frozen=True)
class Eval:
    """Play full games with a trained agent and report its score."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    episodes: int = 100
    """Games to play."""
    temperature: float | None = None
    """Temperature at which actions are sampled; by default that of the run's evaluation."""
    seed: int = 0
    """Seed of the games and of the sampling."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    films: bool = True
    """Write films of the best and of the median game."""


@dataclass(frozen=True)
class Diagnose:
    """Measure each part of a trained agent on fresh games, beside what is healthy; writes a page and JSON."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    steps: int = 2000
    """Env steps of fresh games to measure on."""
    temperature: float | None = None
    """Temperature at which actions are sampled; by default that of the run's collecting for the games, and that of
    its evaluation for the figures of the controller."""
    seed: int = 0
    """Seed of those games and of the dreams."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


@dataclass(frozen=True)
class DreamFilm:
    """Film a dream: real, reconstruction and dream side by side, or many futures of one moment."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    out: Path = Path("dream.mp4")
    """File to write: .mp4 for a film, .png for a picture of some of its moments."""
    at: int = 300
    """Step of a fresh game, played by the agent, at which the dream starts."""
    length: int = 32
    """Dreamed steps."""
    futures: int = 0
    """Number of futures of one moment to show as a grid; 0 for a dream beside what really happened."""
    temperature: float | None = None
    """Temperature at which actions are sampled; by default that of the run's collecting for the game, and that of its
    evaluation for the futures."""
    seed: int = 0
    """Seed of the fresh game and of the dreams."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


@dataclass(frozen=True)
class Play:
    """Watch the agent and its dreams in a browser, and play inside its world model."""

    run: tyro.conf.Positional[Path]
    """Folder of the run; it may still be training."""
    host: str = "127.0.0.1"
    """Address to serve at. Any other than this machine's own asks for the token that is printed."""
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


@dataclass(frozen=True)
class Report:
    """Rebuild a run's page; of many runs, or a sweep, write one report: page, LaTeX tables and JSON."""

    results: tyro.conf.Positional[tuple[Path, ...]] = ()
    """A run folder, or several; a sweep; a folder of run folders."""
    published: bool = False
    """Report the published agents alone."""
    out: Path | None = None
    """Folder to write into; by default the sweep itself, else benchmark-report."""


def _train(options: Train) -> int:
    from tokendream.training import run as experiment

    if options.resume is not None:
        return experiment.resume(options.resume, time_limit=options.time_limit)
    return experiment.start(options.config, options.run_dir, time_limit=options.time_limit)


def _sweep(options: Sweep) -> int:
    from tokendream.sweep.engine import Resources
    from tokendream.sweep.local import LocalEngine
    from tokendream.sweep.plan import default_folder, plan
    from tokendream.sweep.progress import dashboard_for
    from tokendream.sweep.run import sweep
    from tokendream.sweep.slurm import SlurmEngine

    asked = (options.partition, options.minutes, options.sbatch, options.setup)
    resources = Resources(options.cluster, options.cores, options.gpus, *asked)
    folder = options.out or default_folder(options.suite, options.config)
    cells = plan(options.suite, options.games, options.seeds, options.config, folder)
    engine = (SlurmEngine if options.cluster == "slurm" else LocalEngine)(folder, resources, options.jobs)
    return sweep(cells, folder, engine, dashboard_for(cells), again=f"tokendream {shlex.join(sys.argv[1:])}")


def _eval(options: Eval) -> int:
    from tokendream.reports.evaluate import evaluate_run

    return evaluate_run(
        options.run,
        episodes=options.episodes,
        temperature=options.temperature,
        seed=options.seed,
        device=options.device,
        with_films=options.films,
    )


def _diagnose(options: Diagnose) -> int:
    from tokendream.reports.diagnose import diagnose

    return diagnose(
        options.run, steps=options.steps, temperature=options.temperature, seed=options.seed, device=options.device
    )


def _dream(options: DreamFilm) -> int:
    from tokendream.reports import films

    return films.film(
        options.run,
        options.out,
        at=options.at,
        length=options.length,
        futures=options.futures,
        temperature=options.temperature,
        seed=options.seed,
        device=options.device,
    )


def _play(options: Play) -> int:
    from tokendream.play.run import play

    return play(
        options.run,
        host=options.host,
        port=options.port,
        recordings=options.recordings,
        recording=options.recording,
        temperature=options.temperature,
        seed=options.seed,
        device=options.device,
        ask_token=options.token,
    )


def _report(options: Report) -> int:
    from tokendream.reports.run_page import write_report

    paths = options.results
    if bool(paths) == options.published:
        raise ConfigError("report takes either folders (a run, runs, a sweep) or --published")
    if len(paths) == 1 and options.out is None and (paths[0] / "config.json").exists():
        print(write_report(paths[0]))
        return 0
    from tokendream.sweep.report.export import write_benchmark
    from tokendream.sweep.report.summary import text

    in_sweep = len(paths) == 1 and (paths[0] / "sweep.json").exists()
    out = options.out or (paths[0] if in_sweep else Path("benchmark-report"))
    print(text(write_benchmark(paths, out)))
    print(f"{out / 'report.html'} (and report.tex, report.json)")
    return 0


COMMANDS: dict[str, tuple[type[Any], Callable[[Any], int]]] = {
    "train": (Train, _train),
    "sweep": (Sweep, _sweep),
    "eval": (Eval, _eval),
    "play": (Play, _play),
    "dream": (DreamFilm, _dream),
    "diagnose": (Diagnose, _diagnose),
    **bench.COMMANDS,
    "report": (Report, _report),
}
