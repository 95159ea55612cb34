"""Films and pictures from uint8 frames: MP4 for browsers, GIF and PNG for pages. Nothing here knows what is shown."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from tokendream.runfolder.files import replace

GAP = 40
"""Grey level of the gap between two columns: seen on black frames and on white ones."""


def columns(*films: UInt8[np.ndarray, "T 3 S _"], gap: int = 2) -> UInt8[np.ndarray, "T 3 S W2"]:
    """Films of equal length and height side by side."""
    wall = np.full((*films[0].shape[:3], gap), GAP, np.uint8)
    parts = [part for film in films for part in (film, wall)][:-1]
    return np.concatenate(parts, axis=-1)


def strip(frames: UInt8[np.ndarray, "T 3 S W"], gap: int = 2) -> UInt8[np.ndarray, "3 S W2"]:
    """Moments of one film in a row."""
    return columns(*(frame[None] for frame in frames), gap=gap)[0]


def sheet(
    tiles: UInt8[np.ndarray, "n 3 S W"], across: int, gap: int = 1, ground: int = GAP
) -> UInt8[np.ndarray, "3 H W2"]:
    """Small pictures in rows of `across`; gaps, and what the last row lacks, are of the grey `ground`."""
    (n, _, S, W), down = tiles.shape, -(-len(tiles) // across)
    wall = np.full((down * across, 3, S + gap, W + gap), ground, np.uint8)
    wall[:n, :, :S, :W] = tiles
    return wall.reshape(down, across, 3, S + gap, W + gap).transpose(2, 0, 3, 1, 4).reshape(3, down * (S + gap), -1)


def enlarge(image: UInt8[np.ndarray, "*B 3 H W"], scale: int) -> UInt8[np.ndarray, "*B 3 H2 W2"]:
    """Every pixel `scale` times as wide and high; a pixel stays a square."""
    return image.repeat(scale, axis=-2).repeat(scale, axis=-1)


def png(image: UInt8[np.ndarray, "3 H W"]) -> bytes:
    """A PNG file's content."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, "png")
    return file.getvalue()


def write_png(path: Path, image: UInt8[np.ndarray, "3 H W"]) -> None:
    """Write a picture, whole or not at all; makes its folder."""
    replace(path, png(image))


def write_gif(path: Path, frames: Iterable[UInt8[np.ndarray, "3 S W"]], *, fps: int) -> None:
    """Write a film that plays wherever a picture is shown, for ever, whole or not at all; makes its folder.

    Raises ValueError without a frame.
    """
    from PIL import Image

    first, *rest = (Image.fromarray(enlarge(frame, 3).transpose(1, 2, 0)) for frame in frames)
    file = io.BytesIO()
    first.save(file, "gif", save_all=True, append_images=rest, duration=1000 // fps, loop=0)
    replace(path, file.getvalue())


def write_mp4(path: Path, frames: Iterable[UInt8[np.ndarray, "3 S W"]], *, fps: int = 15) -> None:
    """Write a film that browsers play (H.264, yuv420p), four times as large, whole or not at all; makes its folder.

    Raises OSError where ffmpeg is missing or fails, and whatever `frames` raises, of which there is at least one.
    """
    from imageio_ffmpeg import get_ffmpeg_exe, write_frames

    try:
        get_ffmpeg_exe()
    except RuntimeError as error:
        raise OSError(f"no film {path}: {error}") from None
    frames = iter(frames)
    first = next(frames, None)
    assert first is not None, f"{path}: a film needs at least one frame"
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".part-{path.name}")
    options = ["-vf", "scale=iw*4:ih*4:flags=neighbor", "-crf", "20", "-preset", "veryfast", "-movflags", "+faststart"]
    size = first.shape[2], first.shape[1]
    try:
        with contextlib.closing(
            write_frames(str(half), size, fps=fps, codec="libx264", macro_block_size=1, output_params=options,
                         ffmpeg_log_level="error")
        ) as writer:  # fmt: skip
            writer.send(None)
            for frame in itertools.chain([first], frames):
                writer.send(np.ascontiguousarray(frame.transpose(1, 2, 0)))
        os.replace(half, path)
    finally:
        half.unlink(missing_ok=True)
