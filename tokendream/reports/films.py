"""Films of a run: games that an evaluation played, and what the agent dreams (`tokendream dream`)."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from tokendream.errors import ConfigError, nearest, require
from tokendream.reports import media, pictures
from tokendream.runfolder import files
from tokendream.runfolder.load import Trained

SUFFIXES = (".mp4", ".gif", ".png")

MOMENTS = 10
"""Moments of a film that a picture shows."""

MOST_FUTURES = 256
"""Most futures in one film: a grid of 16 by 16, dreamt in one batch."""

MOST_STEPS, MOST_FRAMES = 1_000_000, 16_384
"""Most steps before a dream, hours of play; and most frames of a film, 800 MB of 64-pixel ones as float32."""

KEPT = 4096
"""Steps of the fresh games that are kept, the last ones: a film shows one of their last episodes."""


def film(
    run: Path, out: Path, *, at: int, length: int, futures: int, temperature: float | None, seed: int, device: str
) -> int:
    """Write a dream of a run's last checkpoint to `out`: an MP4 or a GIF, or a PNG of some of its moments.

    It starts near step `at` of fresh games, in the last episode of those that is long enough, else the longest. Without
    `futures`, three columns (rows in a picture): what happened, its reconstruction, and the dream under the same
    actions. With it, that many dreams of one moment, each choosing its own actions. The games are played at the
    config's collecting temperature, the futures dreamed at that of its evaluation, or both at `temperature`. Raises
    ConfigError for another kind of file or for sizes that make no film.
    """
    if out.suffix not in SUFFIXES:
        raise ConfigError(f"a film ends in .mp4 or .gif and a picture in .png, not {out.name!r}; nearest: "
                          f"{nearest(out.suffix, SUFFIXES)}")  # fmt: skip
    require(0 <= futures <= MOST_FUTURES, "futures", f"in 0..{MOST_FUTURES}", futures)
    longest = MOST_FRAMES // (futures or 3)
    require(2 <= length <= longest, "length", f"in 2..{longest}", length)
    require(1 <= at <= MOST_STEPS, "at", f"in 1..{MOST_STEPS}", at)
    require(at + length >= 4, "at", f"at least {4 - length} with a length of {length}", at)
    trained = Trained.load(run, device)
    files.make_place("--out", out)
    config = trained.config
    collecting = temperature or config.collect.temperature
    dreaming = temperature or config.evaluation.temperature
    keep = max(KEPT, 2 * (config.dream.burn_in + length))
    replay = trained.play(at + length, seed, temperature=collecting, keep=keep)
    what = trained.agent, replay, config, trained.compute
    draw = functools.partial(pictures.futures, n=futures, temperature=dreaming) if futures else pictures.draw
    rows = draw(*what, length=length, seed=seed)
    if rows is None:
        raise ConfigError("every episode of the fresh games was shorter than 4 steps: try another --seed")
    if out.suffix == ".png":
        shown = np.linspace(0, len(rows[0]) - 1, min(MOMENTS, len(rows[0]))).astype(int)
        media.write_png(out, media.enlarge(np.concatenate([media.strip(row[shown]) for row in rows], axis=-2), 2))
    else:
        write = media.write_gif if out.suffix == ".gif" else media.write_mp4
        write(out, _grid(rows) if futures else media.columns(*rows), fps=8)
    print(f"{out} (games at temperature {collecting:g}{f', futures at {dreaming:g}' if futures else ''})")
    return 0


def _grid(films: UInt8[np.ndarray, "n T 3 S W"]) -> Iterator[UInt8[np.ndarray, "3 H W2"]]:
    """The frames of one film: several in as square a grid as their number allows."""
    side = math.ceil(len(films) ** 0.5)
    return (media.sheet(moment, side, gap=2, ground=0) for moment in films.swapaxes(0, 1))
