"""The replay's frames as tokens, each encoded at most once while the tokenizer stays as it is.

World model and controller read segments that overlap many times over: at the paper's sizes an epoch would encode
397,000 frames of a replay that holds at most 100,000. Tokens depend on the frame and the tokenizer alone, so this
changes no result.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from tokendream.agent.agent import Agent
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute, put
from tokendream.tokenizers.vq import CHUNK


class TokenCache:
    """Tokens of replay rows, on the device. `forget()` after every change of the tokenizer."""

    def __init__(self, agent: Agent, replay: ReplayBuffer, compute: Compute) -> None:
        self._tokenizer, self._replay, self._compute = agent.tokenizer, replay, compute
        self._tokens = torch.zeros(replay.capacity, agent.block.K, dtype=torch.int32, device=compute.device)
        self._row_of = np.full(replay.capacity, -1, dtype=np.int64)  # the row whose tokens a slot holds

    def forget(self) -> None:
        """The tokenizer has changed: every token is stale."""
        self._row_of[:] = -1

    def refresh(self) -> None:
        """Encode every stale row now, so that no later call has to (on a GPU: none waits for the device)."""
        self._encode(np.arange(self._replay.total - len(self._replay), self._replay.total))

    def tokens(self, row: Int64[np.ndarray, "*B"], mask: Bool[np.ndarray, "*B"]) -> Int64[Tensor, "*B K"]:
        """Tokens of these absolute rows; those of masked-out entries are anything valid."""
        self._encode(row[mask])
        slot = put(row % self._replay.capacity, self._compute.device)
        return self._tokens[slot].long()

    def _encode(self, row: np.ndarray) -> None:
        slot = row % self._replay.capacity
        stale = np.unique(row[self._row_of[slot] != row])
        for some in np.array_split(stale, max(1, -(-len(stale) // 512))):  # bounded memory: 512 frames at a time
            if len(some) == 0:
                continue
            slot = some % self._replay.capacity
            with self._compute.autocast():
                tokens = self._tokenizer.encode(self._replay.frames(filled(some, self._compute.device)))
            self._tokens[put(slot, self._compute.device)] = tokens[: len(some)].int()
            self._row_of[slot] = some


def filled(row: Int64[np.ndarray, " n"], device: torch.device) -> Int64[np.ndarray, " m"]:
    """Rows to encode: on a GPU, which plans for every size of a batch, repeated until the last batch is full."""
    return np.resize(row, -(-len(row) // CHUNK) * CHUNK) if device.type == "cuda" else row
