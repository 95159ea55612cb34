"""`tokendream envs`: its flags, and the list of what can be played."""

from __future__ import annotations

import shlex
import statistics
import time
from dataclasses import dataclass, field, replace

import tyro

from tokendream.config.env import EnvConfig
from tokendream.config.presets import preset
from tokendream.errors import TokendreamError, nearest, require

REPETITIONS, LONGEST = 3, 10.0
"""How often a check times the phases of training, of which the median counts; fewer times where one more would make it
longer than so many seconds."""


@dataclass(frozen=True)
class Envs:
    """List families of environments and what is installed, the environments of one (envs FAMILY), or check one.

    `envs check ID` plays random steps and prints how the environment becomes tokens, what looks wrong, and how long
    training would take here."""

    words: tyro.conf.Positional[tuple[str, ...]] = ()
    """Nothing, the name of a family, or check and the id of an environment."""
    preset: str = "cpu"
    """Preset whose tokenizer and sizes are used; by default the one that train would choose here."""
    steps: int = 200
    """Random steps of a check."""
    seed: int = 0
    """Seed of its games and actions."""
    env: EnvConfig = field(default_factory=lambda: preset("cpu").env)


def run(options: Envs) -> int:
    match options.words:
        case ():
            return _families()
        case ("check", name):
            return _check(options, name)
        case (family,) if family != "check":
            return _environments(family)
    raise TokendreamError("expected envs, envs FAMILY or envs check ID, such as envs check minatar:Breakout")


def _families() -> int:
    from tokendream.envs.families.common import install_command, installed
    from tokendream.envs.registry import FAMILIES

    print(f"{'family':10}{'an example':38}")
    for name, family in FAMILIES.items():
        there = not family.package or installed(family.package)
        print(f"{name:10}{family.example:38}{'installed' if there else install_command(name)}")
    print("\nAny environment of Gymnasium is played by its id, your own as my_package:MyGame-v0.")
    return 0


def _environments(family: str) -> int:
    from tokendream.envs.registry import FAMILIES, is_id

    prefix = family.rstrip(":")
    if prefix not in FAMILIES and is_id(prefix):
        raise TokendreamError(f"{family!r} is no family but an environment: envs check {shlex.quote(family)}")
    if prefix not in FAMILIES:
        raise TokendreamError(f"unknown family {family!r}; nearest: {nearest(prefix, FAMILIES)}")
    print("\n".join(f"{prefix}:{name}" for name in FAMILIES[prefix].names()))
    return 0


def _check(options: Envs, name: str) -> int:
    from rich.console import Console

    from tokendream.kernels.machine import busy, compute_for
    from tokendream.reports.display import roughly
    from tokendream.reports.env_check import check
    from tokendream.training import timing

    require(1 <= options.steps <= 1_000_000, "--steps", "in 1..1000000", options.steps)
    config = replace(preset(options.preset), env=replace(options.env, id=name))
    found = check(config, options.steps, options.seed)
    found.show(Console(), name)
    compute = compute_for(config, threads=True)
    spaces, second = found.spaces, found.steps_per_second
    hours, began = list[float](), time.perf_counter()
    for times in range(1, REPETITIONS + 1):
        speed = timing.measure(config, compute, seconds=timing.GUESS, say=lambda phase: None, brief=True, spaces=spaces)
        hours.append(speed.hours)
        if (time.perf_counter() - began) / times * (times + 1) > LONGEST:
            break
    if speed.hours:
        whole = roughly(3600 * statistics.median(hours) + config.env_steps / second)
        beside = "; this machine is busy, alone it may take less" if busy() else ""
        print(f"training: about {whole} on this machine, {config.env_steps:,} steps with preset {config.preset}; "
              f"evaluation not counted{beside}")  # fmt: skip
    else:
        print(f"training: not timed ({'; '.join(speed.skipped)})")
    return 0
