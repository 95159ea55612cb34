"""The command line: parse flags, call one function each.

Nothing heavy is imported before a command is known to be well-formed, so that `--help` answers at once.
Whatever a user can get wrong ends in one line on stderr and exit code 2.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar, cast, get_type_hints

import tyro

from tokendream import __version__
from tokendream.config import Config
from tokendream.plain import ConfigError, nearest
from tokendream.presets import PRESETS, preset

Options = TypeVar("Options")


@dataclass(frozen=True)
class Train:
    """Train an agent from scratch, evaluate it and write its report; or go on with a run that was cut."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    run_dir: Path | None = None
    """Folder of the run; by default a free name under runs/. An existing run is never overwritten."""
    resume: Path | None = None
    """Folder of a run to go on with, from its last checkpoint and with its own config."""
    time_limit: float | None = None
    """Minutes after which to stop at a checkpoint, ready for --resume."""


@dataclass(frozen=True)
class Eval:
    """Play full games with a trained agent and report its score."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    episodes: int = 100
    """Games to play."""
    temperature: float = 0.5
    """Temperature at which actions are sampled."""
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
    seed: int = 0
    """Seed of the fresh game and of the dreams."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


@dataclass(frozen=True)
class Bench:
    """Time every phase of training at a preset's real sizes."""

    preset: str = "rem"
    """Preset whose sizes are timed."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    quick: bool = False
    """Fewer repetitions: a first look."""
    profile: bool = False
    """Also list the operators that took longest in each phase."""
    out: Path | None = None
    """Write the figures to this JSON file as well."""


@dataclass(frozen=True)
class Report:
    """Rebuild a run's report.html from what lies in its folder."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""


def _train(options: Train) -> int:
    from tokendream import experiment

    if options.resume is not None:
        return experiment.resume(options.resume, time_limit=options.time_limit)
    return experiment.start(options.config, options.run_dir, time_limit=options.time_limit)


def _eval(options: Eval) -> int:
    from tokendream import experiment

    return experiment.evaluate_run(
        options.run,
        episodes=options.episodes,
        temperature=options.temperature,
        seed=options.seed,
        device=options.device,
        with_films=options.films,
    )


def _diagnose(options: Diagnose) -> int:
    from tokendream.diagnose.run import diagnose

    return diagnose(options.run, steps=options.steps, seed=options.seed, device=options.device)


def _dream(options: DreamFilm) -> int:
    from tokendream import filming

    return filming.film(
        options.run,
        options.out,
        at=options.at,
        length=options.length,
        futures=options.futures,
        seed=options.seed,
        device=options.device,
    )


def _bench(options: Bench) -> int:
    from tokendream import bench

    return bench.main(
        preset(options.preset), options.device, quick=options.quick, profile=options.profile, out=options.out
    )


def _report(options: Report) -> int:
    from tokendream.report import write_report

    print(write_report(options.run))
    return 0


COMMANDS: dict[str, tuple[type[Any], Callable[[Any], int]]] = {
    "train": (Train, _train),
    "eval": (Eval, _eval),
    "dream": (DreamFilm, _dream),
    "diagnose": (Diagnose, _diagnose),
    "bench": (Bench, _bench),
    "report": (Report, _report),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code: 0 done, 2 bad input, 130 or 143 interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if argv[0] == "--version":
        print(f"tokendream {__version__}")
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        return _complain(f"unknown command {name!r}; nearest: {nearest(name, COMMANDS)}")
    kind, run = COMMANDS[name]
    try:
        options = _parse_train(rest) if kind is Train else _parse(kind, rest, f"tokendream {name}")
        return run(options)
    except (ValueError, OSError) as error:
        # Every error a caller, a config or a file can cause is a ValueError or an OSError; the rest are our bugs.
        if os.environ.get("TOKENDREAM_DEBUG"):
            raise
        return _complain(" ".join(str(error).split()) or type(error).__name__)


def _overview() -> str:
    lines = ["usage: tokendream COMMAND [options]", "", "REM: a token-based world model that dreams whole frames.", ""]
    lines += [f"  {name:10}{(kind.__doc__ or '').splitlines()[0]}" for name, (kind, _) in COMMANDS.items()]
    lines += ["", "tokendream COMMAND --help lists a command's options. Presets of train: " + ", ".join(PRESETS) + "."]
    return "\n".join(lines)


def _complain(message: str) -> int:
    print(f"tokendream: {message}", file=sys.stderr)
    return 2


def _parse_train(argv: list[str]) -> Train:
    """`train [PRESET] [flags]`: the preset, given as first word or as --preset, supplies the flags' defaults."""
    name = None
    if argv and not argv[0].startswith("-"):
        name, argv = argv[0], argv[1:]
    for i, word in enumerate(argv):
        if word == "--preset" and i + 1 < len(argv):
            name, argv = argv[i + 1], argv[:i] + argv[i + 2 :]
            break
        if word.startswith("--preset="):
            name, argv = word.partition("=")[2], argv[:i] + argv[i + 1 :]
            break
    helps = any(word in ("-h", "--help") for word in argv)
    resuming = any(word.split("=")[0] == "--resume" for word in argv)
    if name is None and not helps and not resuming:
        name = _default_preset()
    base = preset(name or "cpu")
    options = _parse(Train, argv, "tokendream train [PRESET]", default=Train(base))
    alone = Train(base, None, options.resume, options.time_limit)
    if options.resume is not None and (name is not None or options != alone):
        raise ConfigError("--resume takes the run's own config: give no preset and no flag but --time-limit with it")
    return options


def _default_preset() -> str:
    import torch

    name = "rem" if torch.cuda.is_available() else "cpu"
    print(f"preset {name}: {'a' if name == 'rem' else 'no'} GPU was found (name another one to override)")
    return name


def _parse(kind: type[Options], argv: list[str], prog: str, default: Options | None = None) -> Options:
    """Parse flags with tyro, turning its boxes of errors into one line."""
    valid = set(_flags(kind)) | {"--help", "-h"}
    for word in argv:
        flag = word.split("=")[0].replace("_", "-")
        if flag.startswith("--") and flag not in valid:
            raise ConfigError(f"unknown flag {flag}; nearest: {nearest(flag, valid)}")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), _wide():
            return cast(Options, tyro.cli(kind, args=argv, prog=prog, default=default))
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ConfigError(_one_line(said.getvalue())) from None


def _flags(kind: type[Any], prefix: str = "") -> Iterator[str]:
    for name, hint in get_type_hints(kind).items():
        leaf = name.replace("_", "-")
        flag = f"{prefix}{leaf}"
        if dataclasses.is_dataclass(hint):
            yield from _flags(hint, "" if hint is Config else f"{flag}.")  # type: ignore[arg-type]
        else:
            yield f"--{flag}"
            if hint is bool:
                yield f"--{prefix}no-{leaf}"


@contextlib.contextmanager
def _wide() -> Iterator[None]:
    """Let tyro's messages run on one line each while errors are caught; help keeps the terminal's width."""
    before = os.environ.get("COLUMNS")
    if not sys.stdout.isatty():
        os.environ.setdefault("COLUMNS", "100")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("COLUMNS", None)


def _one_line(box: str) -> str:
    """The sentence inside tyro's box: what stands between its title and its first rule."""
    body: list[str] = []
    for line in box.splitlines()[1:]:
        text = line.strip(" │╭╮╰╯─-\t")
        if not text and body:
            break
        if text:
            body.append(text)
    return " ".join(" ".join(body).split()) or "bad arguments"


def entry() -> NoReturn:
    """What the console script runs."""
    sys.exit(main())
