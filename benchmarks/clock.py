"""Seconds, with the device waited for at both ends."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def seconds_of(
    run: Callable[[], object], device: torch.device, times: int = 1, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds that one of `times` calls in a row took. The device is idle before the first and after the last."""
    _wait(device)
    began = clock()
    for _ in range(times):
        run()
    _wait(device)
    return (clock() - began) / times


def best_of(
    run: Callable[[], object], device: torch.device, seconds: float, clock: Callable[[], float] = time.perf_counter
) -> float:
    """The shortest of as many calls as fit into `seconds`, at least three, the first left out."""
    run()
    began, best, calls = time.perf_counter(), float("inf"), 0
    while calls < 3 or time.perf_counter() - began < seconds:
        best = min(best, seconds_of(run, device, clock=clock))
        calls += 1
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
