"""Real runs in processes of their own, and what must be equal between two of them, down to the bit."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokendream.data.replay import ReplayBuffer
from tokendream.runfolder.checkpoint import Checkpoints
from tokendream.runfolder.load import read_config
from tokendream.runfolder.metrics import read_metrics

FLAGS = ("tiny", "--epochs", "5", "--collect.steps", "30", "--checkpoint-every", "1", "--evaluation.every", "2")
"""Five epochs of every phase, of which each is checkpointed; some seconds on one core."""


@dataclass(frozen=True)
class Cut:
    """Where a process is cut: the `number`-th time at `place`, `delay` milliseconds later, by a signal."""

    place: str = "-"
    number: int = 1
    delay: float = 0.0
    signal: int = 0


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    out: str
    err: str


def process(argv: list[str], cut: Cut = Cut(), **settings: Any) -> subprocess.Popen[str]:
    """Start `tokendream ARGV` in a process of its own, to be cut there."""
    child = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("child.py"))]
    words = [cut.place, str(cut.number), str(cut.delay), str(int(cut.signal))]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **settings.pop("env", {})}
    pipe = subprocess.PIPE
    return subprocess.Popen([*child, *words, *argv], stdout=pipe, stderr=pipe, text=True, env=env, **settings)


def run(argv: list[str], cut: Cut = Cut(), *, limit: float = 300, **settings: Any) -> Ended:
    """`process`, to its end."""
    started = process(argv, cut, **settings)
    try:
        out, err = started.communicate(timeout=limit)
    finally:
        started.kill()
    return Ended(started.returncode, out, err)


def train(run_dir: Path, cut: Cut = Cut(), *flags: str, **settings: Any) -> Ended:
    """Begin the run of FLAGS in this folder, or go on with it."""
    begun = (run_dir / "config.json").exists()
    argv = ["--resume", str(run_dir)] if begun else [*FLAGS, *flags, "--run-dir", str(run_dir)]
    return run(["train", *argv], cut, **settings)


def digest(run_dir: Path) -> dict[str, str]:
    """Hashes of all that a finished run consists of, by what it is; clocks are left out, nothing else."""
    config = read_config(run_dir)
    store, shape = Checkpoints(run_dir), (3, config.env.size, config.env.size)
    replay = ReplayBuffer(config.collect.capacity, shape, envs=config.collect.envs)
    epoch, snapshot = store.load(say=lambda line: None)
    store.load_replay(epoch, replay)
    state = {k: v for k, v in snapshot.state.items() if k not in ("seconds", "process_seconds", "timings")}
    parts: dict[str, object] = {
        group: {k: (str(t.dtype), t.flatten().view(torch.uint8).numpy().tobytes()) for k, t in sorted(tensors.items())}
        for group, tensors in snapshot.tensors.items()
    }
    parts |= {"state": state, "replay": {k: a.tobytes() for k, a in replay.export(replay.oldest, replay.total).items()}}
    parts["metrics"] = [_timeless(r) for r in read_metrics(run_dir / "metrics.jsonl")]
    parts["tensorboard"] = _points(run_dir)
    for path in sorted((run_dir / "evaluation").iterdir()):
        parts[f"evaluation/{path.name}"] = path.read_bytes()
    for path in sorted((run_dir / "films").glob("*.mp4")):
        parts[f"films/{path.name}"] = path.read_bytes()
    parts["files"] = sorted(
        re.sub(r"tfevents.*|epoch-\d+(?=/)|(?<=rows-).*", "*", str(p.relative_to(run_dir)))
        for p in run_dir.rglob("*") if p.is_file() and p.parent.name != "replay" and "epoch-" not in p.parent.name
    )  # fmt: skip
    return {name: hashlib.sha256(repr(part).encode()).hexdigest()[:16] for name, part in parts.items()}


def _timeless(record: dict[str, Any]) -> str:
    return json.dumps({k: v for k, v in record.items() if "seconds" not in k and "per_s" not in k}, sort_keys=True)


def _points(run_dir: Path) -> list[tuple[str, int, float]]:
    """Every point that TensorBoard shows, duplicates included."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    files = sorted((run_dir / "tensorboard").iterdir())
    return sorted(
        (value.tag, event.step, float(np.asarray(value.tensor.float_val)[0]) if value.tensor.float_val else 0.0)
        for file in files for event in EventFileLoader(str(file)).Load() for value in event.summary.value
        if "seconds" not in value.tag and "per_s" not in value.tag
    )  # fmt: skip
