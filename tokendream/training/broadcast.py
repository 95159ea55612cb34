"""What rank 0 tells the others (see `ranks`): the replay's new rows, and where a run stands. Nothing is unpickled."""

from __future__ import annotations

import json

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch

from tokendream import ranks
from tokendream.data.replay import ReplayBuffer
from tokendream.runfolder.snapshot import Snapshot

ROWS = 2_000
"""Most rows in a message."""


def rows(replay: ReplayBuffer, known: int) -> int:
    """Give every rank the rows from `known` on, which were told before; returns how many there are now.

    Also which episodes rank 0 has closed since at the newest row that was told of each environment (`close_episode`).
    """
    if ranks.count() == 1:
        return known
    start = max(known, replay.oldest)
    told = np.arange(max(known - replay.envs, replay.oldest), known)
    last = replay.rows(told)["last"].tolist() if ranks.number() == 0 else []
    start, total, last = json.loads(ranks.broadcast_bytes(json.dumps([start, replay.total, last]).encode()))
    for env, closed in enumerate(last, start=replay.envs - len(last)):
        if closed and ranks.number() > 0:
            replay.close_episode(env)
    for first in range(start, total, ROWS):
        n = min(ROWS, total - first)
        if ranks.number() == 0:
            ranks.broadcast_bytes(safetensors.numpy.save(replay.export(first, first + n)))
        else:
            replay.restore(safetensors.numpy.load(ranks.broadcast_bytes()), first)
    return total


def snapshot(mine: Snapshot) -> Snapshot:
    """Rank 0's snapshot, on every rank, but for what only rank 0 needs: where its environments stand."""
    if ranks.number() > 0:
        known, state = safetensors.torch.load(ranks.broadcast_bytes()), json.loads(ranks.broadcast_bytes())
        tensors: dict[str, dict[str, torch.Tensor]] = {group: {} for group in mine.tensors}
        for name, tensor in known.items():
            group, _, key = name.partition("/")
            tensors[group][key] = tensor
        return Snapshot(tensors, state | {"collector": mine.state["collector"]})
    ranks.broadcast_bytes(
        safetensors.torch.save(
            {
                f"{group}/{key}": tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
                for group, tensors in mine.tensors.items() if group != "collector" for key, tensor in tensors.items()
            }
        )
    )  # fmt: skip
    ranks.broadcast_bytes(json.dumps(mine.state).encode())
    return mine
