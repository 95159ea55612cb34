"""The replay buffer: the last `capacity` env steps as flat arrays, and segments drawn from them.

Rows are numbered from 0 as they are recorded and lie in a ring, row a in slot a mod capacity:

    total = 13, capacity = 8      slot   0  1  2  3  4 | 5  6  7
                                  row    8  9 10 11 12 | 5  6  7       held: [5, 13)

`episode_start[slot]` is the row at which the episode of a row began, so two rows belong together exactly if theirs
are equal; an episode whose head is overwritten is simply shorter. No workers, no copies: a batch of 64 x 20 frames
is one gather.

Where several environments are played at once, each adds a row in turn: row a is of environment a mod `envs`, and the
row that follows it in its game is a + `envs`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from tokendream.data.batch import Segments, Steps
from tokendream.device import put
from tokendream.spaces.observations import Spaces

COLUMNS = {
    "action": np.dtype(np.int16),
    "reward": np.dtype(np.float32),
    "end": np.dtype(np.bool_),
    "last": np.dtype(np.bool_),
    "episode_start": np.dtype(np.int64),
}
"""What is kept of a row beside its frame. `last`: the next row begins a new episode."""

MOST_SMALL = 2**15
"""Actions that fit the column of two bytes."""


class ReplayBuffer:
    """A ring of env steps. Frames live on `device`, the rest (16 bytes a row) on the host, where draws are made.

    Frames are rows of bytes to it. 100,000 of 3x64x64 take 1.23 GB, committed by the system only as they are filled
    (on a CPU).
    """

    def __init__(
        self,
        capacity: int,
        frame_shape: tuple[int, ...] = (3, 64, 64),
        device: torch.device = torch.device("cpu"),  # noqa: B008 (immutable)
        actions: int = MOST_SMALL,
        envs: int = 1,
    ) -> None:
        """`actions`: how many there are, or more; beyond MOST_SMALL they take 8 bytes a row."""
        assert capacity >= 1, f"the replay buffer's capacity must be at least 1, not {capacity}"
        self.capacity, self.frame_shape, self.device = capacity, tuple(frame_shape), device
        self.envs = envs
        """Environments that add a row each in turn."""
        self.total = 0
        """Rows ever added: the number of the next row."""
        self.closed = 0
        """How often `close_episode` changed a row that was there, so that a file of it is out of date."""
        self._remembered: dict[Any, tuple[int, Any]] = {}
        self._first = 0  # the oldest row this buffer was ever given: 0 unless restored from a later one
        shape = (capacity, *frame_shape)
        on_host = device.type == "cpu"
        # np.zeros takes untouched pages from the system, torch.zeros writes every byte.
        self._host: np.ndarray | None = np.zeros(shape, np.uint8) if on_host else None
        self._frame = (
            torch.zeros(shape, dtype=torch.uint8, device=device) if self._host is None else torch.from_numpy(self._host)
        )
        self._columns = COLUMNS if actions <= MOST_SMALL else COLUMNS | {"action": np.dtype(np.int64)}
        self._column = {name: np.zeros(capacity, dtype) for name, dtype in self._columns.items()}
        self._actions = actions

    @classmethod
    def of(
        cls,
        spaces: Spaces,
        capacity: int,
        device: torch.device = torch.device("cpu"),  # noqa: B008 (immutable)
        envs: int = 1,
    ) -> ReplayBuffer:
        """An empty buffer for what an environment shows and takes."""
        return cls(capacity, spaces.observation.frame_shape, device, spaces.actions.n, envs)

    def __len__(self) -> int:
        return min(self.capacity, self.total - self._first)

    @property
    def oldest(self) -> int:
        """The oldest row held: rows [oldest, total) are."""
        return self.total - len(self)

    def add(self, frame: np.ndarray, action: int, reward: float, end: bool, last: bool) -> None:
        """Record a step of the environment whose turn it is. `last`: the next one in it begins a new episode, be it for
        an end or a truncation.

        Raises ValueError for what no environment should return: another shape or type, a reward that is not finite.
        """
        if frame.dtype != np.uint8 or frame.shape != self.frame_shape:
            raise ValueError(f"a frame must be uint8 {self.frame_shape}, not {frame.dtype} {frame.shape}")
        if not math.isfinite(reward):
            raise ValueError(f"a reward must be finite, not {reward}")
        most = max(self._actions, MOST_SMALL)
        if not 0 <= action < most:
            raise ValueError(f"an action must be in 0..{most - 1}, not {action}")
        slot = self.total % self.capacity
        values = (action, reward, end, last, self._begun(self.total))
        for name, value in zip(COLUMNS, values, strict=True):
            self._column[name][slot] = value
        self._frame[slot] = torch.from_numpy(frame)
        self.total += 1

    def close_episode(self, env: int = 0) -> None:
        """Let the environment's next row begin a new episode whatever its last one said, as if truncated there."""
        newest = self.total - self.envs + env
        if newest >= self.oldest and not self._column["last"][newest % self.capacity]:
            self._column["last"][newest % self.capacity] = True
            self.closed += 1

    def draw(
        self,
        n: int,
        length: int,
        *,
        align: Literal["start", "end"],
        rng: np.random.Generator,
        before: int = 0,
        after: int = 0,
        newest: tuple[int, int] = (0, 0),
    ) -> Segments:
        """n segments of up to `length` rows that start, or end, at rows drawn uniformly from all that are held.

        They stop where the episode does; what is missing is padded, on the right for "start", left for "end". `before`
        and `after` leave out rows with fewer rows of their episode on that side (see `anchors`). With `newest` =
        (m, rows) the last m segments are drawn from so many of the newest rows alone.
        """
        if len(self) == 0:
            raise ValueError("nothing can be drawn from an empty replay buffer")
        m, rows = newest

        def anchors(n: int, first: int) -> Int64[np.ndarray, " n"]:
            if not (before or after):
                return rng.integers(first, self.total, size=n)
            found = self.anchors(before, after)
            found = found[min(int(np.searchsorted(found, first)), len(found) - 1) :]
            return found[rng.integers(len(found), size=n)]

        anchor = np.concatenate((anchors(n - m, self.oldest), anchors(m, max(self.oldest, self.total - rows))))
        return self.segments(anchor, length, align=align)

    def segments(self, anchor: Int64[np.ndarray, " B"], length: int, *, align: Literal["start", "end"]) -> Segments:
        """The segments of up to `length` rows that start, or end, at these rows; see `draw`."""
        anchor = anchor[:, None]
        row = anchor + self.envs * (np.arange(length) - (length - 1 if align == "end" else 0))
        episode_start = self._column["episode_start"]
        mask = (row >= self.oldest) & (row < self.total)
        mask &= episode_start[row % self.capacity] == episode_start[anchor % self.capacity]
        return Segments(np.where(mask, row, anchor), mask)

    def open_episodes(self, length: int) -> Segments:
        """Of every environment, up to `length` rows that end with its newest; none where its next begins an episode."""
        newest = np.arange(self.total - self.envs, self.total)
        segments = self.segments(newest, length, align="end")
        last = self._column["last"][newest % self.capacity]
        return Segments(segments.row, segments.mask & ~last[:, None])

    def anchors(self, before: int, after: int) -> Int64[np.ndarray, " rows"]:
        """The rows held with at least `before` rows of their episode before them and `after` behind them.

        An episode too short for any such row gives the one with most rows before it, if it has any before it and
        `after` is 0; where no episode gives a row, all rows are given."""
        return self.remembered(("anchors", before, after), lambda: self._find_anchors(before, after))

    def remembered(self, key: tuple[Any, ...], find: Callable[[], Any]) -> Any:
        """What `find` finds in the rows, until one is added: a pass over 100,000 takes longer than a draw."""
        if self._remembered.get(key, (-1,))[0] != self.total:
            self._remembered[key] = self.total, find()
        return self._remembered[key][1]

    def _find_anchors(self, before: int, after: int) -> Int64[np.ndarray, " rows"]:
        first = self.first_held()
        place = (np.arange(len(self)) - first) // self.envs
        length = np.bincount(first, minlength=len(self))[first]
        wanted = np.minimum(before, np.maximum(length - 1, 1)) if after == 0 else before
        found = np.flatnonzero((place >= wanted) & (length - 1 - place >= after)) + self.oldest
        return found if len(found) else np.arange(self.oldest, self.total)

    def frames(self, row: Int64[np.ndarray, "*B"]) -> UInt8[Tensor, "*N"]:
        """The frames of these rows, on the device."""
        slot = self._slot(row)
        if self._host is None:
            return self._frame[put(slot, self.device)]
        frame = torch.empty((*row.shape, *self.frame_shape), dtype=torch.uint8)
        # numpy's take is three times faster here than torch's indexing; "clip" because "raise" buffers its output.
        np.take(self._host, slot, axis=0, out=frame.numpy(), mode="clip")
        return frame

    def steps(self, segments: Segments) -> Steps:
        """What these segments hold beside their frames, on the device."""
        slot = self._slot(segments.row)
        taken = {name: self._column[name][slot] for name in ("action", "reward", "end")}
        steps = {
            name: put(np.where(segments.mask, column, column.dtype.type(0)), self.device)
            for name, column in taken.items()
        }
        return Steps(steps["action"].long(), steps["reward"], steps["end"], put(segments.mask, self.device))

    @property
    def rewards(self) -> Float32[np.ndarray, " rows"]:
        """Of every row held, the oldest first."""
        return self._column["reward"][self._slot(np.arange(self.oldest, self.total))]

    def episodes(self) -> list[range]:
        """The rows of every episode held, in the order of their first; only what is still held of each."""
        length = np.bincount(self.first_held(), minlength=len(self))
        begins = np.flatnonzero(length)
        return [
            range(first, first + n * self.envs, self.envs)
            for first, n in zip((begins + self.oldest).tolist(), length[begins].tolist(), strict=True)
        ]

    def first_held(self) -> Int64[np.ndarray, " rows"]:
        """Of every row held, the first that is held of its episode, both counted from the oldest row."""
        start = self._column["episode_start"][np.arange(self.oldest, self.total) % self.capacity] - self.oldest
        return np.where(start < 0, start % self.envs, start)

    def export(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Rows [start, stop) as plain arrays: `frame`, and the columns named in COLUMNS."""
        return self.rows(np.arange(start, stop))

    def rows(self, row: Int64[np.ndarray, " n"]) -> dict[str, np.ndarray]:
        """These rows as plain arrays; see `export`."""
        slot = self._slot(row)
        columns = {name: column[slot] for name, column in self._column.items()}
        return {"frame": self.frames(row).cpu().numpy(), **columns}

    def restore(self, arrays: Mapping[str, np.ndarray], start: int) -> None:
        """Append exported rows, of which the first has number `start`, as if they had been added one by one.

        An empty buffer takes them from any number on. Raises ValueError for arrays that no export could have made.
        """
        if start != self.total and self.total > 0:
            raise ValueError(f"the next row of the replay buffer is {self.total}, not {start}")
        n = self._check(arrays, start)
        if self.total == 0:
            self._first = self.total = start
        kept = slice(max(0, n - self.capacity), n)
        slot = (start + np.arange(n)[kept]) % self.capacity
        for name, column in self._column.items():
            column[slot] = arrays[name][kept]
        if self._host is not None:
            self._host[slot] = arrays["frame"][kept]
        else:
            self._frame[put(slot, self.device)] = torch.from_numpy(arrays["frame"][kept].copy()).to(self.device)
        self.total += n

    def _check(self, arrays: Mapping[str, np.ndarray], start: int) -> int:
        """The number of rows in `arrays`, which come from a file and may be anything."""
        expected = {"frame": np.dtype(np.uint8), **self._columns}
        if arrays.keys() != expected.keys():
            raise ValueError(f"replay rows need the arrays {', '.join(expected)}, not {', '.join(arrays) or 'none'}")
        n = len(arrays["frame"]) if arrays["frame"].ndim else -1
        for name, dtype in expected.items():
            shape = (n, *self.frame_shape) if name == "frame" else (n,)
            if arrays[name].dtype != dtype or arrays[name].shape != shape:
                got = f"{arrays[name].dtype} {arrays[name].shape}"
                raise ValueError(f"replay rows need {name} as {dtype} {shape}, not {got}")
        if not np.isfinite(arrays["reward"]).all() or (arrays["action"] < 0).any():
            raise ValueError("replay rows hold a reward that is not finite or an action below 0")
        if n > 0:
            row, started, N = start + np.arange(n), arrays["episode_start"], min(n, self.envs)
            begins = np.concatenate((np.ones(N, bool), arrays["last"][:-N]))
            follows = np.where(begins, row, np.roll(started, N))
            # An environment's first row held may be of an episode whose head is gone, so any start before it will do.
            for i, first in enumerate(row[:N].tolist()):
                held = first - self.envs >= self.oldest and len(self)
                follows[i] = self._begun(first) if held else min(max(started[i], first % self.envs), first)
            if not np.array_equal(started, follows) or ((row - started) % self.envs).any():
                raise ValueError("replay rows whose episodes contradict themselves")
        return n

    def _begun(self, row: int) -> int:
        """Where the episode of a row to come began, one of the next `envs`."""
        before = row - self.envs
        if before < self.oldest or self._column["last"][before % self.capacity]:
            return row
        return int(self._column["episode_start"][before % self.capacity])

    def _slot(self, row: np.ndarray) -> np.ndarray:
        if row.size and not (self.oldest <= row.min() and row.max() < self.total):
            raise ValueError(f"rows {self.oldest} to {self.total - 1} are held, not {row.min()} to {row.max()}")
        return row % self.capacity
