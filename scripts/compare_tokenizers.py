"""What tokenizers keep of frames that they were not fitted to: the table of docs/tokenizers.md, one JSON line a game.

    python scripts/compare_tokenizers.py cpu-dictionary 0 Boxing Krull --tokenizer.downsamples 2

A preset, a seed, games, and fields of the config. V sees 9,000 frames of random play: a dictionary once, what is
trained for ten epochs, as in `cpu`. Then 3,000 frames of other games are measured by what `tokendream diagnose` says
of a tokenizer. `seconds` are the process's own of fitting or training; `changed` is how many codes of a dictionary
changed in each third of the frames.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from typing import Any

import numpy as np
import torch
from random_play import random_play
from torch import Tensor

from tokendream.cli.flags import parse_train
from tokendream.config.config import Config
from tokendream.device import Compute, processor
from tokendream.evaluation.diagnosis.vision import vision
from tokendream.kernels.install import install
from tokendream.kernels.machine import compute_for
from tokendream.tokenizers.build import IMAGES
from tokendream.tokenizers.protocol import Fitted, Learned, Tokenizer
from tokendream.training.update import gradient_update, optimiser_for

SHOWN, MEASURED, EPOCHS = 9_000, 3_000, 10


def frames_of(config: Config, frames: int, seed: int) -> tuple[Tensor, Tensor]:
    """Frames of games played at random, and whether each came after the one before it in the same episode."""
    rows = random_play(config, frames, seed).export(0, frames)
    return torch.from_numpy(rows["frame"]), torch.from_numpy(np.concatenate(([False], ~rows["last"][:-1])))


def train(V: Learned, config: Config, frames: Tensor, compute: Compute) -> None:
    """Updates on frames drawn at random, as the trainer does them."""
    assert isinstance(V, torch.nn.Module)
    phase, rng = config.training.tokenizer, np.random.default_rng(config.seed)
    install(V, compute)
    optimiser = optimiser_for(V, phase)
    for _ in range(EPOCHS * phase.updates):
        batch = frames[torch.from_numpy(rng.integers(len(frames), size=phase.batch))]
        gradient_update(batch, loss=V.loss, module=V, optimiser=optimiser, clip=phase.clip, compute=compute)


def compare(config: Config) -> dict[str, Any]:
    """One game's line."""
    compute, seed = compute_for(config), 1000 * config.seed
    torch.manual_seed(config.seed)
    V: Tokenizer = IMAGES[config.tokenizer.kind](config.tokenizer)
    frames, _ = frames_of(config, SHOWN, seed)
    began, changed = time.process_time(), None
    if isinstance(V, Fitted):
        changed = [V.fit(third).changed for third in frames.chunk(3)]  # codes
    elif isinstance(V, Learned):
        train(V, config, frames, compute)
    seconds = time.process_time() - began
    fresh, follows = frames_of(config, MEASURED, seed + 500)
    with compute.autocast():
        part = vision(V, fresh, follows)
    figures = {figure.name: figure.value for figure in part.figures}
    return {"game": config.env.name, "preset": config.preset, "seed": config.seed, "seconds": round(seconds, 1),
            **figures, "changed": changed, "processor": processor(),
            "tokenizer": dataclasses.asdict(config.tokenizer)}  # fmt: skip


def main(preset: str, seed: str, *rest: str) -> None:
    """Game by game."""
    games = [word for i, word in enumerate(rest) if not any(w.startswith("-") for w in rest[: i + 1])]
    for game in games:
        config = parse_train([preset, "--seed", seed, "--env", game, *rest[len(games) :]]).config
        print(json.dumps(compare(config)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
