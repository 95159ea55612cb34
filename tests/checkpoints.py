"""For the tests of checkpoints: small ones, what is read back of them, and what spoils a file."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokendream.data.replay import ReplayBuffer
from tokendream.runfolder.checkpoint import Checkpoints
from tokendream.runfolder.files import seal_of
from tokendream.runfolder.snapshot import Snapshot

SHAPE = (3, 2, 2)


def collect(replay: ReplayBuffer, rows: int, salt: int = 0) -> ReplayBuffer:
    """Add rows whose content follows from their number and a salt."""
    for _ in range(rows):
        row = replay.total
        frame = np.random.default_rng((row, salt)).integers(0, 256, SHAPE, dtype=np.uint8)
        replay.add(frame, row % 5, float(row), row % 7 == 6, row % 7 == 6)
    return replay


def snapshot(epoch: int) -> Snapshot:
    """Different for every epoch; tied, strided, empty and 0-d tensors, several types."""
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(epoch))
    agent = {"weight": weight, "tied": weight, "strided": weight.T, "half": weight.bfloat16(), "empty": weight[:0]}
    return Snapshot(
        {"agent": agent, "optimiser.a": {"0.step": torch.tensor(float(epoch))}, "none": {}},
        {
            "epoch": epoch,
            "third": 1 / 3,
            "tiny": 5e-324,
            "big": 2**127 + epoch,
            "text": "ε\n",
            "list": [None, {}],
        },
    )


def same(a: Snapshot, b: Snapshot) -> bool:
    """Equality to the bit, types included."""
    return (
        a.tensors.keys() == b.tensors.keys()
        and all(
            x.keys() == y.keys() and all(torch.equal(x[k], y[k]) and x[k].dtype == y[k].dtype for k in x)
            for x, y in zip(a.tensors.values(), (b.tensors[k] for k in a.tensors), strict=True)
        )
        and repr(a.state) == repr(b.state)
    )


def rows_of(replay: ReplayBuffer) -> dict[str, bytes]:
    return {k: v.tobytes() for k, v in replay.export(replay.oldest, replay.total).items()}


def loaded(run: Path, capacity: int = 40) -> tuple[int, Snapshot, ReplayBuffer, list[str]]:
    said: list[str] = []
    store, replay = Checkpoints(run), ReplayBuffer(capacity, SHAPE)
    epoch, content = store.load(say=said.append)
    store.load_replay(epoch, replay)
    return epoch, content, replay, said


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def reseal(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest as someone would who knows how it is sealed."""
    record = json.loads(path.read_text())
    del record["seal"]
    change(record)
    path.write_text(json.dumps({**record, "seal": seal_of(record)}))


def run_of_two(tmp_path: Path) -> Path:
    """A run folder with checkpoints of epochs 10 (20 rows) and 12 (30 rows)."""
    store, replay = Checkpoints(tmp_path / "run"), ReplayBuffer(40, SHAPE)
    for epoch, rows in ((10, 20), (12, 10)):
        store.save(epoch, snapshot(epoch), collect(replay, rows))
    return tmp_path / "run"


def damage_cut(data: bytes) -> bytes:
    return data[:-1]


def damage_flip(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


def damage_pickle(data: bytes) -> bytes:
    class Bomb:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return (os.abort, ())

    return pickle.dumps(Bomb())
