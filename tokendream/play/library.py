"""Recorded episodes that can be played again: the run's own, out of its replay buffer, and recordings of play."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors.numpy
from safetensors import SafetensorError

from tokendream.data.replay import ReplayBuffer
from tokendream.errors import TokendreamError, one_line
from tokendream.runfolder.checkpoint import Checkpoints
from tokendream.runfolder.files import CheckpointError, size_on_disk
from tokendream.runfolder.load import Trained

ROWS = 4_000
"""Most rows taken from the run's replay buffer, its newest: 49 MB of 64-pixel frames."""

LARGEST = 2**30
"""Most bytes of a recording that is opened."""

SHORTEST = 4
"""Fewest steps of an episode worth showing."""

LISTED = 40
"""Most episodes of each kind that are listed."""


class RecordingError(TokendreamError):
    """A recording that cannot be opened; one line that says why."""


@dataclass(frozen=True)
class Episode:
    """Rows of a replay buffer, and what to call them."""

    title: str
    replay: ReplayBuffer
    rows: range

    @property
    def length(self) -> int:
        """Frames."""
        return len(self.rows)


def episodes(run_dir: Path, recordings: Path, trained: Trained, tell: Callable[[str], None]) -> list[Episode]:
    """All that can be replayed: the newest episodes that the run was trained on, if it has kept any, and those of all
    recordings of its play that fit it; newest first, and only read."""
    collect = trained.config.collect
    replay = ReplayBuffer.of(trained.spaces, min(ROWS, collect.capacity), envs=collect.envs)
    found: list[Episode] = []
    try:
        if run_dir.is_dir():  # an exported file has none
            Checkpoints(run_dir).load_replay(trained.epoch, replay)
            found += _episodes(replay, "training")
    except CheckpointError as error:
        tell(f"no episodes of the training run: {one_line(error)}")
    for path in sorted(recordings.glob("*.safetensors"), reverse=True)[:LISTED]:
        with contextlib.suppress(RecordingError, OSError):
            found += open_recording(path, trained)
    return found


def open_recording(path: Path, trained: Trained) -> list[Episode]:
    """The episodes of a recording, oldest first. Raises RecordingError for what is none or is of another game."""
    size = size_on_disk(path)
    if size < 0:
        raise RecordingError(f"there is no recording {path}")
    if size > LARGEST:
        raise RecordingError(f"{path} has {size} bytes; a recording has at most {LARGEST}")
    try:
        arrays = safetensors.numpy.load(path.read_bytes())
        names = bytes(arrays.pop("actions")).decode().split("\n")
        arrays.pop("tokens")
        replay = ReplayBuffer.of(trained.spaces, max(1, len(arrays["frame"])))
        replay.restore(arrays, 0)
    except (SafetensorError, CheckpointError, ValueError, KeyError, TypeError, IndexError) as error:
        raise RecordingError(f"{path} is no recording for this run: {one_line(error)}") from None
    if tuple(names) != trained.action_names:
        raise RecordingError(f"{path} is of another game: its actions are {', '.join(names)}")
    if len(replay) and arrays["action"].max() >= trained.spaces.actions.n:
        most = trained.spaces.actions.n
        raise RecordingError(f"{path} is no recording: it has an action {arrays['action'].max()} of {most}")
    return _episodes(replay, path.stem)[::-1]


def _episodes(replay: ReplayBuffer, what: str) -> list[Episode]:
    found = [e for e in replay.episodes() if len(e) >= SHORTEST]
    several = len(found) > 1
    titles = [f"{what}{f' · episode {i + 1}' if several else ''} · {len(e)} steps" for i, e in enumerate(found)]
    return [Episode(t, replay, e) for t, e in zip(titles, found, strict=True)][::-1][:LISTED]
