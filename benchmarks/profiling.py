"""Which operators took the time."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Operator:
    """One operator's share of a profiled update."""

    name: str
    seconds: float
    """On the device, without the operators it calls."""
    share: float
    """Of the time of all operators."""
    calls: int


def top_operators(run: Callable[[], object], device: torch.device, count: int = 12) -> list[Operator]:
    """The operators of one call of `run` that took longest themselves. Call it warm."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler announces its start and stop on stderr
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities, acc_events=True) as profiler:
        run()
        if on_gpu:
            torch.cuda.synchronize(device)
    times = [
        (event.key, (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6, event.count)
        for event in profiler.key_averages()
    ]
    total = sum(seconds for _, seconds, _ in times) or 1.0
    times.sort(key=lambda item: -item[1])
    return [Operator(name, seconds, seconds / total, calls) for name, seconds, calls in times[:count]]
