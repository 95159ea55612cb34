"""An agent in one file (`tokendream export`): weights, config and what is known of them, as safetensors.

    tensors         the agent's state dict; no moments of optimisers, no replay rows
    __metadata__    tokendream   version of this layout
                    epoch        the last epoch that it was trained in
                    config       JSON, as in a run folder
                    facts        JSON, lines for people by their names: preset, budget, score, ...
                    seal         a hash of all of the above

Such a file comes from strangers. So it is sealed, which shows that it is whole, and nothing that it says is believed:
nothing is unpickled, and no more memory is used than its own size asks for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from tokendream.config.config import Config
from tokendream.errors import ConfigError, one_line, require
from tokendream.runfolder import files
from tokendream.runfolder.files import CheckpointError, Damaged, parse, seal_of

FORMAT = "1"
"""Version of the layout; a file with another number is refused by name."""

SUFFIX = ".safetensors"

LARGEST, LARGEST_HEADER = 2**32, 2**20
"""Most bytes of a file that is opened, and of its header, which has some 100 a tensor."""

LARGEST_FRAME = 1024
"""Most pixels of a frame's side; 64 in the paper."""

EXACT = "world_model.rewards."
"""Begins the names of what is a table of the game's numbers and no weights: float32 also in a half-size file."""

TYPES = {torch.float32, torch.float16, torch.int64, torch.uint8}
"""Of weights; tables of patches and counts are whole numbers."""

UNSEEN = 2**26
"""Numbers of a tokenizer of images that a file of an agent without one may ask for: some 100 times the paper's."""

CONVOLUTIONS = 28
"""Weights of a trained encoder and decoder, at least, in squares of their widest layer's channels (counted)."""

MOST_FACTS, LONGEST_FACT = 32, 300
"""Lines about an agent, and characters of one."""


@dataclass(frozen=True)
class SavedAgent:
    """What an agent is made of, and what is known of it: `facts` are lines for people, by their names."""

    config: Config
    epoch: int
    weights: Mapping[str, Tensor]
    facts: Mapping[str, str] = field(default_factory=dict)


def write(path: Path, saved: SavedAgent, *, half: bool = False) -> int:
    """Write an agent, whole or not at all, and return the file's size in bytes.

    `half`: float32 as float16. Raises ConfigError where a weight is too large for that, OSError where the disk does
    not take it.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in saved.weights.items()}
    if half:
        halved = {name for name, x in weights.items() if x.dtype == torch.float32 and not name.startswith(EXACT)}
        weights = {name: tensor.half() if name in halved else tensor for name, tensor in weights.items()}
        for name, tensor in weights.items():
            require(bool(tensor.isfinite().all()), f"weight {name}", "small enough for float16", "one beyond 65504")
    metadata = {
        "tokendream": FORMAT,
        "epoch": str(saved.epoch),
        "config": saved.config.to_json(),
        "facts": json.dumps(dict(saved.facts)),
    }
    header, body = _split(path, safetensors.torch.save(weights, metadata))
    data = safetensors.torch.save(weights, metadata | {"seal": _seal(header, body)})
    files.replace(path, data)
    return len(data)


def read(path: Path) -> SavedAgent:
    """The agent in a file. Raises CheckpointError or ConfigError, one line, for a file that is none or is damaged."""
    data = files.read(path.resolve(), limit=LARGEST)
    header, body = _split(path, data)
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or "tokendream" not in metadata:
        raise CheckpointError(f"{path} is no agent: a file of one is made by `tokendream export RUN`")
    if metadata["tokendream"] != FORMAT:
        raise CheckpointError(f"{path} has format {one_line(metadata['tokendream'])}; this tokendream reads {FORMAT}")
    if metadata.pop("seal", None) != _seal(header, body):
        raise Damaged(f"{path} is damaged: it does not match its seal")
    epoch, config, facts = (metadata.get(name) for name in ("epoch", "config", "facts"))
    if not (isinstance(epoch, str) and isinstance(config, str) and isinstance(facts, str)):
        raise Damaged(f"{path} lacks its epoch, config or facts")
    if not (epoch.isdecimal() and epoch.isascii() and len(epoch) < 10):
        raise Damaged(f"{path} has the epoch {one_line(epoch)}")
    try:
        weights = safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise Damaged(f"{path} is no safetensors file: {one_line(error)}") from None
    for name, tensor in weights.items():
        if tensor.dtype not in TYPES or not tensor.isfinite().all():
            why = "not finite" if tensor.dtype in TYPES else f"of type {tensor.dtype}"
            raise Damaged(f"{path}: weight {one_line(name)} is {why}")
    try:
        saved = SavedAgent(Config.from_json(config), int(epoch), weights, _facts(parse(path, facts.encode())))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    _check_size(path, saved)
    return saved


def _split(path: Path, data: bytes) -> tuple[dict[str, Any], memoryview]:
    """The header of a safetensors file as data, and what follows it."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(len(data) - 8, LARGEST_HEADER):
        raise CheckpointError(f"{path} is no agent: it does not begin as a safetensors file of one")
    return parse(path, data[8 : 8 + size]), memoryview(data)[8 + size :]


def _seal(header: dict[str, Any], body: memoryview) -> str:
    return seal_of({"header": header, "body": hashlib.sha256(body).hexdigest()})


def _facts(data: dict[str, Any]) -> dict[str, str]:
    """The facts as short lines of letters that a terminal shows and does not obey."""
    pairs = [(str(k)[:LONGEST_FACT], str(v)[:LONGEST_FACT]) for k, v in list(data.items())[:MOST_FACTS]]
    return {"".join(filter(str.isprintable, k)): "".join(filter(str.isprintable, v)) for k, v in pairs}


def _check_size(path: Path, saved: SavedAgent) -> None:
    """Raise CheckpointError where the config asks for more weights than there are, before they are made, or for huge
    frames: a small file must not ask for the machine's whole memory.

    Counted are the largest matrices of each part; what is made may be a few times as large.
    """
    V, M, C = saved.config.tokenizer, saved.config.world_model, saved.config.actor_critic
    cell = 3 * 4**V.downsamples
    widest = {"dictionary": V.code_width * cell, "pretrained": 2 * V.codebook_size * cell}.get(
        V.kind, CONVOLUTIONS * (V.channels << V.downsamples) ** 2
    )
    vision = V.code_width * V.codebook_size + widest
    if not any(name.startswith("tokenizer.") for name in saved.weights):  # where no image is seen it is not made
        vision = max(0, vision - UNSEEN)
    needed = vision + M.layers * M.ffn_factor * M.width**2 + 4 * C.lstm_width**2
    there = sum(tensor.numel() for tensor in saved.weights.values())
    if needed > there or M.layers > len(saved.weights):
        raise CheckpointError(f"{path}: the weights do not fit the config: {there:,} numbers, where it asks for more")
    if saved.config.env.size > LARGEST_FRAME:
        raise CheckpointError(f"{path} asks for frames of {saved.config.env.size} pixels; at most {LARGEST_FRAME}")
