"""The replay's frames as tokens, each encoded at most once while the tokenizer stays as it is.

World model and controller read segments that overlap many times over: at the paper's sizes an epoch would encode
397,000 frames of a replay that holds at most 100,000. Tokens depend on the frame and the tokenizer alone, so this
changes no result.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from tokendream.agent.agent import Agent
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute, put
from tokendream.kernels.cuda_graph import Captured
from tokendream.tokenizers.vq import CHUNK


class TokenCache:
    """Tokens of replay rows, on the device. `forget()` after every change of the tokenizer."""

    def __init__(self, agent: Agent, replay: ReplayBuffer, compute: Compute) -> None:
        self._tokenizer, self._replay, self._compute = agent.tokenizer, replay, compute
        self._tokens = torch.zeros(replay.capacity, agent.block.K, dtype=torch.int32, device=compute.device)
        self.encode = Captured(self._tokens_of, compute, name="encoding")
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
        for some, batch in batches(stale, self._compute.device):
            slot = some % self._replay.capacity
            tokens = self.encode(self._replay.frames(batch))
            self._tokens[put(slot, self._compute.device)] = tokens[: len(some)].int()
            self._row_of[slot] = some

    def _tokens_of(self, frame: UInt8[Tensor, " B *O"]) -> Int64[Tensor, "B K"]:
        with self._compute.searching(), self._compute.autocast():
            return self._tokenizer.encode(frame)


def batches(row: Int64[np.ndarray, " n"], device: torch.device) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows by batches, and what to encode of each: on a GPU, which plans for every size, repeated until it is full.

    Elsewhere at most 512 rows, which bounds the memory.
    """
    if device.type == "cpu":
        return [(some, some) for some in np.array_split(row, -(-len(row) // 512) or 1) if len(some)]
    return [(some, np.resize(some, CHUNK)) for some in np.split(row, range(CHUNK, len(row), CHUNK)) if len(some)]
