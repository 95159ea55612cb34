"""A run folder of a few kilobytes a file, what reads it, and how to list a changed file in it."""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
from torch import Tensor

from tokendream.agent.agent import Agent
from tokendream.config.presets import TINY
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute
from tokendream.envs.registry import make
from tokendream.runfolder import agent_file, files
from tokendream.runfolder.checkpoint import Checkpoints
from tokendream.training.trainer import Trainer

SMALL = dataclasses.replace(
    TINY,
    env=dataclasses.replace(TINY.env, size=16),
    tokenizer=dataclasses.replace(TINY.tokenizer, downsamples=3, code_width=8, codebook_size=4),
    world_model=dataclasses.replace(TINY.world_model, layers=1),
    actor_critic=dataclasses.replace(TINY.actor_critic, lstm_width=4),
)

AGENT = "exported.safetensors"
"""Name of an exported agent that a test puts into a run folder."""


@functools.cache
def trainer() -> Trainer:
    envs = make(SMALL, 1, evaluation=False)
    replay = ReplayBuffer(SMALL.collect.capacity, (3, 16, 16))
    return Trainer(SMALL, Agent.from_config(SMALL, 3), envs, replay, Compute.resolve("cpu", "float32"))


def load_checkpoint(run_dir: Path) -> None:
    """All that a resume reads, into a trainer."""
    store = Checkpoints(run_dir)
    epoch, snapshot = store.load(say=lambda line: None)
    replay = ReplayBuffer(SMALL.collect.capacity, (3, 16, 16))
    store.load_replay(epoch, replay)
    trainer()._collector._replay = replay  # with whose rows the open game is compared
    trainer().restore(snapshot)


def relist(run_dir: Path, path: Path, data: bytes) -> Path:
    """Put `data` in the place of a listed file and list it properly. Returns where it lies now."""
    if path.name == AGENT:
        path.write_bytes(sealed(data))
        return path
    manifest = run_dir / "checkpoints" / "epoch-000004" / "manifest.json"
    record = json.loads(manifest.read_text())
    if path == manifest:
        record = json.loads(data)
    elif path.parent.name == "replay":
        entry = record["replay"][-1]
        path.unlink()
        entry |= vars(files.write(path, data))
        path = path.with_name(f"rows-{entry['start']:09d}-{entry['stop']:09d}-{entry['sha256'][:16]}.safetensors")
    if path.name in record["files"] or path.parent.name == "replay":
        listed = vars(files.write(path, data))
        if path.name in record["files"]:
            record["files"][path.name] = listed
    record.pop("seal", None)
    manifest.write_text(json.dumps({**record, "seal": files.seal_of(record)}))
    return path


def sealed(data: bytes) -> bytes:
    """The bytes of an exported agent under a seal that fits them."""
    header, body = agent_file._split(Path(AGENT), data)
    header["__metadata__"].pop("seal", None)
    header["__metadata__"]["seal"] = agent_file._seal(header, body)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + bytes(body)


def reseal_agent(file: Path, change: Callable[[dict[str, Tensor]], object] = lambda weights: None, **text: str) -> None:
    """Change the weights or the metadata of an exported agent as someone would who knows how it is sealed."""
    with safetensors.safe_open(file, "np") as opened:
        metadata = opened.metadata() | text
    weights = safetensors.torch.load_file(file)
    change(weights)
    file.write_bytes(sealed(safetensors.torch.save(weights, metadata)))
