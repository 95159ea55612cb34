"""`python -m benchmarks speed|claims|sweeps|gpu [flags]`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokendream.cli.flags import parse
from tokendream.config.presets import preset
from tokendream.errors import ConfigError, TokendreamError, nearest


@dataclass(frozen=True)
class Timing:
    """What every command but gpu takes."""

    preset: str = "rem"
    """Preset whose sizes are timed."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    quick: bool = False
    """Fewer repetitions, smaller sizes where the large ones take long: a first look, within minutes on two cores."""
    cpu_time: bool = False
    """Count processor time instead of wall-clock time, for a machine with other work; needs OMP_NUM_THREADS=1."""
    out: Path | None = None
    """Write the figures to this JSON file; KIND in its name becomes the kind of processor (AMX, AVX2, ...)."""
    page: Path | None = None
    """Write the tables between the markers of this Markdown file (of its kind of processor), plots beside it."""


@dataclass(frozen=True)
class Speed(Timing):
    """Time every phase of training at a preset's real sizes, against what the machine could do."""

    profile: bool = False
    """Also list the operators that took longest in each phase."""
    only: str = ""
    """Time one thing alone: world_model; dream, copy or sample; what is not there is answered by the nearest."""


@dataclass(frozen=True)
class Claims(Timing):
    """Time the paper's claims: RetNet and Transformer, POP and token by token, over tokens a frame and batches."""

    env: str = ""
    """Instead of images, what this environment shows: dmc:cartpole-swingup with --preset control, a map with grid."""


@dataclass(frozen=True)
class Sweeps(Timing):
    """Time how a phase's cost grows with tokens a frame, batch, sequence length, layers and width."""


@dataclass(frozen=True)
class Gpu:
    """All that a GPU can say in eight minutes: its tests, every phase, one whole epoch, against the targets."""

    preset: str = "rem"
    """Preset whose sizes are timed."""
    device: str = "cuda"
    """cuda or cuda:N; cpu tries the command itself."""
    out: Path | None = None
    """JSON file to write; by default results/gpu-<device>/bench.json."""


COMMANDS: dict[str, type[Timing] | type[Gpu]] = {"speed": Speed, "claims": Claims, "sweeps": Sweeps, "gpu": Gpu}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code: 0 done, 2 bad input, 130 interrupted."""
    name, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print("usage: python -m benchmarks COMMAND [options]\n")
        print("\n".join(f"  {name:8}{(kind.__doc__ or '').strip()}" for name, kind in COMMANDS.items()))
        return 0
    try:
        if name not in COMMANDS:
            raise ConfigError(f"unknown command {name!r}; nearest: {nearest(name, COMMANDS)}")
        flags = dict(vars(parse(COMMANDS[name], rest, f"python -m benchmarks {name}")))
        config = preset(flags.pop("preset"))
        return int(importlib.import_module(f"benchmarks.{name}").main(config, **flags))
    except KeyboardInterrupt:
        print("benchmarks: interrupted", file=sys.stderr)
        return 130
    except (TokendreamError, OSError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
