"""The commands that time: `tokendream bench` and its kinds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokendream.config.presets import preset


@dataclass(frozen=True)
class Timing:
    """What every bench takes."""

    preset: str = "rem"
    """Preset whose sizes are timed."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    quick: bool = False
    """Fewer repetitions, smaller sizes where the large ones take long: a first look, within minutes on two cores."""
    cpu_time: bool = False
    """Count processor time instead of wall-clock time, for a machine with other work; needs OMP_NUM_THREADS=1."""
    out: Path | None = None
    """Write the figures to this JSON file."""
    page: Path | None = None
    """Write the tables between the markers of this Markdown file, and plots beside it."""


@dataclass(frozen=True)
class Bench(Timing):
    """Time every phase of training at a preset's real sizes, against what the machine could do."""

    profile: bool = False
    """Also list the operators that took longest in each phase."""


@dataclass(frozen=True)
class BenchClaims(Timing):
    """Time the paper's claims: RetNet and Transformer, POP and token by token, over tokens a frame and batches."""


@dataclass(frozen=True)
class BenchSweeps(Timing):
    """Time how a phase's cost grows with tokens a frame, batch, sequence length and layers."""


@dataclass(frozen=True)
class BenchGpu:
    """All that a GPU can say in eight minutes: its tests, every phase, one whole epoch, against the targets."""

    preset: str = "rem"
    """Preset whose sizes are timed."""
    device: str = "cuda"
    """cuda or cuda:N; cpu tries the command itself."""
    out: Path | None = None
    """JSON file to write; by default results/gpu-<device>/bench.json."""


def _timing(options: Timing) -> dict[str, Any]:
    """What a bench's function takes: its flags, and a config for the preset's name."""
    flags = dict(vars(options))
    return {"config": preset(flags.pop("preset")), **flags}


def _bench(options: Bench) -> int:
    from tokendream import bench

    return bench.main(**_timing(options))


def _bench_claims(options: BenchClaims) -> int:
    from tokendream.bench import claims

    return claims.main(**_timing(options))


def _bench_sweeps(options: BenchSweeps) -> int:
    from tokendream.bench import sweeps

    return sweeps.main(**_timing(options))


def _bench_gpu(options: BenchGpu) -> int:
    from tokendream.bench import gpu

    return gpu.main(preset(options.preset), options.device, out=options.out)


COMMANDS: dict[str, tuple[type[Any], Callable[[Any], int]]] = {
    "bench": (Bench, _bench),
    "bench claims": (BenchClaims, _bench_claims),
    "bench sweeps": (BenchSweeps, _bench_sweeps),
    "bench gpu": (BenchGpu, _bench_gpu),
}
