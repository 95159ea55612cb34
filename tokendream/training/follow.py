"""What a rank other than the first does: it trains along, and knows of the run what rank 0 tells it (see `ranks`).

It goes when rank 0 goes, and saves nothing: the run folder is not its own.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path

import torch

from tokendream import ranks
from tokendream.agent.agent import Agent
from tokendream.config.config import Config
from tokendream.config.schedule import PARTS
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute, keep_freed_memory
from tokendream.envs.registry import spaces_of
from tokendream.errors import NonFiniteError, once, require
from tokendream.runfolder.names import quoted
from tokendream.stop import StopRequest
from tokendream.training.synthetic import StillEnvs
from tokendream.training.trainer import Trainer


def check(config: Config) -> None:
    """Raise ConfigError for a config that the ranks of this run cannot share."""
    n = ranks.count()
    if n == 1:
        return
    for name in PARTS:
        phase = getattr(config.training, name)
        require(phase.updates == 0 or phase.batch % n == 0, f"training.{name}.batch",
                f"a multiple of the number of ranks ({n})", phase.batch)  # fmt: skip
    C, dream = config.training.actor_critic, config.dream
    dreams = C.batch // n * dream.group
    require(C.updates == 0 or dreams % dream.minibatches == 0, "dream.minibatches",
            f"a divisor of a rank's dreams ({dreams})", dream.minibatches)  # fmt: skip
    steps, capacity = config.collect.steps, config.collect.capacity
    require(capacity >= steps, "collect.capacity", f"at least collect.steps ({steps}) where ranks share it", capacity)
    require(":" not in config.device, "device", "auto, cpu or cuda where torchrun gives each rank a GPU", config.device)
    gpus, here = torch.cuda.device_count(), int(os.environ["LOCAL_WORLD_SIZE"])
    require(config.device == "cpu" or gpus == 0 or here <= gpus, "--nproc-per-node",
            f"at most {gpus}, the GPUs of this machine", here)  # fmt: skip


def going_on(run_dir: Path) -> str:
    """The command that goes on with a run."""
    program = "tokendream"
    if ranks.count() > 1:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.count()))
        nodes = f"--nnodes {ranks.count() // here} " if ranks.count() > here else ""
        program = f"torchrun {nodes}--nproc-per-node {here} -m tokendream"
    return f"{program} train --resume {quoted(run_dir)}"


def for_ranks(compute: Compute) -> Compute:
    """Without captured graphs where several ranks train: an all-reduce inside of one was never tried."""
    if ranks.count() == 1 or compute.device.type != "cuda":
        return compute
    once("several ranks: updates are launched one by one, not captured as CUDA graphs (docs/gpu.md)")
    return dataclasses.replace(compute, capture=False)


def lead(run_dir: Path, compute: Compute, trainer: Trainer) -> None:
    """On rank 0: tell the others all that they need to train along from here."""
    known = {"device": compute.device.type, "precision": compute.precision, "kernels": compute.kernels,
             "tuned": compute.tuned, "run": str(run_dir)}  # fmt: skip
    ranks.broadcast_bytes(json.dumps(known | {"config": trainer.config.to_json()}).encode())
    trainer.tell()


def follow() -> int:
    """On any other rank: train along until rank 0 ends. Returns the exit code.

    Says something only where rank 0 cannot: where that was killed, or for a fault of this rank alone.
    """
    run_dir = None
    with StopRequest().listening() as stop:
        try:
            known = json.loads(ranks.broadcast_bytes())
            run_dir = Path(known["run"])
            trainer = _trainer(known)
            while not trainer.finished and trainer.run_epoch(lambda: ranks.anyone(stop())):
                trainer.close_epoch()
        except NonFiniteError:  # the same on every rank
            pass
        except ranks.RankLost as error:
            if not ranks.lost_without_a_word():
                return 0
            if ranks.number() == 1:
                way = f"; go on with: {going_on(run_dir)}" if run_dir else ""
                print(f"tokendream: {error}, rank 0; the last checkpoint stands{way}", file=sys.stderr)
            return 1
    return 0


def _trainer(known: dict) -> Trainer:
    """What rank 0 has, without environments: one is made to see what it shows, and closed."""
    keep_freed_memory()
    config = Config.from_json(known["config"])
    switches = {name: getattr(config, name) for name in ("compile", "deterministic")}
    compute = Compute.resolve(known["device"], known["precision"], kernels=known["kernels"], capture=False, **switches)
    compute = dataclasses.replace(compute, tuned=tuple(map(tuple, known["tuned"])))
    spaces, n = spaces_of(config), config.collect.envs
    torch.manual_seed(config.seed)
    replay = ReplayBuffer.of(spaces, config.collect.capacity, compute.device, n)
    trainer = Trainer(config, Agent.from_config(config, spaces), StillEnvs(spaces, n), replay, compute)
    trainer.tell()
    return trainer
