"""Figures on their way out of training: averaged on the device, one JSON line an epoch, TensorBoard always.

`metrics.jsonl` is the truth; TensorBoard's folder is made from it, so a resumed run has no point twice.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from tokendream.errors import TokendreamError, once, shorten
from tokendream.runfolder import files

LONGEST_LOG = 2**28
"""Most bytes of a metrics file: a line has some 1,500, so that a run of 100,000 epochs still fits."""

Record = dict[str, int | float]
"""The figures of an epoch by name, such as `world_model/next_frame`."""


class MetricsError(TokendreamError):
    """A metrics file that cannot be read; the message names the line."""


class Means:
    """Means of figures by name, of one value or several each. Sums stay on the device, in float64, until `flush`."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, prefix: str, figures: Mapping[str, Tensor]) -> None:
        """Count these figures in as `prefix/name`. Does not wait for the device."""
        for name, value in figures.items():
            key = f"{prefix}/{name}"
            n, value = value.numel(), value.detach().double()
            value = value.sum() if value.ndim else value
            self._sums[key] = self._sums[key] + value if key in self._sums else value
            self._counts[key] = self._counts.get(key, 0) + n

    def flush(self) -> Record:
        """The means so far, in one transfer a device; what follows is counted from nothing."""
        sums = self._transfer()
        record = {key: total / self._counts[key] for key, total in sums.items()}
        self._sums, self._counts = {}, {}
        return record

    def state(self) -> dict[str, list[float]]:
        """Sums and counts as plain data."""
        return {key: [total, float(self._counts[key])] for key, total in self._transfer().items()}

    def restore(self, state: Mapping[str, list[float]]) -> None:
        """Go on from `state`'s data, to the bit."""
        self._sums = {key: torch.tensor(total, dtype=torch.float64) for key, (total, _) in state.items()}
        self._counts = {key: int(count) for key, (_, count) in state.items()}

    def _transfer(self) -> dict[str, float]:
        """All sums on the host. Figures come from the device and, of the environment, from the host."""
        moved: dict[str, float] = {}
        for device in {s.device for s in self._sums.values()}:
            keys = [key for key, s in self._sums.items() if s.device == device]
            moved |= dict(zip(keys, torch.stack([self._sums[key] for key in keys]).tolist(), strict=True))
        return {key: moved[key] for key in self._sums}


ORDINARY = 2**63
"""Figures of this size or more are not kept."""


def read_metrics(path: Path) -> list[Record]:
    """The records of a metrics file. A torn last line, left by a crash, is dropped; anything else is refused."""
    lines = files.read_text(path, LONGEST_LOG).split("\n") if path.exists() else [""]
    records = []
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and not line:
            break
        try:
            record = json.loads(line)
            _check(record)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise MetricsError(f"{path}, line {number}: {error}") from None
        records.append(record)
    return records


def _check(record: object) -> None:
    """Raise ValueError for what is no record: figures by name, of which some are not to be missing."""
    if not isinstance(record, dict):
        raise ValueError("not an object")
    for name in ("epoch", "env_steps"):
        if type(record.get(name)) is not int:
            raise ValueError(f"not an object with {name}")
    for name, value in record.items():
        ordinary = type(value) in (int, float) and abs(value) < ORDINARY  # false for NaN too
        if value is not None and not ordinary:
            raise ValueError(f"{shorten(name)} is {shorten(value)}, no number of ordinary size")


@runtime_checkable
class Log(Protocol):
    """Where the figures of epochs go as well."""

    def append(self, record: Record) -> None:
        """The figures of the epoch that has just ended."""

    def close(self) -> None:
        """No more will come."""


class RunLog:
    """Appends the figures of finished epochs to a run folder, and hands them on to `other`.

    `after_epoch` is the last epoch that the run to go on with has finished: what the files hold of later ones is
    dropped, since those epochs are about to happen again.
    """

    def __init__(self, run_dir: Path, after_epoch: int = 0, other: Log | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._other = other
        self._path = run_dir / "metrics.jsonl"
        kept = [r for r in read_metrics(self._path) if r["epoch"] <= after_epoch]
        files.replace_text(self._path, "".join(map(_line, kept)))
        shutil.rmtree(run_dir / "tensorboard", ignore_errors=True)
        self._board: Any = None
        try:
            self._board = SummaryWriter(str(run_dir / "tensorboard"))
        except UnicodeEncodeError:
            once("nothing is written for TensorBoard, which wants a run folder whose path is UTF-8")
        self._draw(kept)

    def append(self, record: Record) -> None:
        """One JSON line, flushed, and the same figures for TensorBoard."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(record))
        self._draw([record])
        if self._other is not None:
            self._other.append(record)

    def close(self) -> None:
        """Finish TensorBoard's file, and the other log."""
        if self._other is not None:
            self._other.close()
        if self._board is not None:
            self._board.close()

    def _draw(self, records: Sequence[Record]) -> None:
        if self._board is None:
            return
        for record in records:
            for name, value in record.items():
                if name not in ("epoch", "env_steps") and value is not None:  # not finite
                    self._board.add_scalar(name, value, global_step=int(record["env_steps"]))
        self._board.flush()


def _line(record: Record) -> str:
    """Standard JSON that `read_metrics` takes: what is not finite, or beyond all measure, becomes null."""
    return json.dumps({k: v if v is not None and abs(v) < ORDINARY else None for k, v in record.items()}) + "\n"
