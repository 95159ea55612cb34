"""Several processes that train one run together, as torchrun starts them: data parallel without wrappers.

Every rank holds the same weights, moments and replay and draws the same batch from it; its loss is that of its own
rows (`part`). Gradients are averaged in one place, between backward and clip (`training.update`). What a loss divides
by, the number of entries that a mask lets in, is averaged too (`averaged`), so that N ranks compute what one process
computes on the whole batch, up to rounding. Each holds the whole replay, as no update then has to send frames, and
tokens are cached as ever; the price is its memory. Rank 0 alone collects, evaluates, prints and touches the run
folder; `training.follow` is what the others do.

Random numbers: all draw batches from the same generator. Of dropout and dreams rank 0 draws as one process does; the
others begin each update at a seed of their own (`seed`), so that a checkpoint need not know of ranks.

In one process, with torchrun or without, every function here gives back what it was given.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist

Rows = TypeVar("Rows", Tensor, np.ndarray)

_ENDED = "tokendream: rank 0 has ended"
_LONG = datetime.timedelta(days=30)
"""How long a rank waits for another: an evaluation takes hours. A rank that died is noticed at once."""

_number, _count = 0, 1
_store: dist.Store | None = None


class RankLost(ConnectionError):
    """Another process that trains this run is gone."""


def number() -> int:
    """Which rank this process is, from 0."""
    return _number


def count() -> int:
    """N, how many ranks there are; 1 without torchrun."""
    return _count


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """The context in which this process is a rank, if torchrun started it beside others.

    On a machine with GPUs each rank takes one.
    """
    global _number, _count, _store
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    gpus = torch.cuda.device_count()
    if gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % gpus)
    _store, _number, _count = next(dist.rendezvous("env://"))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if gpus else "gloo", store=_store, rank=_number, world_size=_count, timeout=_LONG
    )
    try:
        yield
    finally:
        if _number == 0:
            with contextlib.suppress(RuntimeError):
                _store.set(_ENDED, "")
        dist.destroy_process_group()
        _store, _number, _count = None, 0, 1


def lost_without_a_word() -> bool:
    """Whether rank 0 is gone and has not said that it ends, so that another rank must."""
    with contextlib.suppress(RuntimeError):
        return not (_store is None or _store.check([_ENDED]))
    return True


@contextlib.contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise RankLost("another rank of this run is gone") from error


def part(rows: Rows) -> Rows:
    """This rank's rows of a batch, whose size is a multiple of N: the first B / N are rank 0's, and so on."""
    if _count == 1:
        return rows
    n = len(rows) // _count
    return rows[_number * n : (_number + 1) * n]


def averaged(x: Tensor) -> Tensor:
    """The mean over ranks of what each found in its part, in float32; no gradient."""
    if _count == 1:
        return x
    x = x.detach().float().clone()
    with _reaching():
        dist.all_reduce(x)
    return x / _count


def average(tensors: Sequence[Tensor]) -> None:
    """Put the mean over ranks into each of these float32 tensors, by one message for all."""
    if _count == 1:
        return
    means = averaged(torch.cat([x.flatten() for x in tensors]))
    for x, mean in zip(tensors, means.split([x.numel() for x in tensors]), strict=True):
        x.copy_(mean.view_as(x))


def gathered(rows: Tensor) -> Tensor:
    """The rows of the whole batch, from those of each part; no gradient."""
    if _count == 1:
        return rows
    parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(_count)]
    with _reaching():
        dist.all_gather(parts, rows.detach().contiguous())
    return torch.cat(parts)


def broadcast(*tensors: Tensor) -> None:
    """Put what rank 0 has into these tensors of every rank."""
    if _count > 1:
        with _reaching():
            for x in tensors:
                dist.broadcast(x.detach(), 0)


def broadcast_bytes(content: bytes = b"") -> bytes:
    """What rank 0 tells the others, on every rank; rank 0 gives it."""
    if _count == 1:
        return content
    size = torch.tensor([len(content)])
    broadcast(size)
    message = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
    if _number > 0:
        message = torch.empty(int(size), dtype=torch.uint8)
    if len(message):
        broadcast(message)
    return message.numpy().tobytes()


def anyone(wants: bool) -> bool:
    """Whether any rank wants something. On the host, so that a rank that is gone is noticed before an update."""
    return bool(averaged(torch.tensor([float(wants)])))


def seed(generator: torch.Generator, *moment: int) -> None:
    """On all ranks but 0: begin this generator, and torch's own, at a seed of this rank and moment."""
    if _number > 0:
        state = np.random.SeedSequence((*moment, _number)).generate_state(2, np.uint64) >> np.uint64(1)
        generator.manual_seed(int(state[0]))
        torch.manual_seed(int(state[1]))
