"""M alone: what it learns of steps that are given. One JSON line an evaluation, with the figures of `diagnose`.

    python scripts/world_model.py cpu 0 KungFuMaster 600 6 --world-model.layers 2
    python scripts/world_model.py cpu 0 runs/kung-fu 600 6 --world-model.local-prediction

A preset whose tokenizer is not trained, a seed, a game or a run folder, updates of M, how often to measure, and fields
of the config. Of a game, 12,000 steps of random play are taken, of a run those of its last checkpoint. V is fitted to
the first five sixths, on which M is trained; the rest is what is measured.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from random_play import random_play

from tokendream.agent.agent import Agent
from tokendream.cli.flags import parse_train
from tokendream.config.config import Config
from tokendream.data.batch import Segment
from tokendream.data.replay import ReplayBuffer
from tokendream.device import processor
from tokendream.envs.registry import spaces_of
from tokendream.evaluation.diagnosis.world import world
from tokendream.kernels.install import install
from tokendream.kernels.machine import compute_for
from tokendream.nn.seen import Seen
from tokendream.runfolder.checkpoint import Checkpoints
from tokendream.runfolder.load import read_config
from tokendream.tokenizers.protocol import Fitted
from tokendream.training.update import gradient_update, optimiser_for

STEPS, MEASURED = 12_000, 512


def collected(run: Path, config: Config) -> ReplayBuffer:
    """The steps of a run's last checkpoint."""
    checkpoints, own = Checkpoints(run), read_config(run).collect
    epoch, _ = checkpoints.load(groups=())
    replay = ReplayBuffer.of(spaces_of(config), own.capacity, envs=own.envs)
    checkpoints.load_replay(epoch, replay)
    return replay


def main(preset: str, seed: str, source: str, updates: str, measurements: str, *flags: str) -> None:
    """Train M, and measure it so many times on the way."""
    run = Path(source) if Path(source).is_dir() else None
    game = source if run is None else read_config(run).env.id
    config = parse_train([preset, "--seed", seed, "--env", game, *flags]).config
    compute, phase = compute_for(config), config.training.world_model
    replay = random_play(config, STEPS, config.seed) if run is None else collected(run, config)
    torch.manual_seed(config.seed)
    agent = Agent.from_config(config, spaces_of(config)).to(compute.device).eval()
    install(agent, compute)
    V, M, length, rng = agent.tokenizer, agent.world_model, config.world_model.segment_length, np.random.default_rng(0)
    rows, shown = np.arange(replay.oldest, replay.total), len(replay) * 5 // 6
    assert isinstance(V, Fitted)
    for some in np.split(rows[:shown], range(256, shown, 256)):
        V.fit(replay.frames(some))
    if isinstance(M.rewards, Seen):
        M.rewards.fit(replay.rewards[:shown])
    tokens = V.encode(replay.frames(rows))

    def segments(rows: np.ndarray, n: int) -> Segment:
        found = replay.segments(rows[rng.integers(len(rows), size=n)], length, align="start")
        return Segment(tokens[torch.from_numpy(found.row - replay.oldest)], replay.steps(found))

    fresh = rows[shown:]
    measured = segments(fresh[replay.segments(fresh, length, align="start").mask.all(1)], MEASURED)
    optimiser, seconds, every = optimiser_for(M, phase), 0.0, int(updates) // int(measurements)
    for n in range(1, int(updates) + 1):
        batch, began = segments(rows[: shown - length * replay.envs], phase.batch), time.process_time()
        gradient_update(
            batch, loss=lambda batch: M.loss(V.codes(batch.tokens), *batch), module=M, optimiser=optimiser,
            clip=phase.clip, compute=compute,
        )  # fmt: skip
        seconds += time.process_time() - began
        if n % every == 0:
            with compute.autocast():
                part = world(agent, measured, None, config.dream)
            figures = {figure.name: round(figure.value, 4) for figure in part.figures if figure.value is not None}
            line = {"source": game, "preset": preset, "flags": flags, "updates": n, "cpu_seconds": round(seconds),
                    **figures, "processor": processor()}  # fmt: skip
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
