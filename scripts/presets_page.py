"""docs/presets.md: what to expect of each preset on each kind of processor, from results/ and from the bench.

    python scripts/presets_page.py              time every preset on this machine, which must be idle; write the page
    python scripts/presets_page.py best night   time these alone; the others' figures stay
    python scripts/evidence.py write            write it from what is there

The figures of a machine lie in docs/presets/KIND.json, one file for each kind of processor.
"""

from __future__ import annotations

import functools
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from evidence_pages import ROOT, Result, whole, write_between
from torch._subclasses.fake_tensor import FakeTensorMode

from tokendream.agent.agent import Agent
from tokendream.config.config import Config
from tokendream.config.presets import PRESETS, preset
from tokendream.device import kind_of_processor
from tokendream.envs.registry import spaces_of

PAGE = ROOT / "docs" / "presets.md"
FOLDER = ROOT / "docs" / "presets"

SHOWN = [name for name in PRESETS if name != "tiny"]

KINDS = {
    "AMX": "x86 with AMX (bf16)",
    "AVX-512": "x86 with AVX-512, no AMX",
    "AVX2": "x86 with AVX2, nothing newer",
    "ARM": "ARM",
    "GPU": "GPU",
}
"""Kinds of processors, and what they are called on the page."""

NONE = "not measured"

read_once = functools.cache(whole)
"""Whole runs, those of one game and the same settings together."""


def kind() -> str:
    """The kind of this machine's processor; of a GPU, where there is one."""
    return kind_of_processor(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def bench(names: Sequence[str]) -> None:
    """Time presets here, all where none is named. Raises ValueError on a machine that does other work, whose figures
    would mean nothing, and for what is no preset."""
    if unknown := set(names) - set(SHOWN):
        raise ValueError(f"no preset to time: {', '.join(sorted(unknown))}; there are {', '.join(SHOWN)}")
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores / 4:
        raise ValueError(f"the machine is busy (load average {load:.2f} on {cores} cores): its figures would be wrong")
    FOLDER.mkdir(exist_ok=True)
    out, path = FOLDER / "one.json", FOLDER / f"{kind()}.json"
    found = json.loads(path.read_text()) if names and path.exists() else {}
    for name in names or SHOWN:
        command = [sys.executable, "-m", "tokendream", "bench", "--preset", name, "--out", str(out)]
        subprocess.run(command, check=True)
        found[name] = json.loads(out.read_text())
    out.unlink()
    path.write_text(json.dumps(found, indent=1) + "\n")


def runs_of(name: str, where: str) -> list[Result]:
    """Complete runs of a preset as it is today."""
    return [run for runs in read_once() for run in runs if (run.preset, run.version, run.kind) == (name, "", where)]


def time_of(name: str, where: str, benched: dict[str, Any]) -> str:
    """How long training takes: as runs took it, else computed by the bench, else unknown."""
    if runs := [run for run in runs_of(name, where) if run.alone]:
        minutes = sorted(run.minutes for run in runs)
        devices = {_short(run.facts["device"]) for run in runs}
        return f"{minutes[0]:.0f} to {minutes[-1]:.0f} min ({len(runs)} runs, {' or '.join(sorted(devices))})"
    if (hours := benched.get(name, {}).get("run_hours")) is not None:
        long = f"{hours:,.0f} h" if hours >= 3 else f"{60 * hours:,.0f} min"
        return f"{long} (computed, {_short(benched[name]['machine']['device'])})"
    if seconds := phases_on(name, where).get("epoch_seconds"):
        threads = phases_on(name, where)["environment"]["threads"]
        return f"{seconds['total'] * preset(name).epochs / 3600:,.0f} h at most (computed, {threads} threads)"
    return NONE


def phases_on(name: str, where: str) -> dict[str, Any]:
    """The figures of docs/speed.md for a preset on a kind of processor; nothing where there are none."""
    path = ROOT / "docs" / f"speed-{where}.json"
    found = json.loads(path.read_text()) if path.exists() else {"preset": ""}
    return found if found["preset"] == name else {}


def _short(device: str) -> str:
    """A device as facts have it, without precision and kernels: "2 threads" of a CPU, a GPU's name."""
    kind, first = device.split(", ")[:2]
    return first if kind == "CPU" else kind


def memory_of(name: str, where: str, benched: dict[str, Any]) -> str:
    """GiB of the process at most, where the full batches were timed or a run said so."""
    if name in benched and all(row["batch"] == row["full_batch"] for row in benched[name]["rows"]):
        return f"{benched[name]['peak_memory_bytes'] / 2**30:.2g}"
    rows = phases_on(name, where).get("rows", [])
    if rows and all(row["batch"] == row["full_batch"] for row in rows):
        return f"{max(row['peak_memory_bytes'] for row in rows) / 2**30:.2g}"
    return NONE


def disk_of(config: Config) -> float:
    """GiB of a run folder at its end: two checkpoints of weights and AdamW's two moments, and the replay's rows."""
    spaces = spaces_of(config)
    with FakeTensorMode(allow_non_fake_inputs=True):  # by shapes alone
        numbers = 3 * sum(weights.numel() for weights in Agent.from_config(config, spaces).parameters())
    return (2 * 4 * numbers + config.kept_steps * (math.prod(spaces.observation.frame_shape) + 16)) / 2**30


def costs() -> str:
    """A row for each preset and kind of processor of which something is known; else one for the preset."""
    files = {where: FOLDER / f"{where}.json" for where in KINDS}
    benched = {where: json.loads(path.read_text()) if path.exists() else {} for where, path in files.items()}
    lines = ["| preset | processor | training | memory, GiB | disk, GiB |", "|---|---|---|---|---|"]
    for name in SHOWN:
        found = [(time_of(name, where, benched[where]), memory_of(name, where, benched[where])) for where in KINDS]
        rows = [(what, *row) for what, row in zip(KINDS.values(), found, strict=True) if row != (NONE, NONE)]
        for what, time, memory in rows or [("any", NONE, NONE)]:
            lines.append(f"| {name} | {what} | {time} | {memory} | {disk_of(preset(name)):.2g} |")
    return "\n".join(lines)


def curves() -> str:
    """A row for each preset and game: scores on the way, over seeds, beside a random player's."""
    lines = ["| preset, game | seeds | random player | mean over seeds (lowest to highest) after env steps |"]
    lines.append("|---|---|---|---|")
    for runs in read_once():
        first = runs[0]
        if not first.version:
            player = sum(run.random_player.mean for run in runs) / len(runs)
            seeds = len(runs) if len(runs) > 1 else "1 seed"
            name = f"{first.preset}, {first.config.env_name}{first.apart}"
            lines.append(f"| {name} | {seeds} | {player:,.1f} | {'; '.join(points(runs))} |")
    return "\n".join(lines)


def points(runs: list[Result]) -> list[str]:
    """The evaluations of some runs of one config, at the same env steps, as text."""
    found = [
        [(record["env_steps"], record["evaluation/mean"]) for record in run.curve if "evaluation/mean" in record]
        + [(run.curve[-1]["env_steps"], run.final.mean)]
        for run in runs
    ]
    return [f"{at[0][0]:,.0f}: {_spread([mean for _, mean in at])}" for at in zip(*found, strict=False)]


def _spread(means: list[float]) -> str:
    """Their mean, and the lowest and the highest where there are several."""
    lowest_to_highest = f" ({min(means):,.1f} to {max(means):,.1f})" * (len(means) > 1)
    return f"{sum(means) / len(means):,.1f}{lowest_to_highest}"


def page() -> dict[Path, str]:
    """The page, as it should read."""
    return {PAGE: write_between(write_between(PAGE.read_text(), "presets costs", costs()), "presets curves", curves())}


if __name__ == "__main__":
    try:
        bench(sys.argv[1:])
    except ValueError as error:
        sys.exit(f"presets_page: {error}")
    for path, text in page().items():
        path.write_text(text)
