"""A recording of play: a film to look at, and a file that `tokendream play` opens again.

The file is safetensors: the rows of a replay buffer (frame, action, reward, end, last, episode_start), the tokens of
each frame, and the names of the actions. A rewind or a change of mode begins a new episode in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.numpy
from jaxtyping import Int32, UInt8

from tokendream.data.replay import ReplayBuffer
from tokendream.play.view import PlayError
from tokendream.reports import media
from tokendream.runfolder.files import replace
from tokendream.spaces.observations import Spaces

LIMIT = 256 * 2**20
"""Most bytes of pixels that a recording holds in memory: six minutes of three 64-pixel panels at 15 steps a second."""


class RecordedStep(NamedTuple):
    """A step: what was seen, what was done, what it brought. `first`: it does not follow the row before."""

    frame: UInt8[np.ndarray, "*O"]
    tokens: Int32[np.ndarray, " K"]
    action: int
    reward: float
    end: bool
    first: bool


class Recorder:
    """What has been recorded so far. `save` may run in another thread, once nothing is added any more."""

    def __init__(self, spaces: Spaces) -> None:
        self._spaces = spaces
        self._rows: list[RecordedStep] = []
        self._pictures: list[UInt8[np.ndarray, "3 H W"]] = []
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def full(self) -> bool:
        """Whether no more should be added."""
        return self._bytes >= LIMIT

    def add(self, row: RecordedStep, picture: UInt8[np.ndarray, "3 H W"]) -> None:
        """Keep a step and the picture that was shown after it."""
        self._rows.append(row)
        self._pictures.append(picture)
        self._bytes += row.frame.nbytes + picture.nbytes

    def save(self, folder: Path, name: str, fps: int) -> tuple[Path, Path]:
        """Write `name`.safetensors and `name`.mp4, each whole or not at all. Raises PlayError if nothing was
        recorded, OSError if the disk does not take it."""
        if not self._rows:
            raise PlayError("nothing was recorded: no step was taken")
        file, film = folder / f"{name}.safetensors", folder / f"{name}.mp4"
        replace(file, safetensors.numpy.save(self._arrays()))
        media.write_mp4(film, self._even(), fps=max(fps, 8))
        return file, film

    def _arrays(self) -> dict[str, np.ndarray]:
        rows = self._rows
        replay = ReplayBuffer.of(self._spaces, len(rows))
        for row, following in zip(rows, [*rows[1:], None], strict=True):
            last = following is None or following.first or row.end
            replay.add(row.frame, row.action, row.reward, row.end, last)
        names = np.frombuffer("\n".join(self._spaces.action_names).encode(), np.uint8)
        return replay.export(0, len(rows)) | {"tokens": np.stack([row.tokens for row in rows]), "actions": names}

    def _even(self) -> list[UInt8[np.ndarray, "3 H W"]]:
        """The pictures on grounds of one size, as modes differ in their number of panels."""
        height, width = (max(picture.shape[axis] for picture in self._pictures) for axis in (1, 2))
        return [np.pad(p, ((0, 0), (0, height - p.shape[1]), (0, width - p.shape[2]))) for p in self._pictures]
