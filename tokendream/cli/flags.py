"""From words to a command's options: tyro, with its boxes of errors turned into one line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import math
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_type_hints

import tyro

from tokendream.cli.envs import Envs
from tokendream.cli.sweep import Sweep
from tokendream.cli.train import Train, usual_preset
from tokendream.config.config import Config
from tokendream.config.env import EnvConfig
from tokendream.config.presets import preset
from tokendream.config.ranges import LARGEST_SEED
from tokendream.errors import ConfigError, TokendreamError, nearest, one_line, require, shorten
from tokendream.sweep.resources import Resources

Options = TypeVar("Options")

ENV_FLAGS = ("--env", "--env-id", "--game")
"""Other spellings of --env.id."""


def parse_train(argv: list[str]) -> Train:
    """`train [PRESET] [flags]`: the preset, given as first word or as --preset, supplies the flags' defaults."""
    name, argv = _preset_name(_env_id(argv), positional=True)
    given = {flag for flag in _given(argv) if flag.startswith("--")}
    try:
        base, said = _base(name, argv, needed="--resume" not in given)
    except ConfigError:
        if meant := _meant(name or ""):
            raise ConfigError(f"unknown preset {name!r}: {meant}") from None
        raise
    options = parse(Train, argv, "tokendream train [PRESET]", default=Train(base))
    if said and (better := _for_what_is_seen(options.config.env)):
        name, said = better
        options = parse(Train, argv, "tokendream train [PRESET]", default=Train(preset(name)))
    if said:
        print(said)
    if options.resume is not None and (name is not None or given - {"--resume", "--time-limit"}):
        raise ConfigError("--resume takes the run's own config: give no preset and no flag but --time-limit with it")
    return options


def parse_sweep(argv: list[str]) -> Sweep:
    """`sweep [SUITE] [--preset PRESET] [flags]`: every hyper-parameter is a flag, as for `train`."""
    name, argv = _preset_name(argv, positional=False)
    given = _given(argv)
    if refused := [flag for flag in given if flag in (*ENV_FLAGS, "--env.id", "--seed")]:
        raise ConfigError(f"a sweep has no {refused[0]}: it takes --games and --seeds")
    if given.count("--games") > 1:
        raise ConfigError("--games is there twice: name all games after one, as in --games Pong Boxing")
    base, said = _base(name, argv)

    def read(base: Config) -> Sweep:
        return parse(Sweep, argv, "tokendream sweep [SUITE]", default=Sweep(resources=Resources(), config=base))

    options = read(base)
    if said:
        from tokendream.sweep.plan import named

        env, games = options.config.env, named(options.games)
        seen = {game: _for_what_is_seen(dataclasses.replace(env, id=game)) or (base.preset, said) for game in games}
        better = dict(seen.values())
        if len(better) > 1:
            each = ", ".join(f"{game} {chosen}" for game, (chosen, _) in seen.items())
            raise ConfigError(
                f"these games ask for several presets ({each}): sweep them apart, or name one by --preset"
            )
        for name, why in better.items():
            options, said = read(preset(name)), why
        print(said)
    return options


def parse_envs(argv: list[str]) -> Envs:
    """`envs [FAMILY | check ID] [--preset PRESET] [flags]`: the environment's fields are flags, as for `train`."""
    name, argv = _preset_name(argv, positional=False)
    if refused := [flag for flag in _given(argv) if flag in (*ENV_FLAGS, "--env.id")]:
        raise ConfigError(f"envs has no {refused[0]}: it takes envs check ID")

    def read(name: str) -> Envs:
        default = Envs(preset=name, env=preset(name).env)
        return parse(Envs, argv, "tokendream envs [FAMILY | check ID]", default=default)

    options = read("cpu" if name is None else name)
    if name is not None or options.words[:1] != ("check",) or len(options.words) != 2:
        return options
    better = _for_what_is_seen(dataclasses.replace(options.env, id=options.words[1]))
    return read(better[0] if better else usual_preset())


def _given(argv: list[str]) -> list[str]:
    """The words without their values, flags as tyro spells them."""
    return [word.split("=")[0].replace("_", "-") for word in argv]


def _env_id(argv: list[str]) -> list[str]:
    """The words with every spelling of --env.id as that."""
    flags = _given(argv)
    if sum(flag in (*ENV_FLAGS, "--env.id") for flag in flags) > 1:
        raise ConfigError(f"name one environment: {', '.join(ENV_FLAGS)} and --env.id are one flag")
    return [
        word.replace(word.split("=")[0], "--env.id", 1) if flag in ENV_FLAGS else word
        for word, flag in zip(argv, flags, strict=True)
    ]


def _preset_name(argv: list[str], *, positional: bool) -> tuple[str | None, list[str]]:
    """The preset that is named, if one is, and the other words. Raises ConfigError where two are."""
    name = None
    if positional and argv and not argv[0].startswith("-"):
        name, argv = argv[0], argv[1:]
    if sum(word.split("=")[0] == "--preset" for word in argv) + (name is not None) > 1:
        raise ConfigError("give the preset once, either as the first word or as --preset")
    for i, word in enumerate(argv):
        if word == "--preset" and i + 1 < len(argv):
            return argv[i + 1], argv[:i] + argv[i + 2 :]
        if word.startswith("--preset="):
            return word.partition("=")[2], argv[:i] + argv[i + 1 :]
    return name, argv


def _base(name: str | None, argv: list[str], *, needed: bool = True) -> tuple[Config, str]:
    """The preset's config. Where none is named and the command is going to run, the machine chooses, and says why."""
    helps = any(word in ("-h", "--help") for word in argv)
    if name is not None or not needed or helps:
        return preset("cpu" if name is None else name), ""
    name = usual_preset()
    said = f"preset {name}: {'a' if name == 'rem' else 'no'} GPU was found (name another one to override)"
    return preset(name), said


def _meant(word: str) -> str:
    """How a word that is no preset is to be written, where it is the folder of a run or an environment's id."""
    from tokendream.envs.registry import is_id

    if os.path.exists(word) or ("/" in word and not re.search(r":|-v\d+$", word)):
        return f"a run goes on with --resume {shlex.quote(word)}"
    return f"an environment is named by --env {shlex.quote(word)}" if is_id(word) else ""


def _for_what_is_seen(env: EnvConfig) -> tuple[str, str] | None:
    """The preset for an environment that shows no image, and why: grid where it shows a map, else control."""
    if env.family == "atari":
        return None
    from tokendream.envs.registry import spaces_of

    try:
        spaces = spaces_of(dataclasses.replace(preset("tiny"), env=dataclasses.replace(env, size=64)))
    except TokendreamError:  # the run will say what is wrong
        return None
    seen = {part.modality for part in spaces.observation.parts}
    if "image" in seen:
        return None
    name, what = ("grid", "a map") if "map" in seen else ("control", "features")
    return name, f"preset {name}: {env.label} shows {what} (name another one to override)"


def parse(kind: type[Options], argv: list[str], prog: str, default: Options | None = None) -> Options:
    """Parse flags with tyro, turning its boxes of errors into one line."""
    kinds = dict(_flags(kind)) | dict.fromkeys((*(ENV_FLAGS if kind is Train else ()), "--help", "-h"), None)
    for word, after in itertools.pairwise((*argv, "--")):
        flag, equals, given = word.partition("=")
        flag = flag.replace("_", "-")
        if flag.startswith("--") and flag not in kinds:
            raise ConfigError(f"unknown flag {flag}; nearest: {nearest(flag, kinds)}")
        if equals or not after.startswith("--"):
            _check_number(flag, kinds.get(flag), given if equals else after)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), _any_digits():
            options = cast(Options, tyro.cli(kind, args=argv, prog=prog, default=default))
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ConfigError(_one_line(said.getvalue())) from None
    for name in ("seed", "time_limit"):  # whose meaning is the same in every command
        value = getattr(options, name, None)
        require(value is None or value >= 0, f"--{name.replace('_', '-')}", "at least 0", value)
    temperature = getattr(options, "temperature", None)
    require(temperature is None or 0 < temperature < math.inf, "--temperature", "positive and finite", temperature)
    seed = getattr(options, "seed", 0) or 0  # None: that of the run
    require(seed <= LARGEST_SEED, "--seed", f"at most {LARGEST_SEED}", seed)
    paths = {name: value for name, value in vars(options).items() if isinstance(value, Path | tuple)}
    return dataclasses.replace(options, **{name: _absolute(value) for name, value in paths.items()})  # type: ignore[type-var]


def _absolute(value: Any) -> Any:
    """A path, or a tuple of them, from the root: an environment may change the working folder, and a shell leaves the
    ~ in --out=~/x alone."""
    if isinstance(value, tuple):
        return tuple(map(_absolute, value))
    if not isinstance(value, Path):
        return value
    try:
        return value.expanduser().absolute()
    except RuntimeError as error:
        raise ConfigError(f"{value}: {one_line(error)}") from None


def _check_number(flag: str, kind: Any, word: str) -> None:
    """Raise ConfigError, with the nearest number, where a flag that takes one got another word."""
    kinds = get_args(kind) or (kind,)
    if not {int, float} & {*kinds} or (type(None) in kinds and word == "None"):
        return
    whole = int in kinds
    try:
        with _any_digits():
            int(word) if whole else float(word)
    except ValueError:
        near = ""
        with contextlib.suppress(ValueError, OverflowError):
            number = float(word.replace(",", "."))
            near = f", such as {int(number) if whole else number}"
        raise ConfigError(f"{flag} must be a {'whole ' * whole}number{near}, not {shorten(word)}") from None


@contextlib.contextmanager
def _any_digits() -> Iterator[None]:
    """Let Python read whole numbers of any length, which are then out of somebody's range like other large ones."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(before)


def _flags(kind: type[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every flag of a command, and the type of its value."""
    marked = get_type_hints(kind, include_extras=True)
    for name, hint in get_type_hints(kind).items():
        if tyro.conf.Positional in get_args(marked[name]):
            continue
        leaf = name.replace("_", "-")
        flag = f"{prefix}{leaf}"
        if dataclasses.is_dataclass(hint):
            yield from _flags(hint, "" if hint in (Config, Resources) else f"{flag}.")  # type: ignore[arg-type]
        else:
            yield f"--{flag}", hint
            if hint is bool:
                yield f"--{prefix}no-{leaf}", hint


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
